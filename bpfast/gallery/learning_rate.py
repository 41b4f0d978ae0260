"""The learning rate: too small, right, too large, and decaying.

A linear network learns the progression of diabetes from age, sex, body mass and blood pressure, by stochastic
gradient descent on batches of 32 rows. Its loss J is quadratic, so that the answers are known: the lowest
loss J* from the normal equations, and the learning rate above which full batches diverge, 2 / λ, where λ is
the largest curvature of J. A constant rate ends in a cloud around the minimum whose width grows with the
rate; a decaying rate converges (Robbins & Monro 1951).
"""

from __future__ import annotations

from typing import Any

import numpy as np

import bpfast as bp

from ..arrays import Array
from ._common import COLOURS, diabetes, dress, figure, write

EPOCHS = 100

#: Name → learning rate of `bp.SGD`, a number or a schedule.
RATES: dict[str, Any] = {
    "too small": 0.0002,
    "right": 0.05,
    "too large": 0.7,
    "decaying": bp.ExponentialDecay(0.05, factor=0.93),
}


class Excess(bp.Callback):
    """Stores J - J* of all rows before the first epoch and after each epoch."""

    def __init__(self, X: Array, y: Array, lowest: float) -> None:
        self.X, self.y, self.lowest = X, y, lowest
        self.values: list[float] = []

    def _keep(self, network: bp.Network) -> None:
        self.values.append(network.loss(self.X, self.y) - self.lowest)

    def on_fit_begin(self, network: bp.Network, history: bp.History) -> None:
        self._keep(network)

    def on_epoch_end(self, network: bp.Network, history: bp.History) -> None:
        self._keep(network)


def train(X: Array, y: Array, lowest: float, rate: Any) -> tuple[list[float], str]:
    """Return J - J* of each epoch, and the error that ended training, if any."""
    net = bp.Network(
        [bp.Dense(1, initializer="zeros")], n_inputs=X.shape[1], loss="squared_error", dtype="float64"
    )
    excess = Excess(X, y, lowest)
    try:
        net.fit(X, y, epochs=EPOCHS, batch_size=32, optimizer=bp.SGD(rate), callbacks=[excess])
    except FloatingPointError as error:
        # The loss has exceeded the range of float64; the epochs before that are drawn.
        return excess.values, str(error).partition(";")[0]
    return excess.values, ""


def main(picture: str) -> dict[str, Any]:
    """Train with each learning rate; draw the distance of the loss from the minimum."""
    X, y, names = diabetes()
    X = X[:, [names.index(name) for name in ("age", "sex", "bmi", "bp")]]
    y = (y - y.mean()) / y.std()
    lowest = float(np.mean((X @ np.linalg.lstsq(X, y)[0] - y) ** 2))
    limit = 2 / float(np.linalg.eigvalsh(2 * X.T @ X / len(X))[-1])
    print(f"{len(X)} rows, {X.shape[1]} inputs; lowest loss J* = {lowest:.6f}")
    print(f"full batches diverge for learning rates above 2/λ = {limit:.3f}\n")

    sheet = figure(7.2, 4.6)
    axis = sheet.subplots()
    figures: dict[str, Any] = {"lowest": lowest, "limit": limit}
    for (name, rate), colour in zip(RATES.items(), COLOURS, strict=False):
        values, ended = train(X, y, lowest, rate)
        print(f"{name:<10} {rate!r:<52} after {len(values) - 1:3} epochs J - J* = {values[-1]:.2e}  {ended}")
        figures[name] = {"excess": values[-1], "epochs": len(values) - 1, "ended": ended}
        # A diverging loss reaches 1e308; only the part within the picture is drawn.
        shown = [value for value in values if value < 1e30]
        axis.plot(range(len(shown)), shown, color=colour, linewidth=1.8, label=f"{name}: {rate!r}")

    axis.set_yscale("log")
    axis.set_ylim(1e-7, 1e4)
    dress(axis, "epoch", "loss above the minimum, J - J*")
    axis.set_title(f"a linear network on diabetes; full batches diverge above {limit:.2f}", fontsize="medium")
    axis.legend(frameon=False, fontsize="small", loc="upper right")
    write(sheet, picture)
    return figures
