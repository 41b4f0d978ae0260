"""The losses as functions of the margin (classification) or of the error (regression).

Each curve is the result of `bpfast.kernels.loss_and_delta` for one row, and below it the delta, ∂L/∂z: the
pull of the row. All losses in the table are drawn, so that a new one appears by itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bpfast import kernels
from bpfast.specs.losses import Loss, losses

from ..arrays import Array
from ._common import COLOURS, dress, figure, write

CLASSES = 10
STYLES = ("-", "--", "-.", (0, (1, 1.2)), (0, (6, 1.5)))


def curve(loss: Loss, t: Array) -> tuple[Array, Array]:
    """Return the loss of a row and its ∂L/∂z at the margin or error t.

    The margin is y z for classes ±1, z for class 1 of 0 and 1, and with several classes the output of
    the correct class minus those of the others, which are all equal. The error is z - y with y = 0;
    for counts y = 1, for which the best z = log y is also 0.
    """
    Z = t[:, None]
    Y: Array = np.ones((1, 1))
    if loss.targets == "classes":
        Z = np.hstack([Z, np.zeros((len(t), CLASSES - 1))])
        Y = np.zeros(1, np.int64)
    elif loss.targets == "values":
        Y = np.zeros((1, 1))
    values, D = zip(*(kernels.loss_and_delta(loss, Y, row[None]) for row in Z), strict=True)
    return np.array(values), np.array([delta[0, 0] for delta in D])


def show(axes: Any, t: Array, members: list[Loss], labels: dict[str, str], figures: dict[str, Any]) -> None:
    """Draw the losses of one column of the picture; print them at some integers."""
    whole = [-2, -1, 0, 1, 2]
    print(f"{'':<16}" + "".join(f"{point:>9}" for point in whole))
    for index, loss in enumerate(members):
        values, slopes = curve(loss, t)
        style: dict[str, Any] = {
            "color": COLOURS[index % len(COLOURS)],
            "linestyle": STYLES[index % len(STYLES)],
            "linewidth": 1.8,
        }
        axes[0].plot(t, values, label=labels.get(loss.name, loss.name), **style)
        axes[1].plot(t, slopes, **style)
        at, pull = curve(loss, np.array(whole, float))
        print(f"{loss.name:<16}" + "".join(f"{value:9.4f}" for value in at))
        print(f"{'  ∂L/∂z':<16}" + "".join(f"{value:9.4f}" for value in pull))
        figures[loss.name] = {"loss": at.tolist(), "slope": pull.tolist()}


def main(picture: str) -> dict[str, Any]:
    """Draw all losses with their slopes."""
    table = [losses.resolve(name) for name in losses]
    regression = [loss for loss in table if loss.targets in ("values", "counts")]
    classification = [loss for loss in table if loss not in regression]
    labels = {
        "cross_entropy": f"cross_entropy, {CLASSES} classes",
        "quantile": "quantile, q = 0.5",
        "huber": "huber, threshold 1",
        "poisson": "poisson, y = 1",
    }
    t = np.linspace(-3, 3, 601)
    sheet = figure(9.5, 6.6)
    axes = sheet.subplots(2, 2, sharex="col", height_ratios=(1.4, 1))
    figures: dict[str, Any] = {}

    print("margin y z")
    axes[0, 0].step(
        t, np.where(t > 0, 0.0, 1.0), color="#999999", linewidth=1.4, label="0/1 (the actual goal)"
    )
    show(axes[:, 0], t, classification, labels, figures)
    print("\nerror z - y (for poisson z - log y)")
    show(axes[:, 1], t, regression, labels, figures)

    for axis, place in zip(axes[0], ("upper right", "upper center"), strict=True):
        axis.set_ylim(-0.2, 6)
        axis.legend(frameon=False, fontsize="small", loc=place)
    axes[1, 0].set_ylim(-4.2, 0.4)
    axes[1, 1].set_ylim(-4.2, 4.2)
    dress(axes[0, 0], "", "loss of a row")
    dress(axes[1, 0], "margin y z", "∂L/∂z at y = +1")
    dress(axes[0, 1], "", "loss of a row")
    dress(axes[1, 1], "error z - y (for poisson z - log y)", "∂L/∂z")
    axes[0, 0].set_title("classification", fontsize="medium")
    axes[0, 1].set_title("regression", fontsize="medium")
    write(sheet, picture)
    return figures
