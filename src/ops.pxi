"""The ops: what each does to a block of rows, forward (X → Z, A) and backward (D → delta of the source).

An op is a row in the table at the end. `forward` and `backward` treat rows independently and never
write their inputs. What depends on all rows of a batch is a function of its columns j0 to j1, at which the
team synchronizes: `statistics` before forward, `delta_statistics` before backward, `gradient` for
parameters with one number for each column, `update_running` after the step. The weights of `dense`
belong to the step: see `update.pxi`.
"""

from libc.float cimport DBL_MAX, FLT_MAX
from libc.math cimport fabs, isnan, sqrt
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, strcmp

from run cimport BLOCK_COLUMNS, Op, Run, Worker, at
from tiles cimport tile_csr, tile_norm, tile_table

cdef enum:
    # Rows whose Z is still in the cache when the activation reads it.
    FEW_ROWS = 96

ctypedef struct OpRow:
    const char* name
    void (*forward)(Run*, Op*, Worker*, Py_ssize_t, Py_ssize_t) noexcept nogil
    void (*backward)(Run*, Op*, Worker*, Py_ssize_t, Py_ssize_t) noexcept nogil
    void (*gradient)(Run*, Op*, Worker*, Py_ssize_t, Py_ssize_t, Py_ssize_t, char*, char*) noexcept nogil
    void (*statistics)(Run*, Op*, Worker*, Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil
    void (*delta_statistics)(Run*, Op*, Worker*, Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil
    void (*update_running)(Run*, Op*, Worker*, Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil
    Py_ssize_t saved            # columns of Z that backward reads


# ---- forward: X → Z, A

cdef void forward_dense(Run* r, Op* op, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """A = f(X W + b) for rows r0 to r1, in blocks whose Z stays in the cache for f."""
    cdef const tile_table* t = r.program.tiles
    cdef Py_ssize_t rows
    cdef char* A
    cdef char* Z
    cdef char* b = NULL
    cdef tile_csr X
    if op.b >= 0:
        b = at(r.effective, op.b, t)
    while r0 < r1:
        rows = (r1 - r0 - 1) // FEW_ROWS + 1
        rows = (r1 - r0 + rows - 1) // rows
        A = Z = at(w.tape.A[op.target], r0 * op.n_out, t)
        if w.tape.Z[op.target] != NULL:
            Z = at(w.tape.Z[op.target], r0 * op.n_out, t)
        if op.source == 0 and w.X.indptr != NULL:
            X = sparse_from(&w.X, r0, NULL)
            t.sparse_product(rows, op.n_out, op.n_in, &X, at(r.effective, op.W, t), op.n_out, b, Z,
                             op.n_out)
        else:
            t.product(rows, op.n_out, op.n_in, at(w.tape.A[op.source], r0 * op.n_in, t), op.n_in, 1,
                      at(r.effective, op.W, t), op.n_out, 1, b, Z, op.n_out, w.scratch)
        op.activation.forward(rows * op.n_out, op.numbers[0], Z, A)
        r0 += rows


cdef void forward_activation(Run* r, Op* op, Worker* w, Py_ssize_t r0,
                             Py_ssize_t r1) noexcept nogil:
    """A = f(X) for rows r0 to r1."""
    cdef const tile_table* t = r.program.tiles
    cdef Py_ssize_t first = r0 * op.n_out, n = (r1 - r0) * op.n_out
    op.activation.forward(n, op.numbers[0], at(w.tape.A[op.source], first, t),
                          at(w.tape.A[op.target], first, t))


cdef void begin_step(Run* r, Worker* w, Py_ssize_t step) noexcept nogil:
    """Set the step whose random numbers this thread draws."""
    w.step = r.mode.noise_step + step
    w.noise = mix64(mix64(r.mode.noise_seed) + <uint64_t>w.step)


cdef void apply_dropout(Run* r, Op* op, Worker* w, char* X, char* A, Py_ssize_t r0,
                        Py_ssize_t r1) noexcept nogil:
    """A = X ⊙ M / (1 - rate) for rows r0 to r1, in prediction A = X. M is not stored: see dropout.h."""
    cdef const tile_table* t = r.program.tiles
    cdef Py_ssize_t first = r0 * op.n_out, n = (r1 - r0) * op.n_out
    if r.mode.training:
        t.dropout(n, op.numbers[0], mix64(w.noise + <uint64_t>op.target), first, at(X, first, t),
                  at(A, first, t))
    else:
        memcpy(at(A, first, t), at(X, first, t), n * t.item_size)


cdef void forward_dropout(Run* r, Op* op, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """A = X ⊙ M / (1 - rate) for rows r0 to r1."""
    apply_dropout(r, op, w, w.tape.A[op.source], w.tape.A[op.target], r0, r1)


# ---- backward: D → the delta of the source

cdef inline void pre_activation_delta(Run* r, Op* op, Worker* w, Py_ssize_t r0,
                                      Py_ssize_t r1) noexcept nogil:
    """D = dA ⊙ f'(Z) for rows r0 to r1, in place."""
    cdef const tile_table* t = r.program.tiles
    cdef Py_ssize_t first = r0 * op.n_out
    cdef char* saved = w.tape.Z[op.target] if op.activation.saves_z else w.tape.A[op.target]
    if strcmp(op.activation.name, b"identity") != 0:
        op.activation.backward((r1 - r0) * op.n_out, op.numbers[0], at(saved, first, t),
                               at(w.tape.D[op.target], first, t))


cdef void backward_dense(Run* r, Op* op, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """D = dA ⊙ f'(Z), and the source's dA = D Wᵀ if it is needed."""
    cdef const tile_table* t = r.program.tiles
    pre_activation_delta(r, op, w, r0, r1)
    if not op.needs_delta:
        return
    t.product(r1 - r0, op.n_in, op.n_out, at(w.tape.D[op.target], r0 * op.n_out, t), op.n_out, 1,
              at(r.effective, op.W, t), 1, op.n_out, NULL,
              at(w.tape.D[op.source], r0 * op.n_in, t), op.n_in, w.scratch)


cdef void backward_activation(Run* r, Op* op, Worker* w, Py_ssize_t r0,
                              Py_ssize_t r1) noexcept nogil:
    """The source's dA = dA ⊙ f'(X)."""
    cdef const tile_table* t = r.program.tiles
    cdef Py_ssize_t first = r0 * op.n_out, n = (r1 - r0) * op.n_out
    cdef char* dX
    if not op.needs_delta:
        return
    dX = at(w.tape.D[op.source], first, t)
    memcpy(dX, at(w.tape.D[op.target], first, t), n * t.item_size)
    op.activation.backward(
        n, op.numbers[0],
        at(w.tape.A[op.source if op.activation.saves_z else op.target], first, t), dX)


cdef void backward_dropout(Run* r, Op* op, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """The source's dA = dA ⊙ M / (1 - rate)."""
    if op.needs_delta:
        apply_dropout(r, op, w, w.tape.D[op.target], w.tape.D[op.source], r0, r1)


# ---- batch_norm: columns normalised by the statistics of the batch, or by running ones

cdef inline double get_real(char* base, Py_ssize_t i, const tile_table* t) noexcept nogil:
    """An element as a double."""
    return (<double*>base)[i] if t.item_size == 8 else (<float*>base)[i]


cdef inline void put_real(char* base, Py_ssize_t i, double x, const tile_table* t) noexcept nogil:
    """Write an element."""
    if t.item_size == 8:
        (<double*>base)[i] = x
    else:
        (<float*>base)[i] = <float>x


cdef inline double within(double x, double low, double high) noexcept nogil:
    """x clipped."""
    return low if x < low else high if x > high else x


cdef void statistics_batch_norm(Run* r, Op* op, Worker* w, Py_ssize_t rows, Py_ssize_t j0,
                                Py_ssize_t j1) noexcept nogil:
    """The moments of the batch's columns, and r and d, which correct them by the running ones."""
    cdef const tile_table* t = r.program.tiles
    cdef tile_norm* s = &op.norm
    cdef char* means = at(r.parameters, op.mean, t)
    cdef char* variances = at(r.parameters, op.variance, t)
    cdef double epsilon = op.numbers[1], begin = op.numbers[4], end = op.numbers[5]
    cdef double limit = 0, r_max = 1, d_max = 0, deviation, running
    cdef Py_ssize_t j
    if w.step >= begin:
        limit = 1 if w.step >= end else (w.step - begin) / (end - begin)
        r_max, d_max = 1 + limit * (op.numbers[2] - 1), limit * op.numbers[3]
    t.column_moments(rows, j1 - j0, at(w.tape.A[op.source], j0, t), op.n_in, s.mean + j0,
                     op.batch_variance + j0)
    for j in range(j0, j1):
        running = sqrt(get_real(variances, j, t) + epsilon)
        deviation = sqrt(op.batch_variance[j] + epsilon)
        s.inverse[j] = 1 / deviation
        s.r[j] = within(deviation / running, 1 / r_max, r_max)
        s.d[j] = within((s.mean[j] - get_real(means, j, t)) / running, -d_max, d_max)


cdef void update_running_batch_norm(Run* r, Op* op, Worker* w, Py_ssize_t rows, Py_ssize_t j0,
                                    Py_ssize_t j1) noexcept nogil:
    """Move the running statistics of columns j0 to j1 towards the batch's, unless they would overflow."""
    cdef const tile_table* t = r.program.tiles
    cdef char* means = at(r.parameters, op.mean, t)
    cdef char* variances = at(r.parameters, op.variance, t)
    cdef double momentum = op.numbers[0] if isnan(r.mode.momentum) else r.mode.momentum
    cdef double largest = DBL_MAX if t.item_size == 8 else FLT_MAX
    cdef double unbiased, mean, variance
    cdef Py_ssize_t j
    if momentum == 0 or rows < 2:
        # One row has no variance.
        return
    unbiased = <double>rows / (rows - 1)
    for j in range(j0, j1):
        mean = (1 - momentum) * get_real(means, j, t) + momentum * op.norm.mean[j]
        variance = ((1 - momentum) * get_real(variances, j, t)
                    + momentum * (op.batch_variance[j] * unbiased))
        if variance <= largest and fabs(mean) <= largest:
            put_real(means, j, mean, t)
            put_real(variances, j, variance, t)


cdef inline bint uses_batch_statistics(Run* r, Op* op) noexcept nogil:
    """Whether the statistics are those of the batch."""
    return r.mode.training and not op.frozen_statistics


cdef void load_running_statistics(Run* r) noexcept nogil:
    """Normalise the columns of this call by the running statistics, for every op that uses them."""
    cdef const tile_table* t = r.program.tiles
    cdef Py_ssize_t i, j
    cdef Op* op
    cdef tile_norm* s
    for i in range(r.program.n_ops):
        op = &r.program.ops[i]
        if op.mean < 0 or uses_batch_statistics(r, op):
            continue
        s = &op.running if r.mode.predicting else &op.norm
        for j in range(op.n_out):
            s.mean[j] = get_real(at(r.parameters, op.mean, t), j, t)
            s.inverse[j] = 1 / sqrt(get_real(at(r.parameters, op.variance, t), j, t)
                                    + op.numbers[1])
            s.r[j], s.d[j] = 1, 0


cdef void forward_batch_norm(Run* r, Op* op, Worker* w, Py_ssize_t r0,
                             Py_ssize_t r1) noexcept nogil:
    """A = γ (r X̂ + d) + β for rows r0 to r1."""
    cdef const tile_table* t = r.program.tiles
    cdef Py_ssize_t first = r0 * op.n_out
    t.norm_forward(r1 - r0, op.n_out, &op.running if r.mode.predicting else &op.norm,
                   at(r.effective, op.W, t), at(r.effective, op.b, t), at(w.tape.A[op.source], first, t),
                   at(w.tape.A[op.target], first, t))


cdef void delta_statistics_batch_norm(Run* r, Op* op, Worker* w, Py_ssize_t rows, Py_ssize_t j0,
                                      Py_ssize_t j1) noexcept nogil:
    """Column sums of D and of D X̂."""
    cdef const tile_table* t = r.program.tiles
    cdef tile_norm* s = &op.norm
    t.norm_sums(rows, j1 - j0, at(w.tape.A[op.source], j0, t), at(w.tape.D[op.target], j0, t),
                op.n_out, s.mean + j0, s.inverse + j0, s.sum_D + j0, s.sum_DX + j0)


cdef void backward_batch_norm(Run* r, Op* op, Worker* w, Py_ssize_t r0,
                              Py_ssize_t r1) noexcept nogil:
    """The source's dA; in training also through the batch's statistics, whose sums have been computed."""
    cdef const tile_table* t = r.program.tiles
    cdef Py_ssize_t first = r0 * op.n_out
    if op.needs_delta:
        t.norm_backward(r1 - r0, op.n_out, &op.norm, w.rows if uses_batch_statistics(r, op) else 0,
                        at(r.effective, op.W, t), at(w.tape.A[op.source], first, t),
                        at(w.tape.D[op.target], first, t), at(w.tape.D[op.source], first, t))


cdef void gradient_batch_norm(Run* r, Op* op, Worker* w, Py_ssize_t rows, Py_ssize_t j0,
                              Py_ssize_t j1, char* dW, char* db) noexcept nogil:
    """dγ = Σ D (r X̂ + d) and dβ = Σ D of columns j0 to j1."""
    cdef tile_norm* s = &op.norm
    cdef Py_ssize_t j
    if not uses_batch_statistics(r, op):
        delta_statistics_batch_norm(r, op, w, rows, j0, j1)
    for j in range(j0, j1):
        put_real(dW, j - j0, s.r[j] * s.sum_DX[j] + s.d[j] * s.sum_D[j], r.program.tiles)
        put_real(db, j - j0, s.sum_D[j], r.program.tiles)


# ---- layer_norm: rows normalised by their own statistics

cdef void forward_layer_norm(Run* r, Op* op, Worker* w, Py_ssize_t r0,
                             Py_ssize_t r1) noexcept nogil:
    """A = γ X̂ + β for rows r0 to r1; Z stores their means and inverse deviations."""
    cdef const tile_table* t = r.program.tiles
    cdef Py_ssize_t first = r0 * op.n_out
    cdef char* saved = NULL
    if w.tape.Z[op.target] != NULL:
        saved = at(w.tape.Z[op.target], 2 * r0, t)
    t.layer_norm(r1 - r0, op.n_out, op.numbers[0], at(r.effective, op.W, t), at(r.effective, op.b, t),
                 at(w.tape.A[op.source], first, t), at(w.tape.A[op.target], first, t), saved)


cdef void backward_layer_norm(Run* r, Op* op, Worker* w, Py_ssize_t r0,
                              Py_ssize_t r1) noexcept nogil:
    """The source's dA, row by row."""
    cdef const tile_table* t = r.program.tiles
    cdef Py_ssize_t first = r0 * op.n_out
    if op.needs_delta:
        t.layer_norm_backward(
            r1 - r0, op.n_out, at(r.effective, op.W, t), at(w.tape.A[op.source], first, t),
            at(w.tape.Z[op.target], 2 * r0, t), at(w.tape.D[op.target], first, t),
            at(w.tape.D[op.source], first, t))


cdef void gradient_layer_norm(Run* r, Op* op, Worker* w, Py_ssize_t rows, Py_ssize_t j0,
                              Py_ssize_t j1, char* dW, char* db) noexcept nogil:
    """dγ = Σ D X̂ and dβ = Σ D of columns j0 to j1, at most those of one task."""
    cdef const tile_table* t = r.program.tiles
    cdef double[BLOCK_COLUMNS] sum_D
    cdef double[BLOCK_COLUMNS] sum_DX
    cdef Py_ssize_t j
    t.layer_norm_sums(rows, j1 - j0, at(w.tape.A[op.source], j0, t), w.tape.Z[op.target],
                      at(w.tape.D[op.target], j0, t), op.n_out, sum_D, sum_DX)
    for j in range(j1 - j0):
        put_real(dW, j, sum_DX[j], t)
        put_real(db, j, sum_D[j], t)


# ---- maxout, prelu, rrelu, add

cdef void forward_maxout(Run* r, Op* op, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """A = the largest of the pieces of X."""
    cdef const tile_table* t = r.program.tiles
    t.maxout(r1 - r0, op.n_out, op.n_in // op.n_out, at(w.tape.A[op.source], r0 * op.n_in, t),
             at(w.tape.A[op.target], r0 * op.n_out, t))


cdef void backward_maxout(Run* r, Op* op, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """The source's dA: D in the largest piece, else 0."""
    cdef const tile_table* t = r.program.tiles
    if op.needs_delta:
        t.maxout_backward(
            r1 - r0, op.n_out, op.n_in // op.n_out, at(w.tape.A[op.source], r0 * op.n_in, t),
            at(w.tape.A[op.target], r0 * op.n_out, t), at(w.tape.D[op.target], r0 * op.n_out, t),
            at(w.tape.D[op.source], r0 * op.n_in, t))


cdef void forward_prelu(Run* r, Op* op, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """A = X where X > 0, else slope ⊙ X."""
    cdef const tile_table* t = r.program.tiles
    cdef char* X = at(w.tape.A[op.source], r0 * op.n_out, t)
    t.prelu(r1 - r0, op.n_out, at(r.effective, op.W, t), X, X,
            at(w.tape.A[op.target], r0 * op.n_out, t))


cdef void backward_prelu(Run* r, Op* op, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """The source's dA = D where X > 0, else slope ⊙ D."""
    cdef const tile_table* t = r.program.tiles
    if op.needs_delta:
        t.prelu(r1 - r0, op.n_out, at(r.effective, op.W, t), at(w.tape.A[op.source], r0 * op.n_out, t),
                at(w.tape.D[op.target], r0 * op.n_out, t),
                at(w.tape.D[op.source], r0 * op.n_out, t))


cdef void gradient_prelu(Run* r, Op* op, Worker* w, Py_ssize_t rows, Py_ssize_t j0, Py_ssize_t j1,
                         char* dW, char* db) noexcept nogil:
    """The slopes' gradient Σ D min(0, X) of columns j0 to j1, at most those of one task."""
    cdef const tile_table* t = r.program.tiles
    cdef double[BLOCK_COLUMNS] sums
    cdef Py_ssize_t j
    t.prelu_sums(rows, j1 - j0, at(w.tape.A[op.source], j0, t), at(w.tape.D[op.target], j0, t),
                 op.n_out, sums)
    for j in range(j1 - j0):
        put_real(dW, j, sums[j], t)


cdef void apply_rrelu(Run* r, Op* op, Worker* w, char* V, char* A, Py_ssize_t r0,
                      Py_ssize_t r1) noexcept nogil:
    """A = V where X > 0, else a ⊙ V, with a random in training and their mean in prediction."""
    cdef const tile_table* t = r.program.tiles
    cdef Py_ssize_t first = r0 * op.n_out
    cdef double lower = op.numbers[0], upper = op.numbers[1]
    if not r.mode.training:
        lower = upper = (lower + upper) / 2
    t.rrelu((r1 - r0) * op.n_out, lower, upper, mix64(w.noise + <uint64_t>op.target), first,
            at(w.tape.A[op.source], first, t), at(V, first, t), at(A, first, t))


cdef void forward_rrelu(Run* r, Op* op, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """A = X where X > 0, else a ⊙ X."""
    apply_rrelu(r, op, w, w.tape.A[op.source], w.tape.A[op.target], r0, r1)


cdef void backward_rrelu(Run* r, Op* op, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """The source's dA = D where X > 0, else a ⊙ D, with the same a."""
    if op.needs_delta:
        apply_rrelu(r, op, w, w.tape.D[op.target], w.tape.D[op.source], r0, r1)


cdef void forward_add(Run* r, Op* op, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """A = X + Y of two sources."""
    cdef const tile_table* t = r.program.tiles
    cdef Py_ssize_t first = r0 * op.n_out
    t.add((r1 - r0) * op.n_out, at(w.tape.A[op.source], first, t),
          at(w.tape.A[op.other], first, t), at(w.tape.A[op.target], first, t))


cdef void pass_delta(Run* r, Worker* w, Op* op, char* D, bint accumulates,
                     Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """Write dA into the delta of a source, or add it."""
    cdef const tile_table* t = r.program.tiles
    cdef Py_ssize_t first = r0 * op.n_out, n = (r1 - r0) * op.n_out
    if accumulates:
        t.add(n, at(D, first, t), at(w.tape.D[op.target], first, t), at(D, first, t))
    else:
        memcpy(at(D, first, t), at(w.tape.D[op.target], first, t), n * t.item_size)


cdef void backward_add(Run* r, Op* op, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """The dA of both sources is D."""
    if op.needs_delta:
        pass_delta(r, w, op, w.tape.D[op.source], op.accumulates, r0, r1)
    if op.needs_other_delta:
        pass_delta(r, w, op, w.tape.D[op.other], op.accumulates_other, r0, r1)


# ---- the table, in which `program.Op.kind` is a name

cdef enum:
    N_OPS = 9

cdef OpRow[N_OPS] OPS = [
    OpRow(b"dense", forward_dense, backward_dense, NULL, NULL, NULL, NULL, 0),
    OpRow(b"activation", forward_activation, backward_activation, NULL, NULL, NULL, NULL, 0),
    OpRow(b"dropout", forward_dropout, backward_dropout, NULL, NULL, NULL, NULL, 0),
    OpRow(b"batch_norm", forward_batch_norm, backward_batch_norm, gradient_batch_norm,
          statistics_batch_norm, delta_statistics_batch_norm, update_running_batch_norm, 0),
    OpRow(b"layer_norm", forward_layer_norm, backward_layer_norm, gradient_layer_norm, NULL, NULL,
          NULL, 2),
    OpRow(b"maxout", forward_maxout, backward_maxout, NULL, NULL, NULL, NULL, 0),
    OpRow(b"prelu", forward_prelu, backward_prelu, gradient_prelu, NULL, NULL, NULL, 0),
    OpRow(b"rrelu", forward_rrelu, backward_rrelu, NULL, NULL, NULL, NULL, 0),
    OpRow(b"add", forward_add, backward_add, NULL, NULL, NULL, NULL, 0),
]


cdef int op_kind(const char* name) noexcept:
    """The row of an op in the table, or -1."""
    cdef int i
    for i in range(N_OPS):
        if strcmp(OPS[i].name, name) == 0:
            return i
    return -1


cdef const char* op_name(int kind) noexcept:
    """The name of an op, or NULL after the last."""
    return OPS[kind].name if kind < N_OPS else NULL


cdef const OpRow* op_row(int kind) noexcept nogil:
    """The row of an op."""
    return &OPS[kind]
