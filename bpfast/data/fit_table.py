"""What training needs to know of a table: its task, which rows to hold out, how to prepare it."""

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
from .tables import Table, UserError

#: Whole numbers with at most so many different values are taken for classes.
FEW_VALUES = 20
#: A text column may have so many categories.
MOST_CATEGORIES = 1000
#: The permutation that splits the rows; no epoch has this number.
_SPLIT = 2**63


def infer_task(goal: Array) -> tuple[str, str]:
    """Classification or regression, and why.

    Parameters
    ----------
    goal : array (N,)
        The target, nothing missing.
    """
    distinct = len(set(goal)) if goal.dtype == object else len(np.unique(goal))
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
    classes = tuple(labels_of(goal))
    if len(classes) < 2:
        raise UserError(f"target {name!r} has one class only, {classes[0]!r}; at least two are wanted")
    return classes, numbers_in(classes, goal)


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
    return with_target(table, goal, task, classes, rows, columns)


def with_target(
    table: Table,
    goal: Array,
    task: str,
    classes: Sequence[Any],
    rows: Array,
    columns: Sequence[NumberColumn | TextColumn],
) -> Preparation:
    """The preparation with these columns; what it does with the target is learnt. See `learn`."""
    mean, scale = 0.0, 1.0
    if task == "regression":
        require_finite(f"target {table.target_name!r}", goal, table)
        mean, scale = _moments(f"target {table.target_name!r}", goal[rows].astype(np.float64))
    return Preparation(
        table.kind, table.features, table.target_name, task, tuple(columns), tuple(classes), mean, scale
    )


def _moments(what: str, values: Array) -> tuple[float, float]:
    with np.errstate(over="ignore", invalid="ignore"):
        return usable_moments(what, float(values.mean()), float(values.std()))


def usable_moments(what: str, mean: float, scale: float) -> tuple[float, float]:
    """What to subtract and to divide by; 1 for a constant.

    Raises
    ------
    UserError
        If they are not finite.
    """
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
        raise all_missing(name, table)
    require_finite(f"column {name!r}", there, table)
    return NumberColumn(name, float(np.median(there)), *_moments(f"column {name!r}", there))


def all_missing(name: str, table: Table) -> UserError:
    """The complaint about a column without a value."""
    return UserError(
        f"column {name!r} of {table.source} is empty (no value in the training rows); "
        f"leave it out with --ignore"
    )


def _learn_text(name: str, everything: Array, values: Array, table: Table) -> TextColumn:
    refuse_junk(name, everything, table)
    return text_column(name, Counter(value for value in values if value is not None), table)


def text_column(name: str, texts: Counter[str], table: Table) -> TextColumn:
    """A column of categories, from how often each occurs; the most frequent fills holes.

    Raises
    ------
    UserError
        If there is none, or too many.
    """
    if not texts:
        raise all_missing(name, table)
    if len(texts) > MOST_CATEGORIES:
        raise UserError(
            f"column {name!r} of {table.source} holds {len(texts):,} different texts, too many for "
            f"one input each; leave it out with --ignore"
        )
    categories = tuple(sorted(texts))
    return TextColumn(name, max(categories, key=lambda text: texts[text]), categories)


@dataclass
class Junk:
    """The texts of a column that are no numbers: a slip where they are few.

    Attributes
    ----------
    there : int
        Values that are not missing.
    odd : int
        Those that are no numbers.
    first : tuple of (text, row) or None
        The first of them.
    """

    there: int = 0
    odd: int = 0
    first: tuple[Any, int] | None = None

    def add(self, values: Array, table: Table) -> None:
        """Look at the texts of a table's rows."""
        wrong = {text for text in set(values.tolist()) if text is not None and not is_number(text)}
        odd = np.fromiter((text in wrong for text in values), bool, len(values))
        self.there += sum(value is not None for value in values)
        self.odd += int(odd.sum())
        if wrong and self.first is None:
            first = int(odd.argmax())
            self.first = values[first], table.row(first)

    def refuse(self, name: str, table: Table) -> None:
        """Refuse a few texts among numbers, unless the person says that they are categories."""
        if name not in table.forced_text and self.first is not None and self.odd <= 0.1 * self.there:
            text, row = self.first
            raise UserError(
                f"column {name!r} of {table.source} holds {text!r} among numbers (row {row}, "
                f"counted from 0); mend it, or take the column as categories with --text"
            )


def refuse_junk(name: str, values: Array, table: Table) -> None:
    """Refuse a few texts among numbers: a slip, not categories, unless the person says so."""
    junk = Junk()
    junk.add(values, table)
    junk.refuse(name, table)
