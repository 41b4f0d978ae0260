"""The native engine of a program: checks arrays and hands their pointers to the step. No mathematics."""

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS,
    PyBUF_FORMAT,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from libc.math cimport INFINITY, NAN
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

from run cimport ROW_BLOCK, TIMES, Data, Mode, Op, Update, Worker, weight_rows
from tiles cimport tile_link

# Multiply-adds of an epoch from which it may pay to wake the team: about 200 µs of one thread.
cdef double TEAM_WORK = 1e7
# Multiply-adds that take a few microseconds: the interpreter is not released for them.
cdef double SMALL_WORK = 1e5
# Bytes of X from which a prediction checks whether it is mapped from a file: `mapped.RESIDENT`.
cdef Py_ssize_t LARGE = 1 << 27
# Weight of a prediction's pass in choosing a team. A sleeping thread joins after tens of microseconds, or
# after milliseconds if other processes use the cores, so its share must be 10 million multiply-adds.
cdef double SINGLE_PASS = 0.05
# With more concurrent calls than this, releasing the interpreter wakes a sleeping thread each time, which
# takes several times as long.
cdef int MANY_CALLS = 4
cdef double SMALL_WORK_MANY_CALLS = 2e5
# The rules that change neither weights nor state where the gradient is 0.
cdef frozenset IDLE_AT_ZERO = frozenset(("sgd", "adagrad"))

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

cdef extern from "team.h" nogil:
    int team_enter()
    void team_leave()


cdef int poll(void* context) noexcept with gil:
    """Let Python handle signals; an exception of a handler is kept and ends the call."""
    try:
        PyErr_CheckSignals()
    except BaseException as error:
        (<Core>context).interrupt = error
        return 1
    return 0


cdef class Core(Memory):
    """The calls of the native engine of one program; parameters as those of `Memory`."""

    cdef InputView taped        # a sparse X that `backward` reads again, or None
    cdef object taped_training
    cdef Py_ssize_t taped_rows
    cdef object interrupt, dtype, bound
    cdef View bound_view
    cdef str link_name
    cdef const tile_link* link
    cdef bint busy
    cdef int calls              # concurrent calls in this process when this one began, including itself

    def __cinit__(self, list ops, list heads, Py_ssize_t output, list widths, Py_ssize_t size,
                  dtype, int threads):
        self.dtype = dtype

    # ---- the parts of a call: begin, set what differs, start, run, finish

    cdef int begin(self) except -1:
        """Refuse concurrent calls, those of a signal handler included, and forget the previous call."""
        if self.busy:
            raise RuntimeError(
                "this network is already in use; concurrent calls are not supported")
        memset(&self.run.data, 0, sizeof(Data))
        memset(&self.run.mode, 0, sizeof(Mode))
        memset(&self.run.update, 0, sizeof(Update))
        self.run.batch.columns.indptr = NULL
        self.run.update.clip_value = self.run.update.clip_norm = INFINITY
        return 0

    cdef int start(self, double work) except -1:
        """Choose the number of threads for this many multiply-adds; `finish` must follow."""
        self.busy = True
        # Networks that are in use at the same time, in other threads, share the cores.
        self.calls = team_enter()
        self.run.team.n_threads = team_for(work, max(1, self.threads // self.calls))
        self.run.team.adaptive = adaptive_team()
        self.run.team.stop = 0
        self.run.team.poll = poll
        self.run.team.context = <void*>self
        memset(&self.run.team.barrier, 0, sizeof(self.run.team.barrier))
        self.run.result.steps = 0
        self.interrupt = None
        return 0

    cdef object finish(self):
        """End the call; return the exception of a signal handler, or None."""
        error, self.interrupt = self.interrupt, None
        self.busy = False
        team_leave()
        return error

    cdef double work_of(self, InputView x, double rows):
        """Multiply-adds of a forward pass over this many rows like those of X."""
        cdef double dense = rows * self.multiply_adds
        if x.density >= 1 or self.run.program.densify or self.multiply_adds == 0:
            return dense
        return dense * (1 - (1 - x.density) * self.first_multiply_adds / self.multiply_adds)

    cdef int set_training(self, tuple noise, momentum, bint heads, double weight_noise) except -1:
        """Set how the passes differ from prediction: see `TrainingPass`."""
        cdef Mode* mode = &self.run.mode
        mode.noise_seed, mode.noise_step = noise
        if weight_noise > 0:
            self.need_noisy()
        mode.training, mode.with_heads, mode.weight_noise = True, heads, weight_noise
        mode.momentum = NAN if momentum is None else momentum
        mode.n_heads = self.run.program.n_heads if heads else 0
        return 0

    cdef int freeze_statistics(self, lr_scales) except -1:
        """Use and keep the running statistics of the ops whose parameters are all frozen, in training too."""
        cdef Py_ssize_t i
        cdef Op* op
        scale_of = lr_scales.get if lr_scales else None
        for i in range(self.run.program.n_ops):
            op = &self.run.program.ops[i]
            op.frozen_statistics = False
            if lr_scales and op.mean >= 0:
                W, b = self.names[i]
                op.frozen_statistics = scale_of(W) == 0 and scale_of(b) == 0
        return 0

    cdef int set_parameters(self, char* parameters) noexcept:
        """Set the parameters, and the effective ones of the passes."""
        self.run.parameters = parameters
        self.run.effective = self.noisy if self.run.mode.weight_noise > 0 else parameters
        return 0

    cdef int set_lr_scales(self, lr_scales, bint input_delta, bint all_deltas=False) except -1:
        """Set the multipliers of the learning rate, by name of parameter, and the deltas that are needed.

        Those are the deltas of values that depend on trained parameters, that of X if `input_delta`, or all.
        """
        cdef Py_ssize_t i
        cdef Op* op
        self.delta_needed[0] = input_delta
        for i in range(self.run.program.n_ops):
            op = &self.run.program.ops[i]
            op.W_lr_scale = op.b_lr_scale = 1
            if lr_scales:
                W, b = self.names[i]
                op.W_lr_scale, op.b_lr_scale = lr_scales.get(W, 1.0), lr_scales.get(b, 1.0)
            op.needs_delta = self.delta_needed[op.source]
            op.needs_other_delta = op.other >= 0 and self.delta_needed[op.other]
            self.delta_needed[op.target] = (
                all_deltas or op.needs_delta or op.needs_other_delta
                or op.W >= 0 and op.W_lr_scale > 0 or op.b >= 0 and op.b_lr_scale > 0)
        return 0

    cdef View set_update(self, state, penalty):
        """Set the optimizer, its clipping and the penalty; return the view of the state."""
        cdef Update* u = &self.run.update
        cdef Py_ssize_t i
        cdef View s
        optimizer = state.optimizer
        cdef tuple hyperparameters = optimizer.hyperparameters
        u.optimizer = find(self.run.program.tiles.optimizers, optimizer.rule)
        if len(hyperparameters) != u.optimizer.n_hyperparameters:
            raise ValueError(f"{optimizer.rule} takes {u.optimizer.n_hyperparameters} hyperparameters; "
                             f"got {len(hyperparameters)}")
        for i in range(len(hyperparameters)):
            u.hyperparameters[i] = hyperparameters[i]
        if optimizer.clip_value is not None:
            u.clip_value = optimizer.clip_value
        if optimizer.clip_norm is not None:
            u.clip_norm = optimizer.clip_norm
        s = View(state.arrays, u.optimizer.n_states * self.size, self.item_size, True)
        u.state0 = u.state1 = s.data
        if u.optimizer.n_states > 1:
            u.state1 = s.data + self.size * self.item_size
        if penalty is not None:
            u.penalty = find(self.run.program.tiles.penalties, penalty.name)
            u.alpha, u.mix = penalty.alpha, penalty.mix
        u.t = state.steps
        return s

    cdef InputView input_view(self, X, Py_ssize_t rows, bint training=False):
        if not (training or isinstance(X, ndarray)) and self.run.program.densify:
            raise ValueError("X must be dense, since an op that is not dense reads it; got sparse rows")
        return InputView(X, rows, self.run.program.widths[0], self.item_size)

    # ---- prediction

    def outputs(self, parameters, X, Z, Py_ssize_t rows):
        """Z (rows, O) = the raw outputs of X (rows, I), which may be sparse if dense ops alone read it."""
        self.begin()
        cdef View p = View(parameters, self.size, self.item_size)
        cdef InputView x = self.input_view(X, rows)
        cdef View z = View(Z, rows * self.run.program.widths[self.run.program.output],
                           self.item_size, True)
        self.need_output_tapes(min(rows, <Py_ssize_t>ROW_BLOCK))
        self.start(self.work_of(x, rows) * SINGLE_PASS)
        self.set_parameters(p.data)
        self.run.data.n = rows
        self.run.data.X, self.run.data.sparse = x.X.data, x.sparse
        with nogil:
            run_outputs(&self.run, self.output_workers, z.data, self.output_block)
        error = self.finish()
        if error is not None:
            raise error

    def predict(self, parameters, X, str link):
        """Return the prediction (rows, O) for X, or None unless X can be used without any check.

        That is a finite C-contiguous matrix of the network's dtype and width, with at least one row, and not
        a large one, which may be mapped from a file. Nothing but the result is allocated.
        """
        cdef Py_buffer x
        cdef Py_ssize_t rows
        self.begin()
        if type(X) is not ndarray:
            return None
        try:
            PyObject_GetBuffer(X, &x, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
        except (BufferError, ValueError):
            return None
        try:
            if (x.ndim != 2 or x.itemsize != self.item_size or x.format[1] != 0
                    or x.format[0] != (c"d" if self.item_size == 8 else c"f")
                    or x.shape[0] < 1 or x.shape[1] != self.run.program.widths[0] or x.len > LARGE
                    or <uintptr_t>x.buf % self.item_size):
                return None
            rows = x.shape[0]
            return self.linked_outputs(parameters, <char*>x.buf, rows, link)
        finally:
            PyBuffer_Release(&x)

    cdef object linked_outputs(self, parameters, char* X, Py_ssize_t rows, str link):
        """The outputs of X through the link, in a new array; None unless X is finite."""
        cdef Py_ssize_t n_out = self.run.program.widths[self.run.program.output]
        cdef View a
        cdef const tile_link* f
        cdef double work = <double>rows * self.multiply_adds
        cdef bint finite
        A = empty((rows, n_out), self.dtype)
        a = View(A, rows * n_out, self.item_size, True)
        if parameters is not self.bound:
            self.bound_view = View(parameters, self.size, self.item_size)
            self.bound = parameters
        if link is not self.link_name:
            self.link = find(self.run.program.tiles.links, link)
            self.link_name = link
        f = self.link
        self.need_output_tapes(min(rows, <Py_ssize_t>ROW_BLOCK))
        self.start(work * SINGLE_PASS)
        self.set_parameters(self.bound_view.data)
        self.run.data.X, self.run.data.n = X, rows
        if work < (SMALL_WORK if self.calls <= MANY_CALLS else SMALL_WORK_MANY_CALLS):
            # Done before another thread could have taken the interpreter.
            self.run.team.poll = NULL
            finite = run_predict(&self.run, self.output_workers, a.data, self.output_block, f)
        else:
            with nogil:
                finite = run_predict(&self.run, self.output_workers, a.data, self.output_block, f)
        error = self.finish()
        if error is not None:
            raise error
        return A if finite else None

    # ---- single passes and steps

    def forward(self, parameters, X, Z, Py_ssize_t rows, training=None):
        """Like `outputs`, and keep every value for `backward`, which also reads a sparse X again.

        training: a `TrainingPass`, or None for prediction; running statistics among the parameters change.
        """
        self.begin()
        cdef View p = View(parameters, self.size, self.item_size,
                           training is not None and self.run.program.has_statistics)
        cdef InputView x = self.input_view(X, rows)
        cdef View z = View(Z, rows * self.run.program.widths[self.run.program.output],
                           self.item_size, True)
        cdef int me
        if training is not None:
            self.set_training(training.noise, training.momentum, training.heads, training.weight_noise)
            self.freeze_statistics(training.lr_scales)
        self.need_tape(rows)
        self.taped, self.taped_training, self.taped_rows = None, training, 0
        if x.sparse.indptr != NULL:
            self.taped = x
        else:
            self.need_X(rows)
            memcpy(self.run.batch.X, x.X.data, x.X.size * self.item_size)
            for me in range(self.threads):
                self.run.team.workers[me].tape.A[0] = self.run.batch.X
        self.start(self.work_of(x, rows))
        self.set_parameters(p.data)
        self.run.data.n, self.run.data.sparse = rows, x.sparse
        with nogil:
            run_forward(&self.run)
        error = self.finish()
        if error is not None:
            raise error
        self.taped_rows = rows
        self.copy_out(z, self.run.program.output)

    cdef int copy_out(self, View target, Py_ssize_t value) except -1:
        """Copy a value of the tape into an array with as many elements."""
        memcpy(target.data, self.run.team.workers[0].tape.A[value], target.size * self.item_size)
        return 0

    def value(self, Py_ssize_t value, A, D=None):
        """Copy A (rows, columns), and D if given, of a value of the last `forward` and `backward`."""
        if not (0 < value < self.n_values):
            raise ValueError(f"value must be from 1 to {self.n_values - 1}; got {value}")
        cdef Py_ssize_t size = self.taped_rows * self.run.program.widths[value]
        cdef View a = View(A, size, self.item_size, True), d = View(D, size, self.item_size, True)
        self.copy_out(a, value)
        if D is not None:
            memcpy(d.data, self.run.team.workers[0].tape.D[value], d.size * self.item_size)

    def backward(self, parameters, D, gradient, dX, Py_ssize_t rows, tuple heads=()):
        """Compute the flat gradient, and dX (rows, I) unless None, from D (rows, O) of the last `forward`.

        heads: the D of each head of that pass.
        """
        self.begin()
        cdef Py_ssize_t n_out = rows * self.run.program.widths[self.run.program.output], i
        cdef View p = View(parameters, self.size, self.item_size)
        cdef View d = View(D, n_out, self.item_size)
        cdef View g = View(gradient, self.size, self.item_size, True)
        cdef View x = View(dX, rows * self.run.program.widths[0], self.item_size, True)
        cdef View h
        cdef Worker* w = &self.run.team.workers[0]
        training = self.taped_training
        if self.tape_memory is None or rows != self.taped_rows:
            raise RuntimeError("backward needs a forward pass of as many rows")
        if training is not None:
            self.set_training(training.noise, training.momentum, training.heads, training.weight_noise)
        if len(heads) != self.run.mode.n_heads:
            raise ValueError(f"heads must have {self.run.mode.n_heads} deltas; got {len(heads)}")
        for i in range(len(heads)):
            h = View(heads[i], n_out, self.item_size)
            memcpy(w.tape.D[self.run.program.heads[i].value], h.data, h.size * self.item_size)
        if dX is not None:
            self.need_dX(rows)
        self.set_lr_scales(None, dX is not None, True)
        if self.taped is not None:
            self.need_columns(self.taped.values.size)
            self.run.data.sparse, self.run.batch.columns = self.taped.sparse, self.columns
        self.start(2.0 * rows * self.multiply_adds)
        memcpy(w.tape.D[self.run.program.output], d.data, d.size * self.item_size)
        memset(g.data, 0, g.size * self.item_size)
        self.set_parameters(p.data)
        self.run.update.gradient, self.run.data.n = g.data, rows
        with nogil:
            run_backward(&self.run)
        error = self.finish()
        if error is not None:
            raise error
        if dX is not None:
            memcpy(x.data, w.tape.D[0], x.size * self.item_size)

    def update(self, parameters, gradient, state, double learning_rate, penalty, lr_scales=None):
        """Make one step of the optimizer with a flat gradient; see `OptimizerState`."""
        self.begin()
        cdef View p = View(parameters, self.size, self.item_size, True)
        cdef View g = View(gradient, self.size, self.item_size)
        cdef View _state = self.set_update(state, penalty)
        self.set_lr_scales(lr_scales, False)
        self.need_gradient()
        self.start(0)
        self.set_parameters(p.data)
        memcpy(self.gradient, g.data, g.size * self.item_size)
        self.zero_frozen()
        self.run.update.gradient, self.run.update.learning_rates = self.gradient, &learning_rate
        with nogil:
            run_update(&self.run)
        self.finish()
        state.steps += 1

    cdef int zero_frozen(self) noexcept:
        """Zero the gradient of frozen parameters, which do not count in its norm."""
        cdef Py_ssize_t i
        cdef Op* op
        for i in range(self.run.program.n_ops):
            op = &self.run.program.ops[i]
            if op.W >= 0 and op.W_lr_scale == 0:
                memset(self.gradient + op.W * self.item_size, 0,
                       weight_rows(op) * op.n_out * self.item_size)
            if op.b >= 0 and op.b_lr_scale == 0:
                memset(self.gradient + op.b * self.item_size, 0, op.n_out * self.item_size)
        return 0

    # ---- an epoch

    def train(self, parameters, state, data, plan, timers=None):
        """Train for an epoch, in place; return the loss and the weight of each batch.

        parameters: the flat vector; state: an `OptimizerState`, whose steps are counted; data: a `Data`;
        plan: a `Plan`. timers (threads, 3 n_ops + 3), if given, receives the seconds of each thread: see
        `bpfast.training.profile`. An exception of a signal handler is raised after the steps are counted.
        """
        self.begin()
        self.taped_rows = 0
        cdef View p = View(parameters, self.size, self.item_size, True)
        cdef EpochView e = self.set_epoch(data, plan)
        cdef View _state = self.set_update(state, plan.penalty)
        losses, counts = empty(e.n_batches), empty(e.n_batches)
        cdef View l = View(losses, e.n_batches, sizeof(double), True)
        cdef View c = View(counts, e.n_batches, sizeof(double), True)
        cdef View t = View(timers, self.threads * TIMES * (self.run.program.n_ops + 1), sizeof(double), True)
        self.set_training(plan.noise, None, True, plan.weight_noise)
        self.freeze_statistics(plan.lr_scales)
        self.set_lr_scales(plan.lr_scales, False)
        self.set_plan(plan, e)
        self.set_result(<double*>l.data, <double*>c.data, e.n_batches)
        self.set_timers(<double*>t.data)
        self.start(3 * self.work_of(e.X, e.batch_size))
        if self.run.team.adaptive and 3 * self.work_of(e.X, e.n) < TEAM_WORK:
            self.run.team.n_threads = 1
        self.set_parameters(p.data)
        with nogil:
            run_train(&self.run)
        if not self.run.team.stop:
            # Signals since the last poll.
            poll(self.run.team.context)
        self.set_timers(NULL)
        error = self.finish()
        state.steps += self.run.result.steps
        if error is not None:
            raise error
        return losses, counts

    cdef EpochView set_epoch(self, data, plan):
        """Set the rows of an epoch and their order, and allocate what its batches need."""
        cdef Data* d = &self.run.data
        cdef EpochView e = EpochView()
        cdef Py_ssize_t rows = len(data)
        cdef uint64_t seed, epoch
        cdef bint by_class = data.Y.ndim == 1
        e.X = self.input_view(data.X, rows, True)
        e.Y = View(None if by_class else data.Y,
                   rows * self.run.program.widths[self.run.program.output], self.item_size)
        e.classes = View(data.Y if by_class else None, rows, sizeof(int64_t))
        e.weights = View(data.weights, rows, sizeof(double))
        e.set_order(plan, rows)
        e.alphas = View(plan.alphas, e.n_batches, sizeof(double))
        e.learning_rates = View(plan.learning_rates, e.n_batches, sizeof(double))
        d.X, d.sparse, d.Y, d.classes = e.X.X.data, e.X.sparse, e.Y.data, <int64_t*>e.classes.data
        d.weights, d.n, d.batch_size = <double*>e.weights.data, e.n, e.batch_size
        d.order = <int64_t*>e.order.data
        if plan.shuffle is not None:
            seed, epoch = plan.shuffle
            self.need_order(rows)
            d.order = self.order
            with nogil:
                permutation(self.order, rows, seed, epoch)
        self.need_tape(e.batch_size)
        if d.sparse.indptr != NULL and not self.run.program.densify:
            self.need_columns(largest_batch(&d.sparse, e.n, e.batch_size, d.order))
            self.run.batch.columns = self.columns
        elif d.order != NULL or d.sparse.indptr != NULL:
            self.need_X(e.batch_size)
        return e

    cdef int set_plan(self, plan, EpochView e) except -1:
        """Set the objective of an epoch, and what its update adds to `set_update`."""
        cdef Update* u = &self.run.update
        loss = plan.loss
        u.loss = find(self.run.program.tiles.losses, loss.name)
        u.loss_parameter, u.loss_scale, u.with_penalty = loss.parameter, plan.loss_scale, plan.objective
        u.alphas, u.learning_rates = <double*>e.alphas.data, <double*>e.learning_rates.data
        if u.clip_norm < INFINITY:
            self.need_gradient()
            u.gradient = self.gradient
        u.skip_unused_rows = (self.run.batch.columns.indptr != NULL and u.penalty == NULL
                              and u.optimizer.name.decode() in IDLE_AT_ZERO)
        return 0

    cdef int set_result(self, double* losses, double* counts, Py_ssize_t n) noexcept:
        """Set where losses and weights of batches go; those that are not run keep NaN and 0."""
        cdef Py_ssize_t i
        for i in range(n):
            losses[i], counts[i] = NAN, 0
        self.run.result.batch_loss, self.run.result.batch_weight = losses, counts
        return 0

    cdef int set_timers(self, double* seconds) noexcept:
        """Set the timers of each thread, or none."""
        cdef int me
        cdef Py_ssize_t places = TIMES * (self.run.program.n_ops + 1)
        for me in range(self.threads):
            self.run.team.workers[me].seconds = NULL if seconds == NULL else seconds + me * places
        return 0
