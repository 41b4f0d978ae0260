# What `_engine` and `_kernels` share: memory, the tables' rows by name, how many threads.

from bpfast.native._step cimport (
    tile_activation,
    tile_function,
    tile_link,
    tile_loss,
    tile_optimizer,
    tile_penalty,
    tile_table,
)

ctypedef fused Row:
    tile_activation
    tile_loss
    tile_link
    tile_optimizer
    tile_penalty
    tile_function

cdef const tile_table* table(int item_size) except NULL
cdef const Row* find(const Row* rows, str name) except NULL
cdef int team_for(double work, int threads) noexcept
cdef bint by_the_clock() noexcept

cdef class View:
    cdef Py_buffer buffer
    cdef bint held
    cdef char* data
    cdef Py_ssize_t size        # elements
    cdef int item_size

cdef class Arena:
    cdef list blocks
    cdef readonly Py_ssize_t nbytes
    cdef void* take(self, Py_ssize_t count, Py_ssize_t item_size) except NULL
