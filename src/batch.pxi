"""The rows of a batch: their order in an epoch, where they are, and the weight of each."""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from run cimport Run, Worker, at, const_at, share
from tiles cimport tile_csr

cdef enum:
    # Bytes of X, and of one row, up to which the next batch is prefetched during a step: the hardware
    # prefetches longer rows.
    PREFETCH_BYTES = 262144
    PREFETCH_ROW_BYTES = 1024


cdef inline uint64_t mix64(uint64_t z) noexcept nogil:
    """The finaliser of SplitMix64."""
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return z ^ (z >> 31)


cdef void permutation(int64_t* order, Py_ssize_t n, uint64_t seed, uint64_t epoch) noexcept nogil:
    """The order of the rows in an epoch; see `reference.permutation`."""
    cdef uint64_t key = mix64(mix64(seed) + epoch), draw
    cdef Py_ssize_t i, j
    for i in range(n):
        order[i] = i
    for i in range(n - 1, 0, -1):
        draw = mix64(key + <uint64_t>i * <uint64_t>0x9E3779B97F4A7C15) >> 32
        j = <Py_ssize_t>((draw * <uint64_t>(i + 1)) >> 32)
        order[i], order[j] = order[j], order[i]


cdef inline tile_csr sparse_from(const tile_csr* X, Py_ssize_t first,
                                 const int64_t* order) noexcept nogil:
    """X from row `first` on, in the order of `order` unless it is NULL."""
    cdef tile_csr rest = X[0]
    if order != NULL:
        rest.rows = order + first
    elif rest.rows != NULL:
        rest.rows += first
    else:
        rest.indptr += first
    return rest


cdef void locate_batch(Run* r, Worker* w, Py_ssize_t first) noexcept nogil:
    """Point a thread at the batch that begins at `first`; a thread without rows needs it for gradients.

    Without an order of rows the batch is read in place, otherwise it is copied.
    """
    w.X.indptr = NULL
    if r.data.sparse.indptr != NULL and not r.program.densify:
        w.X = sparse_from(&r.data.sparse, first, r.data.order)
    if r.data.order != NULL or r.data.X == NULL:
        w.tape.A[0] = r.batch.X
    else:
        w.tape.A[0] = <char*>const_at(r.data.X, first * r.program.widths[0], r.program.tiles)
    if r.data.order != NULL:
        w.Y, w.classes = r.batch.Y, r.batch.classes
    elif r.data.classes != NULL:
        w.classes = r.data.classes + first
    else:
        w.Y = <char*>const_at(r.data.Y, first * r.program.widths[r.program.output], r.program.tiles)


cdef void gather(Run* r, Worker* w, Py_ssize_t first, Py_ssize_t rows, double total,
                 Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """Copy rows r0 to r1 of the batch that begins at `first`: X, Y and their weights in the mean."""
    cdef Py_ssize_t i, row
    cdef Py_ssize_t x_bytes = r.program.widths[0] * r.program.tiles.item_size
    cdef Py_ssize_t y_bytes = r.program.widths[r.program.output] * r.program.tiles.item_size
    weigh_rows(r, first, rows, total, r0, r1)
    if r.data.sparse.indptr != NULL and r.program.densify:
        gather_dense(r, first, r0, r1)
    if r.data.order == NULL:
        return
    for i in range(r0, r1):
        row = r.data.order[first + i]
        if r.data.X != NULL:
            memcpy(r.batch.X + i * x_bytes, r.data.X + row * x_bytes, x_bytes)
        if r.data.classes != NULL:
            r.batch.classes[i] = r.data.classes[row]
        else:
            memcpy(r.batch.Y + i * y_bytes, r.data.Y + row * y_bytes, y_bytes)


cdef inline void weigh_rows(Run* r, Py_ssize_t first, Py_ssize_t rows, double total, Py_ssize_t r0,
                            Py_ssize_t r1) noexcept nogil:
    """The weight of rows r0 to r1 in the mean of a batch of weight `total`."""
    cdef Py_ssize_t i, row
    cdef double scale = r.update.loss_scale
    if r.data.weights == NULL:
        for i in range(r0, r1):
            r.batch.row_scale[i] = scale / rows
        return
    for i in range(r0, r1):
        row = first + i if r.data.order == NULL else r.data.order[first + i]
        r.batch.row_scale[i] = scale * r.data.weights[row] / total if total > 0 else 0


cdef void gather_dense(Run* r, Py_ssize_t first, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """Make rows r0 to r1 of a sparse batch dense."""
    cdef tile_csr batch = sparse_from(&r.data.sparse, first, r.data.order)
    cdef tile_csr rows = sparse_from(&batch, r0, NULL)
    r.program.tiles.sparse_to_dense(r1 - r0, r.program.widths[0], &rows,
                                    at(r.batch.X, r0 * r.program.widths[0], r.program.tiles))


cdef void schedule_prefetch(Run* r, Worker* w, Py_ssize_t first, int team) noexcept nogil:
    """Divide the rows of the batch that begins at `first` among the threads, for prefetching.

    Each thread spreads its rows over as many calls of `prefetch_next_batch` as the last step made.
    """
    cdef Py_ssize_t rows = min(r.data.batch_size, r.data.n - first)
    cdef Py_ssize_t row_bytes = r.program.widths[0] * r.program.tiles.item_size
    w.prefetch_row = w.prefetch_stop = 0
    if (rows > 0 and w.prefetch_calls > 0 and r.data.X != NULL
            and row_bytes <= PREFETCH_ROW_BYTES and rows * row_bytes <= PREFETCH_BYTES):
        w.prefetch_row = first + share(rows, w.me, team)
        w.prefetch_stop = first + share(rows, w.me + 1, team)
        w.prefetch_rows = (
            (w.prefetch_stop - w.prefetch_row + w.prefetch_calls - 1) // w.prefetch_calls)
    w.prefetch_calls = 0


cdef void prefetch_next_batch(Run* r, Worker* w) noexcept nogil:
    """Prefetch some rows of the next batch."""
    cdef Py_ssize_t stop = min(w.prefetch_stop, w.prefetch_row + w.prefetch_rows), row
    w.prefetch_calls += 1
    while w.prefetch_row < stop:
        row = w.prefetch_row if r.data.order == NULL else r.data.order[w.prefetch_row]
        r.program.tiles.prefetch(
            1, r.program.widths[0],
            const_at(r.data.X, row * r.program.widths[0], r.program.tiles), 0)
        w.prefetch_row += 1


cdef void transpose_batch(Run* r, Py_ssize_t first, Py_ssize_t rows,
                          const int64_t* order) noexcept nogil:
    """The columns of a sparse batch, for the gradient of the weights that read it."""
    cdef tile_csr X
    if r.batch.columns.indptr != NULL:
        X = sparse_from(&r.data.sparse, first, order)
        r.program.tiles.sparse_transpose(
            rows, r.program.widths[0], &X, <int64_t*>r.batch.columns.indptr,
            <int64_t*>r.batch.columns.indices, <void*>r.batch.columns.values)


cdef double batch_total(Run* r, Py_ssize_t first, Py_ssize_t rows) noexcept nogil:
    """The weight of a batch: the number of its rows, or the sum of their weights in order."""
    cdef Py_ssize_t i
    cdef double total = 0
    if r.data.weights == NULL:
        return rows
    for i in range(first, first + rows):
        total += r.data.weights[i if r.data.order == NULL else r.data.order[i]]
    return total
