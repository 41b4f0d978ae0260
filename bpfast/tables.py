"""Reading tables: CSV files with a header, NPZ archives and idx files (MNIST's), each plain or gzipped.

A file's kind is told from its first bytes. Whatever it was, it becomes a `Table`: named columns of
numbers or texts, and perhaps a target.
"""

from __future__ import annotations

import difflib
import gzip
import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: The numbers that an idx file may hold, by the third byte of its header; big-endian.
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
#: The default names of the arrays of an NPZ file.
FEATURES, TARGET = "X", "y"


class UserError(ValueError):
    """A mistake of the person at the command line: one line says all there is to say."""


@dataclass(frozen=True)
class Table:
    """Rows of data with named columns.

    Attributes
    ----------
    kind : {"csv", "npz", "idx", "digits"}
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
    """

    kind: str
    source: str
    columns: dict[str, Array]
    target: Array | None = None
    target_name: str = ""
    full_scale: float | None = None
    features: str = FEATURES
    forced_text: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def kind_of(path: str) -> str:
    """csv, npz or idx, from the first bytes of a file.

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
        if start[:2] == b"\x1f\x8b":
            with gzip.open(path, "rb") as file:
                start = file.read(4)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path!r} can't be read: {error}") from None
    if not start:
        raise UserError(f"{path!r} is empty")
    if start == b"PK\x03\x04":
        return "npz"
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


def _require_known(what: str, name: str, known: Iterable[str], source: str) -> None:
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
    pandas = _pandas()
    frame = _frame(pandas, path, text)
    names = [str(name) for name in frame.columns]
    if target is not None:
        if len(names) == 1 and target not in names and any(mark in names[0] for mark in ";\t"):
            raise UserError(f"{path!r} has one column, {names[0]!r}; its values must be separated by commas")
        _require_known("column", target, names, repr(path))
    if not lenient:
        for name in (*ignore, *text):
            _require_known("column", name, names, repr(path))
    if len(frame) == 0:
        raise UserError(f"{path!r} has a header, but no rows")
    arrays = {str(name): _column(frame[name]) for name in frame.columns}
    columns = {name: array for name, array in arrays.items() if name != target and name not in ignore}
    if not columns:
        raise UserError(f"{path!r} has no column to learn from" + (f" besides {target!r}" if target else ""))
    goal = None if target is None else arrays[target]
    return Table("csv", repr(path), columns, goal, target or "", forced_text=frozenset(text))


def _pandas() -> Any:
    try:
        import pandas  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise UserError('reading CSV files needs pandas: pip install "bpfast[all]"') from None
    return pandas


def _frame(pandas: Any, path: str, text: Collection[str]) -> Any:
    kinds: dict[str, type] = dict.fromkeys(text, str)
    frame = _parse(pandas, path, kinds)
    # Truth values and mixtures have lost their spelling ("true", "TRUE"): read those again as text.
    lost = [name for name in frame.columns if frame[name].dtype == bool or frame[name].dtype == object]
    lost = [name for name in lost if name not in kinds]
    return _parse(pandas, path, kinds | dict.fromkeys(lost, str)) if lost else frame


def _parse(pandas: Any, path: str, kinds: dict[str, type]) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Without index_col=False a surplus first value silently becomes the index.
            warnings.simplefilter("error", pandas.errors.ParserWarning)
            return pandas.read_csv(path, dtype=kinds, low_memory=False, index_col=False)
    except pandas.errors.ParserWarning:
        raise UserError(f"{path!r} has rows with more values than its header has names") from None
    except pandas.errors.EmptyDataError:
        raise UserError(f"{path!r} is empty: a header and rows are wanted") from None
    except UnicodeDecodeError:
        raise UserError(f"{path!r} is neither a CSV file in UTF-8, nor an NPZ or idx file") from None
    except (pandas.errors.ParserError, ValueError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path!r} can't be read as CSV: {_one_line(error)}") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _column(series: Any) -> Array:
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
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            _require_known("array", features, archive.files, repr(path))
            X = archive[features]
            goal = None
            if target is not None:
                _require_known("array", target, archive.files, repr(path))
                goal = archive[target]
    except UserError:
        raise
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path!r} can't be read as NPZ: {_one_line(error)}") from None
    if X.dtype.kind not in "fiub":
        raise UserError(f"array {features!r} of {path!r} holds {X.dtype}; real numbers are wanted")
    return _matrix("npz", path, X, goal, target or "", features)


def read_idx(path: str, *, labels: str | None = None) -> Table:
    """Read an idx file of images or rows, and perhaps another of their labels.

    Parameters
    ----------
    path : str
    labels : str, optional
        The file of the targets.
    """
    goal = None
    if labels is not None:
        if kind_of(labels) != "idx":
            raise UserError(f"{labels!r} is no idx file; the labels must be one")
        goal = _idx_array(labels)
    return _matrix("idx", path, _idx_array(path), goal, "label" if labels else "", FEATURES)


def _idx_array(path: str) -> Array:
    try:
        with open(path, "rb") as probe:
            zipped = probe.read(2) == b"\x1f\x8b"
        file: IO[bytes]
        with gzip.open(path, "rb") if zipped else open(path, "rb") as file:  # type: ignore[assignment]
            head = file.read(4)
            sizes = np.frombuffer(file.read(4 * head[3]), dtype=">u4")
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path!r} can't be read: {error}") from None
    except (ValueError, IndexError):
        raise UserError(f"{path!r} is cut off in its header") from None
    kind = np.dtype(IDX_TYPES[head[2]])
    shape = tuple(int(size) for size in sizes)
    wanted = math.prod(shape) * kind.itemsize
    if len(shape) != head[3] or not shape or len(data) != wanted:
        raise UserError(f"{path!r} is damaged: its header tells of {wanted:,} bytes, {len(data):,} follow")
    return np.frombuffer(data, dtype=kind).astype(kind.newbyteorder("=")).reshape(shape)


def _matrix(kind: str, path: str, X: Array, goal: Array | None, target_name: str, features: str) -> Table:
    """A table of the columns of an array, which have a place but no names."""
    if X.ndim < 2 or X.size == 0:
        raise UserError(f"{path!r} holds an array of shape {X.shape}; rows and columns are wanted")
    if goal is not None:
        goal = goal.reshape(-1) if goal.ndim == 2 and goal.shape[1] == 1 else goal
        if goal.shape != (len(X),):
            raise UserError(
                f"the targets of {path!r} have shape {goal.shape}; {len(X)} rows need shape ({len(X)},)"
            )
        if goal.dtype.kind not in "fiubU":
            raise UserError(f"the targets of {path!r} are {goal.dtype}; numbers or texts are wanted")
        goal = goal.astype(object) if goal.dtype.kind in "bU" else goal
    # Bytes in more than two dimensions are the brightness of pixels.
    full_scale = 255.0 if X.ndim > 2 and X.dtype == np.uint8 else None
    rows = X.reshape(len(X), -1)
    columns = {f"x{index}": rows[:, index] for index in range(rows.shape[1])}
    return Table(kind, repr(path), columns, goal, target_name, full_scale, features)


def digits() -> Table:
    """scikit-learn's embedded digits: 1,797 images of 8 by 8 pixels from 0 to 16, ten classes."""
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise UserError('the digits come with scikit-learn: pip install "bpfast[all]"') from None
    data = load_digits()
    columns = {str(name): data.data[:, index] for index, name in enumerate(data.feature_names)}
    return Table("digits", "scikit-learn's digits", columns, data.target, "digit", 16.0)
