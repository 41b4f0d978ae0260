# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: freethreading_compatible=True
"""The step, in reading order: forward → loss and delta → backward → gradient and update.

A team of threads runs a call: each takes a share of the batch's rows through all ops, forward and
back, with nothing to wait for, since rows do not depend on each other; after a barrier each takes
a share of the tiles of every dW, sums it over the whole batch in order and updates its weights
while the tile is in cache. So nothing depends on how many threads there are. Pointers are `char *`
and sizes come from the table: float32 and float64 run the same frame.
"""

from cython.parallel cimport parallel, prange, threadid
from libc.math cimport isfinite, sqrt
from libc.string cimport memcpy, memset, strcmp

cdef extern from "team.h" nogil:
    void team_wait(team_barrier* t, int n)

# Seconds between two looks for an interrupt.
cdef double POLL_SECONDS = 0.02


cdef enum:
    # How deep a product goes before its sums are put down.
    PANEL_DEPTH = 512
    # Rows that take turns with the columns of B that are in cache.
    FEW_ROWS = 96
    ALIAS_BYTES = 4096
    ALIAS_PAD = 16


cdef Py_ssize_t scratch_bytes(const tile_table* tiles) noexcept nogil:
    """The scratch memory of one thread: a panel, copied rows, a strip of dW and a piece of db."""
    return (PANEL_DEPTH * tiles.columns + ROW_BLOCK * (PANEL_DEPTH + ALIAS_PAD)
            + (STRIP_ROWS + 1) * BLOCK_COLUMNS) * tiles.item_size


cdef inline bint aliases(const tile_table* t, Py_ssize_t stride) noexcept nogil:
    """Whether rows this many elements apart fall on the same lines of a first-level cache."""
    return stride * t.item_size % ALIAS_BYTES == 0


cdef void product(
        const tile_table* t, Py_ssize_t m, Py_ssize_t n, Py_ssize_t depth,
        const char* A, Py_ssize_t a_rs, Py_ssize_t a_cs,
        const char* B, Py_ssize_t b_rs, Py_ssize_t b_cs,
        const char* bias, char* C, Py_ssize_t ldc, char* scratch) noexcept nogil:
    """C (m, n) = [bias +] A (m, depth) B (depth, n), a block of rows at a time.

    All three products of backpropagation are this one, with other strides.
    """
    cdef Py_ssize_t i = 0, rows, block
    # A panel that is transposed must earn it.
    block = FEW_ROWS if b_cs == 1 else ROW_BLOCK
    while i < m:
        rows = even_part(m - i, block)
        product_rows(t, rows, n, depth, const_at(A, i * a_rs, t), a_rs, a_cs, B, b_rs, b_cs, bias,
                     at(C, i * ldc, t), ldc, scratch)
        i += rows


cdef inline Py_ssize_t even_part(Py_ssize_t left, Py_ssize_t most) noexcept nogil:
    """The first of nearly equal parts of at most `most`."""
    cdef Py_ssize_t parts = (left + most - 1) // most
    return (left + parts - 1) // parts


cdef void product_rows(
        const tile_table* t, Py_ssize_t m, Py_ssize_t n, Py_ssize_t depth,
        const char* A, Py_ssize_t a_rs, Py_ssize_t a_cs,
        const char* B, Py_ssize_t b_rs, Py_ssize_t b_cs,
        const char* bias, char* C, Py_ssize_t ldc, char* scratch) noexcept nogil:
    """`product` for at most ROW_BLOCK rows: over depth, and over panels of a transposed B."""
    cdef Py_ssize_t k = 0, j, deep, wide, rs = a_rs
    cdef const char* rows
    cdef char* copies = at(scratch, PANEL_DEPTH * t.columns, t)
    cdef int start = FROM_ZERO if bias == NULL else FROM_BIAS
    while k < depth:
        deep = even_part(depth - k, PANEL_DEPTH)
        rows = const_at(A, k * a_cs, t)
        if a_cs == 1 and aliases(t, a_rs) and m > t.rows and n > 4 * t.columns:
            rs = deep + ALIAS_PAD
            copy_rows(t, m, deep, rows, a_rs, copies, rs)
            rows = copies
        if b_cs == 1:
            t.gemm(m, n, deep, rows, rs, a_cs, const_at(B, k * b_rs, t), b_rs, start, bias, C, ldc)
        else:
            j = 0
            while j < n:
                wide = min(<Py_ssize_t>t.columns, n - j)
                t.pack_transposed(deep, wide, const_at(B, k + j * b_cs, t), b_cs, scratch)
                t.gemm(m, wide, deep, rows, rs, a_cs, scratch, t.columns, start,
                       NULL if bias == NULL else const_at(bias, j, t), at(C, j, t), ldc)
                j += wide
        start = FROM_C
        k += deep


cdef void copy_rows(const tile_table* t, Py_ssize_t m, Py_ssize_t n, const char* A,
                    Py_ssize_t a_rs, char* copies, Py_ssize_t rs) noexcept nogil:
    """copies (m, n) of row stride rs <- A (m, n) of row stride a_rs."""
    cdef Py_ssize_t i
    for i in range(m):
        memcpy(at(copies, i * rs, t), const_at(A, i * a_rs, t), n * t.item_size)


# ---- a profile

cdef inline void tick(Worker* w, Py_ssize_t place) noexcept nogil:
    """The seconds since the last tick went into `place`."""
    cdef double now
    if w.seconds != NULL:
        now = team_clock()
        w.seconds[place] += now - w.since
        w.since = now


# ---- order and gather

cdef inline uint64_t mix64(uint64_t z) noexcept nogil:
    """The finaliser of SplitMix64."""
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return z ^ (z >> 31)


cdef void permutation(int64_t* order, Py_ssize_t n, uint64_t seed, uint64_t epoch) noexcept nogil:
    """The order of the rows in an epoch; see `reference.permutation`."""
    cdef uint64_t key = mix64(mix64(seed) + epoch), draw
    cdef Py_ssize_t i, j
    for i in range(n):
        order[i] = i
    for i in range(n - 1, 0, -1):
        draw = mix64(key + <uint64_t>i * <uint64_t>0x9E3779B97F4A7C15) >> 32
        j = <Py_ssize_t>((draw * <uint64_t>(i + 1)) >> 32)
        order[i], order[j] = order[j], order[i]


cdef void gather(Run* r, Worker* w, Py_ssize_t first, Py_ssize_t rows, double total,
                 Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """Rows r0 to r1 of the batch that begins at `first`: X, Y and what each counts in the mean.

    Rows in their own order are where they are wanted; only a shuffled order is copied.
    """
    cdef Py_ssize_t i, row
    cdef Py_ssize_t x_bytes = r.widths[0] * r.tiles.item_size
    cdef Py_ssize_t y_bytes = r.widths[r.ops[r.n_ops - 1].target] * r.tiles.item_size
    if r.weights == NULL:
        for i in range(r0, r1):
            r.row_scale[i] = 1.0 / rows
    else:
        for i in range(r0, r1):
            row = first + i if r.order == NULL else r.order[first + i]
            r.row_scale[i] = r.weights[row] / total if total > 0 else 0
    w.X.indptr = NULL
    if r.sparse.indptr != NULL:
        gather_sparse(r, w, first, r0, r1)
    if r.order == NULL:
        if r.X != NULL:
            w.tape.A[0] = <char*>r.X + first * x_bytes
        if r.classes != NULL:
            w.classes = r.classes + first
        else:
            w.Y = <char*>r.Y + first * y_bytes
        return
    w.tape.A[0], w.Y, w.classes = r.batch_X, r.batch_Y, r.batch_classes
    for i in range(r0, r1):
        row = r.order[first + i]
        if r.X != NULL:
            memcpy(r.batch_X + i * x_bytes, r.X + row * x_bytes, x_bytes)
        if r.classes != NULL:
            r.batch_classes[i] = r.classes[row]
        else:
            memcpy(r.batch_Y + i * y_bytes, r.Y + row * y_bytes, y_bytes)


cdef inline tile_csr sparse_from(const tile_csr* X, Py_ssize_t first,
                                 const int64_t* order) noexcept nogil:
    """X without its first rows, which `order` gives if it is not NULL."""
    cdef tile_csr rest = X[0]
    if order != NULL:
        rest.rows = order + first
    elif rest.rows != NULL:
        rest.rows += first
    else:
        rest.indptr += first
    return rest


cdef void gather_sparse(Run* r, Worker* w, Py_ssize_t first, Py_ssize_t r0,
                        Py_ssize_t r1) noexcept nogil:
    """The batch in sparse form, where it is; rows r0 to r1 dense where another op wants them."""
    cdef tile_csr rows
    w.X = sparse_from(&r.sparse, first, r.order)
    if r.densify:
        rows = sparse_from(&w.X, r0, NULL)
        r.tiles.sparse_to_dense(r1 - r0, r.widths[0], &rows,
                                at(r.batch_X, r0 * r.widths[0], r.tiles))
        w.tape.A[0] = r.batch_X
        w.X.indptr = NULL


cdef void transpose_batch(Run* r, Py_ssize_t first, Py_ssize_t rows,
                          const int64_t* order) noexcept nogil:
    """The columns of a sparse batch, for the gradient of the weights that read it."""
    cdef tile_csr X
    if r.columns.indptr != NULL:
        X = sparse_from(&r.sparse, first, order)
        r.tiles.sparse_transpose(rows, r.widths[0], &X, <int64_t*>r.columns.indptr,
                                 <int64_t*>r.columns.indices, <void*>r.columns.values)


cdef double batch_total(Run* r, Py_ssize_t first, Py_ssize_t rows) noexcept nogil:
    """The weight of a batch: its rows, or the sum of their weights in order."""
    cdef Py_ssize_t i
    cdef double total = 0
    if r.weights == NULL:
        return rows
    for i in range(first, first + rows):
        total += r.weights[i if r.order == NULL else r.order[i]]
    return total


# ---- forward: X → Z, A

cdef void dense_forward(Run* r, Op* op, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """A = f(X W + b) for rows r0 to r1."""
    cdef const tile_table* t = r.tiles
    cdef char* A = at(w.tape.A[op.target], r0 * op.n_out, t)
    cdef char* Z = A
    cdef char* b = NULL
    cdef tile_csr rows
    if w.tape.Z[op.target] != NULL:
        Z = at(w.tape.Z[op.target], r0 * op.n_out, t)
    if op.b >= 0:
        b = at(r.parameters, op.b, t)
    if op.source == 0 and w.X.indptr != NULL:
        rows = sparse_from(&w.X, r0, NULL)
        t.sparse_product(r1 - r0, op.n_out, op.n_in, &rows, at(r.parameters, op.W, t), op.n_out,
                         b, Z, op.n_out)
    else:
        product(t, r1 - r0, op.n_out, op.n_in, at(w.tape.A[op.source], r0 * op.n_in, t), op.n_in, 1,
                at(r.parameters, op.W, t), op.n_out, 1, b, Z, op.n_out, w.scratch)
    op.activation.forward((r1 - r0) * op.n_out, op.parameter, Z, A)


cdef void activation_forward(Run* r, Op* op, Worker* w, Py_ssize_t r0,
                             Py_ssize_t r1) noexcept nogil:
    """A = f(X) for rows r0 to r1."""
    cdef const tile_table* t = r.tiles
    cdef Py_ssize_t first = r0 * op.n_out, n = (r1 - r0) * op.n_out
    cdef char* X = at(w.tape.A[op.source], first, t)
    if w.tape.Z[op.target] != NULL:
        memcpy(at(w.tape.Z[op.target], first, t), X, n * t.item_size)
    op.activation.forward(n, op.parameter, X, at(w.tape.A[op.target], first, t))


cdef void forward(Run* r, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """All ops, in order, for rows r0 to r1."""
    cdef Py_ssize_t i
    for i in range(r.n_ops):
        OPS[r.ops[i].kind].forward(r, &r.ops[i], w, r0, r1)
        tick(w, TIMES * i + TIME_FORWARD)


# ---- loss and delta

cdef void loss_and_delta(Run* r, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """The loss of rows r0 to r1, and D = ∂L/∂Z of the batch's mean."""
    cdef const tile_table* t = r.tiles
    cdef Py_ssize_t last = r.ops[r.n_ops - 1].target, n = r.widths[last]
    cdef const char* Y = NULL
    cdef const int64_t* classes = NULL
    if r.classes != NULL:
        classes = w.classes + r0
    else:
        Y = at(w.Y, r0 * n, t)
    r.loss.loss(r1 - r0, n, r.loss_parameter, Y, classes, at(w.tape.A[last], r0 * n, t),
                r.row_scale + r0, at(w.tape.D[last], r0 * n, t), r.row_loss + r0)
    tick(w, TIMES * r.n_ops + TIME_LOSS)


cdef double mean_loss(Run* r, Py_ssize_t rows) noexcept nogil:
    """The batch's mean loss: row after row, in order; a row that does not count gives no NaN."""
    cdef Py_ssize_t i
    cdef double total = 0
    if r.weights == NULL:
        for i in range(rows):
            total += r.row_loss[i]
        return total / rows
    for i in range(rows):
        if r.row_scale[i] > 0:
            total += r.row_loss[i] * r.row_scale[i]
    return total


# ---- backward: D → the delta below

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
    if op.source == 0 and not r.want_input_delta:
        return
    product(t, r1 - r0, op.n_in, op.n_out, at(w.tape.D[op.target], r0 * op.n_out, t), op.n_out, 1,
            at(r.parameters, op.W, t), 1, op.n_out, NULL,
            at(w.tape.D[op.source], r0 * op.n_in, t), op.n_in, w.scratch)


cdef void activation_backward(Run* r, Op* op, Worker* w, Py_ssize_t r0,
                              Py_ssize_t r1) noexcept nogil:
    """The source's dA = dA ⊙ f'(X)."""
    cdef const tile_table* t = r.tiles
    cdef Py_ssize_t first = r0 * op.n_out
    own_delta(r, op, w, r0, r1)
    if op.source == 0 and not r.want_input_delta:
        return
    memcpy(at(w.tape.D[op.source], first, t), at(w.tape.D[op.target], first, t),
           (r1 - r0) * op.n_out * t.item_size)


cdef void backward(Run* r, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """All ops, last to first, for rows r0 to r1."""
    cdef Py_ssize_t i
    for i in range(r.n_ops - 1, -1, -1):
        OPS[r.ops[i].kind].backward(r, &r.ops[i], w, r0, r1)
        tick(w, TIMES * i + TIME_DELTA)


# The table of ops: what `program.Op.kind` names.
ctypedef struct OpRow:
    const char* name
    void (*forward)(Run*, Op*, Worker*, Py_ssize_t, Py_ssize_t) noexcept nogil
    void (*backward)(Run*, Op*, Worker*, Py_ssize_t, Py_ssize_t) noexcept nogil

cdef enum:
    N_OPS = 2

cdef OpRow[N_OPS] OPS = [
    OpRow(b"dense", dense_forward, dense_backward),
    OpRow(b"activation", activation_forward, activation_backward),
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


# ---- gradient and update: D → dW, db → W, b

cdef void weight_gradient(
        const tile_table* t, Py_ssize_t B, Py_ssize_t I, Py_ssize_t O, const char* A_prev,
        const char* D, Py_ssize_t i, Py_ssize_t m, Py_ssize_t j, Py_ssize_t n, char* dW,
        Py_ssize_t ldw, char* db, const Near* near, char* scratch) noexcept nogil:
    """Rows i to i + m, columns j to j + n of dW = A_prevᵀ D, summed over all B rows in order.

    With the first rows also that piece of db. What is `near` comes into cache meanwhile, a panel
    of columns at a time.
    """
    cdef Py_ssize_t c = 0, wide
    D = const_at(D, j, t)
    while c < n:
        wide = min(<Py_ssize_t>t.columns, n - c)
        fetch(t, near, m, c, wide)
        product(t, m, wide, B, const_at(A_prev, i, t), 1, I, const_at(D, c, t), O, 1, NULL,
                at(dW, c, t), ldw, scratch)
        c += wide
    if i == 0 and db != NULL:
        t.column_sums(B, n, D, O, db)


cdef void fetch(const tile_table* t, const Near* near, Py_ssize_t m, Py_ssize_t j,
                Py_ssize_t n) noexcept nogil:
    """Columns j to j + n of what is near."""
    cdef int i
    if near != NULL:
        for i in range(near.count):
            t.fetch(m, n, at(near.array[i], j, t), near.stride)


cdef void row_squares(Run* r, Op* op, int me, int team) noexcept nogil:
    """This thread's share of the sums of squares over each row of W."""
    cdef Py_ssize_t i
    for i in range(share(op.n_in, me, team), share(op.n_in, me + 1, team)):
        r.row_squares[i] = r.tiles.sum_of_squares(
            op.n_out, at(r.parameters, op.W + i * op.n_out, r.tiles))


cdef void weight_norms(Run* r, int me, int team) noexcept nogil:
    """‖W‖_F of every op, where the penalty asks for it. The whole team calls this."""
    cdef Py_ssize_t i, row
    cdef double total
    if r.penalty == NULL or not r.penalty.needs_norm:
        return
    for i in range(r.n_ops):
        if r.ops[i].W < 0:
            continue
        row_squares(r, &r.ops[i], me, team)
        team_wait(&r.barrier, team)
        if me == 0:
            total = 0
            for row in range(r.ops[i].n_in):
                total += r.row_squares[row]
            r.norms[i] = sqrt(total)
        team_wait(&r.barrier, team)


cdef void prepare_update(Run* r, Py_ssize_t step, Py_ssize_t op, int weight,
                         tile_update* u) noexcept nogil:
    """The constants of one step, for an op's weights or its biases."""
    memset(u, 0, sizeof(tile_update))
    u.weight = weight
    r.optimizer.prepare(r.hyperparameters, r.learning_rates[step], r.t + step + 1, u)
    if weight and r.penalty != NULL:
        r.penalty.prepare(r.alpha, r.mix, r.norms[op], u)


cdef void update(Run* r, tile_update* u, Py_ssize_t offset, Py_ssize_t m, Py_ssize_t n,
                 Py_ssize_t ldw, const char* G, Py_ssize_t ldg) noexcept nogil:
    """Parameters (m, n) from `offset` on, and their state, by a gradient tile."""
    cdef const tile_table* t = r.tiles
    cdef char* s0 = NULL
    cdef char* s1 = NULL
    if r.optimizer.n_states > 0:
        s0 = at(r.state0, offset, t)
    if r.optimizer.n_states > 1:
        s1 = at(r.state1, offset, t)
    r.optimizer.update(u, m, n, at(r.parameters, offset, t), ldw, G, ldg, s0, s1)


cdef void weights_and_state(Run* r, Op* op, Py_ssize_t offset, Near* near) noexcept nogil:
    """What the update of a block will want."""
    near.stride = op.n_out
    near.array[0] = at(r.parameters, offset, r.tiles)
    near.count = 1 + r.optimizer.n_states
    if r.optimizer.n_states > 0:
        near.array[1] = at(r.state0, offset, r.tiles)
    if r.optimizer.n_states > 1:
        near.array[2] = at(r.state1, offset, r.tiles)


cdef void strip_gradient(Run* r, Worker* w, Op* op, Task* task, Py_ssize_t i, Py_ssize_t m,
                         Py_ssize_t rows, char* dW, Py_ssize_t ldw, char* db,
                         const Near* near) noexcept nogil:
    """Rows i to i + m of a block of dW (and db), from the batch or the columns of a sparse one."""
    cdef const tile_table* t = r.tiles
    cdef const char* D = at(w.tape.D[op.target], task.j, t)
    cdef tile_csr columns
    if op.source > 0 or r.columns.indptr == NULL:
        weight_gradient(t, rows, op.n_in, op.n_out, w.tape.A[op.source], w.tape.D[op.target], i, m,
                        task.j, task.n, dW, ldw, db, near, w.scratch)
        return
    fetch(t, near, m, 0, task.n)
    columns = sparse_from(&r.columns, i, NULL)
    t.sparse_product(m, task.n, rows, &columns, D, op.n_out, NULL, dW, ldw)
    if i == 0 and db != NULL:
        t.column_sums(rows, task.n, D, op.n_out, db)


cdef Py_ssize_t changed_rows(Run* r, Py_ssize_t i, Py_ssize_t* stop) noexcept nogil:
    """The last rows of i to stop, one behind the other, whose columns have entries in the batch.

    Returns where they begin and lowers stop to where they end. Row 0 counts, for the sake of b.
    """
    cdef const int64_t* starts = r.columns.indptr
    cdef Py_ssize_t k = stop[0]
    while k > i and k > 1 and starts[k - 1] == starts[k]:
        k -= 1
    stop[0] = k
    while k > i and (k == 1 or starts[k - 1] < starts[k]):
        k -= 1
    return k


cdef void gradient_task(Run* r, Worker* w, Task* task, Py_ssize_t step,
                        Py_ssize_t rows) noexcept nogil:
    """A block of dW (and db), strip by strip from its end.

    Each goes into r.gradient if there is one, otherwise straight into W (and b).
    """
    cdef Op* op = &r.ops[task.op]
    cdef Py_ssize_t stop = task.i + task.m, i
    cdef tile_update u
    if r.gradient == NULL:
        prepare_update(r, step, task.op, 1, &u)
    while stop > task.i:
        i = task.i + (stop - task.i - 1) // STRIP_ROWS * STRIP_ROWS
        if r.gradient == NULL:
            if r.skip_unread and op.source == 0:
                i = changed_rows(r, i, &stop)
            if stop > i:
                update_strip(r, w, op, task, i, stop - i, step, rows, &u)
        else:
            gradient_strip(r, w, op, task, i, stop - i, rows)
        stop = i


cdef void gradient_strip(Run* r, Worker* w, Op* op, Task* task, Py_ssize_t i, Py_ssize_t m,
                         Py_ssize_t rows) noexcept nogil:
    """Rows i to i + m of a block of dW, into r.gradient."""
    cdef const tile_table* t = r.tiles
    cdef char* db = NULL
    if op.b >= 0:
        db = at(r.gradient, op.b + task.j, t)
    strip_gradient(r, w, op, task, i, m, rows, at(r.gradient, op.W + i * op.n_out + task.j, t),
                   op.n_out, db, NULL)


cdef void update_strip(Run* r, Worker* w, Op* op, Task* task, Py_ssize_t i, Py_ssize_t m,
                       Py_ssize_t step, Py_ssize_t rows, tile_update* u) noexcept nogil:
    """Rows i to i + m of a block of dW, straight into W."""
    cdef const tile_table* t = r.tiles
    cdef Py_ssize_t offset = op.W + i * op.n_out + task.j
    cdef char* dW = (w.scratch + scratch_bytes(t)
                     - (STRIP_ROWS + 1) * BLOCK_COLUMNS * t.item_size)
    cdef char* db = NULL
    cdef Near near
    cdef tile_update of_b
    if op.b >= 0:
        db = at(dW, STRIP_ROWS * BLOCK_COLUMNS, t)
    weights_and_state(r, op, offset, &near)
    strip_gradient(r, w, op, task, i, m, rows, dW, BLOCK_COLUMNS, db, &near)
    update(r, u, offset, m, task.n, op.n_out, dW, BLOCK_COLUMNS)
    if i == 0 and db != NULL:
        prepare_update(r, step, task.op, 0, &of_b)
        update(r, &of_b, op.b + task.j, 1, task.n, task.n, db, task.n)


cdef void gradient_tasks(Run* r, Worker* w, Py_ssize_t step, Py_ssize_t rows,
                         int team) noexcept nogil:
    """This thread's tiles of every dW."""
    cdef Py_ssize_t i = r.n_tasks - 1 - w.me
    # Last to first, against the order of the forward pass: what that read last is still near, and
    # what is changed last the next step reads first.
    while i >= 0:
        gradient_task(r, w, &r.tasks[i], step, rows)
        tick(w, TIMES * r.tasks[i].op + TIME_GRADIENT)
        i -= team


# ---- the calls of the engine

cdef inline void look_for_interrupt(Run* r, int me) noexcept nogil:
    """The first thread asks, a few times a second, whether to stop."""
    cdef double now
    if me != 0 or r.poll == NULL or r.stop:
        return
    now = team_clock()
    if now - r.polled >= POLL_SECONDS:
        if r.poll(r.context):
            r.stop = 1
        r.polled = team_clock()


cdef void train_rows(Run* r, Worker* w, Py_ssize_t first, Py_ssize_t rows,
                     int team) noexcept nogil:
    """This thread's rows of a batch: forward, loss, backward, block by block."""
    cdef Py_ssize_t r0 = share(rows, w.me, team), stop = share(rows, w.me + 1, team), r1
    cdef double total = batch_total(r, first, rows)
    while r0 < stop:
        r1 = min(stop, r0 + <Py_ssize_t>ROW_BLOCK)
        gather(r, w, first, rows, total, r0, r1)
        tick(w, TIMES * r.n_ops + TIME_GATHER)
        forward(r, w, r0, r1)
        loss_and_delta(r, w, r0, r1)
        backward(r, w, r0, r1)
        look_for_interrupt(r, w.me)
        r0 = r1


cdef bint train_step(Run* r, Worker* w, Py_ssize_t step, int team) noexcept nogil:
    """One step, by every thread of the team; whether to go on.

    r.stop is read between the two barriers alone, where nobody writes it: all threads agree.
    """
    cdef Py_ssize_t first = step * r.batch_size, rows = min(r.batch_size, r.n - first)
    train_rows(r, w, first, rows, team)
    if w.me == 0:
        transpose_batch(r, first, rows, r.order)
        tick(w, TIMES * r.n_ops + TIME_GATHER)
    weight_norms(r, w.me, team)
    team_wait(&r.barrier, team)
    tick(w, TIMES * r.n_ops + TIME_WAITING)
    if r.stop:
        return False
    if w.me == 0:
        r.batch_loss[step] = mean_loss(r, rows)
        r.batch_weight[step] = batch_total(r, first, rows)
    gradient_tasks(r, w, step, rows, team)
    if w.me == 0:
        r.steps = step + 1
    team_wait(&r.barrier, team)
    tick(w, TIMES * r.n_ops + TIME_WAITING)
    return isfinite(r.batch_loss[step])


cdef void train(Run* r, Worker* w, int team) noexcept nogil:
    """The steps of an epoch, up to a loss that is not finite or an interrupt."""
    cdef Py_ssize_t step, n_steps = (r.n + r.batch_size - 1) // r.batch_size
    w.since = team_clock()
    for step in range(n_steps):
        if not train_step(r, w, step, team):
            return


cdef void run_train(Run* r) noexcept nogil:
    """An epoch: one parallel region, or none for one thread."""
    r.polled = team_clock()
    if r.n_threads == 1:
        train(r, &r.workers[0], 1)
        return
    with nogil, parallel(num_threads=r.n_threads):
        train(r, &r.workers[threadid()], team_size())


cdef void run_forward(Run* r) noexcept nogil:
    """Forward over the whole tape."""
    cdef int me
    for me in range(r.n_threads):
        r.workers[me].X = r.sparse
    for me in prange(r.n_threads, num_threads=r.n_threads, schedule="static",
                     use_threads_if=r.n_threads > 1):
        forward(r, &r.workers[me], share(r.n, me, r.n_threads), share(r.n, me + 1, r.n_threads))


cdef void run_backward(Run* r) noexcept nogil:
    """Backward over the whole tape, then every tile of dW into r.gradient."""
    cdef int me
    for me in prange(r.n_threads, num_threads=r.n_threads, schedule="static",
                     use_threads_if=r.n_threads > 1):
        backward(r, &r.workers[me], share(r.n, me, r.n_threads), share(r.n, me + 1, r.n_threads))
    transpose_batch(r, 0, r.n, NULL)
    for me in prange(r.n_threads, num_threads=r.n_threads, schedule="static",
                     use_threads_if=r.n_threads > 1):
        gradient_tasks(r, &r.workers[me], 0, r.n, r.n_threads)


cdef void run_update(Run* r) noexcept nogil:
    """One step of the optimizer with the flat r.gradient."""
    cdef Py_ssize_t i
    cdef Op* op
    cdef tile_update u
    weight_norms(r, 0, 1)
    for i in range(r.n_ops):
        op = &r.ops[i]
        if op.W >= 0:
            prepare_update(r, 0, i, 1, &u)
            update(r, &u, op.W, 1, op.n_in * op.n_out, 0, at(r.gradient, op.W, r.tiles), 0)
        if op.b >= 0:
            prepare_update(r, 0, i, 0, &u)
            update(r, &u, op.b, 1, op.n_out, 0, at(r.gradient, op.b, r.tiles), 0)


cdef void outputs(Run* r, Worker* w, char* Z, Py_ssize_t block) noexcept nogil:
    """The raw outputs of this thread's rows of X, block by block on its own tape."""
    cdef Py_ssize_t r0 = share(r.n, w.me, r.n_threads), stop = share(r.n, w.me + 1, r.n_threads)
    cdef Py_ssize_t last = r.ops[r.n_ops - 1].target, rows
    while r0 < stop and not r.stop:
        rows = min(block, stop - r0)
        # The first value is X and the last is the result: neither is copied.
        w.X.indptr = NULL
        if r.sparse.indptr != NULL:
            w.X = sparse_from(&r.sparse, r0, NULL)
        else:
            w.tape.A[0] = <char*>const_at(r.X, r0 * r.widths[0], r.tiles)
        w.tape.A[last] = at(Z, r0 * r.widths[last], r.tiles)
        forward(r, w, 0, rows)
        look_for_interrupt(r, w.me)
        r0 += rows


cdef void run_outputs(Run* r, Worker* workers, char* Z, Py_ssize_t block) noexcept nogil:
    """Z (n, O), the raw outputs of X (n, I)."""
    cdef int me
    r.polled = team_clock()
    for me in prange(r.n_threads, num_threads=r.n_threads, schedule="static",
                     use_threads_if=r.n_threads > 1):
        outputs(r, &workers[me], Z, block)
