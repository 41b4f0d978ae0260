/* The elementary functions of vmath.h over arrays, with their stated maximum errors: one row of
   FUNCTIONS each, verified by tests/native/test_vmath.py. */
#ifndef TILES_FUNCTIONS_H
#define TILES_FUNCTIONS_H

#include "simd.h"
#include "tiles.h"
#include "vmath.h"

/* name, and the maximum error in units in the last place of the result, with FMA and without, for float
   and double: the largest found among all floats of the relevant ranges and tens of millions of
   doubles, rounded up. */
#define FUNCTIONS(ROW)                                                                             \
    ROW(exp, 1.1, 1.1)                                                                             \
    ROW(expm1, 1.9, 2.0) ROW(log, 0.9, 0.9) ROW(log1p, 1.5, 1.5) ROW(tanh, 1.8, 2.6)               \
        ROW(erf, 1.3, 1.5) ROW(sigmoid, 2.5, 2.5) ROW(softplus, 3.0, 3.0)                          \
            ROW(normal_cdf, 5.5, 7.0)

#define FUNCTION_LOOP(name, fused, unfused)                                                        \
    static void name##_function(ptrdiff_t n, const void *X_, void *Y_) {                           \
        const real *X = X_;                                                                        \
        real *Y = Y_;                                                                              \
        ptrdiff_t i = 0;                                                                           \
        for (; i + LANES <= n; i += LANES) v_store(Y + i, v_##name(v_load(X + i)));                \
        if (i < n) v_store_partial(Y + i, v_##name(v_load_partial(X + i, n - i)), n - i);          \
    }

FUNCTIONS(FUNCTION_LOOP)

#define FUNCTION_ROW(name, fused, unfused) {#name, SIMD_FMA ? fused : unfused, name##_function},

static const tile_function function_table[] = {FUNCTIONS(FUNCTION_ROW){NULL, 0, NULL}};

#endif
