/* One vector type per build. The including file is compiled once per dtype (REAL_IS_DOUBLE) and
   instruction set. Arithmetic and comparisons use the compiler's vector operators; intrinsics are used
   only for the rest. */
#ifndef TILES_SIMD_H
#define TILES_SIMD_H

#include <stddef.h>
#include <stdint.h>

#if REAL_IS_DOUBLE
typedef double real;
typedef int64_t ireal;
#define REAL_MANTISSA_BITS 52
#define REAL_MAX_EXPONENT 1023
#else
typedef float real;
typedef int32_t ireal;
#define REAL_MANTISSA_BITS 23
#define REAL_MAX_EXPONENT 127
#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define VECTOR_BYTES 64
#define SIMD_PREFIX _mm512_
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#define SIMD_PREFIX _mm256_
#else
#define VECTOR_BYTES 16
#define SIMD_PREFIX _mm_
#endif

#if defined(__aarch64__) && defined(__ARM_NEON)
#define TILES_NEON 1
#else
#define TILES_NEON 0
#endif

#if defined(__SSE2__)
#include <immintrin.h>
#define SIMD_X86 1
#if REAL_IS_DOUBLE
#define SIMD_SUFFIX _pd
#else
#define SIMD_SUFFIX _ps
#endif
#define SIMD_PASTE(prefix, name, suffix) prefix##name##suffix
#define SIMD_EXPAND(prefix, name, suffix) SIMD_PASTE(prefix, name, suffix)
/* The intrinsic called `name` for this build's width and dtype. */
#define SIMD(name) SIMD_EXPAND(SIMD_PREFIX, name, SIMD_SUFFIX)
#elif TILES_NEON
#include <arm_neon.h>
#define SIMD_X86 0
/* The intrinsic called `name` for this build's dtype. */
#if REAL_IS_DOUBLE
#define NEON(name) name##_f64
#else
#define NEON(name) name##_f32
#endif
#else
#define SIMD_X86 0
#endif

/* Whether v_fma rounds once. */
#if defined(__FMA__) || TILES_NEON
#define SIMD_FMA 1
#else
#define SIMD_FMA 0
#endif

/* Fully unroll the next loop, which has at most n rounds. */
#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define UNROLL(n) PRAGMA(clang loop unroll(full))
#else
#define UNROLL(n) PRAGMA(GCC unroll n)
#endif

#define LANES (VECTOR_BYTES / (REAL_IS_DOUBLE ? 8 : 4))

typedef real V __attribute__((vector_size(VECTOR_BYTES)));
typedef ireal VI __attribute__((vector_size(VECTOR_BYTES)));
typedef real VUnaligned
    __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

/* x in every lane. */
static inline V v_set(real x) {
#if SIMD_X86
    return SIMD(set1)(x);
#elif TILES_NEON
    return NEON(vdupq_n)(x);
#else
    V v;
    for (int i = 0; i < LANES; i++) v[i] = x;
    return v;
#endif
}

/* The integer x in every lane. */
static inline VI v_set_int(ireal x) { return (VI){0} + x; }

/* The LANES elements at p, which may be unaligned. */
static inline V v_load(const real *p) { return *(const VUnaligned *)p; }

/* Write the LANES elements at p, which may be unaligned. */
static inline void v_store(real *p, V v) { *(VUnaligned *)p = v; }

#if VECTOR_BYTES == 32
/* Lanes below n are all ones. */
static inline VI v_first_lanes(ptrdiff_t n) {
#if REAL_IS_DOUBLE
    const VI lane = {0, 1, 2, 3};
#else
    const VI lane = {0, 1, 2, 3, 4, 5, 6, 7};
#endif
    return lane < v_set_int((ireal)n);
}
#endif

/* The n elements at p (0 < n <= LANES), zero in the other lanes; reads nothing beyond them. */
static inline V v_load_partial(const real *p, ptrdiff_t n) {
#if VECTOR_BYTES == 64
    return SIMD(maskz_loadu)((1u << n) - 1, p);
#elif VECTOR_BYTES == 32
    return SIMD(maskload)(p, (__m256i)v_first_lanes(n));
#else
    V v = {0};
    UNROLL(4)
    for (int i = 0; i < LANES; i++)
        if (i < n) v[i] = p[i];
    return v;
#endif
}

/* Write the first n lanes (0 < n <= LANES) to p, and nothing beyond them. */
static inline void v_store_partial(real *p, V v, ptrdiff_t n) {
#if VECTOR_BYTES == 64
    SIMD(mask_storeu)(p, (1u << n) - 1, v);
#elif VECTOR_BYTES == 32
    SIMD(maskstore)(p, (__m256i)v_first_lanes(n), v);
#else
    real lanes[LANES];
    v_store(lanes, v);
    __builtin_memcpy(p, lanes, (size_t)n * sizeof(real));
#endif
}

/* a * b + c: rounded once where the instruction set has FMA, otherwise twice. */
static inline V v_fma(V a, V b, V c) {
#if TILES_NEON
    return NEON(vfmaq)(c, a, b);
#elif SIMD_FMA
    return SIMD(fmadd)(a, b, c);
#else
    return a * b + c;
#endif
}

/* c - a * b: rounded once where the instruction set has FMA, otherwise twice. */
static inline V v_fnma(V a, V b, V c) {
#if TILES_NEON
    return NEON(vfmsq)(c, a, b);
#elif SIMD_FMA
    return SIMD(fnmadd)(a, b, c);
#else
    return c - a * b;
#endif
}

#if VECTOR_BYTES == 64
/* Half vectors, for the few columns at the end of a matrix. */
#define HALF_LANES (LANES / 2)
#define HALF(name) SIMD_EXPAND(_mm256_, name, SIMD_SUFFIX)
typedef real H __attribute__((vector_size(32)));
static inline H h_set(real x) { return HALF(set1)(x); }
static inline H h_load_partial(const real *p, ptrdiff_t n) {
    return HALF(maskz_loadu)((__mmask8)((1u << n) - 1), p);
}
static inline void h_store_partial(real *p, H v, ptrdiff_t n) {
    HALF(mask_storeu)(p, (__mmask8)((1u << n) - 1), v);
}
static inline H h_fma(H a, H b, H c) { return HALF(fmadd)(a, b, c); }
#else
#define HALF_LANES 0
#endif

/* Make the compiler assume that the value in the register is used and changed. */
#if defined(__x86_64__)
#define KEEP_IN_REGISTER(v) __asm__ volatile("" : "+v"(v))
#else
#define KEEP_IN_REGISTER(v) __asm__ volatile("" : "+w"(v))
#endif

/* The bits of a as integers. */
static inline VI v_bits(V a) { return (VI)a; }

/* The floating-point lanes whose bits are a. */
static inline V v_from_bits(VI a) { return (V)a; }

/* mask ? a : b in each lane; a mask lane is all ones or all zeros, as comparisons give. */
static inline V v_select(VI mask, V a, V b) {
#if VECTOR_BYTES == 64
    return (V)_mm512_ternarylogic_epi64((__m512i)mask, (__m512i)a, (__m512i)b, 0xca);
#elif VECTOR_BYTES == 32
    return SIMD(blendv)(b, a, (V)mask);
#elif TILES_NEON && REAL_IS_DOUBLE
    return vbslq_f64((uint64x2_t)mask, a, b);
#elif TILES_NEON
    return vbslq_f32((uint32x4_t)mask, a, b);
#else
    return (V)((mask & (VI)a) | (~mask & (VI)b));
#endif
}

/* Whether any lane of a comparison's mask is set. */
static inline int v_any(VI mask) {
#if VECTOR_BYTES == 64 && REAL_IS_DOUBLE
    return _mm512_movepi64_mask((__m512i)mask) != 0;
#elif VECTOR_BYTES == 64
    return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif SIMD_X86
    return SIMD(movemask)((V)mask) != 0;
#elif TILES_NEON
    return vmaxvq_u32((uint32x4_t)mask) != 0;
#else
    ireal any = 0;
    for (int i = 0; i < LANES; i++) any |= mask[i];
    return any != 0;
#endif
}

#if !SIMD_X86
/* v_select, opaque to Clang, which would turn a comparison and a select into a maximum, although the two
   differ for zeros of opposite signs. */
static inline V v_choose(VI mask, V a, V b) {
#if TILES_NEON && defined(__clang__)
    __asm__("" : "+w"(mask));
#endif
    return v_select(mask, a, b);
}
#endif

/* a > b ? a : b, hence b if they compare equal or either is NaN. Pass the operand whose NaN must
   propagate second, as in v_max(v_set(0), x). The maximum of NEON would propagate NaN of both. */
static inline V v_max(V a, V b) {
#if SIMD_X86
    return SIMD(max)(a, b);
#else
    return v_choose(a > b, a, b);
#endif
}

/* a < b ? a : b, hence b if they compare equal or either is NaN. */
static inline V v_min(V a, V b) {
#if SIMD_X86
    return SIMD(min)(a, b);
#else
    return v_choose(a < b, a, b);
#endif
}

/* The sign bit of each lane. */
static inline VI v_sign_bit(V a) {
    return (VI)a & v_set_int((ireal)((uint64_t)1 << (sizeof(real) * 8 - 1)));
}

/* |a|, NaN included. */
static inline V v_abs(V a) { return (V)((VI)a ^ v_sign_bit(a)); }

/* The magnitude of a with the sign of b. */
static inline V v_copysign(V a, V b) { return (V)((VI)v_abs(a) | v_sign_bit(b)); }

/* The square root, correctly rounded. */
static inline V v_sqrt(V a) {
#if SIMD_X86
    return SIMD(sqrt)(a);
#elif TILES_NEON
    return NEON(vsqrtq)(a);
#elif REAL_IS_DOUBLE
    for (int i = 0; i < LANES; i++) a[i] = __builtin_sqrt(a[i]);
    return a;
#else
    for (int i = 0; i < LANES; i++) a[i] = __builtin_sqrtf(a[i]);
    return a;
#endif
}

/* Interleave two vectors: a0 b0 a1 b1 ... of their first halves, or of their second. */
#if VECTOR_BYTES / (REAL_IS_DOUBLE ? 8 : 4) == 16
#define ZIP_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define ZIP_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif VECTOR_BYTES / (REAL_IS_DOUBLE ? 8 : 4) == 8
#define ZIP_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define ZIP_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#elif VECTOR_BYTES / (REAL_IS_DOUBLE ? 8 : 4) == 4
#define ZIP_LOW 0, 4, 1, 5
#define ZIP_HIGH 2, 6, 3, 7
#else
#define ZIP_LOW 0, 2
#define ZIP_HIGH 1, 3
#endif
#if defined(__clang__)
#define ZIP(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define ZIP(a, b, ...) __builtin_shuffle(a, b, (VI){__VA_ARGS__})
#endif

/* x (LANES rows of a square) <- its transpose: log2(LANES) rounds of interleaving the two halves. */
static inline __attribute__((always_inline)) void v_transpose(V *x) {
    V y[LANES];
    UNROLL(4)
    for (int round = 1; round < LANES; round *= 2) {
        UNROLL(8)
        for (int i = 0; i < LANES / 2; i++) {
            y[2 * i] = ZIP(x[i], x[i + LANES / 2], ZIP_LOW);
            y[2 * i + 1] = ZIP(x[i], x[i + LANES / 2], ZIP_HIGH);
        }
        UNROLL(16)
        for (int i = 0; i < LANES; i++) x[i] = y[i];
    }
}

/* Each lane truncated to an integer, which must fit; slow for double below AVX-512. */
static inline VI v_to_int(V a) { return __builtin_convertvector(a, VI); }

#endif
