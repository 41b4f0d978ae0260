/* Elementary functions over the vectors of simd.h. Every lane applies the same operations in the same
   order at any width, so builds with FMA are bitwise identical; there is no scalar tail, no approximate
   reciprocal and no call into libm. The polynomials are minimax fits; functions.h states the maximum
   errors. */
#ifndef TILES_VMATH_H
#define TILES_VMATH_H

#include "simd.h"

#if REAL_IS_DOUBLE
typedef uint64_t ureal;
#else
typedef uint32_t ureal;
#endif
/* Unsigned lanes, for shifts of biased exponents (AVX2 has no 64-bit arithmetic shift). */
typedef ureal VU __attribute__((vector_size(VECTOR_BYTES)));

#define V_INF v_set((real)__builtin_inf())
#define V_NAN v_set((real)__builtin_nan(""))
#define POLY(x, c) v_poly(x, c, (int)(sizeof(c) / sizeof(c[0])))

/* c[i] + c[i + 1] x, or c[i] if it is the last. */
static inline V v_pair(V x, const real *c, int i, int n) {
    return i + 1 < n ? v_fma(v_set(c[i + 1]), x, v_set(c[i])) : v_set(c[i]);
}

/* c[0] + c[1] x + ... + c[n - 1] x^(n - 1): Horner in x^2 over pairs of coefficients, which halves
   the chain of dependent operations. Unrolled, as n is constant at every call. */
static inline __attribute__((always_inline)) V v_poly(V x, const real *c, int n) {
    V square = x * x;
    int i = (n - 1) & ~1;
    V p = v_pair(x, c, i, n);
    UNROLL(16)
    for (i -= 2; i >= 0; i -= 2) p = v_fma(p, square, v_pair(x, c, i, n));
    return p;
}

#if REAL_IS_DOUBLE
#define MIN_NORMAL 0x1p-1022
#define SQRT_HALF_BITS 0x3fe6a09e667f3bcdu
#define EXP_MAX 710.0
#define EXP_MIN (-746.0)
#define EXPM1_MIN (-38.0)
#define TANH_MAX 20.0
#define ERF_MAX 6.0
#define CDF_MAX 38.6
#define CDF_CENTER 4.0
#define CDF_SLOPE 2.88
static const real LOG2_E = 1.4426950408889634, LN2_HI = 0x1.62e42fee00000p-1,
                  LN2_LO = 0x1.a39ef35793c76p-33;
/* (e^r - 1 - r) / r^2 for |r| <= ln(2)/2. */
static const real EXP_C[] = {0.50000000000000044,    0.16666666666666602,   0.041666666666583897,
                             0.0083333333333829515,  0.0013888888929701056, 0.00019841269731964525,
                             2.4801507155079548e-05, 2.755739698253375e-06, 2.7625389820737517e-07,
                             2.5056850250630358e-08};
/* (2 atanh(s) - 2s) / s^3 in s^2, for |s| <= (sqrt(2) - 1) / (sqrt(2) + 1). */
static const real LOG_C[] = {0.6666666666666734,  0.39999999999414149, 0.28571428742561489,
                             0.22222198548985217, 0.18183565917782649, 0.15314001560977183,
                             0.14796518223443475};
/* (2 atanh(t/2) - t) / t^3 in t^2, for |t| <= 2/3. */
static const real SOFTPLUS_C[] = {
    0.083333333333332885,   0.012500000000048991,   0.0022321428553057484,  0.00043402781183789007,
    8.8778047109731097e-05, 1.8782418739426909e-05, 4.0591443910502879e-06, 9.2360376847543721e-07,
    1.5909235302721217e-07, 8.1143385070804021e-08};
/* erf(x) / x - 1 in x^2, for |x| <= 1. */
static const real ERF_C[] = {
    0.12837916709551259,     -0.37612638903183748,   0.11283791670954885,
    -0.026866170645077878,   0.0052239776248284532,  -0.00085483269814267857,
    0.00012055331133000028,  -1.492559577322933e-05, 1.6461008494466949e-06,
    -1.6350396397945475e-07, 1.4660329888531877e-08, -1.1374960191373556e-09,
    5.9606927823784239e-11};
/* log(1 - erf(x)) for 1 <= x <= ERF_MAX. */
static const real LOG_ERFC_C[] = {
    1.7960245233378245e-08,  -1.1283794092269155,     -0.63661823716225185,
    -0.10277869655180925,    0.019145442700933397,    0.00017374977804996919,
    -0.0016388146044183658,  0.00051621329310037791,  5.100003596508551e-05,
    -0.00012961840635366056, 7.4726164310041039e-05,  -2.8581493365404079e-05,
    8.2961144805936279e-06,  -1.9001936903293218e-06, 3.4644806433388758e-07,
    -4.9924786616029007e-08, 5.5743202142382288e-09,  -4.6549732276641338e-10,
    2.736242568591424e-11,   -1.009328743816233e-12,  1.7564690884171977e-14};
/* (a + CDF_CENTER) e^(a^2 / 2) (the normal distribution function at -a) in
   (a - CDF_CENTER) / (a + CDF_CENTER), for 0 <= a <= CDF_MAX. */
static const real CDF_C[] = {
    0.7552851304157515,      -0.6078966419718921,     0.3871374007422144,
    -0.186521857959662,      0.06039657489083586,     -0.007540188966515402,
    -0.003479692364099198,   0.0016308184539892648,   0.00013334426833524625,
    -0.00023109490586869139, -1.9079381671133106e-06, 3.5144564434622096e-05,
    7.152560253632097e-07,   -5.919952876676549e-06,  -6.25755723456946e-07,
    1.0216727572813014e-06,  2.647597955820229e-07,   -1.5629924297872579e-07,
    -7.759207564566233e-08,  1.583165446706975e-08,   1.4712247003770828e-08,
    -2.605759598652324e-10,  -1.1889377845510186e-09};
#else
#define MIN_NORMAL 0x1p-126f
#define SQRT_HALF_BITS 0x3f3504f3u
#define EXP_MAX 89.0f
#define EXP_MIN (-104.0f)
#define EXPM1_MIN (-18.0f)
#define TANH_MAX 10.0f
#define ERF_MAX 4.0f
#define CDF_MAX 14.3f
#define CDF_CENTER 2.5f
#define CDF_SLOPE 1.85f
static const real LOG2_E = 1.44269504f, LN2_HI = 0x1.63p-1f, LN2_LO = -0x1.bd0106p-13f;
static const real EXP_C[] = {0.5f, 0.166665458f, 0.0416671250f, 0.00836631626f, 0.00138868940f};
static const real LOG_C[] = {0.666666656f, 0.400003356f, 0.285372749f, 0.235828623f};
static const real SOFTPLUS_C[] = {0.0833333445f, 0.0124996495f, 0.00223569295f, 0.000418511255f,
                                  0.000118655426f};
static const real ERF_C[] = {0.128379166f,   -0.376126271f,    0.112836002f,   -0.0268544451f,
                             0.00518953545f, -0.000802083676f, 7.88908956e-05f};
static const real LOG_ERFC_C[] = {-0.000341524818f, -1.12708918f,    -0.638144848f,  -0.103106740f,
                                  0.0218380561f,    -0.00294765614f, 0.000186378954f};
static const real CDF_C[] = {0.70665663f,     -0.43369213f,   0.13198775f,   0.009237318f,
                             -0.016391473f,   -0.0016073117f, 0.0025367287f, 0.0006974429f,
                             -0.00032180944f, -0.00016752035f};
#endif

/* r and n with x = n ln(2) + r and |r| <= ln(2)/2; n + bias is left in the low bits of *biased and
   the rounding error of r in *low. Adding 1.5 * 2^REAL_MANTISSA_BITS rounds to an integer without
   a conversion instruction. */
static inline V v_exp_reduce(V x, int bias, VU *biased, V *low) {
    const V magic = v_set((real)(1.5 * (double)((int64_t)1 << REAL_MANTISSA_BITS) + bias));
    V t = v_fma(x, v_set(LOG2_E), magic);
    V n = t - magic;
    V high = v_fnma(n, v_set(LN2_HI), x);
    V r = v_fnma(n, v_set(LN2_LO), high);
    *biased = (VU)t;
    *low = v_fnma(n, v_set(LN2_LO), high - r);
    return r;
}

/* e^(r + low) - 1 for |r| <= ln(2)/2 and a tiny low. */
static inline V v_expm1_reduced(V r, V low) { return r + v_fma(r * r, POLY(r, EXP_C), low); }

/* 2^n from n + REAL_MAX_EXPONENT; higher bits of the argument do not matter. */
static inline V v_power_of_two(VU biased) { return (V)(biased << REAL_MANTISSA_BITS); }

/* e^x without the upper clamp, for x known not to be far above EXP_MAX. 2^n is applied in two
   halves, so that results near overflow and subnormal ones are rounded once. */
static inline V v_exp_below(V x) {
    VU n;
    V low, r = v_exp_reduce(v_max(v_set(EXP_MIN), x), 2 * REAL_MAX_EXPONENT, &n, &low);
    VU half = n >> 1;
    V m = v_fma(r * r, POLY(r, EXP_C), r) + v_set(1);
    return m * v_power_of_two(half) * v_power_of_two(n - half);
}

/* e^x, subnormal results included. */
static inline V v_exp(V x) { return v_exp_below(v_min(v_set(EXP_MAX), x)); }

/* e^x - 1. */
static inline V v_expm1(V x) {
    VU n;
    V clamped = v_max(v_set(EXPM1_MIN), v_min(v_set(EXP_MAX), x));
    V low, r = v_exp_reduce(clamped, REAL_MAX_EXPONENT - 1, &n, &low);
    V e = v_expm1_reduced(r, low);
    /* Half the result first: 2^n itself may overflow where e^x does not. */
    V half_power = v_power_of_two(n);
    V half = v_fma(e, half_power, half_power - v_set((real)0.5));
    return v_select(v_abs(x) < v_set((real)0x1p-60), x, half + half);
}

/* log(1 + f) + k ln(2), for 1 + f from sqrt(1/2) to sqrt(2). */
static inline V v_log_reduced(V f, V k) {
    V s = f / (v_set(2) + f), z = s * s;
    V half_square = v_set((real)0.5) * f * f;
    V rest = v_fma(s, v_fma(z, POLY(z, LOG_C), half_square), k * v_set(LN2_LO));
    return v_fma(k, v_set(LN2_HI), f - (half_square - rest));
}

/* Splits positive normal x as m 2^k with m from sqrt(1/2) to sqrt(2); returns m - 1, and leaves
   k + REAL_MAX_EXPONENT in *biased. */
static inline V v_log_split(V x, VU *biased) {
    const VU one = (VU)v_set(1), sqrt_half = (VU){0} + (ureal)SQRT_HALF_BITS;
    const VU mantissa = (VU){0} + (((ureal)1 << REAL_MANTISSA_BITS) - 1);
    VU bits = (VU)x + (one - sqrt_half);
    *biased = bits >> REAL_MANTISSA_BITS;
    return (V)((bits & mantissa) + sqrt_half) - v_set(1);
}

/* The integer biased - offset as a real, exactly, for a biased exponent. */
static inline V v_exponent(VU biased, V offset) {
    const V magic = v_set((real)((int64_t)1 << REAL_MANTISSA_BITS));
    return (V)(biased | (VU)magic) - (magic + offset);
}

/* y, the logarithm of a, except where a is zero, negative, infinite or NaN. */
static inline V v_log_specials(V y, V a) {
    y = v_select(a > v_set(0), y, v_select(a == v_set(0), -V_INF, V_NAN));
    return v_select(a < V_INF, y, a);
}

/* log(x), subnormal x included. */
static inline V v_log(V x) {
    const V offset = v_set(REAL_MAX_EXPONENT), shift = v_set(REAL_MANTISSA_BITS);
    VI tiny = x < v_set(MIN_NORMAL);
    V scaled = v_select(tiny, x * v_set((real)((int64_t)1 << REAL_MANTISSA_BITS)), x);
    VU k;
    V f = v_log_split(scaled, &k);
    V y = v_log_reduced(f, v_exponent(k, v_select(tiny, offset + shift, offset)));
    return v_log_specials(y, x);
}

/* log(1 + x). */
static inline V v_log1p(V x) {
    const V one = v_set(1);
    V u = one + x, x_part = u - one;
    V lost = (one - (u - x_part)) + (x - x_part);
    VU k;
    V f = v_log_split(u, &k);
    /* 2^-k brings the rounding error of 1 + x to the scale of f; the largest k would make it
       -inf, and there the error does not matter. */
    V scale = v_max(v_set(0), v_power_of_two(2 * REAL_MAX_EXPONENT - k));
    V y = v_log_reduced(v_fma(lost, scale, f), v_exponent(k, v_set(REAL_MAX_EXPONENT)));
    return v_select(x == v_set(0), x, v_log_specials(y, u));
}

/* tanh(x) = m / (m + 2) with m = e^2|x| - 1. */
static inline V v_tanh(V x) {
    const V two = v_set(2);
    VU n;
    V a = v_min(v_set(TANH_MAX), v_abs(x));
    V low, r = v_exp_reduce(a + a, REAL_MAX_EXPONENT, &n, &low);
    V power = v_power_of_two(n);
    V m = v_fma(v_expm1_reduced(r, low), power, power - v_set(1));
    /* One Newton step removes the rounding errors of the sum and of the quotient. */
    V sum = m + two, lost = m - (sum - two);
    V inverse = v_set(1) / sum, q = m * inverse;
    q = v_fma(v_fnma(q, lost, v_fnma(q, sum, m)), inverse, q);
    return v_copysign(q, x);
}

/* erf(x). */
static inline V v_erf(V x) {
    V a = v_min(v_set(ERF_MAX), v_abs(x));
    V inner = v_fma(a, POLY(a * a, ERF_C), a);
    VU n;
    V low, r = v_exp_reduce(POLY(a, LOG_ERFC_C), REAL_MAX_EXPONENT, &n, &low);
    V e = v_fma(r * r, POLY(r, EXP_C), r);
    V power = v_power_of_two(n);
    V outer = v_fnma(e, power, v_set(1) - power);
    return v_copysign(v_select(a < v_set(1), inner, outer), x);
}

/* The rounding error of `square`, which is a * a rounded. */
static inline V v_square_error(V a, V square) {
#if SIMD_FMA
    return v_fma(a, a, -square);
#else
    /* The high half of the mantissa has an exact square, and an exact product with the rest. */
    V high = v_from_bits(v_bits(a) & v_set_int(-((ireal)1 << (REAL_MANTISSA_BITS / 2 + 1))));
    V rest = a - high;
    return rest * rest - ((square - high * high) - (high + high) * rest);
#endif
}

/* The normal distribution function; for z < 0 with a small relative error, down to subnormals. */
static inline V v_normal_cdf(V z) {
    const V one = v_set(1), half = v_set((real)0.5), center = v_set(CDF_CENTER);
    V a = v_min(v_set(CDF_MAX), v_abs(z)), square = a * a;
    VU n;
    V low, r = v_exp_reduce(-half * square, 2 * REAL_MAX_EXPONENT, &n, &low);
    V sum = a + center, inverse = one / sum;
    V g = inverse * POLY(v_fnma(center + center, inverse, one), CDF_C);
    /* e^r also makes up for the relative error of `inverse`: for small a, where it matters most,
       it is in g about CDF_SLOPE times over. */
    V lost = v_fnma(inverse, a - (sum - center), v_fnma(inverse, sum, one));
    low = v_fnma(half, v_square_error(a, square), low);
    r = r + v_fma(v_set(CDF_SLOPE), lost, low);
    V m = v_fma(v_fma(r * r, POLY(r, EXP_C), r), g, g);
    VU half_n = n >> 1;
    V tail = m * v_power_of_two(half_n) * v_power_of_two(n - half_n);
    return v_select(z < v_set(0), tail, one - tail);
}

/* 1 / (1 + e^-x), down to subnormals like e^x. */
static inline V v_sigmoid(V x) {
    const V one = v_set(1);
    V e = v_exp_below(-v_abs(x));
    return v_select(x < v_set(0), e, one) / (one + e);
}

/* log(1 + e^x) = max(x, 0) + 2 atanh(e / (2 + e)) with e = e^-|x|. */
static inline V v_softplus(V x) {
    V e = v_exp_below(-v_abs(x));
    V t = (e + e) / (v_set(2) + e), z = t * t;
    return v_max(v_set(0), x) + v_fma(t * z, POLY(z, SOFTPLUS_C), t);
}

#endif
