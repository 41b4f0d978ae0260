# The gradient and the update, for `_step`; and what the kernels as functions share with it.

from bpfast.native._step cimport Run, Worker, tile_table

cdef Py_ssize_t scratch_bytes(const tile_table* tiles) noexcept nogil
cdef void weight_gradient(
    const tile_table* t, Py_ssize_t B, Py_ssize_t I, Py_ssize_t O, const char* A_prev,
    const char* D, Py_ssize_t i, Py_ssize_t m, Py_ssize_t j, Py_ssize_t n, char* dW,
    Py_ssize_t ldw, char* db, char* scratch) noexcept nogil
cdef void weight_norms(Run* r, int me, int team) noexcept nogil
cdef void penalty_rows(Run* r, int me, int team) noexcept nogil
cdef double penalty_value(Run* r, Py_ssize_t step) noexcept nogil
cdef void gradient_tasks(Run* r, Worker* w, Py_ssize_t step, Py_ssize_t rows,
                         int team) noexcept nogil
cdef void spend_gradient(Run* r, Worker* w, int team) noexcept nogil
cdef void run_update(Run* r) noexcept nogil
