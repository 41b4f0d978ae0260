# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: freethreading_compatible=True
"""The step, in reading order: forward → loss and delta → backward → gradient and update.

A team of threads runs a call: each takes a share of the batch's rows through all ops, forward and
back, with nothing to wait for, since rows do not depend on each other, except at an op that wants
statistics of the whole batch, where the team meets; after a barrier each takes a share of the tiles
of every dW, sums it over the whole batch in order and updates its weights while the tile is in cache.
So nothing depends on how many threads there are. Pointers are `char *` and sizes come from the table:
float32 and float64 run the same frame.
"""

from cython.parallel cimport parallel, prange, threadid
from libc.math cimport isfinite
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from bpfast.native._batch cimport (
    batch_total,
    gather,
    locate,
    look_ahead,
    mix64,
    sparse_from,
    transpose_batch,
)
from bpfast.native._ops cimport begin_step, op_row, take_running
from bpfast.native._update cimport (
    gradient_tasks,
    penalty_rows,
    penalty_value,
    spend_gradient,
    weight_norms,
)

cdef extern from "pace.h" nogil:
    void pace_start(team_pace* p, double now, int team, Py_ssize_t rows)
    int pace_together(const team_pace* p)
    void pace_step(team_pace* p, double now)

# Seconds between two looks for an interrupt.
cdef double POLL_SECONDS = 0.02


# The place that the noise of the weights has among the draws of a step, where ops have their target.
cdef uint64_t WEIGHTS = <uint64_t>1 << 32


# ---- forward: X → Z, A

cdef void forward(Run* r, Worker* w, Py_ssize_t first, Py_ssize_t stop, Py_ssize_t r0,
                  Py_ssize_t r1) noexcept nogil:
    """Ops first to stop, in order, for rows r0 to r1."""
    cdef Py_ssize_t i
    for i in range(first, stop):
        if absent(r, &r.ops[i]):
            continue
        op_row(r.ops[i].kind).forward(r, &r.ops[i], w, r0, r1)
        tick(w, TIMES * i + TIME_FORWARD)


cdef inline bint meets(Op* op) noexcept nogil:
    """Whether the op wants statistics of the whole batch in training."""
    return op_row(op.kind).statistics != NULL and not op.fixed


cdef Py_ssize_t meeting(Run* r, Py_ssize_t first) noexcept nogil:
    """The first op from `first` on that wants statistics of the whole batch, or n_ops."""
    if r.training and r.has_statistics:
        while first < r.n_ops and not meets(&r.ops[first]):
            first += 1
        return first
    return r.n_ops


cdef Py_ssize_t meeting_before(Run* r, Py_ssize_t stop) noexcept nogil:
    """The last such op before `stop`, or -1."""
    cdef Py_ssize_t i = stop - 1
    while i >= 0 and not meets(&r.ops[i]):
        i -= 1
    return i


cdef void meet(Run* r, Worker* w, Py_ssize_t i, bint of_delta, int team) noexcept nogil:
    """The statistics of an op, or of its delta, each thread for a share of the columns."""
    cdef Op* op = &r.ops[i]
    cdef Py_ssize_t j0 = share(op.n_out, w.me, team), j1 = share(op.n_out, w.me + 1, team)
    team_wait(&r.barrier, team)
    tick(w, TIMES * r.n_ops + TIME_WAITING)
    if j1 > j0 and of_delta:
        op_row(op.kind).delta_statistics(r, op, w, w.rows, j0, j1)
    elif j1 > j0:
        op_row(op.kind).statistics(r, op, w, w.rows, j0, j1)
    tick(w, TIMES * i + (TIME_DELTA if of_delta else TIME_FORWARD))
    team_wait(&r.barrier, team)
    tick(w, TIMES * r.n_ops + TIME_WAITING)


cdef void settle(Run* r, Worker* w, int team) noexcept nogil:
    """The step is made: running statistics move, each thread's share of the columns."""
    cdef Py_ssize_t i = meeting(r, 0), j0, j1
    cdef Op* op
    while i < r.n_ops:
        op = &r.ops[i]
        j0, j1 = share(op.n_out, w.me, team), share(op.n_out, w.me + 1, team)
        op_row(op.kind).settle(r, op, w, w.rows, j0, j1)
        i = meeting(r, i + 1)


# ---- loss and delta

cdef void loss_and_delta(Run* r, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """The loss of rows r0 to r1, and D = ∂L/∂Z of the batch's mean."""
    cdef const tile_table* t = r.tiles
    cdef Py_ssize_t last = r.output, n = r.widths[last], i, k
    cdef Head* head
    cdef const char* Y = NULL
    cdef const int64_t* classes = NULL
    if r.classes != NULL:
        classes = w.classes + r0
    else:
        Y = at(w.Y, r0 * n, t)
    r.loss.loss(r1 - r0, n, r.loss_parameter, Y, classes, at(w.tape.A[last], r0 * n, t),
                r.row_scale + r0, at(w.tape.D[last], r0 * n, t), r.row_loss + r0)
    for k in range(r.n_heads):
        head = &r.heads[k]
        for i in range(r0, r1):
            head.row_scale[i] = head.weight * r.row_scale[i]
        head.loss.loss(r1 - r0, n, head.loss_parameter, Y, classes,
                       at(w.tape.A[head.value], r0 * n, t), head.row_scale + r0,
                       at(w.tape.D[head.value], r0 * n, t), head.row_loss + r0)
    tick(w, TIMES * r.n_ops + TIME_LOSS)


cdef double mean_loss(Run* r, const double* row_scale, const double* row_loss, double factor,
                      Py_ssize_t rows) noexcept nogil:
    """The batch's mean loss: row after row, in order; a row that does not count gives no NaN."""
    cdef Py_ssize_t i
    cdef double total = 0
    if r.weights == NULL:
        for i in range(rows):
            total += row_loss[i]
        return total / rows * factor
    for i in range(rows):
        if row_scale[i] > 0:
            total += row_loss[i] * row_scale[i]
    return total


cdef double batch_objective(Run* r, Py_ssize_t step, Py_ssize_t rows) noexcept nogil:
    """The mean loss with those of the heads, and perhaps the penalty."""
    cdef double total = mean_loss(r, r.row_scale, r.row_loss, r.loss_scale, rows)
    cdef Py_ssize_t k
    for k in range(r.n_heads):
        total += mean_loss(r, r.heads[k].row_scale, r.heads[k].row_loss,
                           r.loss_scale * r.heads[k].weight, rows)
    return total + penalty_value(r, step)


# ---- backward: D → the delta below

cdef void backward(Run* r, Worker* w, Py_ssize_t stop, Py_ssize_t first, Py_ssize_t r0,
                   Py_ssize_t r1) noexcept nogil:
    """Ops before stop, down to first, for rows r0 to r1."""
    cdef Py_ssize_t i
    cdef Op* op
    for i in range(stop - 1, first - 1, -1):
        op = &r.ops[i]
        if absent(r, op):
            continue
        if op.adds and op.wants_delta and op.other < 0:
            add_delta(r, w, op, r0, r1)
        else:
            op_row(op.kind).backward(r, op, w, r0, r1)
        tick(w, TIMES * i + TIME_DELTA)


cdef void add_delta(Run* r, Worker* w, Op* op, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """An op's delta, added to what an op behind has written for the same value."""
    cdef const tile_table* t = r.tiles
    cdef Py_ssize_t first = r0 * op.n_in, n = (r1 - r0) * op.n_in
    cdef char* D = w.tape.D[op.source]
    # Rows lie as far from each other as the widest need: another thread may be at another op.
    cdef char* spare = at(r.spare, r0 * (r.spare_width - op.n_in), t)
    w.tape.D[op.source] = spare
    op_row(op.kind).backward(r, op, w, r0, r1)
    w.tape.D[op.source] = D
    t.add(n, at(D, first, t), at(spare, first, t), at(D, first, t))


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


cdef void see_noisy(Run* r, Worker* w, int team) noexcept nogil:
    """What the passes of this step see: the parameters, with noise on the weights."""
    cdef const tile_table* t = r.tiles
    cdef Py_ssize_t low = share(r.size, w.me, team), high = share(r.size, w.me + 1, team)
    cdef Py_ssize_t i, first, last
    cdef Op* op
    if r.weight_noise == 0:
        return
    memcpy(at(r.seen, low, t), at(r.parameters, low, t), (high - low) * t.item_size)
    for i in range(r.n_ops):
        op = &r.ops[i]
        first, last = max(low, op.W), min(high, op.W + op.n_in * op.n_out)
        if op.matrix and first < last:
            t.noisy(last - first, r.weight_noise, mix64(w.noise + WEIGHTS), first,
                    at(r.parameters, first, t), at(r.seen, first, t))
    team_wait(&r.barrier, team)


cdef Py_ssize_t forward_to_last(Run* r, Worker* w, Py_ssize_t first, double total, bint gathers,
                                int team) noexcept nogil:
    """This thread's rows up to the last op where the team meets, or -1; not that op's own forward.

    With `gathers` the rows of the batch that begins at `first`, of weight `total`, are brought first.
    """
    cdef Py_ssize_t low = share(w.rows, w.me, team), high = share(w.rows, w.me + 1, team)
    cdef Py_ssize_t begin = -1, at_op = meeting(r, 0), r0, r1
    while at_op < r.n_ops:
        r0 = low
        while r0 < high:
            r1 = min(high, r0 + <Py_ssize_t>ROW_BLOCK)
            if begin < 0 and gathers:
                gather(r, w, first, w.rows, total, r0, r1)
                tick(w, TIMES * r.n_ops + TIME_GATHER)
            forward(r, w, max(<Py_ssize_t>0, begin), at_op, r0, r1)
            look_for_interrupt(r, w.me)
            r0 = r1
        meet(r, w, at_op, False, team)
        begin, at_op = at_op, meeting(r, at_op + 1)
    return begin


cdef void backward_from(Run* r, Worker* w, Py_ssize_t at_op, int team) noexcept nogil:
    """This thread's rows from an op where the team meets, or -1, down to X."""
    cdef Py_ssize_t low = share(w.rows, w.me, team), high = share(w.rows, w.me + 1, team)
    cdef Py_ssize_t before, r0, r1
    while at_op >= 0:
        before = meeting_before(r, at_op)
        meet(r, w, at_op, True, team)
        r0 = low
        while r0 < high:
            r1 = min(high, r0 + <Py_ssize_t>ROW_BLOCK)
            backward(r, w, at_op + 1, before + 1, r0, r1)
            look_for_interrupt(r, w.me)
            r0 = r1
        at_op = before


cdef void train_rows(Run* r, Worker* w, Py_ssize_t first, Py_ssize_t rows,
                     int team) noexcept nogil:
    """This thread's rows of a batch: forward, loss, backward, block by block."""
    cdef Py_ssize_t r0 = share(rows, w.me, team), stop = share(rows, w.me + 1, team), r1
    cdef double total = batch_total(r, first, rows)
    cdef Py_ssize_t last
    locate(r, w, first)
    last = forward_to_last(r, w, first, total, True, team)
    while r0 < stop:
        r1 = min(stop, r0 + <Py_ssize_t>ROW_BLOCK)
        if last < 0:
            gather(r, w, first, rows, total, r0, r1)
            tick(w, TIMES * r.n_ops + TIME_GATHER)
        forward(r, w, max(<Py_ssize_t>0, last), r.n_ops, r0, r1)
        loss_and_delta(r, w, r0, r1)
        backward(r, w, r.n_ops, last + 1, r0, r1)
        look_for_interrupt(r, w.me)
        r0 = r1
    backward_from(r, w, last, team)


cdef bint train_step(Run* r, Worker* w, Py_ssize_t step, int team) noexcept nogil:
    """One step, by every thread of the team; whether to go on.

    r.stop is read between the two barriers alone, where nobody writes it: all threads agree.
    """
    cdef Py_ssize_t first = step * r.batch_size, rows = min(r.batch_size, r.n - first)
    begin_step(r, w, step)
    w.rows = rows
    see_noisy(r, w, team)
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
    settle(r, w, team)
    if w.me == 0:
        r.batch_loss[step] = batch_objective(r, step, rows)
        r.batch_weight[step] = batch_total(r, first, rows)
    look_ahead(r, w, first + rows, team)
    gradient_tasks(r, w, step, rows, team)
    if r.gradient != NULL:
        spend_gradient(r, w, team)
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
    if r.has_statistics:
        take_running(r)
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


cdef void forward_tape(Run* r, Worker* w, int team) noexcept nogil:
    """This thread's share of a forward pass over the whole tape."""
    cdef Py_ssize_t last
    w.X = r.sparse
    w.rows = r.n
    begin_step(r, w, 0)
    see_noisy(r, w, team)
    last = forward_to_last(r, w, 0, 0, False, team)
    forward(r, w, max(<Py_ssize_t>0, last), r.n_ops, share(r.n, w.me, team),
            share(r.n, w.me + 1, team))
    settle(r, w, team)


cdef void run_forward(Run* r) noexcept nogil:
    """Forward over the whole tape."""
    r.polled = team_clock()
    if r.has_statistics:
        take_running(r)
    if r.n_threads == 1:
        forward_tape(r, &r.workers[0], 1)
        return
    with nogil, parallel(num_threads=r.n_threads):
        forward_tape(r, &r.workers[threadid()], team_size())


cdef void backward_tape(Run* r, Worker* w, int team) noexcept nogil:
    """This thread's share of a backward pass over the whole tape, and of every dW."""
    cdef Py_ssize_t last = -1
    w.rows = r.n
    begin_step(r, w, 0)
    if r.training and r.has_statistics:
        last = meeting_before(r, r.n_ops)
    backward(r, w, r.n_ops, last + 1, share(r.n, w.me, team), share(r.n, w.me + 1, team))
    backward_from(r, w, last, team)
    if w.me == 0:
        transpose_batch(r, 0, r.n, NULL)
    team_wait(&r.barrier, team)
    gradient_tasks(r, w, 0, r.n, team)


cdef void run_backward(Run* r) noexcept nogil:
    """Backward over the whole tape, then every tile of dW into r.gradient."""
    r.polled = team_clock()
    if r.n_threads == 1:
        backward_tape(r, &r.workers[0], 1)
        return
    with nogil, parallel(num_threads=r.n_threads):
        backward_tape(r, &r.workers[threadid()], team_size())


cdef void outputs(Run* r, Worker* w, char* Z, Py_ssize_t block) noexcept nogil:
    """The raw outputs of this thread's rows of X, block by block on its own tape."""
    cdef Py_ssize_t r0 = share(r.n, w.me, r.n_threads), stop = share(r.n, w.me + 1, r.n_threads)
    cdef Py_ssize_t last = r.output, rows
    while r0 < stop and not r.stop:
        rows = min(block, stop - r0)
        # The first value is X and the last is the result: neither is copied.
        w.X.indptr = NULL
        if r.sparse.indptr != NULL:
            w.X = sparse_from(&r.sparse, r0, NULL)
        else:
            w.tape.A[0] = <char*>const_at(r.X, r0 * r.widths[0], r.tiles)
        w.tape.A[last] = at(Z, r0 * r.widths[last], r.tiles)
        forward(r, w, 0, r.n_ops, 0, rows)
        look_for_interrupt(r, w.me)
        r0 += rows


cdef void run_outputs(Run* r, Worker* workers, char* Z, Py_ssize_t block) noexcept nogil:
    """Z (n, O), the raw outputs of X (n, I)."""
    cdef int me
    if r.poll != NULL:
        r.polled = team_clock()
    r.predicting = True
    if r.has_statistics:
        take_running(r)
    if r.n_threads == 1:
        outputs(r, &workers[0], Z, block)
        return
    for me in prange(r.n_threads, num_threads=r.n_threads, schedule="static"):
        outputs(r, &workers[me], Z, block)
