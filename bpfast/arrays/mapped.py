"""Arrays mapped from files: read in pieces, so that only a small part is in memory at a time."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import Array

#: Bytes of a map that may be in memory at a time; smaller arrays are treated as arrays in memory.
RESIDENT = 2**27
#: The system reads more pages than the one touched, and decides how many. Scattered rows therefore start
#: with a few rows; each `release` may multiply that number by at most `_GROWTH`.
_FIRST_ROWS, _GROWTH = 64, 4
#: Rows in this many separate runs, or more, are not prefetched.
_MAX_RUNS = 1024


class MappedRows:
    """The rows of an array whose memory is a mapped file.

    Parameters
    ----------
    X : array (B, I)
        C-contiguous view of the map.
    file : mmap.mmap
        A map that is shared with the file, so that released pages can be read again.
    """

    def __init__(self, X: Array, file: mmap.mmap) -> None:
        self._X = X
        self._file = file
        self._start = X.ctypes.data - np.frombuffer(file, np.uint8, 1).ctypes.data
        self._row_bytes = X.nbytes // len(X)
        self._resident = _file_bytes()

    def __len__(self) -> int:
        return len(self._X)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._X.shape

    def take(self, numbers: NDArray[np.int64]) -> Array:
        """Return a copy of the rows with these numbers."""
        rows: Array = self._X[numbers]
        return rows

    def blocks(self, multiple: int = 1) -> Iterator[Array]:
        """Yield all rows in order, in blocks of a multiple of `multiple` rows, and release each after use."""
        step = max(1, RESIDENT // 4 // self._row_bytes // multiple) * multiple
        for first in range(0, len(self), step):
            yield self._X[first : first + step]
            self._advise(mmap.MADV_DONTNEED, first, min(first + step, len(self)))

    def rows_at_a_time(self, scattered: bool) -> int:
        """Return how many rows to read before the first `release`, at least 1."""
        fitting = max(1, RESIDENT // self._row_bytes)
        return min(fitting, _FIRST_ROWS) if scattered else fitting

    def will_need(self, numbers: NDArray[np.int64]) -> None:
        """Prefetch the rows with these numbers, if they form few runs."""
        rows = np.sort(numbers)
        breaks = np.flatnonzero(np.diff(rows) > 1) + 1
        if not len(rows) or len(breaks) >= _MAX_RUNS:
            return
        for first, last in zip(np.r_[0, breaks], np.r_[breaks, len(rows)] - 1, strict=True):
            self._advise(mmap.MADV_WILLNEED, int(rows[first]), int(rows[last]) + 1)

    def release(self, count: int) -> int:
        """Release all pages after reading `count` rows; return how many rows to read before the next time."""
        grown = _file_bytes() - self._resident
        self._advise(mmap.MADV_DONTNEED, 0, len(self))
        self._resident = _file_bytes()
        fitting = RESIDENT * count // max(grown, count * self._row_bytes)
        return max(1, min(fitting, _GROWTH * count))

    def _advise(self, advice: int, first: int, last: int) -> None:
        """Advise the system about the pages of some rows."""
        start = (self._start + first * self._row_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
        self._file.madvise(advice, start, self._start + last * self._row_bytes - start)


def _file_bytes() -> int:
    """Return the resident bytes of this process that are backed by files; 0 if unknown."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[2]) * mmap.PAGESIZE
    except OSError:
        return 0


def mapped_rows(X: Any) -> MappedRows | None:
    """Return the rows of a large array that is mapped from a file, or None for any other array.

    A copy-on-write map (mode "c") may differ from its file, so its pages can't be released: None.
    """
    if not isinstance(X, np.ndarray) or X.nbytes <= RESIDENT or not X.flags.c_contiguous:
        return None
    owner: Any = X
    while isinstance(owner, np.ndarray) and not isinstance(owner.base, mmap.mmap):
        owner = owner.base
    shared = (
        isinstance(owner, np.memmap) and owner.mode in ("r", "r+", "w+") and hasattr(mmap, "MADV_WILLNEED")
    )
    return MappedRows(X, owner.base) if shared else None
