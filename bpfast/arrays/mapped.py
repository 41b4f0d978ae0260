"""Arrays mapped from files: read piece by piece, so that little of them is in memory at a time."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import Array

#: So many bytes of a map may be in memory at a time; smaller arrays stay as they are.
RESIDENT = 2**27
#: A touched page brings others with it, how many is the system's choice: scattered rows begin with few.
_FIRST_ROWS, _GROWTH = 64, 4
#: Rows that lie in so many places are not asked for in advance.
_RUNS = 1024


class MappedRows:
    """The rows of an array that a file's pages hold.

    Parameters
    ----------
    X : array (B, I)
        C-contiguous.
    file : mmap.mmap
        Shared with the file, so that a page that is let go is still there.
    """

    def __init__(self, X: Array, file: mmap.mmap) -> None:
        self.X = X
        self.file = file
        self._start = X.ctypes.data - np.frombuffer(file, np.uint8, 1).ctypes.data
        self._row_bytes = X.nbytes // len(X)
        self._resident = _file_bytes()

    def rows_at_a_time(self, scattered: bool) -> int:
        """How many rows to touch before the first `release`, at least 1."""
        return _FIRST_ROWS if scattered else max(1, RESIDENT // self._row_bytes)

    def blocks(self, multiple: int = 1) -> Iterator[Array]:
        """Yield all rows in order, a multiple of `multiple` at a time, and release those that are done."""
        step = max(1, RESIDENT // 4 // self._row_bytes // multiple) * multiple
        for first in range(0, len(self.X), step):
            yield self.X[first : first + step]
            self._advise(mmap.MADV_DONTNEED, first, min(first + step, len(self.X)))

    def release(self, rows: int) -> int:
        """Let all pages go after so many rows; returns how many to touch before the next time."""
        grown = _file_bytes() - self._resident
        self._advise(mmap.MADV_DONTNEED, 0, len(self.X))
        self._resident = _file_bytes()
        fitting = RESIDENT * rows // max(grown, rows * self._row_bytes)
        return max(1, min(fitting, _GROWTH * rows))

    def will_need(self, rows: NDArray[np.int64]) -> None:
        """Ask for rows in advance, where they lie together."""
        rows = np.sort(rows)
        breaks = np.flatnonzero(np.diff(rows) > 1) + 1
        if not len(rows) or len(breaks) >= _RUNS:
            return
        for first, last in zip(np.r_[0, breaks], np.r_[breaks, len(rows)] - 1, strict=True):
            self._advise(mmap.MADV_WILLNEED, int(rows[first]), int(rows[last]) + 1)

    def _advise(self, advice: int, first: int, last: int) -> None:
        """Tell the system about the pages of some rows."""
        start = (self._start + first * self._row_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
        self.file.madvise(advice, start, self._start + last * self._row_bytes - start)


def _file_bytes() -> int:
    """The memory of this process that files stand behind; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[2]) * mmap.PAGESIZE
    except OSError:
        return 0


def mapped_rows(X: Any) -> MappedRows | None:
    """The rows of a large array that is mapped from a file, else None.

    A copy-on-write map (mode "c") holds what the file does not, and is an array like others.
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
