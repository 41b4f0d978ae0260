/* Whether a step is made by the team or by its first thread alone: what has lately been faster.

   Two threads are not always faster than one: a stranger may hold one of the cores, or the work
   may be too small on this machine. The first thread knows its best time of a step alone, and times
   the team in windows: two in a row that were slower send the team to sleep for a while (one may be
   the end of somebody else's work). Which way is taken changes no bit of the result. */
#ifndef BPFAST_PACE_H
#define BPFAST_PACE_H

#include <stddef.h>

/* A window has at least so many steps and seconds: alone, together. */
#define PACE_ALONE_STEPS 2
#define PACE_ALONE_SECONDS 1e-3
#define PACE_TEAM_STEPS 4
#define PACE_TEAM_SECONDS 4e-3
/* A try of the team takes at most this share of the time; it sleeps no longer than so. */
#define PACE_TRY_SHARE 0.02
#define PACE_SLEEP_MOST 5.0
/* A team that is so many times slower than one thread sleeps after a single window, which ends as soon
   as it has the seconds: a thread that woke up on the first one's core waits for the scheduler at every
   turn. */
#define PACE_GROSS 4
/* Steps this long are the team's: over many slices of the scheduler every thread gets its part. */
#define PACE_LONG_STEP 0.05

typedef struct {
    int together; /* how the next step is made */
    int team;
    ptrdiff_t rows;
    double since;     /* when the step under way began */
    double seconds;   /* of the window under way */
    ptrdiff_t steps;  /* of the window under way */
    double alone;     /* the best mean of a window alone, seconds a step; 0 for none yet */
    int slower;       /* windows in a row in which the team was */
    double asleep;    /* seconds of steps until the team is to be tried again */
} team_pace;

/* Before an epoch with batches of `rows`: what is known stays known while the work stays the same. */
static inline void pace_start(team_pace *p, double now, int team, ptrdiff_t rows) {
    if (p->team != team || p->rows != rows) {
        const team_pace fresh = {.team = team, .rows = rows};
        *p = fresh;
    }
    p->since = now;
}

/* Whether the team makes the next step. */
static inline int pace_together(const team_pace *p) { return p->together; }

/* A window alone is over: the team's turn, if it has slept enough. */
static inline void pace_alone(team_pace *p, double mean, double seconds) {
    if (p->alone == 0 || mean < p->alone) p->alone = mean;
    p->asleep -= seconds;
    p->together = p->asleep <= 0;
}

/* A window together is over: the team stays as long as it is faster. */
static inline void pace_team(team_pace *p, double mean, double seconds) {
    if (mean < p->alone || mean > PACE_LONG_STEP) {
        p->slower = 0;
        return;
    }
    if (++p->slower < 2 && mean < PACE_GROSS * p->alone) return;
    p->slower = 0;
    p->together = 0;
    p->asleep = 2 * seconds / PACE_TRY_SHARE;
    if (p->asleep > PACE_SLEEP_MOST) p->asleep = PACE_SLEEP_MOST;
    /* The best may have been another time's. */
    p->alone *= 1.05;
}

/* The first thread has made a step. */
static inline void pace_step(team_pace *p, double now) {
    const ptrdiff_t steps = p->together ? PACE_TEAM_STEPS : PACE_ALONE_STEPS;
    const double least = p->together ? PACE_TEAM_SECONDS : PACE_ALONE_SECONDS;
    p->seconds += now - p->since;
    p->since = now;
    p->steps++;
    const int gross = p->together && p->seconds > PACE_GROSS * p->alone * (double)p->steps;
    if (p->seconds < least || (p->steps < steps && p->seconds < PACE_LONG_STEP && !gross)) return;
    const double seconds = p->seconds, mean = seconds / (double)p->steps;
    p->seconds = 0;
    p->steps = 0;
    if (p->together) pace_team(p, mean, seconds);
    else pace_alone(p, mean, seconds);
}

#endif
