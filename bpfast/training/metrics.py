"""Metrics of held-out rows during training."""

from __future__ import annotations

from collections.abc import Callable

from .. import evaluation
from .._state import NetworkState
from ..arrays import Array
from ..engine.interface import Data


def accuracy(state: NetworkState, data: Data, Z: Array) -> float:
    """Return the weighted share of correct classes, or of correct labels if a row has several."""
    return evaluation.accuracy(data.Y, Z, data.weights, kind=state.loss.targets)


def r2(state: NetworkState, data: Data, Z: Array) -> float:
    """Return R² of the linked outputs; see `bpfast.evaluation.r2`."""
    return evaluation.r2(data.Y, state.link(Z), data.weights)


#: Metrics by the name in `Loss.metric`: (state, data, Z) → value.
METRICS: dict[str, Callable[[NetworkState, Data, Array], float]] = {"accuracy": accuracy, "r2": r2}
