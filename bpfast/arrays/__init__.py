"""Input arrays: validation, sparse rows, memory maps, aligned memory."""

from typing import Any

from numpy.typing import NDArray

#: A NumPy array; docstrings give shape and dtype.
Array = NDArray[Any]
