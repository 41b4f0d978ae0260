"""The penalties: the weights that each of them leaves in a network that learns the digits.

J = mean loss + α Ω(W). L2 makes all weights small and none 0; L1, and therefore the elastic net, sets small
ones to exactly 0 with a proximal step; L0 sets small ones to 0 and leaves the large ones unchanged; Frobenius
scales a whole matrix by its norm. The optimizer is SGD, since rules that scale the gradient of each weight
would also scale the penalty (see `bpfast.penalties`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import bpfast as bp
from bpfast.specs.penalties import penalties

from ..arrays import Array
from ._common import COLOURS, digits, dress, figure, write

EPOCHS = 60

#: α of each, which costs about one percentage point of accuracy; other penalties use the default.
STRENGTHS = {"l2": 1e-2, "l1": 1e-3, "elastic_net": 2e-3, "l0": 1e-2, "frobenius": 6e-2}
DEFAULT_STRENGTH = 1e-4


def train(penalty: Any) -> tuple[Array, float]:
    """Train a network 64-64-10; return its weights and the accuracy on held-out digits."""
    X, y, X_test, y_test = digits()
    net = bp.Network([bp.Dense(64, "relu"), bp.Dense(10)], n_inputs=64, loss="cross_entropy")
    net.fit(X, y, epochs=EPOCHS, batch_size=32, optimizer=bp.SGD(0.1), penalty=penalty)
    weights = np.concatenate([net.parameters["0.W"].ravel(), net.parameters["1.W"].ravel()])
    return weights, float(np.mean(net.predict(X_test).argmax(axis=1) == y_test))


def main(picture: str) -> dict[str, Any]:
    """Train without and with each penalty; draw histograms of the weights."""
    table: dict[str, Any] = {"none": None}
    table |= {name: penalties[name](STRENGTHS.get(name, DEFAULT_STRENGTH)) for name in penalties}

    columns = 3
    rows = math.ceil(len(table) / columns)
    sheet = figure(3.3 * columns, 2.7 * rows + 0.3)
    axes = sheet.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    trained = {name: train(penalty) for name, penalty in table.items()}
    reach = max(float(np.abs(weights).max()) for weights, _ in trained.values())
    # An odd number of bins, so that one is centred at 0.
    edges = np.linspace(-reach, reach, 66)
    middle = len(edges) // 2 - 1

    print(f"{'penalty':<12} {'α':>7} {'exactly 0':>10} {'norm of W':>10} {'largest |w|':>12} {'accuracy':>9}")
    figures: dict[str, Any] = {}
    for axis, (name, penalty) in zip(axes.flat, table.items(), strict=False):
        weights, accuracy = trained[name]
        zeros = float(np.mean(weights == 0))
        norm, largest = float(np.linalg.norm(weights)), float(np.abs(weights).max())
        alpha = "" if penalty is None else f"{penalty.alpha:g}"
        print(f"{name:<12} {alpha:>7} {zeros:10.1%} {norm:10.2f} {largest:12.3f} {accuracy:9.4f}")
        figures[name] = {"zeros": zeros, "norm": norm, "largest": largest, "accuracy": accuracy}

        counts, _ = np.histogram(weights[weights != 0], edges)
        if zeros:
            # The weights of exactly 0 are stacked on the bin around 0.
            whole = counts[middle] + np.sum(weights == 0)
            axis.stairs([whole], edges[middle : middle + 2], fill=True, color=COLOURS[1], label="exactly 0")
            axis.legend(frameon=False, loc="upper right", fontsize="small", handlelength=1)
        axis.stairs(counts, edges, fill=True, color=COLOURS[0])
        title = name if penalty is None else f"{name}, α = {penalty.alpha:g}"
        axis.set_title(f"{title}\n{zeros:.0%} zeros, accuracy {accuracy:.3f}", fontsize="small")

    for axis in axes.flat[len(table) :]:
        axis.set_visible(False)
    for index, axis in enumerate(axes.flat[: len(table)]):
        axis.set_yscale("log")
        dress(axis, "weight" if index + columns >= len(table) else "", "" if index % columns else "weights")
        axis.tick_params(labelbottom=True)
    write(sheet, picture)
    return figures
