"""Prepare tables: convert columns to the inputs of a network, and its outputs back to predictions.

A preparation is learned from the training rows (`fit_table`, `fit_stream`), stored with the model as
JSON, and applied to each row on its own: the inputs of a row do not depend on other rows.
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
#: Number of values per block when standardising a matrix, so that a block stays in the cache.
IN_CACHE = 2**16


@dataclass(frozen=True)
class NumberColumn:
    """Numeric column: x ← (x − mean) / scale; missing values are replaced by `fill`."""

    name: str
    fill: float
    mean: float
    scale: float

    @property
    def width(self) -> int:
        """Number of inputs."""
        return 1


@dataclass(frozen=True)
class TextColumn:
    """Categorical column, one-hot encoded; a category not seen in training is encoded as all zeros.

    Missing values are replaced by `fill`.
    """

    name: str
    fill: str
    categories: tuple[str, ...]

    @property
    def width(self) -> int:
        """Number of inputs."""
        return len(self.categories)


@dataclass
class Counts:
    """What a preparation found in a table, by column.

    Attributes
    ----------
    imputed : dict of str to int
        Number of missing values that were filled in.
    unseen : dict of str to int
        Number of values whose category was not seen in training.
    ignored : list of str
        Columns that the model does not use.
    """

    imputed: dict[str, int] = field(default_factory=dict)
    unseen: dict[str, int] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    def add(self, other: Counts) -> None:
        """Add the counts of further rows."""
        for ours, theirs in ((self.imputed, other.imputed), (self.unseen, other.unseen)):
            for name, count in theirs.items():
                ours[name] = ours.get(name, 0) + count
        self.ignored = other.ignored

    def ordered(self, names: Sequence[str]) -> Counts:
        """The same counts with the columns in this order."""
        imputed, unseen = (
            {name: found[name] for name in names if name in found} for found in (self.imputed, self.unseen)
        )
        return Counts(imputed, unseen, self.ignored)


@dataclass(frozen=True)
class Preparation:
    """Conversion of a table to inputs and targets.

    Attributes
    ----------
    kind : str
        Kind of the table that the preparation was learned from, see `Table`.
    features : str
        Array of the inputs, for an NPZ file.
    target : str
        Name of the target.
    task : {"classification", "regression"}
    columns : tuple of NumberColumn or TextColumn
    classes : tuple
        Sorted labels; empty for a regression.
    mean, scale : float
        Mean and scale of the target of a regression: the network learns (y − mean) / scale.
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
        """Number of inputs of the network."""
        return sum(column.width for column in self.columns)

    @property
    def n_outputs(self) -> int:
        """Number of outputs of the network."""
        return len(self.classes) if self.task == "classification" else 1

    @property
    def texts(self) -> list[str]:
        """Names of the text columns."""
        return [column.name for column in self.columns if isinstance(column, TextColumn)]

    def inputs(self, table: Table, dtype: Any) -> tuple[Array, Counts]:
        """Convert a table to inputs.

        Returns
        -------
        X : array (N, n_inputs)
        counts : Counts

        Raises
        ------
        UserError
            If a column is missing or contains invalid values.
        """
        counts = Counts()
        columns = self._match(table, counts)
        X = np.zeros((len(table), self.n_inputs), dtype=dtype)
        if table.matrix is not None:
            with np.errstate(over="ignore"):
                self._standardise_matrix(table, table.matrix, X, counts)
            return X, counts
        start = 0
        for column, values in zip(self.columns, columns, strict=True):
            if isinstance(column, NumberColumn):
                with np.errstate(over="ignore"):  # the network rejects what overflows float32
                    X[:, start] = _standardise(column, values, table, counts)
            else:
                _one_hot(column, values, X[:, start : start + column.width], counts)
            start += column.width
        return X, counts

    def _standardise_matrix(self, table: Table, matrix: Array, X: Array, counts: Counts) -> None:
        """Standardise all columns of an array, in blocks that stay in the cache."""
        numbers = [column for column in self.columns if isinstance(column, NumberColumn)]
        fill, mean, scale = (
            np.array([getattr(c, key) for c in numbers]) for key in ("fill", "mean", "scale")
        )
        n_missing = np.zeros(len(numbers), np.int64)
        for rows in slices(len(X), len(numbers), IN_CACHE):
            block = matrix[rows].astype(np.float64)
            if matrix.dtype.kind == "f":
                absent = np.isnan(block)
                if absent.any():
                    n_missing += absent.sum(axis=0)
                    block = np.where(absent, fill, block)
                if not np.isfinite(block).all():
                    first = int(np.isinf(block).any(axis=0).argmax())
                    require_finite(f"column {numbers[first].name!r}", block[:, first], table)
            block -= mean
            block /= scale
            X[rows] = block
        counts.imputed = {c.name: int(n) for c, n in zip(numbers, n_missing, strict=True) if n}

    def _match(self, table: Table, counts: Counts) -> list[Array]:
        """Columns of the table in the order of the model, by name for CSV files, otherwise by position."""
        if table.kind != "csv":
            if self.kind == "csv":
                raise UserError(
                    f"this model needs a CSV file with named columns; {table.source} has no column names"
                )
            if len(table.columns) != len(self.columns):
                raise UserError(
                    f"{table.source} has {len(table.columns)} values per row; "
                    f"this model needs {len(self.columns)}"
                )
            return list(table.columns.values())
        names = [column.name for column in self.columns]
        lacking = [name for name in names if name not in table.columns]
        if lacking:
            shown = ", ".join(repr(name) for name in lacking[:5])
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            raise UserError(
                f"{table.source} lacks {_columns(len(lacking))} that the model needs: {shown}{more}"
            )
        known = {*names, self.target}
        counts.ignored = [name for name in table.columns if name not in known]
        return [table.columns[name] for name in names]

    def targets(self, target: Array) -> Array:
        """Targets of the network: class numbers, or the standardised target."""
        if self.task == "classification":
            return numbers_in(self.classes, target)
        return np.asarray((target.astype(np.float64) - self.mean) / self.scale)

    def values(self, outputs: Array) -> Array:
        """Convert outputs of the network (N, 1) to predictions in the units of the target."""
        return np.asarray(outputs[:, 0].astype(np.float64) * self.scale + self.mean)

    def to_json(self) -> str:
        """The preparation as JSON, for the model file."""
        columns = [
            {"type": "number" if isinstance(column, NumberColumn) else "text", **asdict(column)}
            for column in self.columns
        ]
        content = {name: getattr(self, name) for name in _FIELDS} | {"format": FORMAT, "columns": columns}
        return json.dumps(content, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Preparation:
        """Rebuild a preparation from the JSON of `to_json`; every value is checked.

        Raises
        ------
        ValueError
            If the JSON is not a valid preparation; the message says why.
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
            valid = all(isinstance(label, (bool, int, float, str)) for label in classes)
            _require(valid, "a class is not a label")
            _require(len(set(classes)) == len(classes) >= 2, "it has fewer than two classes, or duplicates")
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
    valid = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    _require(valid, f"{value!r} is not a finite number")
    return float(value)


def _column_from(item: Any) -> NumberColumn | TextColumn:
    _require(isinstance(item, dict) and isinstance(item.get("name"), str), "a column has no name")
    name = item["name"]
    if item.get("type") == "number":
        numbers = [_finite(item.get(key)) for key in ("fill", "mean", "scale")]
        _require(numbers[2] > 0, f"the scale of column {name!r} is not above 0")
        return NumberColumn(name, *numbers)
    _require(item.get("type") == "text", f"column {name!r} is neither numeric nor text")
    categories = item.get("categories")
    valid = isinstance(categories, list) and all(isinstance(text, str) for text in categories)
    _require(valid, f"the categories of column {name!r} are not strings")
    _require(len(set(categories)) == len(categories) > 0, f"column {name!r} has duplicate or no categories")
    _require(item.get("fill") in categories, f"column {name!r} has a fill value that is no category")
    return TextColumn(name, item["fill"], tuple(categories))


def _columns(n: int) -> str:
    return "a column" if n == 1 else f"{n} columns"


def slices(n: int, width: int, most: int) -> Iterator[slice]:
    """Slices of n rows of `width` values each, in order, with at most `most` values per slice."""
    rows = max(1, most // max(1, width))
    return (slice(start, min(n, start + rows)) for start in range(0, n, rows))


def missing(values: Array) -> Array:
    """True where a value is missing."""
    if values.dtype == object:
        return np.array([value is None for value in values], dtype=bool)
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=bool)


def labels_of(target: Array) -> list[Any]:
    """Distinct targets as sorted Python values; integers become int even if the column is float."""
    if target.dtype == object:
        return sorted(set(target.tolist()))
    found = np.unique(target)
    if found.dtype.kind == "f" and (found == np.floor(found)).all():
        return [int(value) for value in found.tolist()]
    return list(found.tolist())


def numbers_in(classes: Sequence[Any], target: Array) -> Array:
    """Index of each target among sorted labels."""
    if target.dtype == object:
        number = {label: index for index, label in enumerate(classes)}
        return np.fromiter((number[label] for label in target), np.int64, len(target))
    return np.searchsorted(np.array(classes, target.dtype), target).astype(np.int64)


def require_inputs(X: Array, table: Table) -> None:
    """Raise a user error that names the row in the file if an input overflows its data type."""
    finite = np.isfinite(X)
    if not finite.all():
        bad = np.argwhere(~finite)
        row, column = (int(index) for index in bad[0])
        raise UserError(
            f"X contains {X[row, column]} in row {table.row(row)}, column {column}; all values must be finite"
        )


def is_number(text: str) -> bool:
    """Whether Python parses a string as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def require_finite(what: str, values: Array, table: Table) -> None:
    """Raise a user error if a value is infinite or not a number."""
    if values.dtype == object:
        # Booleans of an NPZ file are objects, too.
        row = next((i for i, value in enumerate(values) if not is_number(value)), 0)
        raise UserError(
            f"{what} of {table.source} contains {values[row]!r} (row {table.row(row)}, counted from 0); "
            f"a regression needs numbers"
        )
    bad = np.flatnonzero(np.isinf(values))
    if len(bad):
        raise UserError(f"{what} of {table.source} contains {values[bad[0]]}; all values must be finite")


def _standardise(column: NumberColumn, values: Array, table: Table, counts: Counts) -> Array:
    absent = missing(values)
    if values.dtype == object:
        bad = [row for row, text in enumerate(values) if text is not None and not is_number(text)]
        if bad:
            raise UserError(
                f"column {column.name!r} of {table.source} contains {values[bad[0]]!r} "
                f"(row {table.row(bad[0])}, counted from 0); the model needs numbers"
            )
        values = np.where(absent, np.nan, values)
    numbers = values.astype(np.float64)
    if absent.any():
        counts.imputed[column.name] = int(absent.sum())
        numbers[absent] = column.fill
    require_finite(f"column {column.name!r}", numbers, table)
    return np.asarray((numbers - column.mean) / column.scale)


def _one_hot(column: TextColumn, values: Array, block: Array, counts: Counts) -> None:
    index_of = {text: index for index, text in enumerate(column.categories)}
    texts = [column.fill if value is None else value for value in values.tolist()]
    found = np.array([index_of.get(text, -1) for text in texts], np.intp)
    n_missing = int(missing(values).sum())
    if n_missing:
        counts.imputed[column.name] = n_missing
    unseen = int((found < 0).sum())
    if unseen:
        counts.unseen[column.name] = unseen
    seen = np.flatnonzero(found >= 0)
    block[seen, found[seen]] = 1.0
