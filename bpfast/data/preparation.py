"""Preparing: from the columns of a table to the inputs of a network, and from its outputs back.

It is learnt from the training rows (`learning`), kept as JSON with the model, and applied row by row,
so that a row gives the same inputs whichever rows stand beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..arrays import Array
from .tables import Table, UserError

FORMAT = 1
TASKS = ("classification", "regression")
#: Numbers that are worked on at a time, where they are many.
IN_CACHE = 2**16


@dataclass(frozen=True)
class NumberColumn:
    """x ← (x - mean) / scale, with `fill` where x is missing."""

    name: str
    fill: float
    mean: float
    scale: float

    @property
    def width(self) -> int:
        """Inputs that it makes."""
        return 1


@dataclass(frozen=True)
class TextColumn:
    """One input a category, 1 where the text is that category; all 0 for a text never seen."""

    name: str
    fill: str
    categories: tuple[str, ...]

    @property
    def width(self) -> int:
        """Inputs that it makes."""
        return len(self.categories)


@dataclass
class Counts:
    """What preparing met with, by column.

    Attributes
    ----------
    imputed : dict of str to int
        Missing values filled in.
    unseen : dict of str to int
        Texts that the training rows did not have.
    ignored : list of str
        Columns that the model does not use.
    """

    imputed: dict[str, int] = field(default_factory=dict)
    unseen: dict[str, int] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    def add(self, other: Counts) -> None:
        """Count what another part of the rows met with, too."""
        for ours, theirs in ((self.imputed, other.imputed), (self.unseen, other.unseen)):
            for name, count in theirs.items():
                ours[name] = ours.get(name, 0) + count
        self.ignored = other.ignored

    def ordered(self, names: Sequence[str]) -> Counts:
        """The same, columns in this order."""
        imputed, unseen = (
            {name: found[name] for name in names if name in found} for found in (self.imputed, self.unseen)
        )
        return Counts(imputed, unseen, self.ignored)


@dataclass(frozen=True)
class Preparation:
    """How a table becomes inputs and targets.

    Attributes
    ----------
    kind : str
        Of the table that it was learnt from.
    features : str
        The array of the inputs, for an NPZ file.
    target : str
        The name of the target.
    task : {"classification", "regression"}
    columns : tuple of NumberColumn or TextColumn
    classes : tuple
        The labels in sorted order; empty for a regression.
    mean, scale : float
        Of the target of a regression: the network learns (y - mean) / scale.
    """

    kind: str
    features: str
    target: str
    task: str
    columns: tuple[NumberColumn | TextColumn, ...]
    classes: tuple[Any, ...] = ()
    mean: float = 0.0
    scale: float = 1.0

    @property
    def n_inputs(self) -> int:
        """Inputs of the network."""
        return sum(column.width for column in self.columns)

    @property
    def n_outputs(self) -> int:
        """Outputs of the network."""
        return len(self.classes) if self.task == "classification" else 1

    @property
    def texts(self) -> list[str]:
        """The columns that hold text."""
        return [column.name for column in self.columns if isinstance(column, TextColumn)]

    def inputs(self, table: Table, dtype: Any) -> tuple[Array, Counts]:
        """X (N, n_inputs) of a table, and what had to be mended.

        Raises
        ------
        UserError
            If a column is missing, or holds what it must not.
        """
        counts = Counts()
        columns = self._match(table, counts)
        X = np.zeros((len(table), self.n_inputs), dtype=dtype)
        if table.matrix is not None:
            with np.errstate(over="ignore"):
                self._standardise_matrix(table, table.matrix, X, counts)
            return X, counts
        place = 0
        for column, values in zip(self.columns, columns, strict=True):
            if isinstance(column, NumberColumn):
                with np.errstate(over="ignore"):  # too large for float32: the network refuses it
                    X[:, place] = _standardise(column, values, table, counts)
            else:
                _one_hot(column, values, X[:, place : place + column.width], counts)
            place += column.width
        return X, counts

    def _standardise_matrix(self, table: Table, matrix: Array, X: Array, counts: Counts) -> None:
        """Every column of an array in one go, in blocks that stay in the cache."""
        numbers = [column for column in self.columns if isinstance(column, NumberColumn)]
        fill, mean, scale = (
            np.array([getattr(c, key) for c in numbers]) for key in ("fill", "mean", "scale")
        )
        holes = np.zeros(len(numbers), np.int64)
        for rows in slices(len(X), len(numbers), IN_CACHE):
            block = matrix[rows].astype(np.float64)
            if matrix.dtype.kind == "f":
                missed = np.isnan(block)
                if missed.any():
                    holes += missed.sum(axis=0)
                    block = np.where(missed, fill, block)
                if not np.isfinite(block).all():
                    place = int(np.isinf(block).any(axis=0).argmax())
                    require_finite(f"column {numbers[place].name!r}", block[:, place], table)
            block -= mean
            block /= scale
            X[rows] = block
        counts.imputed = {c.name: int(n) for c, n in zip(numbers, holes, strict=True) if n}

    def _match(self, table: Table, counts: Counts) -> list[Array]:
        """The table's columns in the model's order: by name, or by position where there are no names."""
        if table.kind != "csv":
            if self.kind == "csv":
                raise UserError(f"this model takes a CSV with named columns; {table.source} has none")
            if len(table.columns) != len(self.columns):
                raise UserError(
                    f"{table.source} has {len(table.columns)} values a row; "
                    f"this model takes {len(self.columns)}"
                )
            return list(table.columns.values())
        names = [column.name for column in self.columns]
        missing = [name for name in names if name not in table.columns]
        if missing:
            shown = ", ".join(repr(name) for name in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise UserError(
                f"{table.source} lacks {_columns(len(missing))} that the model needs: {shown}{more}"
            )
        known = {*names, self.target}
        counts.ignored = [name for name in table.columns if name not in known]
        return [table.columns[name] for name in names]

    def targets(self, goal: Array) -> Array:
        """What the network learns: class numbers, or the standardised target."""
        if self.task == "classification":
            return numbers_in(self.classes, goal)
        return np.asarray((goal.astype(np.float64) - self.mean) / self.scale)

    def values(self, outputs: Array) -> Array:
        """Predictions in the units of the target, from the network's outputs (N, 1)."""
        return np.asarray(outputs[:, 0].astype(np.float64) * self.scale + self.mean)

    def to_json(self) -> str:
        """The preparation as text for the model's file."""
        columns = [
            {"type": "number" if isinstance(column, NumberColumn) else "text", **asdict(column)}
            for column in self.columns
        ]
        content = {name: getattr(self, name) for name in _FIELDS} | {"format": FORMAT, "columns": columns}
        return json.dumps(content, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Preparation:
        """Rebuild what `to_json` wrote; every value is checked.

        Raises
        ------
        ValueError
            Saying what is wrong with it.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it is not JSON: {error}") from None
        _require(isinstance(content, dict), "it is not an object")
        _require(type(content.get("format")) is int, "it has no format number")
        _require(content["format"] <= FORMAT, "it was written by a newer version; update bpfast")
        for name, kind in _FIELDS.items():
            _require(isinstance(content.get(name), kind), f"{name!r} is missing or of the wrong type")
        _require(content["task"] in TASKS, f"its task is {content['task']!r}")
        columns = tuple(_column_from(item) for item in content["columns"])
        _require(bool(columns), "it has no columns")
        _require(len({column.name for column in columns}) == len(columns), "two columns share a name")
        classes = tuple(content["classes"])
        if content["task"] == "classification":
            good = all(isinstance(label, (bool, int, float, str)) for label in classes)
            _require(good, "a class is no label")
            _require(len(set(classes)) == len(classes) >= 2, "its classes are fewer than two, or repeated")
        rest = {name: content[name] for name in ("kind", "features", "target", "task")}
        mean, scale = _finite(content["mean"]), _finite(content["scale"])
        _require(scale > 0, "the target's scale is not above 0")
        return cls(columns=columns, classes=classes, mean=mean, scale=scale, **rest)


_FIELDS: dict[str, Any] = {
    "kind": str,
    "features": str,
    "target": str,
    "task": str,
    "columns": list,
    "classes": (list, tuple),
    "mean": (int, float),
    "scale": (int, float),
}


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def _finite(value: Any) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    _require(good, f"{value!r} is not a finite number")
    return float(value)


def _column_from(item: Any) -> NumberColumn | TextColumn:
    _require(isinstance(item, dict) and isinstance(item.get("name"), str), "a column has no name")
    name = item["name"]
    if item.get("type") == "number":
        numbers = [_finite(item.get(key)) for key in ("fill", "mean", "scale")]
        _require(numbers[2] > 0, f"the scale of column {name!r} is not above 0")
        return NumberColumn(name, *numbers)
    _require(item.get("type") == "text", f"column {name!r} is neither number nor text")
    categories = item.get("categories")
    good = isinstance(categories, list) and all(isinstance(text, str) for text in categories)
    _require(good, f"the categories of column {name!r} are not texts")
    _require(len(set(categories)) == len(categories) > 0, f"column {name!r} repeats or lacks categories")
    _require(item.get("fill") in categories, f"column {name!r} fills with no category of its own")
    return TextColumn(name, item["fill"], tuple(categories))


def _columns(n: int) -> str:
    return "a column" if n == 1 else f"{n} columns"


def slices(n: int, width: int, most: int) -> Iterator[slice]:
    """n rows of so many numbers in blocks of at most so many, in order."""
    rows = max(1, most // max(1, width))
    return (slice(start, min(n, start + rows)) for start in range(0, n, rows))


def missing(values: Array) -> Array:
    """True where a value is missing."""
    if values.dtype == object:
        return np.array([value is None for value in values], dtype=bool)
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=bool)


def labels_of(goal: Array) -> list[Any]:
    """The different targets as sorted Python values; whole numbers as int, also where a column is float."""
    if goal.dtype == object:
        return sorted(set(goal.tolist()))
    found = np.unique(goal)
    if found.dtype.kind == "f" and (found == np.floor(found)).all():
        return [int(value) for value in found.tolist()]
    return list(found.tolist())


def numbers_in(classes: Sequence[Any], goal: Array) -> Array:
    """The place among sorted labels of each target."""
    if goal.dtype == object:
        number = {label: index for index, label in enumerate(classes)}
        return np.fromiter((number[label] for label in goal), np.int64, len(goal))
    return np.searchsorted(np.array(classes, goal.dtype), goal).astype(np.int64)


def require_inputs(X: Array, table: Table) -> None:
    """Refuse inputs that are too large for their dtype, naming the row in the file."""
    finite = np.isfinite(X)
    if not finite.all():
        bad = np.argwhere(~finite)
        row, column = (int(place) for place in bad[0])
        raise UserError(
            f"X holds {X[row, column]} at row {table.row(row)}, column {column}; finite numbers are wanted"
        )


def is_number(text: str) -> bool:
    """Whether Python reads a text as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def require_finite(what: str, values: Array, table: Table) -> None:
    """Refuse an infinite number, or what is none."""
    if values.dtype == object:
        # Truth values from an NPZ file are objects too.
        row = next((i for i, value in enumerate(values) if not is_number(value)), 0)
        raise UserError(
            f"{what} of {table.source} holds {values[row]!r} (row {table.row(row)}, counted from 0); "
            f"a regression takes numbers"
        )
    bad = np.flatnonzero(np.isinf(values))
    if len(bad):
        raise UserError(f"{what} of {table.source} holds {values[bad[0]]}; finite numbers are wanted")


def _standardise(column: NumberColumn, values: Array, table: Table, counts: Counts) -> Array:
    holes = missing(values)
    if values.dtype == object:
        bad = [row for row, text in enumerate(values) if text is not None and not is_number(text)]
        if bad:
            raise UserError(
                f"column {column.name!r} of {table.source} holds {values[bad[0]]!r} "
                f"(row {table.row(bad[0])}, counted from 0); the model takes numbers there"
            )
        values = np.where(holes, np.nan, values)
    numbers = values.astype(np.float64)
    if holes.any():
        counts.imputed[column.name] = int(holes.sum())
        numbers[holes] = column.fill
    require_finite(f"column {column.name!r}", numbers, table)
    return np.asarray((numbers - column.mean) / column.scale)


def _one_hot(column: TextColumn, values: Array, block: Array, counts: Counts) -> None:
    place = {text: index for index, text in enumerate(column.categories)}
    texts = [column.fill if value is None else value for value in values.tolist()]
    found = np.array([place.get(text, -1) for text in texts], np.intp)
    holes = int(missing(values).sum())
    if holes:
        counts.imputed[column.name] = holes
    unseen = int((found < 0).sum())
    if unseen:
        counts.unseen[column.name] = unseen
    seen = np.flatnonzero(found >= 0)
    block[seen, found[seen]] = 1.0
