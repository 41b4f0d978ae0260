"""What the entries share: the digits, and how pictures look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import plotting
from ..arrays import Array
from ..data import tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]


#: Colours that are apart for every kind of eye (Okabe and Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def digits(dtype: str = "float32", seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """scikit-learn's digits as X, y to train on and X, y of 360 held-out rows; pixels from 0 to 1."""
    table = tables.digits()
    X = np.column_stack(list(table.columns.values())).astype(dtype)
    X /= table.full_scale
    y = np.asarray(table.target)
    order = np.random.default_rng(seed).permutation(len(X))
    X, y = X[order], y[order]
    return X[360:], y[360:], X[:360], y[:360]


def figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    return plotting.new_figure(width, height)


def write(figure: Figure, picture: str) -> None:
    """Write a picture, and say where."""
    plotting.require_drawable(picture)
    figure.savefig(picture, dpi=plotting.DPI)
    print(f"picture: {picture}")


def dress(axis: Any, xlabel: str, ylabel: str) -> None:
    """Grid, spines and labels as in every picture of bpfast."""
    plotting.dress(axis)
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)


def diabetes() -> tuple[Array, Array, list[str]]:
    """scikit-learn's diabetes: X (442, 10), every column with mean 0 and deviation 1, y and the names."""
    data = _dataset("diabetes")
    return _standardised(data.data), data.target, list(data.feature_names)


def breast_cancer() -> tuple[Array, Array, list[str]]:
    """scikit-learn's breast cancer: X (569, 30) standardised, y = -1 or +1 (benign), and the names."""
    data = _dataset("breast_cancer")
    return _standardised(data.data), 2.0 * data.target - 1.0, [str(name) for name in data.feature_names]


def _dataset(name: str) -> Any:
    try:
        from sklearn import datasets
    except ImportError:
        raise tables.UserError('the data come with scikit-learn: pip install "bpfast[all]"') from None
    return getattr(datasets, f"load_{name}")()


def _standardised(X: Array) -> Array:
    standardised: Array = (X - X.mean(axis=0)) / X.std(axis=0)
    return standardised
