"""Sparse inputs: rows stored as their nonzero entries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..specs.record import Record, record
from . import Array

Indices = NDArray[np.int64]


@record
class CSR(Record):
    """A checked matrix in compressed sparse row format, made by `checks.features`.

    Attributes
    ----------
    indptr : int64 array (rows + 1,)
        The entries of row r are at ``indptr[r]:indptr[r + 1]`` in `indices` and `data`.
    indices : int64 array
        The column of each entry, ascending within a row.
    data : array
        The value of each entry, none of them 0.
    shape : (rows, columns)
    """

    indptr: Indices
    indices: Indices
    data: Array
    shape: tuple[int, int]

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, selection: Indices) -> CSR:
        """Return the rows with these numbers, in this order."""
        counts = np.diff(self.indptr)[selection]
        indptr = np.concatenate([[0], counts.cumsum()])
        entries = np.arange(indptr[-1]) + np.repeat(self.indptr[selection] - indptr[:-1], counts)
        return CSR(indptr, self.indices[entries], self.data[entries], (len(counts), self.shape[1]))

    def blocks(self, size: int) -> Iterator[CSR]:
        """Yield all rows in order, at most `size` at a time."""
        for start in range(0, len(self), size):
            yield self.rows(np.arange(start, min(start + size, len(self))))

    def toarray(self) -> Array:
        """Return the matrix as a dense array."""
        result = np.zeros(self.shape, self.data.dtype)
        result[_row_of_each(self.indptr), self.indices] = self.data
        return result


#: Checked inputs of a network: dense or sparse rows.
Features = Array | CSR


def take(X: Features, rows: Indices) -> Features:
    """Return the rows with these numbers, in this order, in the form of X."""
    return X.rows(rows) if isinstance(X, CSR) else X[rows]


def dense(X: Features) -> Array:
    """Return X as a dense array."""
    return X.toarray() if isinstance(X, CSR) else X


#: A dense X is trained as sparse rows if at most this share of it is not 0, a step has at least this many
#: rows and the first layer this many units, and enough epochs repay the conversion. Measured: at these
#: limits both forms are equally fast, at a fifth of the share sparse rows are 2 to 4 times faster.
MAX_SHARE, MIN_ROWS, MIN_UNITS, MIN_EPOCHS = 0.22, 16, 32, 3
#: Larger arrays, in bytes, are not copied; nor are arrays mapped from files.
MAX_BYTES = 2**30


def sparsify(X: Features, batch_size: int, units: int, epochs: int) -> Features:
    """Return X, or its sparse rows if training is faster on them; results are bitwise identical.

    Parameters
    ----------
    X : array (B, I) or CSR
    batch_size : int
        Rows of a training step.
    units : int
        Units of the first layer.
    epochs : int
        Epochs to train on X.
    """
    if isinstance(X, CSR) or batch_size < MIN_ROWS or units < MIN_UNITS or epochs < MIN_EPOCHS:
        return X
    if X.nbytes > MAX_BYTES or _is_mapped(X):
        return X
    # A sample of rows rules out most matrices before all of X is read.
    sample = X[:: max(1, len(X) // 64)]
    if np.count_nonzero(sample) > 2 * MAX_SHARE * sample.size or np.count_nonzero(X) > MAX_SHARE * X.size:
        return X
    return from_dense(X)


def _is_mapped(X: Array) -> bool:
    base: Any = X
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return base is not None and not isinstance(base, bytes)


def from_dense(X: Array) -> CSR:
    """Convert a dense matrix to sparse rows."""
    nonzero = X != 0
    positions = np.flatnonzero(nonzero)
    indptr = np.concatenate([[0], nonzero.sum(axis=1).cumsum()])
    return CSR(indptr, positions % X.shape[1], X.ravel()[positions], (X.shape[0], X.shape[1]))


def canonical(indptr: Indices, indices: Indices, data: Array) -> tuple[Indices, Indices, Array]:
    """Sort the entries of every row by column; sum duplicates in their order."""
    if len(indices) < 2:
        return indptr, indices, data
    ascending = indices[1:] > indices[:-1]
    starts = indptr[(indptr > 0) & (indptr < len(indices))]
    ascending[starts - 1] = True
    if ascending.all():
        return indptr, indices, data
    rows = _row_of_each(indptr)
    order = np.lexsort((indices, rows))
    rows, indices = rows[order], indices[order]
    first = np.ones(len(rows), bool)
    first[1:] = (rows[1:] != rows[:-1]) | (indices[1:] != indices[:-1])
    sums = np.zeros(np.count_nonzero(first), data.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        np.add.at(sums, first.cumsum() - 1, data[order])
    counts = np.bincount(rows[first], minlength=len(indptr) - 1)
    return np.concatenate([[0], counts.cumsum()]), indices[first], sums


def without_zeros(indptr: Indices, indices: Indices, data: Array) -> tuple[Indices, Indices, Array]:
    """Drop entries whose value is 0."""
    kept = data != 0
    if kept.all():
        return indptr, indices, data
    return np.concatenate([[0], kept.cumsum()])[indptr], indices[kept], data[kept]


def _row_of_each(indptr: Indices) -> Indices:
    """Return the row number of every entry."""
    return np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
