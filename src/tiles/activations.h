/* The activations, element by element: one row of the table each.

   A row is three functions of one vector: f(Z), its derivative from Z, and its derivative from the
   value that the forward pass saved: A if that is enough, otherwise Z. To add one, write the three
   functions and add a row to ACTIVATIONS. */
#ifndef TILES_ACTIVATIONS_H
#define TILES_ACTIVATIONS_H

#include "gemm.h"
#include "simd.h"
#include "tiles.h"
#include "vmath.h"

#define ONE v_set(1)
#define ZERO ((V){0})
#define SELU_SCALE ((real)1.0507009873554804934193349852946)
#define SELU_ALPHA ((real)1.6732632423543772848170429916717)

/* clang-format off: a function a line reads as a table. */
ALWAYS_INLINE V identity_f(V z, V p) {
    (void)p;
    return z;
}
ALWAYS_INLINE V identity_d(V z, V p) {
    (void)z;
    (void)p;
    return ONE;
}
ALWAYS_INLINE V identity_s(V a, V p) {
    (void)a;
    (void)p;
    return ONE;
}

ALWAYS_INLINE V sigmoid_f(V z, V p) {
    (void)p;
    return v_sigmoid(z);
}
ALWAYS_INLINE V sigmoid_d(V z, V p) {
    (void)p;
    return v_sigmoid(z) * v_sigmoid(-z);
}
ALWAYS_INLINE V sigmoid_s(V a, V p) {
    (void)p;
    return v_fnma(a, a, a);
}

ALWAYS_INLINE V tanh_s(V a, V p) {
    (void)p;
    return v_fnma(a, a, ONE);
}
ALWAYS_INLINE V tanh_f(V z, V p) {
    (void)p;
    return v_tanh(z);
}
ALWAYS_INLINE V tanh_d(V z, V p) { return tanh_s(v_tanh(z), p); }

/* v_max returns its second operand if that is NaN. */
ALWAYS_INLINE V relu_f(V z, V p) {
    (void)p;
    return v_max(ZERO, z);
}
ALWAYS_INLINE V relu_d(V z, V p) {
    (void)p;
    return v_select(z > ZERO, ONE, ZERO);
}
ALWAYS_INLINE V relu_s(V a, V p) { return relu_d(a, p); }

ALWAYS_INLINE V leaky_relu_f(V z, V slope) { return v_select(z > ZERO, z, slope * z); }
ALWAYS_INLINE V leaky_relu_d(V z, V slope) { return v_select(z > ZERO, ONE, slope); }
ALWAYS_INLINE V leaky_relu_s(V a, V slope) { return leaky_relu_d(a, slope); }

ALWAYS_INLINE V elu_f(V z, V alpha) { return v_select(z > ZERO, z, alpha * v_expm1(z)); }
ALWAYS_INLINE V elu_d(V z, V alpha) { return v_select(z > ZERO, ONE, alpha * v_exp(z)); }
ALWAYS_INLINE V elu_s(V a, V alpha) { return v_select(a > ZERO, ONE, a + alpha); }

ALWAYS_INLINE V selu_f(V z, V p) {
    (void)p;
    return v_set(SELU_SCALE) * elu_f(z, v_set(SELU_ALPHA));
}
ALWAYS_INLINE V selu_d(V z, V p) {
    (void)p;
    return v_set(SELU_SCALE) * elu_d(z, v_set(SELU_ALPHA));
}
ALWAYS_INLINE V selu_s(V a, V p) {
    (void)p;
    return v_select(a > ZERO, v_set(SELU_SCALE), a + v_set(SELU_SCALE * SELU_ALPHA));
}

ALWAYS_INLINE V gelu_f(V z, V p) {
    (void)p;
    return z * v_normal_cdf(z);
}
ALWAYS_INLINE V gelu_d(V z, V p) {
    (void)p;
    const V density = v_exp(v_set((real)-0.5) * z * z) * v_set((real)0.39894228040143267794);
    return v_fma(z, density, v_normal_cdf(z));
}
ALWAYS_INLINE V gelu_s(V z, V p) { return gelu_d(z, p); }

ALWAYS_INLINE V silu_f(V z, V p) {
    (void)p;
    return z * v_sigmoid(z);
}
ALWAYS_INLINE V silu_d(V z, V p) {
    (void)p;
    return v_sigmoid(z) * v_fma(z, v_sigmoid(-z), ONE);
}
ALWAYS_INLINE V silu_s(V z, V p) { return silu_d(z, p); }

ALWAYS_INLINE V softplus_f(V z, V p) {
    (void)p;
    return v_softplus(z);
}
ALWAYS_INLINE V softplus_d(V z, V p) {
    (void)p;
    return v_sigmoid(z);
}
ALWAYS_INLINE V softplus_s(V z, V p) { return softplus_d(z, p); }

/* clang-format on */

/* name, and whether the forward pass saves Z (1) or A (0). */
#define ACTIVATIONS(ROW)                                                                           \
    ROW(identity, 0)                                                                               \
    ROW(sigmoid, 0) ROW(tanh, 0) ROW(relu, 0) ROW(leaky_relu, 0) ROW(elu, 0) ROW(selu, 0)          \
        ROW(gelu, 1) ROW(silu, 1) ROW(softplus, 1)

/* The loops over n elements; the tail uses the same vector code. */
#define ACTIVATION_LOOPS(name, saves_z)                                                            \
    static void name##_forward(ptrdiff_t n, double parameter, const void *Z_, void *A_) {          \
        const real *Z = Z_;                                                                        \
        real *A = A_;                                                                              \
        const V p = v_set((real)parameter);                                                        \
        ptrdiff_t i = 0;                                                                           \
        for (; i + LANES <= n; i += LANES) v_store(A + i, name##_f(v_load(Z + i), p));             \
        if (i < n) v_store_partial(A + i, name##_f(v_load_partial(Z + i, n - i), p), n - i);       \
    }                                                                                              \
    ACTIVATION_PRODUCT(name, derivative, name##_d)                                                 \
    ACTIVATION_PRODUCT(name, backward, name##_s)

#define ACTIVATION_PRODUCT(name, kind, function)                                                   \
    static void name##_##kind(ptrdiff_t n, double parameter, const void *S_, void *D_) {           \
        const real *S = S_;                                                                        \
        real *D = D_;                                                                              \
        const V p = v_set((real)parameter);                                                        \
        ptrdiff_t i = 0;                                                                           \
        for (; i + LANES <= n; i += LANES)                                                         \
            v_store(D + i, v_load(D + i) * function(v_load(S + i), p));                            \
        if (i < n) {                                                                               \
            const V d = v_load_partial(D + i, n - i);                                              \
            v_store_partial(D + i, d * function(v_load_partial(S + i, n - i), p), n - i);          \
        }                                                                                          \
    }

ACTIVATIONS(ACTIVATION_LOOPS)

#define ACTIVATION_ROW(name, saves_z)                                                              \
    {#name, saves_z, name##_forward, name##_derivative, name##_backward},

static const tile_activation activation_table[] = {
    ACTIVATIONS(ACTIVATION_ROW){NULL, 0, NULL, NULL, NULL}};

#endif
