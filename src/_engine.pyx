# cython: language_level=3, cdivision=True
# cython: freethreading_compatible=True
"""The native engine of a program: checks arrays and hands the step their pointers. No mathematics."""

import numpy

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS,
    PyBUF_FORMAT,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from libc.math cimport INFINITY, NAN
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

from bpfast.native._batch cimport permutation
from bpfast.native._runtime cimport View, by_the_clock, find, team_for
from bpfast.native._memory cimport Memory, weight_rows
from bpfast.native._step cimport (
    ROW_BLOCK,
    TIMES,
    Op,
    Run,
    Worker,
    run_backward,
    run_forward,
    run_outputs,
    run_train,
    tile_csr,
    tile_link,
)
from bpfast.native._update cimport run_update

# Multiply-adds of an epoch from which on the team may be worth waking: some 200 µs of one thread.
cdef double WORTH_WAKING = 1e7
# Multiply-adds that take a few microseconds.
cdef double SMALL_WORK = 1e5
# Bytes of X from which on a prediction asks whether it is mapped from a file: `mapped.RESIDENT`.
cdef Py_ssize_t LARGE = 1 << 27
# What a pass of prediction counts in choosing a team. A thread that has slept comes after tens of
# microseconds, and after milliseconds where another process has the cores: it is to get 10 million.
cdef double SINGLE_PASS = 0.05
# The same where more than so many calls are at work: each that gives the interpreter up then wakes a
# thread that has slept, which takes several times as long.
cdef int CROWD = 4
cdef double SMALL_WORK_IN_CROWD = 2e5
# The rules that change neither weight nor state where the gradient is 0.
cdef frozenset RESTING = frozenset(("sgd", "adagrad"))

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

cdef extern from "team.h" nogil:
    int team_enter()
    void team_leave()


cdef int poll(void* context) noexcept with gil:
    """Let Python handle a signal; whatever a handler raises is kept and ends the call."""
    try:
        PyErr_CheckSignals()
    except BaseException as error:
        (<Core>context).interrupt = error
        return 1
    return 0


cdef class Features:
    """X of a call: the memory of a matrix (rows, I), or of a tuple (indptr, indices, values).

    What the tuple holds has been checked: `sparse.CSR`.
    """

    cdef View X, indptr, indices, values
    cdef tile_csr sparse
    cdef double density

    def __cinit__(self, X, Py_ssize_t rows, Py_ssize_t columns, int item_size):
        cdef Py_ssize_t entries
        memset(&self.sparse, 0, sizeof(tile_csr))
        self.density = 1
        if not isinstance(X, tuple):
            self.X = View(X, rows * columns, item_size)
            return
        starts, indices, values = X
        entries = len(values)
        self.X = View(None, 0, item_size)
        self.indptr = View(starts, rows + 1, sizeof(int64_t))
        self.indices = View(indices, entries, sizeof(int64_t))
        self.values = View(values, entries, item_size)
        self.sparse.indptr = <int64_t*>self.indptr.data
        self.sparse.indices = <int64_t*>self.indices.data
        self.sparse.values = self.values.data
        if self.sparse.indptr[0] != 0 or self.sparse.indptr[rows] != entries:
            raise ValueError(f"indptr must go from 0 to {entries}")
        self.density = <double>entries / rows / columns


cdef bint linked(Run* r, Worker* workers, char* A, Py_ssize_t block,
                 const tile_link* f) noexcept nogil:
    """A (n, O) = the outputs of X through the link; whether X is finite."""
    if not r.tiles.all_finite(r.n * r.widths[0], r.X):
        return False
    run_outputs(r, workers, A, block)
    f.link(r.n, r.widths[r.output], A, A)
    return True


cdef class Core(Memory):
    """The calls of the native engine of one program, which `Memory` describes."""

    cdef Features taped     # a sparse X that `backward` will want, or None
    cdef tuple taped_training
    cdef Py_ssize_t taped_rows
    cdef object interrupt, array_type, make_array, dtype, bound
    cdef View bound_view
    cdef str link_name
    cdef const tile_link* link
    cdef bint busy
    cdef int calls          # at work in this process when this one began, itself among them

    def __cinit__(self, list ops, list heads, Py_ssize_t output, list widths, Py_ssize_t size,
                  dtype, int threads):
        self.dtype = dtype
        self.array_type, self.make_array = numpy.ndarray, numpy.empty

    cdef double work_of(self, Features x, double rows):
        """Rows of a dense X that are as much work as these."""
        if x.density >= 1 or self.run.densify or self.multiply_adds == 0:
            return rows
        return rows * (1 - (1 - x.density) * self.first_multiply_adds / self.multiply_adds)

    cdef int start(self, double rows, double passes, tuple training=None) except -1:
        """How many threads this much work deserves, and a clean slate; `finish` must follow.

        training: (seed, step, momentum or None, heads, weight_noise, fixed of each op), None for
        prediction.
        """
        cdef Py_ssize_t i
        self.run.training, self.run.predicting = training is not None, False
        self.run.n_heads, self.run.with_heads, self.run.weight_noise = 0, False, 0
        if training is not None:
            seed, step, momentum, heads, weight_noise, fixed = training
            if weight_noise > 0:
                self.need_seen()
            self.run.noise_seed, self.run.noise_step = seed, step
            self.run.momentum = NAN if momentum is None else momentum
            self.run.with_heads, self.run.weight_noise = heads, weight_noise
            self.run.n_heads = self.head_count if heads else 0
            for i in range(self.run.n_ops):
                self.run.ops[i].fixed = fixed[i]
        self.run.clip_value = self.run.clip_norm = INFINITY
        self.run.learning_rates = NULL
        self.busy = True
        # Networks that are at work at the same time, in other threads, leave each other room.
        self.calls = team_enter()
        self.run.n_threads = team_for(rows * self.multiply_adds * passes,
                                      max(1, self.threads // self.calls))
        self.run.paced = by_the_clock()
        self.run.stop = 0
        self.run.steps = 0
        self.run.poll = poll
        self.run.context = <void*>self
        self.run.gradient = NULL
        self.run.sparse.indptr = self.run.columns.indptr = NULL
        memset(&self.run.barrier, 0, sizeof(self.run.barrier))
        self.interrupt = None
        return 0

    cdef object finish(self):
        """The work is done; returns what a signal handler raised, or None."""
        error, self.interrupt = self.interrupt, None
        self.busy = False
        team_leave()
        return error

    cdef int require_idle(self) except -1:
        """One call at a time: a signal handler that uses the network it interrupted is refused."""
        if self.busy:
            raise RuntimeError("this network is at work; one call at a time")
        return 0

    cdef int set_parameters(self, char* parameters) noexcept:
        """What the call works on, and what its passes see."""
        self.run.parameters = parameters
        self.run.seen = self.noisy if self.run.weight_noise > 0 else parameters
        return 0

    cdef int set_rates(self, tuple rates, bint input_delta, bint all_deltas=False) except -1:
        """The multiples of the learning rate, (W, b) of each op or none for 1; who wants a delta.

        That is X's, if asked, and that of what has parameters below it that move, or of all.
        """
        cdef Py_ssize_t i
        cdef Op* op
        self.below[0] = input_delta
        for i in range(self.run.n_ops):
            op = &self.run.ops[i]
            op.W_rate = op.b_rate = 1
            if rates:
                op.W_rate, op.b_rate = rates[i]
            op.wants_delta = self.below[op.source]
            op.wants_other = op.other >= 0 and self.below[op.other]
            self.below[op.target] = (all_deltas or op.wants_delta or op.wants_other
                                     or op.W >= 0 and op.W_rate > 0 or op.b >= 0 and op.b_rate > 0)
        return 0

    cdef Features features(self, X, Py_ssize_t rows, bint training=False):
        if isinstance(X, tuple) and self.run.densify and not training:
            raise ValueError("an op that is not dense reads X: a dense X is wanted")
        return Features(X, rows, self.run.widths[0], self.item_size)

    def outputs(self, parameters, X, Z, Py_ssize_t rows):
        """Z (rows, O) = the raw outputs of X (rows, I), or of a sparse X that a dense op reads."""
        self.require_idle()
        cdef View p = View(parameters, self.size, self.item_size)
        cdef Features x = self.features(X, rows)
        cdef View z = View(Z, rows * self.run.widths[self.run.output], self.item_size, True)
        self.need_output_tapes(min(rows, <Py_ssize_t>ROW_BLOCK))
        self.start(self.work_of(x, rows), SINGLE_PASS)
        self.set_parameters(p.data)
        self.run.n = rows
        self.run.X, self.run.sparse = x.X.data, x.sparse
        with nogil:
            run_outputs(&self.run, self.output_workers, z.data, self.output_block)
        error = self.finish()
        if error is not None:
            raise error

    def predict(self, parameters, X, str link):
        """The prediction (rows, O) for X, or None unless X is exactly what the network takes.

        That is a finite C-contiguous matrix of its dtype and width, with at least one row, and not a
        large one, which may lie in a file; what else it may be is for the checks to find out.
        Nothing but the result is allocated.
        """
        cdef Py_buffer x
        cdef Py_ssize_t rows
        self.require_idle()
        if type(X) is not self.array_type:
            return None
        try:
            PyObject_GetBuffer(X, &x, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
        except (BufferError, ValueError):
            return None
        try:
            if (x.ndim != 2 or x.itemsize != self.item_size or x.format[1] != 0
                    or x.format[0] != (c"d" if self.item_size == 8 else c"f")
                    or x.shape[0] < 1 or x.shape[1] != self.run.widths[0] or x.len > LARGE
                    or <uintptr_t>x.buf % self.item_size):
                return None
            rows = x.shape[0]
            return self.linked_outputs(parameters, <char*>x.buf, rows, link)
        finally:
            PyBuffer_Release(&x)

    cdef object linked_outputs(self, parameters, char* X, Py_ssize_t rows, str link):
        """The outputs of X through the link, in an array of their own; None unless X is finite."""
        cdef Py_ssize_t n_out = self.run.widths[self.run.output]
        cdef View a
        cdef const tile_link* f
        cdef double work = <double>rows * self.multiply_adds
        cdef bint finite
        A = self.make_array((rows, n_out), self.dtype)
        a = View(A, rows * n_out, self.item_size, True)
        if parameters is not self.bound:
            self.bound_view = View(parameters, self.size, self.item_size)
            self.bound = parameters
        if link is not self.link_name:
            self.link = find(self.run.tiles.links, link)
            self.link_name = link
        f = self.link
        self.need_output_tapes(min(rows, <Py_ssize_t>ROW_BLOCK))
        self.start(rows, SINGLE_PASS)
        self.set_parameters(self.bound_view.data)
        self.run.X, self.run.n = X, rows
        if work < (SMALL_WORK if self.calls <= CROWD else SMALL_WORK_IN_CROWD):
            # Done before another thread could have taken the interpreter.
            self.run.poll = NULL
            finite = linked(&self.run, self.output_workers, a.data, self.output_block, f)
        else:
            with nogil:
                finite = linked(&self.run, self.output_workers, a.data, self.output_block, f)
        error = self.finish()
        if error is not None:
            raise error
        return A if finite else None

    def forward(self, parameters, X, Z, Py_ssize_t rows, tuple training=None):
        """As `outputs`, and keep every value for `backward`, which also wants a sparse X again.

        training: see `start`; running statistics among the parameters move.
        """
        self.require_idle()
        cdef View p = View(parameters, self.size, self.item_size,
                           training is not None and self.run.has_statistics)
        cdef Features x = self.features(X, rows)
        cdef View z = View(Z, rows * self.run.widths[self.run.output], self.item_size, True)
        cdef int me
        self.need_tape(rows)
        self.taped, self.taped_training, self.taped_rows = None, training, 0
        if x.sparse.indptr != NULL:
            self.taped = x
        else:
            self.need_X(rows)
            memcpy(self.run.batch_X, x.X.data, x.X.size * self.item_size)
            for me in range(self.threads):
                self.run.workers[me].tape.A[0] = self.run.batch_X
        self.start(self.work_of(x, rows), 1, training)
        self.set_parameters(p.data)
        self.run.n, self.run.sparse = rows, x.sparse
        with nogil:
            run_forward(&self.run)
        error = self.finish()
        if error is not None:
            raise error
        self.taped_rows = rows
        self.copy_out(z, self.run.output)

    cdef int copy_out(self, View target, Py_ssize_t value) except -1:
        """A value of the tape into an array of as many elements."""
        memcpy(target.data, self.run.workers[0].tape.A[value], target.size * self.item_size)
        return 0

    def value(self, Py_ssize_t value, A, D=None):
        """A (rows, columns), and perhaps D, of a value in the last `forward` and `backward`."""
        if not (0 < value < self.n_values):
            raise ValueError(f"there is no value {value}")
        cdef View a = View(A, self.taped_rows * self.run.widths[value], self.item_size, True)
        cdef View d = View(D, self.taped_rows * self.run.widths[value], self.item_size, True)
        self.copy_out(a, value)
        if D is not None:
            memcpy(d.data, self.run.workers[0].tape.D[value], d.size * self.item_size)

    def backward(self, parameters, D, gradient, dX, Py_ssize_t rows, tuple heads=()):
        """The flat gradient, and dX (rows, I) or None, from D (rows, O) of the last `forward`.

        heads: the D of each head that was there.
        """
        self.require_idle()
        cdef Py_ssize_t n_out = rows * self.run.widths[self.run.output], i
        cdef View p = View(parameters, self.size, self.item_size)
        cdef View d = View(D, n_out, self.item_size)
        cdef View g = View(gradient, self.size, self.item_size, True)
        cdef View x = View(dX, rows * self.run.widths[0], self.item_size, True)
        cdef View h
        if self.tape_memory is None or rows != self.taped_rows:
            raise RuntimeError("backward needs a forward pass of as many rows")
        if len(heads) > self.head_count:
            raise ValueError(f"the deltas of at most {self.head_count} heads are wanted")
        for i in range(len(heads)):
            h = View(heads[i], n_out, self.item_size)
            memcpy(self.run.workers[0].tape.D[self.run.heads[i].value], h.data,
                   h.size * self.item_size)
        if dX is not None:
            self.need_dX(rows)
        if self.taped is not None:
            self.need_columns(self.taped.values.size)
        self.start(rows, 2, self.taped_training)
        if len(heads) != self.run.n_heads:
            self.finish()
            raise ValueError(f"the deltas of {self.run.n_heads} heads are wanted")
        self.set_rates((), dX is not None, True)
        if self.taped is not None:
            self.run.sparse, self.run.columns = self.taped.sparse, self.columns
        memcpy(self.run.workers[0].tape.D[self.run.output], d.data, d.size * self.item_size)
        memset(g.data, 0, g.size * self.item_size)
        self.set_parameters(p.data)
        self.run.gradient, self.run.n = g.data, rows
        with nogil:
            run_backward(&self.run)
        error = self.finish()
        if error is not None:
            raise error
        if dX is not None:
            memcpy(x.data, self.run.workers[0].tape.D[0], x.size * self.item_size)

    cdef View set_update(self, state, str rule, tuple hyperparameters, penalty):
        """The optimizer and the penalty of this call; returns the view of the state."""
        cdef Py_ssize_t i
        cdef View s
        self.run.optimizer = find(self.run.tiles.optimizers, rule)
        if len(hyperparameters) != self.run.optimizer.n_hyperparameters:
            raise ValueError(f"{rule} takes {self.run.optimizer.n_hyperparameters} hyperparameters")
        for i in range(len(hyperparameters)):
            self.run.hyperparameters[i] = hyperparameters[i]
        s = View(state, self.run.optimizer.n_states * self.size, self.item_size, True)
        self.run.state0 = self.run.state1 = s.data
        if self.run.optimizer.n_states > 1:
            self.run.state1 = s.data + self.size * self.item_size
        self.run.penalty = NULL
        if penalty is not None:
            name, self.run.alpha, self.run.mix = penalty
            self.run.penalty = find(self.run.tiles.penalties, name)
        return s

    def update(self, parameters, gradient, state, str rule, tuple hyperparameters, tuple clip,
               penalty, double learning_rate, Py_ssize_t steps, tuple rates=()):
        """One step of the optimizer with a flat gradient; `rates` as in `set_rates`."""
        self.require_idle()
        cdef View p = View(parameters, self.size, self.item_size, True)
        cdef View g = View(gradient, self.size, self.item_size)
        cdef double learning_rates[1]
        cdef View _state = self.set_update(state, rule, hyperparameters, penalty)
        self.need_gradient()
        self.start(0, 0)
        self.set_rates(rates, False)
        self.run.clip_value, self.run.clip_norm = clip
        learning_rates[0] = learning_rate
        self.set_parameters(p.data)
        memcpy(self.gradient, g.data, g.size * self.item_size)
        self.forget_frozen()
        self.run.gradient, self.run.t = self.gradient, steps
        self.run.learning_rates = learning_rates
        with nogil:
            run_update(&self.run)
        self.run.learning_rates = NULL
        self.finish()

    cdef int forget_frozen(self) noexcept:
        """What does not move does not count in the gradient's norm."""
        cdef Py_ssize_t i
        cdef Op* op
        for i in range(self.run.n_ops):
            op = &self.run.ops[i]
            if op.W >= 0 and op.W_rate == 0:
                memset(self.gradient + op.W * self.item_size, 0,
                       weight_rows(op) * op.n_out * self.item_size)
            if op.b >= 0 and op.b_rate == 0:
                memset(self.gradient + op.b * self.item_size, 0, op.n_out * self.item_size)
        return 0

    def train(self, parameters, X, Y, classes, weights, Py_ssize_t rows, Py_ssize_t batch_size,
              order, shuffle, str loss, double loss_parameter, double loss_scale, state, str rule,
              tuple hyperparameters, tuple clip, penalty, alphas, bint objective, learning_rates,
              Py_ssize_t steps, batch_loss, batch_weight, seconds, tuple training,
              tuple rates=()):
        """An epoch, in place. Returns the steps made, and what a signal handler raised or None.

        `order` is int64 memory of `rows` elements for the shuffled order, (seed, epoch) of which
        is `shuffle`; without `shuffle` it holds the numbers of the rows to take; both None keep the
        rows' own order. `alphas`, one a step, go in place of the penalty's strength; with
        `objective` the losses include the penalty. `seconds` (threads, 3 n_ops + 3), where given,
        gets what each thread spent: see `bpfast.profiling`. clip: (clip_value, clip_norm), infinite for
        none. training: see `start`, rates: see `set_rates`.
        """
        self.require_idle()
        cdef Py_ssize_t n_steps, length = rows
        cdef Py_ssize_t n_out = self.run.widths[self.run.output]
        cdef uint64_t seed = 0, epoch = 0
        if rows < 1 or batch_size < 1:
            raise ValueError("an epoch needs at least one row and batches of at least one")
        if order is not None and shuffle is None:
            length = len(order)
            if length < 1:
                raise ValueError("an order of at least one row is wanted")
        batch_size = min(batch_size, length)
        n_steps = (length + batch_size - 1) // batch_size
        cdef View p = View(parameters, self.size, self.item_size, True)
        cdef Features x = self.features(X, rows, True)
        cdef View y = View(Y, rows * n_out, self.item_size)
        cdef View c = View(classes, rows, sizeof(int64_t))
        cdef View w = View(weights, rows, sizeof(double))
        cdef View o = View(order, length, sizeof(int64_t), shuffle is not None)
        cdef View a = View(alphas, n_steps, sizeof(double))
        cdef View etas = View(learning_rates, n_steps, sizeof(double))
        cdef View losses = View(batch_loss, n_steps, sizeof(double), True)
        cdef View counts = View(batch_weight, n_steps, sizeof(double), True)
        cdef Py_ssize_t places = TIMES * (self.run.n_ops + 1)
        cdef View s = View(seconds, self.threads * places, sizeof(double), True)
        cdef int me
        if (Y is None) == (classes is None):
            raise ValueError("either Y or classes is wanted")
        cdef View _state = self.set_update(state, rule, hyperparameters, penalty)
        self.run.loss, self.run.loss_parameter = find(self.run.tiles.losses, loss), loss_parameter
        if shuffle is not None:
            seed, epoch = shuffle
        self.need_tape(batch_size)
        if shuffle is not None:
            with nogil:
                permutation(<int64_t*>o.data, rows, seed, epoch)
        elif o.data != NULL and not all_within(<int64_t*>o.data, length, rows):
            raise ValueError(f"an order of row numbers from 0 to {rows - 1} is wanted")
        if x.sparse.indptr != NULL and not self.run.densify:
            self.need_columns(largest_batch(&x.sparse, length, batch_size, <int64_t*>o.data))
        elif order is not None or x.sparse.indptr != NULL:
            self.need_X(batch_size)
        if clip[1] < INFINITY:
            self.need_gradient()
        self.taped_rows = 0
        self.start(self.work_of(x, batch_size), 3, training)
        self.set_rates(rates, False)
        self.run.clip_value, self.run.clip_norm = clip
        if clip[1] < INFINITY:
            self.run.gradient = self.gradient
        if self.run.paced and 3 * self.work_of(x, length) * self.multiply_adds < WORTH_WAKING:
            self.run.n_threads = 1
        self.set_parameters(p.data)
        self.run.Y, self.run.n = y.data, length
        self.run.loss_scale, self.run.objective = loss_scale, objective
        self.run.alphas = <double*>a.data
        self.run.X, self.run.sparse = x.X.data, x.sparse
        self.run.skip_unread = 0
        if x.sparse.indptr != NULL and not self.run.densify:
            self.run.columns = self.columns
            self.run.skip_unread = penalty is None and rule in RESTING
        self.run.classes, self.run.weights = <int64_t*>c.data, <double*>w.data
        self.run.order = <int64_t*>o.data
        self.run.batch_size, self.run.t = batch_size, steps
        self.run.learning_rates = <double*>etas.data
        self.run.batch_loss, self.run.batch_weight = <double*>losses.data, <double*>counts.data
        for me in range(self.threads):
            self.run.workers[me].seconds = NULL
            if s.data != NULL:
                self.run.workers[me].seconds = <double*>s.data + me * places
        with nogil:
            run_train(&self.run)
        if not self.run.stop:
            # A signal since the last look is raised by the caller, who counts the steps first.
            poll(self.run.context)
        self.run.alphas = NULL
        self.run.learning_rates = NULL
        for me in range(self.threads):
            self.run.workers[me].seconds = NULL
        error = self.finish()
        return self.run.steps, error


cdef Py_ssize_t largest_batch(const tile_csr* X, Py_ssize_t rows, Py_ssize_t batch_size,
                              const int64_t* order) noexcept nogil:
    """The entries of the batch that has the most."""
    cdef Py_ssize_t i, row, entries = 0, most = 0
    for i in range(rows):
        row = i if order == NULL else order[i]
        if i % batch_size == 0:
            entries = 0
        entries += X.indptr[row + 1] - X.indptr[row]
        most = max(most, entries)
    return most


cdef bint all_within(const int64_t* order, Py_ssize_t length, Py_ssize_t rows) noexcept nogil:
    """Whether every number is that of a row."""
    cdef Py_ssize_t i
    for i in range(length):
        if not (0 <= order[i] < rows):
            return False
    return True


def shuffled(order, seed, epoch):
    """Fill int64 `order` with the order of the rows in an epoch; see `reference.permutation`."""
    cdef View o = View(order, order.size, sizeof(int64_t), True)
    cdef uint64_t s = seed, e = epoch
    with nogil:
        permutation(<int64_t*>o.data, o.size, s, e)
