# What the step works on: structures of pointers that `_engine` fills and owns.

from libc.stdint cimport int64_t, uint64_t

cdef extern from "tiles/tiles.h" nogil:
    ctypedef struct tile_update:
        double c[8]
        double rate
        double decay
        double threshold
        int proximal
        int weight
    ctypedef struct tile_csr:
        const int64_t* indptr
        const int64_t* indices
        const void* values
        const int64_t* rows
    ctypedef struct tile_activation:
        const char* name
        int saves_z
        void (*forward)(Py_ssize_t n, double parameter, const void* Z, void* A) noexcept nogil
        void (*derivative)(Py_ssize_t n, double parameter, const void* Z, void* D) noexcept nogil
        void (*backward)(Py_ssize_t n, double parameter, const void* S, void* D) noexcept nogil
    ctypedef struct tile_loss:
        const char* name
        void (*loss)(Py_ssize_t m, Py_ssize_t n, double parameter, const void* Y,
                     const int64_t* classes, const void* Z, const double* row_scale, void* D,
                     double* row_loss) noexcept nogil
    ctypedef struct tile_link:
        const char* name
        void (*link)(Py_ssize_t m, Py_ssize_t n, const void* Z, void* A) noexcept nogil
    ctypedef struct tile_optimizer:
        const char* name
        int n_hyperparameters
        int n_states
        void (*prepare)(const double* h, double learning_rate, double t,
                        tile_update* u) noexcept nogil
        void (*update)(const tile_update* u, Py_ssize_t m, Py_ssize_t n, void* W, Py_ssize_t ldw,
                       const void* G, Py_ssize_t ldg, const void* A, void* S0,
                       void* S1) noexcept nogil
    ctypedef struct tile_penalty:
        const char* name
        int needs_norm
        void (*prepare)(double alpha, double mix, double norm, tile_update* u) noexcept nogil
        double (*value)(Py_ssize_t n, double mix, const void* w) noexcept nogil
    ctypedef struct tile_norm:
        double* mean
        double* inverse
        double* r
        double* d
        double* sum_D
        double* sum_DX
    ctypedef struct tile_function:
        const char* name
        double max_ulp
        void (*apply)(Py_ssize_t n, const void* X, void* Y) noexcept nogil
    ctypedef struct tile_table:
        const char* isa
        int item_size
        Py_ssize_t product_scratch
        void (*product)(Py_ssize_t m, Py_ssize_t n, Py_ssize_t depth, const void* A,
                        Py_ssize_t a_rs, Py_ssize_t a_cs, const void* B, Py_ssize_t b_rs,
                        Py_ssize_t b_cs, const void* bias, void* C, Py_ssize_t ldc,
                        void* scratch) noexcept nogil
        void (*fetch)(Py_ssize_t m, Py_ssize_t n, const void* W, Py_ssize_t ldw) noexcept nogil
        void (*column_sums)(Py_ssize_t m, Py_ssize_t n, const void* D, Py_ssize_t ldd,
                            void* out) noexcept nogil
        int (*all_finite)(Py_ssize_t n, const void* x) noexcept nogil
        double (*multiply_add_rounds)(Py_ssize_t n) noexcept nogil
        double (*sum_of_squares)(Py_ssize_t n, const void* w) noexcept nogil
        void (*sparse_product)(Py_ssize_t m, Py_ssize_t n, Py_ssize_t depth, const tile_csr* X,
                               const void* B, Py_ssize_t ldb, const void* bias, void* C,
                               Py_ssize_t ldc) noexcept nogil
        void (*sparse_transpose)(Py_ssize_t m, Py_ssize_t n, const tile_csr* X, int64_t* starts,
                                 int64_t* indices, void* values) noexcept nogil
        void (*sparse_to_dense)(Py_ssize_t m, Py_ssize_t n, const tile_csr* X,
                                void* A) noexcept nogil
        void (*dropout)(Py_ssize_t n, double rate, uint64_t key, uint64_t first, const void* X,
                        void* A) noexcept nogil
        void (*column_moments)(Py_ssize_t m, Py_ssize_t n, const void* X, Py_ssize_t ld,
                               double* mean, double* variance) noexcept nogil
        void (*norm_sums)(Py_ssize_t m, Py_ssize_t n, const void* X, const void* D, Py_ssize_t ld,
                          const double* mean, const double* inverse, double* sum_D,
                          double* sum_DX) noexcept nogil
        void (*norm_forward)(Py_ssize_t m, Py_ssize_t n, const tile_norm* s, const void* gamma,
                             const void* beta, const void* X, void* A) noexcept nogil
        void (*norm_backward)(Py_ssize_t m, Py_ssize_t n, const tile_norm* s, double rows,
                              const void* gamma, const void* X, const void* D,
                              void* dX) noexcept nogil
        void (*layer_norm)(Py_ssize_t m, Py_ssize_t n, double epsilon, const void* gamma,
                           const void* beta, const void* X, void* A, void* saved) noexcept nogil
        void (*layer_norm_backward)(Py_ssize_t m, Py_ssize_t n, const void* gamma, const void* X,
                                    const void* saved, const void* D, void* dX) noexcept nogil
        void (*layer_norm_sums)(Py_ssize_t m, Py_ssize_t n, const void* X, const void* saved,
                                const void* D, Py_ssize_t ld, double* sum_D,
                                double* sum_DX) noexcept nogil
        void (*maxout)(Py_ssize_t m, Py_ssize_t n, Py_ssize_t pieces, const void* X,
                       void* A) noexcept nogil
        void (*maxout_backward)(Py_ssize_t m, Py_ssize_t n, Py_ssize_t pieces, const void* X,
                                const void* A, const void* D, void* dX) noexcept nogil
        void (*prelu)(Py_ssize_t m, Py_ssize_t n, const void* slope, const void* X, const void* V,
                      void* A) noexcept nogil
        void (*prelu_sums)(Py_ssize_t m, Py_ssize_t n, const void* X, const void* D, Py_ssize_t ld,
                           double* out) noexcept nogil
        void (*rrelu)(Py_ssize_t n, double lower, double upper, uint64_t key, uint64_t first,
                      const void* X, const void* V, void* A) noexcept nogil
        void (*add)(Py_ssize_t n, const void* X, const void* Y, void* A) noexcept nogil
        void (*scale)(Py_ssize_t n, double factor, void* x) noexcept nogil
        void (*clamp)(Py_ssize_t m, Py_ssize_t n, double limit, void* x,
                      Py_ssize_t ld) noexcept nogil
        void (*noisy)(Py_ssize_t n, double deviation, uint64_t key, uint64_t first, const void* W,
                      void* A) noexcept nogil
        const tile_activation* activations
        const tile_loss* losses
        const tile_link* links
        const tile_optimizer* optimizers
        const tile_penalty* penalties
        const tile_function* functions

cdef extern from "team.h" nogil:
    enum: BP_OPENMP
    ctypedef struct team_barrier:
        pass
    int team_size()
    double team_clock()
    void team_wait(team_barrier* t, int n)

cdef extern from "pace.h" nogil:
    ctypedef struct team_pace:
        pass

cdef enum:
    # The rows and columns of dW that one task holds, and the rows of it that are made at a time
    # where W is too large to stay near.
    BLOCK_ROWS = 96
    BLOCK_COLUMNS = 128
    STRIP_ROWS = 12
    # Elements of the gradient whose squares are summed up together.
    CHUNK = 4096
    # Rows that flow through all ops together, and between two looks at the clock.
    ROW_BLOCK = 256

cdef struct Op:
    int kind                # place in the table of ops
    const tile_activation* activation
    double numbers[6]       # what its function takes, the activation's parameter among them
    Py_ssize_t source       # value that is read
    Py_ssize_t other        # second one, or -1
    Py_ssize_t target       # value that is made
    Py_ssize_t n_in
    Py_ssize_t n_out
    Py_ssize_t W            # offsets in the flat parameters, in elements; -1: none
    Py_ssize_t b
    Py_ssize_t mean         # offsets of running statistics; -1: none
    Py_ssize_t variance
    double W_rate           # what the learning rate is multiplied by; 0: stays as it is
    double b_rate
    Py_ssize_t strip        # rows of dW that are made, and spent, at a time
    bint matrix             # W (I, O) is penalised, and its gradient a product; else (O,)
    bint fixed              # takes the running statistics in training too, and they stay
    bint head               # of an auxiliary head
    bint adds               # the delta of the source has been written, by an op behind: add to it
    bint adds_other
    bint wants_delta        # somebody asks for the delta of the source
    bint wants_other
    tile_norm norm          # of the batch on the tape
    double* batch_variance  # (n_out,)
    tile_norm running       # of prediction

# A loss of its own on a value.
cdef struct Head:
    Py_ssize_t value
    const tile_loss* loss
    double loss_parameter
    double weight
    double* row_scale       # (batch,)
    double* row_loss

# A share of the update that one thread makes: rows [i, i + m) and columns [j, j + n) of a dW;
# with i = 0 also columns [j, j + n) of db.
cdef struct Task:
    Py_ssize_t op
    Py_ssize_t i
    Py_ssize_t m
    Py_ssize_t j
    Py_ssize_t n
    Py_ssize_t before       # elements of the tasks before this one

# One matrix a value; A what the op made, Z its pre-activation where saved, D = dL/dA.
cdef struct Tape:
    char** A
    char** Z
    char** D

# What one thread of the team has for itself.
cdef struct Worker:
    int me
    char* scratch
    Tape tape               # its own pointers, to matrices that the team shares
    uint64_t noise          # what the random ops of the step under way draw from
    Py_ssize_t step         # its number in the network's training
    Py_ssize_t rows         # of the whole batch
    tile_csr X              # the batch in sparse form; indptr is NULL where A[0] has it
    char* Y                 # the batch's targets, or its classes
    const int64_t* classes
    # the rows of the next batch that are still to be brought near, how many a turn, and the turns
    Py_ssize_t ahead
    Py_ssize_t ahead_stop
    Py_ssize_t ahead_rows
    Py_ssize_t turns
    tile_update constants   # of the step under way
    double learning_rate
    double t
    double alpha            # the penalty's strength in it
    double* seconds         # where a profile puts them: see `tick`; NULL for none
    double since

cdef struct Run:
    # the program
    const tile_table* tiles
    Op* ops
    Py_ssize_t n_ops
    Py_ssize_t* widths
    Py_ssize_t output       # the value that comes out
    Head* heads
    Py_ssize_t n_heads
    bint has_statistics     # whether an op has running statistics
    Task* tasks
    Py_ssize_t n_tasks
    Py_ssize_t elements     # of all tasks
    char* parameters
    Py_ssize_t size         # of the flat parameters
    char* seen              # what the passes see of them: themselves, or with noise
    double weight_noise     # its deviation
    char* spare             # (batch, spare_width): the widest source that is added to
    Py_ssize_t spare_width
    # the data
    const char* X           # (n, I)
    tile_csr sparse         # X in sparse form, in place of X where indptr is not NULL
    int densify             # an op other than dense reads X: make its batches dense
    const char* Y           # (n, O), or NULL where classes are given
    const int64_t* classes  # (n,)
    const double* weights   # (n,), or NULL
    const int64_t* order    # (n,): the order of the rows, or NULL for their own
    Py_ssize_t n
    Py_ssize_t batch_size
    # the batch under way
    char* batch_X           # where shuffled rows are gathered
    tile_csr columns        # the transpose of a sparse batch; indptr is NULL where it is dense
    int skip_unread         # no update of weights whose input is 0 in all of it: nothing changes
    char* batch_Y
    int64_t* batch_classes
    double* row_scale       # (batch,): what a row counts in the mean
    double* row_loss        # (batch,)
    double* row_squares     # (rows of the largest W,): for norms
    double* row_values      # (rows of all W,): what they add to the penalty
    # how training differs: random ops draw from the seed and the steps before this call, statistics
    # are the batch's, and the running ones move by the op's momentum, or this one if it is not NaN
    bint training
    bint predicting         # outputs alone, on the workers' own tapes
    bint with_heads
    uint64_t noise_seed
    uint64_t noise_step
    double momentum
    # the loss
    const tile_loss* loss
    double loss_parameter
    double loss_scale       # what the mean loss is multiplied by
    # the update; gradient: where to put it instead of updating, and perhaps clip it there
    char* gradient
    double clip_value       # infinite for none
    double clip_norm
    double* chunk_squares   # (chunks of the gradient,)
    char* state0
    char* state1
    const tile_optimizer* optimizer
    double hyperparameters[8]
    const tile_penalty* penalty
    double alpha
    double mix
    const double* alphas    # one a step, in place of alpha, or NULL
    bint objective          # whether a batch's loss includes the penalty
    double* norms           # (n_ops,)
    const double* learning_rates   # one a step
    Py_ssize_t t            # steps made before this call
    # what comes out
    double* batch_loss
    double* batch_weight
    Py_ssize_t steps        # steps made by this call
    # the team
    int n_threads
    Worker* workers
    team_barrier barrier
    bint paced              # whether the pace decides who makes a step
    team_pace pace
    bint together           # whether the whole team makes the next step
    Py_ssize_t step         # the next one
    bint more               # whether there is to be one
    int stop
    int (*poll)(void* context) noexcept nogil
    void* context
    double polled

# The places of a profile: three an op, and behind the last op's those of the whole.
cdef enum:
    TIME_FORWARD = 0
    TIME_DELTA = 1
    TIME_GRADIENT = 2
    TIMES = 3
    TIME_GATHER = 0
    TIME_LOSS = 1
    TIME_WAITING = 2

# The engine's calls.
cdef void run_train(Run* r) noexcept nogil
cdef void run_forward(Run* r) noexcept nogil
cdef void run_backward(Run* r) noexcept nogil
cdef void run_outputs(Run* r, Worker* workers, char* Z, Py_ssize_t block) noexcept nogil

cdef inline char* at(char* base, Py_ssize_t index, const tile_table* t) noexcept nogil:
    """The address of an element."""
    return base + index * t.item_size

cdef inline const char* const_at(
        const char* base, Py_ssize_t index, const tile_table* t) noexcept nogil:
    return base + index * t.item_size

cdef inline Py_ssize_t share(Py_ssize_t n, int who, int of) noexcept nogil:
    """Where the part of `who` begins when n things are divided among `of`."""
    return n // of * who + min(n % of, <Py_ssize_t>who)

cdef inline void tick(Worker* w, Py_ssize_t place) noexcept nogil:
    """The seconds since the last tick went into `place`."""
    cdef double now
    if w.seconds != NULL:
        now = team_clock()
        w.seconds[place] += now - w.since
        w.since = now

cdef inline bint absent(Run* r, Op* op) noexcept nogil:
    """Whether the op is one of a head that is not there."""
    return op.head and not r.with_heads
