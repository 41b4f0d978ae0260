/* The losses, fused with their links: from raw outputs Z to the loss of each row and D = dL/dZ.

   A pointwise loss is one function of vectors, (y, z, parameter) -> loss and slope, and a row in
   POINTWISE_LOSSES; it is averaged over the outputs. cross_entropy works on whole rows. */
#ifndef TILES_LOSSES_H
#define TILES_LOSSES_H

#include <math.h>

#include "activations.h"
#include "gemm.h"
#include "simd.h"
#include "tiles.h"
#include "vmath.h"

#if REAL_IS_DOUBLE
#define EXPONENT_CAP 700.0
#else
#define EXPONENT_CAP 80.0f
#endif
#define INFINITE v_set((real)INFINITY)

/* exp of the capped argument in *slope; the value is infinite if the cap was reached. */
ALWAYS_INLINE V capped_exp(V x, V *slope) {
    const V cap = v_set(EXPONENT_CAP), e = v_exp(v_min(cap, x));
    *slope = e;
    return v_select(x >= cap, INFINITE, e);
}

ALWAYS_INLINE V squared_error_l(V y, V z, V p, V *slope) {
    (void)p;
    const V r = z - y;
    *slope = r + r;
    return r * r;
}

ALWAYS_INLINE V absolute_error_l(V y, V z, V p, V *slope) {
    (void)p;
    const V r = z - y;
    *slope = v_select(r == ZERO, ZERO, v_copysign(ONE, r));
    return v_abs(r);
}

ALWAYS_INLINE V log_loss_l(V y, V z, V cap, V *slope) {
    *slope = v_sigmoid(z) - y;
    /* max(z, 0) - y z first: it cancels exactly where the prediction is confident and right. */
    const V value = v_fnma(y, z, v_max(ZERO, z)) + v_softplus(-v_abs(z));
    return v_select(value > cap, cap, value);
}

ALWAYS_INLINE V exponential_l(V y, V z, V p, V *slope) {
    (void)p;
    V e;
    const V value = capped_exp(-(y * z), &e);
    *slope = -(y * e);
    return value;
}

ALWAYS_INLINE V hinge_l(V y, V z, V p, V *slope) {
    (void)p;
    const V margin = v_fnma(y, z, ONE);
    *slope = v_select(margin > ZERO, -y, ZERO);
    return v_max(ZERO, margin);
}

ALWAYS_INLINE V huber_l(V y, V z, V threshold, V *slope) {
    const V r = z - y, inside = v_min(threshold, v_abs(r));
    *slope = v_copysign(inside, r);
    return inside * v_fnma(v_set((real)0.5), inside, v_abs(r));
}

ALWAYS_INLINE V quantile_l(V y, V z, V q, V *slope) {
    const V r = y - z;
    *slope = v_select(r == ZERO, ZERO, v_select(r > ZERO, -q, ONE - q));
    return v_max(q * r, (q - ONE) * r);
}

ALWAYS_INLINE V poisson_l(V y, V z, V p, V *slope) {
    (void)p;
    V e;
    const V value = capped_exp(z, &e);
    *slope = e - y;
    return v_fnma(y, z, value);
}

#define POINTWISE_LOSSES(ROW)                                                                      \
    ROW(squared_error)                                                                             \
    ROW(absolute_error) ROW(log_loss) ROW(exponential) ROW(hinge) ROW(huber) ROW(quantile)         \
        ROW(poisson)

/* Elements whose losses are on the stack before they are summed. */
#define LOSS_CHUNK 512

/* Scale rows of D and sum their losses: the second part of a pointwise loss. `at` and `count` are in
   elements; r and c are the row and column. */
static void finish_pointwise(ptrdiff_t at, ptrdiff_t count, ptrdiff_t n, const double *row_scale,
                             const real *value, real *D, double *row_loss) {
    ptrdiff_t r = at / n, c = at % n, i = 0;
    while (i < count) {
        const ptrdiff_t stop = n - c < count - i ? i + n - c : count;
        const real scale = (real)(row_scale[r] / (double)n);
        double sum = c ? row_loss[r] : 0;
        /* The slope of a row of weight 0 may be NaN. */
        if (scale == 0)
            for (ptrdiff_t k = i; k < stop; k++) D[at + k] = 0;
        else
            for (ptrdiff_t k = i; k < stop; k++) D[at + k] *= scale;
        for (ptrdiff_t k = i; k < stop; k++) sum += (double)value[k];
        row_loss[r] = sum;
        c += stop - i;
        i = stop;
        if (c == n) {
            row_loss[r] /= (double)n;
            r++;
            c = 0;
        }
    }
}

#define POINTWISE_LOOP(name)                                                                       \
    static void name##_loss(ptrdiff_t m, ptrdiff_t n, double parameter, const void *Y_,            \
                            const int64_t *classes, const void *Z_, const double *row_scale,       \
                            void *D_, double *row_loss) {                                          \
        const real *Y = Y_, *Z = Z_;                                                               \
        real *D = D_, value[LOSS_CHUNK];                                                           \
        const V p = v_set((real)parameter);                                                        \
        V slope;                                                                                   \
        (void)classes;                                                                             \
        for (ptrdiff_t at = 0; at < m * n; at += LOSS_CHUNK) {                                     \
            const ptrdiff_t count = m * n - at < LOSS_CHUNK ? m * n - at : LOSS_CHUNK;             \
            for (ptrdiff_t i = 0; i < count; i += LANES) {                                         \
                const ptrdiff_t lanes = count - i < LANES ? count - i : LANES;                     \
                const V y = load_lanes(Y + at + i, lanes), z = load_lanes(Z + at + i, lanes);      \
                store_lanes(value + i, name##_l(y, z, p, &slope), lanes);                          \
                store_lanes(D + at + i, slope, lanes);                                             \
            }                                                                                      \
            finish_pointwise(at, count, n, row_scale, value, D, row_loss);                         \
        }                                                                                          \
    }

POINTWISE_LOSSES(POINTWISE_LOOP)

/* The maximum of z (n,), without a branch, since it is unpredictable. A NaN may be skipped; it shows up
   in the exponentials. */
static real row_top(ptrdiff_t n, const real *z) {
    real top[4] = {z[0], z[0], z[0], z[0]};
    ptrdiff_t j = 0;
    for (; j + 4 <= n; j += 4)
        for (int l = 0; l < 4; l++) top[l] = top[l] > z[j + l] ? top[l] : z[j + l];
    for (; j < n; j++) top[0] = top[0] > z[j] ? top[0] : z[j];
    top[0] = top[0] > top[1] ? top[0] : top[1];
    top[2] = top[2] > top[3] ? top[2] : top[3];
    return top[0] > top[2] ? top[0] : top[2];
}

/* E (m, n) <- exp(z - max z) of each row, top (m,) <- the maxima; NaN propagates. */
static void rows_exp(ptrdiff_t m, ptrdiff_t n, const real *z, real *E, real *top) {
    ptrdiff_t i = 0;
    for (ptrdiff_t r = 0; r < m; r++) {
        top[r] = row_top(n, z + r * n);
        for (ptrdiff_t j = 0; j < n; j++) E[r * n + j] = z[r * n + j] - top[r];
    }
    /* All rows together, since a row may be shorter than a vector. */
    for (; i + LANES <= m * n; i += LANES) v_store(E + i, v_exp(v_load(E + i)));
    if (i < m * n) v_store_partial(E + i, v_exp(v_load_partial(E + i, m * n - i)), m * n - i);
}

/* The sum of a row (n,) in double: four interleaved sums, in an order that depends on n alone. */
static double row_sum(ptrdiff_t n, const real *e) {
    double s[4] = {0};
    ptrdiff_t j = 0;
    for (; j + 4 <= n; j += 4)
        for (int l = 0; l < 4; l++) s[l] += (double)e[j + l];
    for (int l = 0; j < n; j++, l++) s[l] += (double)e[j];
    return (s[0] + s[1]) + (s[2] + s[3]);
}

/* Rows whose softmax is computed together. */
#define SOFTMAX_ROWS 32

/* The loss and D of a row whose exponentials are in d; the target is y, or the class if y is NULL. */
static double cross_entropy_row(ptrdiff_t n, const real *y, int64_t class, const real *z, real top,
                                real scale, real *d) {
    const double sum = row_sum(n, d);
    const real share = (real)(1.0 / sum);
    double loss = log(sum);
    if (y == NULL) {
        const real slope = (d[class] * share - 1) * scale;
        loss -= (double)z[class] - (double)top;
        for (ptrdiff_t j = 0; j < n; j++) d[j] = d[j] * share * scale;
        d[class] = slope;
    } else {
        for (ptrdiff_t j = 0; j < n; j++) {
            loss -= (double)y[j] * ((double)z[j] - (double)top);
            d[j] = (d[j] * share - y[j]) * scale;
        }
    }
    if (scale == 0)
        for (ptrdiff_t j = 0; j < n; j++) d[j] = 0;
    return loss;
}

/* loss = log sum exp(z) - y z, at most cap, slope = softmax(z) - y; Y (m, n), or classes (m,). */
static void cross_entropy_loss(ptrdiff_t m, ptrdiff_t n, double cap, const void *Y_,
                               const int64_t *classes, const void *Z_, const double *row_scale,
                               void *D_, double *row_loss) {
    const real *Y = Y_, *Z = Z_;
    real *D = D_, top[SOFTMAX_ROWS];
    for (ptrdiff_t r0 = 0; r0 < m; r0 += SOFTMAX_ROWS) {
        const ptrdiff_t r1 = m - r0 < SOFTMAX_ROWS ? m : r0 + SOFTMAX_ROWS;
        rows_exp(r1 - r0, n, Z + r0 * n, D + r0 * n, top);
        for (ptrdiff_t r = r0; r < r1; r++) {
            row_loss[r] = cross_entropy_row(n, classes ? NULL : Y + r * n, classes ? classes[r] : 0,
                                            Z + r * n, top[r - r0], (real)row_scale[r], D + r * n);
            if (row_loss[r] > cap) row_loss[r] = cap;
        }
    }
}

#define LOSS_ROW(name) {#name, name##_loss},

static const tile_loss loss_table[] = {
    POINTWISE_LOSSES(LOSS_ROW){"cross_entropy", cross_entropy_loss}, {NULL, NULL}};

/* A <- Z. */
static void identity_link(ptrdiff_t m, ptrdiff_t n, const void *Z, void *A) {
    identity_forward(m * n, 0, Z, A);
}

/* A <- 1 / (1 + exp(-Z)). */
static void sigmoid_link(ptrdiff_t m, ptrdiff_t n, const void *Z, void *A) {
    sigmoid_forward(m * n, 0, Z, A);
}

/* A <- softmax of each row of Z; A may be Z. */
static void softmax_link(ptrdiff_t m, ptrdiff_t n, const void *Z_, void *A_) {
    real top[SOFTMAX_ROWS];
    for (ptrdiff_t r0 = 0; r0 < m; r0 += SOFTMAX_ROWS) {
        const ptrdiff_t rows = m - r0 < SOFTMAX_ROWS ? m - r0 : SOFTMAX_ROWS;
        real *A = (real *)A_ + r0 * n;
        rows_exp(rows, n, (const real *)Z_ + r0 * n, A, top);
        for (ptrdiff_t r = 0; r < rows; r++) {
            const double sum = row_sum(n, A + r * n);
            for (ptrdiff_t j = 0; j < n; j++) A[r * n + j] = (real)((double)A[r * n + j] / sum);
        }
    }
}

/* A <- exp(Z). */
static void exp_link(ptrdiff_t m, ptrdiff_t n, const void *Z_, void *A_) {
    const real *Z = Z_;
    real *A = A_;
    ptrdiff_t i = 0;
    for (; i + LANES <= m * n; i += LANES) v_store(A + i, v_exp(v_load(Z + i)));
    if (i < m * n) v_store_partial(A + i, v_exp(v_load_partial(Z + i, m * n - i)), m * n - i);
}

static const tile_link link_table[] = {{"identity", identity_link},
                                       {"sigmoid", sigmoid_link},
                                       {"softmax", softmax_link},
                                       {"exp", exp_link},
                                       {NULL, NULL}};

#endif
