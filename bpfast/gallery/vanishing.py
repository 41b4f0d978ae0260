"""Vanishing gradients: twelve hidden layers of sigmoids that learn nothing, and six remedies.

D_prev = (D Wᵀ) ⊙ f′(Z_prev), and f′ of the sigmoid is at most ¼. With weights drawn from U(-1/√I, 1/√I), as
was usual (Glorot & Bengio 2010 call it the common heuristic), a layer passes on about a seventh of its delta,
so that nothing arrives after twelve layers. The forward pass has the same problem: the differences between
rows shrink likewise, and the last layer sees the same values for all digits. Therefore no learning rate and
no optimizer with scaled steps helps; `RATES` are tried too.

Each remedy is a network of the same depth and width, trained with the same optimizer for as many epochs:

- relu with He's weights and tanh with Xavier's: f′ is 1 for active units, and the scale of the weights
  preserves the deltas (Glorot & Bengio 2010; He et al. 2015);
- BatchNorm: between W and the sigmoid, it restores the variance 1 in each layer (Ioffe & Szegedy 2015);
- Residual: X + sigmoid(X) W + b, past which the delta passes undiminished (He et al. 2016);
- Auxiliary: a head on each layer provides a delta of its own (Lee et al. 2015);
- pretraining: each layer has first learned to encode its input (Bengio et al. 2007).

The last four keep the sigmoids and start from the same kind of weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

import bpfast as bp
from bpfast.specs.initializers import Initializer
from bpfast.specs.layers import Layer
from bpfast.specs.optimizers import Optimizer

from ..arrays import Array
from ._common import COLOURS, digits, dress, figure, write

HIDDEN, UNITS, EPOCHS = 12, 64, 100

RULE = bp.Adam(bp.Cosine(0.003, EPOCHS))

#: Other optimizers for the network without a remedy.
RATES = (
    *(bp.Adam(rate) for rate in (3e-4, 1e-3, 1e-2, 3e-2)),
    *(bp.SGD(rate, momentum=0.9) for rate in (1e-3, 1e-2, 1e-1, 1.0)),
)

NONE, PRETRAINING = "sigmoid", "pretraining"


@dataclass(frozen=True)
class Usual(Initializer):
    """U(-1/√I, 1/√I)."""

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        limit = 1 / math.sqrt(shape[0])
        return rng.uniform(-limit, limit, shape)


def stacks() -> dict[str, list[Layer]]:
    """Return the hidden layers of each network."""
    linear, sigmoid = bp.Dense(UNITS, "identity", Usual()), bp.Dense(UNITS, "sigmoid", Usual())
    f = bp.Activation("sigmoid")
    return {
        NONE: [sigmoid] * HIDDEN,
        "relu, He": [bp.Dense(UNITS, "relu", bp.HeNormal())] * HIDDEN,
        "tanh, Xavier": [bp.Dense(UNITS, "tanh", bp.XavierUniform())] * HIDDEN,
        "BatchNorm": [linear, bp.BatchNorm(), f] * HIDDEN,
        "Residual": [linear, *[bp.Residual(f, linear)] * (HIDDEN - 1), f],
        "Auxiliary": [sigmoid, bp.Auxiliary(10, weight=1.0)] * HIDDEN,
        PRETRAINING: [sigmoid] * HIDDEN,
    }


def train(name: str, optimizer: Optimizer = RULE, seed: int = 0) -> tuple[Array, list[float]]:
    """Return ‖dW‖ of all layers before training, and the held-out accuracy of each epoch."""
    X, y, X_test, y_test = digits()
    layers = [*stacks()[name], bp.Dense(10, "identity", Usual())]
    net = bp.Network(layers, n_inputs=X.shape[1], loss="cross_entropy", seed=seed)
    if name == PRETRAINING:
        bp.pretrain(net, X, bp.Autoencoder(epochs=20, corruption=0.25, optimizer=bp.Adam(0.003)))
    gradients = net.gradients(X, y, training=True)
    dWs = [dW for parameter, dW in gradients.items() if parameter.endswith(".W")]
    # Heads have 10 columns, like the last layer.
    chain = [*(dW for dW in dWs if dW.shape[1] == UNITS), dWs[-1]]
    history = net.fit(X, y, epochs=EPOCHS, batch_size=32, optimizer=optimizer, validation=(X_test, y_test))
    return np.array([np.linalg.norm(dW.astype("float64")) for dW in chain]), history.val_accuracy


def main(picture: str) -> dict[str, Any]:
    """Train all networks; print and draw the initial gradients and the accuracies."""
    print(
        f"{HIDDEN} hidden layers of {UNITS} units on the digits, {EPOCHS} epochs, "
        "Adam, learning rate 0.003 decaying to 0"
    )
    print(f"{'':<14}{'‖dW‖ first':>12}{'last':>10}{'first / last':>14}{'held-out accuracy':>19}")
    figures: dict[str, Any] = {}
    norms, accuracies = {}, {}
    for name in stacks():
        norms[name], accuracies[name] = train(name)
        first, last = float(norms[name][0]), float(norms[name][-1])
        figures[name] = {"ratio": first / last, "accuracy": accuracies[name][-1]}
        print(f"{name:<14}{first:>12.1e}{last:>10.1e}{first / last:>14.1e}{accuracies[name][-1]:>19.3f}")
    print(f"{NONE}, the best of {EPOCHS} epochs with other optimizers:")
    figures["rates"] = {}
    for rule in RATES:
        label = f"{type(rule).__name__} {rule.schedule.rate(0):g}"
        figures["rates"][label] = max(train(NONE, rule)[1])
        print(f"  {label:<12}{figures['rates'][label]:.3f}")
    _draw(norms, accuracies, picture)
    return figures


def _draw(norms: dict[str, Array], accuracies: dict[str, list[float]], picture: str) -> None:
    sheet = figure(11.0, 4.6)
    left, right = sheet.subplots(1, 2)
    for name, colour in zip(norms, (COLOURS[6], *COLOURS), strict=False):
        width = 2.6 if name == NONE else 1.6
        left.plot(range(1, HIDDEN + 2), norms[name], "o-", color=colour, linewidth=width, markersize=4)
        right.plot(range(1, EPOCHS + 1), accuracies[name], color=colour, linewidth=width, label=name)
    left.set_yscale("log")
    left.set_xticks(range(1, HIDDEN + 2))
    dress(left, f"layer ({HIDDEN + 1} gives the outputs)", "‖dW‖ before the first step")
    left.set_title("Gradient of each layer")
    right.axhline(0.1, color="#777777", linewidth=0.8, linestyle=":", label="chance")
    right.set_xscale("log")
    right.set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
    right.minorticks_off()
    right.set_ylim(0, 1.02)
    dress(right, "epoch", "held-out accuracy")
    right.set_title(f"{HIDDEN} hidden layers, the same training")
    sheet.legend(*right.get_legend_handles_labels(), frameon=False, loc="outside right center")
    write(sheet, picture)
