# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: freethreading_compatible=True
"""The ops: what each does to a block of rows, forward (X → Z, A) and back (D → the delta below).

An op is two functions and a line in the table. Rows do not depend on each other; what comes in is
never written. Weights are updated elsewhere: see `_step.pyx`.
"""

from libc.string cimport memcpy, strcmp

from bpfast._batch cimport mix64, sparse_from
from bpfast._step cimport at, tile_csr, tile_table

cdef enum:
    # Rows whose Z is still in cache when the activation follows.
    FEW_ROWS = 96


# ---- forward: X → Z, A

cdef void dense_forward(Run* r, Op* op, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """A = f(X W + b) for rows r0 to r1: f follows while a block of Z is in cache."""
    cdef const tile_table* t = r.tiles
    cdef Py_ssize_t rows
    cdef char* A
    cdef char* Z
    cdef char* b = NULL
    cdef tile_csr X
    if op.b >= 0:
        b = at(r.parameters, op.b, t)
    while r0 < r1:
        rows = (r1 - r0 - 1) // FEW_ROWS + 1
        rows = (r1 - r0 + rows - 1) // rows
        A = Z = at(w.tape.A[op.target], r0 * op.n_out, t)
        if w.tape.Z[op.target] != NULL:
            Z = at(w.tape.Z[op.target], r0 * op.n_out, t)
        if op.source == 0 and w.X.indptr != NULL:
            X = sparse_from(&w.X, r0, NULL)
            t.sparse_product(rows, op.n_out, op.n_in, &X, at(r.parameters, op.W, t), op.n_out, b, Z,
                             op.n_out)
        else:
            t.product(rows, op.n_out, op.n_in, at(w.tape.A[op.source], r0 * op.n_in, t), op.n_in, 1,
                      at(r.parameters, op.W, t), op.n_out, 1, b, Z, op.n_out, w.scratch)
        op.activation.forward(rows * op.n_out, op.parameter, Z, A)
        r0 += rows


cdef void activation_forward(Run* r, Op* op, Worker* w, Py_ssize_t r0,
                             Py_ssize_t r1) noexcept nogil:
    """A = f(X) for rows r0 to r1."""
    cdef const tile_table* t = r.tiles
    cdef Py_ssize_t first = r0 * op.n_out, n = (r1 - r0) * op.n_out
    cdef char* X = at(w.tape.A[op.source], first, t)
    if w.tape.Z[op.target] != NULL:
        memcpy(at(w.tape.Z[op.target], first, t), X, n * t.item_size)
    op.activation.forward(n, op.parameter, X, at(w.tape.A[op.target], first, t))


cdef void draw_masks(Run* r, Worker* w, Py_ssize_t step) noexcept nogil:
    """The masks of this call's step are this thread's next ones."""
    w.noise = mix64(mix64(r.noise_seed) + r.noise_step + <uint64_t>step)


cdef void drop(Run* r, Op* op, Worker* w, char* X, char* A, Py_ssize_t r0,
               Py_ssize_t r1) noexcept nogil:
    """A = X ⊙ M / (1 - rate) for rows r0 to r1, in prediction A = X; M is not kept: see dropout.h."""
    cdef const tile_table* t = r.tiles
    cdef Py_ssize_t first = r0 * op.n_out, n = (r1 - r0) * op.n_out
    if r.training:
        t.dropout(n, op.parameter, mix64(w.noise + <uint64_t>op.target), first, at(X, first, t),
                  at(A, first, t))
    else:
        memcpy(at(A, first, t), at(X, first, t), n * t.item_size)


cdef void dropout_forward(Run* r, Op* op, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """A = X ⊙ M / (1 - rate) for rows r0 to r1."""
    drop(r, op, w, w.tape.A[op.source], w.tape.A[op.target], r0, r1)


# ---- backward: D → the delta below

cdef inline bint delta_wanted(Run* r, Op* op) noexcept nogil:
    """Whether anybody asks for the delta of what an op reads: X's alone, or of parameters below."""
    return r.want_input_delta or op > &r.ops[r.first_trained]


cdef inline void own_delta(Run* r, Op* op, Worker* w, Py_ssize_t r0,
                           Py_ssize_t r1) noexcept nogil:
    """D = dA ⊙ f'(Z) for rows r0 to r1, in place."""
    cdef const tile_table* t = r.tiles
    cdef Py_ssize_t first = r0 * op.n_out
    cdef char* saved = w.tape.Z[op.target] if op.activation.saves_z else w.tape.A[op.target]
    if strcmp(op.activation.name, b"identity") != 0:
        op.activation.backward((r1 - r0) * op.n_out, op.parameter, at(saved, first, t),
                               at(w.tape.D[op.target], first, t))


cdef void dense_backward(Run* r, Op* op, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """D = dA ⊙ f'(Z), and the source's dA = D Wᵀ unless nobody wants it."""
    cdef const tile_table* t = r.tiles
    own_delta(r, op, w, r0, r1)
    if not delta_wanted(r, op):
        return
    t.product(r1 - r0, op.n_in, op.n_out, at(w.tape.D[op.target], r0 * op.n_out, t), op.n_out, 1,
              at(r.parameters, op.W, t), 1, op.n_out, NULL,
              at(w.tape.D[op.source], r0 * op.n_in, t), op.n_in, w.scratch)


cdef void activation_backward(Run* r, Op* op, Worker* w, Py_ssize_t r0,
                              Py_ssize_t r1) noexcept nogil:
    """The source's dA = dA ⊙ f'(X)."""
    cdef const tile_table* t = r.tiles
    cdef Py_ssize_t first = r0 * op.n_out
    if not delta_wanted(r, op):
        return
    own_delta(r, op, w, r0, r1)
    memcpy(at(w.tape.D[op.source], first, t), at(w.tape.D[op.target], first, t),
           (r1 - r0) * op.n_out * t.item_size)


cdef void dropout_backward(Run* r, Op* op, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """The source's dA = dA ⊙ M / (1 - rate)."""
    if delta_wanted(r, op):
        drop(r, op, w, w.tape.D[op.target], w.tape.D[op.source], r0, r1)


# ---- the table: what `program.Op.kind` names

cdef enum:
    N_OPS = 3

cdef OpRow[N_OPS] OPS = [
    OpRow(b"dense", dense_forward, dense_backward),
    OpRow(b"activation", activation_forward, activation_backward),
    OpRow(b"dropout", dropout_forward, dropout_backward),
]


cdef int op_kind(const char* name) noexcept:
    """The place of an op in the table, or -1."""
    cdef int i
    for i in range(N_OPS):
        if strcmp(OPS[i].name, name) == 0:
            return i
    return -1


cdef const char* op_name(int kind) noexcept:
    """The name of an op, or NULL behind the last."""
    return OPS[kind].name if kind < N_OPS else NULL


cdef const OpRow* op_row(int kind) noexcept nogil:
    """The line of an op."""
    return &OPS[kind]
