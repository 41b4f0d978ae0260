/* The interface of the tiles: one table for each instruction set and dtype.

   A tile is serial work on memory that the caller owns: no allocation, no threads, no state.
   `void *` points to float or double, according to the item_size of the table; strides and counts
   are in elements. Everything else is static, so that the linker never merges a function with its
   counterpart for another instruction set. */
#ifndef TILES_TILES_H
#define TILES_TILES_H

#include <stddef.h>
#include <stdint.h>

/* Rows of a sparse matrix. Stored row r has entries indptr[r] to indptr[r + 1] of indices (columns,
   ascending) and values (real). Row i of the matrix is stored row rows[i], or i if rows is NULL. */
typedef struct {
    const int64_t *indptr;
    const int64_t *indices;
    const void *values;
    const int64_t *rows;
} tile_csr;

/* The proximal step of the penalty, at the end of an update. */
enum { PROXIMAL_NONE = 0, PROXIMAL_SOFT = 1, PROXIMAL_HARD = 2 };

/* The numbers of one update: the rule's constants c for this step, and the penalty's part. */
typedef struct {
    double c[8];
    double rate;      /* learning rate of the proximal step */
    double decay;     /* g + decay * w is the gradient of the rule */
    double threshold; /* of the proximal step */
    int proximal;
    int weight; /* 1: w is a weight, 0: a bias */
} tile_update;

/* forward: A = f(Z); derivative: D *= f'(Z); backward: D *= f' from the array that the forward pass
   saved: A, or Z if saves_z. All arrays (n,); A may be Z. */
typedef struct {
    const char *name;
    int saves_z;
    void (*forward)(ptrdiff_t n, double parameter, const void *Z, void *A);
    void (*derivative)(ptrdiff_t n, double parameter, const void *Z, void *D);
    void (*backward)(ptrdiff_t n, double parameter, const void *saved, void *D);
} tile_activation;

/* loss: Y, Z, D (m, n); classes (m,) replaces Y unless NULL; row_scale (m,) is the weight of each row
   in the mean; row_loss (m,) is not scaled. */
typedef struct {
    const char *name;
    void (*loss)(ptrdiff_t m, ptrdiff_t n, double parameter, const void *Y, const int64_t *classes,
                 const void *Z, const double *row_scale, void *D, double *row_loss);
} tile_loss;

/* link: A = link(Z), both (m, n). */
typedef struct {
    const char *name;
    void (*link)(ptrdiff_t m, ptrdiff_t n, const void *Z, void *A);
} tile_link;

/* prepare: compute the constants c and rate from hyperparameters h, learning rate and step t (from 1).
   update: W, S0, S1 (m, n) of row stride ldw, in place; the gradient is G (m, n) of row stride ldg or,
   unless A is NULL, the outer product of A (m,) and G (n,). */
typedef struct {
    const char *name;
    int n_hyperparameters;
    int n_states;
    void (*prepare)(const double *h, double learning_rate, double t, tile_update *u);
    void (*update)(const tile_update *u, ptrdiff_t m, ptrdiff_t n, void *W, ptrdiff_t ldw,
                   const void *G, ptrdiff_t ldg, const void *A, void *S0, void *S1);
} tile_optimizer;

/* prepare: set the penalty's part of an update whose rate is set, from strength, mix and, if
   needs_norm, the norm of the whole matrix. value: the contribution of a row w (n,) to the penalty of
   strength 1; NULL if needs_norm, where the penalty is the norm. */
typedef struct {
    const char *name;
    int needs_norm;
    void (*prepare)(double alpha, double mix, double norm, tile_update *u);
    double (*value)(ptrdiff_t n, double mix, const void *w);
} tile_penalty;

/* The statistics of normalised columns, (n,) each: X_hat = (X - mean) inverse, the correction
   r X_hat + d, and the sums over the batch of D and D X_hat. */
typedef struct {
    double *mean;
    double *inverse;
    double *r;
    double *d;
    double *sum_D;
    double *sum_DX;
} tile_norm;

/* apply: Y = f(X), both (n,); Y may be X. max_ulp: the stated maximum error. */
typedef struct {
    const char *name;
    double max_ulp;
    void (*apply)(ptrdiff_t n, const void *X, void *Y);
} tile_function;

typedef struct {
    const char *isa;
    int item_size;
    ptrdiff_t product_scratch; /* elements of scratch memory that `product` needs */

#define TILE(result, name, parameters) result(*name) parameters;
#include "table.h"
#undef TILE

    const tile_activation *activations;
    const tile_loss *losses;
    const tile_link *links;
    const tile_optimizer *optimizers;
    const tile_penalty *penalties;
    const tile_function *functions;
} tile_table;

/* Every list in a table ends with a row whose name is NULL. */

#endif
