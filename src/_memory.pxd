# What the native engine of a program works on.

from bpfast.native._runtime cimport Arena
from bpfast.native._step cimport Op, Run, Task, Worker, tile_csr, tile_norm


cdef class Memory:
    cdef Arena program, tape_memory, X_memory, dX_memory, output_memory, columns_memory
    cdef Arena gradient_memory, seen_memory
    cdef char* gradient
    cdef char* noisy
    cdef bint* below        # of each value: whether somebody wants its delta
    cdef tile_csr columns
    cdef Py_ssize_t columns_entries, first_multiply_adds, head_count
    cdef Run run
    cdef Worker* output_workers
    cdef Py_ssize_t n_values, size, tape_rows, X_rows, dX_rows, output_block, multiply_adds
    cdef int item_size, threads

    cdef int enter_op(self, Py_ssize_t i, tuple row) except -1
    cdef int enter_norm(self, tile_norm* norm, Py_ssize_t columns) except -1
    cdef int enter_head(self, Py_ssize_t k, tuple row) except -1
    cdef int allocate_program(self) except -1
    cdef Py_ssize_t count_tasks(self, Py_ssize_t height) noexcept
    cdef int make_tasks(self, Py_ssize_t height) noexcept
    cdef Worker* make_workers(self) except NULL
    cdef char* matrix(self, Arena arena, Py_ssize_t rows, Py_ssize_t columns) except NULL
    cdef int need_tape(self, Py_ssize_t rows) except -1
    cdef int share_value(self, Py_ssize_t value, char* A, char* Z, char* D) noexcept
    cdef int need_X(self, Py_ssize_t rows) except -1
    cdef int need_dX(self, Py_ssize_t rows) except -1
    cdef int need_columns(self, Py_ssize_t entries) except -1
    cdef int need_output_tapes(self, Py_ssize_t block) except -1
    cdef int need_seen(self) except -1
    cdef int need_gradient(self) except -1


cdef inline Py_ssize_t weight_rows(const Op* op) noexcept nogil:
    """The rows of an op's W: one where it has a number a column."""
    return op.n_in if op.matrix else 1
