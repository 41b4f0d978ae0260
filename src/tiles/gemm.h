/* The matrix product on register tiles.

   Each element of C is one sum over depth, in order, in one lane of one register: neither the
   tile's size nor its place, nor the width of the vectors, changes a bit of it. */
#ifndef TILES_GEMM_H
#define TILES_GEMM_H

#include "simd.h"
#include "tiles.h"

/* As many rows as the registers hold with two vectors of columns: 32 registers or 16. */
#if VECTOR_BYTES == 64
#define TILE_ROWS 12
#else
#define TILE_ROWS 6
#endif
#define TILE_COLUMNS (2 * LANES)

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Lanes of a row at p, of which n count. */
ALWAYS_INLINE V load_lanes(const real *p, ptrdiff_t n) {
    return n >= LANES ? v_load(p) : v_load_partial(p, n);
}

/* Writes n lanes to p. */
ALWAYS_INLINE void store_lanes(real *p, V v, ptrdiff_t n) {
    if (n >= LANES) v_store(p, v);
    else v_store_partial(p, v, n);
}

/* One register tile: C (mr, n), n within nv vectors. mr, nv and which stride of A is 1 are
   literals at every call, so that the accumulators stay in registers. */
ALWAYS_INLINE void tile(const int mr, const int nv, const int along_rows, ptrdiff_t n,
                        ptrdiff_t depth, const real *A, ptrdiff_t a_rs, ptrdiff_t a_cs,
                        const real *B, ptrdiff_t ldb, int from, const real *bias, real *C,
                        ptrdiff_t ldc) {
    V acc[TILE_ROWS][2];
    const ptrdiff_t last = n - (nv - 1) * LANES;
#pragma GCC unroll 12
    for (int r = 0; r < mr; r++) {
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++) {
            const ptrdiff_t count = v == nv - 1 ? last : LANES;
            if (from == FROM_ZERO) acc[r][v] = (V){0};
            else if (from == FROM_BIAS) acc[r][v] = load_lanes(bias + v * LANES, count);
            else acc[r][v] = load_lanes(C + r * ldc + v * LANES, count);
        }
    }
    const ptrdiff_t rs = along_rows ? 1 : a_rs, cs = along_rows ? a_cs : 1;
    for (ptrdiff_t k = 0; k < depth; k++) {
        const V b0 = v_load(B);
        const V b1 = nv > 1 ? v_load(B + LANES) : b0;
#pragma GCC unroll 12
        for (int r = 0; r < mr; r++) {
            const V a = v_set(A[r * rs]);
            acc[r][0] = v_fma(a, b0, acc[r][0]);
            if (nv > 1) acc[r][1] = v_fma(a, b1, acc[r][1]);
        }
        A += cs;
        B += ldb;
    }
#pragma GCC unroll 12
    for (int r = 0; r < mr; r++) {
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++)
            store_lanes(C + r * ldc + v * LANES, acc[r][v], v == nv - 1 ? last : LANES);
    }
}

#define TILE_ARGUMENTS n, depth, A, a_rs, a_cs, B, ldb, from, bias, C, ldc
#define TILE_CASE(mr)                                                                           \
    case mr:                                                                                    \
        if (n > LANES) {                                                                        \
            if (a_rs == 1) tile(mr, 2, 1, TILE_ARGUMENTS);                                      \
            else tile(mr, 2, 0, TILE_ARGUMENTS);                                                \
        } else {                                                                                \
            if (a_rs == 1) tile(mr, 1, 1, TILE_ARGUMENTS);                                      \
            else tile(mr, 1, 0, TILE_ARGUMENTS);                                                \
        }                                                                                       \
        break;

/* C (m, n) <- start + A B, rows in tiles of nearly equal height. One stride of A is 1. */
static void gemm(ptrdiff_t m, ptrdiff_t n, ptrdiff_t depth, const void *A_, ptrdiff_t a_rs,
                 ptrdiff_t a_cs, const void *B_, ptrdiff_t ldb, int from, const void *bias_,
                 void *C_, ptrdiff_t ldc) {
    const real *A = A_, *B = B_, *bias = bias_;
    real *C = C_;
    for (ptrdiff_t left = (m + TILE_ROWS - 1) / TILE_ROWS; left > 0; left--) {
        const ptrdiff_t mr = (m + left - 1) / left;
        switch (mr) {
            TILE_CASE(1) TILE_CASE(2) TILE_CASE(3) TILE_CASE(4) TILE_CASE(5) TILE_CASE(6)
#if TILE_ROWS > 6
            TILE_CASE(7) TILE_CASE(8) TILE_CASE(9) TILE_CASE(10) TILE_CASE(11) TILE_CASE(12)
#endif
        }
        A += mr * a_rs;
        C += mr * ldc;
        m -= mr;
    }
}

/* panel (depth, TILE_COLUMNS) <- B (depth, n), zero beyond n; panel is the caller's. */
static void pack(ptrdiff_t depth, ptrdiff_t n, const void *B_, ptrdiff_t b_rs, ptrdiff_t b_cs,
                 void *panel_) {
    const real *B = B_;
    real *panel = panel_;
    if (b_cs == 1 && n == TILE_COLUMNS) {
        for (ptrdiff_t k = 0; k < depth; k++) {
            v_store(panel + k * TILE_COLUMNS, v_load(B + k * b_rs));
            v_store(panel + k * TILE_COLUMNS + LANES, v_load(B + k * b_rs + LANES));
        }
        return;
    }
    for (ptrdiff_t c = 0; c < TILE_COLUMNS; c++) {
        if (c < n)
            for (ptrdiff_t k = 0; k < depth; k++) panel[k * TILE_COLUMNS + c] = B[k * b_rs + c * b_cs];
        else
            for (ptrdiff_t k = 0; k < depth; k++) panel[k * TILE_COLUMNS + c] = 0;
    }
}

/* out (n,) <- the sum of the rows of D (m, n), in order. */
static void column_sums(ptrdiff_t m, ptrdiff_t n, const void *D_, ptrdiff_t ldd, void *out_) {
    const real *D = D_;
    real *out = out_;
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const ptrdiff_t count = n - j < LANES ? n - j : LANES;
        V sum = (V){0};
        for (ptrdiff_t r = 0; r < m; r++) sum += load_lanes(D + r * ldd + j, count);
        store_lanes(out + j, sum, count);
    }
}

/* The sum of squares of w (n,) in double, one after the other. */
static double sum_of_squares(ptrdiff_t n, const void *w_) {
    const real *w = w_;
    double sum = 0;
    for (ptrdiff_t i = 0; i < n; i++) sum += (double)w[i] * (double)w[i];
    return sum;
}

#endif
