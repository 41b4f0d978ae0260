"""Pictures of a training, with matplotlib and without its global state."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]

    from .training import History

#: Blue for what was trained on, orange for what was held out: apart for every kind of eye.
_TRAINED, _HELD_OUT, _INK, _FAINT = "#0072B2", "#D55E00", "#333333", "#DDDDDD"
_METRICS = {"accuracy": "accuracy", "r2": "R²"}
DPI = 150


def _figure_class() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ModuleNotFoundError(
            'pictures need matplotlib: pip install "bpfast[plot]"', name="matplotlib"
        ) from None
    return Figure  # type: ignore[no-any-return, unused-ignore]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, bound to no window and to no global state."""
    return _figure_class()(figsize=(width, height), layout="constrained")


def require_drawable(path: str | os.PathLike[str]) -> None:
    """Check that matplotlib is here and knows the format of a path.

    Raises
    ------
    ModuleNotFoundError
        If matplotlib is missing.
    ValueError
        If the path's ending names no format.
    """
    _figure_class()
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # type: ignore[import-not-found, unused-ignore]

    known = sorted(FigureCanvasAgg.get_supported_filetypes())
    ending = os.path.splitext(os.fspath(path))[1].removeprefix(".").lower()
    if ending not in known:
        raise ValueError(f"{os.fspath(path)!r} names no picture format; its ending can be {', '.join(known)}")


def plot_history(history: History, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw the loss and, below it, the metric of the held-out rows over the epochs.

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
    figure = new_figure(7.0, 2.9 + 2.3 * len(metrics))
    ratios = [1.35, *[1.0] * len(metrics)]
    axes = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    _draw_losses(axes[0], history)
    for axis, name in zip(axes[1:], metrics, strict=True):
        _draw_metric(axis, _METRICS[name], history[f"val_{name}"])
    for axis in axes:
        dress(axis)
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    if path is not None:
        figure.savefig(path, dpi=DPI)
    return figure


def _draw_losses(axis: Any, history: History) -> None:
    curves = [("loss", "training", _TRAINED), ("val_loss", "held-out", _HELD_OUT)]
    drawn = [curve for curve in curves if curve[0] in history]
    for name, label, colour in drawn:
        _line(axis, history[name], label, colour)
    values = [value for name, _, _ in drawn for value in history[name]]
    if values and 0 < 20 * min(values) < max(values):
        axis.set_yscale("log")
    axis.set_ylabel("loss")
    if values:
        axis.legend(frameon=False, labelcolor=_INK)
    else:
        axis.text(0.5, 0.5, "no whole epoch", transform=axis.transAxes, ha="center", color=_INK)


def _draw_metric(axis: Any, label: str, values: list[float]) -> None:
    _line(axis, values, "held-out", _HELD_OUT)
    best = max(range(len(values)), key=values.__getitem__)
    axis.set_ylabel(f"held-out {label}")
    axis.set_title(
        f"last {values[-1]:.4f}, best {values[best]:.4f} in epoch {best + 1}",
        loc="right",
        fontsize="small",
        color=_INK,
    )


def _line(axis: Any, values: list[float], label: str, colour: str) -> None:
    # A line needs two points: a short training shows its epochs as dots.
    marker = "o" if len(values) <= 12 else ""
    epochs = range(1, len(values) + 1)
    axis.plot(epochs, values, label=label, color=colour, linewidth=1.8, marker=marker, markersize=4)


def dress(axis: Any) -> None:
    """Grid and spines, in the background."""
    axis.grid(True, color=_FAINT, linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color("#999999")
    axis.tick_params(colors=_INK, labelcolor=_INK)
