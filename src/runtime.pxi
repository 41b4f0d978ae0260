"""Runtime: instruction sets and tables, threads, and the memory of arrays.

Callers have validated values and shapes with full messages (`bpfast.arrays.checks`); sizes are checked
again here, since a wrong size would read or write beyond an array.
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

from tiles cimport (
    tile_activation,
    tile_function,
    tile_link,
    tile_loss,
    tile_optimizer,
    tile_penalty,
    tile_table,
)

cdef extern from "dispatch.h":
    const char* bp_isa_name(int i)
    const tile_table* bp_tiles(const char* isa, int item_size)
    const char* bp_compiler()

cdef extern from "team.h" nogil:
    enum: BP_OPENMP
    int team_limit()

cdef extern from "memory.h" nogil:
    void large_pages(void* block, size_t size)

ctypedef fused Row:
    tile_activation
    tile_loss
    tile_link
    tile_optimizer
    tile_penalty
    tile_function

# Multiply-adds of a step, or of a call, that justify a thread: about 20 µs of one core, compared with
# about 2 µs for two barriers.
cdef double thread_work = 500e3

cdef bint forked = False


def _after_fork():
    """Run on one thread from now on: a forked child has none of OpenMP's threads and would wait for them."""
    global forked
    forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def work_per_thread(value=None):
    """Return the number of multiply-adds that justify a thread; given a value, set it and return the old one.

    With 0 all threads always work, whatever their timings. For tests and benchmarks: results do not
    depend on it.
    """
    global thread_work
    old = thread_work
    if value is not None:
        thread_work = value
    return old


def thread_limit():
    """Return how many threads OpenMP may use: OMP_NUM_THREADS, or the limit of a pool of workers."""
    return team_limit()


cdef int team_for(double work, int threads) noexcept:
    """The number of threads for this many multiply-adds."""
    if forked or not BP_OPENMP or work <= thread_work:
        return 1
    if thread_work == 0:
        return threads
    return <int>min(<double>threads, work / thread_work)


cdef bint adaptive_team() noexcept:
    """Whether timings decide if the team makes a step."""
    return thread_work > 0


# ---- instruction sets and tables

def isas():
    """Return the instruction sets of this build that this CPU supports, best first."""
    names, i = [], 0
    while bp_isa_name(i) != NULL:
        names.append(bp_isa_name(i).decode())
        i += 1
    return names


def isa():
    """Return the instruction set in use: `BPFAST_ISA`, or the best."""
    name = os.environ.get("BPFAST_ISA") or isas()[0]
    if name not in isas():
        raise ValueError(f"BPFAST_ISA must be one of {', '.join(isas())} on this CPU; got {name!r}")
    return name


def openmp():
    """Whether this build has OpenMP."""
    return bool(BP_OPENMP)


def compiler():
    """Return the name and version of the compiler of this build."""
    return bp_compiler().decode()


cdef const tile_table* table(int item_size) except NULL:
    """The table of tiles in use. Fast, since kernels are called on single rows."""
    cdef const char* name = getenv(b"BPFAST_ISA")
    cdef const tile_table* found
    if name == NULL or name[0] == 0:
        name = bp_isa_name(0)
    found = bp_tiles(name, item_size)
    if found == NULL:
        isa()  # raises, with a message
    return found


cdef list row_names(const Row* rows):
    """The names in a table, in its order."""
    names = []
    while rows.name != NULL:
        names.append(rows.name.decode())
        rows += 1
    return names


def tables():
    """Return the names in the native tables, by family, for comparison with the reference."""
    cdef const tile_table* t = table(8)
    cdef int i = 0
    ops = []
    while op_name(i) != NULL:
        ops.append(op_name(i).decode())
        i += 1
    return {
        "activation": row_names(t.activations),
        "loss": row_names(t.losses),
        "link": row_names(t.links),
        "optimizer": row_names(t.optimizers),
        "penalty": row_names(t.penalties),
        "op": ops,
    }


cdef const Row* find(const Row* rows, str name) except NULL:
    """The row of a table with this name."""
    cdef bytes encoded = name.encode()
    while rows.name != NULL:
        if strcmp(rows.name, encoded) == 0:
            return rows
        rows += 1
    raise ValueError(f"the native engine has no {name!r}")


# ---- memory

cdef class View:
    """The memory of a C-contiguous array, held for the lifetime of the view; NULL for None."""

    cdef Py_buffer buffer
    cdef bint held
    cdef char* data
    cdef Py_ssize_t size        # elements
    cdef int item_size

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
            raise TypeError(f"the array must have {item_size}-byte items; got {self.item_size} bytes")
        if self.size != size:
            raise ValueError(f"the array must have {size} elements; got {self.size}")
        if <uintptr_t>self.data % item_size:
            raise ValueError("the array must be aligned")

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.buffer)


# Otherwise the garbage collector may clear `blocks` before they are freed.
@cython.no_gc_clear
cdef class Arena:
    """Zeroed memory in blocks, each aligned to 64 bytes, freed together."""

    cdef list blocks
    cdef readonly Py_ssize_t nbytes

    def __cinit__(self):
        self.blocks = []
        self.nbytes = 0

    cdef void* take(self, Py_ssize_t count, Py_ssize_t item_size) except NULL:
        """Allocate `count` items; overflow of the product is checked."""
        cdef void* block
        if count < 0 or count > (<Py_ssize_t>(<size_t>-1 >> 1) - 64) // item_size:
            raise MemoryError(f"cannot allocate {count} items of {item_size} bytes: larger than memory")
        block = PyMem_RawCalloc(count * item_size + 64, 1)
        if block == NULL:
            raise MemoryError(f"cannot allocate memory for {count} items of {item_size} bytes")
        large_pages(block, count * item_size)
        self.blocks.append(<uintptr_t>block)
        self.nbytes += count * item_size
        return <void*>((<uintptr_t>block + 63) // 64 * 64)

    def __dealloc__(self):
        for block in self.blocks:
            PyMem_RawFree(<void*><uintptr_t>block)


def all_finite(array):
    """Whether a C-contiguous array of float32 or float64 contains neither NaN nor infinity."""
    cdef View v = View(array, array.size, array.itemsize)
    cdef const tile_table* t = table(v.item_size)
    cdef bint finite
    with nogil:
        finite = t.all_finite(v.size, v.data)
    return finite
