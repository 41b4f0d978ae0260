"""Read tables from CSV files with a header, NPY and IDX files (all optionally gzipped), and NPZ archives.

The format is detected from the first bytes of the file. The result is always a `Table`: named columns
of numbers or text, and optionally a target.
"""

from __future__ import annotations

import contextlib
import difflib
import gzip
import math
import os
import re
import warnings
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arrays import Array
from .array_files import GZIP, NPY, ZIP, ArrayFile, idx_file, npy_file, npz_files
from .array_files import IDX_TYPES as IDX_TYPES
from .array_files import UserError as UserError

#: Default names of the arrays of an NPZ file.
FEATURES, TARGET = "X", "y"


@dataclass(frozen=True)
class Table:
    """Rows of data with named columns.

    Attributes
    ----------
    kind : {"csv", "npz", "npy", "idx", "digits"}
        Where the rows come from. The columns of a CSV file are identified by name, all others by position.
    source : str
        Name of the source in messages.
    columns : dict of str to array (N,)
        Numbers (NaN where missing), or objects (strings, None where missing).
    target : array (N,) or None
        Values to predict, numbers or objects as in `columns`.
    target_name : str
        Name of the column or array of the target.
    full_scale : float or None
        Largest possible value of every column, if known (255 for the bytes of an image).
    features : str
        Array of an NPZ file that contains the columns.
    forced_text : frozenset of str
        Columns that the user declared as categorical.
    matrix : array (N, columns) or None
        Array of which the columns are views, if there is one.
    row_ids : array of int (N,) or None
        Numbers of the rows in the file; None for 0 to N − 1.
    """

    kind: str
    source: str
    columns: dict[str, Array]
    target: Array | None = None
    target_name: str = ""
    full_scale: float | None = None
    features: str = FEATURES
    forced_text: frozenset[str] = frozenset()
    matrix: Array | None = None
    row_ids: Array | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def row(self, index: int) -> int:
        """Number of a row in the file, counted from 0."""
        return index if self.row_ids is None else int(self.row_ids[index])

    def take(self, chosen: Any) -> Table:
        """Select rows by a mask, indices or a slice."""
        matrix = None if self.matrix is None else self.matrix[chosen]
        columns = {name: values[chosen] for name, values in self.columns.items()}
        if matrix is not None:
            columns = _views(matrix)
        row_ids = np.arange(len(self)) if self.row_ids is None else self.row_ids
        target = None if self.target is None else self.target[chosen]
        return replace(self, columns=columns, matrix=matrix, target=target, row_ids=row_ids[chosen])


def kind_of(path: str) -> str:
    """Format of a file, detected from its first bytes: ``"csv"``, ``"npz"``, ``"npy"`` or ``"idx"``.

    Raises
    ------
    UserError
        If the file does not exist or cannot be read.
    """
    if not os.path.exists(path):
        raise UserError(f"there is no file {path!r}{_near_file(path)}")
    if os.path.isdir(path):
        raise UserError(f"{path!r} is a directory, not a file")
    try:
        with open(path, "rb") as file:
            start = file.read(4)
        if start[:2] == GZIP:
            with gzip.open(path, "rb") as file:
                start = file.read(4)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path!r}: {error}") from None
    if not start:
        raise UserError(f"{path!r} is empty")
    if start == ZIP:
        return "npz"
    if start == NPY:
        return "npy"
    if start[:2] == b"\x00\x00" and len(start) == 4 and start[2] in IDX_TYPES:
        return "idx"
    return "csv"


def _near_file(path: str) -> str:
    try:
        here = os.listdir(os.path.dirname(path) or ".")
    except OSError:
        return ""
    return _did_you_mean(os.path.basename(path), here)


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def plural(count: int, noun: str) -> str:
    """A count with its noun, which takes an s unless the count is 1."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names joined for a message; if there are more than `most`, the first of them and the total."""
    names = list(names)
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def require_known(what: str, name: str, known: Iterable[str], source: str) -> None:
    """Raise a user error if there is no column or array (`what`) of this name."""
    known = list(known)
    if name not in known:
        hint = _did_you_mean(name, known)
        raise UserError(f"{source} has no {what} {name!r}{hint} ({what}s: {listed(known)})")


def read_csv(
    path: str,
    *,
    target: str | None = None,
    ignore: Collection[str] = (),
    text: Collection[str] = (),
    lenient: bool = False,
) -> Table:
    """Read a CSV file with a header; it is decompressed if its name ends in ``.gz``.

    Parameters
    ----------
    path : str
    target : str, optional
        Column of the target.
    ignore : collection of str
        Columns to leave out.
    text : collection of str
        Columns to read as text.
    lenient : bool, default False
        Whether `text` and `ignore` may name columns that do not exist.
    """
    names = csv_names(path)
    frame = _frame(path, names, text)
    require_columns(path, names, target, () if lenient else (*ignore, *text), ignore)
    if len(frame) == 0:
        raise UserError(f"{path!r} has a header but no rows")
    return csv_table(path, frame, target, ignore, text)


def csv_names(path: str) -> list[str]:
    """Names of the columns of a CSV file.

    Raises
    ------
    UserError
        If two columns have the same name, or the file is a tar archive.
    """
    if _TAR.search(path):
        raise UserError(f"{path!r} is a tar archive; extract the CSV file from it first")
    with parsing(path) as pandas:
        names = [str(name) for name in pandas.read_csv(path, nrows=0, **_CSV_OPTIONS).columns]
        row = pandas.read_csv(path, nrows=1, header=None, dtype=str, na_filter=False, **_CSV_OPTIONS).iloc[0]
    for spelled, name in zip(row, names, strict=False):
        # pandas renames duplicate columns, and names those without a name.
        if spelled and spelled != name:
            raise UserError(f"{path!r} has two columns named {spelled!r}; names must be unique")
    return names


def require_columns(
    path: str, names: list[str], target: str | None, known: Iterable[str], ignore: Collection[str]
) -> None:
    """Raise a user error if the target, a column in `known`, or every input column is missing."""
    if target is not None:
        if len(names) == 1 and target not in names and any(mark in names[0] for mark in ";\t"):
            raise UserError(f"{path!r} has only one column, {names[0]!r}; values must be separated by commas")
        require_known("column", target, names, repr(path))
    for name in known:
        require_known("column", name, names, repr(path))
    if all(name == target or name in ignore for name in names):
        raise UserError(
            f"{path!r} has no input column" + (f" besides the target {target!r}" if target else "")
        )


def csv_table(
    path: str, frame: Any, target: str | None, ignore: Collection[str], text: Collection[str]
) -> Table:
    """Convert a data frame that pandas has read to a table."""
    arrays = {str(name): csv_column(frame[name]) for name in frame.columns}
    columns = {name: array for name, array in arrays.items() if name != target and name not in ignore}
    values = None if target is None else arrays[target]
    return Table("csv", repr(path), columns, values, target or "", forced_text=frozenset(text))


def _pandas() -> Any:
    try:
        import pandas  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise UserError('reading CSV files requires pandas: pip install "bpfast[all]"') from None
    return pandas


def _frame(path: str, names: list[str], text: Collection[str]) -> Any:
    dtypes: dict[str, type] = dict.fromkeys(text, str)
    frame = _parse(path, names, dtypes)
    # Booleans and mixed columns lose their spelling ("true", "TRUE"), and missing values among integers
    # of more than 63 bits stay strings: read such columns again as text.
    again = [name for name in frame.columns if name not in dtypes and _must_be_text(frame[name])]
    return _parse(path, names, dtypes | dict.fromkeys(again, str)) if again else frame


def _must_be_text(series: Any) -> bool:
    if series.dtype == bool or series.dtype == object:
        return True
    return getattr(series.dtype, "kind", "O") not in "fiu" and bool(series.isin(MISSING).any())


def _parse(path: str, names: list[str], dtypes: dict[str, type]) -> Any:
    with parsing(path) as pandas:
        frame = pandas.read_csv(path, **csv_options(names, dtypes))
    frame.columns = names
    return frame


_TAR = re.compile(r"\.tar(\.[a-z0-9]+)?$", re.IGNORECASE)
#: Strings that pandas reads as missing values.
MISSING = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"]
) | {"N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}
#: Options of pandas.read_csv. Without index_col=False, a surplus first value silently becomes the index.
_CSV_OPTIONS: dict[str, Any] = {"low_memory": False, "index_col": False}


def csv_options(names: list[str], dtypes: dict[str, Any]) -> dict[str, Any]:
    """Arguments of pandas.read_csv for these columns, which the frame numbers instead of naming them.

    By name, pandas would apply the dtype of a column also to those that it renames after it.
    """
    by_number = {index: dtypes[name] for index, name in enumerate(names) if name in dtypes}
    return {"names": range(len(names)), "header": 0, "dtype": by_number, **_CSV_OPTIONS}


@contextlib.contextmanager
def parsing(path: str) -> Iterator[Any]:
    """The pandas module; its errors about the CSV file become user errors."""
    pandas = _pandas()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", pandas.errors.ParserWarning)
            yield pandas
    except UserError:
        raise
    except pandas.errors.ParserWarning:
        raise UserError(f"{path!r} has rows with more values than its header has columns") from None
    except pandas.errors.EmptyDataError:
        raise UserError(f"{path!r} is empty; expected a header and rows") from None
    except UnicodeDecodeError:
        raise UserError(f"{path!r} is neither a CSV file in UTF-8 nor an NPY, NPZ or IDX file") from None
    except (pandas.errors.ParserError, ValueError, OSError, EOFError, ImportError, zlib.error) as error:
        raise UserError(f"cannot read {path!r} as CSV: {_one_line(error)}") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def csv_column(series: Any) -> Array:
    """Values of a column: numbers, or objects (strings, None where missing)."""
    if getattr(series.dtype, "kind", "O") in "fiu":
        return np.asarray(series)
    return np.asarray(series.astype(object).where(series.notna(), None), dtype=object)


def read_npz(path: str, *, features: str = FEATURES, target: str | None = None) -> Table:
    """Read arrays from an NPZ file. Pickles are not loaded, so nothing in the file is executed.

    Parameters
    ----------
    path : str
    features : str, default "X"
        Array of the inputs. Dimensions after the first are flattened.
    target : str, optional
        Array of the targets.
    """
    return read_matrix("npz", *npz_arrays(path, features, target), target or "", features)


def npz_arrays(path: str, features: str, target: str | None) -> tuple[ArrayFile, ArrayFile | None]:
    """The arrays of the inputs and of the targets in an NPZ file, not yet read."""
    arrays = npz_files(path)
    for name in (features,) if target is None else (features, target):
        require_known("array", name, arrays, repr(path))
    return arrays[features], None if target is None else arrays[target]


def read_npy(path: str, *, labels: str | None = None) -> Table:
    """Read an NPY file of rows, and optionally another file of their labels.

    Parameters
    ----------
    path : str
    labels : str, optional
        NPY or IDX file of the targets.
    """
    return _with_labels(path, "npy", labels)


def read_idx(path: str, *, labels: str | None = None) -> Table:
    """Read an IDX file of images or rows, and optionally another file of their labels.

    Parameters
    ----------
    path : str
    labels : str, optional
        IDX or NPY file of the targets.
    """
    return _with_labels(path, "idx", labels)


def _with_labels(path: str, kind: str, labels: str | None) -> Table:
    target = None if labels is None else label_array(labels)
    return read_matrix(kind, array_of(path, kind), target, "label" if labels else "", FEATURES)


def label_array(path: str) -> ArrayFile:
    """The array of a file of labels."""
    kind = kind_of(path)
    if kind not in ("idx", "npy"):
        raise UserError(f"the file of the labels must be in IDX or NPY format; {path!r} is not")
    return array_of(path, kind)


def array_of(path: str, kind: str) -> ArrayFile:
    """The array of an IDX or NPY file."""
    return idx_file(path) if kind == "idx" else npy_file(path)


def read_matrix(
    kind: str, array: ArrayFile, target: ArrayFile | None, target_name: str, features: str
) -> Table:
    """Read a table from an array of inputs and an array of targets."""
    require_matrix(array, features)
    values = None if target is None else matrix_targets(array, target)
    return matrix_table(kind, repr(array.path), array.whole(), values, target_name, features)


def require_matrix(array: ArrayFile, features: str) -> None:
    """Raise a user error unless an array has rows and columns of real numbers."""
    path, dtype = array.path, array.dtype
    if dtype.hasobject:
        raise UserError(f"cannot read {path!r} as {array.form}: it contains Python objects")
    if dtype.kind not in "fiub":
        raise UserError(f"array {features!r} of {path!r} must contain real numbers; got {dtype}")
    if len(array.shape) < 2 or 0 in array.shape:
        raise UserError(f"the array in {path!r} must have rows and columns; got shape {array.shape}")


def matrix_targets(X: ArrayFile, target: ArrayFile) -> Array:
    """Read the targets for the rows of X: numbers, or objects if they are strings or booleans."""
    shape = target.shape[:1] if len(target.shape) == 2 and target.shape[1] == 1 else target.shape
    if shape != X.shape[:1]:
        raise UserError(f"the targets of {X.path!r} must have shape ({len(X)},); got {shape}")
    if target.dtype.kind not in "fiubU":
        raise UserError(f"the targets of {X.path!r} must be numbers or strings; got {target.dtype}")
    values = np.array(target.whole().reshape(-1), target.dtype.newbyteorder("="))
    return values.astype(object) if target.dtype.kind in "bU" else values


def matrix_table(
    kind: str,
    source: str,
    X: Array,
    target: Array | None,
    target_name: str,
    features: str,
    row_ids: Array | None = None,
) -> Table:
    """Table of the columns of an array, named x0, x1, ..."""
    # Bytes in more than two dimensions are images.
    full_scale = 255.0 if X.ndim > 2 and X.dtype == np.uint8 else None
    rows = X.reshape(len(X), math.prod(X.shape[1:]))
    return Table(
        kind, source, _views(rows), target, target_name, full_scale, features, matrix=rows, row_ids=row_ids
    )


def _views(matrix: Array) -> dict[str, Array]:
    return {f"x{index}": matrix[:, index] for index in range(matrix.shape[1])}


def digits() -> Table:
    """The digits dataset of scikit-learn: 1,797 images of 8 × 8 pixels from 0 to 16, ten classes."""
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise UserError('the digits dataset requires scikit-learn: pip install "bpfast[all]"') from None
    data = load_digits()
    columns = {str(name): data.data[:, index] for index, name in enumerate(data.feature_names)}
    return Table("digits", "scikit-learn's digits", columns, data.target, "digit", 16.0)
