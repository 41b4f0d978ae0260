"""Infer the task from a table, split its rows, and learn its preparation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import reference
from ..arrays import Array
from .preparation import (
    NumberColumn,
    Preparation,
    TextColumn,
    is_number,
    labels_of,
    numbers_in,
    require_finite,
)
from .tables import Table, UserError, plural

#: An integer target with at most this many distinct values is taken for classes.
MAX_CLASSES = 20
#: Maximum number of categories of a text column.
MAX_CATEGORIES = 1000
#: Number of the permutation that splits the rows; no epoch has this number.
_SPLIT = 2**63


def infer_task(target: Array) -> tuple[str, str]:
    """Infer the task from the target; return it with the reason.

    Parameters
    ----------
    target : array (N,)
        Target without missing values.

    Returns
    -------
    task : {"classification", "regression"}
    reason : str
    """
    distinct = len(set(target)) if target.dtype == object else len(np.unique(target))
    if target.dtype == object:
        return "classification", f"the target is text with {plural(distinct, 'distinct value')}"
    whole = np.isfinite(target).all() and (target == np.floor(target)).all()
    if whole and distinct <= MAX_CLASSES:
        return "classification", f"the target has {plural(distinct, 'distinct integer value')}"
    integer = "integer " if whole else ""
    return "regression", f"the target has {plural(distinct, f'distinct {integer}value')}"


def split(labels: Array | None, n: int, share: float, seed: int) -> tuple[Array, Array]:
    """Split rows into training rows and held-out rows, each in ascending order.

    Parameters
    ----------
    labels : array (N,) or None
        Class numbers, by which the split is stratified; at least one row of each class is a training row.
    n : int
        Number of rows, N.
    share : float
        Fraction of the rows to hold out, from 0 to below 1.
    seed : int
        Seed of the split.

    Returns
    -------
    rows, held_out : array of int

    Raises
    ------
    UserError
        If there are too few rows for this fraction.
    """
    order = reference.permutation(n, seed, _SPLIT)
    first = np.zeros(n, dtype=bool)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
        first[1:] = labels[order][1:] != labels[order][:-1]
    first[:1] = True
    candidates = order[~first]
    count = round(n * share)
    if share > 0 and (count < 2 or n - count < 2 or count > len(candidates)):
        n_classes = n - len(candidates)
        if labels is not None and 2 <= count <= n - 2 and n_classes > 2:
            raise UserError(
                f"{n:,} rows are too few for {n_classes:,} classes: with one training row of each, "
                f"only {len(candidates):,} can be held out, not a fraction of {share:g}; "
                "use --task regression if the target is a quantity, or pass --validation 0"
            )
        raise UserError(
            f"{n:,} rows are too few to hold out a fraction of {share:g}; add rows or pass --validation 0"
        )
    chosen = np.zeros(n, dtype=bool)
    if count:
        # Evenly spaced over the rows sorted by class and shuffled within each class.
        steps = (2 * np.arange(count) + 1) * len(candidates) // (2 * count)
        chosen[candidates[steps]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def class_numbers(target: Array, name: str) -> tuple[tuple[Any, ...], Array]:
    """Sorted labels, and the class number of each row.

    Raises
    ------
    UserError
        If a target is infinite, or there is only one class.
    """
    if target.dtype != object and not np.isfinite(target).all():
        raise UserError(f"target {name!r} contains an infinite value; all values must be finite")
    classes = tuple(labels_of(target))
    if len(classes) < 2:
        raise UserError(f"target {name!r} has only one class, {classes[0]!r}; expected at least two")
    return classes, numbers_in(classes, target)


def learn(table: Table, target: Array, task: str, classes: Sequence[Any], rows: Array) -> Preparation:
    """Learn a preparation from some rows of a table.

    Parameters
    ----------
    table : Table
    target : array (N,)
    task : {"classification", "regression"}
    classes : sequence
        Sorted labels of a classification.
    rows : array of int
        Indices of the training rows.

    Raises
    ------
    UserError
        If a column is empty, not finite, or has too many categories.
    """
    columns: list[NumberColumn | TextColumn] = []
    for name, values in table.columns.items():
        if values.dtype == object:
            columns.append(_learn_text(name, values, values[rows], table))
        else:
            columns.append(_learn_number(name, values[rows], table))
    return with_target(table, target, task, classes, rows, columns)


def with_target(
    table: Table,
    target: Array,
    task: str,
    classes: Sequence[Any],
    rows: Array,
    columns: Sequence[NumberColumn | TextColumn],
) -> Preparation:
    """Preparation with these columns; the scaling of the target is learned here. See `learn`."""
    mean, scale = 0.0, 1.0
    if task == "regression":
        require_finite(f"target {table.target_name!r}", target, table)
        mean, scale = _moments(f"target {table.target_name!r}", target[rows].astype(np.float64))
    return Preparation(
        table.kind, table.features, table.target_name, task, tuple(columns), tuple(classes), mean, scale
    )


def _moments(what: str, values: Array) -> tuple[float, float]:
    with np.errstate(over="ignore", invalid="ignore"):
        return usable_moments(what, float(values.mean()), float(values.std()))


def usable_moments(what: str, mean: float, scale: float) -> tuple[float, float]:
    """Mean and scale of a column; the scale of a constant column is 1.

    Raises
    ------
    UserError
        If one of them is not finite.
    """
    if not (math.isfinite(mean) and scale < 1e300):
        raise UserError(f"{what} contains numbers that are too large to standardise")
    # Rounding may give a constant column a small standard deviation.
    return mean, scale if scale > 1e-12 * abs(mean) else 1.0


def _learn_number(name: str, values: Array, table: Table) -> NumberColumn:
    if table.full_scale is not None:
        return NumberColumn(name, 0.0, 0.0, table.full_scale)
    values = values.astype(np.float64)
    present = values[~np.isnan(values)]
    if not len(present):
        raise all_missing(name, table)
    require_finite(f"column {name!r}", present, table)
    return NumberColumn(name, float(np.median(present)), *_moments(f"column {name!r}", present))


def all_missing(name: str, table: Table) -> UserError:
    """The error about a column without values."""
    return UserError(
        f"column {name!r} of {table.source} has no values in the training rows; leave it out with --ignore"
    )


def _learn_text(name: str, all_values: Array, values: Array, table: Table) -> TextColumn:
    refuse_stray_texts(name, all_values, table)
    return text_column(name, Counter(value for value in values if value is not None), table)


def text_column(name: str, texts: Counter[str], table: Table) -> TextColumn:
    """Categorical column from the counts of its categories; the most frequent one fills missing values.

    Raises
    ------
    UserError
        If there are no categories, or too many.
    """
    if not texts:
        raise all_missing(name, table)
    if len(texts) > MAX_CATEGORIES:
        raise UserError(
            f"text column {name!r} of {table.source} has {len(texts):,} distinct values; at most "
            f"{MAX_CATEGORIES:,} can be one-hot encoded; leave it out with --ignore"
        )
    categories = tuple(sorted(texts))
    return TextColumn(name, max(categories, key=lambda text: texts[text]), categories)


@dataclass
class StrayTexts:
    """Values of a text column that are not numbers; if they are few, they are taken for typing errors.

    Attributes
    ----------
    n_present : int
        Number of values that are not missing.
    n_stray : int
        Number of these that are not numbers.
    first : tuple of (text, row) or None
        The first of those.
    """

    n_present: int = 0
    n_stray: int = 0
    first: tuple[Any, int] | None = None

    def add(self, values: Array, table: Table) -> None:
        """Add the values of the rows of a table."""
        texts = {text for text in set(values.tolist()) if text is not None and not is_number(text)}
        stray = np.fromiter((text in texts for text in values), bool, len(values))
        self.n_present += sum(value is not None for value in values)
        self.n_stray += int(stray.sum())
        if texts and self.first is None:
            first = int(stray.argmax())
            self.first = values[first], table.row(first)

    def refuse(self, name: str, table: Table) -> None:
        """Raise a user error about a few texts among numbers, unless the column was declared categorical."""
        if name not in table.forced_text and self.first is not None and self.n_stray <= 0.1 * self.n_present:
            text, row = self.first
            raise UserError(
                f"column {name!r} of {table.source} contains {text!r} among numbers (row {row}, counted "
                f"from 0); fix it, or treat the column as categorical with --text"
            )


def refuse_stray_texts(name: str, values: Array, table: Table) -> None:
    """Raise a user error about a few texts among numbers, see `StrayTexts`."""
    texts = StrayTexts()
    texts.add(values, table)
    texts.refuse(name, table)
