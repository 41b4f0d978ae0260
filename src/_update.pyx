# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: freethreading_compatible=True
"""Gradient and update: D → dW, db → W, b, in tasks, each of which one thread of the team makes.

A task is a block of a dW, summed over the whole batch in order; it is spent on its weights while it is
in cache, unless somebody wants the whole gradient, or its norm, first.
"""

from libc.math cimport isinf, sqrt
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from bpfast.native._batch cimport next_turn, sparse_from
from bpfast.native._ops cimport op_row
from bpfast.native._step cimport (
    BLOCK_COLUMNS,
    BLOCK_ROWS,
    CHUNK,
    STRIP_ROWS,
    TIME_GRADIENT,
    TIMES,
    Op,
    Run,
    Task,
    Worker,
    absent,
    at,
    const_at,
    share,
    team_wait,
    tick,
    tile_csr,
    tile_table,
    tile_update,
)

cdef enum:
    # Columns of W that are brought near at a time.
    PANEL_COLUMNS = 32


cdef Py_ssize_t scratch_bytes(const tile_table* tiles) noexcept nogil:
    """The scratch memory of one thread: a product's, a block of dW and a piece of db."""
    return (tiles.product_scratch + (BLOCK_ROWS + 1) * BLOCK_COLUMNS) * tiles.item_size


cdef void weight_gradient(
        const tile_table* t, Py_ssize_t B, Py_ssize_t I, Py_ssize_t O, const char* A_prev,
        const char* D, Py_ssize_t i, Py_ssize_t m, Py_ssize_t j, Py_ssize_t n, char* dW,
        Py_ssize_t ldw, char* db, char* scratch) noexcept nogil:
    """Rows i to i + m, columns j to j + n of dW = A_prevᵀ D, summed over all B rows in order.

    With the first rows also that piece of db.
    """
    D = const_at(D, j, t)
    t.product(m, n, B, const_at(A_prev, i, t), 1, I, D, O, 1, NULL, dW, ldw, scratch)
    if i == 0 and db != NULL:
        t.column_sums(B, n, D, O, db)


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
        if not r.ops[i].matrix:
            continue
        row_squares(r, &r.ops[i], me, team)
        team_wait(&r.barrier, team)
        if me == 0:
            total = 0
            for row in range(r.ops[i].n_in):
                total += r.row_squares[row]
            r.norms[i] = sqrt(total)
        team_wait(&r.barrier, team)


cdef void penalty_rows(Run* r, int me, int team) noexcept nogil:
    """This thread's share of what the rows of every W add to the penalty, where somebody asks."""
    cdef Py_ssize_t i, row, before = 0
    cdef Op* op
    if not r.objective or r.penalty == NULL or r.penalty.value == NULL:
        return
    for i in range(r.n_ops):
        op = &r.ops[i]
        if not op.matrix:
            continue
        for row in range(share(op.n_in, me, team), share(op.n_in, me + 1, team)):
            r.row_values[before + row] = r.penalty.value(
                op.n_out, r.mix, at(r.parameters, op.W + row * op.n_out, r.tiles))
        before += op.n_in


cdef double penalty_value(Run* r, Py_ssize_t step) noexcept nogil:
    """The penalty of the weights before the step, where the losses are to include it."""
    cdef Py_ssize_t i, row, before = 0
    cdef double total = 0
    if not r.objective or r.penalty == NULL:
        return 0
    for i in range(r.n_ops):
        if not r.ops[i].matrix:
            continue
        if r.penalty.value == NULL:
            total += r.norms[i]
            continue
        for row in range(before, before + r.ops[i].n_in):
            total += r.row_values[row]
        before += r.ops[i].n_in
    return total * step_alpha(r, step)


cdef inline double step_alpha(Run* r, Py_ssize_t step) noexcept nogil:
    """The penalty's strength in a step."""
    return r.alpha if r.alphas == NULL else r.alphas[step]


cdef void prepare_step(Run* r, Worker* w, Py_ssize_t step) noexcept nogil:
    """The constants of one step that all parameters of the full learning rate have in common."""
    w.learning_rate, w.t = r.learning_rates[step], r.t + step + 1
    memset(&w.constants, 0, sizeof(tile_update))
    r.optimizer.prepare(r.hyperparameters, w.learning_rate, w.t, &w.constants)
    w.alpha = step_alpha(r, step)


cdef inline tile_update* plain_update(Run* r, Worker* w, double rate,
                                      tile_update* own) noexcept nogil:
    """The constants for parameters without a penalty: the step's, or at another rate its own."""
    if rate == 1:
        return &w.constants
    memset(own, 0, sizeof(tile_update))
    r.optimizer.prepare(r.hyperparameters, rate * w.learning_rate, w.t, own)
    return own


cdef tile_update weights_update(Run* r, Worker* w, Py_ssize_t i) noexcept nogil:
    """The constants for an op's weights: the step's, and the penalty's part."""
    cdef Op* op = &r.ops[i]
    cdef tile_update own
    cdef tile_update u = plain_update(r, w, op.W_rate, &own)[0]
    if not op.matrix:
        return u
    u.weight = 1
    if r.penalty != NULL:
        r.penalty.prepare(w.alpha, r.mix, r.norms[i], &u)
    return u


cdef void update(Run* r, tile_update* u, Py_ssize_t offset, Py_ssize_t m, Py_ssize_t n,
                 Py_ssize_t ldw, const char* G, Py_ssize_t ldg, const char* A) noexcept nogil:
    """Parameters (m, n) from `offset` on, and their state, by a gradient tile or A (m,) G (n,)."""
    cdef const tile_table* t = r.tiles
    cdef char* s0 = NULL
    cdef char* s1 = NULL
    if r.optimizer.n_states > 0:
        s0 = at(r.state0, offset, t)
    if r.optimizer.n_states > 1:
        s1 = at(r.state1, offset, t)
    r.optimizer.update(u, m, n, at(r.parameters, offset, t), ldw, G, ldg, A, s0,
                       s1)


cdef void fetch(Run* r, Op* op, Py_ssize_t offset, Py_ssize_t m, Py_ssize_t n) noexcept nogil:
    """What the update of W (m, n) from `offset` on will want comes near, unless it stays there."""
    cdef const tile_table* t = r.tiles
    if op.strip > STRIP_ROWS:
        return
    t.fetch(m, n, at(r.parameters, offset, t), op.n_out)
    if r.optimizer.n_states > 0:
        t.fetch(m, n, at(r.state0, offset, t), op.n_out)
    if r.optimizer.n_states > 1:
        t.fetch(m, n, at(r.state1, offset, t), op.n_out)


cdef void strip_gradient(Run* r, Worker* w, Op* op, Task* task, Py_ssize_t i, Py_ssize_t m,
                         Py_ssize_t rows, char* dW, Py_ssize_t ldw, char* db) noexcept nogil:
    """Rows i to i + m of a block of dW (and db), from the batch or the columns of a sparse one."""
    cdef const tile_table* t = r.tiles
    cdef const char* D = at(w.tape.D[op.target], task.j, t)
    cdef tile_csr columns
    if op.source > 0 or r.columns.indptr == NULL:
        weight_gradient(t, rows, op.n_in, op.n_out, w.tape.A[op.source], w.tape.D[op.target], i, m,
                        task.j, task.n, dW, ldw, db, w.scratch)
        return
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


cdef void gradient_task(Run* r, Worker* w, Task* task, Py_ssize_t rows) noexcept nogil:
    """A block of dW (and db), strip by strip from its end.

    Each goes into r.gradient if there is one, otherwise straight into W (and b).
    """
    cdef Op* op = &r.ops[task.op]
    cdef Py_ssize_t stop = task.i + task.m, i
    cdef tile_update u
    if not op.matrix or op.W_rate == 0:
        columns_task(r, w, op, task, rows)
        return
    if r.gradient == NULL:
        u = weights_update(r, w, task.op)
        if rows == 1 and task.n >= PANEL_COLUMNS and isinf(r.clip_value) and (
                op.source > 0 or r.columns.indptr == NULL):
            update_outer(r, w, op, task, &u)
            return
    while stop > task.i:
        i = task.i + (stop - task.i - 1) // op.strip * op.strip
        if r.gradient == NULL:
            if r.skip_unread and op.source == 0:
                i = changed_rows(r, i, &stop)
            if stop > i:
                update_strip(r, w, op, task, i, stop - i, rows, &u)
        else:
            gradient_strip(r, w, op, task, i, stop - i, rows)
        stop = i


cdef void gradient_strip(Run* r, Worker* w, Op* op, Task* task, Py_ssize_t i, Py_ssize_t m,
                         Py_ssize_t rows) noexcept nogil:
    """Rows i to i + m of a block of dW, into r.gradient."""
    cdef const tile_table* t = r.tiles
    cdef char* db = NULL
    if op.b >= 0 and op.b_rate > 0:
        db = at(r.gradient, op.b + task.j, t)
    strip_gradient(r, w, op, task, i, m, rows, at(r.gradient, op.W + i * op.n_out + task.j, t),
                   op.n_out, db)


cdef void columns_task(Run* r, Worker* w, Op* op, Task* task, Py_ssize_t rows) noexcept nogil:
    """Parameters of one number a column: an op's own, or the b of a W that stays as it is."""
    cdef const tile_table* t = r.tiles
    cdef Py_ssize_t j = task.j
    cdef char* dW = (w.scratch + scratch_bytes(t)
                     - (BLOCK_ROWS + 1) * BLOCK_COLUMNS * t.item_size)
    cdef char* db = at(dW, BLOCK_COLUMNS, t)
    cdef tile_update own
    if task.i > 0:
        return
    if op.matrix:
        if op.b >= 0 and op.b_rate > 0:
            t.column_sums(rows, task.n, at(w.tape.D[op.target], j, t), op.n_out, db)
    else:
        op_row(op.kind).gradient(r, op, w, rows, j, j + task.n, dW, db)
        if op.W_rate > 0:
            spend(r, plain_update(r, w, op.W_rate, &own), op.W + j, task.n, dW)
    if op.b >= 0 and op.b_rate > 0:
        spend(r, plain_update(r, w, op.b_rate, &own), op.b + j, task.n, db)


cdef void spend(Run* r, tile_update* u, Py_ssize_t offset, Py_ssize_t n, char* g) noexcept nogil:
    """A gradient (n,) goes into r.gradient if there is one, otherwise into the parameters."""
    cdef const tile_table* t = r.tiles
    if r.gradient != NULL:
        memcpy(at(r.gradient, offset, t), g, n * t.item_size)
        return
    clip(r, 1, n, g, 0)
    update(r, u, offset, 1, n, 0, g, 0, NULL)


cdef inline void clip(Run* r, Py_ssize_t m, Py_ssize_t n, char* g, Py_ssize_t ld) noexcept nogil:
    """Each element of a gradient within clip_value, if there is one."""
    if not isinf(r.clip_value):
        r.tiles.clamp(m, n, r.clip_value, g, ld)


cdef void update_outer(Run* r, Worker* w, Op* op, Task* task, tile_update* u) noexcept nogil:
    """The update of a block for a batch of one row: dW is an outer product, and never written."""
    cdef const tile_table* t = r.tiles
    cdef const char* D = at(w.tape.D[op.target], task.j, t)
    cdef tile_update own
    update(r, u, op.W + task.i * op.n_out + task.j, task.m, task.n, op.n_out, D, 0,
           at(w.tape.A[op.source], task.i, t))
    if task.i == 0 and op.b >= 0 and op.b_rate > 0:
        update(r, plain_update(r, w, op.b_rate, &own), op.b + task.j, 1, task.n, 0, D, 0, NULL)


cdef void update_strip(Run* r, Worker* w, Op* op, Task* task, Py_ssize_t i, Py_ssize_t m,
                       Py_ssize_t rows, tile_update* u) noexcept nogil:
    """Rows i to i + m of a block of dW, straight into W."""
    cdef const tile_table* t = r.tiles
    cdef Py_ssize_t offset = op.W + i * op.n_out + task.j, c = 0, wide
    cdef char* dW = (w.scratch + scratch_bytes(t)
                     - (BLOCK_ROWS + 1) * BLOCK_COLUMNS * t.item_size)
    cdef char* db = NULL
    cdef Task panel = task[0]
    cdef tile_update own
    if op.b >= 0:
        db = at(dW, BLOCK_ROWS * BLOCK_COLUMNS, t)
    while c < task.n:
        # A panel of columns at a time: so much can be on its way while the sums go on.
        wide = min(<Py_ssize_t>PANEL_COLUMNS, task.n - c)
        fetch(r, op, offset + c, m, wide)
        next_turn(r, w)
        panel.j, panel.n = task.j + c, wide
        strip_gradient(r, w, op, &panel, i, m, rows, at(dW, c, t), task.n,
                       NULL if db == NULL else at(db, c, t))
        c += wide
    clip(r, m, task.n, dW, task.n)
    if task.n == op.n_out:
        # Whole rows lie behind each other, in W as in dW.
        update(r, u, offset, 1, m * task.n, 0, dW, 0, NULL)
    else:
        update(r, u, offset, m, task.n, op.n_out, dW, task.n, NULL)
    if i == 0 and db != NULL and op.b_rate > 0:
        clip(r, 1, task.n, db, 0)
        update(r, plain_update(r, w, op.b_rate, &own), op.b + task.j, 1, task.n, 0, db, 0, NULL)


cdef void gradient_tasks(Run* r, Worker* w, Py_ssize_t step, Py_ssize_t rows,
                         int team) noexcept nogil:
    """This thread's tiles of every dW: those that begin in its share of all the elements."""
    cdef Py_ssize_t i, low = share(r.elements, w.me, team), high = share(r.elements, w.me + 1, team)
    if r.learning_rates != NULL:
        prepare_step(r, w, step)
    # Last to first, against the order of the forward pass: what that read last is still near, and
    # what is changed last the next step reads first.
    for i in range(r.n_tasks - 1, -1, -1):
        if low <= r.tasks[i].before < high and not absent(r, &r.ops[r.tasks[i].op]):
            gradient_task(r, w, &r.tasks[i], rows)
            tick(w, TIMES * r.tasks[i].op + TIME_GRADIENT)


# ---- a gradient that is clipped by its norm: it must be whole before it is spent

cdef void chunk_norms(Run* r, int me, int team) noexcept nogil:
    """This thread's chunks of the gradient: their elements clipped, their squares summed up."""
    cdef const tile_table* t = r.tiles
    cdef Py_ssize_t chunks = (r.size + CHUNK - 1) // CHUNK, k, n
    for k in range(share(chunks, me, team), share(chunks, me + 1, team)):
        n = min(<Py_ssize_t>CHUNK, r.size - k * CHUNK)
        clip(r, 1, n, at(r.gradient, k * CHUNK, t), 0)
        r.chunk_squares[k] = t.sum_of_squares(n, at(r.gradient, k * CHUNK, t))


cdef double clip_factor(Run* r) noexcept nogil:
    """What brings the gradient's norm down to clip_norm, from the sums of the chunks in order."""
    cdef Py_ssize_t k
    cdef double total = 0
    for k in range((r.size + CHUNK - 1) // CHUNK):
        total += r.chunk_squares[k]
    total = sqrt(total)
    return r.clip_norm / total if total > r.clip_norm else 1


cdef void spend_block(Run* r, tile_update* u, Py_ssize_t offset, Py_ssize_t m, Py_ssize_t n,
                      Py_ssize_t ld, double factor) noexcept nogil:
    """A block (m, n) of the whole gradient, scaled, into the parameters."""
    cdef const tile_table* t = r.tiles
    cdef Py_ssize_t i
    if factor != 1:
        for i in range(m):
            t.scale(n, factor, at(r.gradient, offset + i * ld, t))
    update(r, u, offset, m, n, ld, at(r.gradient, offset, t), ld, NULL)


cdef void spend_task(Run* r, Worker* w, Task* task, double factor) noexcept nogil:
    """A task's share of the whole gradient into the parameters."""
    cdef Op* op = &r.ops[task.op]
    cdef tile_update u, own
    if op.W_rate > 0:
        u = weights_update(r, w, task.op)
        spend_block(r, &u, op.W + task.i * op.n_out + task.j, task.m, task.n, op.n_out, factor)
    if task.i == 0 and op.b >= 0 and op.b_rate > 0:
        spend_block(r, plain_update(r, w, op.b_rate, &own), op.b + task.j, 1, task.n, 0, factor)


cdef void spend_gradient(Run* r, Worker* w, int team) noexcept nogil:
    """The whole gradient, clipped, into the parameters, by the whole team."""
    cdef Py_ssize_t i, low = share(r.elements, w.me, team), high = share(r.elements, w.me + 1, team)
    cdef double factor
    team_wait(&r.barrier, team)
    chunk_norms(r, w.me, team)
    team_wait(&r.barrier, team)
    factor = clip_factor(r)
    for i in range(r.n_tasks):
        if low <= r.tasks[i].before < high:
            spend_task(r, w, &r.tasks[i], factor)


cdef void run_update(Run* r) noexcept nogil:
    """One step of the optimizer with the flat r.gradient, which is clipped in place."""
    cdef Py_ssize_t i
    cdef Worker* w = &r.workers[0]
    cdef double factor = 1
    weight_norms(r, 0, 1)
    prepare_step(r, w, 0)
    if not isinf(r.clip_value) or not isinf(r.clip_norm):
        chunk_norms(r, 0, 1)
        factor = clip_factor(r)
    for i in range(r.n_tasks):
        spend_task(r, w, &r.tasks[i], factor)
