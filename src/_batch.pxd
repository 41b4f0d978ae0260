# The rows of a batch, for the step.

from libc.stdint cimport int64_t, uint64_t

from bpfast.native._step cimport Run, Worker, tile_csr

cdef void permutation(int64_t* order, Py_ssize_t n, uint64_t seed, uint64_t epoch) noexcept nogil
cdef void locate(Run* r, Worker* w, Py_ssize_t first) noexcept nogil
cdef void gather(Run* r, Worker* w, Py_ssize_t first, Py_ssize_t rows, double total,
                 Py_ssize_t r0, Py_ssize_t r1) noexcept nogil
cdef void transpose_batch(Run* r, Py_ssize_t first, Py_ssize_t rows,
                          const int64_t* order) noexcept nogil
cdef double batch_total(Run* r, Py_ssize_t first, Py_ssize_t rows) noexcept nogil
cdef void look_ahead(Run* r, Worker* w, Py_ssize_t first, int team) noexcept nogil
cdef void next_turn(Run* r, Worker* w) noexcept nogil

cdef inline uint64_t mix64(uint64_t z) noexcept nogil:
    """The finaliser of SplitMix64."""
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return z ^ (z >> 31)

cdef inline tile_csr sparse_from(const tile_csr* X, Py_ssize_t first,
                                 const int64_t* order) noexcept nogil:
    """X without its first rows, which `order` gives if it is not NULL."""
    cdef tile_csr rest = X[0]
    if order != NULL:
        rest.rows = order + first
    elif rest.rows != NULL:
        rest.rows += first
    else:
        rest.indptr += first
    return rest
