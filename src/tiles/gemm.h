/* The matrix product on register tiles, and sums over matrices.

   Each element of C is one sum over depth, in order, in one lane of one register, so the result does
   not depend on the size or position of the tile, nor on the width of the vectors. */
#ifndef TILES_GEMM_H
#define TILES_GEMM_H

#include <math.h>

#include "simd.h"
#include "tiles.h"

/* The initial value of a product. */
enum { FROM_ZERO = 0, FROM_BIAS = 1, FROM_C = 2 };

/* The rows that fit into the registers (32 or 16) with two vectors of columns. */
#if VECTOR_BYTES == 64 || TILES_NEON
#define TILE_ROWS 12
#else
#define TILE_ROWS 6
#endif
#define TILE_COLUMNS (2 * LANES)
/* Vectors of columns for a single row: enough sums to hide the latency of an FMA. */
#define ROW_VECTORS 8
/* Products of at least this depth have time to prefetch the next tile, and the hardware does not prefetch
   rows that are at least this many bytes apart. */
#define PREFETCH_DEPTH 32
#define PREFETCH_STRIDE 2048
/* The last vector of a tile: fewer lanes, whole, or whole with more columns to prefetch after it. */
enum { PARTIAL = 0, WHOLE = 1, WHOLE_PREFETCH = 2 };

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* The first n lanes of a row at p. */
ALWAYS_INLINE V load_lanes(const real *p, ptrdiff_t n) {
    return n >= LANES ? v_load(p) : v_load_partial(p, n);
}

/* Write n lanes to p. */
ALWAYS_INLINE void store_lanes(real *p, V v, ptrdiff_t n) {
    if (n >= LANES) v_store(p, v);
    else v_store_partial(p, v, n);
}

/* One register tile: C (mr, n) of nv vectors, all of them whole or the last one with fewer lanes.
   mr, nv, whole and along_rows (which stride of A is 1) are literals at every call, so that the sums
   stay in registers. */
ALWAYS_INLINE void tile(const int mr, const int nv, const int whole, const int along_rows,
                        ptrdiff_t n, ptrdiff_t depth, const real *A, ptrdiff_t a_rs, ptrdiff_t a_cs,
                        const real *B, ptrdiff_t ldb, int from, const real *bias, real *C,
                        ptrdiff_t ldc) {
    V acc[TILE_ROWS][ROW_VECTORS], b[ROW_VECTORS];
    const ptrdiff_t last = n - (nv - 1) * LANES;
#define LOAD(p, v) (whole || (v) < nv - 1 ? v_load(p) : v_load_partial(p, last))
    UNROLL(12)
    for (int r = 0; r < mr; r++) {
        UNROLL(8)
        for (int v = 0; v < nv; v++) {
            if (from == FROM_ZERO) acc[r][v] = (V){0};
            else if (from == FROM_BIAS) acc[r][v] = LOAD(bias + v * LANES, v);
            else acc[r][v] = LOAD(C + r * ldc + v * LANES, v);
        }
    }
    if (depth >= PREFETCH_DEPTH && ldc * (ptrdiff_t)sizeof(real) >= PREFETCH_STRIDE) {
        /* The next tile down: its rows may be pages apart. */
        UNROLL(12)
        for (int r = 0; r < mr; r++) {
            __builtin_prefetch(C + (mr + r) * ldc, 1, 2);
            if (nv > 1) __builtin_prefetch(C + (mr + r) * ldc + LANES, 1, 2);
        }
    }
    const ptrdiff_t rs = along_rows ? 1 : a_rs, cs = along_rows ? a_cs : 1;
    for (ptrdiff_t k = 0; k < depth; k++) {
        UNROLL(8)
        for (int v = 0; v < nv; v++) {
            b[v] = LOAD(B + v * LANES, v);
            /* The same row of the next columns: the rows of B may be pages apart. */
            if (whole == WHOLE_PREFETCH) __builtin_prefetch(B + (nv + v) * LANES, 0, 2);
        }
        UNROLL(12)
        for (int r = 0; r < mr; r++) {
            const V a = v_set(A[r * rs]);
            UNROLL(8)
            for (int v = 0; v < nv; v++) acc[r][v] = v_fma(a, b[v], acc[r][v]);
        }
        A += cs;
        B += ldb;
    }
    UNROLL(12)
    for (int r = 0; r < mr; r++) {
        UNROLL(8)
        for (int v = 0; v < nv; v++) {
            if (whole || v < nv - 1) v_store(C + r * ldc + v * LANES, acc[r][v]);
            else v_store_partial(C + r * ldc + v * LANES, acc[r][v], last);
        }
    }
#undef LOAD
}

#if HALF_LANES
/* The tile of one vector for columns that fit into half of its lanes: the units process twice as many
   half vectors. */
ALWAYS_INLINE void half_tile(const int mr, const int along_rows, ptrdiff_t n, ptrdiff_t depth,
                             const real *A, ptrdiff_t a_rs, ptrdiff_t a_cs, const real *B,
                             ptrdiff_t ldb, int from, const real *bias, real *C, ptrdiff_t ldc) {
    H acc[TILE_ROWS];
    const ptrdiff_t rs = along_rows ? 1 : a_rs, cs = along_rows ? a_cs : 1;
    UNROLL(12)
    for (int r = 0; r < mr; r++) {
        if (from == FROM_ZERO) acc[r] = (H){0};
        else acc[r] = h_load_partial(from == FROM_BIAS ? bias : C + r * ldc, n);
    }
    for (ptrdiff_t k = 0; k < depth; k++) {
        const H b = h_load_partial(B, n);
        UNROLL(12)
        for (int r = 0; r < mr; r++) acc[r] = h_fma(h_set(A[r * rs]), b, acc[r]);
        A += cs;
        B += ldb;
    }
    UNROLL(12)
    for (int r = 0; r < mr; r++) h_store_partial(C + r * ldc, acc[r], n);
}
#define TILE_HALF(mr)                                                                              \
    if (a_rs == 1) half_tile(mr, 1, TILE_ARGUMENTS);                                               \
    else half_tile(mr, 0, TILE_ARGUMENTS)
#else
#define TILE_HALF(mr)
#endif

#define TILE_ARGUMENTS n, depth, A, a_rs, a_cs, B, ldb, from, bias, C, ldc
#define TILE_ALONG(mr, nv, whole)                                                                  \
    if (a_rs == 1) tile(mr, nv, whole, 1, TILE_ARGUMENTS);                                         \
    else tile(mr, nv, whole, 0, TILE_ARGUMENTS)
#define TILE_CASE(mr)                                                                              \
    case mr:                                                                                       \
        if (n == TILE_COLUMNS && prefetches) {                                                     \
            TILE_ALONG(mr, 2, WHOLE_PREFETCH);                                                     \
        } else if (n == TILE_COLUMNS) {                                                            \
            TILE_ALONG(mr, 2, WHOLE);                                                              \
        } else if (n > LANES) {                                                                    \
            TILE_ALONG(mr, 2, PARTIAL);                                                            \
        } else if (HALF_LANES && n <= HALF_LANES) {                                                \
            TILE_HALF(mr);                                                                         \
        } else {                                                                                   \
            TILE_ALONG(mr, 1, PARTIAL);                                                            \
        }                                                                                          \
        break;

/* C (m, n) <- start + A B for n within TILE_COLUMNS, in tiles of nearly equal height. */
static void gemm_panel(ptrdiff_t m, ptrdiff_t n, ptrdiff_t depth, const real *A, ptrdiff_t a_rs,
                       ptrdiff_t a_cs, const real *B, ptrdiff_t ldb, int from, const real *bias,
                       real *C, ptrdiff_t ldc) {
    const int prefetches = ldb * (ptrdiff_t)sizeof(real) >= PREFETCH_STRIDE;
    for (ptrdiff_t left = (m + TILE_ROWS - 1) / TILE_ROWS; left > 0; left--) {
        const ptrdiff_t mr = (m + left - 1) / left;
        /* clang-format off */
        switch (mr) {
            TILE_CASE(1) TILE_CASE(2) TILE_CASE(3) TILE_CASE(4) TILE_CASE(5) TILE_CASE(6)
#if TILE_ROWS > 6
            TILE_CASE(7) TILE_CASE(8) TILE_CASE(9) TILE_CASE(10) TILE_CASE(11) TILE_CASE(12)
#endif
        }
        /* clang-format on */
        A += mr * a_rs;
        C += mr * ldc;
        m -= mr;
    }
}

/* C (m, n) for one row, in blocks of eight vectors and a last one with the rest, or for two rows, in
   blocks of four; returns the number of columns computed. */
static ptrdiff_t gemm_rows(ptrdiff_t m, ptrdiff_t n, ptrdiff_t depth, const real *A, ptrdiff_t a_rs,
                           ptrdiff_t a_cs, const real *B, ptrdiff_t ldb, int from, const real *bias,
                           real *C, ptrdiff_t ldc) {
    const ptrdiff_t wide = (m == 1 ? ROW_VECTORS : ROW_VECTORS / 2) * LANES,
                    whole = n / wide * wide;
    for (ptrdiff_t done = 0; done < whole; done += wide) {
        if (m == 1) {
            TILE_ALONG(1, ROW_VECTORS, WHOLE_PREFETCH);
        } else {
            TILE_ALONG(2, ROW_VECTORS / 2, WHOLE_PREFETCH);
        }
        B += wide;
        C += wide;
        bias += bias ? wide : 0;
    }
    n -= whole;
    if (m == 2 || n == 0) return whole;
    switch ((n + LANES - 1) / LANES) {
        case 1: TILE_ALONG(1, 1, PARTIAL); break;
        case 2: TILE_ALONG(1, 2, PARTIAL); break;
        case 3: TILE_ALONG(1, 3, PARTIAL); break;
        case 4: TILE_ALONG(1, 4, PARTIAL); break;
        case 5: TILE_ALONG(1, 5, PARTIAL); break;
        case 6: TILE_ALONG(1, 6, PARTIAL); break;
        case 7: TILE_ALONG(1, 7, PARTIAL); break;
        default: TILE_ALONG(1, 8, PARTIAL);
    }
    return whole + n;
}

/* C (m, n) <- start + A (m, depth) B (depth, n); one stride of A is 1. */
static void gemm(ptrdiff_t m, ptrdiff_t n, ptrdiff_t depth, const real *A, ptrdiff_t a_rs,
                 ptrdiff_t a_cs, const real *B, ptrdiff_t ldb, int from, const real *bias, real *C,
                 ptrdiff_t ldc) {
    ptrdiff_t j = 0;
    if (m == 1 || m == 2) j = gemm_rows(m, n, depth, A, a_rs, a_cs, B, ldb, from, bias, C, ldc);
    for (; j < n; j += TILE_COLUMNS)
        gemm_panel(m, n - j < TILE_COLUMNS ? n - j : TILE_COLUMNS, depth, A, a_rs, a_cs, B + j, ldb,
                   from, bias ? bias + j : NULL, C + j, ldc);
}

/* panel (depth, TILE_COLUMNS) <- Bt' (depth, n), zero beyond n, from Bt (n, depth) of row stride
   ldb; panel is the caller's. */
static void pack_transposed(ptrdiff_t depth, ptrdiff_t n, const real *Bt, ptrdiff_t ldb,
                            real *panel) {
    V x[LANES];
    for (ptrdiff_t c = 0; c < TILE_COLUMNS; c += LANES) {
        for (ptrdiff_t k = 0; k < depth; k += LANES) {
            const real *source = Bt + c * ldb + k;
            real *target = panel + k * TILE_COLUMNS + c;
            if (c + LANES <= n && k + LANES <= depth) {
                UNROLL(16)
                for (int i = 0; i < LANES; i++) {
                    x[i] = v_load(source + i * ldb);
                    /* The next panel. */
                    __builtin_prefetch(source + (TILE_COLUMNS + i) * ldb, 0, 2);
                }
                v_transpose(x);
                UNROLL(16)
                for (int i = 0; i < LANES; i++) v_store(target + i * TILE_COLUMNS, x[i]);
            } else {
                const ptrdiff_t deep = depth - k < LANES ? depth - k : LANES;
                for (int i = 0; i < LANES; i++)
                    x[i] = c + i < n ? load_lanes(source + i * ldb, deep) : (V){0};
                v_transpose(x);
                for (int i = 0; i < deep; i++) v_store(target + i * TILE_COLUMNS, x[i]);
            }
        }
    }
}

/* panel (depth, TILE_COLUMNS) <- B (depth, n) of row stride ldb, zero beyond n. */
static void pack_columns(ptrdiff_t depth, ptrdiff_t n, const real *B, ptrdiff_t ldb, real *panel) {
    const ptrdiff_t second = n - LANES;
    for (ptrdiff_t k = 0; k < depth; k++, B += ldb, panel += TILE_COLUMNS) {
        v_store(panel, load_lanes(B, n));
        v_store(panel + LANES, second > 0 ? load_lanes(B + LANES, second) : (V){0});
        if (second >= LANES) __builtin_prefetch(B + TILE_COLUMNS, 0, 2);
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

/* Whether no element of x (n,) is infinite or NaN. */
static int all_finite(ptrdiff_t n, const void *x_) {
    const real *x = x_;
    /* x - x is 0 where x is finite, otherwise NaN, which stays. */
    V residual[4] = {{0}};
    ptrdiff_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) UNROLL(4)
    for (int v = 0; v < 4; v++) {
        const V a = v_load(x + i + v * LANES);
        residual[v] += a - a;
    }
    for (; i + LANES <= n; i += LANES) residual[0] += v_load(x + i) - v_load(x + i);
    if (i < n) residual[1] += v_load_partial(x + i, n - i) - v_load_partial(x + i, n - i);
    const V all = (residual[0] + residual[1]) + (residual[2] + residual[3]);
    return !v_any(all != all);
}

/* Run n rounds of as many independent multiply-adds as a register tile has; returns their number. */
static double multiply_add_rounds(ptrdiff_t n) {
    V acc[TILE_ROWS * 2];
    const V a = v_set((real)0.5), b = v_set(1);
    UNROLL(24)
    for (int i = 0; i < TILE_ROWS * 2; i++) acc[i] = v_set((real)i);
    for (ptrdiff_t k = 0; k < n; k++) {
        UNROLL(24)
        for (int i = 0; i < TILE_ROWS * 2; i++) {
            acc[i] = v_fma(acc[i], a, b);
            /* Keep it in its register, and do not fold it with earlier rounds. */
            KEEP_IN_REGISTER(acc[i]);
        }
    }
    return (double)n * TILE_ROWS * 2 * LANES;
}

/* Interleaved sums, so that an addition does not wait for the previous one. */
#define SUMS 16

/* The sum of a term over the elements x of w (n,), in double: SUMS interleaved sums, added pairwise. */
#define SUM_OF(name, term)                                                                         \
    static double name(ptrdiff_t n, const void *w_) {                                              \
        const real *w = w_;                                                                        \
        double s[SUMS] = {0};                                                                      \
        ptrdiff_t i = 0;                                                                           \
        for (; i + SUMS <= n; i += SUMS)                                                           \
            for (int l = 0; l < SUMS; l++) {                                                       \
                const double x = (double)w[i + l];                                                 \
                s[l] += (term);                                                                    \
            }                                                                                      \
        for (int l = 0; i < n; i++, l++) {                                                         \
            const double x = (double)w[i];                                                         \
            s[l] += (term);                                                                        \
        }                                                                                          \
        for (int k = SUMS / 2; k > 0; k /= 2)                                                      \
            for (int l = 0; l < k; l++) s[l] += s[l + k];                                          \
        return s[0];                                                                               \
    }

SUM_OF(sum_of_squares, x *x)
SUM_OF(sum_of_magnitudes, fabs(x))
SUM_OF(count_of_nonzeros, x != 0)

#endif
