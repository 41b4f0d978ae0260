"""Arrays as they come in: input checks, sparse rows, memory maps, aligned memory."""

from typing import Any

from numpy.typing import NDArray

#: A NumPy array; docstrings say shape and dtype.
Array = NDArray[Any]
