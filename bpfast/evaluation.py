"""Metrics of predictions: accuracy, R², confusion matrix, calibration, feature importance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import reference
from .arrays import Array
from .specs.record import Record, record


def accuracy(
    targets: Array,
    outputs: Array,
    weights: Array | None = None,
    *,
    kind: str = "classes",
    linked: bool = False,
    whole_rows: bool = False,
) -> float:
    """Weighted share of correct predictions.

    Parameters
    ----------
    targets : array (N,) or (N, O)
        Class numbers; or one column per class; or one column per label, see `kind`.
    outputs : array (N,) or (N, O)
        Class numbers; or one column per class, of which the largest counts; or one column per label.
    weights : array (N,), optional
        Weights of the rows; equal by default.
    kind : {"classes", "probabilities", "signs"}, default "classes"
        What targets of shape (N, O) contain, as in `Loss.targets`. With ``"classes"`` each row has one
        class, otherwise each column is a separate label: 0 or 1 (``"probabilities"``), or −1 or +1
        (``"signs"``).
    linked : bool, default False
        Whether outputs of ``"probabilities"`` are probabilities, rather than raw outputs.
    whole_rows : bool, default False
        Whether a row of labels counts only if all of them are correct. By default it counts as the
        share of correct labels.

    Returns
    -------
    float
    """
    if targets.ndim == 1 or kind == "classes":
        correct = _class_of(outputs) == _class_of(targets)
    else:
        threshold = 0.5 if kind == "probabilities" else 0.0
        labels = (outputs > (threshold if linked else 0.0)) == (threshold < targets)
        correct = labels.all(axis=1) if whole_rows else labels.mean(axis=1)
    return float(np.average(correct, weights=weights))


def _class_of(values: Array) -> Array:
    """Class number of each row: given as such, or the column of the largest value."""
    numbers: Array = values if values.ndim == 1 else values.argmax(axis=1)
    return numbers


def r2(targets: Array, predictions: Array, weights: Array | None = None) -> float:
    """Coefficient of determination, R² = 1 − Σ (y − prediction)² / Σ (y − mean y)².

    The mean over the outputs. For constant targets, 1 if all predictions are exact, otherwise 0.

    Parameters
    ----------
    targets, predictions : array (N,) or (N, O)
    weights : array (N,), optional
        Weights of the rows; equal by default.

    Returns
    -------
    float
    """
    predictions, targets = predictions.astype(np.float64), targets.astype(np.float64)
    mean = np.average(targets, axis=0, weights=weights)
    residual = np.average((targets - predictions) ** 2, axis=0, weights=weights)
    spread = np.average((targets - mean) ** 2, axis=0, weights=weights)
    return float(np.mean(_explained(residual, spread)))


def _explained(residual: Any, spread: Any) -> Any:
    """1 − residual / spread; where the spread is 0, 0, or 1 if the residual is 0 as well."""
    return 1 - residual / np.where(spread > 0, spread, np.maximum(residual, 1e-300))


def labels_of(predicted: ArrayLike, classes: Sequence[Any] | None = None) -> Array:
    """Labels (N,) of predictions: labels are returned unchanged, probabilities give the most likely class.

    Parameters
    ----------
    predicted : array (N,), (N, 1) or (N, C)
        Labels; or probabilities of the second of two classes; or probabilities of C classes.
    classes : sequence, optional
        Labels of the classes; their numbers from 0 by default.

    Raises
    ------
    ValueError
        If the probabilities are not from 0 to 1, or their columns do not match the classes.
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
        raise ValueError(f"the probabilities are of {columns} classes, but {len(classes)} classes were given")
    labels: Array = _object_array(classes)[numbers]
    return labels


def class_numbers(labels: ArrayLike, classes: Sequence[Any], what: str = "y_true") -> Array:
    """Index of each label among the classes.

    If all classes are strings, integer labels are taken as indices, so that `classes` may name
    classes that are numbered from 0.

    Parameters
    ----------
    labels : array (N,) or (N, 1)
    classes : sequence
        Distinct labels.
    what : str, default "y_true"
        Name of the argument in error messages.

    Returns
    -------
    array of int (N,)

    Raises
    ------
    ValueError
        If a label is not one of the classes, or a class appears twice.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(f"{what} must contain one label per row; got shape {labels.shape}")
    index_of = {label: index for index, label in enumerate(classes)}
    if len(index_of) != len(classes):
        raise ValueError("classes must be distinct; at least one appears twice")
    if labels.dtype.kind in "iub" and all(isinstance(label, str) for label in classes):
        index_of = {index: index for index in range(len(classes))}
    try:
        return np.array([index_of[label] for label in labels.tolist()], dtype=np.int64)
    except KeyError as error:
        raise ValueError(
            f"{what} contains {error.args[0]!r}, which is not one of the {len(index_of)} classes"
        ) from None


def confusion_matrix(y_true: ArrayLike, y_predicted: ArrayLike, n_classes: int) -> Array:
    """Confusion matrix: element (i, j) counts the rows of class i that were predicted as class j.

    Parameters
    ----------
    y_true, y_predicted : array (N,)
        Class numbers from 0 to `n_classes` − 1.
    n_classes : int
        Number of classes.

    Returns
    -------
    array of int (n_classes, n_classes)

    Raises
    ------
    ValueError
        If the two differ in length, or contain a number that is not a class number.
    """
    true, predicted = np.asarray(y_true), np.asarray(y_predicted)
    _require_rows(true, predicted)
    for what, numbers in (("y_true", true), ("y_predicted", predicted)):
        if numbers.dtype.kind not in "iub":
            raise ValueError(f"{what} must contain integer class numbers; got {numbers.dtype}")
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < n_classes:
            raise ValueError(f"{what} must contain class numbers from 0 to {n_classes - 1}")
    flat = true.astype(np.int64) * n_classes + predicted.astype(np.int64)
    return np.bincount(flat, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


@record
class ClassScores(Record):
    """Scores of each class; a score whose denominator is 0 is 0.

    Attributes
    ----------
    precision : array (C,)
        Share of the rows predicted as the class that belong to it.
    recall : array (C,)
        Share of the rows of the class that were predicted as it.
    f1 : array (C,)
        2 · precision · recall / (precision + recall).
    support : array of int (C,)
        Number of rows of the class.
    """

    precision: Array
    recall: Array
    f1: Array
    support: Array


def class_scores(counts: Array) -> ClassScores:
    """Precision, recall and F1 score of each class, from a confusion matrix.

    Parameters
    ----------
    counts : array (C, C)
        True classes in the rows, predicted classes in the columns, as `confusion_matrix` returns it.

    Returns
    -------
    ClassScores
    """
    correct = np.diag(counts).astype(np.float64)
    predicted, support = counts.sum(axis=0), counts.sum(axis=1)
    precision, recall = _share(correct, predicted), _share(correct, support)
    return ClassScores(precision, recall, _share(2 * correct, predicted + support), support)


def _share(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


@record
class Calibration(Record):
    """Predicted probabilities compared with observed frequencies, in bins.

    Attributes
    ----------
    counts : array of int (M,)
        Number of rows in each bin that is not empty.
    stated : array (M,)
        Mean predicted probability in each of these bins.
    observed : array (M,)
        Observed frequency in each of these bins.
    edges : array (bins + 1,)
        Edges of all bins, including empty ones. A bin includes its upper edge, the first one both.
    all_counts : array of int (bins,)
        Number of rows in each bin, including empty ones.
    """

    counts: Array
    stated: Array
    observed: Array
    edges: Array
    all_counts: Array

    @property
    def error(self) -> float:
        """Expected calibration error, Σ (rows of a bin / rows) · |observed − stated|."""
        return float(np.sum(self.counts * np.abs(self.observed - self.stated)) / self.counts.sum())


def calibration(came_true: ArrayLike, stated: ArrayLike, bins: int = 10) -> Calibration:
    """Compare predicted probabilities with observed frequencies in bins of equal width.

    The expected calibration error is that of Naeini, Cooper and Hauskrecht (2015), "Obtaining well
    calibrated probabilities using Bayesian binning", and Guo, Pleiss, Sun and Weinberger (2017), "On
    calibration of modern neural networks", equation 3.

    Parameters
    ----------
    came_true : array (N,)
        Outcomes, 0 or 1 (or False and True).
    stated : array (N,)
        Predicted probabilities of the outcome 1.
    bins : int, default 10
        Number of bins.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        If there are no rows, a probability is not from 0 to 1, or an outcome is neither 0 nor 1.
    """
    outcome, p = np.asarray(came_true), np.asarray(stated, dtype=np.float64)
    _require_rows(outcome, p)
    if not isinstance(bins, (int, np.integer)) or bins < 1:
        raise ValueError(f"bins must be an integer of at least 1; got {bins!r}")
    if not len(p):
        raise ValueError("calibration needs at least one row; got none")
    _require_probabilities(p)
    if not np.isin(outcome, (0, 1)).all():
        raise ValueError("came_true must contain only 0 and 1")
    edges = np.linspace(0.0, 1.0, bins + 1)
    bin_of = np.searchsorted(edges[1:-1], p)
    counts = np.bincount(bin_of, minlength=bins)
    present = counts > 0

    def means(values: Array) -> Array:
        return np.bincount(bin_of, weights=values, minlength=bins)[present] / counts[present]

    return Calibration(counts[present], means(p), means(outcome.astype(np.float64)), edges, counts)


def stated_probabilities(
    y_true: ArrayLike, probabilities: ArrayLike, classes: Sequence[Any] | None = None, of: Any = None
) -> tuple[Array, Array]:
    """Convert labels and class probabilities to the arguments of `calibration`.

    Parameters
    ----------
    y_true : array (N,)
        True labels.
    probabilities : array (N,), (N, 1) or (N, C)
        Probabilities of the second of two classes, or of C classes.
    classes : sequence, optional
        Labels of the classes; their numbers from 0 by default.
    of : label, optional
        Class whose probability to use. By default the second of two classes if there is one column;
        otherwise the most likely class of each row (its confidence, as in Guo et al.).

    Returns
    -------
    came_true : array of bool (N,)
        Whether the class was the true one.
    stated : array (N,)
        Its predicted probability.
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
        raise ValueError(
            f"the probabilities are of {P.shape[1]} classes, but {len(classes)} classes were given"
        )
    y = class_numbers(y_true, classes)
    _require_rows(y, P)
    if of is not None:
        chosen = int(class_numbers([of], classes, "of")[0])
    if chosen is not None:
        return y == chosen, P[:, chosen]
    best = P.argmax(axis=1)
    return y == best, P[np.arange(len(P)), best]


@record
class RegressionScores(Record):
    """Scores of a regression.

    Attributes
    ----------
    r2 : float
        Coefficient of determination, see `r2`.
    mean_absolute_error : float
    root_mean_squared_error : float
    """

    r2: float
    mean_absolute_error: float
    root_mean_squared_error: float


def regression_scores(y_true: ArrayLike, predicted: ArrayLike) -> RegressionScores:
    """R², mean absolute error and root mean squared error.

    Parameters
    ----------
    y_true, predicted : array (N,) or (N, 1)

    Returns
    -------
    RegressionScores

    Raises
    ------
    ValueError
        If there are no rows, the lengths differ, or a value is not finite.
    """
    y, errors = residuals(y_true, predicted)
    residual, spread = np.sum(errors**2), np.sum((y - y.mean()) ** 2)
    return RegressionScores(
        float(_explained(residual, spread)),
        float(np.mean(np.abs(errors))),
        float(np.sqrt(residual / len(y))),
    )


def residuals(y_true: ArrayLike, predicted: ArrayLike) -> tuple[Array, Array]:
    """True values, and predicted − true, both (N,) and float64; raises as `regression_scores` does."""
    columns = []
    for what, given in (("y_true", y_true), ("predicted", predicted)):
        values = np.asarray(given, dtype=np.float64)
        values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
        if values.ndim != 1 or not len(values):
            raise ValueError(
                f"{what} must contain one number per row and at least one row; got shape {values.shape}"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"{what} contains NaN or infinity; all values must be finite")
        columns.append(values)
    y, p = columns
    _require_rows(y, p)
    return y, p - y


def permutation_importance(
    score: Callable[[Array], float], X: Array, groups: Mapping[str, slice], repeats: int = 5, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Decrease of a score when the values of a column are shuffled among the rows.

    Importance = score(X) − mean over shuffles of score(X with the column shuffled): Breiman (2001),
    "Random forests", section 10; Fisher, Rudin and Dominici (2019). Columns with the same information
    share its importance. The shuffles depend only on the seed.

    Parameters
    ----------
    score : callable
        Function from rows such as X to a number; greater is better.
    X : array (N, I)
        Inputs. They are not modified.
    groups : dict of str to slice
        Columns of X to shuffle together, by name.
    repeats : int, default 5
        Number of shuffles.
    seed : int, default 0
        Seed of the shuffles.

    Returns
    -------
    dict of str to (float, float)
        Mean and standard deviation of the decrease over the repeats, by name.
    """
    baseline = score(X)
    shuffled = X.copy()
    orders = [reference.permutation(len(X), seed, repeat) for repeat in range(repeats)]
    result = {}
    for name, block in groups.items():
        decreases = []
        for order in orders:
            shuffled[:, block] = X[order, block]
            decreases.append(baseline - score(shuffled))
        shuffled[:, block] = X[:, block]
        result[name] = (float(np.mean(decreases)), float(np.std(decreases)))
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
    # A softmax may exceed 1 slightly because of rounding.
    if not ((P >= 0) & (P <= 1 + 1e-6)).all():
        raise ValueError("probabilities must be from 0 to 1")


def _require_rows(first: Array, second: Array) -> None:
    if first.ndim != 1 or len(first) != len(second):
        raise ValueError(
            f"predictions and true values must have the same length; got shapes {first.shape} and "
            f"{second.shape}"
        )


def _object_array(values: Sequence[Any]) -> Array:
    result = np.empty(len(values), dtype=object)
    result[:] = list(values)
    return result
