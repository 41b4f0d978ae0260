"""Arrays that start on a cache line."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Bytes of a cache line and of the widest vector register; a vector that crosses a line costs two reads.
LINE = 64


def aligned(shape: int | tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return an uninitialised C-contiguous array whose first element starts a cache line."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    raw = np.empty(size + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    result: NDArray[Any] = raw[start : start + size].view(dtype).reshape(shape)
    return result


def aligned_copy(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy of an array that starts on a cache line."""
    copy = aligned(array.shape, array.dtype)
    copy[...] = array
    return copy
