"""Plots of activations and gradients by layer, see `bpfast.gradient_flow`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from ..arrays import Array
from .style import HELD_OUT, INK, LEGEND, TRAINED, Axes, Figure, dress, new_figure, require_drawable, write

#: Panels of `plot_flow_history`: the statistic and its label.
_PANELS = (
    ("gradient_norm", "‖∂L/∂W‖"),
    ("update_ratio", "‖ΔW‖ / ‖W‖ per epoch"),
    ("saturated", "share where f is flat"),
)


class FlowLike(Protocol):
    """What `plot_flow` needs of a `bpfast.Flow`."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...
    def column(self, name: str) -> Array:
        """One statistic of all ops."""


class GradientFlowLike(Protocol):
    """What `plot_flow_history` needs of a `bpfast.GradientFlow`."""

    @property
    def flows(self) -> Sequence[FlowLike]:
        """The recorded tables."""

    @property
    def epochs(self) -> Sequence[int]:
        """The epoch after which each was recorded."""

    def column(self, name: str) -> Array:
        """One statistic of all ops in all epochs."""


def plot_flow(flow: FlowLike, path: str | os.PathLike[str] | None = None) -> Figure:
    """Plot activations, saturation, norms and update ratios of each op, from input to output.

    Parameters
    ----------
    flow : Flow
        Result of `bpfast.gradient_flow`.
    path : path, optional
        Image file to write; its extension determines the format.

    Returns
    -------
    matplotlib.figure.Figure
    """
    if path is not None:
        require_drawable(path)
    ops = range(len(flow))
    figure = new_figure(max(6.0, 2.6 + 0.42 * len(flow)), 8.6)
    axes = figure.subplots(4, 1, sharex=True)
    axes[0].errorbar(
        ops,
        flow.column("mean"),
        flow.column("deviation"),
        fmt="o",
        color=TRAINED,
        capsize=3,
        markersize=4,
    )
    axes[0].set_ylabel("A: mean ± deviation")
    width = 0.38
    axes[1].bar([p - width / 2 for p in ops], flow.column("saturated"), width, color=TRAINED)
    axes[1].bar([p + width / 2 for p in ops], flow.column("dead"), width, color=HELD_OUT)
    axes[1].legend(["elements where f is flat", "units flat for all rows"], frameon=False, labelcolor=INK)
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
    axes[-1].set_xticks(list(ops), [op.name for op in flow], rotation=40, ha="right", fontsize="small")
    axes[-1].set_xlim(-0.6, len(flow) - 0.4)
    figure.align_ylabels(axes)
    return write(figure, path)


def _dots(axis: Axes, values: Any, label: str, colour: str) -> None:
    """Plot the positive values on a logarithmic axis."""
    positive = [(index, value) for index, value in enumerate(values) if value > 0]
    if positive:
        axis.plot(*zip(*positive, strict=True), "o-", label=label, color=colour, linewidth=1.4, markersize=4)
        _whole_decades(axis)
    else:
        axis.text(0.5, 0.5, "none", transform=axis.transAxes, ha="center", color=INK)


def _whole_decades(axis: Axes) -> None:
    """Logarithmic axis between powers of ten, so that small changes look small."""
    from matplotlib.ticker import NullFormatter

    values = [value for line in axis.get_lines() for value in line.get_ydata() if value > 0]
    low, high = (math.log10(limit(values)) for limit in (min, max))
    axis.set_yscale("log")
    axis.set_ylim(10 ** math.floor(low - 0.05), 10 ** math.ceil(high + 0.05))
    axis.yaxis.set_minor_formatter(NullFormatter())


def plot_flow_history(record: GradientFlowLike, path: str | os.PathLike[str] | None = None) -> Figure:
    """Plot the gradient norm, the update ratio and the saturation of every op over the epochs.

    Parameters
    ----------
    record : GradientFlow
        The callback, after training.
    path : path, optional
        Image file to write; its extension determines the format.

    Returns
    -------
    matplotlib.figure.Figure
    """
    if path is not None:
        require_drawable(path)
    if not record.flows:
        raise ValueError("this GradientFlow is empty; pass it to fit(..., callbacks=[...]) first")
    panels = [
        (name, label)
        for name, label in _PANELS
        if name == "gradient_norm" or (record.column(name) >= 0).any()
    ]
    figure = new_figure(8.0, 0.6 + 2.4 * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    lines: dict[int, Any] = {}
    for axis, (name, label) in zip(axes, panels, strict=True):
        lines |= _draw_panel(axis, record, name)
        axis.set_ylabel(label)
        dress(axis)
    figure.align_ylabels(axes)
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    named = sorted(lines)
    if len(named) > LEGEND:
        # Too many shades to distinguish: name some of them at even distances.
        named = [named[round(k * (len(named) - 1) / (LEGEND - 1))] for k in range(LEGEND)]
    figure.legend(
        [lines[index] for index in named],
        [record.flows[0][index].name for index in named],
        loc="outside right upper",
        frameon=False,
        labelcolor=INK,
        fontsize="small",
        title="input to output",
    )
    return write(figure, path)


def _draw_panel(axis: Axes, record: GradientFlowLike, name: str) -> dict[int, Any]:
    """Draw one statistic over the epochs; return the line of each op by its index."""
    table = record.column(name)
    logarithmic = name != "saturated" and bool((table > 0).any())
    if logarithmic:
        table[table <= 0] = math.nan
    lines = {}
    for index in _drawn_ops(record.flows[0], table, name != "saturated"):
        colour = _shade(index, table.shape[1])
        lines[index] = axis.plot(
            record.epochs, table[:, index], color=colour, linewidth=1.5, marker=".", markersize=4
        )[0]
    if logarithmic:
        _whole_decades(axis)
    else:
        axis.set_ylim(-0.02, 1.05)
    return lines


def _drawn_ops(flow: FlowLike, table: Array, norms: bool) -> list[int]:
    """Indices of the ops to draw; if there are many, only the dense layers for norms."""
    known = [index for index in range(len(flow)) if (table[:, index] >= 0).any()]
    dense = [index for index in known if " dense " in flow[index].name]
    return dense if len(known) > LEGEND and dense and norms else known


def _shade(index: int, count: int) -> Any:
    """Colour of an op, from dark for the input to light for the output; readable in greyscale."""
    from matplotlib import colormaps

    return colormaps["viridis"](0.9 * index / max(1, count - 1))
