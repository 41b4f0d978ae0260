"""The activations and their derivatives.

The curves are computed by the kernels that train: A = f(XW + b) with a single weight of 1 is f itself. All
activations in the table are drawn, so that a new one appears by itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpfast import kernels
from bpfast.specs.activations import activations

from ..arrays import Array
from ._common import COLOURS, dress, figure, write

LIMIT = 5.0


def curves(name: str, Z: Array) -> tuple[Array, Array]:
    """Return f(Z) and f′(Z) of a vector."""
    A = kernels.dense_forward(Z[:, None], np.ones((1, 1)), activation=name)
    return A[:, 0], kernels.activation_derivative(Z, name)


def main(picture: str) -> dict[str, Any]:
    """Draw f and f′ of every activation; print its range and slopes."""
    # An even number of points, so that 0, where some derivatives jump, is not among them.
    Z = np.linspace(-LIMIT, LIMIT, 2000)
    columns = 5
    rows = math.ceil(len(list(activations)) / columns)
    sheet = figure(2.25 * columns, 2.35 * rows + 0.4)
    axes = sheet.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)

    print(f"{'activation':<12} {'lowest f':>9} {'highest':>8} {'steepest f′':>12} {'f′(-5)':>9} {'f′(5)':>8}")
    figures: dict[str, Any] = {}
    for axis, name in zip(axes.flat, activations, strict=False):
        A, slope = curves(name, Z)
        axis.plot(Z, A, color=COLOURS[0], linewidth=1.8, label="f(z)")
        axis.plot(Z, slope, color=COLOURS[1], linewidth=1.5, linestyle="--", label="f′(z)")
        axis.set_title(name, fontsize="medium")
        figures[name] = {
            "lowest": float(A.min()),
            "highest": float(A.max()),
            "steepest": float(slope.max()),
            # A slope close to 0 stops deltas.
            "left": float(slope[0]),
            "right": float(slope[-1]),
        }
        print(
            f"{name:<12} {A.min():9.3f} {A.max():8.3f} {slope.max():12.3f} {slope[0]:9.5f} {slope[-1]:8.5f}"
        )

    for axis in axes.flat[len(figures) :]:
        axis.set_visible(False)
    for axis in axes.flat[: len(figures)]:
        dress(axis, "", "")
        axis.set_ylim(-2.2, LIMIT + 0.3)
        axis.tick_params(labelbottom=True)
    for axis in axes[-1]:
        axis.set_xlabel("z")
    axes[0, 0].legend(frameon=False, loc="upper left")
    write(sheet, picture)
    return figures
