"""Monitored figures: the direction in which they improve, and when a value is better."""

import math

import pytest

from bpfast.specs.monitor import direction, improves


@pytest.mark.parametrize("column", ["loss", "val_loss", "penalty", "seconds"])
def test_losses_improve_by_falling(column):
    assert direction(column) == 1


@pytest.mark.parametrize("column", ["val_accuracy", "accuracy", "val_r2", "r2", "val_score"])
def test_scores_improve_by_rising(column):
    assert direction(column) == -1


@pytest.mark.parametrize(
    ("value", "best", "options", "expected"),
    [
        (0.9, 1.0, {}, True),
        (1.0, 1.0, {}, False),
        (1.0, 1.0, {"strict": False}, True),
        (0.9, 1.0, {"margin": 0.25}, False),
        (0.75, 1.0, {"margin": 0.25}, False),
        (0.75, 1.0, {"margin": 0.25, "strict": False}, True),
        (0.9, 1.0, {"direction": -1}, False),
        (1.1, 1.0, {"direction": -1}, True),
        (1.25, 1.0, {"direction": -1, "margin": 0.25}, False),
        (1.25, 1.0, {"direction": -1, "margin": 0.25, "strict": False}, True),
        (7.0, 8.0, {"margin": 0.125, "relative": True}, False),
        (6.9, 8.0, {"margin": 0.125, "relative": True}, True),
        # A negative best falls away from 0: -8 must be beaten by an eighth, too.
        (-9.0, -8.0, {"margin": 0.125, "relative": True}, False),
        (-9.1, -8.0, {"margin": 0.125, "relative": True}, True),
        (1e300, math.inf, {}, True),
        (math.inf, math.inf, {}, False),
        (-1e300, -math.inf, {"direction": -1}, True),
    ],
)
def test_a_value_improves_by_more_than_the_margin(value, best, options, expected):
    assert improves(value, best, **options) is expected


@pytest.mark.parametrize("options", [{}, {"strict": False}, {"direction": -1}, {"relative": True}], ids=str)
def test_nan_never_improves_and_anything_improves_on_it(options):
    assert not improves(math.nan, 1.0, **options)
    assert not improves(math.nan, math.inf, **options)
    assert improves(1.0, math.nan, **options)
