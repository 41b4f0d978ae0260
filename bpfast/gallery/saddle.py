"""The saddle f(x, y) = x² - y²: which optimizers stay at it, and which leave it.

A network can represent any function of a few numbers: with the constant input 1 and no bias, its outputs are
its weights, so that a custom loss makes them coordinates. Everything that trains networks then moves the
point: optimizers, batches, callbacks.

Every row of the data pushes y up or down by an eighth; the mean push is zero. Full batches see f only, single
rows the noise of stochastic gradient descent.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import bpfast as bp

from ..arrays import Array
from ._common import COLOURS, dress, figure, write

RATE, STEPS, LEFT = 0.01, 1000, 1.0
NEAR, SEEDS = 1e-3, 20

#: 64 rows (0, ±1/8), whose sums are exact, so that full batches have no rounding error.
PUSHES = np.tile([[0.0, 0.125], [0.0, -0.125]], (32, 1))


def saddle(pushes: Array, Z: Array) -> tuple[Array, Array]:
    """Return x² - y² + push · (x, y) of each row, and its gradient."""
    signs = np.array([1.0, -1.0])
    return (signs * Z**2 + pushes * Z).sum(axis=1), 2 * signs * Z + pushes


class Path(bp.Callback):
    """Stores the point after every step; stops training when it has left the saddle."""

    def __init__(self, start: tuple[float, float]) -> None:
        self.points = [start]

    def on_batch_end(self, network: bp.Network, batch: int, loss: float) -> bool:
        x, y = network.parameters["0.W"][0].tolist()
        self.points.append((x, y))
        return abs(y) >= LEFT or len(self.points) > STEPS


def descend(optimizer: Any, y: float, *, batch_size: int | None = None, seed: int = 0) -> Array:
    """Return the path (steps + 1, 2) from (1, y) until |y| is 1, or for the maximum number of steps."""
    net = bp.Network(
        [bp.Dense(2, bias=False)],
        n_inputs=1,
        loss=bp.CustomLoss(saddle),
        dtype="float64",
        seed=seed,
    )
    net.parameters["0.W"][...] = 1.0, y
    path = Path((1.0, y))
    net.fit(
        np.ones((len(PUSHES), 1)),
        PUSHES,
        epochs=STEPS,
        batch_size=batch_size,
        optimizer=optimizer,
        callbacks=[path],
    )
    return np.array(path.points)


def steps(path: Array) -> int | None:
    """Return the number of steps until the path left the saddle; None if it did not."""
    return len(path) - 1 if abs(path[-1, 1]) >= LEFT else None


def tell(name: str, path: Array) -> int | None:
    """Print how a path ends."""
    left = steps(path)
    x, y = path[-1].tolist()
    said = f"left after {left} steps" if left else f"held: after {len(path) - 1} steps at ({x:.1g}, {y:g})"
    print(f"  {name:<26} {said}")
    return left


def main(picture: str) -> dict[str, Any]:
    """Start on the ridge y = 0 and near it; draw the paths."""
    rules = {
        "gradient descent": bp.SGD(RATE),
        "momentum 0.9": bp.SGD(RATE, momentum=0.9),
        "Adam": bp.Adam(RATE),
    }
    print(f"f = x² - y², rate {RATE}; the saddle is left when |y| ≥ {LEFT:g}; at most {STEPS} steps")
    print("\non the ridge, from (1, 0), where ∂f/∂y is 0:")
    ridge = {name: descend(rule, 0.0) for name, rule in rules.items()}
    held = {name: tell(name, path) for name, path in ridge.items()}
    noisy = [descend(bp.SGD(RATE), 0.0, batch_size=1, seed=seed) for seed in range(SEEDS)]
    left = [count for count in map(steps, noisy) if count is not None]
    tell("SGD, one row per step", noisy[0])
    print(f"  {'':<26} {len(left)} of {SEEDS} seeds leave, after {np.median(left):g} steps in the median")

    print(f"\nnear the ridge, from (1, {NEAR:g}), full batches:")
    near = {name: descend(rule, NEAR) for name, rule in rules.items()}
    escapes = {name: tell(name, path) for name, path in near.items()}

    sheet = figure(10.0, 4.9)
    plane, time = sheet.subplots(1, 2, width_ratios=(1.15, 1))
    x, y = np.meshgrid(np.linspace(-0.35, 1.15, 151), np.linspace(-1.2, 1.2, 151))
    shades = plane.contourf(x, y, x**2 - y**2, levels=np.linspace(-1.5, 1.5, 13), cmap="Greys_r", alpha=0.45)
    sheet.colorbar(shades, ax=plane, label="f(x, y)", ticks=[-1.5, -0.75, 0, 0.75, 1.5])
    lines = {"SGD, one row per step, on the ridge": (noisy[0], COLOURS[3], "-")}
    for index, (name, path) in enumerate(near.items()):
        lines[f"{name}, from y = {NEAR:g}"] = (path, COLOURS[index], "-")
    lines["gradient descent on the ridge"] = (ridge["gradient descent"], COLOURS[6], ":")
    for name, (path, colour, style) in lines.items():
        plane.plot(path[:, 0], path[:, 1], style, color=colour, linewidth=1.8)
        # y = 0 cannot be drawn on a logarithmic axis: paths that stay are only in the legend.
        said = f"{name}: {steps(path) or 'held'}"
        time.plot(np.where(path[:, 1] == 0, np.nan, np.abs(path[:, 1])), style, color=colour, label=said)
    plane.plot(1, 0, "o", color=COLOURS[6], markersize=5)
    plane.plot(0, 0, "x", color=COLOURS[6], markersize=8, zorder=3)
    plane.annotate("start", (1, 0), (0, -14), textcoords="offset points", ha="center")
    plane.annotate("saddle", (0, 0), (8, -14), textcoords="offset points")
    dress(plane, "x", "y")
    dress(time, "step", "|y|, the distance from the ridge")
    time.set_yscale("log")
    time.set_ylim(2e-4, 2)
    sheet.legend(
        *time.get_legend_handles_labels(),
        title="steps to leave",
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )
    write(sheet, picture)
    return {"ridge": held, "noise": left, "near": escapes}
