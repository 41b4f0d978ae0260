"""Batches of four rows from few classes, on which BatchNorm fails and BatchRenorm does not.

BatchNorm trains with the mean and variance of a batch and predicts with running averages. If batches are
small and not random samples, both suffer: what the rows of a batch have in common, such as their class, is
removed before the next layer sees it, and the weights were not trained with the running statistics of
prediction. BatchRenorm (Ioffe 2017) corrects each batch to the running statistics by r and d, which are
constants in the gradient, and so trains with what it predicts with.

Ioffe's batches of 32 contained two images of each of 16 classes. Here the four rows of a batch of digits are
random, two pairs of one class each, or four of one class. On random batches both layers do well. On pairs
BatchNorm is worse by 12 to 32 percentage points with eight seeds, and by 3 to 14 with a third of the learning
rate and five seeds. With four of one class BatchRenorm fails too, and only a network without normalisation
learns: the gradient still passes through the mean μ of the batch, which removes what the rows share. Wider
limits of r and d do not help.
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

#: Number of consecutive rows of one class → title.
RUNS = {1: "random rows", 2: "pairs of one class", 4: "four of one class"}

#: Small batches: the running statistics must average over more of them than by default.
NORMALISATIONS: dict[str, list[Layer]] = {
    "none": [],
    "BatchNorm": [bp.BatchNorm(momentum=0.01)],
    "BatchRenorm": [bp.BatchRenorm(momentum=0.01)],
}


def batches(y: Array, run: int, rng: np.random.Generator) -> Array:
    """Return the rows of an epoch in random order, in runs of one class; only whole batches."""
    runs = []
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        runs.append(rows[: len(rows) // run * run].reshape(-1, run))
    order: Array = rng.permutation(np.concatenate(runs)).ravel()
    return order[: len(order) // BATCH * BATCH]


def train(normalisation: str, run: int, seed: int) -> list[float]:
    """Return the held-out accuracy of each epoch."""
    X, y, X_test, y_test = digits()
    hidden = [bp.Dense(UNITS), *NORMALISATIONS[normalisation], bp.Activation("relu")] * HIDDEN
    net = bp.Network([*hidden, bp.Dense(10)], n_inputs=X.shape[1], loss="cross_entropy", seed=seed)
    rng = np.random.default_rng(seed)
    accuracies: list[float] = []
    for _ in range(EPOCHS):
        order = batches(y, run, rng)
        # The optimizer continues from call to call.
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
    """Train with each normalisation on each kind of batch; print and draw the held-out accuracy."""
    print(f"{HIDDEN} hidden layers of {UNITS} units on the digits, batches of {BATCH}, {EPOCHS} epochs")
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
