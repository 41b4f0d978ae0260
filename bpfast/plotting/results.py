"""Plots of results: confusion matrix, calibration, predictions, feature importance."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import evaluation
from .style import (
    FAINT,
    HELD_OUT,
    INK,
    TRAINED,
    Axes,
    Figure,
    drawable,
    drawable_names,
    dress,
    figure_text,
    name_style,
    new_figure,
    require_drawable,
    write,
)

#: Maximum number of classes for which cells show counts and shares, and only counts.
SHARES, COUNTS = 12, 30
#: Maximum number of points that are drawn individually; beyond it their density is drawn.
POINTS = 2000


def plot_confusion(
    y_true: ArrayLike,
    y_predicted: ArrayLike,
    classes: Sequence[Any] | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Plot the confusion matrix: counts, coloured by their share of the true class.

    Parameters
    ----------
    y_true : array (N,)
        True labels; or indices into `classes`, if those are strings.
    y_predicted : array (N,), (N, 1) or (N, C)
        Predicted labels; or probabilities of the second of two classes, or of C classes.
    classes : sequence, optional
        Labels in the order to plot; by default those that occur, sorted, or for probabilities their
        numbers from 0.
    path : path, optional
        Image file to write; its extension determines the format.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If a label is not one of the classes, or the lengths differ.
    """
    if path is not None:
        require_drawable(path)
    predicted = np.asarray(y_predicted)
    if classes is None:
        columns = max(2, predicted.shape[1]) if predicted.ndim == 2 else 0
        classes = range(columns) if columns else _occurring(y_true, predicted)
    labels = evaluation.labels_of(predicted, classes)
    counts = evaluation.confusion_matrix(
        evaluation.class_numbers(y_true, classes),
        evaluation.class_numbers(labels, classes, "y_predicted"),
        len(classes),
    )
    return write(_draw_confusion(counts, classes), path)


def _occurring(y_true: ArrayLike, predicted: Any) -> list[Any]:
    labels = {*np.asarray(y_true).ravel().tolist(), *predicted.ravel().tolist()}
    try:
        return sorted(labels)
    except TypeError:
        raise ValueError("labels of different types cannot be sorted; pass classes") from None


def _draw_confusion(counts: Any, classes: Sequence[Any]) -> Figure:
    from matplotlib import colormaps

    n = len(classes)
    names = drawable_names(classes)
    cell = 1.0 if n <= 4 else 0.62 if n <= SHARES else 0.42 if n <= COUNTS else 0.21
    room = 0.075 * max(map(len, names), default=1) + 0.7
    figure = new_figure(max(4.0, n * cell + room + 1.0), max(3.4, n * cell + room))
    axis = figure.subplots()
    support = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(support, 1)
    image = axis.imshow(shares, cmap=colormaps["Blues"], vmin=0.0, vmax=1.0, aspect="equal")
    for row, column in np.argwhere(counts > 0) if n > SHARES else np.ndindex(n, n):
        count, share = int(counts[row, column]), float(shares[row, column])
        text = f"{count:,}" + (f"\n{share:.0%}" if n <= SHARES and count else "")
        size = 8.0 if n <= SHARES else 7.0 if n <= COUNTS else 5.5
        size *= min(1.0, (7.5 if n <= SHARES else 4.6) / len(f"{count:,}"))
        ink = "white" if share > 0.55 else INK if count else "#AAAAAA"
        axis.text(column, row, text, ha="center", va="center", color=ink, fontsize=size)
    small = "small" if n <= COUNTS else 6.5
    turned = 0 if max(map(len, names), default=0) * 0.085 < cell else 90
    axis.set_xticks(range(n), names, rotation=turned, **name_style(small))
    axis.set_yticks(range(n), names, **name_style(small))
    axis.tick_params(length=0, colors=INK, labelcolor=INK)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    correct = int(np.trace(counts))
    total = int(counts.sum())
    if total:
        title = f"{correct:,} of {total:,} correct ({correct / total:.2%})"
        axis.set_title(title, loc="left", fontsize="small", color=INK)
    bar = figure.colorbar(image, ax=axis, shrink=0.8, aspect=28, label="share of the true class")
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelcolor=INK)
    return figure


def plot_calibration(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    classes: Sequence[Any] | None = None,
    of: Any = None,
    bins: int = 10,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Plot observed frequencies against predicted probabilities, and the number of rows in each bin.

    The title shows the expected calibration error, ECE = Σ over bins of (rows of the bin / rows) ·
    |observed frequency − mean predicted probability| (Naeini et al. 2015; Guo et al. 2017, equation 3);
    see `bpfast.evaluation.calibration`.

    Parameters
    ----------
    y_true : array (N,)
        True labels, as for `plot_confusion`.
    probabilities : array (N,), (N, 1) or (N, C)
        Probabilities of the second of two classes, or of C classes.
    classes : sequence, optional
        Labels of the classes; their numbers from 0 by default.
    of : label, optional
        Class whose probability to plot, against all others. By default the second of two classes if there
        is one column, otherwise the most likely class of each row.
    bins : int, default 10
        Number of bins, of equal width from 0 to 1.
    path : path, optional
        Image file to write; its extension determines the format.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there are no rows, a probability is not from 0 to 1, or a label is not one of the classes.
    """
    if path is not None:
        require_drawable(path)
    came_true, stated = evaluation.stated_probabilities(y_true, probabilities, classes, of)
    found = evaluation.calibration(came_true, stated, bins)
    figure = new_figure(5.6, 5.4)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.0, 1.0])
    top.plot([0, 1], [0, 1], color="#999999", linewidth=1.2, linestyle="--", label="perfect")
    top.plot(
        found.stated, found.observed, "o-", color=HELD_OUT, linewidth=1.8, markersize=5, label="this model"
    )
    top.set_ylim(-0.02, 1.02)
    top.set_ylabel("observed frequency")
    top.set_title(
        f"expected calibration error {found.error:.4f} ({bins} bins)", loc="left", fontsize="small", color=INK
    )
    width = 1.0 / bins
    bottom.bar(found.edges[:-1], found.all_counts, width, align="edge", color=TRAINED, edgecolor="white")
    bottom.set_ylabel("rows")
    bottom.set_xlim(-0.02, 1.02)
    one = of is not None or np.ndim(probabilities) == 1 or np.shape(probabilities)[1] == 1
    if of is not None:
        which = f"predicted probability of {drawable(of)}"
    else:
        which = "predicted probability of the second class" if one else "probability of the predicted class"
    bottom.set_xlabel(which, **name_style("medium"))
    for axis in (top, bottom):
        dress(axis)
    top.legend(frameon=False, labelcolor=INK, loc="best")
    figure.align_ylabels([top, bottom])
    return write(figure, path)


def plot_predictions(
    y_true: ArrayLike,
    predicted: ArrayLike,
    path: str | os.PathLike[str] | None = None,
    name: str = "",
) -> Figure:
    """Plot predicted against true numbers, and a histogram of the errors.

    More than `POINTS` points are drawn as their density. The histogram omits the largest 1 % of the
    errors if they would flatten the rest, and says so.

    Parameters
    ----------
    y_true, predicted : array (N,) or (N, 1)
    path : path, optional
        Image file to write; its extension determines the format.
    name : str, optional
        Name of the target.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there are no rows, the lengths differ, or a value is not finite.
    """
    if path is not None:
        require_drawable(path)
    scores = evaluation.regression_scores(y_true, predicted)
    y, errors = evaluation.residuals(y_true, predicted)
    figure = new_figure(9.4, 4.3)
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1.0])
    low, high = min(y.min(), (y + errors).min()), max(y.max(), (y + errors).max())
    room = 0.03 * (high - low) or 1.0
    limits = (low - room, high + room)
    if len(y) <= POINTS:
        left.plot(y, y + errors, "o", color=HELD_OUT, alpha=0.45, markersize=4, markeredgewidth=0)
    else:
        from matplotlib import colormaps
        from matplotlib.colors import ListedColormap  # type: ignore[import-not-found, unused-ignore]

        # Without the lightest blues, which are invisible on white.
        blues = ListedColormap(colormaps["Blues"](np.linspace(0.25, 1.0, 256)))
        extent = (*limits, *limits)
        grid = left.hexbin(y, y + errors, gridsize=55, bins="log", mincnt=1, cmap=blues, extent=extent)
        bar = figure.colorbar(grid, ax=left, shrink=0.85, aspect=26, label="rows per cell")
        bar.outline.set_visible(False)
    left.plot(limits, limits, color=INK, linewidth=1.0, linestyle="--")
    left.set_xlim(limits)
    left.set_ylim(limits)
    left.set_aspect("equal", adjustable="box")
    suffix = f": {drawable(name)}" if name else ""
    left.set_xlabel(f"true{suffix}", **name_style("medium"))
    left.set_ylabel("predicted")
    left.set_title(
        f"R² {scores.r2:.4f}, mean absolute error {figure_text(scores.mean_absolute_error)}",
        loc="left",
        fontsize="small",
        color=INK,
    )
    _draw_errors(right, errors)
    for axis in (left, right):
        dress(axis)
        axis.locator_params(axis="x", nbins=5)
    return write(figure, path)


def _draw_errors(axis: Axes, errors: Any) -> None:
    reach = float(np.abs(errors).max())
    most = float(np.quantile(np.abs(errors), 0.99))
    shown = errors[np.abs(errors) <= most] if reach > 2 * most else errors
    bins = int(min(60, max(8, round(2 * math.sqrt(len(shown))))))
    axis.hist(shown, bins=bins, color=TRAINED, edgecolor="white", linewidth=0.4)
    axis.axvline(0.0, color=INK, linewidth=1.0, linestyle="--")
    axis.set_xlabel("predicted − true")
    axis.set_ylabel("rows")
    if len(shown) < len(errors):
        axis.set_xlabel(f"predicted − true ({len(errors) - len(shown):,} larger errors not shown)")
    text = f"half of the errors are within ±{figure_text(float(np.median(np.abs(errors))))}"
    axis.set_title(text, loc="left", fontsize="small", color=INK)


def plot_importance(
    importance: Mapping[str, tuple[float, float]],
    path: str | os.PathLike[str] | None = None,
    most: int = 20,
    unit: str = "score",
) -> Figure:
    """Plot feature importance, the most important column first.

    Parameters
    ----------
    importance : dict of str to (float, float)
        Result of `bpfast.evaluation.permutation_importance`.
    path : path, optional
        Image file to write; its extension determines the format.
    most : int, default 20
        Maximum number of columns to plot.
    unit : str, default "score"
        Name of the score.

    Returns
    -------
    matplotlib.figure.Figure
    """
    if path is not None:
        require_drawable(path)
    if not importance:
        raise ValueError("importance must have at least one column; got none")
    best = sorted(importance.items(), key=lambda item: -item[1][0])[:most]
    figure = new_figure(7.0, 1.0 + 0.3 * len(best))
    axis = figure.subplots()
    positions = range(len(best))
    means, deviations = zip(*(value for _, value in best), strict=True)
    axis.barh(positions, means, xerr=deviations, color=TRAINED, ecolor=INK, capsize=2, height=0.7)
    axis.axvline(0.0, color=INK, linewidth=0.8)
    axis.set_yticks(positions, drawable_names((name for name, _ in best), 36), **name_style())
    axis.invert_yaxis()
    axis.set_xlabel(f"decrease of the {unit} when the column is shuffled")
    dress(axis)
    axis.grid(False, axis="y")
    axis.grid(True, axis="x", color=FAINT, linewidth=0.8)
    return write(figure, path)
