"""Metrics of held-out rows during training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .._state import NetworkState
from ..arrays import Array
from ..engine.interface import Data


def accuracy(state: NetworkState, data: Data, Z: Array) -> float:
    """Return the weighted share of correct classes, or of correct labels if a row has several."""
    Y, targets = data.Y, state.loss.targets
    if Y.ndim == 1:
        right = Z.argmax(axis=1) == Y
    elif targets == "classes":
        right = Z.argmax(axis=1) == Y.argmax(axis=1)
    else:
        threshold = 0.5 if targets == "probabilities" else 0.0
        right = ((Z > 0) == (threshold < Y)).mean(axis=1)
    return float(np.average(right, weights=data.weights))


def r2(state: NetworkState, data: Data, Z: Array) -> float:
    """Return R² = 1 - Σ (y - prediction)² / Σ (y - mean)², averaged over outputs; 0 for a constant y."""
    predicted, Y = state.link(Z).astype(np.float64), data.Y.astype(np.float64)
    mean = np.average(Y, axis=0, weights=data.weights)
    residual = np.average((Y - predicted) ** 2, axis=0, weights=data.weights)
    spread = np.average((Y - mean) ** 2, axis=0, weights=data.weights)
    return float(np.mean(1 - residual / np.where(spread > 0, spread, np.maximum(residual, 1e-300))))


#: Metrics by the name in `Loss.metric`: (state, data, Z) → value.
METRICS: dict[str, Callable[[NetworkState, Data, Array], float]] = {"accuracy": accuracy, "r2": r2}
