/* The tiles of one instruction set and dtype. Built once for each, with ISA (a name such as avx2)
   and REAL_IS_DOUBLE defined; everything but the table is static. */
#include "activations.h"
#include "dropout.h"
#include "functions.h"
#include "gemm.h"
#include "normalise.h"
#include "layers.h"
#include "losses.h"
#include "optimizers.h"
#include "product.h"
#include "sparse.h"
#include "tiles.h"

#define PASTE_(a, b, c) a##b##c
#define PASTE(a, b, c) PASTE_(a, b, c)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

#if REAL_IS_DOUBLE
#define TABLE PASTE(tiles_, ISA, _f64)
#else
#define TABLE PASTE(tiles_, ISA, _f32)
#endif

extern const tile_table TABLE;
const tile_table TABLE = {
    .isa = TEXT(ISA),
    .item_size = sizeof(real),
    .product_scratch = PRODUCT_SCRATCH,
    .product = product,
    .fetch = fetch,
    .column_sums = column_sums,
    .all_finite = all_finite,
    .multiply_add_rounds = multiply_add_rounds,
    .sum_of_squares = sum_of_squares,
    .sparse_product = sparse_product,
    .sparse_transpose = sparse_transpose,
    .sparse_to_dense = sparse_to_dense,
    .dropout = dropout,
    .column_moments = column_moments,
    .norm_sums = norm_sums,
    .norm_forward = norm_forward,
    .norm_backward = norm_backward,
    .layer_norm = layer_norm,
    .layer_norm_backward = layer_norm_backward,
    .layer_norm_sums = layer_norm_sums,
    .maxout = maxout,
    .maxout_backward = maxout_backward,
    .prelu = prelu,
    .prelu_sums = prelu_sums,
    .rrelu = rrelu,
    .add = add,
    .scale = scale,
    .clamp = clamp,
    .noisy = noisy,
    .activations = activation_table,
    .losses = loss_table,
    .links = link_table,
    .optimizers = optimizer_table,
    .penalties = penalty_table,
    .functions = function_table,
};
