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


cdef Py_ssize_t scratch_bytes(const tile_table* tiles) noexcept nogil:
    """The scratch memory of one thread: a packed panel, a block of dW and a piece of db."""
    return (PANEL_DEPTH + BLOCK_ROWS + 1) * tiles.columns * tiles.item_size


cdef void product(
        const tile_table* t, Py_ssize_t m, Py_ssize_t n, Py_ssize_t depth,
        const char* A, Py_ssize_t a_rs, Py_ssize_t a_cs,
        const char* B, Py_ssize_t b_rs, Py_ssize_t b_cs,
        const char* bias, char* C, Py_ssize_t ldc, char* panel) noexcept nogil:
    """C (m, n) = [bias +] A (m, depth) B (depth, n), by packed panels of B.

    All three products of backpropagation are this one, with other strides. `panel` is scratch.
    """
    cdef Py_ssize_t k = 0, j, deep, wide, ldb
    cdef const char* source
    cdef const char* start_bias
    cdef int start
    while k < depth:
        deep = min(<Py_ssize_t>PANEL_DEPTH, depth - k)
        j = 0
        while j < n:
            wide = min(<Py_ssize_t>t.columns, n - j)
            source = const_at(B, k * b_rs + j * b_cs, t)
            if b_cs == 1 and wide == t.columns and m <= 2 * t.rows:
                # Too few rows to earn a packed copy.
                ldb = b_rs
            else:
                t.pack(deep, wide, source, b_rs, b_cs, panel)
                source, ldb = panel, t.columns
            start = FROM_C if k > 0 else (FROM_ZERO if bias == NULL else FROM_BIAS)
            start_bias = NULL if bias == NULL else const_at(bias, j, t)
            t.gemm(m, wide, deep, const_at(A, k * a_cs, t), a_rs, a_cs, source, ldb, start,
                   start_bias, at(C, j, t), ldc)
            j += wide
        k += deep


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


cdef void gather(Run* r, Py_ssize_t first, Py_ssize_t rows, double total, Py_ssize_t r0,
                 Py_ssize_t r1) noexcept nogil:
    """Rows r0 to r1 of the batch that begins at `first`: X, Y and what each counts in the mean."""
    cdef Py_ssize_t i, row, size = r.tiles.item_size
    cdef Py_ssize_t x_bytes = r.widths[0] * size
    cdef Py_ssize_t y_bytes = r.widths[r.ops[r.n_ops - 1].target] * size
    for i in range(r0, r1):
        row = first + i if r.order == NULL else r.order[first + i]
        memcpy(r.tape.A[0] + i * x_bytes, r.X + row * x_bytes, x_bytes)
        if r.classes != NULL:
            r.batch_classes[i] = r.classes[row]
        else:
            memcpy(r.batch_Y + i * y_bytes, r.Y + row * y_bytes, y_bytes)
        if r.weights == NULL:
            r.row_scale[i] = 1.0 / rows
        else:
            r.row_scale[i] = r.weights[row] / total if total > 0 else 0


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

cdef void dense_forward(Run* r, Op* op, Tape* tape, Py_ssize_t r0, Py_ssize_t r1,
                        char* scratch) noexcept nogil:
    """A = f(X W + b) for rows r0 to r1."""
    cdef const tile_table* t = r.tiles
    cdef char* X = at(tape.A[op.source], r0 * op.n_in, t)
    cdef char* A = at(tape.A[op.target], r0 * op.n_out, t)
    cdef char* Z = A
    cdef char* b = NULL
    if tape.Z[op.target] != NULL:
        Z = at(tape.Z[op.target], r0 * op.n_out, t)
    if op.b >= 0:
        b = at(r.parameters, op.b, t)
    product(t, r1 - r0, op.n_out, op.n_in, X, op.n_in, 1, at(r.parameters, op.W, t), op.n_out, 1,
            b, Z, op.n_out, scratch)
    op.activation.forward((r1 - r0) * op.n_out, op.parameter, Z, A)


cdef void activation_forward(Run* r, Op* op, Tape* tape, Py_ssize_t r0, Py_ssize_t r1,
                             char* scratch) noexcept nogil:
    """A = f(X) for rows r0 to r1."""
    cdef const tile_table* t = r.tiles
    cdef Py_ssize_t first = r0 * op.n_out, n = (r1 - r0) * op.n_out
    cdef char* X = at(tape.A[op.source], first, t)
    if tape.Z[op.target] != NULL:
        memcpy(at(tape.Z[op.target], first, t), X, n * t.item_size)
    op.activation.forward(n, op.parameter, X, at(tape.A[op.target], first, t))


cdef void forward(Run* r, Tape* tape, Py_ssize_t r0, Py_ssize_t r1, char* scratch) noexcept nogil:
    """All ops, in order, for rows r0 to r1."""
    cdef Py_ssize_t i
    for i in range(r.n_ops):
        OPS[r.ops[i].kind].forward(r, &r.ops[i], tape, r0, r1, scratch)


# ---- loss and delta

cdef void loss_and_delta(Run* r, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """The loss of rows r0 to r1, and D = ∂L/∂Z of the batch's mean."""
    cdef const tile_table* t = r.tiles
    cdef Py_ssize_t last = r.ops[r.n_ops - 1].target, n = r.widths[last]
    cdef const int64_t* classes = NULL
    if r.classes != NULL:
        classes = r.batch_classes + r0
    r.loss.loss(r1 - r0, n, r.loss_parameter, at(r.batch_Y, r0 * n, t), classes,
                at(r.tape.A[last], r0 * n, t), r.row_scale + r0, at(r.tape.D[last], r0 * n, t),
                r.row_loss + r0)


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

cdef inline void own_delta(Run* r, Op* op, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """D = dA ⊙ f'(Z) for rows r0 to r1, in place."""
    cdef const tile_table* t = r.tiles
    cdef Py_ssize_t first = r0 * op.n_out
    cdef char* saved = r.tape.Z[op.target] if op.activation.saves_z else r.tape.A[op.target]
    if strcmp(op.activation.name, b"identity") != 0:
        op.activation.backward((r1 - r0) * op.n_out, op.parameter, at(saved, first, t),
                               at(r.tape.D[op.target], first, t))


cdef void dense_backward(Run* r, Op* op, Py_ssize_t r0, Py_ssize_t r1,
                         char* scratch) noexcept nogil:
    """D = dA ⊙ f'(Z), and the source's dA = D Wᵀ unless nobody wants it."""
    cdef const tile_table* t = r.tiles
    own_delta(r, op, r0, r1)
    if op.source == 0 and not r.want_input_delta:
        return
    product(t, r1 - r0, op.n_in, op.n_out, at(r.tape.D[op.target], r0 * op.n_out, t), op.n_out, 1,
            at(r.parameters, op.W, t), 1, op.n_out, NULL,
            at(r.tape.D[op.source], r0 * op.n_in, t), op.n_in, scratch)


cdef void activation_backward(Run* r, Op* op, Py_ssize_t r0, Py_ssize_t r1,
                              char* scratch) noexcept nogil:
    """The source's dA = dA ⊙ f'(X)."""
    cdef const tile_table* t = r.tiles
    cdef Py_ssize_t first = r0 * op.n_out
    own_delta(r, op, r0, r1)
    if op.source == 0 and not r.want_input_delta:
        return
    memcpy(at(r.tape.D[op.source], first, t), at(r.tape.D[op.target], first, t),
           (r1 - r0) * op.n_out * t.item_size)


cdef void backward(Run* r, Py_ssize_t r0, Py_ssize_t r1, char* scratch) noexcept nogil:
    """All ops, last to first, for rows r0 to r1."""
    cdef Py_ssize_t i
    for i in range(r.n_ops - 1, -1, -1):
        OPS[r.ops[i].kind].backward(r, &r.ops[i], r0, r1, scratch)


# The table of ops: what `program.Op.kind` names.
ctypedef struct OpRow:
    const char* name
    void (*forward)(Run*, Op*, Tape*, Py_ssize_t, Py_ssize_t, char*) noexcept nogil
    void (*backward)(Run*, Op*, Py_ssize_t, Py_ssize_t, char*) noexcept nogil

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
        const char* D, Task* task, char* dW, Py_ssize_t ldw, char* db, char* panel) noexcept nogil:
    """A block of dW = A_prevᵀ D, summed over all B rows in order; with its first rows also db."""
    product(t, task.m, task.n, B, const_at(A_prev, task.i, t), 1, I, const_at(D, task.j, t), O, 1,
            NULL, dW, ldw, panel)
    if task.i == 0 and db != NULL:
        t.column_sums(B, task.n, const_at(D, task.j, t), O, db)


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


cdef void gradient_task(Run* r, Task* task, Py_ssize_t step, Py_ssize_t rows,
                        char* scratch) noexcept nogil:
    """One tile of dW (and db): into r.gradient if there is one, otherwise straight into W (and b)."""
    cdef const tile_table* t = r.tiles
    cdef Op* op = &r.ops[task.op]
    cdef Py_ssize_t offset = op.W + task.i * op.n_out + task.j, ld = t.columns
    cdef char* dW = at(scratch, PANEL_DEPTH * ld, t)
    cdef char* db = NULL
    cdef tile_update u
    if op.b >= 0:
        db = at(scratch, (PANEL_DEPTH + BLOCK_ROWS) * ld, t)
    if r.gradient != NULL:
        dW, ld = at(r.gradient, offset, t), op.n_out
        if db != NULL:
            db = at(r.gradient, op.b + task.j, t)
    weight_gradient(t, rows, op.n_in, op.n_out, r.tape.A[op.source], r.tape.D[op.target], task,
                    dW, ld, db, scratch)
    if r.gradient != NULL:
        return
    prepare_update(r, step, task.op, 1, &u)
    update(r, &u, offset, task.m, task.n, op.n_out, dW, ld)
    if task.i == 0 and db != NULL:
        prepare_update(r, step, task.op, 0, &u)
        update(r, &u, op.b + task.j, 1, task.n, task.n, db, task.n)


cdef void gradient_tasks(Run* r, Py_ssize_t step, Py_ssize_t rows, int me,
                         int team) noexcept nogil:
    """This thread's tiles of every dW."""
    cdef Py_ssize_t i = me
    while i < r.n_tasks:
        gradient_task(r, &r.tasks[i], step, rows, r.scratch + me * r.scratch_size)
        i += team


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


cdef void train_rows(Run* r, Py_ssize_t first, Py_ssize_t rows, int me, int team,
                     char* scratch) noexcept nogil:
    """This thread's rows of a batch: forward, loss, backward, block by block."""
    cdef Py_ssize_t r0 = share(rows, me, team), stop = share(rows, me + 1, team), r1
    cdef double total = batch_total(r, first, rows)
    while r0 < stop:
        r1 = min(stop, r0 + <Py_ssize_t>ROW_BLOCK)
        gather(r, first, rows, total, r0, r1)
        forward(r, &r.tape, r0, r1, scratch)
        loss_and_delta(r, r0, r1)
        backward(r, r0, r1, scratch)
        look_for_interrupt(r, me)
        r0 = r1


cdef bint train_step(Run* r, Py_ssize_t step, int me, int team) noexcept nogil:
    """One step, by every thread of the team; whether to go on.

    r.stop is read between the two barriers alone, where nobody writes it: all threads agree.
    """
    cdef Py_ssize_t first = step * r.batch_size, rows = min(r.batch_size, r.n - first)
    cdef char* scratch = r.scratch + me * r.scratch_size
    train_rows(r, first, rows, me, team, scratch)
    weight_norms(r, me, team)
    team_wait(&r.barrier, team)
    if r.stop:
        return False
    if me == 0:
        r.batch_loss[step] = mean_loss(r, rows)
        r.batch_weight[step] = batch_total(r, first, rows)
    gradient_tasks(r, step, rows, me, team)
    if me == 0:
        r.steps = step + 1
    team_wait(&r.barrier, team)
    return isfinite(r.batch_loss[step])


cdef void train(Run* r, int me, int team) noexcept nogil:
    """The steps of an epoch, up to a loss that is not finite or an interrupt."""
    cdef Py_ssize_t step, n_steps = (r.n + r.batch_size - 1) // r.batch_size
    for step in range(n_steps):
        if not train_step(r, step, me, team):
            return


cdef void run_train(Run* r) noexcept nogil:
    """An epoch: one parallel region, or none for one thread."""
    r.polled = team_clock()
    if r.n_threads == 1:
        train(r, 0, 1)
        return
    with nogil, parallel(num_threads=r.n_threads):
        train(r, threadid(), team_size())


cdef void run_forward(Run* r) noexcept nogil:
    """Forward over the whole tape."""
    cdef int me
    for me in prange(r.n_threads, num_threads=r.n_threads, schedule="static",
                     use_threads_if=r.n_threads > 1):
        forward(r, &r.tape, share(r.n, me, r.n_threads), share(r.n, me + 1, r.n_threads),
                r.scratch + me * r.scratch_size)


cdef void run_backward(Run* r) noexcept nogil:
    """Backward over the whole tape, then every tile of dW into r.gradient."""
    cdef int me
    for me in prange(r.n_threads, num_threads=r.n_threads, schedule="static",
                     use_threads_if=r.n_threads > 1):
        backward(r, share(r.n, me, r.n_threads), share(r.n, me + 1, r.n_threads),
                 r.scratch + me * r.scratch_size)
    for me in prange(r.n_threads, num_threads=r.n_threads, schedule="static",
                     use_threads_if=r.n_threads > 1):
        gradient_tasks(r, 0, r.n, me, r.n_threads)


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


cdef void outputs(Run* r, Tape* tape, char* Z, Py_ssize_t block, int me) noexcept nogil:
    """The raw outputs of this thread's rows of X, block by block on its own tape."""
    cdef Py_ssize_t r0 = share(r.n, me, r.n_threads), stop = share(r.n, me + 1, r.n_threads), rows
    cdef Py_ssize_t last = r.ops[r.n_ops - 1].target
    while r0 < stop and not r.stop:
        rows = min(block, stop - r0)
        # The first value is X and the last is the result: neither is copied.
        tape.A[0] = <char*>const_at(r.X, r0 * r.widths[0], r.tiles)
        tape.A[last] = at(Z, r0 * r.widths[last], r.tiles)
        forward(r, tape, 0, rows, r.scratch + me * r.scratch_size)
        look_for_interrupt(r, me)
        r0 += rows


cdef void run_outputs(Run* r, Tape* tapes, char* Z, Py_ssize_t block) noexcept nogil:
    """Z (n, O), the raw outputs of X (n, I)."""
    cdef int me
    r.polled = team_clock()
    for me in prange(r.n_threads, num_threads=r.n_threads, schedule="static",
                     use_threads_if=r.n_threads > 1):
        outputs(r, &tapes[me], Z, block, me)
