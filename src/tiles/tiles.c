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
#define TILE(result, name, parameters) .name = name,
#include "table.h"
#undef TILE
    .activations = activation_table,
    .losses = loss_table,
    .links = link_table,
    .optimizers = optimizer_table,
    .penalties = penalty_table,
    .functions = function_table,
};
