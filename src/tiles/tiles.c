/* The tiles of one instruction set and dtype. Built once for each, with ISA (a name such as avx2)
   and REAL_IS_DOUBLE defined; everything but the table is static. */
#include "activations.h"
#include "gemm.h"
#include "losses.h"
#include "optimizers.h"
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
    TEXT(ISA),        sizeof(real), TILE_ROWS,  TILE_COLUMNS,    pack,         gemm,
    column_sums,      sum_of_squares,
    activation_table, loss_table,   link_table, optimizer_table, penalty_table,
};
