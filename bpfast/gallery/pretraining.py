"""A deep network of sigmoids that learns nothing from random weights, and learns after pretraining.

Until 2006 networks with several hidden layers of sigmoids were considered untrainable: every layer reduces
the gradient at least to a quarter, and the lowest layers hardly change. Hinton, Osindero and Teh (2006) first
trained each layer separately, without labels, as a restricted Boltzmann machine; Bengio et al. (2007) used
autoencoders. Backpropagation then starts from layers that already represent the data, and the same steps that
failed before are sufficient.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

import bpfast as bp

from ..arrays import Array
from ._common import COLOURS, digits, dress, figure, write

HIDDEN, UNITS, EPOCHS = 6, 64, 30
RANDOM, ENCODED, BOLTZMANN = "random weights", "autoencoders", "Boltzmann machines"
METHODS = {
    RANDOM: None,
    ENCODED: bp.Autoencoder(epochs=30, corruption=0.25, optimizer=bp.Adam(0.003)),
    BOLTZMANN: bp.RBM(epochs=30),
}


def main(picture: str) -> dict[str, Any]:
    """Train the same network from three starts; draw the accuracies and the weights of the first layer."""
    X, y, X_test, y_test = digits()
    accuracies, weights, figures = {}, {}, {}
    print(f"{HIDDEN} hidden layers of {UNITS} sigmoids on the digits, {EPOCHS} epochs of fine-tuning")
    print(f"{'start':<20}{'pretraining':>13}{'1st epoch':>11}{'last epoch':>12}")
    for name, method in METHODS.items():
        hidden = [bp.Dense(UNITS, "sigmoid", bp.XavierUniform()) for _ in range(HIDDEN)]
        net = bp.Network([*hidden, bp.Dense(10)], n_inputs=64, loss="cross_entropy")
        start = time.perf_counter()
        if method is not None:
            bp.pretrain(net, X, method)
        seconds = time.perf_counter() - start
        weights[name] = net.parameters["0.W"].copy()
        history = net.fit(
            X,
            y,
            epochs=EPOCHS,
            optimizer=bp.SGD(0.1, momentum=0.9),
            validation=(X_test, y_test),
        )
        accuracies[name] = history.val_accuracy
        first, last = history.val_accuracy[0], history.val_accuracy[-1]
        figures[name] = {"seconds": seconds, "first": first, "last": last}
        print(f"{name:<20}{seconds:>11.1f} s{first:>11.3f}{last:>12.3f}")
    _draw(accuracies, weights, picture)
    return figures


def _draw(accuracies: dict[str, list[float]], weights: dict[str, Array], picture: str) -> None:
    sheet = figure(10.0, 6.6)
    parts: Any = sheet.subfigures(2, 1, height_ratios=[1, 0.93])
    curves, features = parts
    axis = curves.subplots()
    for (name, values), colour in zip(accuracies.items(), COLOURS, strict=False):
        axis.plot(range(1, len(values) + 1), values, color=colour, linewidth=1.8, label=name)
    dress(axis, "epoch of fine-tuning", "held-out accuracy")
    axis.set_ylim(0, 1.02)
    axis.set_xlim(0, EPOCHS + 0.5)
    axis.set_title(f"{HIDDEN} hidden layers of {UNITS} sigmoids: the same training from three starts")
    axis.legend(title="start of each layer", frameon=False, loc="center right")
    features.suptitle(
        "The weights of the first layer before fine-tuning, as one image of 8 × 8 pixels per unit"
    )
    panels = features.subplots(1, 3, gridspec_kw={"wspace": 0.06})
    for axis, (name, W) in zip(panels, weights.items(), strict=True):
        image = axis.imshow(_mosaic(W), cmap="RdBu_r", vmin=-1, vmax=1)
        axis.set_title(name, fontsize="medium")
        axis.set_axis_off()
    bar = features.colorbar(image, ax=panels, shrink=0.75, aspect=15, pad=0.02, ticks=[-1, 0, 1])
    bar.set_label("weight / the unit's largest")
    write(sheet, picture)


def _mosaic(W: Array, rows: int = 6, columns: int = 8, side: int = 8) -> Array:
    """Arrange the columns of W as images in a grid, each scaled to its largest element."""
    grid = np.full((rows * (side + 1) - 1, columns * (side + 1) - 1), np.nan)
    for unit in range(rows * columns):
        i, j = (side + 1) * (unit // columns), (side + 1) * (unit % columns)
        w = W[:, unit].reshape(side, side)
        grid[i : i + side, j : j + side] = w / np.abs(w).max()
    return grid
