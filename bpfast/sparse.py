"""Sparse inputs: the rows of a matrix by their entries that are not 0."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Places = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CSR:
    """Compressed sparse rows, checked: `checks.features` makes them.

    Attributes
    ----------
    indptr : int64 array (rows + 1,)
        The entries of row r are those from ``indptr[r]`` to ``indptr[r + 1]``.
    indices : int64 array
        Their columns, ascending in each row.
    data : array
        Their values, none of them 0.
    shape : (rows, columns)
    """

    indptr: Places
    indices: Places
    data: Array
    shape: tuple[int, int]

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, selection: Places) -> CSR:
        """The rows of these numbers, in their order."""
        counts = np.diff(self.indptr)[selection]
        indptr = np.concatenate([[0], counts.cumsum()])
        entries = np.arange(indptr[-1]) + np.repeat(self.indptr[selection] - indptr[:-1], counts)
        return CSR(indptr, self.indices[entries], self.data[entries], (len(counts), self.shape[1]))

    def blocks(self, size: int) -> Iterator[CSR]:
        """All rows, at most `size` at a time."""
        for start in range(0, len(self), size):
            yield self.rows(np.arange(start, min(start + size, len(self))))

    def toarray(self) -> Array:
        """The same, dense."""
        result = np.zeros(self.shape, self.data.dtype)
        result[_row_of_each(self.indptr), self.indices] = self.data
        return result


#: The inputs of a network, checked.
Features = Array | CSR


def take(X: Features, rows: Places) -> Features:
    """The rows of these numbers, in their order."""
    return X.rows(rows) if isinstance(X, CSR) else X[rows]


def dense(X: Features) -> Array:
    """X as an array."""
    return X.toarray() if isinstance(X, CSR) else X


def canonical(indptr: Places, indices: Places, data: Array) -> tuple[Places, Places, Array]:
    """The columns of every row ascending, and those given several times summed in their order."""
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


def without_zeros(indptr: Places, indices: Places, data: Array) -> tuple[Places, Places, Array]:
    """The same without entries of 0."""
    kept = data != 0
    if kept.all():
        return indptr, indices, data
    return np.concatenate([[0], kept.cumsum()])[indptr], indices[kept], data[kept]


def _row_of_each(indptr: Places) -> Places:
    """The row of every entry."""
    return np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
