"""Plots of training curves and of learning rate range tests."""

from __future__ import annotations

import math
import os
from typing import Protocol

from ..arrays import Array
from .style import HELD_OUT, INK, TRAINED, Axes, Figure, dress, new_figure, require_drawable, write

_METRICS = {"accuracy": "accuracy", "r2": "R²"}


class HistoryLike(Protocol):
    """What `plot_history` needs of a `bpfast.History`."""

    @property
    def restored(self) -> int | None:
        """The epoch, from 0, whose weights early stopping restored; None for the last."""

    def __contains__(self, name: object) -> bool: ...
    def __getitem__(self, name: str) -> list[float]: ...
    def __len__(self) -> int: ...


class RangeTestLike(Protocol):
    """What `plot_range_test` needs of a `bpfast.RangeTest`."""

    @property
    def rates(self) -> Array:
        """Learning rates, ascending."""

    @property
    def losses(self) -> Array:
        """Loss of each batch."""

    @property
    def smoothed(self) -> Array:
        """Smoothed losses."""

    @property
    def suggestion(self) -> float:
        """Suggested learning rate, or NaN."""


def plot_history(history: HistoryLike, path: str | os.PathLike[str] | None = None) -> Figure:
    """Plot the loss and the metric of the held-out rows over the epochs.

    The epoch with the lowest held-out loss (if there is none, the lowest loss) is marked, and so is the
    epoch whose weights `EarlyStopping` restored. The learning rate is plotted if it changed.

    Parameters
    ----------
    history : History
        Result of `Network.fit`.
    path : path, optional
        Image file to write; its extension determines the format.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot.
    """
    if path is not None:
        require_drawable(path)
    metrics = [name for name in _METRICS if f"val_{name}" in history]
    rates = [rate for rate in history["learning_rate"] if not math.isnan(rate)]
    changes = bool(rates) and max(rates) > min(rates) * (1 + 1e-6)
    figure = new_figure(7.0, 2.9 + 2.3 * len(metrics) + 1.3 * changes)
    ratios = [1.35, *[1.0] * len(metrics), *[0.6] * changes]
    axes = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    _draw_losses(axes[0], history)
    for axis, name in zip(axes[1:], metrics, strict=False):
        _draw_metric(axis, _METRICS[name], history[f"val_{name}"])
    if changes:
        _line(axes[-1], history["learning_rate"], "", INK)
        axes[-1].set_ylabel("learning rate")
        if 0 < 20 * min(rates) < max(rates):
            axes[-1].set_yscale("log")
    if history.restored is not None:
        for axis in axes:
            axis.axvline(history.restored + 1, color=INK, linewidth=1.0, linestyle=":", label="_kept")
    for axis in axes:
        dress(axis)
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    return write(figure, path)


def _draw_losses(axis: Axes, history: HistoryLike) -> None:
    curves = [("loss", "training", TRAINED), ("val_loss", "held-out", HELD_OUT)]
    drawn = [curve for curve in curves if curve[0] in history]
    for name, label, colour in drawn:
        _line(axis, history[name], label, colour)
    values = [value for name, _, _ in drawn for value in history[name]]
    if values:
        name, _, colour = drawn[-1]
        best = min(range(len(history)), key=history[name].__getitem__)
        label = f"lowest, epoch {best + 1}" + (" (kept)" if history.restored == best else "")
        axis.scatter(
            [best + 1], [history[name][best]], s=42, facecolors="none", edgecolors=colour, label=label
        )
    if values and 0 < 20 * min(values) < max(values):
        axis.set_yscale("log")
    axis.set_ylabel("loss")
    if values:
        axis.legend(frameon=False, labelcolor=INK)
    else:
        axis.text(0.5, 0.5, "no complete epoch", transform=axis.transAxes, ha="center", color=INK)


def _draw_metric(axis: Axes, label: str, values: list[float]) -> None:
    _line(axis, values, "held-out", HELD_OUT)
    best = max(range(len(values)), key=values.__getitem__)
    axis.set_ylabel(f"held-out {label}")
    axis.set_title(
        f"last {values[-1]:.4f}, best {values[best]:.4f} in epoch {best + 1}",
        loc="right",
        fontsize="small",
        color=INK,
    )


def _line(axis: Axes, values: list[float], label: str, colour: str) -> None:
    # A line needs two points, so a few epochs are drawn with markers.
    marker = "o" if len(values) <= 12 else ""
    epochs = range(1, len(values) + 1)
    axis.plot(epochs, values, label=label, color=colour, linewidth=1.8, marker=marker, markersize=4)


def plot_range_test(test: RangeTestLike, path: str | os.PathLike[str] | None = None) -> Figure:
    """Plot the loss of every step of a range test and the smoothed loss over the learning rate.

    Parameters
    ----------
    test : RangeTest
        Result of `bpfast.find_learning_rate`.
    path : path, optional
        Image file to write; its extension determines the format.

    Returns
    -------
    matplotlib.figure.Figure
    """
    if path is not None:
        require_drawable(path)
    figure = new_figure(7.0, 3.6)
    axis = figure.subplots()
    axis.plot(test.rates, test.losses, ".", color="#999999", markersize=4, label="batch")
    axis.plot(test.rates, test.smoothed, color=TRAINED, linewidth=1.8, label="smoothed")
    if not math.isnan(test.suggestion):
        label = f"suggestion {test.suggestion:.2g}"
        axis.axvline(test.suggestion, color=HELD_OUT, linewidth=1.4, linestyle="--", label=label)
    axis.set_xscale("log")
    # Cut off the diverging part, which would flatten the rest.
    falling = slice(test.smoothed.argmin() + 1)
    low = min(test.losses.min(), test.smoothed.min())
    high = max(test.losses[falling].max(), test.smoothed[falling].max())
    room = 0.15 * (high - low if high > low else max(abs(high), 1.0))
    axis.set_ylim(low - room, high + 2 * room)
    axis.set_xlabel("learning rate")
    axis.set_ylabel("loss")
    dress(axis)
    axis.legend(frameon=False, labelcolor=INK, loc="best")
    return write(figure, path)
