"""Rows of a matrix behind one protocol: in memory, in a mapped file, or sparse.

Code that goes through many rows is written once: it says which rows it reads next and when it has read
them. A mapped file prefetches and releases pages accordingly; rows in memory have nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from . import Array
from .mapped import mapped_rows
from .sparse import CSR, Features


class Rows(Protocol):
    """The rows of a checked array, wherever they are kept."""

    def __len__(self) -> int:
        """Return the number of rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole array."""

    def take(self, numbers: NDArray[np.int64]) -> Array:
        """Return the rows with these numbers, in this order, as a dense array."""

    def blocks(self, multiple: int = 1) -> Iterator[Any]:
        """Yield all rows in order, in blocks of a multiple of `multiple` rows, and release each after use.

        The last block may be smaller. Rows in memory are a single block: the array itself.
        """

    def rows_at_a_time(self, scattered: bool) -> int:
        """Return how many rows to read before the first `release`: at least 1, and all if in memory.

        Parameters
        ----------
        scattered : bool
            Whether the rows are read in random order.
        """

    def will_need(self, numbers: NDArray[np.int64]) -> None:
        """Prefetch the rows with these numbers, if they are contiguous enough."""

    def release(self, count: int) -> int:
        """Release the memory of the `count` rows read last; return how many rows to read next."""


class _InMemory:
    """Rows that are in memory anyway: all can be read at once, and there is nothing to release."""

    def __init__(self, X: Features) -> None:
        self._X = X

    def __len__(self) -> int:
        return len(self._X)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._X.shape

    def blocks(self, multiple: int = 1) -> Iterator[Any]:
        yield self._X

    def rows_at_a_time(self, scattered: bool) -> int:
        return len(self._X)

    def will_need(self, numbers: NDArray[np.int64]) -> None:
        pass

    def release(self, count: int) -> int:
        return len(self._X)


class DenseRows(_InMemory):
    """The rows of a dense array in memory."""

    _X: Array

    def take(self, numbers: NDArray[np.int64]) -> Array:
        rows: Array = self._X[numbers]
        return rows


class SparseRows(_InMemory):
    """The rows of a sparse matrix."""

    _X: CSR

    def take(self, numbers: NDArray[np.int64]) -> Array:
        return self._X.rows(numbers).toarray()


def rows_of(X: Features) -> Rows:
    """Return the rows of a checked array in the form that suits it: sparse, mapped or dense."""
    if isinstance(X, CSR):
        return SparseRows(X)
    return mapped_rows(X) or DenseRows(X)
