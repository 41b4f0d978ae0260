"""The arrays of rows that a call reads, as memory: X, targets, weights, and their order."""

import numpy

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from tiles cimport tile_csr

cdef object ndarray = numpy.ndarray, empty = numpy.empty


cdef class InputView:
    """The memory of X: a matrix (rows, I), or sparse rows with `indptr`, `indices` and `data`.

    The contents of sparse rows have been validated by `bpfast.arrays.checks`.
    """

    cdef View X, indptr, indices, values
    cdef tile_csr sparse
    cdef double density

    def __cinit__(self, X, Py_ssize_t rows, Py_ssize_t columns, int item_size):
        cdef Py_ssize_t entries
        memset(&self.sparse, 0, sizeof(tile_csr))
        self.density = 1
        if isinstance(X, ndarray):
            self.X = View(X, rows * columns, item_size)
            return
        values = X.data
        entries = len(values)
        self.X = View(None, 0, item_size)
        self.indptr = View(X.indptr, rows + 1, sizeof(int64_t))
        self.indices = View(X.indices, entries, sizeof(int64_t))
        self.values = View(values, entries, item_size)
        self.sparse.indptr = <int64_t*>self.indptr.data
        self.sparse.indices = <int64_t*>self.indices.data
        self.sparse.values = self.values.data
        if self.sparse.indptr[0] != 0 or self.sparse.indptr[rows] != entries:
            raise ValueError(f"indptr must go from 0 to {entries}")
        self.density = <double>entries / rows / columns


cdef class EpochView:
    """The memory of an epoch: its rows, and what its plan holds for each of them or for each batch."""

    cdef InputView X
    cdef View Y, classes, weights, order, alphas, learning_rates
    cdef Py_ssize_t n, batch_size, n_batches

    cdef int set_order(self, plan, Py_ssize_t rows) except -1:
        """Set the order of the rows, unless it is to be shuffled, and the batches."""
        order = None if plan.shuffle is not None else plan.order
        self.n = rows if order is None else len(order)
        self.batch_size = plan.batch_size
        if rows < 1 or self.batch_size < 1:
            raise ValueError("an epoch needs at least one row and a batch_size of at least 1; "
                             f"got {rows} rows and batch_size={self.batch_size}")
        if self.n < 1:
            raise ValueError("order must have at least one row; got none")
        self.batch_size = min(self.batch_size, self.n)
        self.n_batches = ceil_div(self.n, self.batch_size)
        self.order = View(order, self.n, sizeof(int64_t))
        if self.order.data != NULL and not all_within(<int64_t*>self.order.data, self.n, rows):
            raise ValueError(f"order must contain row numbers from 0 to {rows - 1}")
        return 0


cdef Py_ssize_t largest_batch(const tile_csr* X, Py_ssize_t rows, Py_ssize_t batch_size,
                              const int64_t* order) noexcept nogil:
    """The number of entries of the batch that has the most."""
    cdef Py_ssize_t i, row, entries = 0, most = 0
    for i in range(rows):
        row = i if order == NULL else order[i]
        if i % batch_size == 0:
            entries = 0
        entries += X.indptr[row + 1] - X.indptr[row]
        most = max(most, entries)
    return most


cdef bint all_within(const int64_t* order, Py_ssize_t length, Py_ssize_t rows) noexcept nogil:
    """Whether every number is that of a row."""
    cdef Py_ssize_t i
    for i in range(length):
        if not (0 <= order[i] < rows):
            return False
    return True


def shuffled(order, seed, epoch):
    """Fill int64 `order` with the order of the rows in an epoch; see `reference.permutation`."""
    cdef View o = View(order, order.size, sizeof(int64_t), True)
    cdef uint64_t s = seed, e = epoch
    with nogil:
        permutation(<int64_t*>o.data, o.size, s, e)
