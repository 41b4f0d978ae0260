"""Gradient and update: D → dW, db → W, b, in tasks, each of which is run by one thread of the team.

A task is a block of a dW, summed over the whole batch in order. It is applied to its weights while it is in
the cache, unless the whole gradient, or its norm, is needed first.
"""

from libc.math cimport isinf, sqrt
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from run cimport (
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
    add_time,
    at,
    const_at,
    inactive,
    share,
    team_wait,
)
from tiles cimport tile_csr, tile_table, tile_update

cdef enum:
    # Columns of W that are prefetched at a time.
    PANEL_COLUMNS = 32


cdef Py_ssize_t scratch_bytes(const tile_table* tiles) noexcept nogil:
    """Scratch memory of one thread: that of a product, a block of dW and a piece of db."""
    return (tiles.product_scratch + (BLOCK_ROWS + 1) * BLOCK_COLUMNS) * tiles.item_size


cdef inline char* scratch_block(Run* r, Worker* w) noexcept nogil:
    """The block of dW, and the piece of db after it, in the scratch memory of a thread."""
    return at(w.scratch, r.program.tiles.product_scratch, r.program.tiles)


cdef void gradient_tile(
        const tile_table* t, Py_ssize_t B, Py_ssize_t I, Py_ssize_t O, const char* A_prev,
        const char* D, Py_ssize_t i, Py_ssize_t m, Py_ssize_t j, Py_ssize_t n, char* dW,
        Py_ssize_t ldw, char* db, char* scratch) noexcept nogil:
    """Rows i to i + m, columns j to j + n of dW = A_prevᵀ D, summed over all B rows in order.

    For i = 0 also that piece of db, unless it is NULL.
    """
    D = const_at(D, j, t)
    t.product(m, n, B, const_at(A_prev, i, t), 1, I, D, O, 1, NULL, dW, ldw, scratch)
    if i == 0 and db != NULL:
        t.column_sums(B, n, D, O, db)


# ---- the penalty of the weights before the step

cdef void row_squares(Run* r, Op* op, int me, int team) noexcept nogil:
    """This thread's share of the sums of squares of the rows of W."""
    cdef Py_ssize_t i
    for i in range(share(op.n_in, me, team), share(op.n_in, me + 1, team)):
        r.program.row_squares[i] = r.program.tiles.sum_of_squares(
            op.n_out, at(r.parameters, op.W + i * op.n_out, r.program.tiles))


cdef void weight_norms(Run* r, int me, int team) noexcept nogil:
    """Compute ‖W‖_F of every op if the penalty needs it. The whole team calls this."""
    cdef Py_ssize_t i, row
    cdef double total
    if r.update.penalty == NULL or not r.update.penalty.needs_norm:
        return
    for i in range(r.program.n_ops):
        if not r.program.ops[i].matrix:
            continue
        row_squares(r, &r.program.ops[i], me, team)
        team_wait(&r.team.barrier, team)
        if me == 0:
            total = 0
            for row in range(r.program.ops[i].n_in):
                total += r.program.row_squares[row]
            r.program.norms[i] = sqrt(total)
        team_wait(&r.team.barrier, team)


cdef void penalty_rows(Run* r, int me, int team) noexcept nogil:
    """This thread's share of the penalties of the rows of every W, if the objective includes them."""
    cdef Py_ssize_t i, row, before = 0
    cdef Op* op
    if (not r.update.with_penalty or r.update.penalty == NULL
            or r.update.penalty.value == NULL):
        return
    for i in range(r.program.n_ops):
        op = &r.program.ops[i]
        if not op.matrix:
            continue
        for row in range(share(op.n_in, me, team), share(op.n_in, me + 1, team)):
            r.program.row_penalties[before + row] = r.update.penalty.value(
                op.n_out, r.update.mix, at(r.parameters, op.W + row * op.n_out, r.program.tiles))
        before += op.n_in


cdef double penalty_value(Run* r, Py_ssize_t step) noexcept nogil:
    """The penalty of the weights before the step, or 0 if the objective does not include it."""
    cdef Py_ssize_t i, row, before = 0
    cdef double total = 0
    if not r.update.with_penalty or r.update.penalty == NULL:
        return 0
    for i in range(r.program.n_ops):
        if not r.program.ops[i].matrix:
            continue
        if r.update.penalty.value == NULL:
            total += r.program.norms[i]
            continue
        for row in range(before, before + r.program.ops[i].n_in):
            total += r.program.row_penalties[row]
        before += r.program.ops[i].n_in
    return total * step_alpha(r, step)


cdef inline double step_alpha(Run* r, Py_ssize_t step) noexcept nogil:
    """The strength of the penalty in a step."""
    return r.update.alpha if r.update.alphas == NULL else r.update.alphas[step]


# ---- the update of a block of parameters

cdef void prepare_step(Run* r, Worker* w, Py_ssize_t step) noexcept nogil:
    """Compute the constants of a step, for all parameters whose learning rate is not scaled."""
    w.learning_rate, w.t = r.update.learning_rates[step], r.update.t + step + 1
    memset(&w.constants, 0, sizeof(tile_update))
    r.update.optimizer.prepare(r.update.hyperparameters, w.learning_rate, w.t, &w.constants)
    w.alpha = step_alpha(r, step)


cdef inline tile_update* plain_update(Run* r, Worker* w, double lr_scale,
                                      tile_update* scaled) noexcept nogil:
    """The constants for parameters without a penalty: those of the step, or scaled ones."""
    if lr_scale == 1:
        return &w.constants
    memset(scaled, 0, sizeof(tile_update))
    r.update.optimizer.prepare(r.update.hyperparameters, lr_scale * w.learning_rate, w.t, scaled)
    return scaled


cdef tile_update weights_update(Run* r, Worker* w, Py_ssize_t i) noexcept nogil:
    """The constants for an op's weights, those of the penalty included."""
    cdef Op* op = &r.program.ops[i]
    cdef tile_update scaled
    cdef tile_update u = plain_update(r, w, op.W_lr_scale, &scaled)[0]
    if not op.matrix:
        return u
    u.weight = 1
    if r.update.penalty != NULL:
        r.update.penalty.prepare(w.alpha, r.update.mix, r.program.norms[i], &u)
    return u


cdef void update(Run* r, tile_update* u, Py_ssize_t offset, Py_ssize_t m, Py_ssize_t n,
                 Py_ssize_t ldw, const char* G, Py_ssize_t ldg, const char* A) noexcept nogil:
    """Update parameters (m, n) from `offset` on, and their state, by a tile G or by A (m,) G (n,)."""
    cdef const tile_table* t = r.program.tiles
    cdef char* s0 = NULL
    cdef char* s1 = NULL
    if r.update.optimizer.n_states > 0:
        s0 = at(r.update.state0, offset, t)
    if r.update.optimizer.n_states > 1:
        s1 = at(r.update.state1, offset, t)
    r.update.optimizer.update(u, m, n, at(r.parameters, offset, t), ldw, G, ldg, A, s0, s1)


cdef inline void clip(Run* r, Py_ssize_t m, Py_ssize_t n, char* g, Py_ssize_t ld) noexcept nogil:
    """Clip each element of a gradient to clip_value."""
    if not isinf(r.update.clip_value):
        r.program.tiles.clamp(m, n, r.update.clip_value, g, ld)


cdef void apply_columns(Run* r, tile_update* u, Py_ssize_t offset, Py_ssize_t n,
                        char* g) noexcept nogil:
    """Write a gradient g (n,) into the whole gradient if there is one, otherwise apply it."""
    cdef const tile_table* t = r.program.tiles
    if r.update.gradient != NULL:
        memcpy(at(r.update.gradient, offset, t), g, n * t.item_size)
        return
    clip(r, 1, n, g, 0)
    update(r, u, offset, 1, n, 0, g, 0, NULL)


# ---- tasks

cdef void gradient_tasks(Run* r, Worker* w, Py_ssize_t step, Py_ssize_t rows,
                         int team) noexcept nogil:
    """Run this thread's tasks: those that begin in its share of all the elements."""
    cdef Py_ssize_t i, low = share(r.program.elements, w.me, team)
    cdef Py_ssize_t high = share(r.program.elements, w.me + 1, team)
    cdef Task* task
    if r.update.learning_rates != NULL:
        prepare_step(r, w, step)
    # Last to first, against the order of the forward pass: its last reads are still in the cache, and the
    # next step begins with the weights that were updated last.
    for i in range(r.program.n_tasks - 1, -1, -1):
        task = &r.program.tasks[i]
        if low <= task.before < high and not inactive(r, &r.program.ops[task.op]):
            gradient_task(r, w, task, rows)
            add_time(w, TIMES * task.op + TIME_GRADIENT)


cdef void gradient_task(Run* r, Worker* w, Task* task, Py_ssize_t rows) noexcept nogil:
    """A block of dW (and db), strip by strip from its end, applied or written into the gradient."""
    cdef Op* op = &r.program.ops[task.op]
    cdef Py_ssize_t stop = task.i + task.m, i
    cdef tile_update u
    if not op.matrix or op.W_lr_scale == 0:
        columns_task(r, w, op, task, rows)
        return
    if r.update.gradient == NULL:
        u = weights_update(r, w, task.op)
        if rows == 1 and task.n >= PANEL_COLUMNS and isinf(r.update.clip_value) and (
                op.source > 0 or r.batch.columns.indptr == NULL):
            update_outer(r, w, op, task, &u)
            return
    while stop > task.i:
        i = task.i + (stop - task.i - 1) // op.strip * op.strip
        if r.update.gradient == NULL:
            if r.update.skip_unused_rows and op.source == 0:
                i = used_rows(r, i, &stop)
            if stop > i:
                update_strip(r, w, op, task, i, stop - i, rows, &u)
        else:
            gradient_strip(r, w, op, task, i, stop - i, rows)
        stop = i


cdef Py_ssize_t used_rows(Run* r, Py_ssize_t i, Py_ssize_t* stop) noexcept nogil:
    """The last contiguous rows in i to stop whose columns of X have entries in the batch.

    Returns their start and lowers stop to their end. Row 0 always counts, because of b.
    """
    cdef const int64_t* starts = r.batch.columns.indptr
    cdef Py_ssize_t k = stop[0]
    while k > i and k > 1 and starts[k - 1] == starts[k]:
        k -= 1
    stop[0] = k
    while k > i and (k == 1 or starts[k - 1] < starts[k]):
        k -= 1
    return k


cdef void strip(Run* r, Worker* w, Op* op, Task* task, Py_ssize_t i, Py_ssize_t m,
                Py_ssize_t rows, char* dW, Py_ssize_t ldw, char* db) noexcept nogil:
    """Compute rows i to i + m of a block of dW (and db), for a dense or a sparse batch."""
    cdef const tile_table* t = r.program.tiles
    cdef const char* D = at(w.tape.D[op.target], task.j, t)
    cdef tile_csr columns
    if op.source > 0 or r.batch.columns.indptr == NULL:
        gradient_tile(t, rows, op.n_in, op.n_out, w.tape.A[op.source], w.tape.D[op.target], i, m,
                      task.j, task.n, dW, ldw, db, w.scratch)
        return
    columns = sparse_from(&r.batch.columns, i, NULL)
    t.sparse_product(m, task.n, rows, &columns, D, op.n_out, NULL, dW, ldw)
    if i == 0 and db != NULL:
        t.column_sums(rows, task.n, D, op.n_out, db)


cdef void gradient_strip(Run* r, Worker* w, Op* op, Task* task, Py_ssize_t i, Py_ssize_t m,
                         Py_ssize_t rows) noexcept nogil:
    """Write rows i to i + m of a block of dW into the gradient."""
    cdef const tile_table* t = r.program.tiles
    cdef char* db = NULL
    if op.b >= 0 and op.b_lr_scale > 0:
        db = at(r.update.gradient, op.b + task.j, t)
    strip(r, w, op, task, i, m, rows,
          at(r.update.gradient, op.W + i * op.n_out + task.j, t), op.n_out, db)


cdef void update_strip(Run* r, Worker* w, Op* op, Task* task, Py_ssize_t i, Py_ssize_t m,
                       Py_ssize_t rows, tile_update* u) noexcept nogil:
    """Apply rows i to i + m of a block of dW to W."""
    cdef const tile_table* t = r.program.tiles
    cdef Py_ssize_t offset = op.W + i * op.n_out + task.j, c = 0, wide
    cdef char* dW = scratch_block(r, w)
    cdef char* db = NULL
    cdef Task panel = task[0]
    cdef tile_update scaled
    if op.b >= 0:
        db = at(dW, BLOCK_ROWS * BLOCK_COLUMNS, t)
    while c < task.n:
        # A panel of columns at a time: this much can be prefetched during its sums.
        wide = min(<Py_ssize_t>PANEL_COLUMNS, task.n - c)
        prefetch_weights(r, op, offset + c, m, wide)
        prefetch_next_batch(r, w)
        panel.j, panel.n = task.j + c, wide
        strip(r, w, op, &panel, i, m, rows, at(dW, c, t), task.n, NULL if db == NULL else at(db, c, t))
        c += wide
    clip(r, m, task.n, dW, task.n)
    if task.n == op.n_out:
        # Whole rows are contiguous, in W as in dW.
        update(r, u, offset, 1, m * task.n, 0, dW, 0, NULL)
    else:
        update(r, u, offset, m, task.n, op.n_out, dW, task.n, NULL)
    if i == 0 and db != NULL and op.b_lr_scale > 0:
        clip(r, 1, task.n, db, 0)
        update(r, plain_update(r, w, op.b_lr_scale, &scaled), op.b + task.j, 1, task.n, 0, db, 0, NULL)


cdef void prefetch_weights(Run* r, Op* op, Py_ssize_t offset, Py_ssize_t m,
                           Py_ssize_t n) noexcept nogil:
    """Prefetch W (m, n) from `offset` on, and its state, unless it stays in the cache."""
    cdef const tile_table* t = r.program.tiles
    if op.strip > STRIP_ROWS:
        return
    t.prefetch(m, n, at(r.parameters, offset, t), op.n_out)
    if r.update.optimizer.n_states > 0:
        t.prefetch(m, n, at(r.update.state0, offset, t), op.n_out)
    if r.update.optimizer.n_states > 1:
        t.prefetch(m, n, at(r.update.state1, offset, t), op.n_out)


cdef void update_outer(Run* r, Worker* w, Op* op, Task* task, tile_update* u) noexcept nogil:
    """Update a block from a batch of one row: dW is an outer product, and is never stored."""
    cdef const tile_table* t = r.program.tiles
    cdef const char* D = at(w.tape.D[op.target], task.j, t)
    cdef tile_update scaled
    update(r, u, op.W + task.i * op.n_out + task.j, task.m, task.n, op.n_out, D, 0,
           at(w.tape.A[op.source], task.i, t))
    if task.i == 0 and op.b >= 0 and op.b_lr_scale > 0:
        update(r, plain_update(r, w, op.b_lr_scale, &scaled), op.b + task.j, 1, task.n, 0, D, 0, NULL)


cdef void columns_task(Run* r, Worker* w, Op* op, Task* task, Py_ssize_t rows) noexcept nogil:
    """Parameters with one number for each column: an op's own, or the b of a frozen W."""
    cdef const tile_table* t = r.program.tiles
    cdef Py_ssize_t j = task.j
    cdef char* dW = scratch_block(r, w)
    cdef char* db = at(dW, BLOCK_COLUMNS, t)
    cdef tile_update scaled
    if task.i > 0:
        return
    if op.matrix:
        if op.b >= 0 and op.b_lr_scale > 0:
            t.column_sums(rows, task.n, at(w.tape.D[op.target], j, t), op.n_out, db)
    else:
        op_row(op.kind).gradient(r, op, w, rows, j, j + task.n, dW, db)
        if op.W_lr_scale > 0:
            apply_columns(r, plain_update(r, w, op.W_lr_scale, &scaled), op.W + j, task.n, dW)
    if op.b >= 0 and op.b_lr_scale > 0:
        apply_columns(r, plain_update(r, w, op.b_lr_scale, &scaled), op.b + j, task.n, db)


# ---- clipping by norm: the whole gradient must be known before it is applied

cdef void chunk_norms(Run* r, int me, int team) noexcept nogil:
    """Clip the elements of this thread's chunks of the gradient, and sum their squares."""
    cdef const tile_table* t = r.program.tiles
    cdef Py_ssize_t chunks = (r.program.size + CHUNK - 1) // CHUNK, k, n
    cdef char* chunk
    for k in range(share(chunks, me, team), share(chunks, me + 1, team)):
        n = min(<Py_ssize_t>CHUNK, r.program.size - k * CHUNK)
        chunk = at(r.update.gradient, k * CHUNK, t)
        clip(r, 1, n, chunk, 0)
        r.program.chunk_squares[k] = t.sum_of_squares(n, chunk)


cdef double clip_factor(Run* r) noexcept nogil:
    """The factor that reduces the norm of the gradient to clip_norm; sums the chunks in order."""
    cdef Py_ssize_t k
    cdef double total = 0
    for k in range((r.program.size + CHUNK - 1) // CHUNK):
        total += r.program.chunk_squares[k]
    total = sqrt(total)
    return r.update.clip_norm / total if total > r.update.clip_norm else 1


cdef void apply_block(Run* r, tile_update* u, Py_ssize_t offset, Py_ssize_t m, Py_ssize_t n,
                      Py_ssize_t ld, double factor) noexcept nogil:
    """Scale a block (m, n) of the whole gradient and apply it to the parameters."""
    cdef const tile_table* t = r.program.tiles
    cdef Py_ssize_t i
    if factor != 1:
        for i in range(m):
            t.scale(n, factor, at(r.update.gradient, offset + i * ld, t))
    update(r, u, offset, m, n, ld, at(r.update.gradient, offset, t), ld, NULL)


cdef void apply_task(Run* r, Worker* w, Task* task, double factor) noexcept nogil:
    """Apply a task's share of the whole gradient to the parameters."""
    cdef Op* op = &r.program.ops[task.op]
    cdef tile_update u, scaled
    if op.W_lr_scale > 0:
        u = weights_update(r, w, task.op)
        apply_block(r, &u, op.W + task.i * op.n_out + task.j, task.m, task.n, op.n_out, factor)
    if task.i == 0 and op.b >= 0 and op.b_lr_scale > 0:
        apply_block(
            r, plain_update(r, w, op.b_lr_scale, &scaled), op.b + task.j, 1, task.n, 0, factor)


cdef void apply_gradient(Run* r, Worker* w, int team) noexcept nogil:
    """Clip the whole gradient and apply it to the parameters, with the whole team."""
    cdef Py_ssize_t i, low = share(r.program.elements, w.me, team)
    cdef Py_ssize_t high = share(r.program.elements, w.me + 1, team)
    cdef double factor
    team_wait(&r.team.barrier, team)
    chunk_norms(r, w.me, team)
    team_wait(&r.team.barrier, team)
    factor = clip_factor(r)
    for i in range(r.program.n_tasks):
        if low <= r.program.tasks[i].before < high:
            apply_task(r, w, &r.program.tasks[i], factor)


cdef void run_update(Run* r) noexcept nogil:
    """Make one step of the optimizer with the flat gradient, which is clipped in place."""
    cdef Py_ssize_t i
    cdef Worker* w = &r.team.workers[0]
    cdef double factor = 1
    weight_norms(r, 0, 1)
    prepare_step(r, w, 0)
    if not isinf(r.update.clip_value) or not isinf(r.update.clip_norm):
        chunk_norms(r, 0, 1)
        factor = clip_factor(r)
    for i in range(r.program.n_tasks):
        apply_task(r, w, &r.program.tasks[i], factor)
