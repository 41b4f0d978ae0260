/* Normalisation: of columns by the statistics of a batch (or running ones), of rows by their own.
   Sums are in double, over rows in order or, within a row, in an order that depends on its width alone. */
#ifndef TILES_NORMALISE_H
#define TILES_NORMALISE_H

#include <math.h>

#include "simd.h"
#include "tiles.h"

/* Columns that are processed together. */
#define STRIPE 64

/* mean, variance (n,) <- moments of the columns of X (m, n) of row stride ld; the variance is biased. */
static void column_moments(ptrdiff_t m, ptrdiff_t n, const void *X_, ptrdiff_t ld,
                           double *restrict mean, double *restrict variance) {
    const real *restrict X = X_;
    for (ptrdiff_t j = 0; j < n; j += STRIPE) {
        const ptrdiff_t wide = n - j < STRIPE ? n - j : STRIPE;
        double sum[STRIPE] = {0}, squares[STRIPE] = {0};
        for (ptrdiff_t i = 0; i < m; i++)
            for (ptrdiff_t c = 0; c < wide; c++) sum[c] += (double)X[i * ld + j + c];
        for (ptrdiff_t c = 0; c < wide; c++) mean[j + c] = sum[c] /= (double)m;
        for (ptrdiff_t i = 0; i < m; i++)
            for (ptrdiff_t c = 0; c < wide; c++) {
                const double x = (double)X[i * ld + j + c] - sum[c];
                squares[c] += x * x;
            }
        for (ptrdiff_t c = 0; c < wide; c++) variance[j + c] = squares[c] / (double)m;
    }
}

/* sum_D, sum_DX (n,) <- over the rows of D, X (m, n) of row stride ld: of D and of D times the
   normalised X. */
static void norm_sums(ptrdiff_t m, ptrdiff_t n, const void *X_, const void *D_, ptrdiff_t ld,
                      const double *restrict mean, const double *restrict inverse,
                      double *restrict sum_D, double *restrict sum_DX) {
    const real *restrict X = X_, *restrict D = D_;
    for (ptrdiff_t j = 0; j < n; j += STRIPE) {
        const ptrdiff_t wide = n - j < STRIPE ? n - j : STRIPE;
        double sum[STRIPE] = {0}, product[STRIPE] = {0};
        const double *center = mean + j;
        for (ptrdiff_t i = 0; i < m; i++)
            for (ptrdiff_t c = 0; c < wide; c++) {
                const double d = (double)D[i * ld + j + c];
                sum[c] += d;
                product[c] += d * ((double)X[i * ld + j + c] - center[c]);
            }
        for (ptrdiff_t c = 0; c < wide; c++) {
            sum_D[j + c] = sum[c];
            sum_DX[j + c] = product[c] * inverse[j + c];
        }
    }
}

/* A (m, n) <- gamma (r X_hat + d) + beta, X_hat = (X - mean) inverse. */
static void norm_forward(ptrdiff_t m, ptrdiff_t n, const tile_norm *s, const void *gamma_,
                         const void *beta_, const void *X_, void *A_) {
    const real *restrict X = X_, *gamma = gamma_, *beta = beta_;
    real *restrict A = A_;
    for (ptrdiff_t j = 0; j < n; j += STRIPE) {
        const ptrdiff_t wide = n - j < STRIPE ? n - j : STRIPE;
        real center[STRIPE], slope[STRIPE], shift[STRIPE];
        for (ptrdiff_t c = 0; c < wide; c++) {
            center[c] = (real)s->mean[j + c];
            slope[c] = (real)((double)gamma[j + c] * s->r[j + c] * s->inverse[j + c]);
            shift[c] = (real)((double)gamma[j + c] * s->d[j + c] + (double)beta[j + c]);
        }
        for (ptrdiff_t i = 0; i < m; i++)
            for (ptrdiff_t c = 0; c < wide; c++)
                A[i * n + j + c] = (X[i * n + j + c] - center[c]) * slope[c] + shift[c];
    }
}

/* dX (m, n) <- gamma r inverse (D - sum_D / rows - X_hat sum_DX / rows), or gamma r inverse D if rows is
   0: then the statistics do not depend on X. */
static void norm_backward(ptrdiff_t m, ptrdiff_t n, const tile_norm *s, double rows,
                          const void *gamma_, const void *X_, const void *D_, void *dX_) {
    const real *restrict X = X_, *restrict D = D_, *gamma = gamma_;
    real *restrict dX = dX_;
    for (ptrdiff_t j = 0; j < n; j += STRIPE) {
        const ptrdiff_t wide = n - j < STRIPE ? n - j : STRIPE;
        real center[STRIPE], slope[STRIPE], mean_D[STRIPE], coefficient[STRIPE];
        for (ptrdiff_t c = 0; c < wide; c++) {
            center[c] = (real)s->mean[j + c];
            slope[c] = (real)((double)gamma[j + c] * s->r[j + c] * s->inverse[j + c]);
            mean_D[c] = rows > 0 ? (real)(s->sum_D[j + c] / rows) : 0;
            coefficient[c] = rows > 0 ? (real)(s->inverse[j + c] * s->sum_DX[j + c] / rows) : 0;
        }
        for (ptrdiff_t i = 0; i < m; i++)
            for (ptrdiff_t c = 0; c < wide; c++)
                dX[i * n + j + c] = slope[c] * (D[i * n + j + c] - mean_D[c] -
                                                (X[i * n + j + c] - center[c]) * coefficient[c]);
    }
}

/* Interleaved sums within a row. */
#define ROW_SUMS 16

/* The sum of ROW_SUMS sums, added pairwise. */
static inline double pairwise_sum(double *s) {
    for (int k = ROW_SUMS / 2; k > 0; k /= 2)
        for (int l = 0; l < k; l++) s[l] += s[l + k];
    return s[0];
}

/* A (m, n) <- gamma X_hat + beta row by row; saved (m, 2), or NULL, receives the mean and inverse
   deviation of each row. */
static void layer_norm(ptrdiff_t m, ptrdiff_t n, double epsilon, const void *gamma_,
                       const void *beta_, const void *X_, void *A_, void *saved_) {
    const real *X = X_, *restrict gamma = gamma_, *restrict beta = beta_;
    real *A = A_, *saved = saved_;
    for (ptrdiff_t i = 0; i < m; i++) {
        const real *restrict x = X + i * n;
        real *restrict a = A + i * n;
        double s[ROW_SUMS] = {0}, q[ROW_SUMS] = {0};
        ptrdiff_t j = 0;
        for (; j + ROW_SUMS <= n; j += ROW_SUMS)
            for (int l = 0; l < ROW_SUMS; l++) s[l] += (double)x[j + l];
        for (int l = 0; j < n; j++, l++) s[l] += (double)x[j];
        const double mean = pairwise_sum(s) / (double)n;
        for (j = 0; j + ROW_SUMS <= n; j += ROW_SUMS)
            for (int l = 0; l < ROW_SUMS; l++) {
                const double c = (double)x[j + l] - mean;
                q[l] += c * c;
            }
        for (int l = 0; j < n; j++, l++) {
            const double c = (double)x[j] - mean;
            q[l] += c * c;
        }
        const real center = (real)mean,
                   inverse = (real)(1 / sqrt(pairwise_sum(q) / (double)n + epsilon));
        for (j = 0; j < n; j++) a[j] = (x[j] - center) * inverse * gamma[j] + beta[j];
        if (saved != NULL) {
            saved[2 * i] = center;
            saved[2 * i + 1] = inverse;
        }
    }
}

/* dX (m, n) <- inverse (G - mean(G) - X_hat mean(G X_hat)) row by row, G = gamma D. */
static void layer_norm_backward(ptrdiff_t m, ptrdiff_t n, const void *gamma_, const void *X_,
                                const void *saved_, const void *D_, void *dX_) {
    const real *X = X_, *restrict gamma = gamma_, *D = D_, *saved = saved_;
    real *dX = dX_;
    for (ptrdiff_t i = 0; i < m; i++) {
        const real *restrict x = X + i * n, *restrict d = D + i * n;
        real *restrict out = dX + i * n;
        const real center = saved[2 * i], inverse = saved[2 * i + 1];
        double s[ROW_SUMS] = {0}, q[ROW_SUMS] = {0};
        ptrdiff_t j = 0;
        for (; j + ROW_SUMS <= n; j += ROW_SUMS)
            for (int l = 0; l < ROW_SUMS; l++) {
                const real g = gamma[j + l] * d[j + l];
                s[l] += (double)g;
                q[l] += (double)(g * ((x[j + l] - center) * inverse));
            }
        for (int l = 0; j < n; j++, l++) {
            const real g = gamma[j] * d[j];
            s[l] += (double)g;
            q[l] += (double)(g * ((x[j] - center) * inverse));
        }
        const real mean = (real)(pairwise_sum(s) / (double)n);
        const real coefficient = (real)((double)inverse * pairwise_sum(q) / (double)n);
        for (j = 0; j < n; j++)
            out[j] = inverse * (gamma[j] * d[j] - mean - (x[j] - center) * coefficient);
    }
}

/* sum_D, sum_DX (n,) <- over the rows of D, X (m, n) of row stride ld: of D and of D X_hat, with the
   rows' own means and inverse deviations, saved (m, 2). */
static void layer_norm_sums(ptrdiff_t m, ptrdiff_t n, const void *X_, const void *saved_,
                            const void *D_, ptrdiff_t ld, double *restrict sum_D,
                            double *restrict sum_DX) {
    const real *restrict X = X_, *restrict D = D_, *restrict saved = saved_;
    for (ptrdiff_t j = 0; j < n; j += STRIPE) {
        const ptrdiff_t wide = n - j < STRIPE ? n - j : STRIPE;
        double sum[STRIPE] = {0}, product[STRIPE] = {0};
        for (ptrdiff_t i = 0; i < m; i++) {
            const real center = saved[2 * i], inverse = saved[2 * i + 1];
            for (ptrdiff_t c = 0; c < wide; c++) {
                const real d = D[i * ld + j + c];
                sum[c] += (double)d;
                product[c] += (double)(d * ((X[i * ld + j + c] - center) * inverse));
            }
        }
        for (ptrdiff_t c = 0; c < wide; c++) {
            sum_D[j + c] = sum[c];
            sum_DX[j + c] = product[c];
        }
    }
}

#endif
