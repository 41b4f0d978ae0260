/* What the tiles offer to the frame: one table for each instruction set and dtype.

   A tile is serial work on memory that the caller owns: no allocation, no threads, no state.
   `void *` points to float or double, as the table's item_size says; strides and counts are in
   elements. Nothing here may be reached but through the tables: a function compiled for one
   instruction set must never be merged with its twin. */
#ifndef TILES_TILES_H
#define TILES_TILES_H

#include <stddef.h>
#include <stdint.h>

/* Rows of a sparse matrix. Those in memory, numbered from 0, hold entries indptr[r] to indptr[r + 1]
   of indices (columns, ascending) and values (real); row i of what is meant is row rows[i] of them,
   or row i where rows is NULL. */
typedef struct {
    const int64_t *indptr;
    const int64_t *indices;
    const void *values;
    const int64_t *rows;
} tile_csr;

/* How the penalty's proximal step ends an update. */
enum { PROXIMAL_NONE = 0, PROXIMAL_SOFT = 1, PROXIMAL_HARD = 2 };

/* The numbers of one update: the rule's constants c for this step, and the penalty's part. */
typedef struct {
    double c[8];
    double rate;      /* what the proximal step takes for the learning rate */
    double decay;     /* g + decay * w is the gradient of the rule */
    double threshold; /* of the proximal step */
    int proximal;
    int weight; /* 1: w is a weight, 0: a bias */
} tile_update;

/* f: A = f(Z); derivative: D *= f'(Z); backward: D *= f' from what the forward pass saved, which
   is A, or Z where saves_z. All (n,) arrays; A may be Z. */
typedef struct {
    const char *name;
    int saves_z;
    void (*forward)(ptrdiff_t n, double parameter, const void *Z, void *A);
    void (*derivative)(ptrdiff_t n, double parameter, const void *Z, void *D);
    void (*backward)(ptrdiff_t n, double parameter, const void *saved, void *D);
} tile_activation;

/* loss: Y, Z, D (m, n); classes (m,) in place of Y where given; row_scale (m,) is what each row
   counts in the mean, row_loss (m,) comes out unscaled. */
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

/* prepare: from hyperparameters h, learning rate and step t (from 1) to the constants c and rate.
   update: W, S0, S1 (m, n) of row stride ldw, in place; G (m, n) of row stride ldg, or where A (m,)
   is given, the outer product of A and G (n,). */
typedef struct {
    const char *name;
    int n_hyperparameters;
    int n_states;
    void (*prepare)(const double *h, double learning_rate, double t, tile_update *u);
    void (*update)(const tile_update *u, ptrdiff_t m, ptrdiff_t n, void *W, ptrdiff_t ldw,
                   const void *G, ptrdiff_t ldg, const void *A, void *S0, void *S1);
} tile_optimizer;

/* prepare: the penalty's part of an update whose rate is set, from its strength and mix and, where
   needs_norm, the norm of the whole matrix. value: what a row w (n,) adds to the penalty of strength
   1; where needs_norm it is the norm, and value is NULL. */
typedef struct {
    const char *name;
    int needs_norm;
    void (*prepare)(double alpha, double mix, double norm, tile_update *u);
    double (*value)(ptrdiff_t n, double mix, const void *w);
} tile_penalty;

/* How columns are normalised, (n,) each: X_hat = (X - mean) inverse, the correction r X_hat + d, and
   the sums over the batch of D and D X_hat. */
typedef struct {
    double *mean;
    double *inverse;
    double *r;
    double *d;
    double *sum_D;
    double *sum_DX;
} tile_norm;

/* Y = f(X), both (n,), Y may be X; max_ulp: the stated maximum error. */
typedef struct {
    const char *name;
    double max_ulp;
    void (*apply)(ptrdiff_t n, const void *X, void *Y);
} tile_function;

typedef struct {
    const char *isa;
    int item_size;
    ptrdiff_t product_scratch; /* elements that `product` needs */

    /* C (m, n) <- [bias (n,) +] A (m, depth) B (depth, n), each element summed over depth in order.
       One stride of A is 1, and one of B; scratch is the caller's, of product_scratch elements. */
    void (*product)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t depth, const void *A, ptrdiff_t a_rs,
                    ptrdiff_t a_cs, const void *B, ptrdiff_t b_rs, ptrdiff_t b_cs, const void *bias,
                    void *C, ptrdiff_t ldc, void *scratch);
    /* Asks for W (m, n) of row stride ldw to be brought near. */
    void (*fetch)(ptrdiff_t m, ptrdiff_t n, const void *W, ptrdiff_t ldw);
    /* out (n,) <- the sum of D's rows (m, n) in order. */
    void (*column_sums)(ptrdiff_t m, ptrdiff_t n, const void *D, ptrdiff_t ldd, void *out);
    /* Whether no element of x (n,) is infinite or NaN. */
    int (*all_finite)(ptrdiff_t n, const void *x);
    /* n rounds of independent multiply-adds in registers, to time; returns how many. */
    double (*multiply_add_rounds)(ptrdiff_t n);
    /* The sum of the squares of w (n,), in double, in an order that n alone decides. */
    double (*sum_of_squares)(ptrdiff_t n, const void *w);

    /* C (m, n) <- [bias +] X (m, depth) B (depth, n) for a sparse X: the bits of gemm with its
       zeros, where B is finite. */
    void (*sparse_product)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t depth, const tile_csr *X,
                           const void *B, ptrdiff_t ldb, const void *bias, void *C, ptrdiff_t ldc);
    /* The transpose of a sparse X (m, n), into starts (n + 2,), of which the last is not used, and
       memory for as many indices and values as X has. */
    void (*sparse_transpose)(ptrdiff_t m, ptrdiff_t n, const tile_csr *X, int64_t *starts,
                             int64_t *indices, void *values);
    /* A (m, n) <- X. */
    void (*sparse_to_dense)(ptrdiff_t m, ptrdiff_t n, const tile_csr *X, void *A);

    /* A (n,) <- X / (1 - rate) where the draws of `key` keep the elements, which have the numbers
       from `first` on, 0 elsewhere; A may be X. */
    void (*dropout)(ptrdiff_t n, double rate, uint64_t key, uint64_t first, const void *X, void *A);

    /* mean, variance (n,) <- of the columns of X (m, n) of row stride ld. */
    void (*column_moments)(ptrdiff_t m, ptrdiff_t n, const void *X, ptrdiff_t ld, double *mean,
                           double *variance);
    /* Column sums over D, X (m, n) of row stride ld: of D, and of D times the normalised X. */
    void (*norm_sums)(ptrdiff_t m, ptrdiff_t n, const void *X, const void *D, ptrdiff_t ld,
                      const double *mean, const double *inverse, double *sum_D, double *sum_DX);
    /* A (m, n) <- gamma (r X_hat + d) + beta. */
    void (*norm_forward)(ptrdiff_t m, ptrdiff_t n, const tile_norm *s, const void *gamma,
                         const void *beta, const void *X, void *A);
    /* dX (m, n) from D; rows is 0 where the statistics do not depend on X. */
    void (*norm_backward)(ptrdiff_t m, ptrdiff_t n, const tile_norm *s, double rows,
                          const void *gamma, const void *X, const void *D, void *dX);
    /* The same row by row; saved (m, 2), or NULL, gets mean and inverse deviation. */
    void (*layer_norm)(ptrdiff_t m, ptrdiff_t n, double epsilon, const void *gamma,
                       const void *beta, const void *X, void *A, void *saved);
    void (*layer_norm_backward)(ptrdiff_t m, ptrdiff_t n, const void *gamma, const void *X,
                                const void *saved, const void *D, void *dX);
    void (*layer_norm_sums)(ptrdiff_t m, ptrdiff_t n, const void *X, const void *saved,
                            const void *D, ptrdiff_t ld, double *sum_D, double *sum_DX);

    /* A (m, n) <- the largest of X's pieces, (m, pieces n); dX gets D where the first of them is. */
    void (*maxout)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t pieces, const void *X, void *A);
    void (*maxout_backward)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t pieces, const void *X, const void *A,
                            const void *D, void *dX);
    /* A (m, n) <- V where X > 0, else slope (n,) V: forward V is X, backward D. */
    void (*prelu)(ptrdiff_t m, ptrdiff_t n, const void *slope, const void *X, const void *V,
                  void *A);
    /* out (n,) <- the sum over the rows of D min(0, X), (m, n) of row stride ld. */
    void (*prelu_sums)(ptrdiff_t m, ptrdiff_t n, const void *X, const void *D, ptrdiff_t ld,
                       double *out);
    /* A (n,) <- V where X > 0, else a V, a drawn from [lower, upper] as `dropout` draws. */
    void (*rrelu)(ptrdiff_t n, double lower, double upper, uint64_t key, uint64_t first,
                  const void *X, const void *V, void *A);
    /* A (n,) <- X + Y; A may be either. */
    void (*add)(ptrdiff_t n, const void *X, const void *Y, void *A);

    /* x (n,) <- factor x. */
    void (*scale)(ptrdiff_t n, double factor, void *x);
    /* x (m, n) of row stride ld <- each within [-limit, limit]. */
    void (*clamp)(ptrdiff_t m, ptrdiff_t n, double limit, void *x, ptrdiff_t ld);
    /* A (n,) <- W + deviation N for the weights from number `first` on, N drawn by counter. */
    void (*noisy)(ptrdiff_t n, double deviation, uint64_t key, uint64_t first, const void *W,
                  void *A);

    const tile_activation *activations;
    const tile_loss *losses;
    const tile_link *links;
    const tile_optimizer *optimizers;
    const tile_penalty *penalties;
    const tile_function *functions;
} tile_table;

/* Each list of a table ends with a row whose name is NULL. */

#endif
