"""Hopfield networks: recall of corrupted digits, and a tour of ten cities, by minimising an energy.

N units of ±1 with symmetric weights and a zero diagonal have an energy E = -½ sᵀWs (Hopfield 1982). A unit
that takes the sign of its input decreases it, so that the state converges to a minimum. Two rules place the
minima at the patterns, the rows of P:

- Hebb's rule, W = PᵀP / N, suffices for a few random patterns. Digits resemble each other and end in the
  same minimum.
- The projection on the patterns, W = P⁺P (Personnaz et al. 1985). It is what a network with one layer learns
  by the delta rule, starting from 0, if it has to reproduce each pattern (Diederich & Opper 1987).

The tour is in `bpfast/gallery/_tour.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import bpfast as bp
from bpfast import kernels

from ..arrays import Array
from . import _tour
from ._common import COLOURS, digits, dress, figure, write

UNITS, FLIPPED, TRIALS = 200, 0.1, 20
LOADS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
MOST_SWEEPS, CITY_SETS = 50, 10


def hebb(P: Array) -> Array:
    """Return W = PᵀP / N with a zero diagonal."""
    W: Array = kernels.weight_gradient(P, P)[0] / P.shape[1]
    np.fill_diagonal(W, 0)
    return W


def projection(P: Array) -> Array:
    """Return W = P⁺P with a zero diagonal, by gradient descent on the mean of (PW - P)²."""
    n = P.shape[1]
    layer = bp.Dense(n, bias=False, initializer="zeros")
    net = bp.Network([layer], n_inputs=n, loss="squared_error", dtype="float64")
    rate = 0.9 * P.size / float(np.linalg.norm(P, 2)) ** 2  # just below the rate at which it diverges
    net.fit(P, P, epochs=1000, batch_size=None, shuffle=False, optimizer=bp.SGD(rate))
    W = net.parameters["0.W"]
    W = 0.5 * (W + W.T)  # symmetric up to rounding
    np.fill_diagonal(W, 0)
    return W


RULES = {"Hebb": hebb, "projection": projection}


def corrupt(P: Array, random: np.random.Generator) -> Array:
    """Flip a tenth of the units of each row."""
    S = P.copy()
    for row in S:
        row[random.choice(len(row), round(FLIPPED * len(row)), replace=False)] *= -1
    return S


def energy(S: Array, W: Array) -> Array:
    """Return E of each row."""
    E: Array = -0.5 * np.sum((S @ W) * S, axis=1)
    return E


def update(S: Array, W: Array, random: np.random.Generator) -> Iterator[None]:
    """Set each unit in turn to the sign of its input, in place; yield after each."""
    for unit in random.permutation(len(W)):
        H = S @ W[:, unit]
        S[:, unit] = np.where(H == 0, S[:, unit], np.sign(H))
        yield


def recall(S: Array, W: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Update each row until it is stable; also return E (sweeps + 1, rows) after each sweep."""
    S, energies = S.copy(), [energy(S, W)]
    for _ in range(MOST_SWEEPS):
        before = S.copy()
        for _ in update(S, W, random):
            pass
        energies.append(energy(S, W))
        if np.array_equal(S, before):
            break
    return S, np.array(energies)


def try_recall(what: str, P: Array, random: np.random.Generator) -> dict[str, float]:
    """Return the share of trials of each rule that end in the exact pattern, and the largest rise of E."""
    target = np.repeat(P, TRIALS, axis=0)
    shares, rise = {}, -np.inf
    for rule, learn in RULES.items():
        S, energies = recall(corrupt(target, random), learn(P), random)
        shares[rule] = float(np.mean((target == S).all(axis=1)))
        rise = max(rise, float(np.diff(energies, axis=0).max()))
    load = f"{len(P) / P.shape[1]:.2f} N"
    print(f"{len(P):3} {what:<19} {load}" + "".join(f"{share:12.1%}" for share in shares.values()))
    return {**shares, "rise": rise}


def draw_digits(axes: Any, P: Array, random: np.random.Generator) -> None:
    """Draw the digits, corrupted and recalled, and the energy during recall."""
    S, W = corrupt(P, random), projection(P)
    R, _ = recall(S, W, random)
    half = len(P) // 2
    rows = [states[part] for part in (slice(half), slice(half, None)) for states in (P, S, R)]
    picture = np.full((len(rows) * 9 + 1, half * 9 + 1), np.nan)
    for row, states in enumerate(rows):
        for column, state in enumerate(states):
            picture[9 * row + 1 : 9 * row + 9, 9 * column + 1 : 9 * column + 9] = state.reshape(8, 8)
    axes[0].imshow(picture, cmap="Greys", vmin=-1.3, vmax=1)
    axes[0].set_xticks([])
    axes[0].set_yticks([9 * row + 4.5 for row in range(len(rows))], ["stored", "corrupted", "recalled"] * 2)
    axes[0].tick_params(length=0)
    axes[0].set_title(f"digits, {FLIPPED:.0%} of the pixels flipped", fontsize="medium")
    axes[0].spines[:].set_visible(False)

    energies = [energy(S, W)]
    energies += [energy(S, W) for _ in range(2) for _ in update(S, W, random)]
    axes[1].plot(np.array(energies), color=COLOURS[0], alpha=0.7)
    axes[1].set_title("the energy of each digit during recall", fontsize="medium")
    dress(axes[1], f"unit update, {len(W)} per sweep", "energy E")


def main(picture: str) -> dict[str, Any]:
    """Recall random patterns and digits; find tours of ten sets of cities."""
    random = np.random.default_rng(0)
    print(f"recalled exactly, {FLIPPED:.0%} of the units flipped")
    print(f"{'':<30}" + "".join(f"{rule:>12}" for rule in RULES))
    loads = {}
    for load in LOADS:
        P = random.choice([-1.0, 1.0], size=(round(load * UNITS), UNITS))
        loads[load] = try_recall("random patterns", P, random)
    X, y, _, _ = digits("float64")
    P = np.where(np.array([X[y == digit][0] for digit in range(10)]) >= 0.5, 1.0, -1.0)
    pictures = {count: try_recall("digits of 64 pixels", P[:count], random) for count in (6, 10)}
    rise = max(tried["rise"] for tried in [*loads.values(), *pictures.values()])
    print(f"largest rise of an energy in a sweep: {rise:.0e}\n")

    every = _tour.every_tour()
    near = f"within {_tour.GOOD - 1:.0%} of the shortest"
    print(f"tours of {_tour.CITIES} cities, {_tour.STARTS} starts per set; {near}")
    print("set  valid  within  shortest   of all tours within")
    found = [_tour.tour(seed, every) for seed in range(CITY_SETS)]
    for number, tours in enumerate(found, 1):
        print(f"{number:3}  {tours.valid:5}  {tours.good:6}  {tours.best:8}   {tours.by_chance:19.3%}")
    free_rise = max(tours.rise for tours in found)
    print(f"largest rise of a free energy in a sweep: {free_rise:.0e}")

    sheet = figure(12.0, 7.4)
    axes = sheet.subplots(2, 3)
    draw_digits(axes[0, :2], P, random)
    for rule, colour in zip(RULES, COLOURS, strict=False):
        shares = [loads[load][rule] for load in LOADS]
        axes[0, 2].plot(LOADS, shares, "o-", color=colour, label=rule, markersize=4)
    axes[0, 2].legend(frameon=False)
    axes[0, 2].set_title(f"random patterns, N = {UNITS}, {FLIPPED:.0%} flipped", fontsize="medium")
    dress(axes[0, 2], "load, patterns / N", "share recalled exactly")
    _tour.draw(axes[1], found)
    write(sheet, picture)
    return {
        "loads": loads,
        "digits": pictures,
        "rise": rise,
        "tours": [{"valid": t.valid, "good": t.good, "by_chance": t.by_chance} for t in found],
        "free_energy_rise": free_rise,
    }
