# cython: language_level=3, cdivision=True
# cython: freethreading_compatible=True
"""A program in memory: its ops as structures, its tasks, tapes and scratch memory. No calls."""

from libc.stdint cimport int64_t
from libc.string cimport memset

from bpfast.native._runtime cimport Arena, find, table
from bpfast.native._ops cimport op_kind, op_row
from bpfast.native._step cimport (
    BLOCK_COLUMNS,
    BLOCK_ROWS,
    CHUNK,
    STRIP_ROWS,
    Head,
    Op,
    Run,
    Task,
    Worker,
    tile_norm,
)
from bpfast.native._update cimport scratch_bytes

# Weights of so many bytes stay in a second-level cache, beside their state.
cdef Py_ssize_t NEAR_BYTES = 131072
# Multiply-adds of a row from which on its batches may be worth a second thread.
cdef Py_ssize_t WORTH_SHARING = 4096


cdef class Memory:
    """What the native engine of one program works on.

    Parameters
    ----------
    ops : list of (kind, activation, numbers, sources, target, (W, b, mean, variance), head, adds)
        W and so on are offsets in the flat parameters, -1 for none.
    heads : list of (value, loss, parameter, weight)
    output : int
        The value that comes out.
    widths : list of int
        Of every value.
    size : int
        Of the flat parameters.
    dtype : numpy.dtype
        float32 or float64.
    threads : int
        At most so many.
    """

    def __cinit__(self, list ops, list heads, Py_ssize_t output, list widths, Py_ssize_t size,
                  dtype, int threads):
        cdef Py_ssize_t i
        self.program = Arena()
        memset(&self.run, 0, sizeof(Run))
        self.item_size = dtype.itemsize
        self.size, self.n_values, self.threads = size, len(widths), threads
        self.run.tiles = table(self.item_size)
        self.run.n_ops = len(ops)
        self.run.ops = <Op*>self.program.take(len(ops), sizeof(Op))
        self.run.widths = <Py_ssize_t*>self.program.take(len(widths), sizeof(Py_ssize_t))
        for i in range(self.n_values):
            self.run.widths[i] = widths[i]
        if not (0 < output < self.n_values):
            raise ValueError("the output must be a value of the program")
        self.run.output, self.run.size = output, size
        for i in range(len(ops)):
            self.enter_op(i, ops[i])
        self.run.heads = <Head*>self.program.take(max(1, len(heads)), sizeof(Head))
        for i in range(len(heads)):
            self.enter_head(i, heads[i])
        self.head_count = len(heads)
        self.allocate_program()

    cdef int enter_op(self, Py_ssize_t i, tuple row) except -1:
        """One op of the program, checked."""
        cdef Op* op = &self.run.ops[i]
        cdef Py_ssize_t k
        kind, activation, numbers, sources, target, offsets, head, adds = row
        op.kind = op_kind(kind.encode())
        if op.kind < 0:
            raise ValueError(f"the native engine has no op {kind!r}")
        op.activation = find(self.run.tiles.activations, activation)
        if len(numbers) > 6:
            raise ValueError("an op takes at most six numbers")
        for k in range(len(numbers)):
            op.numbers[k] = numbers[k]
        op.source, op.target = sources[0], target
        op.other = sources[1] if len(sources) > 1 else -1
        if not (0 <= op.source < op.target < self.n_values) or op.other >= op.target:
            raise ValueError("an op must make a value behind the one it reads")
        op.n_in, op.n_out = self.run.widths[op.source], self.run.widths[target]
        if op.n_in < 1 or op.n_out < 1:
            raise ValueError("a value must have at least one column")
        if (kind == "add") != (op.other >= 0):
            raise ValueError(f"{kind} reads {'two values' if kind == 'add' else 'one value'}")
        if kind == "maxout" and op.n_in % op.n_out != 0:
            raise ValueError("maxout reads whole pieces")
        if kind not in ("dense", "maxout") and op.n_in != op.n_out or (
                op.other >= 0 and self.run.widths[op.other] != op.n_out):
            raise ValueError(f"{kind} must make as many columns as it reads")
        op.W, op.b, op.mean, op.variance = offsets
        op.matrix = kind == "dense"
        # By division: the product may not fit.
        if op.matrix and op.W >= 0 and (op.W > self.size
                                        or op.n_out > (self.size - op.W) // op.n_in):
            raise ValueError("an op's parameters lie beyond the flat vector")
        for k in offsets:
            if k >= 0 and (k > self.size or op.n_out > self.size - k):
                raise ValueError("an op's parameters lie beyond the flat vector")
        if (op.matrix or op_row(op.kind).gradient != NULL) != (op.W >= 0):
            raise ValueError(f"{kind} has {'no ' if op.W < 0 else ''}parameters")
        if op_row(op.kind).statistics != NULL and (min(op.b, op.mean, op.variance) < 0
                                                   or len(numbers) != 6):
            raise ValueError(f"{kind} lacks statistics")
        if kind == "layer_norm" and op.b < 0:
            raise ValueError(f"{kind} lacks a beta")
        if (op.source == 0 or op.other == 0) and not op.matrix:
            self.run.densify = 1
        op.head, op.adds, op.adds_other = head, adds[0], len(adds) > 1 and adds[1]
        op.strip = BLOCK_ROWS
        if op.matrix and op.n_in * op.n_out > NEAR_BYTES // self.item_size:
            op.strip = STRIP_ROWS
        if op.mean >= 0:
            self.run.has_statistics = True
            op.batch_variance = <double*>self.program.take(op.n_out, sizeof(double))
            self.enter_norm(&op.norm, op.n_out)
            self.enter_norm(&op.running, op.n_out)
        return 0

    cdef int enter_norm(self, tile_norm* norm, Py_ssize_t columns) except -1:
        """Memory for how columns are normalised."""
        norm.mean = <double*>self.program.take(columns, sizeof(double))
        norm.inverse = <double*>self.program.take(columns, sizeof(double))
        norm.r = <double*>self.program.take(columns, sizeof(double))
        norm.d = <double*>self.program.take(columns, sizeof(double))
        norm.sum_D = <double*>self.program.take(columns, sizeof(double))
        norm.sum_DX = <double*>self.program.take(columns, sizeof(double))
        return 0

    cdef int enter_head(self, Py_ssize_t k, tuple row) except -1:
        """One head of the program, checked."""
        cdef Head* head = &self.run.heads[k]
        cdef Py_ssize_t value = row[0]
        _, loss, parameter, weight = row
        if not (0 < value < self.n_values) or value == self.run.output or (
                self.run.widths[value] != self.run.widths[self.run.output]):
            raise ValueError("a head is on a value of as many columns as the output")
        head.value, head.weight, head.loss_parameter = value, weight, parameter
        head.loss = find(self.run.tiles.losses, loss)
        return 0

    cdef int allocate_program(self) except -1:
        """Tasks, scratch memory and what else depends on the program alone."""
        cdef Py_ssize_t i, rows = 1, all_rows = 0, height = BLOCK_ROWS
        cdef Op* op
        for i in range(self.run.n_ops):
            op = &self.run.ops[i]
            if op.matrix:
                rows = max(rows, op.n_in)
                all_rows += op.n_in
                self.multiply_adds += op.n_in * op.n_out
                if op.source == 0:
                    self.first_multiply_adds += op.n_in * op.n_out
        # Enough tasks for every thread to get its share, of work that is worth sharing.
        while (self.multiply_adds >= WORTH_SHARING and height > STRIP_ROWS
               and self.count_tasks(height) < 8 * (self.threads - 1)):
            height //= 2
        self.run.tasks = <Task*>self.program.take(self.count_tasks(height), sizeof(Task))
        self.make_tasks(height)
        self.run.workers = self.make_workers()
        self.output_workers = self.make_workers()
        self.run.row_squares = <double*>self.program.take(rows, sizeof(double))
        self.run.row_values = <double*>self.program.take(all_rows, sizeof(double))
        self.run.norms = <double*>self.program.take(self.run.n_ops, sizeof(double))
        self.run.chunk_squares = <double*>self.program.take(ceil_div(self.size, CHUNK),
                                                            sizeof(double))
        self.below = <bint*>self.program.take(self.n_values, sizeof(bint))
        return 0

    cdef Py_ssize_t count_tasks(self, Py_ssize_t height) noexcept:
        """Blocks of so many rows in all weights."""
        cdef Py_ssize_t i, count = 0
        for i in range(self.run.n_ops):
            if self.run.ops[i].W >= 0:
                count += (ceil_div(weight_rows(&self.run.ops[i]), height)
                          * ceil_div(self.run.ops[i].n_out, BLOCK_COLUMNS))
        return count

    cdef int make_tasks(self, Py_ssize_t height) noexcept:
        """The blocks of all weights, in the order of the forward pass."""
        cdef Py_ssize_t i, row, column, k = 0
        cdef Op* op
        cdef Task* task
        for i in range(self.run.n_ops):
            op = &self.run.ops[i]
            if op.W < 0:
                continue
            for column in range(0, op.n_out, BLOCK_COLUMNS):
                for row in range(0, weight_rows(op), height):
                    task = &self.run.tasks[k]
                    task.op, task.i, task.j = i, row, column
                    task.m = min(height, weight_rows(op) - row)
                    task.n = min(<Py_ssize_t>BLOCK_COLUMNS, op.n_out - column)
                    task.before = self.run.elements
                    self.run.elements += task.m * task.n
                    k += 1
        self.run.n_tasks = k
        return 0

    cdef Worker* make_workers(self) except NULL:
        """Threads with scratch memory and a tape of no matrices yet."""
        cdef Worker* workers = <Worker*>self.program.take(self.threads, sizeof(Worker))
        cdef Worker* w
        cdef int me
        for me in range(self.threads):
            w = &workers[me]
            w.me = me
            w.scratch = <char*>self.program.take(scratch_bytes(self.run.tiles), 1)
            w.tape.A = <char**>self.program.take(self.n_values, sizeof(char*))
            w.tape.Z = <char**>self.program.take(self.n_values, sizeof(char*))
            w.tape.D = <char**>self.program.take(self.n_values, sizeof(char*))
        return workers

    cdef char* matrix(self, Arena arena, Py_ssize_t rows, Py_ssize_t columns) except NULL:
        if columns > 0 and rows > (<Py_ssize_t>(<size_t>-1 >> 1)) // columns // 16:
            raise MemoryError(f"a matrix of {rows} by {columns} is more than memory can hold")
        return <char*>arena.take(rows * columns, self.item_size)

    cdef int need_tape(self, Py_ssize_t rows) except -1:
        """A tape for batches of so many rows, made anew only if it must grow.

        One for the whole team; what comes in, A[0], is where each batch has it.
        """
        cdef Py_ssize_t i, saved, spare = 0, n_out = self.run.widths[self.run.output]
        cdef Op* op
        cdef Arena arena
        if self.tape_memory is not None and rows <= self.tape_rows:
            return 0
        self.tape_rows = 0
        self.tape_memory = None
        arena = Arena()
        for i in range(self.run.n_ops):
            op = &self.run.ops[i]
            saved = op_row(op.kind).saved
            if op.matrix and op.activation.saves_z:
                saved = op.n_out
            self.share_value(op.target, self.matrix(arena, rows, op.n_out),
                             self.matrix(arena, rows, saved) if saved > 0 else NULL,
                             self.matrix(arena, rows, op.n_out))
            if op.adds and op.other < 0:
                spare = max(spare, op.n_in)
        self.run.spare = self.matrix(arena, rows, spare) if spare > 0 else NULL
        self.run.spare_width = spare
        for i in range(self.head_count):
            self.run.heads[i].row_scale = <double*>arena.take(rows, sizeof(double))
            self.run.heads[i].row_loss = <double*>arena.take(rows, sizeof(double))
        self.run.batch_Y = self.matrix(arena, rows, n_out)
        self.run.batch_classes = <int64_t*>arena.take(rows, sizeof(int64_t))
        self.run.row_scale = <double*>arena.take(rows, sizeof(double))
        self.run.row_loss = <double*>arena.take(rows, sizeof(double))
        self.tape_memory, self.tape_rows = arena, rows
        return 0

    cdef int share_value(self, Py_ssize_t value, char* A, char* Z, char* D) noexcept:
        """One value's matrices, for every thread of the team."""
        cdef int me
        for me in range(self.threads):
            self.run.workers[me].tape.A[value] = A
            self.run.workers[me].tape.Z[value] = Z
            self.run.workers[me].tape.D[value] = D
        return 0

    cdef int need_X(self, Py_ssize_t rows) except -1:
        """Memory for a batch of X that cannot be read where it is."""
        if self.X_memory is None or rows > self.X_rows:
            self.X_memory, self.X_rows = None, 0
            self.X_memory = Arena()
            self.run.batch_X = self.matrix(self.X_memory, rows, self.run.widths[0])
            self.X_rows = rows
        return 0

    cdef int need_dX(self, Py_ssize_t rows) except -1:
        """Memory for the delta of X, which training does not ask for."""
        cdef int me
        cdef char* D
        if self.dX_memory is None or rows > self.dX_rows:
            self.dX_memory, self.dX_rows = None, 0
            self.dX_memory = Arena()
            for me in range(self.threads):
                self.run.workers[me].tape.D[0] = NULL
            D = self.matrix(self.dX_memory, rows, self.run.widths[0])
            for me in range(self.threads):
                self.run.workers[me].tape.D[0] = D
            self.dX_rows = rows
        return 0

    cdef int need_columns(self, Py_ssize_t entries) except -1:
        """Memory for the columns of a sparse batch, which `start` forgets."""
        cdef Arena arena
        if self.columns_memory is None or entries > self.columns_entries:
            self.columns_memory, self.columns_entries = None, 0
            arena = Arena()
            self.columns.indptr = <int64_t*>arena.take(self.run.widths[0] + 2, sizeof(int64_t))
            self.columns.indices = <int64_t*>arena.take(entries, sizeof(int64_t))
            self.columns.values = arena.take(entries, self.item_size)
            self.columns_memory, self.columns_entries = arena, entries
        return 0

    cdef int need_output_tapes(self, Py_ssize_t block) except -1:
        """A small tape for each thread; its last value is the caller's."""
        cdef Py_ssize_t i
        cdef Arena arena
        cdef int me
        if self.output_memory is not None and block <= self.output_block:
            return 0
        self.output_block = 0
        self.output_memory = None
        arena = Arena()
        for me in range(self.threads):
            for i in range(self.run.n_ops):
                # Heads are not there, and the output is the caller's.
                if not self.run.ops[i].head and self.run.ops[i].target != self.run.output:
                    self.output_workers[me].tape.A[self.run.ops[i].target] = self.matrix(
                        arena, block, self.run.ops[i].n_out)
        self.output_memory, self.output_block = arena, block
        return 0

    cdef int need_seen(self) except -1:
        """Memory for weights with noise."""
        if self.seen_memory is None:
            self.seen_memory = Arena()
            self.run.seen = <char*>self.seen_memory.take(self.size, self.item_size)
            self.noisy = self.run.seen
        return 0

    cdef int need_gradient(self) except -1:
        """Memory for a whole gradient, of zeros."""
        if self.gradient_memory is None:
            self.gradient_memory = Arena()
            self.gradient = <char*>self.gradient_memory.take(self.size, self.item_size)
        memset(self.gradient, 0, self.size * self.item_size)
        return 0

    @property
    def nbytes(self):
        """Bytes held beside the parameters and their state."""
        arenas = (self.program, self.tape_memory, self.X_memory, self.dX_memory,
                  self.output_memory, self.columns_memory, self.gradient_memory, self.seen_memory)
        return sum(arena.nbytes for arena in arenas if arena is not None)


cdef Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept:
    return (a + b - 1) // b
