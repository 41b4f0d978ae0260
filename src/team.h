/* The team of threads that runs one native call, and its barrier.

   A thread that waits spins for a few microseconds, then sleeps: if another process uses one of the
   cores, a barrier that only spins keeps the other thread off the core for a whole time slice. */
#ifndef BPFAST_TEAM_H
#define BPFAST_TEAM_H

#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sched.h>
#endif

#ifdef _OPENMP
#include <omp.h>
#define BP_OPENMP 1
static inline int team_size(void) { return omp_get_num_threads(); }
/* The limit of OMP_NUM_THREADS, or of whatever limits OpenMP in this thread. */
static inline int team_limit(void) { return omp_get_max_threads(); }
#else
#define BP_OPENMP 0
static inline int team_size(void) { return 1; }
static inline int team_limit(void) { return 1; }
#endif

/* Spins before sleeping: about 5 µs if a pause takes 40 cycles. */
#define TEAM_SPINS 400

typedef struct {
    _Atomic uint32_t arrived;
    _Atomic uint32_t generation;
    _Atomic uint32_t sleepers;
} team_barrier;

static inline void team_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Wait until each of n threads has called this. Writes before the call are visible to all threads
   after it. */
static inline void team_wait(team_barrier *t, int n) {
    if (n == 1) return;
    const uint32_t generation = atomic_load(&t->generation);
    if (atomic_fetch_add(&t->arrived, 1) + 1 == (uint32_t)n) {
        atomic_store(&t->arrived, 0);
        atomic_fetch_add(&t->generation, 1);
#ifdef __linux__
        if (atomic_load(&t->sleepers))
            syscall(SYS_futex, &t->generation, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
#endif
        return;
    }
    for (int spin = 0; spin < TEAM_SPINS; spin++) {
        if (atomic_load(&t->generation) != generation) return;
        team_pause();
    }
    atomic_fetch_add(&t->sleepers, 1);
    while (atomic_load(&t->generation) == generation) {
#ifdef __linux__
        syscall(SYS_futex, &t->generation, FUTEX_WAIT_PRIVATE, generation, NULL, NULL, 0);
#else
        sched_yield();
#endif
    }
    atomic_fetch_sub(&t->sleepers, 1);
}

/* The number of concurrent calls in this process, from `team_enter` to `team_leave`: they share the
   cores. */
static _Atomic int team_calls;
static inline int team_enter(void) { return atomic_fetch_add(&team_calls, 1) + 1; }
static inline void team_leave(void) { atomic_fetch_sub(&team_calls, 1); }

/* Seconds on a monotonic clock. */
static inline double team_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#endif
