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

cdef extern from "pace.h" nogil:
    ctypedef struct team_pace:
        pass

cdef enum:
    # The rows and columns of dW that one task holds, and the rows of it that are made at a time
    # where W is too large to stay near.
    BLOCK_ROWS = 96
    BLOCK_COLUMNS = 128
    STRIP_ROWS = 12
    # Rows that flow through all ops together, and between two looks at the clock.
    ROW_BLOCK = 256

cdef struct Op:
    int kind                # place in the table of ops
    const tile_activation* activation
    double parameter        # of the activation, or the rate of a dropout
    Py_ssize_t source       # value that is read
    Py_ssize_t target       # value that is made
    Py_ssize_t n_in
    Py_ssize_t n_out
    Py_ssize_t W            # offsets in the flat parameters, in elements; -1: none
    Py_ssize_t b
    Py_ssize_t strip        # rows of dW that are made, and spent, at a time

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
    uint64_t noise          # what the masks of the step under way are drawn from
    tile_csr X              # the batch in sparse form; indptr is NULL where A[0] has it
    char* Y                 # the batch's targets, or its classes
    const int64_t* classes
    # the rows of the next batch that are still to be brought near, how many a turn, and the turns
    Py_ssize_t ahead
    Py_ssize_t ahead_stop
    Py_ssize_t ahead_rows
    Py_ssize_t turns
    tile_update of_weights  # the constants of the step under way
    tile_update of_biases
    double alpha            # the penalty's strength in it
    double* seconds         # where a profile puts them: see `tick`; NULL for none
    double since

cdef struct Run:
    # the program
    const tile_table* tiles
    Op* ops
    Py_ssize_t n_ops
    Py_ssize_t first_trained   # the first op that has parameters, or n_ops
    Py_ssize_t* widths
    Task* tasks
    Py_ssize_t n_tasks
    Py_ssize_t elements     # of all tasks
    char* parameters
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
    # what masks are drawn from: the seed, and the steps before this call; none without `training`
    int training
    uint64_t noise_seed
    uint64_t noise_step
    # the loss
    const tile_loss* loss
    double loss_parameter
    double loss_scale       # what the mean loss is multiplied by
    # the update; gradient: where to put it instead of updating
    char* gradient
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
    int want_input_delta
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

cdef Py_ssize_t scratch_bytes(const tile_table* tiles) noexcept nogil

# The engine's calls.
cdef void run_train(Run* r) noexcept nogil
cdef void run_forward(Run* r) noexcept nogil
cdef void run_backward(Run* r) noexcept nogil
cdef void run_update(Run* r) noexcept nogil
cdef void run_outputs(Run* r, Worker* workers, char* Z, Py_ssize_t block) noexcept nogil

# What the kernels as functions share with the step.
cdef void weight_gradient(
    const tile_table* t, Py_ssize_t B, Py_ssize_t I, Py_ssize_t O, const char* A_prev,
    const char* D, Py_ssize_t i, Py_ssize_t m, Py_ssize_t j, Py_ssize_t n, char* dW,
    Py_ssize_t ldw, char* db, char* scratch) noexcept nogil

cdef inline char* at(char* base, Py_ssize_t index, const tile_table* t) noexcept nogil:
    """The address of an element."""
    return base + index * t.item_size

cdef inline const char* const_at(
        const char* base, Py_ssize_t index, const tile_table* t) noexcept nogil:
    return base + index * t.item_size

cdef inline Py_ssize_t share(Py_ssize_t n, int who, int of) noexcept nogil:
    """Where the part of `who` begins when n things are divided among `of`."""
    return n // of * who + min(n % of, <Py_ssize_t>who)
