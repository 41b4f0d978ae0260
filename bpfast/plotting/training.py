"""Pictures of a training: its curves, its learning rates, what flows through the network."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from .style import HELD_OUT, INK, LEGEND, TRAINED, dress, new_figure, require_drawable, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]

    from ..diagnostics.gradient_flow import Flow, GradientFlow
    from ..diagnostics.learning_rate import RangeTest
    from ..training.history import History

_METRICS = {"accuracy": "accuracy", "r2": "R²"}


def plot_history(history: History, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw the loss and, below it, the metric of the held-out rows over the epochs.

    The epoch with the lowest held-out loss (without one: the lowest loss) has a mark, and a line goes
    through the epoch whose weights were put back, where `EarlyStopping` did. The learning rate has a
    panel where it changed.

    Parameters
    ----------
    history : History
        What `Network.fit` returned.
    path : path, optional
        Where to write the picture; its ending names the format.

    Returns
    -------
    matplotlib.figure.Figure
        Bound to no window and to no global state.
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


def plot_range_test(test: RangeTest, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw the loss of every step of a range test, smoothed, over the learning rate.

    Parameters
    ----------
    test : RangeTest
        What `bpfast.find_learning_rate` returned.
    path : path, optional
        Where to write the picture; its ending names the format.

    Returns
    -------
    matplotlib.figure.Figure
    """
    if path is not None:
        require_drawable(path)
    figure = new_figure(7.0, 3.6)
    axis = figure.subplots()
    axis.plot(test.rates, test.losses, ".", color="#999999", markersize=4, label="a batch")
    axis.plot(test.rates, test.smoothed, color=TRAINED, linewidth=1.8, label="smoothed")
    if not math.isnan(test.suggestion):
        label = f"suggestion {test.suggestion:.2g}"
        axis.axvline(test.suggestion, color=HELD_OUT, linewidth=1.4, linestyle="--", label=label)
    axis.set_xscale("log")
    # What diverges in the end is cut off: it would flatten the rest.
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


def plot_flow(flow: Flow, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw activations, saturation, norms and update ratios, from input to output.

    Parameters
    ----------
    flow : Flow
        What `bpfast.gradient_flow` returned.
    path : path, optional
        Where to write the picture; its ending names the format.

    Returns
    -------
    matplotlib.figure.Figure
    """
    if path is not None:
        require_drawable(path)
    places = range(len(flow))
    figure = new_figure(max(6.0, 2.6 + 0.42 * len(flow)), 8.6)
    axes = figure.subplots(4, 1, sharex=True)
    axes[0].errorbar(
        places,
        flow.column("mean"),
        flow.column("deviation"),
        fmt="o",
        color=TRAINED,
        capsize=3,
        markersize=4,
    )
    axes[0].set_ylabel("A: mean ± deviation")
    width = 0.38
    axes[1].bar([p - width / 2 for p in places], flow.column("saturated"), width, color=TRAINED)
    axes[1].bar([p + width / 2 for p in places], flow.column("dead"), width, color=HELD_OUT)
    axes[1].legend(["elements where f is flat", "units flat in all rows"], frameon=False, labelcolor=INK)
    axes[1].set_ylim(0, 1.05)
    axes[1].set_ylabel("share")
    for name, label, colour in (
        ("delta_norm", "‖D‖", TRAINED),
        ("gradient_norm", "‖∂L/∂W‖", HELD_OUT),
    ):
        _dots(axes[2], flow.column(name), label, colour)
    if axes[2].get_lines():
        axes[2].legend(frameon=False, labelcolor=INK)
    axes[2].set_ylabel("norm")
    _dots(axes[3], flow.column("update_ratio"), "", TRAINED)
    axes[3].set_ylabel("‖ΔW‖ / ‖W‖")
    for axis in axes:
        dress(axis)
    axes[-1].set_xticks(list(places), [op.name for op in flow], rotation=40, ha="right", fontsize="small")
    axes[-1].set_xlim(-0.6, len(flow) - 0.4)
    figure.align_ylabels(axes)
    return write(figure, path)


def _dots(axis: Any, values: Any, label: str, colour: str) -> None:
    """Positive values on a logarithmic axis, those that are there joined."""
    there = [(place, value) for place, value in enumerate(values) if value > 0]
    if there:
        axis.plot(*zip(*there, strict=True), "o-", label=label, color=colour, linewidth=1.4, markersize=4)
        _whole_decades(axis)
    else:
        axis.text(0.5, 0.5, "none", transform=axis.transAxes, ha="center", color=INK)


def _whole_decades(axis: Any) -> None:
    """A logarithmic axis from one power of ten to another: little changes look little."""
    from matplotlib.ticker import NullFormatter

    values = [value for line in axis.get_lines() for value in line.get_ydata() if value > 0]
    low, high = (math.log10(limit(values)) for limit in (min, max))
    axis.set_yscale("log")
    axis.set_ylim(10 ** math.floor(low - 0.05), 10 ** math.ceil(high + 0.05))
    axis.yaxis.set_minor_formatter(NullFormatter())


def plot_flow_history(record: GradientFlow, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw the gradient norm, the update ratio and the saturation of every op over the epochs.

    Parameters
    ----------
    record : GradientFlow
        The callback, after a training.
    path : path, optional
        Where to write the picture; its ending names the format.

    Returns
    -------
    matplotlib.figure.Figure
    """
    if path is not None:
        require_drawable(path)
    if not record.flows:
        raise ValueError("this GradientFlow has recorded nothing yet; pass it to fit(..., callbacks=[...])")
    panels = [
        (name, label)
        for name, label in (
            ("gradient_norm", "‖∂L/∂W‖"),
            ("update_ratio", "‖ΔW‖ / ‖W‖ an epoch"),
            ("saturated", "share where f is flat"),
        )
        if name == "gradient_norm" or (record.column(name) >= 0).any()
    ]
    figure = new_figure(8.0, 0.6 + 2.4 * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    drawn: dict[int, Any] = {}
    for axis, (name, label) in zip(axes, panels, strict=True):
        table = record.column(name)
        logarithmic = name != "saturated" and bool((table > 0).any())
        if logarithmic:
            table[table <= 0] = math.nan
        for place in _told_apart(record.flows[0], table, name != "saturated"):
            colour = _shade(place, table.shape[1])
            drawn[place] = axis.plot(
                record.epochs, table[:, place], color=colour, linewidth=1.5, marker=".", markersize=4
            )[0]
        if logarithmic:
            _whole_decades(axis)
        else:
            axis.set_ylim(-0.02, 1.05)
        axis.set_ylabel(label)
        dress(axis)
    figure.align_ylabels(axes)
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    places = sorted(drawn)
    if len(places) > LEGEND:
        # So many shades are not told apart by name: every few of them, first and last included.
        places = [places[round(k * (len(places) - 1) / (LEGEND - 1))] for k in range(LEGEND)]
    figure.legend(
        [drawn[place] for place in places],
        [record.flows[0][place].name for place in places],
        loc="outside right upper",
        frameon=False,
        labelcolor=INK,
        fontsize="small",
        title="input to output",
    )
    return write(figure, path)


def _told_apart(flow: Flow, table: Any, norms: bool) -> list[int]:
    """The ops to draw a table's columns of: where there are many, of norms those of dense layers."""
    places = [place for place in range(len(flow)) if (table[:, place] >= 0).any()]
    dense = [place for place in places if " dense " in flow[place].name]
    return dense if len(places) > LEGEND and dense and norms else places


def _shade(place: int, count: int) -> Any:
    """From dark for the input to light for the output; readable in grey too."""
    from matplotlib import colormaps

    return colormaps["viridis"](0.9 * place / max(1, count - 1))


def _draw_losses(axis: Any, history: History) -> None:
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
        axis.text(0.5, 0.5, "no whole epoch", transform=axis.transAxes, ha="center", color=INK)


def _draw_metric(axis: Any, label: str, values: list[float]) -> None:
    _line(axis, values, "held-out", HELD_OUT)
    best = max(range(len(values)), key=values.__getitem__)
    axis.set_ylabel(f"held-out {label}")
    axis.set_title(
        f"last {values[-1]:.4f}, best {values[best]:.4f} in epoch {best + 1}",
        loc="right",
        fontsize="small",
        color=INK,
    )


def _line(axis: Any, values: list[float], label: str, colour: str) -> None:
    # A line needs two points: a short training shows its epochs as dots.
    marker = "o" if len(values) <= 12 else ""
    epochs = range(1, len(values) + 1)
    axis.plot(epochs, values, label=label, color=colour, linewidth=1.8, marker=marker, markersize=4)
