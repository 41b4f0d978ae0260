/* Products with a sparse matrix, its transpose and its dense form.

   A product is the sum of gemm.h without the terms whose factor is 0, in the same order. Since
   0 b + c is c, results are bitwise identical for finite numbers, except that a term of +0 may change
   a sum of -0. */
#ifndef TILES_SPARSE_H
#define TILES_SPARSE_H

#include <string.h>

#include "gemm.h"
#include "simd.h"
#include "tiles.h"

/* The first entry of row i; *count <- the number of its entries. */
static inline int64_t csr_row(const tile_csr *x, ptrdiff_t i, ptrdiff_t *count) {
    const int64_t r = x->rows ? x->rows[i] : i;
    *count = x->indptr[r + 1] - x->indptr[r];
    return x->indptr[r];
}

/* C (n,) <- start + x B, the terms of 0 included: the row has `count` values x in columns k. */
static __attribute__((noinline)) void
sparse_row_with_zeros(ptrdiff_t n, ptrdiff_t depth, ptrdiff_t count, const int64_t *k,
                      const real *x, const real *B, ptrdiff_t ldb, const real *bias, real *C) {
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        V acc = bias ? load_lanes(bias + j, n - j) : (V){0};
        for (ptrdiff_t i = 0, p = 0; i < depth; i++) {
            const V a = v_set(p < count && k[p] == i ? x[p++] : 0);
            acc = v_fma(a, load_lanes(B + i * ldb + j, n - j), acc);
        }
        store_lanes(C + j, acc, n - j);
    }
}

/* C (m, n) <- start + X B of nv vectors, all of them whole or the last one with fewer lanes; nv and
   whole are literals, so that the sums stay in registers. */
ALWAYS_INLINE void sparse_strip(const int nv, const int whole, ptrdiff_t m, ptrdiff_t n,
                                ptrdiff_t depth, const tile_csr *X, const real *B, ptrdiff_t ldb,
                                const real *bias, real *C, ptrdiff_t ldc) {
    const ptrdiff_t last = n - (nv - 1) * LANES;
    const VI minus_zero = v_sign_bit(v_set(-1));
#define LOAD(p, v) (whole || (v) < nv - 1 ? v_load(p) : v_load_partial(p, last))
    for (ptrdiff_t r = 0; r < m; r++, C += ldc) {
        V acc[ROW_VECTORS];
        ptrdiff_t count;
        const int64_t first = csr_row(X, r, &count), *k = X->indices + first;
        const real *x = (const real *)X->values + first;
        UNROLL(8)
        for (int v = 0; v < nv; v++) acc[v] = bias ? LOAD(bias + v * LANES, v) : (V){0};
        for (ptrdiff_t p = 0; p < count; p++) {
            const V a = v_set(x[p]);
            const real *b = B + k[p] * ldb;
            UNROLL(8)
            for (int v = 0; v < nv; v++) acc[v] = v_fma(a, LOAD(b + v * LANES, v), acc[v]);
        }
        VI negative_zeros = {0};
        UNROLL(8)
        for (int v = 0; v < nv; v++) negative_zeros |= v_bits(acc[v]) == minus_zero;
        if (__builtin_expect(v_any(negative_zeros), 0)) {
            sparse_row_with_zeros(n, depth, count, k, x, B, ldb, bias, C);
            continue;
        }
        UNROLL(8)
        for (int v = 0; v < nv; v++) {
            if (whole || v < nv - 1) v_store(C + v * LANES, acc[v]);
            else v_store_partial(C + v * LANES, acc[v], last);
        }
    }
#undef LOAD
}

#define STRIP_CASE(nv)                                                                             \
    case nv: sparse_strip(nv, 0, m, left, depth, X, B + j, ldb, b, C + j, ldc); break;

/* C (m, n) <- [bias +] X (m, depth) B (depth, n), a strip of columns at a time. */
static void sparse_product(ptrdiff_t m, ptrdiff_t n, ptrdiff_t depth, const tile_csr *X,
                           const void *B_, ptrdiff_t ldb, const void *bias_, void *C_,
                           ptrdiff_t ldc) {
    const real *B = B_, *bias = bias_;
    real *C = C_;
    for (ptrdiff_t j = 0; j < n; j += ROW_VECTORS * LANES) {
        const ptrdiff_t left = n - j;
        const real *b = bias ? bias + j : NULL;
        /* clang-format off */
        switch ((left + LANES - 1) / LANES) {
            STRIP_CASE(1) STRIP_CASE(2) STRIP_CASE(3) STRIP_CASE(4) STRIP_CASE(5) STRIP_CASE(6)
            STRIP_CASE(7)
            default:
                if (left < ROW_VECTORS * LANES) {
                    sparse_strip(ROW_VECTORS, 0, m, left, depth, X, B + j, ldb, b, C + j, ldc);
                } else {
                    sparse_strip(ROW_VECTORS, 1, m, ROW_VECTORS * LANES, depth, X, B + j, ldb, b,
                                 C + j, ldc);
                }
        }
        /* clang-format on */
    }
}

/* The transpose of X (m, n): its n rows begin at starts (n + 2,); their entries are in the order of the
   rows of X. */
static void sparse_transpose(ptrdiff_t m, ptrdiff_t n, const tile_csr *X, int64_t *starts,
                             int64_t *indices, void *values_) {
    real *values = values_;
    const real *x = X->values;
    ptrdiff_t count;
    /* Counts are two places further on and then summed: starts[c + 1] is first the start of column c and
       finally its end. */
    memset(starts, 0, (size_t)(n + 2) * sizeof *starts);
    for (ptrdiff_t i = 0; i < m; i++) {
        const int64_t first = csr_row(X, i, &count);
        for (int64_t p = first; p < first + count; p++) starts[X->indices[p] + 2]++;
    }
    for (ptrdiff_t c = 2; c < n + 1; c++) starts[c] += starts[c - 1];
    for (ptrdiff_t i = 0; i < m; i++) {
        const int64_t first = csr_row(X, i, &count);
        for (int64_t p = first; p < first + count; p++) {
            const int64_t place = starts[X->indices[p] + 1]++;
            indices[place] = i;
            values[place] = x[p];
        }
    }
}

/* A (m, n) <- X. */
static void sparse_to_dense(ptrdiff_t m, ptrdiff_t n, const tile_csr *X, void *A_) {
    real *A = A_;
    const real *x = X->values;
    ptrdiff_t count;
    memset(A, 0, (size_t)(m * n) * sizeof *A);
    for (ptrdiff_t i = 0; i < m; i++, A += n) {
        const int64_t first = csr_row(X, i, &count);
        for (int64_t p = first; p < first + count; p++) A[X->indices[p]] = x[p];
    }
}

#endif
