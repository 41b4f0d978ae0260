# The table of ops, for `_step`, which runs them, and `_engine`, which finds them by name.

from libc.stdint cimport uint64_t

from bpfast.native._step cimport Op, Run, Worker

ctypedef struct OpRow:
    const char* name
    void (*forward)(Run*, Op*, Worker*, Py_ssize_t, Py_ssize_t) noexcept nogil
    void (*backward)(Run*, Op*, Worker*, Py_ssize_t, Py_ssize_t) noexcept nogil
    void (*gradient)(Run*, Op*, Worker*, Py_ssize_t, Py_ssize_t, Py_ssize_t, char*, char*) noexcept nogil
    void (*statistics)(Run*, Op*, Worker*, Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil
    void (*delta_statistics)(Run*, Op*, Worker*, Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil
    void (*settle)(Run*, Op*, Worker*, Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil
    Py_ssize_t saved

cdef const OpRow* op_row(int kind) noexcept nogil
cdef int op_kind(const char* name) noexcept
cdef const char* op_name(int kind) noexcept
cdef void begin_step(Run* r, Worker* w, Py_ssize_t step) noexcept nogil
cdef void take_running(Run* r) noexcept nogil
