"""The kernels as functions on whole matrices; documented, and their arguments checked, in `bpfast.kernels`.

OpenMP divides the rows of the batch, and for dW its tiles, each of which sums over all rows.
"""

from cython.parallel cimport prange, threadid
from libc.stdint cimport int64_t

from run cimport BLOCK_COLUMNS, BLOCK_ROWS, at, const_at, share
from tiles cimport tile_activation, tile_function, tile_link, tile_loss, tile_table

# Unused scratch memory is kept: for a small product, allocating it costs more than the sums.
cdef list spare_scratch = []
cdef Py_ssize_t MAX_SPARE = 4


# ---- the loops: a team of threads over the batch

cdef void loop_dense_forward(
        const tile_table* t, Py_ssize_t B, Py_ssize_t I, Py_ssize_t O, const char* X,
        const char* W, const char* b, const tile_activation* f, double parameter, char* A,
        char* scratch, int n_threads) noexcept nogil:
    """A = f(X W + b); each thread takes a share of the rows."""
    cdef int me
    for me in prange(n_threads, num_threads=n_threads, schedule="static",
                     use_threads_if=n_threads > 1):
        dense_rows(t, share(B, me, n_threads), share(B, me + 1, n_threads), I, O, X, W, b, f,
                   parameter, A, scratch + me * scratch_bytes(t))


cdef void dense_rows(
        const tile_table* t, Py_ssize_t r0, Py_ssize_t r1, Py_ssize_t I, Py_ssize_t O,
        const char* X, const char* W, const char* b, const tile_activation* f, double parameter,
        char* A, char* panel) noexcept nogil:
    t.product(r1 - r0, O, I, const_at(X, r0 * I, t), I, 1, W, O, 1, b, at(A, r0 * O, t), O, panel)
    f.forward((r1 - r0) * O, parameter, at(A, r0 * O, t), at(A, r0 * O, t))


cdef void loop_activation_derivative(
        const tile_table* t, Py_ssize_t n, const char* Z, const tile_activation* f,
        double parameter, char* F, int n_threads) noexcept nogil:
    """F *= f'(Z); each thread takes a share of the elements. F is filled with ones before."""
    cdef int me
    cdef Py_ssize_t first
    for me in prange(n_threads, num_threads=n_threads, schedule="static",
                     use_threads_if=n_threads > 1):
        first = share(n, me, n_threads)
        f.derivative(share(n, me + 1, n_threads) - first, parameter, const_at(Z, first, t),
                     at(F, first, t))


cdef void loop_propagate_delta(
        const tile_table* t, Py_ssize_t B, Py_ssize_t I, Py_ssize_t O, const char* D,
        const char* W, const char* Z_prev, const tile_activation* f, double parameter,
        char* D_prev, char* scratch, int n_threads) noexcept nogil:
    """D_prev = (D Wᵀ) ⊙ f'(Z_prev); each thread takes a share of the rows."""
    cdef int me
    for me in prange(n_threads, num_threads=n_threads, schedule="static",
                     use_threads_if=n_threads > 1):
        delta_rows(t, share(B, me, n_threads), share(B, me + 1, n_threads), I, O, D, W, Z_prev, f,
                   parameter, D_prev, scratch + me * scratch_bytes(t))


cdef void delta_rows(
        const tile_table* t, Py_ssize_t r0, Py_ssize_t r1, Py_ssize_t I, Py_ssize_t O,
        const char* D, const char* W, const char* Z_prev, const tile_activation* f,
        double parameter, char* D_prev, char* panel) noexcept nogil:
    t.product(r1 - r0, I, O, const_at(D, r0 * O, t), O, 1, W, 1, O, NULL, at(D_prev, r0 * I, t),
              I, panel)
    f.derivative((r1 - r0) * I, parameter, const_at(Z_prev, r0 * I, t), at(D_prev, r0 * I, t))


cdef void loop_weight_gradient(
        const tile_table* t, Py_ssize_t B, Py_ssize_t I, Py_ssize_t O, const char* A_prev,
        const char* D, char* dW, char* db, char* scratch, int n_threads) noexcept nogil:
    """dW = A_prevᵀ D and db = Σ D: every tile belongs to one thread, which sums over all rows."""
    cdef Py_ssize_t down = (I + BLOCK_ROWS - 1) // BLOCK_ROWS
    cdef Py_ssize_t across = (O + BLOCK_COLUMNS - 1) // BLOCK_COLUMNS
    cdef Py_ssize_t k
    for k in prange(down * across, num_threads=n_threads, schedule="static", chunksize=1,
                    use_threads_if=n_threads > 1):
        gradient_block(t, B, I, O, A_prev, D, dW, db, k % down, k // down,
                       scratch + threadid() * scratch_bytes(t))


cdef void gradient_block(
        const tile_table* t, Py_ssize_t B, Py_ssize_t I, Py_ssize_t O, const char* A_prev,
        const char* D, char* dW, char* db, Py_ssize_t down, Py_ssize_t across,
        char* scratch) noexcept nogil:
    cdef Py_ssize_t i = down * BLOCK_ROWS, j = across * BLOCK_COLUMNS
    gradient_tile(t, B, I, O, A_prev, D, i, min(<Py_ssize_t>BLOCK_ROWS, I - i), j,
                  min(<Py_ssize_t>BLOCK_COLUMNS, O - j), at(dW, i * O + j, t), O, at(db, j, t), scratch)


cdef void loop_loss_and_delta(
        const tile_table* t, Py_ssize_t B, Py_ssize_t O, const tile_loss* loss, double parameter,
        const char* Y, const int64_t* classes, const char* Z, const double* row_scale, char* D,
        double* row_loss, int n_threads) noexcept nogil:
    """The loss of every row, and D; each thread takes a share of the rows."""
    cdef int me
    cdef Py_ssize_t r0, r1
    for me in prange(n_threads, num_threads=n_threads, schedule="static",
                     use_threads_if=n_threads > 1):
        r0 = share(B, me, n_threads)
        r1 = share(B, me + 1, n_threads)
        loss.loss(r1 - r0, O, parameter, NULL if Y == NULL else const_at(Y, r0 * O, t),
                  NULL if classes == NULL else classes + r0, const_at(Z, r0 * O, t),
                  row_scale + r0, at(D, r0 * O, t), row_loss + r0)


cdef void loop_link(
        const tile_table* t, Py_ssize_t B, Py_ssize_t O, const tile_link* f, const char* Z,
        char* A, int n_threads) noexcept nogil:
    """A = link(Z); each thread takes a share of the rows."""
    cdef int me
    cdef Py_ssize_t r0
    for me in prange(n_threads, num_threads=n_threads, schedule="static",
                     use_threads_if=n_threads > 1):
        r0 = share(B, me, n_threads)
        f.link(share(B, me + 1, n_threads) - r0, O, const_at(Z, r0 * O, t), at(A, r0 * O, t))


# ---- the functions

cdef class Scratch:
    """Scratch memory of a team."""

    cdef Arena arena
    cdef char* data
    cdef Py_ssize_t size

    def __cinit__(self, Py_ssize_t size):
        self.arena, self.size = Arena(), size
        self.data = <char*>self.arena.take(size, 1)


cdef Scratch borrow(Py_ssize_t size):
    """Scratch memory of at least this many bytes."""
    cdef Scratch old
    while spare_scratch:
        old = spare_scratch.pop()
        if old.size >= size:
            return old
    return Scratch(size)


cdef int put_back(Scratch scratch) except -1:
    """Keep scratch memory for the next call."""
    if len(spare_scratch) < MAX_SPARE:
        spare_scratch.append(scratch)
    return 0


def dense_forward(X, W, b, str activation, double parameter, A, int threads):
    """A (B, O) = f(X (B, I) W (I, O) + b (O,))."""
    cdef Py_ssize_t B = X.shape[0], I = W.shape[0], O = W.shape[1]
    cdef int size = X.dtype.itemsize, n = team_for(<double>B * I * O, threads)
    cdef const tile_table* t = table(size)
    cdef View x = View(X, B * I, size), w = View(W, I * O, size), bias = View(b, O, size)
    cdef View a = View(A, B * O, size, True)
    cdef const tile_activation* f = find(t.activations, activation)
    cdef Scratch scratch = borrow(n * scratch_bytes(t))
    with nogil:
        loop_dense_forward(t, B, I, O, x.data, w.data, bias.data, f, parameter, a.data,
                           scratch.data, n)
    put_back(scratch)


def activation_derivative(Z, str activation, double parameter, F, int threads):
    """F = f'(Z)."""
    cdef Py_ssize_t n = Z.size
    cdef int size = Z.dtype.itemsize, team = team_for(4.0 * n, threads)
    cdef const tile_table* t = table(size)
    cdef const tile_activation* f = find(t.activations, activation)
    F.fill(1)
    cdef View z = View(Z, n, size), out = View(F, n, size, True)
    with nogil:
        loop_activation_derivative(t, n, z.data, f, parameter, out.data, team)


def propagate_delta(D, W, Z_prev, str activation, double parameter, D_prev, int threads):
    """D_prev (B, I) = (D (B, O) W (I, O)ᵀ) ⊙ f'(Z_prev (B, I))."""
    cdef Py_ssize_t B = D.shape[0], I = W.shape[0], O = W.shape[1]
    cdef int size = D.dtype.itemsize, n = team_for(<double>B * I * O, threads)
    cdef const tile_table* t = table(size)
    cdef View d = View(D, B * O, size), w = View(W, I * O, size), z = View(Z_prev, B * I, size)
    cdef View out = View(D_prev, B * I, size, True)
    cdef const tile_activation* f = find(t.activations, activation)
    cdef Scratch scratch = borrow(n * scratch_bytes(t))
    with nogil:
        loop_propagate_delta(t, B, I, O, d.data, w.data, z.data, f, parameter, out.data,
                             scratch.data, n)
    put_back(scratch)


def weight_gradient(A_prev, D, dW, db, int threads):
    """dW (I, O) = A_prev (B, I)ᵀ D (B, O), db (O,) = Σ D."""
    cdef Py_ssize_t B = D.shape[0], I = A_prev.shape[1], O = D.shape[1]
    cdef int size = D.dtype.itemsize, n = team_for(<double>B * I * O, threads)
    cdef const tile_table* t = table(size)
    cdef View a = View(A_prev, B * I, size), d = View(D, B * O, size)
    cdef View w = View(dW, I * O, size, True), b = View(db, O, size, True)
    cdef Scratch scratch = borrow(n * scratch_bytes(t))
    with nogil:
        loop_weight_gradient(t, B, I, O, a.data, d.data, w.data, b.data, scratch.data, n)
    put_back(scratch)


def loss_and_delta(str loss, double parameter, Y, Z, weights, D, int threads):
    """The mean loss; D (B, O) = ∂L/∂Z. Y is (B, O) of Z's dtype, or int64 classes (B,)."""
    cdef Py_ssize_t B = Z.shape[0], O = Z.shape[1], i
    cdef int size = Z.dtype.itemsize, n = team_for(16.0 * B * O, threads)
    cdef const tile_table* t = table(size)
    cdef bint by_class = Y.ndim == 1
    cdef View y = View(None if by_class else Y, B * O, size)
    cdef View c = View(Y if by_class else None, B, sizeof(int64_t))
    cdef View z = View(Z, B * O, size), w = View(weights, B, sizeof(double))
    cdef View d = View(D, B * O, size, True)
    cdef const tile_loss* row = find(t.losses, loss)
    cdef Arena arena = Arena()
    cdef double* scale = <double*>arena.take(B, sizeof(double))
    cdef double* losses = <double*>arena.take(B, sizeof(double))
    cdef double total = 0, mean = 0
    with nogil:
        for i in range(B):
            total += (<double*>w.data)[i] if w.data != NULL else 1
        for i in range(B):
            scale[i] = ((<double*>w.data)[i] if w.data != NULL else 1) / total
        loop_loss_and_delta(t, B, O, row, parameter, y.data, <int64_t*>c.data, z.data, scale,
                            d.data, losses, n)
        for i in range(B):
            if w.data == NULL:
                mean += losses[i]
            elif scale[i] > 0:
                mean += losses[i] * scale[i]
    return mean if weights is not None else mean / B


def link(str name, Z, A, int threads):
    """A = link(Z), both (B, O)."""
    cdef Py_ssize_t B = Z.shape[0], O = Z.shape[1]
    cdef int size = Z.dtype.itemsize, n = team_for(16.0 * B * O, threads)
    cdef const tile_table* t = table(size)
    cdef View z = View(Z, B * O, size), a = View(A, B * O, size, True)
    cdef const tile_link* f = find(t.links, name)
    with nogil:
        loop_link(t, B, O, f, z.data, a.data, n)


def multiply_adds(int item_size, Py_ssize_t rounds, int threads):
    """Run rounds of multiply-adds in the registers of exactly `threads` threads; return the number of one."""
    cdef const tile_table* t = table(item_size)
    cdef double made = 0
    cdef int _me
    with nogil:
        for _me in prange(threads, num_threads=threads, schedule="static",
                          use_threads_if=threads > 1):
            made = t.multiply_add_rounds(rounds)
    return made


def elementary(str name, X, Y):
    """Y = name(X), both (n,): an elementary function, for its tests."""
    cdef Py_ssize_t n = X.size
    cdef int size = X.dtype.itemsize
    cdef const tile_table* t = table(size)
    cdef const tile_function* f = find(t.functions, name)
    cdef View x = View(X, n, size), y = View(Y, n, size, True)
    with nogil:
        f.apply(n, x.data, y.data)


def elementary_ulp():
    """Return the stated maximum error in ulp of each elementary function."""
    cdef const tile_function* f = table(8).functions
    stated = {}
    while f.name != NULL:
        stated[f.name.decode()] = f.max_ulp
        f += 1
    return stated
