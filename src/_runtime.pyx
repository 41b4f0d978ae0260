# cython: language_level=3, cdivision=True
# cython: freethreading_compatible=True
"""The border between Python and the native code: which tables this CPU gets, memory, threads.

Callers have checked values and shapes with words (`checks`); here sizes are checked once more,
because a pointer forgives nothing.
"""

import os

cimport cython
from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS,
    PyBUF_FORMAT,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from libc.stdint cimport uintptr_t
from libc.stdlib cimport getenv
from libc.string cimport strcmp

from bpfast.native._ops cimport op_name
from bpfast.native._step cimport BP_OPENMP, tile_table

cdef extern from "dispatch.h":
    const char* bp_isa_name(int i)
    const tile_table* bp_tiles(const char* isa, int item_size)
    const char* bp_compiler()

cdef extern from "team.h" nogil:
    int team_limit()

cdef extern from "memory.h" nogil:
    void large_pages(void* block, size_t size)

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

    With 0 all threads always work, whatever the clock says of their pace. For tests and
    benchmarks: results do not depend on it.
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
    """The tables in use; as quick as a call of a kernel on a single row wants it."""
    cdef const char* wanted = getenv(b"BPFAST_ISA")
    cdef const tile_table* found
    if wanted == NULL or wanted[0] == 0:
        wanted = bp_isa_name(0)
    found = bp_tiles(wanted, item_size)
    if found == NULL:
        isa()  # says what is wrong
    return found


cdef list names(const Row* rows):
    """The names of a table, in its order."""
    found = []
    while rows.name != NULL:
        found.append(rows.name.decode())
        rows += 1
    return found


def tables():
    """The names in the native tables, by family; what a test holds against the reference."""
    cdef const tile_table* t = table(8)
    cdef int i = 0
    ops = []
    while op_name(i) != NULL:
        ops.append(op_name(i).decode())
        i += 1
    return {
        "activation": names(t.activations),
        "loss": names(t.losses),
        "link": names(t.links),
        "optimizer": names(t.optimizers),
        "penalty": names(t.penalties),
        "op": ops,
    }


cdef const Row* find(const Row* rows, str name) except NULL:
    """The row of a table with this name."""
    cdef bytes wanted = name.encode()
    while rows.name != NULL:
        if strcmp(rows.name, wanted) == 0:
            return rows
        rows += 1
    raise ValueError(f"the native engine has no {name!r}")


def thread_limit():
    """The threads that OpenMP is allowed here: by OMP_NUM_THREADS, or by a pool that limits its workers."""
    return team_limit()


cdef int team_for(double work, int threads) noexcept:
    """How many threads this many multiply-adds deserve."""
    if forked or not BP_OPENMP or work <= worth_a_thread:
        return 1
    if worth_a_thread == 0:
        return threads
    return <int>min(<double>threads, work / worth_a_thread)


def all_finite(array):
    """Whether a C-contiguous array of float32 or float64 holds neither NaN nor infinity."""
    cdef View v = View(array, array.size, array.itemsize)
    cdef const tile_table* t = table(v.item_size)
    cdef bint finite
    with nogil:
        finite = t.all_finite(v.size, v.data)
    return finite


cdef bint by_the_clock() noexcept:
    """Whether the pace decides if the team makes a step."""
    return worth_a_thread > 0


# ---- memory

cdef class View:
    """The memory of a C-contiguous array, held for as long as the view lives."""

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


# Without: the collector may clear `blocks` before it is read.
@cython.no_gc_clear
cdef class Arena:
    """Zeroed memory in pieces, each at a multiple of 64 bytes, freed together."""

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
        large_pages(block, count * item_size)
        self.blocks.append(<uintptr_t>block)
        self.nbytes += count * item_size
        return <void*>((<uintptr_t>block + 63) // 64 * 64)

    def __dealloc__(self):
        for block in self.blocks:
            PyMem_RawFree(<void*><uintptr_t>block)
