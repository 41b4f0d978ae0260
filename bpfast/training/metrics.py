"""TODO"""

from __future__ import annotations

import numpy as np

from ..arrays import Array
from ..network import Network


def accuracy(network: Network, Y: Array, Z: Array, weights: Array | None) -> float:
    """The weighted share of rows whose class is right; of labels, where a row has several."""
    if Y.ndim == 1:
        right = Z.argmax(axis=1) == Y
    elif network.loss_spec.targets == "classes":
        right = Z.argmax(axis=1) == Y.argmax(axis=1)
    else:
        threshold = 0.5 if network.loss_spec.targets == "probabilities" else 0.0
        right = ((Z > 0) == (threshold < Y)).mean(axis=1)
    return float(np.average(right, weights=weights))


def r2(network: Network, Y: Array, Z: Array, weights: Array | None) -> float:
    """R² = 1 - Σ (y - prediction)² / Σ (y - mean)², the mean over outputs; 0 for a constant y."""
    predicted, Y = network._link(Z).astype(np.float64), Y.astype(np.float64)
    mean = np.average(Y, axis=0, weights=weights)
    residual = np.average((Y - predicted) ** 2, axis=0, weights=weights)
    spread = np.average((Y - mean) ** 2, axis=0, weights=weights)
    return float(np.mean(1 - residual / np.where(spread > 0, spread, np.maximum(residual, 1e-300))))


METRICS = {"accuracy": accuracy, "r2": r2}
