/* Whether the team or its first thread alone makes a step: whichever has been faster lately.

   Two threads are not always faster than one: another process may use one of the cores, or the work
   may be too small on this machine. The first thread records its best time of a step alone, and times
   the team in windows: two slower ones in a row put the team to sleep for a while (a single one may be
   the end of another process's work). The choice never changes the result. */
#ifndef BPFAST_AUTOTUNE_H
#define BPFAST_AUTOTUNE_H

#include <stddef.h>

/* The minimum steps and seconds of a window: alone, with the team. */
#define AUTOTUNE_ALONE_STEPS 2
#define AUTOTUNE_ALONE_SECONDS 1e-3
#define AUTOTUNE_TEAM_STEPS 4
#define AUTOTUNE_TEAM_SECONDS 4e-3
/* The maximum share of the time that trying the team takes, and the maximum seconds of its sleep. */
#define AUTOTUNE_TRY_SHARE 0.02
#define AUTOTUNE_SLEEP_MAX 5.0
/* A team this many times slower than one thread sleeps after a single window, which ends as soon as it
   has the minimum seconds: a thread that woke up on the core of the first one waits for the scheduler at
   every barrier. */
#define AUTOTUNE_GROSS 4
/* Steps of this many seconds are always the team's: they span many slices of the scheduler, so that every
   thread gets its part. */
#define AUTOTUNE_LONG_STEP 0.05

typedef struct {
    int use_team; /* who makes the next step */
    int team;
    ptrdiff_t rows;
    double since;    /* start of the current step */
    double seconds;  /* of the current window */
    ptrdiff_t steps; /* of the current window */
    double alone;    /* best mean of a window alone, in seconds a step; 0 for none yet */
    int slower;      /* consecutive windows in which the team was slower */
    double asleep;   /* seconds of steps until the team is tried again */
} team_autotune;

/* Begin an epoch with batches of `rows`; timings are kept while team and rows stay the same. */
static inline void autotune_start(team_autotune *a, double now, int team, ptrdiff_t rows) {
    if (a->team != team || a->rows != rows) {
        const team_autotune fresh = {.team = team, .rows = rows};
        *a = fresh;
    }
    a->since = now;
}

/* Whether the team makes the next step. */
static inline int autotune_use_team(const team_autotune *a) { return a->use_team; }

/* End a window alone: the team is next if it has slept long enough. */
static inline void autotune_alone(team_autotune *a, double mean, double seconds) {
    if (a->alone == 0 || mean < a->alone) a->alone = mean;
    a->asleep -= seconds;
    a->use_team = a->asleep <= 0;
}

/* End a window with the team: it goes on while it is faster. */
static inline void autotune_team(team_autotune *a, double mean, double seconds) {
    if (mean < a->alone || mean > AUTOTUNE_LONG_STEP) {
        a->slower = 0;
        return;
    }
    if (++a->slower < 2 && mean < AUTOTUNE_GROSS * a->alone) return;
    a->slower = 0;
    a->use_team = 0;
    a->asleep = 2 * seconds / AUTOTUNE_TRY_SHARE;
    if (a->asleep > AUTOTUNE_SLEEP_MAX) a->asleep = AUTOTUNE_SLEEP_MAX;
    /* Conditions may have changed since the best time. */
    a->alone *= 1.05;
}

/* Record a step, on the first thread. */
static inline void autotune_step(team_autotune *a, double now) {
    const ptrdiff_t steps = a->use_team ? AUTOTUNE_TEAM_STEPS : AUTOTUNE_ALONE_STEPS;
    const double least = a->use_team ? AUTOTUNE_TEAM_SECONDS : AUTOTUNE_ALONE_SECONDS;
    a->seconds += now - a->since;
    a->since = now;
    a->steps++;
    const int gross = a->use_team && a->seconds > AUTOTUNE_GROSS * a->alone * (double)a->steps;
    if (a->seconds < least || (a->steps < steps && a->seconds < AUTOTUNE_LONG_STEP && !gross))
        return;
    const double seconds = a->seconds, mean = seconds / (double)a->steps;
    a->seconds = 0;
    a->steps = 0;
    if (a->use_team) autotune_team(a, mean, seconds);
    else autotune_alone(a, mean, seconds);
}

#endif
