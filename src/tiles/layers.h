/* Small layers on a block of rows, and small operations of the update. */
#ifndef TILES_LAYERS_H
#define TILES_LAYERS_H

#include <math.h>

#include "dropout.h"
#include "simd.h"
#include "tiles.h"

/* A (n,) <- X + Y; A may be either. */
static void add(ptrdiff_t n, const void *X_, const void *Y_, void *A_) {
    const real *X = X_, *Y = Y_;
    real *A = A_;
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) v_store(A + i, v_load(X + i) + v_load(Y + i));
    for (; i < n; i++) A[i] = X[i] + Y[i];
}

/* x (n,) <- factor x. */
static void scale(ptrdiff_t n, double factor, void *x_) {
    real *x = x_;
    const real by = (real)factor;
    for (ptrdiff_t i = 0; i < n; i++) x[i] *= by;
}

/* x (m, n) of row stride ld <- x clipped to [-limit, limit]; NaN stays NaN. */
static void clamp(ptrdiff_t m, ptrdiff_t n, double limit, void *x_, ptrdiff_t ld) {
    const real high = (real)limit, low = -high;
    for (ptrdiff_t i = 0; i < m; i++) {
        real *x = (real *)x_ + i * ld;
        for (ptrdiff_t j = 0; j < n; j++) {
            const real a = x[j] > high ? high : x[j];
            x[j] = a < low ? low : a;
        }
    }
}

/* A (m, n) <- the largest of the pieces of X (m, pieces n): column k n + j is piece k of column j. */
static void maxout(ptrdiff_t m, ptrdiff_t n, ptrdiff_t pieces, const void *X_, void *A_) {
    for (ptrdiff_t i = 0; i < m; i++) {
        const real *restrict x = (const real *)X_ + i * n * pieces;
        real *restrict a = (real *)A_ + i * n;
        for (ptrdiff_t j = 0; j < n; j++) a[j] = x[j];
        for (ptrdiff_t k = 1; k < pieces; k++)
            for (ptrdiff_t j = 0; j < n; j++) {
                const real p = x[k * n + j];
                /* A NaN in any piece propagates. */
                a[j] = p > a[j] || p != p ? p : a[j];
            }
    }
}

/* dX (m, pieces n) <- D (m, n) in the first piece that equals the maximum A (m, n), 0 elsewhere. */
static void maxout_backward(ptrdiff_t m, ptrdiff_t n, ptrdiff_t pieces, const void *X_,
                            const void *A_, const void *D_, void *dX_) {
    for (ptrdiff_t i = 0; i < m; i++) {
        const real *restrict x = (const real *)X_ + i * n * pieces;
        const real *restrict a = (const real *)A_ + i * n, *restrict d = (const real *)D_ + i * n;
        real *restrict out = (real *)dX_ + i * n * pieces;
        for (ptrdiff_t j = 0; j < n; j += STRIPE) {
            const ptrdiff_t wide = n - j < STRIPE ? n - j : STRIPE;
            real left[STRIPE]; /* the delta, until a piece has received it */
            for (ptrdiff_t c = 0; c < wide; c++) left[c] = d[j + c];
            for (ptrdiff_t k = 0; k < pieces; k++)
                for (ptrdiff_t c = 0; c < wide; c++) {
                    const int largest = x[k * n + j + c] == a[j + c];
                    out[k * n + j + c] = largest ? left[c] : 0;
                    left[c] = largest ? 0 : left[c];
                }
        }
    }
}

/* A (m, n) <- V where X > 0, else slope (n,) V: in the forward pass V is X, in the backward pass D. */
static void prelu(ptrdiff_t m, ptrdiff_t n, const void *slope_, const void *X_, const void *V_,
                  void *A_) {
    const real *restrict slope = slope_;
    for (ptrdiff_t i = 0; i < m; i++) {
        const real *x = (const real *)X_ + i * n, *v = (const real *)V_ + i * n;
        real *restrict a = (real *)A_ + i * n;
        for (ptrdiff_t j = 0; j < n; j++) {
            const real scaled = slope[j] * v[j];
            a[j] = x[j] > 0 ? v[j] : scaled;
        }
    }
}

/* out (n,) <- the sum over the rows of D min(0, X), both (m, n) of row stride ld. */
static void prelu_sums(ptrdiff_t m, ptrdiff_t n, const void *X_, const void *D_, ptrdiff_t ld,
                       double *restrict out) {
    const real *restrict X = X_, *restrict D = D_;
    for (ptrdiff_t j = 0; j < n; j += STRIPE) {
        const ptrdiff_t wide = n - j < STRIPE ? n - j : STRIPE;
        double sum[STRIPE] = {0};
        for (ptrdiff_t i = 0; i < m; i++)
            for (ptrdiff_t c = 0; c < wide; c++) {
                const real x = X[i * ld + j + c], product = x * D[i * ld + j + c];
                sum[c] += x > 0 ? 0 : (double)product;
            }
        for (ptrdiff_t c = 0; c < wide; c++) out[j + c] = sum[c];
    }
}

/* The finaliser of SplitMix64. */
static inline uint64_t mix64(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* A (n,) <- V where X > 0, else a V, with a drawn from [lower, upper] for every element, as `dropout`
   draws: in the forward pass V is X, in the backward pass D. */
static void rrelu(ptrdiff_t n, double lower, double upper, uint64_t key, uint64_t first,
                  const void *X_, const void *V_, void *A_) {
    const real *X = X_, *V = V_;
    real *A = A_;
    const double width = (upper - lower) * 0x1p-32;
    for (ptrdiff_t i = 0; i < n; i += STRIPE) {
        const ptrdiff_t wide = n - i < STRIPE ? n - i : STRIPE;
        uint64_t draws[STRIPE / 2 + 1];
        real slope[STRIPE + 2];
        const uint64_t at = first + (uint64_t)i, odd = at % 2;
        for (uint64_t k = 0; k < STRIPE / 2 + 1; k++)
            draws[k] = mix64(key + (at / 2 + k + 1) * GOLDEN);
        for (int k = 0; k < STRIPE / 2 + 1; k++) {
            slope[2 * k] = (real)(lower + width * (double)(uint32_t)draws[k]);
            slope[2 * k + 1] = (real)(lower + width * (double)(uint32_t)(draws[k] >> 32));
        }
        for (ptrdiff_t c = 0; c < wide; c++) {
            const real scaled = slope[odd + (uint64_t)c] * V[i + c];
            A[i + c] = X[i + c] > 0 ? V[i + c] : scaled;
        }
    }
}

/* The sum of the four 16-bit parts of a draw. */
static inline uint64_t parts(uint64_t draw) {
    return (draw & 0xFFFF) + (draw >> 16 & 0xFFFF) + (draw >> 32 & 0xFFFF) + (draw >> 48);
}

/* A (n,) <- W + deviation N with N approximately normal: the sum of eight uniform numbers of 16 bits, from
   draws 2k and 2k + 1 for weight number k, counted from `first`. */
static void noisy(ptrdiff_t n, double deviation, uint64_t key, uint64_t first, const void *W_,
                  void *A_) {
    const real *W = W_;
    real *A = A_;
    const double unit = 1 / sqrt(8 * (0x1p32 - 1) / 12);
    for (ptrdiff_t i = 0; i < n; i++) {
        const uint64_t number = 2 * (first + (uint64_t)i);
        const uint64_t sum =
            parts(mix64(key + (number + 1) * GOLDEN)) + parts(mix64(key + (number + 2) * GOLDEN));
        A[i] = W[i] + (real)(deviation * (((double)(int64_t)sum - 8 * 32767.5) * unit));
    }
}

#endif
