/* C = bias + A B on matrices of any size, in one thread: blocking, packing and copies.

   All three products of backpropagation are this one, with different strides. */
#ifndef TILES_PRODUCT_H
#define TILES_PRODUCT_H

#include <stdint.h>
#include <string.h>

#include "gemm.h"
#include "simd.h"
#include "tiles.h"

/* The depth after which the sums of a product are stored. */
#define PANEL_DEPTH 512
/* Rows that use the same columns of B while these are in the cache; more if the columns are packed first,
   which must pay off. */
#define FEW_ROWS 96
#define MANY_ROWS 256
/* Packing pays from this many rows on, if B is larger than this many bytes and its rows are not aligned
   to cache lines. */
#define PACK_ROWS 48
#define PACK_BYTES 32768
/* Rows this many bytes apart map to the same lines of a first-level cache: they are copied, with a pad
   between them. */
#define ALIAS_BYTES 4096
#define ALIAS_PAD 16
/* Elements of the scratch memory: a panel, then the copies. */
#define PRODUCT_SCRATCH (PANEL_DEPTH * TILE_COLUMNS + MANY_ROWS * (PANEL_DEPTH + ALIAS_PAD))

/* The first of nearly equal parts of at most `most`. */
static ptrdiff_t even_part(ptrdiff_t left, ptrdiff_t most) {
    const ptrdiff_t parts = (left + most - 1) / most;
    return (left + parts - 1) / parts;
}

/* copies (m, n) of row stride rs <- A (m, n) of row stride a_rs. */
static void copy_rows(ptrdiff_t m, ptrdiff_t n, const real *A, ptrdiff_t a_rs, real *copies,
                      ptrdiff_t rs) {
    for (ptrdiff_t i = 0; i < m; i++)
        memcpy(copies + i * rs, A + i * a_rs, (size_t)n * sizeof(real));
}

/* C (m, n) <- start + A B for B (depth, n), one stride of which is 1. B is packed, or transposed, into
   `panel`, two vectors of columns at a time. */
static void gemm_packed(ptrdiff_t m, ptrdiff_t n, ptrdiff_t depth, const real *A, ptrdiff_t a_rs,
                        ptrdiff_t a_cs, const real *B, ptrdiff_t b_rs, ptrdiff_t b_cs, int from,
                        const real *bias, real *C, ptrdiff_t ldc, real *panel) {
    for (ptrdiff_t j = 0; j < n; j += TILE_COLUMNS) {
        const ptrdiff_t wide = n - j < TILE_COLUMNS ? n - j : TILE_COLUMNS;
        if (b_cs == 1) pack_columns(depth, wide, B + j, b_rs, panel);
        else pack_transposed(depth, wide, B + j * b_cs, b_cs, panel);
        gemm(m, wide, depth, A, a_rs, a_cs, panel, TILE_COLUMNS, from, bias ? bias + j : NULL,
             C + j, ldc);
    }
}

/* C (n,) <- start + a Bt' for one row a (depth,), Bt (n, depth): squares are transposed and used at
   once. */
static void row_transposed(ptrdiff_t n, ptrdiff_t depth, const real *a, const real *Bt,
                           ptrdiff_t ldb, const real *bias, real *C) {
    V x[LANES];
    for (ptrdiff_t c = 0; c < n; c += LANES) {
        const ptrdiff_t count = n - c < LANES ? n - c : LANES;
        V acc = bias ? load_lanes(bias + c, count) : (V){0};
        for (ptrdiff_t k = 0; k < depth; k += LANES) {
            const ptrdiff_t deep = depth - k < LANES ? depth - k : LANES;
            const real *source = Bt + c * ldb + k;
            if (count == LANES && deep == LANES) {
                UNROLL(16)
                for (int i = 0; i < LANES; i++) x[i] = v_load(source + i * ldb);
                v_transpose(x);
                UNROLL(16)
                for (int i = 0; i < LANES; i++) acc = v_fma(v_set(a[k + i]), x[i], acc);
            } else {
                for (int i = 0; i < LANES; i++)
                    x[i] = i < count ? load_lanes(source + i * ldb, deep) : (V){0};
                v_transpose(x);
                for (int i = 0; i < deep; i++) acc = v_fma(v_set(a[k + i]), x[i], acc);
            }
        }
        store_lanes(C + c, acc, count);
    }
}

/* Whether packing the rows of B (depth, n) pays off for m rows of A. */
static int worth_packing(ptrdiff_t m, ptrdiff_t n, ptrdiff_t depth, const real *B, ptrdiff_t b_rs,
                         ptrdiff_t b_cs) {
    const ptrdiff_t size = sizeof(real), line = 64;
    if (b_cs != 1) return 1;
    return m >= PACK_ROWS && n * depth * size > PACK_BYTES &&
           ((uintptr_t)B % (uintptr_t)line != 0 || b_rs * size % line != 0);
}

/* C (m, n) <- start + A B for at most MANY_ROWS rows and PANEL_DEPTH deep. */
static void product_block(ptrdiff_t m, ptrdiff_t n, ptrdiff_t depth, const real *A, ptrdiff_t a_rs,
                          ptrdiff_t a_cs, const real *B, ptrdiff_t b_rs, ptrdiff_t b_cs, int packed,
                          int from, const real *bias, real *C, ptrdiff_t ldc, real *scratch) {
    if (a_cs == 1 && a_rs * (ptrdiff_t)sizeof(real) % ALIAS_BYTES == 0 && m > TILE_ROWS &&
        n > 4 * TILE_COLUMNS) {
        real *copies = scratch + PANEL_DEPTH * TILE_COLUMNS;
        copy_rows(m, depth, A, a_rs, copies, depth + ALIAS_PAD);
        A = copies;
        a_rs = depth + ALIAS_PAD;
    }
    if (packed) gemm_packed(m, n, depth, A, a_rs, a_cs, B, b_rs, b_cs, from, bias, C, ldc, scratch);
    else gemm(m, n, depth, A, a_rs, a_cs, B, b_rs, from, bias, C, ldc);
}

/* C (m, n) <- [bias +] A (m, depth) B (depth, n); one stride of A is 1, and one of B. */
static void product(ptrdiff_t m, ptrdiff_t n, ptrdiff_t depth, const void *A, ptrdiff_t a_rs,
                    ptrdiff_t a_cs, const void *B, ptrdiff_t b_rs, ptrdiff_t b_cs, const void *bias,
                    void *C, ptrdiff_t ldc, void *scratch) {
    if (m == 1 && a_cs == 1 && b_rs == 1 && b_cs > 1) {
        row_transposed(n, depth, A, B, b_cs, bias, C);
        return;
    }
    const int packed = worth_packing(m, n, depth, B, b_rs, b_cs);
    /* If A is read along its columns, a few of its cache lines serve all of B. */
    const ptrdiff_t block = packed ? MANY_ROWS : a_rs == 1 ? TILE_ROWS : FEW_ROWS;
    int from = bias ? FROM_BIAS : FROM_ZERO;
    for (ptrdiff_t k = 0, deep; k < depth; k += deep) {
        deep = even_part(depth - k, PANEL_DEPTH);
        for (ptrdiff_t i = 0, rows; i < m; i += rows) {
            rows = even_part(m - i, block);
            product_block(rows, n, deep, (const real *)A + i * a_rs + k * a_cs, a_rs, a_cs,
                          (const real *)B + k * b_rs, b_rs, b_cs, packed, from, bias,
                          (real *)C + i * ldc, ldc, scratch);
        }
        from = FROM_C;
    }
}

#endif
