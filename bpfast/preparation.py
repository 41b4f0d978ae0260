"""Preparing: from the columns of a table to the inputs of a network, and from its outputs back.

Everything here is learnt from the training rows alone, kept as JSON with the model, and applied row
by row, so that a row gives the same inputs whichever rows stand beside it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import reference
from .tables import Table, UserError

Array = NDArray[Any]

FORMAT = 1
TASKS = ("classification", "regression")
#: Whole numbers with at most so many different values are taken for classes.
FEW_VALUES = 20
#: A text column may have so many categories.
MOST_CATEGORIES = 1000
#: The permutation that splits the rows; no epoch has this number.
_SPLIT = 2**63


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
        place = 0
        for column, values in zip(self.columns, columns, strict=True):
            if isinstance(column, NumberColumn):
                with np.errstate(over="ignore"):  # too large for float32: the network refuses it
                    X[:, place] = _standardise(column, values, table, counts)
            else:
                _one_hot(column, values, X[:, place : place + column.width], counts)
            place += column.width
        return X, counts

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
            number = {label: index for index, label in enumerate(self.classes)}
            return np.array([number[label] for label in _labels(goal)], dtype=np.int64)
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


def missing(values: Array) -> Array:
    """True where a value is missing."""
    if values.dtype == object:
        return np.array([value is None for value in values], dtype=bool)
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=bool)


def infer_task(goal: Array) -> tuple[str, str]:
    """Classification or regression, and why.

    Parameters
    ----------
    goal : array (N,)
        The target, nothing missing.
    """
    distinct = len(set(goal.tolist()))
    if goal.dtype == object:
        return "classification", f"the target is text with {distinct} different values"
    whole = np.isfinite(goal).all() and (goal == np.floor(goal)).all()
    if whole and distinct <= FEW_VALUES:
        return "classification", f"the target holds {distinct} different whole numbers"
    sort = "whole numbers" if whole else "numbers"
    return "regression", f"the target holds {distinct:,} different {sort}"


def split(labels: Array | None, n: int, share: float, seed: int) -> tuple[Array, Array]:
    """Rows to train with and rows to hold out, each in rising order.

    Parameters
    ----------
    labels : array (N,) or None
        Classes, each of which keeps its share; at least one row of each is trained on.
    n : int
        N.
    share : float
        Of the rows to hold out, from 0 to below 1.
    seed : int

    Raises
    ------
    UserError
        If there are too few rows.
    """
    order = reference.permutation(n, seed, _SPLIT)
    first = np.zeros(n, dtype=bool)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
        first[1:] = labels[order][1:] != labels[order][:-1]
    first[:1] = True
    candidates = order[~first]
    wanted = round(n * share)
    if share > 0 and (wanted < 2 or n - wanted < 2 or wanted > len(candidates)):
        raise UserError(
            f"{n} rows are too few to hold out a share of {share:g}; add rows, or pass --validation 0"
        )
    chosen = np.zeros(n, dtype=bool)
    if wanted:
        # Evenly spaced in the order by class, which is shuffled within a class.
        steps = (2 * np.arange(wanted) + 1) * len(candidates) // (2 * wanted)
        chosen[candidates[steps]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def class_numbers(goal: Array, name: str) -> tuple[tuple[Any, ...], Array]:
    """The sorted labels, and the number of each row's.

    Raises
    ------
    UserError
        If there is one class only.
    """
    if goal.dtype != object and not np.isfinite(goal).all():
        raise UserError(f"target {name!r} holds an infinite value; finite numbers are wanted")
    labels = _labels(goal)
    classes = tuple(sorted(set(labels)))
    if len(classes) < 2:
        raise UserError(f"target {name!r} has one class only, {classes[0]!r}; at least two are wanted")
    number = {label: index for index, label in enumerate(classes)}
    return classes, np.array([number[label] for label in labels], dtype=np.int64)


def _labels(goal: Array) -> list[Any]:
    """As Python values; whole numbers as int, also where missing ones made the column float."""
    if goal.dtype.kind == "f" and (goal == np.floor(goal)).all():
        return [int(value) for value in goal.tolist()]
    return list(goal.tolist())


def learn(table: Table, goal: Array, task: str, classes: Sequence[Any], rows: Array) -> Preparation:
    """Learn a preparation from some rows of a table.

    Parameters
    ----------
    table : Table
    goal : array (N,)
        The target.
    task : {"classification", "regression"}
    classes : sequence
        The labels of a classification.
    rows : array of int
        The training rows.

    Raises
    ------
    UserError
        If a column can't be learnt from.
    """
    columns: list[NumberColumn | TextColumn] = []
    for name, values in table.columns.items():
        if values.dtype == object:
            columns.append(_learn_text(name, values, values[rows], table))
        else:
            columns.append(_learn_number(name, values[rows], table))
    mean, scale = 0.0, 1.0
    if task == "regression":
        _require_finite(f"target {table.target_name!r}", goal, table)
        mean, scale = _moments(f"target {table.target_name!r}", goal[rows].astype(np.float64))
    return Preparation(
        table.kind, table.features, table.target_name, task, tuple(columns), tuple(classes), mean, scale
    )


def _moments(what: str, values: Array) -> tuple[float, float]:
    with np.errstate(over="ignore", invalid="ignore"):
        mean, scale = float(values.mean()), float(values.std())
    if not (math.isfinite(mean) and scale < 1e300):
        raise UserError(f"{what} holds numbers too large to standardise")
    # The standard deviation of a constant may come out as rounding alone.
    return mean, scale if scale > 1e-12 * abs(mean) else 1.0


def _learn_number(name: str, values: Array, table: Table) -> NumberColumn:
    if table.full_scale is not None:
        return NumberColumn(name, 0.0, 0.0, table.full_scale)
    values = values.astype(np.float64)
    there = values[~np.isnan(values)]
    if not len(there):
        raise _all_missing(name, table)
    _require_finite(f"column {name!r}", there, table)
    return NumberColumn(name, float(np.median(there)), *_moments(f"column {name!r}", there))


def _all_missing(name: str, table: Table) -> UserError:
    return UserError(
        f"column {name!r} of {table.source} is empty (no value in the training rows); "
        f"leave it out with --ignore"
    )


def _learn_text(name: str, everything: Array, values: Array, table: Table) -> TextColumn:
    refuse_junk(name, everything, table)
    texts = Counter(value for value in values if value is not None)
    if not texts:
        raise _all_missing(name, table)
    if len(texts) > MOST_CATEGORIES:
        raise UserError(
            f"column {name!r} of {table.source} holds {len(texts):,} different texts, too many for "
            f"one input each; leave it out with --ignore"
        )
    categories = tuple(sorted(texts))
    return TextColumn(name, max(categories, key=lambda text: texts[text]), categories)


def refuse_junk(name: str, values: Array, table: Table) -> None:
    """Refuse a few texts among numbers: a slip, not categories, unless the person says so."""
    odd = [index for index, text in enumerate(values) if text is not None and not _is_number(text)]
    there = sum(value is not None for value in values)
    if name not in table.forced_text and 0 < len(odd) <= 0.1 * there:
        raise UserError(
            f"column {name!r} of {table.source} holds {values[odd[0]]!r} among numbers (row {odd[0]}, "
            f"counted from 0); mend it, or take the column as categories with --text"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _require_finite(what: str, values: Array, table: Table) -> None:
    if values.dtype == object:
        # Truth values from an NPZ file are objects too.
        row = next((i for i, value in enumerate(values) if not _is_number(value)), 0)
        raise UserError(
            f"{what} of {table.source} holds {values[row]!r} (row {row}, counted from 0); "
            f"a regression takes numbers"
        )
    bad = np.flatnonzero(np.isinf(values))
    if len(bad):
        raise UserError(f"{what} of {table.source} holds {values[bad[0]]}; finite numbers are wanted")


def _standardise(column: NumberColumn, values: Array, table: Table, counts: Counts) -> Array:
    holes = missing(values)
    if values.dtype == object:
        bad = [row for row, text in enumerate(values) if text is not None and not _is_number(text)]
        if bad:
            raise UserError(
                f"column {column.name!r} of {table.source} holds {values[bad[0]]!r} (row {bad[0]}, "
                f"counted from 0); the model takes numbers there"
            )
        values = np.where(holes, np.nan, values)
    numbers = values.astype(np.float64)
    if holes.any():
        counts.imputed[column.name] = int(holes.sum())
        numbers[holes] = column.fill
    _require_finite(f"column {column.name!r}", numbers, table)
    return np.asarray((numbers - column.mean) / column.scale)


def _one_hot(column: TextColumn, values: Array, block: Array, counts: Counts) -> None:
    place = {text: index for index, text in enumerate(column.categories)}
    texts = [column.fill if value is None else value for value in values.tolist()]
    found = np.array([place.get(text, -1) for text in texts])
    holes = int(missing(values).sum())
    if holes:
        counts.imputed[column.name] = holes
    unseen = int((found < 0).sum())
    if unseen:
        counts.unseen[column.name] = unseen
    seen = np.flatnonzero(found >= 0)
    block[seen, found[seen]] = 1.0
