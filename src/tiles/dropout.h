/* Dropout. The mask is drawn by counter: it depends on an element's number in its matrix alone, not on
   blocks, vectors, threads or dtype. So the backward pass draws the same mask again instead of storing
   it. */
#ifndef TILES_DROPOUT_H
#define TILES_DROPOUT_H

#include "gemm.h"
#include "simd.h"

#define GOLDEN 0x9E3779B97F4A7C15u
#define DRAWS (VECTOR_BYTES / 8)

typedef uint64_t VDraws __attribute__((vector_size(VECTOR_BYTES)));

/* The finaliser of SplitMix64 (Steele et al. 2014) in each lane. */
ALWAYS_INLINE VDraws v_mix64(VDraws z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Draw `number` and the following ones. */
ALWAYS_INLINE VDraws draws_from(uint64_t key, uint64_t number) {
    VDraws counter;
    for (uint64_t k = 0; k < DRAWS; k++) counter[k] = key + (number + k + 1) * GOLDEN;
    return counter;
}

/* A (n,) <- X / (1 - rate) where kept, 0 elsewhere; element i has number `first` + i in its matrix.
   The lower 32 bits of draw k belong to number 2k, the upper ones to 2k + 1; elements with at least
   rate 2^32 are kept. A may be X. */
static void dropout(ptrdiff_t n, double rate, uint64_t key, uint64_t first, const void *X_,
                    void *A_) {
    const real *X = X_;
    real *A = A_;
    const uint64_t threshold = (uint64_t)(rate * 0x1p32);
    const real scale = (real)(1 / (1 - rate));
    const V scales = v_set(scale);
    ptrdiff_t i = 0;
    if (n > 0 && first % 2) {
        /* The second half of a draw, whose first half belongs to an earlier row. */
        const VDraws draws = v_mix64(draws_from(key, first / 2));
        A[0] = draws[0] >> 32 >= threshold ? X[0] * scale : 0;
        i = 1;
    }
    VDraws counters = draws_from(key, (first + 1) / 2);
    for (; i < n; i += 2 * DRAWS, counters += DRAWS * GOLDEN) {
        const VDraws draws = v_mix64(counters);
        const VI low = (VI)((draws & 0xFFFFFFFFu) >= threshold),
                 high = (VI)(draws >> 32 >= threshold);
#if REAL_IS_DOUBLE
        const VI masks[] = {ZIP(low, high, ZIP_LOW), ZIP(low, high, ZIP_HIGH)};
        for (int half = 0; half < 2; half++) {
            const ptrdiff_t j = i + half * LANES;
            if (j < n)
                store_lanes(A + j, (V)(masks[half] & (VI)(load_lanes(X + j, n - j) * scales)),
                            n - j);
        }
#else
        const VI upper = (VI)((VDraws){0} + 0xFFFFFFFF00000000u),
                 mask = (upper & high) | (~upper & low);
        store_lanes(A + i, (V)(mask & (VI)(load_lanes(X + i, n - i) * scales)), n - i);
#endif
    }
}

#endif
