"""Monitored figures: in which direction a column of the history improves, and whether a value is better."""

from __future__ import annotations

import math


def direction(column: str) -> float:
    """Return 1 for a column that improves by falling (a loss), -1 for one that improves by rising."""
    return -1.0 if column.removeprefix("val_") in ("accuracy", "r2", "score") else 1.0


def improves(
    value: float,
    best: float,
    direction: float = 1.0,
    *,
    margin: float = 0.0,
    relative: bool = False,
    strict: bool = True,
) -> bool:
    """Return whether a value is better than the best so far.

    Parameters
    ----------
    value : float
        The new value. NaN improves on nothing but NaN.
    best : float
        The best value so far; NaN if there is none yet.
    direction : float, default 1.0
        1 if smaller is better, -1 if larger is better.
    margin : float, default 0.0
        The least change that counts as improvement.
    relative : bool, default False
        Whether the margin is a fraction of `best` instead of an absolute change.
    strict : bool, default True
        Whether the change must exceed the margin; if False, reaching it is enough.
    """
    if math.isnan(best):
        return True
    value, best = direction * value, direction * best
    limit = best * (1.0 - math.copysign(margin, best)) if relative else best - margin
    return value < limit if strict else value <= limit
