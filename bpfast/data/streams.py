"""Files as streams: a chunk of rows after another, each a `Table`, however large the file is.

Chunk by chunk a file gives the values that `tables` reads from it in one piece.
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

#: The numbers of a chunk.
CHUNK = 2**20
#: How a CSV is packed, by the end of its name.
PACKED = {".gz": "gzip", ".bz2": "bz2", ".zip": "zip", ".xz": "xz", ".zst": "zstd"}
#: From here on float64 does not hold every whole number.
INEXACT = 2**53


class RetypedError(Exception):
    """A later chunk of a CSV has changed how the values of earlier ones are to be read."""


def _standing(_: int) -> None:
    """A progress that nobody watches."""


class Stream:
    """The rows of a file.

    Attributes
    ----------
    about : Table
        What every chunk says of its file (`source`, `target_name`, ...), with the columns of none.
    names : list of str
        The columns to learn from.
    unit : str
        What `total` and the progress count: rows, or B for bytes.
    total : int
    """

    about: Table
    names: list[str]
    unit = " rows"
    total: int

    @property
    def numbers(self) -> int:
        """About how many there are; of a CSV its bytes."""
        return self.total * len(self.names)

    def chunks(self, width: int = 0, moved: Callable[[int], None] = _standing) -> Iterator[Table]:
        """The rows in order, about `CHUNK` numbers at a time.

        Parameters
        ----------
        width : int
            Numbers that a row becomes, where they are more than those that it holds.
        moved : callable
            Told of the progress after every chunk.

        Raises
        ------
        RetypedError
            Behind the chunk that shows it; `settle`, and begin again.
        """
        raise NotImplementedError

    def settle(self, moved: Callable[[int], None] = _standing) -> None:
        """Read all of the file to know how its columns are to be taken; no pass is to be repeated then."""

    def targets(self, moved: Callable[[int], None] = _standing) -> Array:
        """The targets of all rows, and of a CSV `settle` on the way."""
        raise NotImplementedError


class MatrixStream(Stream):
    """The rows of an array in a file.

    Parameters
    ----------
    kind : {"npy", "npz", "idx"}
    array : ArrayFile
    goal : ArrayFile or None
        The targets.
    target_name, features : str
        Their arrays.
    """

    def __init__(
        self,
        kind: str,
        array: ArrayFile,
        goal: ArrayFile | None = None,
        target_name: str = "",
        features: str = tables.FEATURES,
    ) -> None:
        tables.require_matrix(array, features)
        self._array, self._goal = array, goal
        nothing = np.empty((0, *array.shape[1:]), array.dtype)
        self.about = tables.matrix_table(kind, repr(array.path), nothing, None, target_name, features)
        self.names = list(self.about.columns)
        self.total = len(array)

    def chunks(self, width: int = 0, moved: Callable[[int], None] = _standing) -> Iterator[Table]:
        rows = max(1, CHUNK // max(width, len(self.names)))
        about, start = self.about, 0
        for block in self._array.blocks(rows):
            origin = np.arange(start, start + len(block))
            yield tables.matrix_table(
                about.kind, about.source, block, None, about.target_name, about.features, origin
            )
            start += len(block)
            moved(len(block))

    def targets(self, moved: Callable[[int], None] = _standing) -> Array:
        assert self._goal is not None
        return tables.matrix_targets(self._array, self._goal)


class TableStream(Stream):
    """The rows of a table that is in memory."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.about = table.take(slice(0, 0))
        self.names = list(table.columns)
        self.total = len(table)

    def chunks(self, width: int = 0, moved: Callable[[int], None] = _standing) -> Iterator[Table]:
        for rows in slices(len(self._table), max(width, len(self.names)), CHUNK):
            yield self._table.take(rows)
            moved(rows.stop - rows.start)


@dataclass
class _Sort:
    """What the values of a column were in the chunks so far.

    It follows what pandas makes of a column in one piece: whole numbers that no type of 64 bits holds
    are text, unless there are fractions among them (and with missing ones beside them from 2**63 on).
    """

    seen: set[str] = field(default_factory=set)

    def add(self, values: Array) -> None:
        """Look at a chunk's values as pandas gave them."""
        if values.dtype.kind == "f":
            self._add_floats(values[~np.isnan(values)], len(values))
        elif values.dtype.kind in "iu":
            self._add_whole(int(values.min()), int(values.max()))
        else:
            self._add_objects([value for value in values.tolist() if value is not None], len(values))

    def _add_floats(self, there: Array, count: int) -> None:
        if len(there) == count or (there != np.floor(there)).any() or (abs(there) >= 2**63).any():
            self.seen.add("float")
        else:
            # Whole numbers come as floats where values are missing beside them.
            self.seen.update(("empty", "whole") if len(there) else ("empty",))

    def _add_objects(self, there: list[Any], count: int) -> None:
        known = [value for value in there if value not in tables.MISSING]
        types = set(map(type, known))
        if len(known) < count:
            self.seen.add("empty")
        if types == {int} or (types == {str} and all(map(_WHOLE.fullmatch, known))):
            whole = [int(value) for value in known]
            self._add_whole(min(whole), max(whole))
        elif types:
            self.seen.add("text" if types == {str} and len(known) == len(there) else "unspelled")

    def _add_whole(self, low: int, high: int) -> None:
        """Whole numbers from low to high."""
        found = {"whole": True, "inexact": max(-low, high) >= INEXACT, "negative": low < 0}
        found |= {"unsigned": high >= 2**63, "huge": high >= 2**64 or low < -(2**63)}
        self.seen.update(name for name, holds in found.items() if holds)

    @property
    def dtype(self) -> Any:
        """What pandas is to be told; None where it sees the same in every chunk."""
        if self.seen & {"text", "unspelled"}:
            return str
        if "float" in self.seen:
            return np.float64
        if "huge" in self.seen or ("unsigned" in self.seen and self.seen & {"negative", "empty"}):
            return str
        return np.float64 if "empty" in self.seen else None

    @property
    def mixed(self) -> bool:
        """Whether some chunk's values came out otherwise than they do in one piece."""
        if self.dtype is str:
            return not self.seen <= {"text", "empty"}
        return self.dtype is not None and "inexact" in self.seen


_WHOLE = re.compile(r"[+-]?[0-9]+")


class CsvStream(Stream):
    """The rows of a CSV file with a header; the parameters are those of `tables.read_csv`."""

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
        self._kinds: dict[str, Any] = dict.fromkeys(text, str)
        # The columns whose values matter: a change in another is none.
        self._watched = [name for name in (names if watch is None else watch) if name in names]

    @property
    def numbers(self) -> int:
        return self.total

    def chunks(self, width: int = 0, moved: Callable[[int], None] = _standing) -> Iterator[Table]:
        rows = max(1, CHUNK // max(width, len(self._all)))
        sorts = {name: _Sort() for name in self._watched if name not in self._kinds}
        start = 0
        for frame in self._frames(rows, moved):
            table = tables.csv_table(self._path, frame, self._target, self._ignore, self._text)
            for name, sort in sorts.items():
                sort.add(table.target if name == self._target else table.columns[name])  # type: ignore[arg-type]
            yield replace(table, origin=np.arange(start, start + len(frame)))
            if any(sort.mixed for sort in sorts.values()):
                raise RetypedError
            start += len(frame)
        if not start:
            raise tables.UserError(f"{self._path!r} has a header, but no rows")

    def settle(self, moved: Callable[[int], None] = _standing) -> None:
        self._survey(moved)

    def targets(self, moved: Callable[[int], None] = _standing) -> Array:
        assert self._target is not None
        parts, sort = self._survey(moved)
        if sort is not None and sort.mixed:
            # Its own spelling, or the numbers as they are in one piece: the kinds are known by now.
            parts = [table.target for table in self.chunks() if table.target is not None]
        spelled: dict[Any, Any] = {}
        if self._kinds.get(self._target) is str:
            # A text that recurs is one object.
            texts = [None if v is None or v != v else spelled.setdefault(v, v) for p in parts for v in p]
            return np.array([*texts, None], dtype=object)[:-1]
        if any(part.dtype.kind == "u" for part in parts):
            parts = [part.astype(np.uint64) for part in parts]
        return np.concatenate(parts)

    def _survey(self, moved: Callable[[int], None]) -> tuple[list[Array], _Sort | None]:
        """Learn how each column is to be read; also the target's values, as they came."""
        sorts = {name: _Sort() for name in self._watched if name not in self._kinds}
        parts = []
        for frame in self._frames(max(1, CHUNK // len(self._all)), moved):
            for name, sort in sorts.items():
                sort.add(tables.csv_column(frame[name]))
            if self._target is not None:
                parts.append(tables.csv_column(frame[self._target]))
        if not parts and self._target is not None:
            raise tables.UserError(f"{self._path!r} has a header, but no rows")
        self._kinds |= {name: sort.dtype for name, sort in sorts.items() if sort.dtype is not None}
        return parts, sorts.get(self._target or "")

    def _frames(self, rows: int, moved: Callable[[int], None]) -> Iterator[Any]:
        """The file as pandas reads it, so many rows at a time."""
        packed = PACKED.get(os.path.splitext(self._path)[1].lower())
        done = 0
        with contextlib.ExitStack() as stack:
            with tables.parsing(self._path) as pandas:
                file = stack.enter_context(open(self._path, "rb"))
                reader = stack.enter_context(
                    pandas.read_csv(
                        file,
                        chunksize=rows,
                        compression=packed,
                        **tables.reading(self._all, self._kinds),
                    )
                )
            while True:
                with tables.parsing(self._path):
                    frame = next(reader, None)
                if frame is None or not len(frame):
                    return
                frame.columns = self._all
                yield frame
                moved(file.tell() - done)
                done = file.tell()
