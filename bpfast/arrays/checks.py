"""Input validation: arrays and numbers from callers are checked here once, for both engines.

Every message names the argument, what was passed and what is expected.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..native import _core
from ..specs.losses import CustomLoss, Loss
from . import Array, sparse
from .rows import rows_of

DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64)}

_PLAIN = frozenset(DTYPES.values())


def dtype_of(value: Any) -> np.dtype[Any]:
    """Return float32 or float64, given by name or as a NumPy dtype."""
    for name, dtype in DTYPES.items():
        if isinstance(value, (str, type, np.dtype)) and value in (name, dtype, dtype.type):
            return dtype
    raise ValueError(f"dtype must be 'float32' or 'float64'; got {value!r}")


def array(name: str, value: Any) -> Array:
    """Convert to a dense array of real numbers, without a copy if it is one already."""
    if type(value) is np.ndarray and value.dtype in _PLAIN:
        return value
    if _is_sparse(value):
        raise TypeError(f"{name} is a sparse matrix; expected a dense array ({name}.toarray())")
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
            what = "strings" if result.dtype.kind in "US" else f"{result.dtype} values"
        raise TypeError(f"{name} contains {what}; expected real numbers (float32 or float64)")
    return result


def _is_sparse(value: Any) -> bool:
    return hasattr(value, "tocsr") and not isinstance(value, np.ndarray)


def common_dtype(*arrays: Array) -> np.dtype[Any]:
    """Return float32 if every array is float32 or smaller, else float64."""
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
    """Convert to a matrix with at least one row and one column.

    Parameters
    ----------
    name : str
        The argument's name in messages.
    value : array-like (B, I)
    columns, rows : int, optional
        The expected numbers of columns and rows.
    dtype : dtype, optional
        Also cast to this dtype, C-contiguous and aligned.
    taker : str, default "this call"
        What expects these numbers of columns and rows, for messages.
    """
    result = array(name, value)
    _matrix_shape(name, result.shape, columns, rows, taker)
    return result if dtype is None else cast(name, result, dtype)


def _matrix_shape(
    name: str, shape: tuple[int, ...], columns: int | None, rows: int | None, taker: str
) -> None:
    if len(shape) != 2:
        raise ValueError(f"{name} must be a 2-dimensional array with one row per sample; got shape {shape}")
    if shape[0] == 0:
        raise ValueError(f"{name} has no rows; at least 1 is required")
    if shape[1] == 0:
        raise ValueError(f"{name} has no columns; at least 1 is required")
    if columns is not None and shape[1] != columns:
        raise ValueError(f"{name} has {shape[1]} columns; {taker} expects {columns}")
    if rows is not None and shape[0] != rows:
        raise ValueError(f"{name} has {shape[0]} rows; {taker} expects {rows}")


def cast(name: str, value: Array, dtype: np.dtype[Any]) -> Array:
    """Convert to this dtype, C-contiguous and aligned, with a copy only if needed."""
    if value.dtype == dtype and value.flags.carray:
        return value
    with np.errstate(over="ignore"):
        return np.require(value, dtype=dtype, requirements=["C", "A"])


def finite(name: str, value: Array, original: Array | None = None) -> None:
    """Raise an error that names the first NaN or infinite value, if there is one.

    Parameters
    ----------
    name : str
    value : array
    original : array, optional
        The array before a cast, to distinguish values that are infinite from those that overflowed.
    """
    if value.dtype.kind != "f":
        return
    plain = value.dtype in DTYPES.values() and value.flags.c_contiguous and value.flags.aligned
    if plain and all(map(_core.all_finite, rows_of(value).blocks())):
        return
    bad = ~np.isfinite(value)
    if not bad.any():
        return
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    raise _not_finite(name, (value if original is None else original)[where], where, value.dtype)


def _not_finite(name: str, bad: Any, where: tuple[int, ...], dtype: np.dtype[Any]) -> ValueError:
    place = f"row {where[0]}" + (f", column {where[1]}" if len(where) > 1 else "")
    if np.isfinite(bad):
        return ValueError(f"{name} contains {bad!s} in {place}, which is too large for {dtype}")
    shown = "NaN" if np.isnan(bad) else "infinity" if bad > 0 else "-infinity"
    return ValueError(f"{name} contains {shown} in {place}; all values must be finite")


def features(value: Any, columns: int, dtype: np.dtype[Any], name: str = "X") -> sparse.Features:
    """Check the inputs of a network: a finite matrix, dense or sparse, of its width; cast to its dtype."""
    if _is_sparse(value):
        return _sparse_features(name, value, columns, dtype)
    original = matrix(name, value, columns=columns, taker="this network")
    result = cast(name, original, dtype)
    finite(name, result, original)
    return result


def _sparse_features(name: str, value: Any, columns: int, dtype: np.dtype[Any]) -> sparse.CSR:
    """Convert sparse inputs of any SciPy format to checked CSR; the caller's arrays are not modified."""
    shape = tuple(getattr(value, "shape", ()))
    _matrix_shape(name, shape, columns, None, "this network")
    csr = value.tocsr()
    indptr, indices, original = (getattr(csr, part, None) for part in ("indptr", "indices", "data"))
    original = array(name, original)
    indptr, indices = _indices(f"{name}.indptr", indptr), _indices(f"{name}.indices", indices)
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


def _indices(name: str, value: Any) -> NDArray[np.int64]:
    # A copy: native code uses them as addresses, and the caller may modify its array meanwhile.
    given = np.asarray(value)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be a 1-dimensional array of integers; got {given.dtype}, shape {given.shape}"
        )
    return np.array(given, dtype=np.int64)


def _entries(
    name: str, indptr: Array, indices: Array, data: Array, shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """Check the structure of CSR arrays; return indices and data cut to the entries that are used."""
    if len(indptr) != shape[0] + 1:
        raise ValueError(
            f"{name}.indptr must have {shape[0] + 1} elements for {shape[0]} rows; got {len(indptr)}"
        )
    if indptr[0] != 0:
        raise ValueError(f"{name}.indptr must begin with 0; got {indptr[0]}")
    falls = np.flatnonzero(indptr[1:] < indptr[:-1])
    if falls.size:
        row = int(falls[0])
        raise ValueError(
            f"{name}.indptr must not decrease; got {indptr[row]}, then {indptr[row + 1]} for row {row}"
        )
    if data.ndim != 1:
        raise ValueError(f"{name}.data must be 1-dimensional; got shape {data.shape}")
    count = int(indptr[-1])
    for part, length in (("indices", len(indices)), ("data", len(data))):
        if length < count:
            raise ValueError(f"{name}.indptr ends with {count}, but {name}.{part} has {length} elements")
    indices, data = indices[:count], data[:count]
    wrong = np.flatnonzero((indices < 0) | (indices >= shape[1]))
    if wrong.size:
        row = int(np.searchsorted(indptr, wrong[0], "right")) - 1
        raise ValueError(
            f"{name}.indices contains column {indices[wrong[0]]} in row {row}; "
            f"columns must be 0 to {shape[1] - 1}"
        )
    return indices, data


def targets(
    loss: Loss, value: Any, rows: int, n_outputs: int, dtype: np.dtype[Any], name: str = "y"
) -> Array:
    """Check the targets of a loss; return int64 classes (B,), or a matrix (B, O) of the given dtype."""
    original = array(name, value)
    if original.ndim not in (1, 2):
        raise ValueError(f"{name} must have 1 or 2 dimensions; got shape {original.shape}")
    if original.shape[0] != rows:
        raise ValueError(f"{name} has {original.shape[0]} rows, but X has {rows}")
    if loss.targets == "classes" and original.ndim == 1:
        return _classes(name, original, n_outputs)
    if original.ndim == 1 and n_outputs != 1:
        kind = "a custom loss" if isinstance(loss, CustomLoss) else loss.name
        raise ValueError(
            f"{name} must have shape ({rows}, {n_outputs}) for {kind} with {n_outputs} outputs; "
            f"got shape {original.shape}"
        )
    shaped = original.reshape(rows, -1)
    if shaped.shape[1] != n_outputs:
        hint = "; pass integer classes as a 1-dimensional array" if loss.targets == "classes" else ""
        columns = "column" if shaped.shape[1] == 1 else "columns"
        outputs = "output" if n_outputs == 1 else "outputs"
        raise ValueError(
            f"{name} has {shaped.shape[1]} {columns}, but the network has {n_outputs} {outputs}{hint}"
        )
    result = cast(name, shaped, dtype)
    finite(name, result, shaped)
    if not isinstance(loss, CustomLoss):
        _range(loss, name, result)
    return result


def _classes(name: str, value: Array, n_outputs: int) -> Array:
    # A copy: native code uses them as addresses, and the caller may modify its array meanwhile.
    value = value.copy()
    if value.dtype.kind == "f":
        finite(name, value)
        if (value != np.floor(value)).any():
            bad = value[value != np.floor(value)][0]
            raise ValueError(
                f"{name} contains {bad}; cross_entropy expects integer classes, or "
                f"probabilities of shape ({value.shape[0]}, {n_outputs})"
            )
    low, high = value.min(), value.max()
    if low < 0 or high >= n_outputs:
        bad = low if low < 0 else high
        allowed = f"0 to {n_outputs - 1}" if n_outputs > 1 else "0 (there is one output)"
        raise ValueError(f"{name} contains class {bad:g}; classes must be {allowed}")
    return np.require(value, dtype=np.int64, requirements=["C", "A"])


def _range(loss: Loss, name: str, value: Array) -> None:
    def require(valid: Array, expected: str) -> None:
        if not valid.all():
            bad = value[~valid][0]
            raise ValueError(f"{name} contains {bad:g}; {loss.name} expects {expected}")

    if loss.targets in ("probabilities", "classes"):
        require((value >= 0) & (value <= 1), "0, 1 or probabilities in between")
    if loss.targets == "classes":
        sums = value.sum(axis=1)
        wrong = np.abs(sums - 1) > 1e-3
        if wrong.any():
            raise ValueError(
                f"{name} has a row that sums to {sums[wrong][0]:g}; {loss.name} expects the "
                f"probabilities of each row to sum to 1"
            )
    if loss.targets == "signs":
        require(np.abs(value) == 1, "-1 or +1")
    if loss.targets == "counts":
        require(value >= 0, "values of at least 0")


def weights(value: Any, rows: int, name: str = "sample_weight") -> Array | None:
    """Check sample weights; return float64 (B,), at least 0 and not all 0, or None."""
    if value is None:
        return None
    original = array(name, value)
    if original.shape != (rows,):
        raise ValueError(f"{name} must have shape ({rows},), as X has {rows} rows; got {original.shape}")
    result = np.require(original, dtype=np.float64, requirements=["C", "A"])
    finite(name, result)
    if (result < 0).any():
        raise ValueError(f"{name} contains {result.min():g}; weights must be at least 0")
    if not (result > 0).any():
        raise ValueError(f"{name} is all 0; at least one weight must be greater than 0")
    with np.errstate(over="ignore"):
        if not np.isfinite(result.sum()):
            raise ValueError(f"{name} is too large: the sum of the weights must be finite")
    return result


def output(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Check the array that receives a kernel's result: writable, with this shape and dtype."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array; got {type(out).__name__}")
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}; got {out.shape}")
    if out.dtype != dtype:
        raise TypeError(f"out must have dtype {dtype}; got {out.dtype}")
    if not out.flags.writeable:
        raise ValueError("out must be writable; got a read-only array")
    return out
