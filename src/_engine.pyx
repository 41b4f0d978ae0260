# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: freethreading_compatible=True
"""The border: arrays checked and turned into pointers, memory held. No mathematics.

Callers have checked values and shapes with words (`checks`); here sizes are checked once more,
because a pointer forgives nothing.
"""

import os

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_WRITABLE, PyBuffer_Release
from cpython.buffer cimport PyObject_GetBuffer
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset, strcmp

from bpfast._step cimport (
    BLOCK_ROWS,
    BP_OPENMP,
    ROW_BLOCK,
    Op,
    Run,
    Tape,
    Task,
    kernel_activation_derivative,
    kernel_dense_forward,
    kernel_link,
    kernel_loss_and_delta,
    kernel_propagate_delta,
    kernel_weight_gradient,
    op_kind,
    op_name,
    permutation,
    run_backward,
    run_forward,
    run_outputs,
    run_train,
    run_update,
    scratch_bytes,
    tile_activation,
    tile_link,
    tile_loss,
    tile_optimizer,
    tile_penalty,
    tile_table,
)

cdef extern from "dispatch.h":
    const char* bp_isa_name(int i)
    const tile_table* bp_tiles(const char* isa, int item_size)
    const char* bp_compiler()

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

# Multiply-adds of a step, or of a call, that are worth a thread of their own: about 20 µs of one
# core against about 2 µs for two barriers.
cdef double worth_a_thread = 500e3

cdef bint forked = False


def _after_fork():
    """A forked child has none of OpenMP's threads, and would wait for them: it runs on one."""
    global forked
    forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def work_per_thread(value=None):
    """How many multiply-adds a thread must have to do; with a value, set it and return the old.

    For tests and benchmarks: results do not depend on it.
    """
    global worth_a_thread
    old = worth_a_thread
    if value is not None:
        worth_a_thread = value
    return old


# ---- instruction sets

def isas():
    """The instruction sets of this build that this CPU runs, best first."""
    names, i = [], 0
    while bp_isa_name(i) != NULL:
        names.append(bp_isa_name(i).decode())
        i += 1
    return names


def isa():
    """The instruction set in use: `BPFAST_ISA`, or the best."""
    wanted = os.environ.get("BPFAST_ISA") or isas()[0]
    if wanted not in isas():
        raise ValueError(
            f"BPFAST_ISA is {wanted!r}; this build and CPU have {', '.join(isas())}")
    return wanted


def openmp():
    """Whether this build has OpenMP."""
    return bool(BP_OPENMP)


def compiler():
    """What compiled this build."""
    return bp_compiler().decode()


cdef const tile_table* table(int item_size) except NULL:
    return bp_tiles(isa().encode(), item_size)


def tables():
    """The names in the native tables, by family; what a test holds against the reference."""
    cdef const tile_table* t = table(8)
    cdef int i
    found = {"activation": [], "loss": [], "link": [], "optimizer": [], "penalty": [], "op": []}
    i = 0
    while t.activations[i].name != NULL:
        found["activation"].append(t.activations[i].name.decode())
        i += 1
    i = 0
    while t.losses[i].name != NULL:
        found["loss"].append(t.losses[i].name.decode())
        i += 1
    i = 0
    while t.links[i].name != NULL:
        found["link"].append(t.links[i].name.decode())
        i += 1
    i = 0
    while t.optimizers[i].name != NULL:
        found["optimizer"].append(t.optimizers[i].name.decode())
        i += 1
    i = 0
    while t.penalties[i].name != NULL:
        found["penalty"].append(t.penalties[i].name.decode())
        i += 1
    i = 0
    while op_name(i) != NULL:
        found["op"].append(op_name(i).decode())
        i += 1
    return found


ctypedef fused Row:
    tile_activation
    tile_loss
    tile_link
    tile_optimizer
    tile_penalty


cdef const Row* find(const Row* rows, str name) except NULL:
    """The row of a table with this name."""
    cdef bytes wanted = name.encode()
    while rows.name != NULL:
        if strcmp(rows.name, wanted) == 0:
            return rows
        rows += 1
    raise ValueError(f"the native engine has no {name!r}")


# ---- memory

cdef class View:
    """The memory of a C-contiguous array, held for as long as the view lives."""

    cdef Py_buffer buffer
    cdef bint held
    cdef char* data
    cdef Py_ssize_t size        # elements
    cdef int item_size

    def __cinit__(self, array, Py_ssize_t size, int item_size, bint writable=False):
        cdef int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT
        self.held = False
        if array is None:
            self.data = NULL
            return
        PyObject_GetBuffer(array, &self.buffer, flags | PyBUF_WRITABLE if writable else flags)
        self.held = True
        self.data = <char*>self.buffer.buf
        self.item_size = <int>self.buffer.itemsize
        self.size = self.buffer.len // max(1, self.item_size)
        if self.item_size != item_size:
            raise TypeError(f"an array of {item_size}-byte items is wanted; got {self.item_size}")
        if self.size != size:
            raise ValueError(f"an array of {size} elements is wanted; got {self.size}")
        if <uintptr_t>self.data % item_size:
            raise ValueError("an aligned array is wanted")

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.buffer)


cdef class Arena:
    """Zeroed memory in pieces, each at a multiple of 64 bytes, freed together."""

    cdef list blocks
    cdef readonly Py_ssize_t nbytes

    def __cinit__(self):
        self.blocks = []
        self.nbytes = 0

    cdef void* take(self, Py_ssize_t count, Py_ssize_t item_size) except NULL:
        """`count` items; the product is checked."""
        cdef void* block
        if count < 0 or count > (<Py_ssize_t>(<size_t>-1 >> 1) - 64) // item_size:
            raise MemoryError(f"{count} items of {item_size} bytes are more than memory can hold")
        block = PyMem_RawCalloc(count * item_size + 64, 1)
        if block == NULL:
            raise MemoryError(f"no memory for {count} items of {item_size} bytes")
        self.blocks.append(<uintptr_t>block)
        self.nbytes += count * item_size
        return <void*>((<uintptr_t>block + 63) // 64 * 64)

    def __dealloc__(self):
        for block in self.blocks:
            PyMem_RawFree(<void*><uintptr_t>block)


cdef int poll(void* context) noexcept with gil:
    """Let Python handle a signal; whatever a handler raises is kept and ends the call."""
    try:
        PyErr_CheckSignals()
    except BaseException as error:
        (<Core>context).interrupt = error
        return 1
    return 0


# ---- the engine

cdef class Core:
    """The native engine of one program: its ops as structures, its tapes, its scratch memory.

    Parameters
    ----------
    ops : list of (kind, activation, parameter, source, target, W, b)
        W and b are offsets in the flat parameters, -1 for none.
    widths : list of int
        Of every value.
    size : int
        Of the flat parameters.
    item_size : {4, 8}
    threads : int
        At most so many.
    """

    cdef Arena program, tape_memory, output_memory
    cdef Run run
    cdef Tape* output_tapes
    cdef Py_ssize_t n_values, size, tape_rows, output_block, multiply_adds
    cdef int item_size, threads
    cdef object interrupt

    def __cinit__(self, list ops, list widths, Py_ssize_t size, int item_size, int threads):
        cdef Py_ssize_t i
        cdef Op* op
        self.program = Arena()
        memset(&self.run, 0, sizeof(Run))
        self.item_size, self.size, self.n_values = item_size, size, len(widths)
        self.threads = threads
        self.run.tiles = table(item_size)
        self.run.n_ops = len(ops)
        self.run.ops = <Op*>self.program.take(len(ops), sizeof(Op))
        self.run.widths = <Py_ssize_t*>self.program.take(len(widths), sizeof(Py_ssize_t))
        for i in range(self.n_values):
            self.run.widths[i] = widths[i]
        for i in range(len(ops)):
            op = &self.run.ops[i]
            kind, activation, parameter, source, target, W, b = ops[i]
            op.kind = op_kind(kind.encode())
            if op.kind < 0:
                raise ValueError(f"the native engine has no op {kind!r}")
            op.activation = find(self.run.tiles.activations, activation)
            op.parameter, op.source, op.target, op.W, op.b = parameter, source, target, W, b
            if not (0 <= op.source < op.target < self.n_values):
                raise ValueError("an op must make a value behind the one it reads")
            op.n_in, op.n_out = widths[source], widths[target]
            if op.W >= 0 and op.W + op.n_in * op.n_out > size or op.b >= 0 and op.b + op.n_out > size:
                raise ValueError("an op's parameters lie beyond the flat vector")
        self.allocate_program()

    cdef int allocate_program(self) except -1:
        """Tasks, scratch memory and what else depends on the program alone."""
        cdef Py_ssize_t i, row, column, rows = 1, k = 0, n_tasks = 0
        cdef Py_ssize_t across = self.run.tiles.columns
        cdef Op* op
        cdef Task* task
        for i in range(self.run.n_ops):
            op = &self.run.ops[i]
            if op.W >= 0:
                n_tasks += ceil_div(op.n_in, BLOCK_ROWS) * ceil_div(op.n_out, across)
                rows = max(rows, op.n_in)
                self.multiply_adds += op.n_in * op.n_out
        self.run.tasks = <Task*>self.program.take(n_tasks, sizeof(Task))
        for i in range(self.run.n_ops):
            op = &self.run.ops[i]
            if op.W < 0:
                continue
            for column in range(0, op.n_out, across):
                for row in range(0, op.n_in, BLOCK_ROWS):
                    task = &self.run.tasks[k]
                    task.op, task.i, task.j = i, row, column
                    task.m = min(<Py_ssize_t>BLOCK_ROWS, op.n_in - row)
                    task.n = min(across, op.n_out - column)
                    k += 1
        self.run.n_tasks = k
        self.run.scratch_size = scratch_bytes(self.run.tiles)
        self.run.scratch = <char*>self.program.take(self.threads, self.run.scratch_size)
        self.run.row_squares = <double*>self.program.take(rows, sizeof(double))
        self.run.norms = <double*>self.program.take(self.run.n_ops, sizeof(double))
        return 0

    cdef int make_tape(self, Arena arena, Tape* tape, Py_ssize_t rows, bint backward) except -1:
        """A tape of `rows` rows; for `backward` with what that needs."""
        cdef Py_ssize_t i
        cdef Op* op
        tape.A = <char**>arena.take(self.n_values, sizeof(char*))
        tape.Z = <char**>arena.take(self.n_values, sizeof(char*))
        tape.D = <char**>arena.take(self.n_values, sizeof(char*))
        for i in range(self.n_values):
            tape.A[i] = self.matrix(arena, rows, self.run.widths[i])
            if backward:
                tape.D[i] = self.matrix(arena, rows, self.run.widths[i])
        for i in range(self.run.n_ops):
            op = &self.run.ops[i]
            if backward and op.activation.saves_z:
                tape.Z[op.target] = self.matrix(arena, rows, op.n_out)
        return 0

    cdef char* matrix(self, Arena arena, Py_ssize_t rows, Py_ssize_t columns) except NULL:
        if columns > 0 and rows > (<Py_ssize_t>(<size_t>-1 >> 1)) // columns // 16:
            raise MemoryError(f"a matrix of {rows} by {columns} is more than memory can hold")
        return <char*>arena.take(rows * columns, self.item_size)

    cdef int need_tape(self, Py_ssize_t rows) except -1:
        """A tape for batches of so many rows, made anew only if it must grow."""
        cdef Arena arena
        cdef Py_ssize_t n_out = self.run.widths[self.run.ops[self.run.n_ops - 1].target]
        if self.tape_memory is not None and rows <= self.tape_rows:
            return 0
        self.tape_rows = 0
        self.tape_memory = None
        arena = Arena()
        self.make_tape(arena, &self.run.tape, rows, True)
        self.run.batch_Y = self.matrix(arena, rows, n_out)
        self.run.batch_classes = <int64_t*>arena.take(rows, sizeof(int64_t))
        self.run.row_scale = <double*>arena.take(rows, sizeof(double))
        self.run.row_loss = <double*>arena.take(rows, sizeof(double))
        self.tape_memory, self.tape_rows = arena, rows
        return 0

    cdef int need_output_tapes(self, Py_ssize_t block) except -1:
        """A small tape for each thread."""
        cdef Arena arena
        cdef int i
        if self.output_memory is not None and block <= self.output_block:
            return 0
        self.output_block = 0
        self.output_memory = None
        arena = Arena()
        self.output_tapes = <Tape*>arena.take(self.threads, sizeof(Tape))
        for i in range(self.threads):
            self.make_tape(arena, &self.output_tapes[i], block, False)
        self.output_memory, self.output_block = arena, block
        return 0

    cdef int start(self, double rows, double passes) except -1:
        """How many threads this much work deserves, and a clean slate."""
        self.run.n_threads = team_for(rows * self.multiply_adds * passes, self.threads)
        self.run.stop = 0
        self.run.steps = 0
        self.run.poll = poll
        self.run.context = <void*>self
        self.run.gradient = NULL
        self.run.want_input_delta = 0
        memset(&self.run.barrier, 0, sizeof(self.run.barrier))
        self.interrupt = None
        return 0

    cdef int finish(self) except -1:
        """Raise what a signal handler raised."""
        if self.interrupt is not None:
            error, self.interrupt = self.interrupt, None
            raise error
        return 0

    def outputs(self, parameters, X, Z, Py_ssize_t rows):
        """Z (rows, O) = the raw outputs of X (rows, I)."""
        cdef Py_ssize_t last = self.run.ops[self.run.n_ops - 1].target
        cdef View p = View(parameters, self.size, self.item_size)
        cdef View x = View(X, rows * self.run.widths[0], self.item_size)
        cdef View z = View(Z, rows * self.run.widths[last], self.item_size, True)
        self.need_output_tapes(min(rows, <Py_ssize_t>ROW_BLOCK))
        self.start(rows, 1)
        self.run.parameters, self.run.X, self.run.n = p.data, x.data, rows
        with nogil:
            run_outputs(&self.run, self.output_tapes, z.data, self.output_block)
        self.finish()

    def forward(self, parameters, X, Z, Py_ssize_t rows):
        """As `outputs`, and keep every value for `backward`."""
        cdef Py_ssize_t last = self.run.ops[self.run.n_ops - 1].target
        cdef View p = View(parameters, self.size, self.item_size)
        cdef View x = View(X, rows * self.run.widths[0], self.item_size)
        cdef View z = View(Z, rows * self.run.widths[last], self.item_size, True)
        self.need_tape(rows)
        self.start(rows, 1)
        memcpy(self.run.tape.A[0], x.data, x.size * self.item_size)
        self.run.parameters, self.run.n = p.data, rows
        with nogil:
            run_forward(&self.run)
        memcpy(z.data, self.run.tape.A[last], z.size * self.item_size)

    def backward(self, parameters, D, gradient, dX, Py_ssize_t rows):
        """The flat gradient and dX (rows, I) from D (rows, O) of the last `forward`."""
        cdef Py_ssize_t last = self.run.ops[self.run.n_ops - 1].target
        cdef View p = View(parameters, self.size, self.item_size)
        cdef View d = View(D, rows * self.run.widths[last], self.item_size)
        cdef View g = View(gradient, self.size, self.item_size, True)
        cdef View x = View(dX, rows * self.run.widths[0], self.item_size, True)
        if self.tape_memory is None or rows > self.tape_rows:
            raise RuntimeError("backward needs a forward pass of as many rows")
        self.start(rows, 2)
        memcpy(self.run.tape.D[last], d.data, d.size * self.item_size)
        self.run.parameters, self.run.gradient, self.run.n = p.data, g.data, rows
        self.run.want_input_delta = 1
        with nogil:
            run_backward(&self.run)
        memcpy(x.data, self.run.tape.D[0], x.size * self.item_size)

    cdef list set_update(self, state, str rule, tuple hyperparameters, penalty):
        """The optimizer and the penalty of this call; the views that it needs."""
        cdef Py_ssize_t i
        cdef View s
        cdef list views = []
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
        views.append(s)
        return views

    def update(self, parameters, gradient, state, str rule, tuple hyperparameters, penalty,
               double learning_rate, Py_ssize_t steps):
        """One step of the optimizer with a flat gradient."""
        cdef View p = View(parameters, self.size, self.item_size, True)
        cdef View g = View(gradient, self.size, self.item_size)
        cdef double rates[1]
        self.start(0, 0)
        views = self.set_update(state, rule, hyperparameters, penalty)
        rates[0] = learning_rate
        self.run.parameters, self.run.gradient, self.run.t = p.data, g.data, steps
        self.run.learning_rates = rates
        with nogil:
            run_update(&self.run)
        self.run.learning_rates = NULL
        del views

    def train(self, parameters, X, Y, classes, weights, Py_ssize_t rows, Py_ssize_t batch_size,
              order, shuffle, str loss, double loss_parameter, state, str rule,
              tuple hyperparameters, penalty, learning_rates, Py_ssize_t steps, batch_loss,
              batch_weight):
        """An epoch, in place. Returns the steps made, and what a signal handler raised or None.

        `order` is int64 memory of `rows` elements for the shuffled order, (seed, epoch) of which
        is `shuffle`; both None keep the rows' own order.
        """
        cdef Py_ssize_t n_in = self.run.widths[0], n_steps
        cdef Py_ssize_t n_out = self.run.widths[self.run.ops[self.run.n_ops - 1].target]
        cdef uint64_t seed = 0, epoch = 0
        if rows < 1 or batch_size < 1:
            raise ValueError("an epoch needs at least one row and batches of at least one")
        batch_size = min(batch_size, rows)
        n_steps = (rows + batch_size - 1) // batch_size
        cdef View p = View(parameters, self.size, self.item_size, True)
        cdef View x = View(X, rows * n_in, self.item_size)
        cdef View y = View(Y, rows * n_out, self.item_size)
        cdef View c = View(classes, rows, sizeof(int64_t))
        cdef View w = View(weights, rows, sizeof(double))
        cdef View o = View(order, rows, sizeof(int64_t), True)
        cdef View rates = View(learning_rates, n_steps, sizeof(double))
        cdef View losses = View(batch_loss, n_steps, sizeof(double), True)
        cdef View counts = View(batch_weight, n_steps, sizeof(double), True)
        if (Y is None) == (classes is None):
            raise ValueError("either Y or classes is wanted")
        self.need_tape(batch_size)
        self.start(batch_size, 3)
        views = self.set_update(state, rule, hyperparameters, penalty)
        self.run.parameters, self.run.X, self.run.Y, self.run.n = p.data, x.data, y.data, rows
        self.run.classes, self.run.weights = <int64_t*>c.data, <double*>w.data
        self.run.order = <int64_t*>o.data
        self.run.batch_size, self.run.t = batch_size, steps
        self.run.loss, self.run.loss_parameter = find(self.run.tiles.losses, loss), loss_parameter
        self.run.learning_rates = <double*>rates.data
        self.run.batch_loss, self.run.batch_weight = <double*>losses.data, <double*>counts.data
        if order is not None:
            seed, epoch = shuffle
        with nogil:
            if o.data != NULL:
                permutation(<int64_t*>o.data, rows, seed, epoch)
            run_train(&self.run)
        del views
        error, self.interrupt = self.interrupt, None
        return self.run.steps, error

    @property
    def nbytes(self):
        """Bytes held beside the parameters and their state."""
        return sum(a.nbytes for a in (self.program, self.tape_memory, self.output_memory)
                   if a is not None)


cdef Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept:
    return (a + b - 1) // b


cdef int team_for(double work, int threads) noexcept:
    """How many threads this many multiply-adds deserve."""
    if forked or not BP_OPENMP or work <= worth_a_thread:
        return 1
    return <int>min(<double>threads, work / worth_a_thread)


# ---- the kernels as functions; shapes have been checked by `kernels`

def dense_forward(X, W, b, str activation, double parameter, A, int threads):
    """A (B, O) = f(X (B, I) W (I, O) + b (O,))."""
    cdef Py_ssize_t B = X.shape[0], I = W.shape[0], O = W.shape[1]
    cdef int size = X.dtype.itemsize, n = team_for(<double>B * I * O, threads)
    cdef const tile_table* t = table(size)
    cdef View x = View(X, B * I, size), w = View(W, I * O, size), bias = View(b, O, size)
    cdef View a = View(A, B * O, size, True)
    cdef const tile_activation* f = find(t.activations, activation)
    cdef Arena arena = Arena()
    cdef char* scratch = <char*>arena.take(n, scratch_bytes(t))
    with nogil:
        kernel_dense_forward(t, B, I, O, x.data, w.data, bias.data, f, parameter, a.data, scratch, n)


def activation_derivative(Z, str activation, double parameter, F, int threads):
    """F = f'(Z)."""
    cdef Py_ssize_t n = Z.size
    cdef int size = Z.dtype.itemsize, team = team_for(4.0 * n, threads)
    cdef const tile_table* t = table(size)
    cdef const tile_activation* f = find(t.activations, activation)
    F.fill(1)
    cdef View z = View(Z, n, size), out = View(F, n, size, True)
    with nogil:
        kernel_activation_derivative(t, n, z.data, f, parameter, out.data, team)


def propagate_delta(D, W, Z_prev, str activation, double parameter, D_prev, int threads):
    """D_prev (B, I) = (D (B, O) W (I, O)ᵀ) ⊙ f'(Z_prev (B, I))."""
    cdef Py_ssize_t B = D.shape[0], I = W.shape[0], O = W.shape[1]
    cdef int size = D.dtype.itemsize, n = team_for(<double>B * I * O, threads)
    cdef const tile_table* t = table(size)
    cdef View d = View(D, B * O, size), w = View(W, I * O, size), z = View(Z_prev, B * I, size)
    cdef View out = View(D_prev, B * I, size, True)
    cdef const tile_activation* f = find(t.activations, activation)
    cdef Arena arena = Arena()
    cdef char* scratch = <char*>arena.take(n, scratch_bytes(t))
    with nogil:
        kernel_propagate_delta(t, B, I, O, d.data, w.data, z.data, f, parameter, out.data, scratch, n)


def weight_gradient(A_prev, D, dW, db, int threads):
    """dW (I, O) = A_prev (B, I)ᵀ D (B, O), db (O,) = Σ D."""
    cdef Py_ssize_t B = D.shape[0], I = A_prev.shape[1], O = D.shape[1]
    cdef int size = D.dtype.itemsize, n = team_for(<double>B * I * O, threads)
    cdef const tile_table* t = table(size)
    cdef View a = View(A_prev, B * I, size), d = View(D, B * O, size)
    cdef View w = View(dW, I * O, size, True), b = View(db, O, size, True)
    cdef Arena arena = Arena()
    cdef char* scratch = <char*>arena.take(n, scratch_bytes(t))
    with nogil:
        kernel_weight_gradient(t, B, I, O, a.data, d.data, w.data, b.data, scratch, n)


def loss_and_delta(str loss, double parameter, Y, Z, weights, D, int threads):
    """The mean loss; D (B, O) = ∂L/∂Z. Y is (B, O) of Z's dtype, or int64 classes (B,)."""
    cdef Py_ssize_t B = Z.shape[0], O = Z.shape[1], i
    cdef int size = Z.dtype.itemsize, n = team_for(16.0 * B * O, threads)
    cdef const tile_table* t = table(size)
    cdef bint by_class = Y.ndim == 1
    cdef View y = View(None if by_class else Y, B * O, size)
    cdef View c = View(Y if by_class else None, B, sizeof(int64_t))
    cdef View z = View(Z, B * O, size), w = View(weights, B, sizeof(double))
    cdef View d = View(D, B * O, size, True)
    cdef const tile_loss* row = find(t.losses, loss)
    cdef Arena arena = Arena()
    cdef double* scale = <double*>arena.take(B, sizeof(double))
    cdef double* losses = <double*>arena.take(B, sizeof(double))
    cdef double total = 0, mean = 0
    with nogil:
        for i in range(B):
            total += (<double*>w.data)[i] if w.data != NULL else 1
        for i in range(B):
            scale[i] = ((<double*>w.data)[i] if w.data != NULL else 1) / total
        kernel_loss_and_delta(t, B, O, row, parameter, y.data, <int64_t*>c.data, z.data, scale,
                              d.data, losses, n)
        for i in range(B):
            if w.data == NULL:
                mean += losses[i]
            elif scale[i] > 0:
                mean += losses[i] * scale[i]
    return mean if weights is not None else mean / B


def link(str name, Z, A, int threads):
    """A = link(Z), both (B, O)."""
    cdef Py_ssize_t B = Z.shape[0], O = Z.shape[1]
    cdef int size = Z.dtype.itemsize, n = team_for(16.0 * B * O, threads)
    cdef const tile_table* t = table(size)
    cdef View z = View(Z, B * O, size), a = View(A, B * O, size, True)
    cdef const tile_link* f = find(t.links, name)
    with nogil:
        kernel_link(t, B, O, f, z.data, a.data, n)


def shuffled(order, seed, epoch):
    """Fill int64 `order` with the order of the rows in an epoch; see `reference.permutation`."""
    cdef View o = View(order, order.size, sizeof(int64_t), True)
    cdef uint64_t s = seed, e = epoch
    with nogil:
        permutation(<int64_t*>o.data, o.size, s, e)
