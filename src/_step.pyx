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
from libc.string cimport memset

from bpfast._batch cimport (
    batch_total,
    gather,
    locate,
    look_ahead,
    next_turn,
    sparse_from,
    transpose_batch,
)
from bpfast._ops cimport draw_masks, op_row

cdef extern from "team.h" nogil:
    void team_wait(team_barrier* t, int n)

cdef extern from "pace.h" nogil:
    void pace_start(team_pace* p, double now, int team, Py_ssize_t rows)
    int pace_together(const team_pace* p)
    void pace_step(team_pace* p, double now)

# Seconds between two looks for an interrupt.
cdef double POLL_SECONDS = 0.02


cdef enum:
    # Columns of W that are brought near at a time.
    PANEL_COLUMNS = 32


cdef Py_ssize_t scratch_bytes(const tile_table* tiles) noexcept nogil:
    """The scratch memory of one thread: a product's, a block of dW and a piece of db."""
    return (tiles.product_scratch + (BLOCK_ROWS + 1) * BLOCK_COLUMNS) * tiles.item_size


# ---- a profile

cdef inline void tick(Worker* w, Py_ssize_t place) noexcept nogil:
    """The seconds since the last tick went into `place`."""
    cdef double now
    if w.seconds != NULL:
        now = team_clock()
        w.seconds[place] += now - w.since
        w.since = now


# ---- forward: X → Z, A

cdef void forward(Run* r, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """All ops, in order, for rows r0 to r1."""
    cdef Py_ssize_t i
    for i in range(r.n_ops):
        op_row(r.ops[i].kind).forward(r, &r.ops[i], w, r0, r1)
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
        return total / rows * r.loss_scale
    for i in range(rows):
        if r.row_scale[i] > 0:
            total += r.row_loss[i] * r.row_scale[i]
    return total


# ---- backward: D → the delta below

cdef void backward(Run* r, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """All ops, last to first, for rows r0 to r1."""
    cdef Py_ssize_t i
    for i in range(r.n_ops - 1, -1, -1):
        op_row(r.ops[i].kind).backward(r, &r.ops[i], w, r0, r1)
        tick(w, TIMES * i + TIME_DELTA)


# ---- gradient and update: D → dW, db → W, b

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


cdef void penalty_rows(Run* r, int me, int team) noexcept nogil:
    """This thread's share of what the rows of every W add to the penalty, where somebody asks."""
    cdef Py_ssize_t i, row, before = 0
    cdef Op* op
    if not r.objective or r.penalty == NULL or r.penalty.value == NULL:
        return
    for i in range(r.n_ops):
        op = &r.ops[i]
        if op.W < 0:
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
        if r.ops[i].W < 0:
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
    """The constants of one step that all weights, and all biases, have in common."""
    memset(&w.of_weights, 0, sizeof(tile_update))
    r.optimizer.prepare(r.hyperparameters, r.learning_rates[step], r.t + step + 1, &w.of_weights)
    w.of_biases = w.of_weights
    w.of_weights.weight = 1
    w.alpha = step_alpha(r, step)


cdef tile_update weights_update(Run* r, Worker* w, Py_ssize_t op) noexcept nogil:
    """The constants for an op's weights: the step's, and the penalty's part."""
    cdef tile_update u = w.of_weights
    if r.penalty != NULL:
        r.penalty.prepare(w.alpha, r.mix, r.norms[op], &u)
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
    if r.gradient == NULL:
        u = weights_update(r, w, task.op)
        if rows == 1 and task.n >= PANEL_COLUMNS and (
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
    if op.b >= 0:
        db = at(r.gradient, op.b + task.j, t)
    strip_gradient(r, w, op, task, i, m, rows, at(r.gradient, op.W + i * op.n_out + task.j, t),
                   op.n_out, db)


cdef void update_outer(Run* r, Worker* w, Op* op, Task* task, tile_update* u) noexcept nogil:
    """The update of a block for a batch of one row: dW is an outer product, and never written."""
    cdef const tile_table* t = r.tiles
    cdef const char* D = at(w.tape.D[op.target], task.j, t)
    update(r, u, op.W + task.i * op.n_out + task.j, task.m, task.n, op.n_out, D, 0,
           at(w.tape.A[op.source], task.i, t))
    if task.i == 0 and op.b >= 0:
        update(r, &w.of_biases, op.b + task.j, 1, task.n, 0, D, 0, NULL)


cdef void update_strip(Run* r, Worker* w, Op* op, Task* task, Py_ssize_t i, Py_ssize_t m,
                       Py_ssize_t rows, tile_update* u) noexcept nogil:
    """Rows i to i + m of a block of dW, straight into W."""
    cdef const tile_table* t = r.tiles
    cdef Py_ssize_t offset = op.W + i * op.n_out + task.j, c = 0, wide
    cdef char* dW = (w.scratch + scratch_bytes(t)
                     - (BLOCK_ROWS + 1) * BLOCK_COLUMNS * t.item_size)
    cdef char* db = NULL
    cdef Task panel = task[0]
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
    if task.n == op.n_out:
        # Whole rows lie behind each other, in W as in dW.
        update(r, u, offset, 1, m * task.n, 0, dW, 0, NULL)
    else:
        update(r, u, offset, m, task.n, op.n_out, dW, task.n, NULL)
    if i == 0 and db != NULL:
        update(r, &w.of_biases, op.b + task.j, 1, task.n, 0, db, 0, NULL)


cdef void gradient_tasks(Run* r, Worker* w, Py_ssize_t step, Py_ssize_t rows,
                         int team) noexcept nogil:
    """This thread's tiles of every dW: those that begin in its share of all the elements."""
    cdef Py_ssize_t i, low = share(r.elements, w.me, team), high = share(r.elements, w.me + 1, team)
    if r.gradient == NULL:
        prepare_step(r, w, step)
    # Last to first, against the order of the forward pass: what that read last is still near, and
    # what is changed last the next step reads first.
    for i in range(r.n_tasks - 1, -1, -1):
        if low <= r.tasks[i].before < high:
            gradient_task(r, w, &r.tasks[i], rows)
            tick(w, TIMES * r.tasks[i].op + TIME_GRADIENT)


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
    locate(r, w, first)
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
    draw_masks(r, w, step)
    train_rows(r, w, first, rows, team)
    if w.me == 0:
        transpose_batch(r, first, rows, r.order)
        tick(w, TIMES * r.n_ops + TIME_GATHER)
    weight_norms(r, w.me, team)
    penalty_rows(r, w.me, team)
    team_wait(&r.barrier, team)
    tick(w, TIMES * r.n_ops + TIME_WAITING)
    if r.stop:
        return False
    if w.me == 0:
        r.batch_loss[step] = mean_loss(r, rows) + penalty_value(r, step)
        r.batch_weight[step] = batch_total(r, first, rows)
    look_ahead(r, w, first + rows, team)
    gradient_tasks(r, w, step, rows, team)
    if w.me == 0:
        r.steps = step + 1
        if team > 1:
            # All read it behind the barrier.
            keep_pace(r)
    team_wait(&r.barrier, team)
    tick(w, TIMES * r.n_ops + TIME_WAITING)
    return isfinite(r.batch_loss[step])


cdef void train(Run* r, Worker* w, int team, Py_ssize_t n_steps) noexcept nogil:
    """Steps of an epoch, up to the last, to a loss that is not finite or an interrupt.

    A pace of the team's kind ends where the other kind begins: see `pace.h`.
    """
    cdef Py_ssize_t step = r.step
    cdef bint more = True, together = r.together
    w.since = team_clock()
    w.turns = 0
    while more and step < n_steps and r.together == together:
        more = train_step(r, w, step, team)
        step += 1
        if team == 1 and r.n_threads > 1:
            keep_pace(r)
    if w.me == 0:
        # All others have read it, before the barriers of a step.
        r.step, r.more = step, more


cdef void keep_pace(Run* r) noexcept nogil:
    """The first thread tells the time of a step."""
    pace_step(&r.pace, team_clock())
    r.together = not r.paced or pace_together(&r.pace)


cdef void run_train(Run* r) noexcept nogil:
    """An epoch: one parallel region as long as the team is faster than its first thread alone."""
    cdef Py_ssize_t n_steps = (r.n + r.batch_size - 1) // r.batch_size
    r.polled = team_clock()
    r.step, r.more, r.together = 0, True, False
    if r.n_threads > 1:
        pace_start(&r.pace, r.polled, r.n_threads, r.batch_size)
        r.together = not r.paced or pace_together(&r.pace)
    while r.more and r.step < n_steps:
        if not r.together:
            train(r, &r.workers[0], 1, n_steps)
            continue
        with nogil, parallel(num_threads=r.n_threads):
            train(r, &r.workers[threadid()], team_size(), n_steps)


cdef void run_forward(Run* r) noexcept nogil:
    """Forward over the whole tape."""
    cdef int me
    for me in range(r.n_threads):
        r.workers[me].X = r.sparse
        draw_masks(r, &r.workers[me], 0)
    for me in prange(r.n_threads, num_threads=r.n_threads, schedule="static",
                     use_threads_if=r.n_threads > 1):
        forward(r, &r.workers[me], share(r.n, me, r.n_threads), share(r.n, me + 1, r.n_threads))


cdef void run_backward(Run* r) noexcept nogil:
    """Backward over the whole tape, then every tile of dW into r.gradient."""
    cdef int me
    for me in range(r.n_threads):
        draw_masks(r, &r.workers[me], 0)
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
    cdef Worker* w = &r.workers[0]
    cdef tile_update u
    weight_norms(r, 0, 1)
    prepare_step(r, w, 0)
    for i in range(r.n_ops):
        op = &r.ops[i]
        if op.W >= 0:
            u = weights_update(r, w, i)
            update(r, &u, op.W, 1, op.n_in * op.n_out, 0, at(r.gradient, op.W, r.tiles), 0,
                   NULL)
        if op.b >= 0:
            update(r, &w.of_biases, op.b, 1, op.n_out, 0, at(r.gradient, op.b, r.tiles), 0,
                   NULL)


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
    if r.poll != NULL:
        r.polled = team_clock()
    if r.n_threads == 1:
        outputs(r, &workers[0], Z, block)
        return
    for me in prange(r.n_threads, num_threads=r.n_threads, schedule="static"):
        outputs(r, &workers[me], Z, block)
