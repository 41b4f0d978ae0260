/* Whether a step is made by the team or by its first thread alone: what has lately been faster.

   Two threads are not always faster than one: a stranger may hold one of the cores, or the work
   may be too small on this machine. The first thread times the steps of both ways in windows and
   goes the better one, looking again when its own way slows down, and now and then in any case.
   Which way is taken changes no bit of the result. */
#ifndef BPFAST_PACE_H
#define BPFAST_PACE_H

#include <stddef.h>

/* A window has at least so many steps and seconds; a look at the other way is over sooner. */
#define PACE_STEPS 4
#define PACE_SECONDS 4e-3
#define PACE_LOOK_STEPS 2
#define PACE_LOOK_SECONDS 1e-3
/* From a look to the next: at first, and at most, with each that changes nothing twice as long. */
#define PACE_HOLD_SECONDS 0.1
#define PACE_HOLD_MOST 3.0
/* A look costs at most this share of the time between two. */
#define PACE_LOOK_SHARE 0.02
/* Steps this long are not spent on a look: threads share a core in slices of a few milliseconds,
   and over many of those both get their part. */
#define PACE_LONG_STEP 0.05
/* This much slower than the window before the last look means that something has changed. */
#define PACE_SLOWER 1.25

typedef struct {
    int together; /* how the next step is made */
    int looking;  /* whether that is a look at the other way */
    int known;    /* whether both ways have been timed */
    int team;
    ptrdiff_t rows;
    double since;      /* when the step under way began */
    double seconds;    /* of the window under way */
    ptrdiff_t steps;   /* of the window under way */
    double mean[2];    /* seconds a step: alone, together */
    double held, hold; /* seconds since the last look, and until the next */
} team_pace;

/* Before an epoch with batches of `rows`: what is known stays known while the work stays the same. */
static inline void pace_start(team_pace *p, double now, int team, ptrdiff_t rows) {
    if (p->team != team || p->rows != rows) {
        const team_pace fresh = {.together = 1, .team = team, .rows = rows, .hold = PACE_HOLD_SECONDS};
        *p = fresh;
    }
    p->since = now;
}

/* Whether the team makes the next step. */
static inline int pace_together(const team_pace *p) { return p->together; }

/* The first thread has made a step. */
static inline void pace_step(team_pace *p, double now) {
    p->seconds += now - p->since;
    p->held += now - p->since;
    p->steps++;
    p->since = now;
    if (p->steps < (p->looking ? PACE_LOOK_STEPS : PACE_STEPS) && p->seconds < PACE_LONG_STEP) return;
    if (p->seconds < (p->looking ? PACE_LOOK_SECONDS : PACE_SECONDS)) return;
    const int way = p->together;
    const double mean = p->seconds / (double)p->steps, cost = p->seconds;
    const int slower = p->known && !p->looking && mean > PACE_SLOWER * p->mean[way];
    p->seconds = 0;
    p->steps = 0;
    if (p->looking) {
        p->mean[way] = mean;
        p->looking = 0;
        p->known = 1;
        p->held = 0;
        if (p->mean[way] >= p->mean[!way]) {
            p->together = !way;
            p->hold = 2 * p->hold < PACE_HOLD_MOST ? 2 * p->hold : PACE_HOLD_MOST;
        } else {
            p->hold = PACE_HOLD_SECONDS;
        }
        if (p->hold < cost / PACE_LOOK_SHARE) p->hold = cost / PACE_LOOK_SHARE;
        return;
    }
    /* Towards the newest, so that one slow window does not speak for all. */
    if (!p->known || mean < p->mean[way]) p->mean[way] = mean;
    else p->mean[way] = 0.75 * p->mean[way] + 0.25 * mean;
    if (mean < PACE_LONG_STEP && (!p->known || slower || p->held >= p->hold)) {
        p->together = !way;
        p->looking = 1;
        if (slower) p->mean[way] = mean;
    }
}

#endif
