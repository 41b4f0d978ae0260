"""Read files of any size in chunks of rows, each a `Table`.

The chunks contain the same values as the table that `tables` reads from the whole file.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..arrays import Array
from . import tables
from .array_files import ArrayFile
from .preparation import slices
from .tables import Table

#: Number of values per chunk.
CHUNK = 2**20
#: Compression of a CSV file by the ending of its name.
COMPRESSION = {".gz": "gzip", ".bz2": "bz2", ".zip": "zip", ".xz": "xz", ".zst": "zstd"}
#: float64 does not represent every integer from here on.
INEXACT = 2**53


class RetypedError(Exception):
    """A later chunk of a CSV file changes the type with which earlier chunks should have been read."""


def _no_progress(_: int) -> None:
    """Progress callback that does nothing."""


class Stream:
    """The rows of a file.

    Attributes
    ----------
    about : Table
        Table without rows that describes the file (`source`, `target_name`, ...).
    names : list of str
        Names of the input columns.
    unit : str
        Unit of `total` and of the progress: rows, or B for bytes.
    total : int
        Size of the file in this unit.
    """

    about: Table
    names: list[str]
    unit = " rows"
    total: int

    @property
    def n_values(self) -> int:
        """Approximate number of values; for a CSV file its size in bytes."""
        return self.total * len(self.names)

    def chunks(self, width: int = 0, advance: Callable[[int], None] = _no_progress) -> Iterator[Table]:
        """Iterate over the rows in order, about `CHUNK` values at a time.

        Parameters
        ----------
        width : int, default 0
            Number of values that a row becomes after preparation, if that is more than it contains.
        advance : callable, optional
            Called after every chunk with the progress since the last call.

        Raises
        ------
        RetypedError
            After a chunk that changes the type of a column. Call `resolve_types` and start again.
        """
        raise NotImplementedError

    def resolve_types(self, advance: Callable[[int], None] = _no_progress) -> None:
        """Read the whole file to determine the types of its columns, so that no later pass is repeated."""

    def targets(self, advance: Callable[[int], None] = _no_progress) -> Array:
        """Read the targets of all rows; for a CSV file, also `resolve_types`."""
        raise NotImplementedError


class MatrixStream(Stream):
    """The rows of an array in a file.

    Parameters
    ----------
    kind : {"npy", "npz", "idx"}
    array : ArrayFile
        Inputs.
    target : ArrayFile, optional
        Targets.
    target_name, features : str
        Names of the two arrays.
    """

    def __init__(
        self,
        kind: str,
        array: ArrayFile,
        target: ArrayFile | None = None,
        target_name: str = "",
        features: str = tables.FEATURES,
    ) -> None:
        tables.require_matrix(array, features)
        self._array, self._target = array, target
        empty = np.empty((0, *array.shape[1:]), array.dtype)
        self.about = tables.matrix_table(kind, repr(array.path), empty, None, target_name, features)
        self.names = list(self.about.columns)
        self.total = len(array)

    def chunks(self, width: int = 0, advance: Callable[[int], None] = _no_progress) -> Iterator[Table]:
        rows = max(1, CHUNK // max(width, len(self.names)))
        about, start = self.about, 0
        for block in self._array.blocks(rows):
            row_ids = np.arange(start, start + len(block))
            yield tables.matrix_table(
                about.kind, about.source, block, None, about.target_name, about.features, row_ids
            )
            start += len(block)
            advance(len(block))

    def targets(self, advance: Callable[[int], None] = _no_progress) -> Array:
        assert self._target is not None
        return tables.matrix_targets(self._array, self._target)


class TableStream(Stream):
    """The rows of a table in memory."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.about = table.take(slice(0, 0))
        self.names = list(table.columns)
        self.total = len(table)

    def chunks(self, width: int = 0, advance: Callable[[int], None] = _no_progress) -> Iterator[Table]:
        for rows in slices(len(self._table), max(width, len(self.names)), CHUNK):
            yield self._table.take(rows)
            advance(rows.stop - rows.start)


@dataclass
class _ColumnType:
    """Kinds of values seen in a column so far, from which follows how to read all of it.

    The rules are those by which pandas reads a whole column: integers that fit no 64-bit type become
    text, unless the column also contains fractions; with missing values, already those from 2**63 on.
    """

    seen: set[str] = field(default_factory=set)

    def add(self, values: Array) -> None:
        """Add the values of a chunk as pandas returned them."""
        if values.dtype.kind == "f":
            self._add_floats(values[~np.isnan(values)], len(values))
        elif values.dtype.kind in "iu":
            self._add_whole(int(values.min()), int(values.max()))
        else:
            self._add_objects([value for value in values.tolist() if value is not None], len(values))

    def _add_floats(self, known: Array, count: int) -> None:
        if len(known) == count or (known != np.floor(known)).any() or (abs(known) >= 2**63).any():
            self.seen.add("float")
        else:
            # pandas reads integers as floats if values are missing.
            self.seen.update(("empty", "whole") if len(known) else ("empty",))

    def _add_objects(self, values: list[Any], count: int) -> None:
        known = [value for value in values if value not in tables.MISSING]
        found = set(map(type, known))
        if len(known) < count:
            self.seen.add("empty")
        if found == {int} or (found == {str} and all(map(_WHOLE.fullmatch, known))):
            integers = [int(value) for value in known]
            self._add_whole(min(integers), max(integers))
        elif found:
            self.seen.add("text" if found == {str} and len(known) == len(values) else "unspelled")

    def _add_whole(self, low: int, high: int) -> None:
        """Add integers from low to high."""
        found = {"whole": True, "inexact": max(-low, high) >= INEXACT, "negative": low < 0}
        found |= {"unsigned": high >= 2**63, "huge": high >= 2**64 or low < -(2**63)}
        self.seen.update(name for name, holds in found.items() if holds)

    @property
    def dtype(self) -> Any:
        """Type to pass to pandas; None if it infers the same type for every chunk."""
        if self.seen & {"text", "unspelled"}:
            return str
        if "float" in self.seen:
            return np.float64
        if "huge" in self.seen or ("unsigned" in self.seen and self.seen & {"negative", "empty"}):
            return str
        return np.float64 if "empty" in self.seen else None

    @property
    def mixed(self) -> bool:
        """Whether some chunk was read differently from the whole file."""
        if self.dtype is str:
            return not self.seen <= {"text", "empty"}
        return self.dtype is not None and "inexact" in self.seen


_WHOLE = re.compile(r"[+-]?[0-9]+")


class CsvStream(Stream):
    """The rows of a CSV file with a header; see `tables.read_csv` for the parameters.

    `watch` names the columns whose types matter (default: all).
    """

    unit = "B"

    def __init__(
        self,
        path: str,
        *,
        target: str | None = None,
        ignore: Collection[str] = (),
        text: Collection[str] = (),
        lenient: bool = False,
        watch: Collection[str] | None = None,
    ) -> None:
        self._path, self._target, self._ignore, self._text = path, target, ignore, text
        self._all = names = tables.csv_names(path)
        with tables.parsing(path) as pandas:
            header = pandas.DataFrame(columns=names)
        tables.require_columns(path, names, target, () if lenient else (*ignore, *text), ignore)
        self.about = tables.csv_table(path, header, target, ignore, text)
        self.names = list(self.about.columns)
        self.total = os.path.getsize(path)
        self._dtypes: dict[str, Any] = dict.fromkeys(text, str)
        self._watched = [name for name in (names if watch is None else watch) if name in names]

    @property
    def n_values(self) -> int:
        return self.total

    def chunks(self, width: int = 0, advance: Callable[[int], None] = _no_progress) -> Iterator[Table]:
        rows = max(1, CHUNK // max(width, len(self._all)))
        types = {name: _ColumnType() for name in self._watched if name not in self._dtypes}
        start = 0
        for frame in self._frames(rows, advance):
            table = tables.csv_table(self._path, frame, self._target, self._ignore, self._text)
            for name, column_type in types.items():
                column_type.add(table.target if name == self._target else table.columns[name])  # type: ignore[arg-type]
            yield replace(table, row_ids=np.arange(start, start + len(frame)))
            if any(column_type.mixed for column_type in types.values()):
                raise RetypedError
            start += len(frame)
        if not start:
            raise tables.UserError(f"{self._path!r} has a header but no rows")

    def resolve_types(self, advance: Callable[[int], None] = _no_progress) -> None:
        self._scan(advance)

    def targets(self, advance: Callable[[int], None] = _no_progress) -> Array:
        assert self._target is not None
        parts, target_type = self._scan(advance)
        if target_type is not None and target_type.mixed:
            # Read the target again, now that its type is known.
            parts = [table.target for table in self.chunks() if table.target is not None]
        interned: dict[Any, Any] = {}
        if self._dtypes.get(self._target) is str:
            # Equal strings become one object.
            texts = [None if v is None or v != v else interned.setdefault(v, v) for p in parts for v in p]
            return np.array([*texts, None], dtype=object)[:-1]
        if any(part.dtype.kind == "u" for part in parts):
            parts = [part.astype(np.uint64) for part in parts]
        return np.concatenate(parts)

    def _scan(self, advance: Callable[[int], None]) -> tuple[list[Array], _ColumnType | None]:
        """Determine the type of each column; return the values and the type of the target."""
        types = {name: _ColumnType() for name in self._watched if name not in self._dtypes}
        parts = []
        for frame in self._frames(max(1, CHUNK // len(self._all)), advance):
            for name, column_type in types.items():
                column_type.add(tables.csv_column(frame[name]))
            if self._target is not None:
                parts.append(tables.csv_column(frame[self._target]))
        if not parts and self._target is not None:
            raise tables.UserError(f"{self._path!r} has a header but no rows")
        self._dtypes |= {
            name: column_type.dtype for name, column_type in types.items() if column_type.dtype is not None
        }
        return parts, types.get(self._target or "")

    def _frames(self, rows: int, advance: Callable[[int], None]) -> Iterator[Any]:
        """Iterate over data frames of `rows` rows each, as pandas reads them."""
        compression = COMPRESSION.get(os.path.splitext(self._path)[1].lower())
        done = 0
        with contextlib.ExitStack() as stack:
            with tables.parsing(self._path) as pandas:
                file = stack.enter_context(open(self._path, "rb"))
                reader = stack.enter_context(
                    pandas.read_csv(
                        file,
                        chunksize=rows,
                        compression=compression,
                        **tables.csv_options(self._all, self._dtypes),
                    )
                )
            while True:
                with tables.parsing(self._path):
                    frame = next(reader, None)
                if frame is None or not len(frame):
                    return
                frame.columns = self._all
                yield frame
                advance(file.tell() - done)
                done = file.tell()
