"""Reading tables: CSV files with a header, NPY and idx files (MNIST's), plain or gzipped, NPZ archives.

A file's kind is told from its first bytes. Whatever it was, it becomes a `Table`: named columns of
numbers or texts, and perhaps a target.
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

#: The default names of the arrays of an NPZ file.
FEATURES, TARGET = "X", "y"


@dataclass(frozen=True)
class Table:
    """Rows of data with named columns.

    Attributes
    ----------
    kind : {"csv", "npz", "npy", "idx", "digits"}
        Where it comes from. The columns of a CSV have a meaning by name, all others by position.
    source : str
        What to call it in messages.
    columns : dict of str to array (N,)
        Numbers (NaN where missing), or objects: texts (None where missing).
    target : array (N,) or None
        What is to be predicted, of the same two sorts.
    target_name : str
        Its column or array.
    full_scale : float or None
        What the largest possible value of every column is, where that is known (255 for the bytes
        of an image).
    features : str
        The array of an NPZ file that the columns are.
    forced_text : frozenset of str
        Columns that the person wants taken as text.
    matrix : array (N, columns) or None
        What the columns are views of, where they lie in one array.
    origin : array (N,) of int or None
        The rows' numbers in the file; by default from 0.
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
    origin: Array | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def row(self, index: int) -> int:
        """The number in the file of a row."""
        return index if self.origin is None else int(self.origin[index])

    def take(self, chosen: Any) -> Table:
        """Some of the rows, by a mask or a slice."""
        matrix = None if self.matrix is None else self.matrix[chosen]
        columns = {name: values[chosen] for name, values in self.columns.items()}
        if matrix is not None:
            columns = _views(matrix)
        origin = np.arange(len(self)) if self.origin is None else self.origin
        target = None if self.target is None else self.target[chosen]
        return replace(self, columns=columns, matrix=matrix, target=target, origin=origin[chosen])


def kind_of(path: str) -> str:
    """csv, npz, npy or idx, from the first bytes of a file.

    Raises
    ------
    UserError
        If there is no such file, or it can't be read.
    """
    if not os.path.exists(path):
        raise UserError(f"there is no file {path!r}{_near_file(path)}")
    if os.path.isdir(path):
        raise UserError(f"{path!r} is a directory; a file is wanted")
    try:
        with open(path, "rb") as file:
            start = file.read(4)
        if start[:2] == GZIP:
            with gzip.open(path, "rb") as file:
                start = file.read(4)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path!r} can't be read: {error}") from None
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


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names for a message: the first of them, and how many there are."""
    names = list(names)
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def require_known(what: str, name: str, known: Iterable[str], source: str) -> None:
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
    """Read a CSV file with a header; gzipped where its name ends in ``.gz``.

    Parameters
    ----------
    path : str
    target : str, optional
        The column to set apart.
    ignore : collection of str
        Columns to leave out.
    text : collection of str
        Columns to take as text whatever they hold.
    lenient : bool, default False
        Let `text` and `ignore` name columns that are not there.
    """
    names = csv_names(path)
    frame = _frame(path, names, text)
    require_columns(path, names, target, () if lenient else (*ignore, *text), ignore)
    if len(frame) == 0:
        raise UserError(f"{path!r} has a header, but no rows")
    return csv_table(path, frame, target, ignore, text)


def csv_names(path: str) -> list[str]:
    """The names of a CSV's columns.

    Raises
    ------
    UserError
        If two columns have one name, or the file is an archive, of which there may be several in it.
    """
    if _TAR.search(path):
        raise UserError(f"{path!r} is named as a tar archive; unpack it, and name the CSV file in it")
    with parsing(path) as pandas:
        names = [str(name) for name in pandas.read_csv(path, nrows=0, **READING).columns]
        row = pandas.read_csv(path, nrows=1, header=None, dtype=str, na_filter=False, **READING).iloc[0]
    for spelled, name in zip(row, names, strict=False):
        # pandas renames a column whose name another has, and names one that has none.
        if spelled and spelled != name:
            raise UserError(f"{path!r} has two columns named {spelled!r}; give each a name of its own")
    return names


def require_columns(
    path: str, names: list[str], target: str | None, known: Iterable[str], ignore: Collection[str]
) -> None:
    """Refuse a CSV without the target, without a column that options name, or with none to learn from."""
    if target is not None:
        if len(names) == 1 and target not in names and any(mark in names[0] for mark in ";\t"):
            raise UserError(f"{path!r} has one column, {names[0]!r}; its values must be separated by commas")
        require_known("column", target, names, repr(path))
    for name in known:
        require_known("column", name, names, repr(path))
    if all(name == target or name in ignore for name in names):
        raise UserError(f"{path!r} has no column to learn from" + (f" besides {target!r}" if target else ""))


def csv_table(
    path: str, frame: Any, target: str | None, ignore: Collection[str], text: Collection[str]
) -> Table:
    """The table of a frame that pandas has read."""
    arrays = {str(name): csv_column(frame[name]) for name in frame.columns}
    columns = {name: array for name, array in arrays.items() if name != target and name not in ignore}
    goal = None if target is None else arrays[target]
    return Table("csv", repr(path), columns, goal, target or "", forced_text=frozenset(text))


def _pandas() -> Any:
    try:
        import pandas  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise UserError('reading CSV files needs pandas: pip install "bpfast[all]"') from None
    return pandas


def _frame(path: str, names: list[str], text: Collection[str]) -> Any:
    kinds: dict[str, type] = dict.fromkeys(text, str)
    frame = _whole(path, names, kinds)
    # Truth values and mixtures have lost their spelling ("true", "TRUE"), and beside whole numbers of
    # more than 63 bits missing values have stayed texts: read those again as text.
    lost = [name for name in frame.columns if name not in kinds and _lost(frame[name])]
    return _whole(path, names, kinds | dict.fromkeys(lost, str)) if lost else frame


def _lost(series: Any) -> bool:
    if series.dtype == bool or series.dtype == object:
        return True
    return getattr(series.dtype, "kind", "O") not in "fiu" and bool(series.isin(MISSING).any())


def _whole(path: str, names: list[str], kinds: dict[str, type]) -> Any:
    with parsing(path) as pandas:
        frame = pandas.read_csv(path, **reading(names, kinds))
    frame.columns = names
    return frame


_TAR = re.compile(r"\.tar(\.[a-z0-9]+)?$", re.IGNORECASE)
#: What pandas takes for a missing value.
MISSING = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"]
) | {"N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}
#: How a CSV is read. Without index_col=False a surplus first value silently becomes the index.
READING: dict[str, Any] = {"low_memory": False, "index_col": False}


def reading(names: list[str], kinds: dict[str, Any]) -> dict[str, Any]:
    """How a CSV with these columns is read, some of them as of a dtype; they are numbered in the frame.

    By name pandas would take what is said of a column also for those that it renames after it.
    """
    dtypes = {place: kinds[name] for place, name in enumerate(names) if name in kinds}
    return {"names": range(len(names)), "header": 0, "dtype": dtypes, **READING}


@contextlib.contextmanager
def parsing(path: str) -> Iterator[Any]:
    """pandas, whose complaints about a CSV become a line for a person."""
    pandas = _pandas()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", pandas.errors.ParserWarning)
            yield pandas
    except UserError:
        raise
    except pandas.errors.ParserWarning:
        raise UserError(f"{path!r} has rows with more values than its header has names") from None
    except pandas.errors.EmptyDataError:
        raise UserError(f"{path!r} is empty: a header and rows are wanted") from None
    except UnicodeDecodeError:
        raise UserError(f"{path!r} is neither a CSV file in UTF-8, nor an NPY, NPZ or idx file") from None
    except (pandas.errors.ParserError, ValueError, OSError, EOFError, ImportError, zlib.error) as error:
        raise UserError(f"{path!r} can't be read as CSV: {_one_line(error)}") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def csv_column(series: Any) -> Array:
    """Numbers, or objects: texts, None where missing."""
    if getattr(series.dtype, "kind", "O") in "fiu":
        return np.asarray(series)
    return np.asarray(series.astype(object).where(series.notna(), None), dtype=object)


def read_npz(path: str, *, features: str = FEATURES, target: str | None = None) -> Table:
    """Read arrays from an NPZ file: no pickles, so nothing in it is executed.

    Parameters
    ----------
    path : str
    features : str, default "X"
        The array of the inputs; of more than two dimensions it is flattened.
    target : str, optional
        The array of the targets.
    """
    return read_matrix("npz", *npz_arrays(path, features, target), target or "", features)


def npz_arrays(path: str, features: str, target: str | None) -> tuple[ArrayFile, ArrayFile | None]:
    """The arrays of the inputs and of the targets, as they are in an NPZ file."""
    arrays = npz_files(path)
    for name in (features,) if target is None else (features, target):
        require_known("array", name, arrays, repr(path))
    return arrays[features], None if target is None else arrays[target]


def read_npy(path: str, *, labels: str | None = None) -> Table:
    """Read an NPY file of rows, and perhaps another of their labels.

    Parameters
    ----------
    path : str
    labels : str, optional
        The file of the targets: NPY or idx.
    """
    return _with_labels(path, "npy", labels)


def read_idx(path: str, *, labels: str | None = None) -> Table:
    """Read an idx file of images or rows, and perhaps another of their labels.

    Parameters
    ----------
    path : str
    labels : str, optional
        The file of the targets: idx or NPY.
    """
    return _with_labels(path, "idx", labels)


def _with_labels(path: str, kind: str, labels: str | None) -> Table:
    goal = None if labels is None else label_array(labels)
    return read_matrix(kind, array_of(path, kind), goal, "label" if labels else "", FEATURES)


def label_array(path: str) -> ArrayFile:
    """The array of a file of labels."""
    kind = kind_of(path)
    if kind not in ("idx", "npy"):
        raise UserError(f"{path!r} is no idx or NPY file; the labels must be one")
    return array_of(path, kind)


def array_of(path: str, kind: str) -> ArrayFile:
    """The one array of an idx or NPY file."""
    return idx_file(path) if kind == "idx" else npy_file(path)


def read_matrix(
    kind: str, array: ArrayFile, goal: ArrayFile | None, target_name: str, features: str
) -> Table:
    """The table of an array in a file, with the targets in another."""
    require_matrix(array, features)
    targets = None if goal is None else matrix_targets(array, goal)
    X = array.whole()
    return matrix_table(kind, repr(array.path), X, targets, target_name, features)


def require_matrix(array: ArrayFile, features: str) -> None:
    """Refuse an array that is no rows and columns of real numbers."""
    path, dtype = array.path, array.dtype
    if dtype.hasobject:
        raise UserError(f"{path!r} can't be read as {array.form}: it holds Python objects")
    if dtype.kind not in "fiub":
        raise UserError(f"array {features!r} of {path!r} holds {dtype}; real numbers are wanted")
    if len(array.shape) < 2 or 0 in array.shape:
        raise UserError(f"{path!r} holds an array of shape {array.shape}; rows and columns are wanted")


def matrix_targets(X: ArrayFile, goal: ArrayFile) -> Array:
    """The targets of an array's rows, read whole: numbers or objects."""
    shape = goal.shape[:1] if len(goal.shape) == 2 and goal.shape[1] == 1 else goal.shape
    if shape != X.shape[:1]:
        raise UserError(f"the targets of {X.path!r} have shape {shape}; {len(X)} rows need shape ({len(X)},)")
    if goal.dtype.kind not in "fiubU":
        raise UserError(f"the targets of {X.path!r} are {goal.dtype}; numbers or texts are wanted")
    values = np.array(goal.whole().reshape(-1), goal.dtype.newbyteorder("="))
    return values.astype(object) if goal.dtype.kind in "bU" else values


def matrix_table(
    kind: str,
    source: str,
    X: Array,
    target: Array | None,
    target_name: str,
    features: str,
    origin: Array | None = None,
) -> Table:
    """A table of the columns of an array, which have a place but no names."""
    # Bytes in more than two dimensions are the brightness of pixels.
    full_scale = 255.0 if X.ndim > 2 and X.dtype == np.uint8 else None
    rows = X.reshape(len(X), math.prod(X.shape[1:]))
    return Table(
        kind, source, _views(rows), target, target_name, full_scale, features, matrix=rows, origin=origin
    )


def _views(matrix: Array) -> dict[str, Array]:
    return {f"x{index}": matrix[:, index] for index in range(matrix.shape[1])}


def digits() -> Table:
    """scikit-learn's embedded digits: 1,797 images of 8 by 8 pixels from 0 to 16, ten classes."""
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise UserError('the digits come with scikit-learn: pip install "bpfast[all]"') from None
    data = load_digits()
    columns = {str(name): data.data[:, index] for index, name in enumerate(data.feature_names)}
    return Table("digits", "scikit-learn's digits", columns, data.target, "digit", 16.0)
