# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: freethreading_compatible=True
"""The rows of a batch: their order in an epoch, where they are, and what each counts."""

from libc.string cimport memcpy

from bpfast.native._step cimport Run, Worker, at, const_at, share, tile_csr

cdef enum:
    # Of a batch of X that is brought near while the one before it is at work, and of its rows:
    # longer ones come by themselves.
    AHEAD_BYTES = 262144
    AHEAD_ROW_BYTES = 1024


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


cdef void locate(Run* r, Worker* w, Py_ssize_t first) noexcept nogil:
    """Where the batch that begins at `first` is, for every thread: one without rows has gradients.

    Rows in their own order are where they are wanted; only a shuffled order is copied.
    """
    w.X.indptr = NULL
    if r.sparse.indptr != NULL and not r.densify:
        w.X = sparse_from(&r.sparse, first, r.order)
    if r.order != NULL or r.X == NULL:
        w.tape.A[0] = r.batch_X
    else:
        w.tape.A[0] = <char*>r.X + first * r.widths[0] * r.tiles.item_size
    if r.order != NULL:
        w.Y, w.classes = r.batch_Y, r.batch_classes
    elif r.classes != NULL:
        w.classes = r.classes + first
    else:
        w.Y = <char*>r.Y + first * r.widths[r.output] * r.tiles.item_size


cdef void gather(Run* r, Worker* w, Py_ssize_t first, Py_ssize_t rows, double total,
                 Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """Rows r0 to r1 of the batch that begins at `first`: X, Y and what each counts in the mean."""
    cdef Py_ssize_t i, row
    cdef Py_ssize_t x_bytes = r.widths[0] * r.tiles.item_size
    cdef Py_ssize_t y_bytes = r.widths[r.output] * r.tiles.item_size
    if r.weights == NULL:
        for i in range(r0, r1):
            r.row_scale[i] = r.loss_scale / rows
    else:
        for i in range(r0, r1):
            row = first + i if r.order == NULL else r.order[first + i]
            r.row_scale[i] = r.loss_scale * r.weights[row] / total if total > 0 else 0
    if r.sparse.indptr != NULL and r.densify:
        gather_dense(r, first, r0, r1)
    if r.order == NULL:
        return
    for i in range(r0, r1):
        row = r.order[first + i]
        if r.X != NULL:
            memcpy(r.batch_X + i * x_bytes, r.X + row * x_bytes, x_bytes)
        if r.classes != NULL:
            r.batch_classes[i] = r.classes[row]
        else:
            memcpy(r.batch_Y + i * y_bytes, r.Y + row * y_bytes, y_bytes)


cdef void look_ahead(Run* r, Worker* w, Py_ssize_t first, int team) noexcept nogil:
    """The rows of the batch that begins at `first` are this thread's to bring near, in turns.

    As many turns as the step before had.
    """
    cdef Py_ssize_t rows = min(r.batch_size, r.n - first)
    cdef Py_ssize_t row_bytes = r.widths[0] * r.tiles.item_size
    w.ahead = w.ahead_stop = 0
    if (rows > 0 and w.turns > 0 and r.X != NULL
            and row_bytes <= AHEAD_ROW_BYTES and rows * row_bytes <= AHEAD_BYTES):
        w.ahead, w.ahead_stop = first + share(rows, w.me, team), first + share(rows, w.me + 1, team)
        w.ahead_rows = (w.ahead_stop - w.ahead + w.turns - 1) // w.turns
    w.turns = 0


cdef void next_turn(Run* r, Worker* w) noexcept nogil:
    """A few of the rows of the next batch come near."""
    cdef Py_ssize_t stop = min(w.ahead_stop, w.ahead + w.ahead_rows), row
    w.turns += 1
    while w.ahead < stop:
        row = w.ahead if r.order == NULL else r.order[w.ahead]
        r.tiles.fetch(1, r.widths[0], const_at(r.X, row * r.widths[0], r.tiles), 0)
        w.ahead += 1


cdef void gather_dense(Run* r, Py_ssize_t first, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """Rows r0 to r1 of a sparse batch made dense, for an op that wants them so."""
    cdef tile_csr batch = sparse_from(&r.sparse, first, r.order)
    cdef tile_csr rows = sparse_from(&batch, r0, NULL)
    r.tiles.sparse_to_dense(r1 - r0, r.widths[0], &rows,
                            at(r.batch_X, r0 * r.widths[0], r.tiles))


cdef void transpose_batch(Run* r, Py_ssize_t first, Py_ssize_t rows,
                          const int64_t* order) noexcept nogil:
    """The columns of a sparse batch, for the gradient of the weights that read it."""
    cdef tile_csr X
    if r.columns.indptr != NULL:
        X = sparse_from(&r.sparse, first, order)
        r.tiles.sparse_transpose(rows, r.widths[0], &X, <int64_t*>r.columns.indptr,
                                 <int64_t*>r.columns.indices, <void*>r.columns.values)


cdef double batch_total(Run* r, Py_ssize_t first, Py_ssize_t rows) noexcept nogil:
    """The weight of a batch: its rows, or the sum of their weights in order."""
    cdef Py_ssize_t i
    cdef double total = 0
    if r.weights == NULL:
        return rows
    for i in range(first, first + rows):
        total += r.weights[i if r.order == NULL else r.order[i]]
    return total
