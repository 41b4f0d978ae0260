"""batch-renorm: batches of four rows that resemble each other, which BatchNorm fails on.

BatchNorm trains with the mean and variance of a batch and predicts with those of many. Where batches are
small and their rows no fair sample, both suffer: what the rows of a batch have in common, such as their
class, is taken away before the next layer sees it, and the running statistics of prediction are none that
the weights were trained with. BatchRenorm (Ioffe 2017) corrects each batch to the running statistics by r
and d, constants for the gradient, and so trains what it predicts with.

Ioffe's batches of 32 held two images of each of 16 classes; here the four rows of a batch of digits are any
four, two and two of a class, or four of a class. On any four both layers do well. On two and two BatchNorm
falls behind, by 12 to 32 points with eight seeds, and at a third of the rate by 3 to 14 with five. On four
of a class BatchRenorm is lost too, and only a network without normalisation learns: the gradient still
passes through the batch's μ, which takes from it what the rows share. Wider limits of r and d do not mend
that.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import bpfast as bp
from bpfast.specs.layers import Layer

from ..arrays import Array
from ._common import COLOURS, digits, dress, figure, write

HIDDEN, UNITS, BATCH, EPOCHS = 4, 64, 4, 40
SEEDS = (0, 1, 2)
RULE = bp.SGD(bp.Cosine(0.01, EPOCHS), momentum=0.9)

#: How many rows of a class follow each other → how the picture calls it.
RUNS = {1: "any four", 2: "two and two of a class", 4: "four of a class"}

#: The running statistics have to average over more batches than by default, since these are small.
NORMALISATIONS: dict[str, list[Layer]] = {
    "none": [],
    "BatchNorm": [bp.BatchNorm(momentum=0.01)],
    "BatchRenorm": [bp.BatchRenorm(momentum=0.01)],
}


def batches(y: Array, run: int, rng: np.random.Generator) -> Array:
    """The rows of an epoch in random order, but in runs of one class; whole batches only."""
    runs = []
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        runs.append(rows[: len(rows) // run * run].reshape(-1, run))
    order: Array = rng.permutation(np.concatenate(runs)).ravel()
    return order[: len(order) // BATCH * BATCH]


def train(normalisation: str, run: int, seed: int) -> list[float]:
    """The held-out accuracy of each epoch."""
    X, y, X_test, y_test = digits()
    hidden = [bp.Dense(UNITS), *NORMALISATIONS[normalisation], bp.Activation("relu")] * HIDDEN
    net = bp.Network([*hidden, bp.Dense(10)], n_inputs=X.shape[1], loss="cross_entropy", seed=seed)
    rng = np.random.default_rng(seed)
    accuracies: list[float] = []
    for _ in range(EPOCHS):
        order = batches(y, run, rng)
        # The optimizer's state and its schedule go on from call to call.
        history = net.fit(
            X[order],
            y[order],
            epochs=1,
            batch_size=BATCH,
            shuffle=False,
            optimizer=RULE,
            validation=(X_test, y_test),
        )
        accuracies += history.val_accuracy
    return accuracies


def main(picture: str) -> dict[str, Any]:
    """Train with each normalisation on each kind of batches; print and draw the held-out accuracy."""
    print(f"{HIDDEN} hidden layers of {UNITS} on the digits, batches of {BATCH}, {EPOCHS} epochs")
    print(f"{'batches':<24}{'normalisation':<15}held-out accuracy with seeds {', '.join(map(str, SEEDS))}")
    curves: dict[tuple[int, str], Array] = {}
    figures: dict[str, Any] = {}
    for run, title in RUNS.items():
        figures[title] = {}
        for name in NORMALISATIONS:
            curves[run, name] = np.array([train(name, run, seed) for seed in SEEDS])
            figures[title][name] = last = curves[run, name][:, -1].tolist()
            print(f"{title:<24}{name:<15}{'  '.join(f'{accuracy:.3f}' for accuracy in last)}")
    _draw(curves, picture)
    return figures


def _draw(curves: dict[tuple[int, str], Array], picture: str) -> None:
    sheet = figure(11.0, 4.2)
    axes = sheet.subplots(1, len(RUNS), sharey=True)
    epochs = range(1, EPOCHS + 1)
    for axis, (run, title) in zip(axes, RUNS.items(), strict=True):
        for name, colour in zip(NORMALISATIONS, COLOURS[2::-1], strict=True):
            accuracies = curves[run, name]
            axis.fill_between(
                epochs, accuracies.min(axis=0), accuracies.max(axis=0), color=colour, alpha=0.2, linewidth=0
            )
            axis.plot(epochs, accuracies.mean(axis=0), color=colour, linewidth=1.8, label=name)
        axis.axhline(0.1, color="#777777", linewidth=0.8, linestyle=":", label="chance")
        axis.set_ylim(0, 1.02)
        dress(axis, "epoch", "" if run > 1 else "held-out accuracy")
        axis.set_title(f"batches of {BATCH}: {title}", fontsize="medium")
    axes[0].legend(
        title=f"mean and range of {len(SEEDS)} seeds", frameon=False, loc="center right", fontsize="small"
    )
    write(sheet, picture)
