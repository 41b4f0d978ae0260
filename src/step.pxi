"""The step, in reading order: forward → loss and delta → backward → gradient and update.

A team of threads runs a call. Each thread takes a share of the batch's rows through all ops, forward and
backward. Rows are independent, so nobody waits, except at an op that needs statistics of the whole
batch, where the team synchronizes. After a barrier each thread takes a share of the tiles of every dW, sums
them over the whole batch in order and applies them to the weights while they are in the cache. So nothing
depends on the number of threads. Pointers are `char *`, and sizes come from the table of tiles: float32 and
float64 run the same code.
"""

from cython.parallel cimport parallel, prange, threadid
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from run cimport (
    ROW_BLOCK,
    TIME_DELTA,
    TIME_FORWARD,
    TIME_GATHER,
    TIME_LOSS,
    TIME_WAITING,
    TIMES,
    Head,
    Op,
    Run,
    Worker,
    add_time,
    at,
    const_at,
    inactive,
    share,
    team_autotune,
    team_clock,
    team_wait,
)
from tiles cimport tile_link, tile_table

cdef extern from "team.h" nogil:
    int team_size()

cdef extern from "autotune.h" nogil:
    void autotune_start(team_autotune* a, double now, int team, Py_ssize_t rows)
    int autotune_use_team(const team_autotune* a)
    void autotune_step(team_autotune* a, double now)

# Seconds between two polls for an interrupt.
cdef double POLL_SECONDS = 0.02

# Number of the weights among the draws of a step; an op has that of its target.
cdef uint64_t WEIGHT_DRAWS = <uint64_t>1 << 32


# ---- forward: X → Z, A

cdef void forward(Run* r, Worker* w, Py_ssize_t first, Py_ssize_t stop, Py_ssize_t r0,
                  Py_ssize_t r1) noexcept nogil:
    """Run ops first to stop, in order, on rows r0 to r1."""
    cdef Py_ssize_t i
    for i in range(first, stop):
        if inactive(r, &r.program.ops[i]):
            continue
        op_row(r.program.ops[i].kind).forward(r, &r.program.ops[i], w, r0, r1)
        add_time(w, TIMES * i + TIME_FORWARD)


cdef inline bint needs_sync(Op* op) noexcept nogil:
    """Whether the op needs statistics of the whole batch in training."""
    return op_row(op.kind).statistics != NULL and not op.frozen_statistics


cdef Py_ssize_t next_sync(Run* r, Py_ssize_t first) noexcept nogil:
    """The first op from `first` on that needs statistics of the whole batch, or n_ops."""
    if r.mode.training and r.program.has_statistics:
        while first < r.program.n_ops and not needs_sync(&r.program.ops[first]):
            first += 1
        return first
    return r.program.n_ops


cdef Py_ssize_t previous_sync(Run* r, Py_ssize_t stop) noexcept nogil:
    """The last such op before `stop`, or -1."""
    cdef Py_ssize_t i = stop - 1
    while i >= 0 and not needs_sync(&r.program.ops[i]):
        i -= 1
    return i


cdef void synchronize(Run* r, Worker* w, Py_ssize_t i, bint of_delta, int team) noexcept nogil:
    """Compute the statistics of an op, or of its delta: each thread takes a share of the columns."""
    cdef Op* op = &r.program.ops[i]
    cdef Py_ssize_t j0 = share(op.n_out, w.me, team), j1 = share(op.n_out, w.me + 1, team)
    team_wait(&r.team.barrier, team)
    add_time(w, TIMES * r.program.n_ops + TIME_WAITING)
    if j1 > j0 and of_delta:
        op_row(op.kind).delta_statistics(r, op, w, w.rows, j0, j1)
    elif j1 > j0:
        op_row(op.kind).statistics(r, op, w, w.rows, j0, j1)
    add_time(w, TIMES * i + (TIME_DELTA if of_delta else TIME_FORWARD))
    team_wait(&r.team.barrier, team)
    add_time(w, TIMES * r.program.n_ops + TIME_WAITING)


cdef void update_running_statistics(Run* r, Worker* w, int team) noexcept nogil:
    """Update the running statistics after a step: each thread takes a share of the columns."""
    cdef Py_ssize_t i = next_sync(r, 0), j0, j1
    cdef Op* op
    while i < r.program.n_ops:
        op = &r.program.ops[i]
        j0, j1 = share(op.n_out, w.me, team), share(op.n_out, w.me + 1, team)
        op_row(op.kind).update_running(r, op, w, w.rows, j0, j1)
        i = next_sync(r, i + 1)


# ---- loss and delta

cdef void compute_loss(Run* r, Worker* w, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """The loss of rows r0 to r1, and D = ∂L/∂Z of the mean over the batch."""
    cdef const tile_table* t = r.program.tiles
    cdef Py_ssize_t last = r.program.output, n = r.program.widths[last], i, k
    cdef Head* head
    cdef const char* Y = NULL
    cdef const int64_t* classes = NULL
    if r.data.classes != NULL:
        classes = w.classes + r0
    else:
        Y = at(w.Y, r0 * n, t)
    r.update.loss.loss(r1 - r0, n, r.update.loss_parameter, Y, classes,
                       at(w.tape.A[last], r0 * n, t), r.batch.row_scale + r0,
                       at(w.tape.D[last], r0 * n, t), r.batch.row_loss + r0)
    for k in range(r.mode.n_heads):
        head = &r.program.heads[k]
        for i in range(r0, r1):
            head.row_scale[i] = head.weight * r.batch.row_scale[i]
        head.loss.loss(r1 - r0, n, head.loss_parameter, Y, classes,
                       at(w.tape.A[head.value], r0 * n, t), head.row_scale + r0,
                       at(w.tape.D[head.value], r0 * n, t), head.row_loss + r0)
    add_time(w, TIMES * r.program.n_ops + TIME_LOSS)


cdef double mean_loss(Run* r, const double* row_scale, const double* row_loss, double factor,
                      Py_ssize_t rows) noexcept nogil:
    """The mean loss of the batch, summed row by row in order; rows of weight 0 contribute no NaN."""
    cdef Py_ssize_t i
    cdef double total = 0
    if r.data.weights == NULL:
        for i in range(rows):
            total += row_loss[i]
        return total / rows * factor
    for i in range(rows):
        if row_scale[i] > 0:
            total += row_loss[i] * row_scale[i]
    return total


cdef double batch_objective(Run* r, Py_ssize_t step, Py_ssize_t rows) noexcept nogil:
    """The mean loss, those of the heads included, and the penalty if it was requested."""
    cdef double total = mean_loss(r, r.batch.row_scale, r.batch.row_loss, r.update.loss_scale, rows)
    cdef Py_ssize_t k
    for k in range(r.mode.n_heads):
        total += mean_loss(r, r.program.heads[k].row_scale, r.program.heads[k].row_loss,
                           r.update.loss_scale * r.program.heads[k].weight, rows)
    return total + penalty_value(r, step)


# ---- backward: D → the delta of the source

cdef void backward(Run* r, Worker* w, Py_ssize_t stop, Py_ssize_t first, Py_ssize_t r0,
                   Py_ssize_t r1) noexcept nogil:
    """Run the ops before stop, down to first, on rows r0 to r1."""
    cdef Py_ssize_t i
    cdef Op* op
    for i in range(stop - 1, first - 1, -1):
        op = &r.program.ops[i]
        if inactive(r, op):
            continue
        if op.accumulates and op.needs_delta and op.other < 0:
            add_delta(r, w, op, r0, r1)
        else:
            op_row(op.kind).backward(r, op, w, r0, r1)
        add_time(w, TIMES * i + TIME_DELTA)


cdef void add_delta(Run* r, Worker* w, Op* op, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """Add an op's delta to the one that a later op has written for the same value."""
    cdef const tile_table* t = r.program.tiles
    cdef Py_ssize_t first = r0 * op.n_in, n = (r1 - r0) * op.n_in
    cdef char* D = w.tape.D[op.source]
    # The stride is that of the widest delta, since another thread may be at another op.
    cdef char* spare = at(r.batch.spare, r0 * (r.batch.spare_width - op.n_in), t)
    w.tape.D[op.source] = spare
    op_row(op.kind).backward(r, op, w, r0, r1)
    w.tape.D[op.source] = D
    t.add(n, at(D, first, t), at(spare, first, t), at(D, first, t))


# ---- the passes of one thread

cdef inline void poll_interrupt(Run* r, int me) noexcept nogil:
    """Poll for an interrupt, from the first thread only, every POLL_SECONDS."""
    cdef double now
    if me != 0 or r.team.poll == NULL or r.team.stop:
        return
    now = team_clock()
    if now - r.team.polled >= POLL_SECONDS:
        if r.team.poll(r.team.context):
            r.team.stop = 1
        r.team.polled = team_clock()


cdef void add_weight_noise(Run* r, Worker* w, int team) noexcept nogil:
    """Compute the effective parameters of this step: the parameters, with noise on the weights."""
    cdef const tile_table* t = r.program.tiles
    cdef Py_ssize_t low = share(r.program.size, w.me, team)
    cdef Py_ssize_t high = share(r.program.size, w.me + 1, team)
    cdef Py_ssize_t i, first, last
    cdef Op* op
    if r.mode.weight_noise == 0:
        return
    memcpy(at(r.effective, low, t), at(r.parameters, low, t), (high - low) * t.item_size)
    for i in range(r.program.n_ops):
        op = &r.program.ops[i]
        first, last = max(low, op.W), min(high, op.W + op.n_in * op.n_out)
        if op.matrix and first < last:
            t.noisy(last - first, r.mode.weight_noise, mix64(w.noise + WEIGHT_DRAWS), first,
                    at(r.parameters, first, t), at(r.effective, first, t))
    team_wait(&r.team.barrier, team)


cdef Py_ssize_t forward_to_last_sync(Run* r, Worker* w, Py_ssize_t first, double total,
                                     bint gathers, int team) noexcept nogil:
    """Run this thread's rows up to the last op that synchronizes, exclusive; return that op, or -1.

    With `gathers`, first gather the rows of the batch that begins at `first` and has weight `total`.
    """
    cdef Py_ssize_t low = share(w.rows, w.me, team), high = share(w.rows, w.me + 1, team)
    cdef Py_ssize_t begin = -1, sync = next_sync(r, 0), r0, r1
    while sync < r.program.n_ops:
        r0 = low
        while r0 < high:
            r1 = min(high, r0 + <Py_ssize_t>ROW_BLOCK)
            if begin < 0 and gathers:
                gather(r, w, first, w.rows, total, r0, r1)
                add_time(w, TIMES * r.program.n_ops + TIME_GATHER)
            forward(r, w, max(<Py_ssize_t>0, begin), sync, r0, r1)
            poll_interrupt(r, w.me)
            r0 = r1
        synchronize(r, w, sync, False, team)
        begin, sync = sync, next_sync(r, sync + 1)
    return begin


cdef void backward_from_sync(Run* r, Worker* w, Py_ssize_t sync, int team) noexcept nogil:
    """Run this thread's rows backward from an op that synchronizes, or -1, down to X."""
    cdef Py_ssize_t low = share(w.rows, w.me, team), high = share(w.rows, w.me + 1, team)
    cdef Py_ssize_t before, r0, r1
    while sync >= 0:
        before = previous_sync(r, sync)
        synchronize(r, w, sync, True, team)
        r0 = low
        while r0 < high:
            r1 = min(high, r0 + <Py_ssize_t>ROW_BLOCK)
            backward(r, w, sync + 1, before + 1, r0, r1)
            poll_interrupt(r, w.me)
            r0 = r1
        sync = before


cdef void train_rows(Run* r, Worker* w, Py_ssize_t first, Py_ssize_t rows,
                     int team) noexcept nogil:
    """Run this thread's rows of a batch, block by block: forward, loss, backward."""
    cdef Py_ssize_t r0 = share(rows, w.me, team), stop = share(rows, w.me + 1, team), r1
    cdef double total = batch_total(r, first, rows)
    cdef Py_ssize_t last
    locate_batch(r, w, first)
    last = forward_to_last_sync(r, w, first, total, True, team)
    while r0 < stop:
        r1 = min(stop, r0 + <Py_ssize_t>ROW_BLOCK)
        if last < 0:
            gather(r, w, first, rows, total, r0, r1)
            add_time(w, TIMES * r.program.n_ops + TIME_GATHER)
        forward(r, w, max(<Py_ssize_t>0, last), r.program.n_ops, r0, r1)
        compute_loss(r, w, r0, r1)
        backward(r, w, r.program.n_ops, last + 1, r0, r1)
        poll_interrupt(r, w.me)
        r0 = r1
    backward_from_sync(r, w, last, team)


# ---- an epoch

cdef bint train_step(Run* r, Worker* w, Py_ssize_t step, int team) noexcept nogil:
    """Make one step, with every thread of the team; return whether to go on.

    `stop` is read only between the two barriers, where nobody writes it, so that all threads agree.
    """
    cdef Py_ssize_t first = step * r.data.batch_size
    cdef Py_ssize_t rows = min(r.data.batch_size, r.data.n - first)
    begin_step(r, w, step)
    w.rows = rows
    add_weight_noise(r, w, team)
    train_rows(r, w, first, rows, team)
    if w.me == 0:
        transpose_batch(r, first, rows, r.data.order)
        add_time(w, TIMES * r.program.n_ops + TIME_GATHER)
    weight_norms(r, w.me, team)
    penalty_rows(r, w.me, team)
    team_wait(&r.team.barrier, team)
    add_time(w, TIMES * r.program.n_ops + TIME_WAITING)
    if r.team.stop:
        return False
    update_running_statistics(r, w, team)
    if w.me == 0:
        r.result.batch_loss[step] = batch_objective(r, step, rows)
        r.result.batch_weight[step] = batch_total(r, first, rows)
    schedule_prefetch(r, w, first + rows, team)
    gradient_tasks(r, w, step, rows, team)
    if r.update.gradient != NULL:
        apply_gradient(r, w, team)
    if w.me == 0:
        r.result.steps = step + 1
        if team > 1:
            # All threads read it after the barrier.
            record_step_time(r)
    team_wait(&r.team.barrier, team)
    add_time(w, TIMES * r.program.n_ops + TIME_WAITING)
    return isfinite(r.result.batch_loss[step])


cdef void train(Run* r, Worker* w, int team, Py_ssize_t n_steps) noexcept nogil:
    """Make steps until the last, a loss that is not finite, an interrupt, or the team's turn ends.

    The turn of the team, or of its first thread alone, ends when the other one is faster: see `autotune.h`.
    """
    cdef Py_ssize_t step = r.team.step
    cdef bint more = True, use_team = r.team.use_team
    w.since = team_clock()
    w.prefetch_calls = 0
    while more and step < n_steps and r.team.use_team == use_team:
        more = train_step(r, w, step, team)
        step += 1
        if team == 1 and r.team.n_threads > 1:
            record_step_time(r)
    if w.me == 0:
        # All other threads have read it, before the barriers of a step.
        r.team.step, r.team.more = step, more


cdef void record_step_time(Run* r) noexcept nogil:
    """Record the time of a step and decide who makes the next one."""
    autotune_step(&r.team.autotune, team_clock())
    r.team.use_team = not r.team.adaptive or autotune_use_team(&r.team.autotune)


cdef void run_train(Run* r) noexcept nogil:
    """Run an epoch, in one parallel region as long as the team is faster than its first thread alone."""
    cdef Py_ssize_t n_steps = (r.data.n + r.data.batch_size - 1) // r.data.batch_size
    r.team.polled = team_clock()
    if r.program.has_statistics:
        load_running_statistics(r)
    r.team.step, r.team.more, r.team.use_team = 0, True, False
    if r.team.n_threads > 1:
        autotune_start(&r.team.autotune, r.team.polled, r.team.n_threads, r.data.batch_size)
        r.team.use_team = not r.team.adaptive or autotune_use_team(&r.team.autotune)
    while r.team.more and r.team.step < n_steps:
        if not r.team.use_team:
            train(r, &r.team.workers[0], 1, n_steps)
            continue
        with nogil, parallel(num_threads=r.team.n_threads):
            train(r, &r.team.workers[threadid()], team_size(), n_steps)


# ---- single passes

cdef void forward_tape(Run* r, Worker* w, int team) noexcept nogil:
    """Run this thread's share of a forward pass over the whole tape."""
    cdef Py_ssize_t last
    w.X = r.data.sparse
    w.rows = r.data.n
    begin_step(r, w, 0)
    add_weight_noise(r, w, team)
    last = forward_to_last_sync(r, w, 0, 0, False, team)
    forward(r, w, max(<Py_ssize_t>0, last), r.program.n_ops, share(r.data.n, w.me, team),
            share(r.data.n, w.me + 1, team))
    update_running_statistics(r, w, team)


cdef void run_forward(Run* r) noexcept nogil:
    """Run a forward pass over the whole tape."""
    r.team.polled = team_clock()
    if r.program.has_statistics:
        load_running_statistics(r)
    if r.team.n_threads == 1:
        forward_tape(r, &r.team.workers[0], 1)
        return
    with nogil, parallel(num_threads=r.team.n_threads):
        forward_tape(r, &r.team.workers[threadid()], team_size())


cdef void backward_tape(Run* r, Worker* w, int team) noexcept nogil:
    """Run this thread's share of a backward pass over the whole tape, and of every dW."""
    cdef Py_ssize_t last = -1, n = r.data.n
    w.rows = n
    begin_step(r, w, 0)
    if r.mode.training and r.program.has_statistics:
        last = previous_sync(r, r.program.n_ops)
    backward(r, w, r.program.n_ops, last + 1, share(n, w.me, team), share(n, w.me + 1, team))
    backward_from_sync(r, w, last, team)
    if w.me == 0:
        transpose_batch(r, 0, n, NULL)
    team_wait(&r.team.barrier, team)
    gradient_tasks(r, w, 0, n, team)


cdef void run_backward(Run* r) noexcept nogil:
    """Run a backward pass over the whole tape, then write every tile of dW into the gradient."""
    r.team.polled = team_clock()
    if r.team.n_threads == 1:
        backward_tape(r, &r.team.workers[0], 1)
        return
    with nogil, parallel(num_threads=r.team.n_threads):
        backward_tape(r, &r.team.workers[threadid()], team_size())


cdef void output_rows(Run* r, Worker* w, char* Z, Py_ssize_t block) noexcept nogil:
    """The raw outputs of this thread's rows of X, block by block on its own tape."""
    cdef Py_ssize_t r0 = share(r.data.n, w.me, r.team.n_threads)
    cdef Py_ssize_t stop = share(r.data.n, w.me + 1, r.team.n_threads)
    cdef Py_ssize_t last = r.program.output, rows
    while r0 < stop and not r.team.stop:
        rows = min(block, stop - r0)
        # The first value is X and the last is the result: neither is copied.
        w.X.indptr = NULL
        if r.data.sparse.indptr != NULL:
            w.X = sparse_from(&r.data.sparse, r0, NULL)
        else:
            w.tape.A[0] = <char*>const_at(r.data.X, r0 * r.program.widths[0], r.program.tiles)
        w.tape.A[last] = at(Z, r0 * r.program.widths[last], r.program.tiles)
        forward(r, w, 0, r.program.n_ops, 0, rows)
        poll_interrupt(r, w.me)
        r0 += rows


cdef void run_outputs(Run* r, Worker* workers, char* Z, Py_ssize_t block) noexcept nogil:
    """Compute Z (n, O), the raw outputs of X (n, I)."""
    cdef int me
    if r.team.poll != NULL:
        r.team.polled = team_clock()
    r.mode.predicting = True
    if r.program.has_statistics:
        load_running_statistics(r)
    if r.team.n_threads == 1:
        output_rows(r, &workers[0], Z, block)
        return
    for me in prange(r.team.n_threads, num_threads=r.team.n_threads, schedule="static"):
        output_rows(r, &workers[me], Z, block)


cdef bint run_predict(Run* r, Worker* workers, char* A, Py_ssize_t block,
                      const tile_link* f) noexcept nogil:
    """Compute A (n, O), the outputs of X through the link, if X is finite; return whether it is."""
    if not r.program.tiles.all_finite(r.data.n * r.program.widths[0], r.data.X):
        return False
    run_outputs(r, workers, A, block)
    f.link(r.data.n, r.program.widths[r.program.output], A, A)
    return True
