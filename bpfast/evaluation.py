"""How good predictions are, in numbers: counts, shares, calibration, errors, importance. Plain NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import reference
from .arrays import Array


def labels_of(predicted: ArrayLike, classes: Sequence[Any] | None = None) -> Array:
    """Labels (N,) of predictions: what is labels stays; of probabilities the likeliest class.

    Parameters
    ----------
    predicted : array (N,), (N, 1) or (N, C)
        Labels; or probabilities of the second of two classes; or of C classes.
    classes : sequence, optional
        The labels of the classes; by default their numbers from 0.

    Raises
    ------
    ValueError
        If the probabilities are none, or their columns are not as many as the classes.
    """
    predicted = np.asarray(predicted)
    if predicted.ndim == 1:
        return predicted
    P = _probabilities(predicted)
    numbers = (P[:, 0] > 0.5).astype(np.int64) if P.shape[1] == 1 else P.argmax(axis=1)
    if classes is None:
        return numbers
    columns = 2 if P.shape[1] == 1 else P.shape[1]
    if columns != len(classes):
        raise ValueError(f"the probabilities are of {columns} classes; {len(classes)} classes were named")
    labels: Array = _object_array(classes)[numbers]
    return labels


def class_numbers(labels: ArrayLike, classes: Sequence[Any], what: str = "y_true") -> Array:
    """The place of each label among the classes.

    Whole numbers stand for places themselves where the classes are all texts: names of what is
    numbered from 0.

    Parameters
    ----------
    labels : array (N,)
    classes : sequence
        Different labels.
    what : str
        The argument to name in a complaint.

    Raises
    ------
    ValueError
        If a label is none of the classes, or a class is named twice.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(f"{what} must hold one label a row; got shape {labels.shape}")
    place = {label: index for index, label in enumerate(classes)}
    if len(place) != len(classes):
        raise ValueError("classes must be different from each other; one is named twice")
    if labels.dtype.kind in "iub" and all(isinstance(label, str) for label in classes):
        place = {index: index for index in range(len(classes))}
    try:
        return np.array([place[label] for label in labels.tolist()], dtype=np.int64)
    except KeyError as error:
        raise ValueError(f"{what} holds {error.args[0]!r}, none of the {len(place)} classes") from None


def confusion_matrix(y_true: ArrayLike, y_predicted: ArrayLike, n_classes: int) -> Array:
    """How often each class was taken for each: rows are what is true, columns what was predicted.

    Parameters
    ----------
    y_true, y_predicted : array (N,)
        Class numbers from 0 to below `n_classes`.
    n_classes : int

    Returns
    -------
    array of int (n_classes, n_classes)

    Raises
    ------
    ValueError
        If the two differ in length, or hold a number that is no class's.
    """
    true, predicted = np.asarray(y_true), np.asarray(y_predicted)
    _require_rows(true, predicted)
    for what, numbers in (("y_true", true), ("y_predicted", predicted)):
        if numbers.dtype.kind not in "iub":
            raise ValueError(f"{what} must hold class numbers; got {numbers.dtype}")
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < n_classes:
            raise ValueError(f"{what} must hold numbers from 0 to {n_classes - 1}")
    flat = true.astype(np.int64) * n_classes + predicted.astype(np.int64)
    return np.bincount(flat, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


@dataclass(frozen=True)
class ClassScores:
    """The scores of each class; 0 where there is nothing to divide by.

    Attributes
    ----------
    precision : array (C,)
        Of the rows predicted to be of the class, the share that is.
    recall : array (C,)
        Of the rows of the class, the share that was predicted to be.
    f1 : array (C,)
        2 · precision · recall / (precision + recall).
    support : array of int (C,)
        Rows of the class.
    """

    precision: Array
    recall: Array
    f1: Array
    support: Array


def class_scores(counts: Array) -> ClassScores:
    """Precision, recall and F1 of each class of a confusion matrix.

    Parameters
    ----------
    counts : array (C, C)
        Rows are what is true, columns what was predicted.
    """
    right = np.diag(counts).astype(np.float64)
    predicted, support = counts.sum(axis=0), counts.sum(axis=1)
    precision, recall = _share(right, predicted), _share(right, support)
    return ClassScores(precision, recall, _share(2 * right, predicted + support), support)


def _share(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


@dataclass(frozen=True)
class Calibration:
    """How often what was said with some probability came true; the bins that hold rows.

    Attributes
    ----------
    counts : array of int (M,)
        Rows of each bin.
    stated : array (M,)
        Their mean probability.
    observed : array (M,)
        The share of them for which it came true.
    edges : array (bins + 1,)
        Of all bins, the empty ones too; a bin has its upper edge, the first both.
    all_counts : array of int (bins,)
        Rows of all bins.
    """

    counts: Array
    stated: Array
    observed: Array
    edges: Array
    all_counts: Array

    @property
    def error(self) -> float:
        """The expected calibration error, Σ (rows of a bin / rows) · |observed − stated|."""
        return float(np.sum(self.counts * np.abs(self.observed - self.stated)) / self.counts.sum())


def calibration(came_true: ArrayLike, stated: ArrayLike, bins: int = 10) -> Calibration:
    """Sort stated probabilities into bins of equal width, and count how often each came true.

    The expected calibration error is that of Naeini, Cooper and Hauskrecht (2015), "Obtaining well
    calibrated probabilities using Bayesian binning", and Guo, Pleiss, Sun and Weinberger (2017), "On
    calibration of modern neural networks", equation 3.

    Parameters
    ----------
    came_true : array (N,)
        0 or 1 (False or True).
    stated : array (N,)
        Probabilities.
    bins : int, default 10

    Raises
    ------
    ValueError
        If there is no row, a probability is not from 0 to 1, or an outcome is neither 0 nor 1.
    """
    outcome, p = np.asarray(came_true), np.asarray(stated, dtype=np.float64)
    _require_rows(outcome, p)
    if not isinstance(bins, (int, np.integer)) or bins < 1:
        raise ValueError(f"bins must be a whole number of at least 1; got {bins!r}")
    if not len(p):
        raise ValueError("calibration needs rows; got none")
    _require_probabilities(p)
    if not np.isin(outcome, (0, 1)).all():
        raise ValueError("came_true must hold 0 and 1 alone")
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.searchsorted(edges[1:-1], p)
    counts = np.bincount(place, minlength=bins)
    there = counts > 0
    said = np.bincount(place, weights=p, minlength=bins)[there] / counts[there]
    seen = np.bincount(place, weights=outcome.astype(np.float64), minlength=bins)[there] / counts[there]
    return Calibration(counts[there], said, seen, edges, counts)


def stated_probabilities(
    y_true: ArrayLike, probabilities: ArrayLike, classes: Sequence[Any] | None = None, of: Any = None
) -> tuple[Array, Array]:
    """What `calibration` takes, from labels and the probabilities of classes.

    Parameters
    ----------
    y_true : array (N,)
        Labels among `classes`.
    probabilities : array (N,), (N, 1) or (N, C)
        Of the second of two classes, or of C classes.
    classes : sequence, optional
        By default the numbers from 0.
    of : label, optional
        The class whose probability is meant. By default, of C columns, the likeliest class of each row
        (Guo's confidence), otherwise the second class.

    Returns
    -------
    came_true : array of bool (N,)
    stated : array (N,)
    """
    P = np.asarray(probabilities)
    P = _probabilities(P[:, None] if P.ndim == 1 else P)
    if P.shape[1] == 1:
        P = np.hstack([1.0 - P, P])
        chosen: int | None = 1
    else:
        chosen = None
    classes = range(P.shape[1]) if classes is None else classes
    if len(classes) != P.shape[1]:
        raise ValueError(f"the probabilities are of {P.shape[1]} classes; {len(classes)} classes were named")
    y = class_numbers(y_true, classes)
    _require_rows(y, P)
    if of is not None:
        chosen = int(class_numbers([of], classes, "of")[0])
    if chosen is not None:
        return y == chosen, P[:, chosen]
    best = P.argmax(axis=1)
    return y == best, P[np.arange(len(P)), best]


@dataclass(frozen=True)
class RegressionScores:
    """How far predictions are from the truth.

    Attributes
    ----------
    r2 : float
        1 − Σ (y − predicted)² / Σ (y − mean y)²; of a constant y 1 where all is right, otherwise 0.
    mean_absolute_error : float
    root_mean_squared_error : float
    """

    r2: float
    mean_absolute_error: float
    root_mean_squared_error: float


def regression_scores(y_true: ArrayLike, predicted: ArrayLike) -> RegressionScores:
    """R², mean absolute and root mean squared error.

    Parameters
    ----------
    y_true, predicted : array (N,) or (N, 1)

    Raises
    ------
    ValueError
        If there is no row, the lengths differ, or a number is not finite.
    """
    y, errors = residuals(y_true, predicted)
    total, wrong = float(np.sum((y - y.mean()) ** 2)), float(np.sum(errors**2))
    r2 = 1.0 - wrong / total if total > 0 else float(wrong == 0)
    return RegressionScores(r2, float(np.mean(np.abs(errors))), float(np.sqrt(wrong / len(y))))


def residuals(y_true: ArrayLike, predicted: ArrayLike) -> tuple[Array, Array]:
    """The truth, and predicted − true, both (N,) and float64; errors as `regression_scores`."""
    columns = []
    for what, given in (("y_true", y_true), ("predicted", predicted)):
        values = np.asarray(given, dtype=np.float64)
        values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
        if values.ndim != 1 or not len(values):
            raise ValueError(
                f"{what} must hold one number a row, and a row at least; got shape {values.shape}"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"{what} must hold finite numbers; got NaN or infinity")
        columns.append(values)
    y, p = columns
    _require_rows(y, p)
    return y, p - y


def permutation_importance(
    score: Callable[[Array], float], X: Array, groups: Mapping[str, slice], repeats: int = 5, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """How much a score falls when a column's values are shuffled among the rows.

    Importance = score(X) − mean over shuffles of score(X with the column shuffled): Breiman (2001),
    "Random forests", section 10; Fisher, Rudin and Dominici (2019). Columns that tell the same share
    what they are worth. The shuffles depend on the seed alone.

    Parameters
    ----------
    score : callable
        From rows like X to a number, the more the better.
    X : array (N, I)
        It is left as it is.
    groups : dict of str to slice
        The columns of X that belong together, by name.
    repeats : int, default 5
    seed : int, default 0

    Returns
    -------
    dict of str to (float, float)
        Mean and standard deviation over the repeats, by name.
    """
    whole = score(X)
    shuffled = X.copy()
    orders = [reference.permutation(len(X), seed, repeat) for repeat in range(repeats)]
    result = {}
    for name, block in groups.items():
        falls = []
        for order in orders:
            shuffled[:, block] = X[order, block]
            falls.append(whole - score(shuffled))
        shuffled[:, block] = X[:, block]
        result[name] = (float(np.mean(falls)), float(np.std(falls)))
    return result


def _probabilities(P: Array) -> Array:
    if P.ndim != 2 or P.dtype.kind != "f":
        raise ValueError(
            f"probabilities must be floats of shape (rows, classes); got {P.dtype} of shape {P.shape}"
        )
    P = P.astype(np.float64)
    _require_probabilities(P)
    return P


def _require_probabilities(P: Array) -> None:
    # Rounding may lead a softmax a little above 1.
    if not ((P >= 0) & (P <= 1 + 1e-6)).all():
        raise ValueError("probabilities must be from 0 to 1")


def _require_rows(first: Array, second: Array) -> None:
    if first.ndim != 1 or len(first) != len(second):
        raise ValueError(
            f"as many predictions as truths are wanted; got shapes {first.shape} and {second.shape}"
        )


def _object_array(values: Sequence[Any]) -> Array:
    result = np.empty(len(values), dtype=object)
    result[:] = list(values)
    return result
