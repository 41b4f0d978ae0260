"""The border: what a caller passes is checked here, once, for both engines.

Every message names the argument, what came and what is wanted.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..native import _core
from ..specs.losses import CustomLoss, Loss
from . import Array, sparse
from .mapped import mapped_rows

DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64)}

_PLAIN = frozenset(DTYPES.values())


def dtype_of(value: Any) -> np.dtype[Any]:
    """float32 or float64, from a name or a NumPy dtype."""
    for name, dtype in DTYPES.items():
        if isinstance(value, (str, type, np.dtype)) and value in (name, dtype, dtype.type):
            return dtype
    raise ValueError(f"dtype must be 'float32' or 'float64'; got {value!r}")


def array(name: str, value: Any) -> Array:
    """A real, dense, numeric array, without a copy where it is one already."""
    if type(value) is np.ndarray and value.dtype in _PLAIN:
        return value
    if _is_sparse(value):
        raise TypeError(f"{name} is a sparse matrix; a dense array is wanted ({name}.toarray())")
    if np.ma.isMaskedArray(value):
        raise TypeError(f"{name} is a masked array; fill its masked entries first")
    try:
        result = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is not a rectangular array: {error}") from None
    if result.dtype.kind not in "fiub" or result.dtype.itemsize > 8:
        if result.dtype.kind == "O":
            what = "objects (mixed or missing values)"
        else:
            what = "strings" if result.dtype.kind in "US" else str(result.dtype)
        raise TypeError(f"{name} holds {what}; real numbers are wanted (float32 or float64)")
    return result


def _is_sparse(value: Any) -> bool:
    return hasattr(value, "tocsr") and not isinstance(value, np.ndarray)


def common_dtype(*arrays: Array) -> np.dtype[Any]:
    """float32 where every array is float32 or smaller, else float64."""
    small = all(a.dtype.kind == "f" and a.dtype.itemsize <= 4 for a in arrays)
    return DTYPES["float32" if small else "float64"]


def matrix(
    name: str,
    value: Any,
    *,
    columns: int | None = None,
    rows: int | None = None,
    dtype: np.dtype[Any] | None = None,
    taker: str = "this call",
) -> Array:
    """A matrix with at least one row, C-contiguous where `dtype` is given."""
    result = array(name, value)
    _matrix_shape(name, result.shape, columns, rows, taker)
    return result if dtype is None else cast(name, result, dtype)


def _matrix_shape(
    name: str, shape: tuple[int, ...], columns: int | None, rows: int | None, taker: str
) -> None:
    if len(shape) != 2:
        raise ValueError(
            f"{name} must be a matrix, one row a sample; got {len(shape)} dimension"
            f"{'' if len(shape) == 1 else 's'}, shape {shape}"
        )
    if shape[0] == 0:
        raise ValueError(f"{name} has no rows; at least 1 is wanted")
    if shape[1] == 0:
        raise ValueError(f"{name} has no columns; at least 1 is wanted")
    if columns is not None and shape[1] != columns:
        raise ValueError(f"{name} has {shape[1]} columns; {taker} takes {columns}")
    if rows is not None and shape[0] != rows:
        raise ValueError(f"{name} has {shape[0]} rows; {taker} takes {rows}")


def cast(name: str, value: Array, dtype: np.dtype[Any]) -> Array:
    """C-contiguous, aligned and of this dtype; a copy only where it must be."""
    if value.dtype == dtype and value.flags.carray:
        return value
    with np.errstate(over="ignore"):
        return np.require(value, dtype=dtype, requirements=["C", "A"])


def finite(name: str, value: Array, original: Array | None = None) -> None:
    """Refuse NaN and infinity, naming the first."""
    if value.dtype.kind != "f":
        return
    plain = value.dtype in DTYPES.values() and value.flags.c_contiguous and value.flags.aligned
    mapped = mapped_rows(value)
    blocks = [value] if mapped is None else mapped.blocks()
    if plain and all(map(_core.all_finite, blocks)):
        return
    bad = ~np.isfinite(value)
    if not bad.any():
        return
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    came = value[where] if original is None else original[where]
    raise _not_finite(name, came, where, value.dtype)


def _not_finite(name: str, came: Any, where: tuple[int, ...], dtype: np.dtype[Any]) -> ValueError:
    place = f"row {where[0]}" + (f", column {where[1]}" if len(where) > 1 else "")
    if np.isfinite(came):
        return ValueError(f"{name} holds {came!s} at {place}, too large for {dtype}")
    return ValueError(f"{name} holds {came} at {place}; finite numbers are wanted")


def features(value: Any, columns: int, dtype: np.dtype[Any], name: str = "X") -> sparse.Features:
    """The inputs of a network: a finite matrix of its width and dtype, dense or sparse."""
    if _is_sparse(value):
        return _sparse_features(name, value, columns, dtype)
    original = matrix(name, value, columns=columns, taker="this network")
    result = cast(name, original, dtype)
    finite(name, result, original)
    return result


def _sparse_features(name: str, value: Any, columns: int, dtype: np.dtype[Any]) -> sparse.CSR:
    """Sparse inputs of any format; what the caller has is not changed."""
    shape = tuple(getattr(value, "shape", ()))
    _matrix_shape(name, shape, columns, None, "this network")
    csr = value.tocsr()
    indptr, indices, original = (getattr(csr, part, None) for part in ("indptr", "indices", "data"))
    original = array(name, original)
    indptr, indices = _addresses(f"{name}.indptr", indptr), _addresses(f"{name}.indices", indices)
    indices, original = _entries(name, indptr, indices, original, shape)
    indptr, indices, original = sparse.canonical(indptr, indices, original)
    data = cast(name, original, dtype)
    bad = np.flatnonzero(~np.isfinite(data))
    if bad.size:
        row = int(np.searchsorted(indptr, bad[0], "right")) - 1
        raise _not_finite(name, original[bad[0]], (row, int(indices[bad[0]])), dtype)
    indptr, indices, data = sparse.without_zeros(indptr, indices, data)
    indptr.flags.writeable = indices.flags.writeable = False
    return sparse.CSR(indptr, indices, data, (shape[0], shape[1]))


def _addresses(name: str, value: Any) -> NDArray[np.int64]:
    # A copy: these numbers become addresses, and what is the caller's may change under way.
    given = np.asarray(value)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise ValueError(f"{name} must hold integers in 1 dimension; got {given.dtype}, shape {given.shape}")
    return np.array(given, dtype=np.int64)


def _entries(
    name: str, indptr: Array, indices: Array, data: Array, shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """The entries that the rows have, of arrays that may be longer."""
    if len(indptr) != shape[0] + 1:
        raise ValueError(f"{name}.indptr has {len(indptr)} elements; {shape[0]} rows take {shape[0] + 1}")
    if indptr[0] != 0:
        raise ValueError(f"{name}.indptr begins with {indptr[0]}; 0 is wanted")
    falls = np.flatnonzero(indptr[1:] < indptr[:-1])
    if falls.size:
        row = int(falls[0])
        raise ValueError(f"{name}.indptr falls from {indptr[row]} to {indptr[row + 1]} in row {row}")
    if data.ndim != 1:
        raise ValueError(f"{name}.data must have 1 dimension; got shape {data.shape}")
    count = int(indptr[-1])
    for part, length in (("indices", len(indices)), ("data", len(data))):
        if length < count:
            raise ValueError(f"{name}.indptr ends with {count}; {name}.{part} has {length} elements")
    indices, data = indices[:count], data[:count]
    wrong = np.flatnonzero((indices < 0) | (indices >= shape[1]))
    if wrong.size:
        row = int(np.searchsorted(indptr, wrong[0], "right")) - 1
        raise ValueError(
            f"{name}.indices holds column {indices[wrong[0]]} in row {row}; "
            f"the columns are 0 to {shape[1] - 1}"
        )
    return indices, data


def targets(
    loss: Loss, value: Any, rows: int, n_outputs: int, dtype: np.dtype[Any], name: str = "y"
) -> Array:
    """The targets of a loss: int64 classes (B,), or a matrix (B, O) of the network's dtype."""
    original = array(name, value)
    if original.ndim not in (1, 2):
        raise ValueError(f"{name} must have 1 or 2 dimensions; got shape {original.shape}")
    if original.shape[0] != rows:
        raise ValueError(f"{name} has {original.shape[0]} rows; X has {rows}")
    if loss.targets == "classes" and original.ndim == 1:
        return _classes(name, original, n_outputs)
    if original.ndim == 1 and n_outputs != 1:
        raise ValueError(
            f"{name} has 1 dimension; {loss.name} with {n_outputs} outputs takes shape ({rows}, {n_outputs})"
        )
    shaped = original.reshape(rows, -1)
    if shaped.shape[1] != n_outputs:
        extra = "; integer classes go in one dimension" if loss.targets == "classes" else ""
        raise ValueError(f"{name} has {shaped.shape[1]} columns; the network has {n_outputs} outputs{extra}")
    result = cast(name, shaped, dtype)
    finite(name, result, shaped)
    if not isinstance(loss, CustomLoss):
        _range(loss, name, result)
    return result


def _classes(name: str, value: Array, n_outputs: int) -> Array:
    # A copy: these numbers become addresses, and what is the caller's may change under way.
    value = value.copy()
    if value.dtype.kind == "f":
        finite(name, value)
        if (value != np.floor(value)).any():
            bad = value[value != np.floor(value)][0]
            raise ValueError(
                f"{name} holds {bad}; cross_entropy takes integer classes, or rows of "
                f"probabilities of shape ({value.shape[0]}, {n_outputs})"
            )
    low, high = value.min(), value.max()
    if low < 0 or high >= n_outputs:
        bad = low if low < 0 else high
        raise ValueError(f"{name} holds class {bad:g}; the network's classes are 0 to {n_outputs - 1}")
    return np.require(value, dtype=np.int64, requirements=["C", "A"])


def _range(loss: Loss, name: str, value: Array) -> None:
    def refuse(wrong: Array, wanted: str) -> None:
        if wrong.any():
            bad = value[wrong][0]
            raise ValueError(f"{name} holds {bad:g}; {loss.name} takes {wanted}")

    if loss.targets in ("probabilities", "classes"):
        refuse((value < 0) | (value > 1), "0, 1 or probabilities between them")
    if loss.targets == "classes":
        sums = value.sum(axis=1)
        wrong = np.abs(sums - 1) > 1e-3
        if wrong.any():
            raise ValueError(
                f"{name} has a row that sums to {sums[wrong][0]:g}; {loss.name} takes rows of "
                f"probabilities that sum to 1"
            )
    if loss.targets == "signs":
        refuse(np.abs(value) != 1, "-1 or +1")
    if loss.targets == "counts":
        refuse(value < 0, "numbers of at least 0")


def weights(value: Any, rows: int, name: str = "sample_weight") -> Array | None:
    """The weights of the samples: float64 (B,), at least 0 and not all 0."""
    if value is None:
        return None
    original = array(name, value)
    if original.shape != (rows,):
        raise ValueError(f"{name} has shape {original.shape}; X has {rows} rows: ({rows},) is wanted")
    result = np.require(original, dtype=np.float64, requirements=["C", "A"])
    finite(name, result)
    if (result < 0).any():
        raise ValueError(f"{name} holds {result.min():g}; weights of at least 0 are wanted")
    if not (result > 0).any():
        raise ValueError(f"{name} is all 0; at least one weight above 0 is wanted")
    with np.errstate(over="ignore"):
        if not np.isfinite(result.sum()):
            raise ValueError(f"{name} is too large to sum; smaller weights are wanted")
    return result


def output(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Where a kernel shall put its result: a writable array of the right shape and dtype."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array; got {type(out).__name__}")
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}; {shape} is wanted")
    if out.dtype != dtype:
        raise TypeError(f"out is {out.dtype}; {dtype} is wanted")
    if not out.flags.writeable:
        raise ValueError("out is read-only; a writable array is wanted")
    return out


def threads(value: Any) -> int | None:
    """A number of threads, or None for the default."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"threads must be an integer or None; got {value!r}")
    if not 1 <= value <= 1024:
        raise ValueError(f"threads must be from 1 to 1024; got {value}")
    return int(value)


def default_threads() -> int:
    """`BPFAST_NUM_THREADS`, or the cores that this process may use, as far as OpenMP is not limited.

    OpenMP is by `OMP_NUM_THREADS`, and by pools of workers that share the cores (joblib, threadpoolctl).
    """
    text = os.environ.get("BPFAST_NUM_THREADS")
    if text:
        if not text.isdecimal() or not 1 <= int(text) <= 1024:
            raise ValueError(f"BPFAST_NUM_THREADS must be a number from 1 to 1024; got {text!r}")
        return int(text)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _core.thread_limit()))
