/* The list of tile functions: TILE(result, name, parameters), in the order of the table.

   It is included with TILE defined by tiles.h (the members of the table) and tiles.c (their values);
   CMake reads it to declare the same members for Cython (src/tiles.pxd.in). Comments must not contain
   an entry, and there is no include guard on purpose. */

/* C (m, n) <- [bias (n,) +] A (m, depth) B (depth, n), each element summed over depth in order.
   One stride of A is 1, and one of B; scratch is the caller's, of product_scratch elements. */
TILE(void, product,
     (ptrdiff_t m, ptrdiff_t n, ptrdiff_t depth, const void *A, ptrdiff_t a_rs, ptrdiff_t a_cs,
      const void *B, ptrdiff_t b_rs, ptrdiff_t b_cs, const void *bias, void *C, ptrdiff_t ldc,
      void *scratch))
/* Prefetch W (m, n) of row stride ldw into the cache. */
TILE(void, prefetch, (ptrdiff_t m, ptrdiff_t n, const void *W, ptrdiff_t ldw))
/* out (n,) <- the sum of the rows of D (m, n), in order. */
TILE(void, column_sums, (ptrdiff_t m, ptrdiff_t n, const void *D, ptrdiff_t ldd, void *out))
/* Whether no element of x (n,) is infinite or NaN. */
TILE(int, all_finite, (ptrdiff_t n, const void *x))
/* Run n rounds of independent multiply-adds in registers, to time them; returns their number. */
TILE(double, multiply_add_rounds, (ptrdiff_t n))
/* The sum of the squares of w (n,), in double, in an order that depends on n alone. */
TILE(double, sum_of_squares, (ptrdiff_t n, const void *w))

/* C (m, n) <- [bias +] X (m, depth) B (depth, n) for a sparse X; bitwise identical to the dense
   product wherever B is finite. */
TILE(void, sparse_product,
     (ptrdiff_t m, ptrdiff_t n, ptrdiff_t depth, const tile_csr *X, const void *B, ptrdiff_t ldb,
      const void *bias, void *C, ptrdiff_t ldc))
/* The transpose of a sparse X (m, n): starts (n + 2,), of which the last is unused, and as many
   indices and values as X has entries. */
TILE(void, sparse_transpose,
     (ptrdiff_t m, ptrdiff_t n, const tile_csr *X, int64_t *starts, int64_t *indices, void *values))
/* A (m, n) <- X. */
TILE(void, sparse_to_dense, (ptrdiff_t m, ptrdiff_t n, const tile_csr *X, void *A))

/* A (n,) <- X / (1 - rate) for elements that the draws of `key` keep, 0 elsewhere. The elements are
   numbered from `first`. A may be X. */
TILE(void, dropout,
     (ptrdiff_t n, double rate, uint64_t key, uint64_t first, const void *X, void *A))

/* mean, variance (n,) <- moments of the columns of X (m, n) of row stride ld. */
TILE(void, column_moments,
     (ptrdiff_t m, ptrdiff_t n, const void *X, ptrdiff_t ld, double *mean, double *variance))
/* Column sums over D, X (m, n) of row stride ld: of D, and of D times the normalised X. */
TILE(void, norm_sums,
     (ptrdiff_t m, ptrdiff_t n, const void *X, const void *D, ptrdiff_t ld, const double *mean,
      const double *inverse, double *sum_D, double *sum_DX))
/* A (m, n) <- gamma (r X_hat + d) + beta. */
TILE(void, norm_forward,
     (ptrdiff_t m, ptrdiff_t n, const tile_norm *s, const void *gamma, const void *beta,
      const void *X, void *A))
/* dX (m, n) from D; rows is 0 if the statistics do not depend on X. */
TILE(void, norm_backward,
     (ptrdiff_t m, ptrdiff_t n, const tile_norm *s, double rows, const void *gamma, const void *X,
      const void *D, void *dX))
/* The same three row by row; saved (m, 2), or NULL, receives mean and inverse deviation. */
TILE(void, layer_norm,
     (ptrdiff_t m, ptrdiff_t n, double epsilon, const void *gamma, const void *beta, const void *X,
      void *A, void *saved))
TILE(void, layer_norm_backward,
     (ptrdiff_t m, ptrdiff_t n, const void *gamma, const void *X, const void *saved, const void *D,
      void *dX))
TILE(void, layer_norm_sums,
     (ptrdiff_t m, ptrdiff_t n, const void *X, const void *saved, const void *D, ptrdiff_t ld,
      double *sum_D, double *sum_DX))

/* A (m, n) <- the largest of the pieces of X (m, pieces n). */
TILE(void, maxout, (ptrdiff_t m, ptrdiff_t n, ptrdiff_t pieces, const void *X, void *A))
/* dX (m, pieces n) <- D in the first piece that equals A, 0 elsewhere. */
TILE(void, maxout_backward,
     (ptrdiff_t m, ptrdiff_t n, ptrdiff_t pieces, const void *X, const void *A, const void *D,
      void *dX))
/* A (m, n) <- V where X > 0, else slope (n,) V: in the forward pass V is X, in the backward pass D. */
TILE(void, prelu,
     (ptrdiff_t m, ptrdiff_t n, const void *slope, const void *X, const void *V, void *A))
/* out (n,) <- the sum over the rows of D min(0, X), (m, n) of row stride ld. */
TILE(void, prelu_sums,
     (ptrdiff_t m, ptrdiff_t n, const void *X, const void *D, ptrdiff_t ld, double *out))
/* A (n,) <- V where X > 0, else a V, with a drawn from [lower, upper] as `dropout` draws. */
TILE(void, rrelu,
     (ptrdiff_t n, double lower, double upper, uint64_t key, uint64_t first, const void *X,
      const void *V, void *A))
/* A (n,) <- X + Y; A may be either. */
TILE(void, add, (ptrdiff_t n, const void *X, const void *Y, void *A))

/* x (n,) <- factor x. */
TILE(void, scale, (ptrdiff_t n, double factor, void *x))
/* x (m, n) of row stride ld <- x clipped to [-limit, limit]. */
TILE(void, clamp, (ptrdiff_t m, ptrdiff_t n, double limit, void *x, ptrdiff_t ld))
/* A (n,) <- W + deviation N for the weights numbered from `first`, with N drawn by counter. */
TILE(void, noisy,
     (ptrdiff_t n, double deviation, uint64_t key, uint64_t first, const void *W, void *A))
