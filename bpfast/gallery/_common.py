"""Shared by the examples: data sets, and the style of pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import plotting
from ..arrays import Array
from ..data import tables

#: Colours that can be told apart with any kind of colour vision (Okabe and Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def digits(dtype: str = "float32", seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """Return X, y and held-out X, y (360 rows) of scikit-learn's digits, with pixels from 0 to 1."""
    table = tables.digits()
    X = np.column_stack(list(table.columns.values())).astype(dtype)
    X /= table.full_scale
    y = np.asarray(table.target)
    order = np.random.default_rng(seed).permutation(len(X))
    X, y = X[order], y[order]
    return X[360:], y[360:], X[:360], y[:360]


def figure(width: float, height: float) -> Any:
    """Return an empty figure of this size in inches."""
    return plotting.new_figure(width, height)


def write(figure: Any, picture: str) -> None:
    """Write a picture, and print its path."""
    plotting.require_drawable(picture)
    figure.savefig(picture, dpi=plotting.DPI)
    print(f"picture: {picture}")


def dress(axis: Any, xlabel: str, ylabel: str) -> None:
    """Set grid, spines and labels as in all pictures of bpfast."""
    plotting.dress(axis)
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)


def diabetes() -> tuple[Array, Array, list[str]]:
    """Return X (442, 10), standardised, y and the column names of scikit-learn's diabetes data."""
    data = _dataset("diabetes")
    return _standardised(data.data), data.target, list(data.feature_names)


def breast_cancer() -> tuple[Array, Array, list[str]]:
    """Return X (569, 30), standardised, y = -1 or +1 (benign) and the names of the breast cancer data."""
    data = _dataset("breast_cancer")
    return _standardised(data.data), 2.0 * data.target - 1.0, [str(name) for name in data.feature_names]


def _dataset(name: str) -> Any:
    try:
        from sklearn import datasets
    except ImportError:
        raise tables.UserError('the data are part of scikit-learn: pip install "bpfast[all]"') from None
    return getattr(datasets, f"load_{name}")()


def _standardised(X: Array) -> Array:
    standardised: Array = (X - X.mean(axis=0)) / X.std(axis=0)
    return standardised
