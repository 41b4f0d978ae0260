# What a native call works on: plain structs, split by lifetime. The engine fills them, the step reads them.

from libc.stdint cimport int64_t, uint64_t

from tiles cimport (
    tile_activation,
    tile_csr,
    tile_loss,
    tile_norm,
    tile_optimizer,
    tile_penalty,
    tile_table,
    tile_update,
)

cdef extern from "team.h" nogil:
    ctypedef struct team_barrier:
        pass
    double team_clock()
    void team_wait(team_barrier* t, int n)

cdef extern from "autotune.h" nogil:
    ctypedef struct team_autotune:
        pass

cdef enum:
    # Rows and columns of the block of dW that one task holds, and the rows computed at a time where W
    # does not stay in the cache.
    BLOCK_ROWS = 96
    BLOCK_COLUMNS = 128
    STRIP_ROWS = 12
    # Elements of the gradient whose squares are summed together.
    CHUNK = 4096
    # Rows that pass through all ops together; interrupts are polled in between.
    ROW_BLOCK = 256
    # Numbers of an op, at most.
    MAX_NUMBERS = 6

# Places of the timers: three for each op, and after those of the last op the three of the whole step.
cdef enum:
    TIME_FORWARD = 0
    TIME_DELTA = 1
    TIME_GRADIENT = 2
    TIMES = 3
    TIME_GATHER = 0
    TIME_LOSS = 1
    TIME_WAITING = 2


# ---- the program: set once

cdef struct Op:
    int kind                    # row in the table of ops
    const tile_activation* activation
    double numbers[MAX_NUMBERS]  # arguments of the op's function, the activation's parameter included
    Py_ssize_t source           # value that is read
    Py_ssize_t other            # second one, or -1
    Py_ssize_t target           # value that is written
    Py_ssize_t n_in
    Py_ssize_t n_out
    Py_ssize_t W                # offsets in the flat parameters, in elements; -1 for none
    Py_ssize_t b
    Py_ssize_t mean             # offsets of running statistics; -1 for none
    Py_ssize_t variance
    Py_ssize_t strip            # rows of dW that are computed, and applied, at a time
    bint matrix                 # W is (I, O): penalised, with a product as its gradient; else (O,)
    bint head                   # belongs to an auxiliary head
    bint accumulates            # a later op has written the delta of the source: add to it
    bint accumulates_other
    # Set by each call.
    double W_lr_scale           # multiplier of the learning rate; 0: frozen
    double b_lr_scale
    bint frozen_statistics      # training, too, uses the running statistics and keeps them
    bint needs_delta            # the delta of the source is needed
    bint needs_other_delta
    # Set by each batch, where the op has statistics.
    tile_norm norm              # of the batch on the tape
    double* batch_variance      # (n_out,)
    tile_norm running           # for prediction

# The loss of an auxiliary head, on the value of the head.
cdef struct Head:
    Py_ssize_t value
    const tile_loss* loss
    double loss_parameter
    double weight
    double* row_scale           # (batch,)
    double* row_loss

# A share of the update, made by one thread: rows [i, i + m) and columns [j, j + n) of a dW; with i = 0
# also columns [j, j + n) of db.
cdef struct Task:
    Py_ssize_t op
    Py_ssize_t i
    Py_ssize_t m
    Py_ssize_t j
    Py_ssize_t n
    Py_ssize_t before           # elements of all earlier tasks

cdef struct Program:
    const tile_table* tiles
    Op* ops
    Py_ssize_t n_ops
    Py_ssize_t* widths          # columns of each value
    Py_ssize_t output           # value of the raw outputs
    Head* heads
    Py_ssize_t n_heads
    Task* tasks
    Py_ssize_t n_tasks
    Py_ssize_t elements         # of all tasks
    Py_ssize_t size             # of the flat parameters
    bint has_statistics         # an op has running statistics
    bint densify                # an op other than dense reads X: sparse batches become dense
    # Work space of the update.
    double* row_squares         # (rows of the largest W,): for norms
    double* row_penalties       # (rows of all W,)
    double* norms               # (n_ops,)
    double* chunk_squares       # (chunks of the gradient,)


# ---- the batch: memory that grows with the largest batch

cdef struct Batch:
    char* X                     # where shuffled rows are gathered
    char* Y
    int64_t* classes
    double* row_scale           # (batch,): weight of a row in the mean
    double* row_loss            # (batch,)
    char* spare                 # (batch, spare_width): as wide as the widest delta that is added to
    Py_ssize_t spare_width
    tile_csr columns            # transpose of a sparse batch; indptr is NULL if it is dense


# ---- the call: its rows, its mode, its update

cdef struct Data:
    const char* X               # (n, I)
    tile_csr sparse             # used in place of X unless its indptr is NULL
    const char* Y               # (n, O), or NULL if classes are given
    const int64_t* classes      # (n,)
    const double* weights       # (n,), or NULL
    const int64_t* order        # (n,): row numbers in the order of training, or NULL for 0, 1, …
    Py_ssize_t n
    Py_ssize_t batch_size

# How the passes of this call differ.
cdef struct Mode:
    bint training               # random ops draw, and statistics are those of the batch
    bint predicting             # outputs alone, on the tapes of the workers
    bint with_heads
    Py_ssize_t n_heads          # 0 without heads
    uint64_t noise_seed         # random ops draw from the seed and the number of the step
    uint64_t noise_step         # steps before this call
    double weight_noise         # standard deviation
    double momentum             # of running statistics in place of each op's own, unless NaN

cdef struct Update:
    const tile_loss* loss
    double loss_parameter
    double loss_scale           # multiplier of the mean loss
    bint with_penalty           # the loss of a batch includes the penalty
    char* gradient              # where the gradient goes, if it is not applied at once; or NULL
    double clip_value           # infinite for none
    double clip_norm
    const tile_optimizer* optimizer
    double hyperparameters[8]
    char* state0
    char* state1
    const tile_penalty* penalty
    double alpha
    double mix
    const double* alphas        # one for each step, in place of alpha, or NULL
    const double* learning_rates  # one for each step
    Py_ssize_t t                # steps before this call
    bint skip_unused_rows       # weights whose inputs are all 0 in a sparse batch do not change


# ---- the team of threads, and its results

# One matrix for each value; A its result, Z the pre-activation where it is saved, D = ∂L/∂A.
cdef struct Tape:
    char** A
    char** Z
    char** D

# What each thread of the team has to itself.
cdef struct Worker:
    int me
    char* scratch
    Tape tape                   # pointers of its own, to matrices that the team shares
    uint64_t noise              # key of the draws of the current step
    Py_ssize_t step             # its number in the network's training
    Py_ssize_t rows             # of the whole batch
    tile_csr X                  # the batch in sparse form; indptr is NULL if A[0] holds it
    char* Y                     # targets of the batch, or its classes
    const int64_t* classes
    # Rows of the next batch that are still to be prefetched, how many in each call, and the calls.
    Py_ssize_t prefetch_row
    Py_ssize_t prefetch_stop
    Py_ssize_t prefetch_rows
    Py_ssize_t prefetch_calls
    tile_update constants       # of the current step
    double learning_rate
    double t
    double alpha                # strength of the penalty in it
    double* seconds             # timers, or NULL: see `add_time`
    double since

cdef struct Team:
    int n_threads
    Worker* workers
    team_barrier barrier
    bint adaptive               # the timings decide who makes a step
    team_autotune autotune
    bint use_team               # the whole team makes the next step, else the first thread alone
    Py_ssize_t step             # the next one
    bint more                   # training goes on
    int stop                    # an interrupt was seen
    int (*poll)(void* context) noexcept nogil
    void* context
    double polled

cdef struct Result:
    double* batch_loss
    double* batch_weight
    Py_ssize_t steps            # made by this call

cdef struct Run:
    Program program
    Batch batch
    char* parameters
    char* effective             # what the passes use: the parameters, or these with noise on the weights
    Data data
    Mode mode
    Update update
    Team team
    Result result


cdef inline char* at(char* base, Py_ssize_t index, const tile_table* t) noexcept nogil:
    """The address of an element."""
    return base + index * t.item_size

cdef inline const char* const_at(
        const char* base, Py_ssize_t index, const tile_table* t) noexcept nogil:
    """The address of an element that is only read."""
    return base + index * t.item_size

cdef inline Py_ssize_t share(Py_ssize_t n, int who, int of) noexcept nogil:
    """The start of the share of `who` when n items are divided among `of`."""
    return n // of * who + min(n % of, <Py_ssize_t>who)

cdef inline Py_ssize_t weight_rows(const Op* op) noexcept nogil:
    """The rows of an op's W: 1 if it has one number for each column."""
    return op.n_in if op.matrix else 1

cdef inline void add_time(Worker* w, Py_ssize_t place) noexcept nogil:
    """Add the seconds since the last call to a timer."""
    cdef double now
    if w.seconds != NULL:
        now = team_clock()
        w.seconds[place] += now - w.since
        w.since = now

cdef inline bint inactive(Run* r, Op* op) noexcept nogil:
    """Whether the op belongs to a head, and this pass has none."""
    return op.head and not r.mode.with_heads
