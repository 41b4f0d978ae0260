/* The rules of the optimizers, and the penalties in an update.

   A rule is `prepare`, which computes constants c from hyperparameters, learning rate and step, a
   function of vectors, (c, weight, w, g, s0, s1) -> w, which may change the state s0, s1, and a row in
   OPTIMIZERS. A penalty is a row in penalty_table. */
#ifndef TILES_OPTIMIZERS_H
#define TILES_OPTIMIZERS_H

#include <math.h>

#include "activations.h"
#include "gemm.h"
#include "simd.h"
#include "tiles.h"

static void sgd_prepare(const double *h, double learning_rate, double t, tile_update *u) {
    (void)h;
    (void)t;
    u->c[0] = u->rate = learning_rate;
}
ALWAYS_INLINE V sgd_u(const V *c, int weight, V w, V g, V *s0, V *s1) {
    (void)weight;
    (void)s0;
    (void)s1;
    return v_fnma(c[0], g, w);
}

/* h: momentum. */
static void momentum_prepare(const double *h, double learning_rate, double t, tile_update *u) {
    (void)t;
    u->c[0] = learning_rate;
    u->c[1] = h[0];
    u->rate = learning_rate / (1 - h[0]);
}
ALWAYS_INLINE V momentum_u(const V *c, int weight, V w, V g, V *s0, V *s1) {
    (void)weight;
    (void)s1;
    *s0 = v_fnma(c[0], g, c[1] * *s0);
    return w + *s0;
}

#define nesterov_prepare momentum_prepare
ALWAYS_INLINE V nesterov_u(const V *c, int weight, V w, V g, V *s0, V *s1) {
    (void)weight;
    (void)s1;
    *s0 = v_fnma(c[0], g, c[1] * *s0);
    return w + v_fnma(c[0], g, c[1] * *s0);
}

/* h: beta_1, beta_2, epsilon, whether epsilon is added to the root before its bias correction. */
static void adam_prepare(const double *h, double learning_rate, double t, tile_update *u) {
    u->c[0] = learning_rate / (1 - pow(h[0], t));
    u->c[1] = h[0];
    u->c[2] = 1 - h[0];
    u->c[3] = h[1];
    u->c[4] = 1 - h[1];
    u->c[5] = 1 / sqrt(1 - pow(h[1], t));
    u->c[6] = h[3] != 0 ? h[2] * u->c[5] : h[2];
    u->rate = learning_rate;
}
ALWAYS_INLINE V adam_u(const V *c, int weight, V w, V g, V *s0, V *s1) {
    (void)weight;
    *s0 = v_fma(c[2], g, c[1] * *s0);
    *s1 = v_fma(c[4] * g, g, c[3] * *s1);
    return v_fnma(c[0], *s0 / v_fma(v_sqrt(*s1), c[5], c[6]), w);
}

/* h: as Adam's, weight_decay. */
static void adamw_prepare(const double *h, double learning_rate, double t, tile_update *u) {
    adam_prepare(h, learning_rate, t, u);
    u->c[7] = learning_rate * h[4];
}
ALWAYS_INLINE V adamw_u(const V *c, int weight, V w, V g, V *s0, V *s1) {
    return adam_u(c, weight, weight ? v_fnma(c[7], w, w) : w, g, s0, s1);
}

/* h: rho, epsilon. */
static void rmsprop_prepare(const double *h, double learning_rate, double t, tile_update *u) {
    (void)t;
    u->c[0] = u->rate = learning_rate;
    u->c[1] = h[0];
    u->c[2] = 1 - h[0];
    u->c[3] = h[1];
}
ALWAYS_INLINE V rmsprop_u(const V *c, int weight, V w, V g, V *s0, V *s1) {
    (void)weight;
    (void)s1;
    *s0 = v_fma(c[2] * g, g, c[1] * *s0);
    return v_fnma(c[0], g / (v_sqrt(*s0) + c[3]), w);
}

/* h: epsilon. */
static void adagrad_prepare(const double *h, double learning_rate, double t, tile_update *u) {
    (void)t;
    u->c[0] = u->rate = learning_rate;
    u->c[1] = h[0];
}
ALWAYS_INLINE V adagrad_u(const V *c, int weight, V w, V g, V *s0, V *s1) {
    (void)weight;
    (void)s1;
    *s0 = v_fma(g, g, *s0);
    return v_fnma(c[0], g / (v_sqrt(*s0) + c[1]), w);
}

/* h: eta_minus, eta_plus, step_min, step_max; s0 the previous gradient, s1 the step sizes. */
static void rprop_prepare(const double *h, double learning_rate, double t, tile_update *u) {
    (void)t;
    for (int i = 0; i < 4; i++) u->c[i] = h[i];
    u->rate = learning_rate;
}
ALWAYS_INLINE V rprop_u(const V *c, int weight, V w, V g, V *s0, V *s1) {
    (void)weight;
    const VI moved = (g != ZERO) & (*s0 != ZERO), same = (g > ZERO) == (*s0 > ZERO);
    const V grown = v_min(c[1] * *s1, c[3]), shrunk = v_max(c[0] * *s1, c[2]);
    *s1 = v_select(moved & same, grown, v_select(moved & ~same, shrunk, *s1));
    *s0 = v_select(moved & ~same, ZERO, g);
    return w - v_select(*s0 == ZERO, ZERO, v_copysign(*s1, *s0));
}

/* name, hyperparameters, states. */
#define OPTIMIZERS(ROW)                                                                            \
    ROW(sgd, 0, 0)                                                                                 \
    ROW(momentum, 1, 1) ROW(nesterov, 1, 1) ROW(adam, 4, 2) ROW(adamw, 5, 2) ROW(rmsprop, 2, 1)    \
        ROW(adagrad, 1, 1) ROW(rprop, 4, 2)

/* The proximal step: soft or hard threshold; kind is a literal. */
ALWAYS_INLINE V proximal(const int kind, V threshold, V w) {
    const V size = v_abs(w);
    if (kind == PROXIMAL_SOFT)
        return v_select(size > threshold, v_copysign(size - threshold, w),
                        v_select(w == w, ZERO, w));
    if (kind == PROXIMAL_HARD) return v_select(size <= threshold, ZERO, w);
    return w;
}

/* Update one vector of W, S0, S1 by one of G, which LOAD_G loads. */
#define UPDATE_LANES(name, n_states, kind, LOAD_G, LOAD, STORE, lanes)                             \
    {                                                                                              \
        const V w = LOAD(W + j, lanes), g = v_fma(decay, w, LOAD_G(LOAD, lanes));                  \
        V s0 = n_states > 0 ? LOAD(S0 + j, lanes) : ZERO;                                          \
        V s1 = n_states > 1 ? LOAD(S1 + j, lanes) : ZERO;                                          \
        STORE(W + j, proximal(kind, threshold, name##_u(c, weight, w, g, &s0, &s1)), lanes);       \
        if (n_states > 0) STORE(S0 + j, s0, lanes);                                                \
        if (n_states > 1) STORE(S1 + j, s1, lanes);                                                \
    }
#define LOAD_WHOLE(p, n) v_load(p)
#define STORE_WHOLE(p, v, n) v_store(p, v)
/* The gradient from memory, or as an outer product: a sum from 0 with a single term. */
#define GRADIENT(LOAD, lanes) LOAD(G + r * ldg + j, lanes)
#define OUTER(LOAD, lanes) v_fma(a, LOAD(G + j, lanes), ZERO)

/* The rows of a tile; the constants stay in registers, since stores cannot alias them. */
#define OPTIMIZER_ROWS(name, n_states, kind, LOAD_G)                                               \
    for (ptrdiff_t r = 0; r < m; r++) {                                                            \
        real *W = (real *)W_ + r * ldw;                                                            \
        real *S0 = n_states > 0 ? (real *)S0_ + r * ldw : NULL;                                    \
        real *S1 = n_states > 1 ? (real *)S1_ + r * ldw : NULL;                                    \
        const V a = A ? v_set(A[r]) : ZERO;                                                        \
        ptrdiff_t j = 0;                                                                           \
        (void)a;                                                                                   \
        for (; j + LANES <= n; j += LANES)                                                         \
            UPDATE_LANES(name, n_states, kind, LOAD_G, LOAD_WHOLE, STORE_WHOLE, LANES)             \
        if (j < n)                                                                                 \
            UPDATE_LANES(name, n_states, kind, LOAD_G, v_load_partial, v_store_partial, n - j)     \
    }

#define OPTIMIZER_KINDS(name, n_states, LOAD_G)                                                    \
    switch (u->proximal) {                                                                         \
        case PROXIMAL_SOFT: OPTIMIZER_ROWS(name, n_states, PROXIMAL_SOFT, LOAD_G) break;           \
        case PROXIMAL_HARD: OPTIMIZER_ROWS(name, n_states, PROXIMAL_HARD, LOAD_G) break;           \
        default: OPTIMIZER_ROWS(name, n_states, PROXIMAL_NONE, LOAD_G)                             \
    }

#define OPTIMIZER_LOOP(name, n_hyperparameters, n_states)                                          \
    static void name##_update(const tile_update *u, ptrdiff_t m, ptrdiff_t n, void *W_,            \
                              ptrdiff_t ldw, const void *G_, ptrdiff_t ldg, const void *A_,        \
                              void *S0_, void *S1_) {                                              \
        const V decay = v_set((real)u->decay), threshold = v_set((real)u->threshold);              \
        const int weight = u->weight;                                                              \
        const real *G = G_, *A = A_;                                                               \
        V c[8];                                                                                    \
        for (int i = 0; i < 8; i++) c[i] = v_set((real)u->c[i]);                                   \
        if (A) OPTIMIZER_KINDS(name, n_states, OUTER)                                              \
        else OPTIMIZER_KINDS(name, n_states, GRADIENT)                                             \
    }

/* Prefetch W (m, n) of row stride ldw into the cache. */
static void prefetch(ptrdiff_t m, ptrdiff_t n, const void *W_, ptrdiff_t ldw) {
    const ptrdiff_t line = 64 / (ptrdiff_t)sizeof(real);
    for (ptrdiff_t r = 0; r < m; r++)
        for (ptrdiff_t j = 0; j < n; j += line)
            __builtin_prefetch((const real *)W_ + r * ldw + j, 1, 2);
}

OPTIMIZERS(OPTIMIZER_LOOP)

#define OPTIMIZER_ROW(name, n_hyperparameters, n_states)                                           \
    {#name, n_hyperparameters, n_states, name##_prepare, name##_update},

static const tile_optimizer optimizer_table[] = {OPTIMIZERS(OPTIMIZER_ROW){NULL, 0, 0, NULL, NULL}};

static void l2_prepare(double alpha, double mix, double norm, tile_update *u) {
    (void)mix;
    (void)norm;
    u->decay = alpha;
}

static void elastic_net_prepare(double alpha, double mix, double norm, tile_update *u) {
    (void)norm;
    u->decay = alpha * (1 - mix);
    u->proximal = PROXIMAL_SOFT;
    u->threshold = u->rate * alpha * mix;
}

static void l1_prepare(double alpha, double mix, double norm, tile_update *u) {
    (void)mix;
    elastic_net_prepare(alpha, 1, norm, u);
}

static void l0_prepare(double alpha, double mix, double norm, tile_update *u) {
    (void)mix;
    (void)norm;
    u->proximal = PROXIMAL_HARD;
    u->threshold = sqrt(2 * u->rate * alpha);
}

static void frobenius_prepare(double alpha, double mix, double norm, tile_update *u) {
    (void)mix;
    u->decay = norm > 0 ? alpha / norm : 0;
}

static double elastic_net_value(ptrdiff_t n, double mix, const void *w) {
    return mix * sum_of_magnitudes(n, w) + 0.5 * (1 - mix) * sum_of_squares(n, w);
}

static double l2_value(ptrdiff_t n, double mix, const void *w) {
    (void)mix;
    return 0.5 * sum_of_squares(n, w);
}

static double l1_value(ptrdiff_t n, double mix, const void *w) {
    (void)mix;
    return sum_of_magnitudes(n, w);
}

static double l0_value(ptrdiff_t n, double mix, const void *w) {
    (void)mix;
    return count_of_nonzeros(n, w);
}

static const tile_penalty penalty_table[] = {
    {"l2", 0, l2_prepare, l2_value},
    {"l1", 0, l1_prepare, l1_value},
    {"elastic_net", 0, elastic_net_prepare, elastic_net_value},
    {"l0", 0, l0_prepare, l0_value},
    {"frobenius", 1, frobenius_prepare, NULL},
    {NULL, 0, NULL, NULL}};

#endif
