"""A program in memory: its ops as structs, its tasks, tapes and scratch memory. No calls."""

from libc.stdint cimport int64_t
from libc.string cimport memset

from run cimport (
    BLOCK_COLUMNS,
    BLOCK_ROWS,
    CHUNK,
    MAX_NUMBERS,
    STRIP_ROWS,
    Head,
    Op,
    Run,
    Task,
    Worker,
    weight_rows,
)
from tiles cimport tile_csr, tile_norm

# Weights up to this many bytes stay in the second-level cache, together with their state.
cdef Py_ssize_t CACHED_BYTES = 131072
# Multiply-adds of a row from which batches may be large enough for a second thread.
cdef Py_ssize_t SHARED_WORK = 4096


cdef class Memory:
    """What the native engine allocates for one program.

    Parameters
    ----------
    ops : list of (kind, activation, numbers, sources, target, offsets, names, head, accumulates)
        `offsets` are those of W, b, mean and variance in the flat parameters, -1 for none; `names` those of
        W and b, by which learning rates are scaled.
    heads : list of (value, loss, parameter, weight)
    output : int
        The value of the raw outputs.
    widths : list of int
        Columns of each value.
    size : int
        Size of the flat parameters.
    dtype : numpy.dtype
        float32 or float64.
    threads : int
        Maximum number of threads.
    """

    cdef Run run
    cdef int item_size, threads
    cdef Py_ssize_t size, n_values, multiply_adds, first_multiply_adds
    cdef list names             # of W and b of each op
    cdef bint* delta_needed     # for each value
    cdef Worker* output_workers
    cdef tile_csr columns
    cdef char* gradient
    cdef char* noisy            # parameters with noise on the weights
    cdef int64_t* order
    cdef Arena program, tape_memory, X_memory, dX_memory, order_memory, output_memory, columns_memory
    cdef Arena gradient_memory, noisy_memory
    cdef Py_ssize_t tape_rows, X_rows, dX_rows, order_rows, output_block, columns_entries

    def __cinit__(self, list ops, list heads, Py_ssize_t output, list widths, Py_ssize_t size,
                  dtype, int threads):
        cdef Py_ssize_t i
        self.program = Arena()
        memset(&self.run, 0, sizeof(Run))
        self.item_size = dtype.itemsize
        self.size, self.n_values, self.threads = size, len(widths), threads
        self.names = []
        self.run.program.tiles = table(self.item_size)
        self.run.program.n_ops, self.run.program.n_heads = len(ops), len(heads)
        self.run.program.ops = <Op*>self.program.take(len(ops), sizeof(Op))
        self.run.program.widths = <Py_ssize_t*>self.program.take(len(widths), sizeof(Py_ssize_t))
        for i in range(self.n_values):
            self.run.program.widths[i] = widths[i]
        if not (0 < output < self.n_values):
            raise ValueError("the output must be a value of the program")
        self.run.program.output, self.run.program.size = output, size
        for i in range(len(ops)):
            self.set_op(i, ops[i])
        self.run.program.heads = <Head*>self.program.take(max(1, len(heads)), sizeof(Head))
        for i in range(len(heads)):
            self.set_head(i, heads[i])
        self.allocate_program()

    # ---- the ops, checked

    cdef int set_op(self, Py_ssize_t i, tuple row) except -1:
        """Fill in one op of the program."""
        cdef Op* op = &self.run.program.ops[i]
        cdef Py_ssize_t k
        kind, activation, numbers, sources, target, offsets, names, head, accumulates = row
        op.kind = op_kind(kind.encode())
        if op.kind < 0:
            raise ValueError(f"the native engine has no op {kind!r}")
        op.activation = find(self.run.program.tiles.activations, activation)
        if len(numbers) > MAX_NUMBERS:
            raise ValueError(f"an op takes at most {MAX_NUMBERS} numbers; got {len(numbers)}")
        for k in range(len(numbers)):
            op.numbers[k] = numbers[k]
        op.source, op.target = sources[0], target
        op.other = sources[1] if len(sources) > 1 else -1
        op.matrix = kind == "dense"
        self.set_widths(op, kind)
        op.W, op.b, op.mean, op.variance = offsets
        self.check_parameters(op, kind, len(numbers))
        self.names.append(names)
        if (op.source == 0 or op.other == 0) and not op.matrix:
            self.run.program.densify = True
        op.head, op.accumulates = head, accumulates[0]
        op.accumulates_other = len(accumulates) > 1 and accumulates[1]
        op.strip = BLOCK_ROWS
        if op.matrix and op.n_in * op.n_out > CACHED_BYTES // self.item_size:
            op.strip = STRIP_ROWS
        if op.mean >= 0:
            self.run.program.has_statistics = True
            op.batch_variance = <double*>self.program.take(op.n_out, sizeof(double))
            self.take_norm(&op.norm, op.n_out)
            self.take_norm(&op.running, op.n_out)
        return 0

    cdef int set_widths(self, Op* op, str kind) except -1:
        """Set the columns of what an op reads and writes."""
        if not (0 <= op.source < op.target < self.n_values) or op.other >= op.target:
            raise ValueError("an op must write a value after the one it reads")
        op.n_in, op.n_out = self.run.program.widths[op.source], self.run.program.widths[op.target]
        if op.n_in < 1 or op.n_out < 1:
            raise ValueError("a value must have at least one column")
        if (kind == "add") != (op.other >= 0):
            raise ValueError(f"{kind} reads {'two values' if kind == 'add' else 'one value'}")
        if kind == "maxout" and op.n_in % op.n_out != 0:
            raise ValueError("maxout must read a multiple of the columns that it writes")
        if kind not in ("dense", "maxout") and op.n_in != op.n_out or (
                op.other >= 0 and self.run.program.widths[op.other] != op.n_out):
            raise ValueError(f"{kind} must write as many columns as it reads")
        return 0

    cdef int check_parameters(self, Op* op, str kind, Py_ssize_t n_numbers) except -1:
        """Check that an op has its parameters, and that they are within the flat vector."""
        cdef Py_ssize_t[4] offsets = [op.W, op.b, op.mean, op.variance]
        cdef Py_ssize_t k
        # By division, since the product may overflow.
        cdef bint beyond = op.matrix and op.W >= 0 and (
            op.W > self.size or op.n_out > (self.size - op.W) // op.n_in)
        for k in range(4):
            if offsets[k] >= 0 and (offsets[k] > self.size or op.n_out > self.size - offsets[k]):
                beyond = True
        if beyond:
            raise ValueError("the parameters of an op are beyond the flat vector")
        if (op.matrix or op_row(op.kind).gradient != NULL) != (op.W >= 0):
            raise ValueError(f"{kind} has {'no ' if op.W < 0 else ''}parameters")
        if op_row(op.kind).statistics != NULL and (min(op.b, op.mean, op.variance) < 0
                                                   or n_numbers != MAX_NUMBERS):
            raise ValueError(f"{kind} lacks statistics")
        if kind == "layer_norm" and op.b < 0:
            raise ValueError(f"{kind} lacks a beta")
        return 0

    cdef int take_norm(self, tile_norm* norm, Py_ssize_t columns) except -1:
        """Allocate the statistics by which columns are normalised."""
        norm.mean = <double*>self.program.take(columns, sizeof(double))
        norm.inverse = <double*>self.program.take(columns, sizeof(double))
        norm.r = <double*>self.program.take(columns, sizeof(double))
        norm.d = <double*>self.program.take(columns, sizeof(double))
        norm.sum_D = <double*>self.program.take(columns, sizeof(double))
        norm.sum_DX = <double*>self.program.take(columns, sizeof(double))
        return 0

    cdef int set_head(self, Py_ssize_t k, tuple row) except -1:
        """Fill in one head of the program."""
        cdef Head* head = &self.run.program.heads[k]
        cdef Py_ssize_t value = row[0], output = self.run.program.output
        _, loss, parameter, weight = row
        if not (0 < value < self.n_values) or value == output or (
                self.run.program.widths[value] != self.run.program.widths[output]):
            raise ValueError("a head must be on a value with as many columns as the output")
        head.value, head.weight, head.loss_parameter = value, weight, parameter
        head.loss = find(self.run.program.tiles.losses, loss)
        return 0

    # ---- memory that depends on the program alone

    cdef int allocate_program(self) except -1:
        """Allocate tasks, workers and the work space of the update."""
        cdef Py_ssize_t i, rows = 1, all_rows = 0, height = BLOCK_ROWS
        cdef Op* op
        for i in range(self.run.program.n_ops):
            op = &self.run.program.ops[i]
            if op.matrix:
                rows = max(rows, op.n_in)
                all_rows += op.n_in
                self.multiply_adds += op.n_in * op.n_out
                if op.source == 0:
                    self.first_multiply_adds += op.n_in * op.n_out
        # Enough tasks to give every thread its share, if there is enough work to share.
        while (self.multiply_adds >= SHARED_WORK and height > STRIP_ROWS
               and self.count_tasks(height) < 8 * (self.threads - 1)):
            height //= 2
        self.run.program.tasks = <Task*>self.program.take(self.count_tasks(height), sizeof(Task))
        self.make_tasks(height)
        self.run.team.workers = self.make_workers()
        self.output_workers = self.make_workers()
        self.run.program.row_squares = <double*>self.program.take(rows, sizeof(double))
        self.run.program.row_penalties = <double*>self.program.take(all_rows, sizeof(double))
        self.run.program.norms = <double*>self.program.take(self.run.program.n_ops, sizeof(double))
        self.run.program.chunk_squares = <double*>self.program.take(
            ceil_div(self.size, CHUNK), sizeof(double))
        self.delta_needed = <bint*>self.program.take(self.n_values, sizeof(bint))
        return 0

    cdef Py_ssize_t count_tasks(self, Py_ssize_t height) noexcept:
        """The number of blocks of this many rows in all weights."""
        cdef Py_ssize_t i, count = 0
        for i in range(self.run.program.n_ops):
            if self.run.program.ops[i].W >= 0:
                count += (ceil_div(weight_rows(&self.run.program.ops[i]), height)
                          * ceil_div(self.run.program.ops[i].n_out, BLOCK_COLUMNS))
        return count

    cdef int make_tasks(self, Py_ssize_t height) noexcept:
        """Divide all weights into blocks, in the order of the forward pass."""
        cdef Py_ssize_t i, row, column, k = 0
        cdef Op* op
        cdef Task* task
        for i in range(self.run.program.n_ops):
            op = &self.run.program.ops[i]
            if op.W < 0:
                continue
            for column in range(0, op.n_out, BLOCK_COLUMNS):
                for row in range(0, weight_rows(op), height):
                    task = &self.run.program.tasks[k]
                    task.op, task.i, task.j = i, row, column
                    task.m = min(height, weight_rows(op) - row)
                    task.n = min(<Py_ssize_t>BLOCK_COLUMNS, op.n_out - column)
                    task.before = self.run.program.elements
                    self.run.program.elements += task.m * task.n
                    k += 1
        self.run.program.n_tasks = k
        return 0

    cdef Worker* make_workers(self) except NULL:
        """Allocate a worker for each thread, with scratch memory and a tape without matrices."""
        cdef Worker* workers = <Worker*>self.program.take(self.threads, sizeof(Worker))
        cdef Worker* w
        cdef int me
        for me in range(self.threads):
            w = &workers[me]
            w.me = me
            w.scratch = <char*>self.program.take(scratch_bytes(self.run.program.tiles), 1)
            w.tape.A = <char**>self.program.take(self.n_values, sizeof(char*))
            w.tape.Z = <char**>self.program.take(self.n_values, sizeof(char*))
            w.tape.D = <char**>self.program.take(self.n_values, sizeof(char*))
        return workers

    # ---- memory that calls need: allocated at first use, and again only to grow

    cdef char* matrix(self, Arena arena, Py_ssize_t rows, Py_ssize_t columns) except NULL:
        if columns > 0 and rows > (<Py_ssize_t>(<size_t>-1 >> 1)) // columns // 16:
            raise MemoryError(f"cannot allocate a matrix of {rows} by {columns}: larger than memory")
        return <char*>arena.take(rows * columns, self.item_size)

    cdef int need_tape(self, Py_ssize_t rows) except -1:
        """A tape for batches of this many rows, shared by the team; A[0] points to each batch."""
        cdef Py_ssize_t i, saved, spare = 0
        cdef Op* op
        cdef Arena arena
        if self.tape_memory is not None and rows <= self.tape_rows:
            return 0
        self.tape_rows = 0
        self.tape_memory = None
        arena = Arena()
        for i in range(self.run.program.n_ops):
            op = &self.run.program.ops[i]
            saved = op_row(op.kind).saved
            if op.matrix and op.activation.saves_z:
                saved = op.n_out
            self.set_value(op.target, self.matrix(arena, rows, op.n_out),
                           self.matrix(arena, rows, saved) if saved > 0 else NULL,
                           self.matrix(arena, rows, op.n_out))
            if op.accumulates and op.other < 0:
                spare = max(spare, op.n_in)
        self.run.batch.spare = self.matrix(arena, rows, spare) if spare > 0 else NULL
        self.run.batch.spare_width = spare
        for i in range(self.run.program.n_heads):
            self.run.program.heads[i].row_scale = <double*>arena.take(rows, sizeof(double))
            self.run.program.heads[i].row_loss = <double*>arena.take(rows, sizeof(double))
        self.run.batch.Y = self.matrix(arena, rows, self.run.program.widths[self.run.program.output])
        self.run.batch.classes = <int64_t*>arena.take(rows, sizeof(int64_t))
        self.run.batch.row_scale = <double*>arena.take(rows, sizeof(double))
        self.run.batch.row_loss = <double*>arena.take(rows, sizeof(double))
        self.tape_memory, self.tape_rows = arena, rows
        return 0

    cdef int set_value(self, Py_ssize_t value, char* A, char* Z, char* D) noexcept:
        """Set the matrices of a value, for every thread of the team."""
        cdef int me
        for me in range(self.threads):
            self.run.team.workers[me].tape.A[value] = A
            self.run.team.workers[me].tape.Z[value] = Z
            self.run.team.workers[me].tape.D[value] = D
        return 0

    cdef int need_X(self, Py_ssize_t rows) except -1:
        """Memory for a batch of X that cannot be read in place."""
        if self.X_memory is None or rows > self.X_rows:
            self.X_memory, self.X_rows = None, 0
            self.X_memory = Arena()
            self.run.batch.X = self.matrix(self.X_memory, rows, self.run.program.widths[0])
            self.X_rows = rows
        return 0

    cdef int need_dX(self, Py_ssize_t rows) except -1:
        """Memory for the delta of X, which training does not compute."""
        cdef int me
        cdef char* D
        if self.dX_memory is None or rows > self.dX_rows:
            self.dX_memory, self.dX_rows = None, 0
            self.dX_memory = Arena()
            for me in range(self.threads):
                self.run.team.workers[me].tape.D[0] = NULL
            D = self.matrix(self.dX_memory, rows, self.run.program.widths[0])
            for me in range(self.threads):
                self.run.team.workers[me].tape.D[0] = D
            self.dX_rows = rows
        return 0

    cdef int need_order(self, Py_ssize_t rows) except -1:
        """Memory for a shuffled order of rows; only that of the last number of rows is kept."""
        if self.order_memory is None or rows != self.order_rows:
            self.order_memory, self.order_rows = None, 0
            self.order_memory = Arena()
            self.order = <int64_t*>self.order_memory.take(rows, sizeof(int64_t))
            self.order_rows = rows
        return 0

    cdef int need_columns(self, Py_ssize_t entries) except -1:
        """Memory for the columns of a sparse batch."""
        cdef Arena arena
        if self.columns_memory is None or entries > self.columns_entries:
            self.columns_memory, self.columns_entries = None, 0
            arena = Arena()
            self.columns.indptr = <int64_t*>arena.take(self.run.program.widths[0] + 2, sizeof(int64_t))
            self.columns.indices = <int64_t*>arena.take(entries, sizeof(int64_t))
            self.columns.values = arena.take(entries, self.item_size)
            self.columns_memory, self.columns_entries = arena, entries
        return 0

    cdef int need_output_tapes(self, Py_ssize_t block) except -1:
        """A small tape for each thread; the last value is the caller's array."""
        cdef Py_ssize_t i
        cdef Arena arena
        cdef Op* op
        cdef int me
        if self.output_memory is not None and block <= self.output_block:
            return 0
        self.output_block = 0
        self.output_memory = None
        arena = Arena()
        for me in range(self.threads):
            for i in range(self.run.program.n_ops):
                op = &self.run.program.ops[i]
                if not op.head and op.target != self.run.program.output:
                    self.output_workers[me].tape.A[op.target] = self.matrix(arena, block, op.n_out)
        self.output_memory, self.output_block = arena, block
        return 0

    cdef int need_noisy(self) except -1:
        """Memory for parameters with noise on the weights."""
        if self.noisy_memory is None:
            self.noisy_memory = Arena()
            self.noisy = <char*>self.noisy_memory.take(self.size, self.item_size)
        return 0

    cdef int need_gradient(self) except -1:
        """Memory for a whole gradient, set to zero."""
        if self.gradient_memory is None:
            self.gradient_memory = Arena()
            self.gradient = <char*>self.gradient_memory.take(self.size, self.item_size)
        memset(self.gradient, 0, self.size * self.item_size)
        return 0

    @property
    def nbytes(self):
        """Bytes allocated, without the parameters and their state."""
        arenas = (self.program, self.tape_memory, self.X_memory, self.dX_memory, self.order_memory,
                  self.output_memory, self.columns_memory, self.gradient_memory, self.noisy_memory)
        return sum(arena.nbytes for arena in arenas if arena is not None)


cdef Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept:
    return (a + b - 1) // b
