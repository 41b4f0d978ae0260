"""A tour of ten cities by a falling energy: the second half of the entry `hopfield`.

V[i, t] says how much city i is at place t of the tour (Hopfield & Tank 1985). Their own dynamic seldom
finds a good tour, or one at all (Wilson & Pawley 1988); this is the mean-field annealing of Peterson &
Söderberg (1989). A softmax shares each city out over the places,

    V[i] ← softmax(-∂E/∂V[i] / T),    E = ½ Σ d(i, j) V[i, t] (V[j, t+1] + V[j, t-1])
                                        + ½ A Σ over t of ((Σ V[i, t])² - Σ V[i, t]²),

one city after another, with T falling. E is linear in each V[i], so that an update lowers the free
energy F = E - T · entropy(V) as far as it goes; in the end V is 0 or 1, and E the length of the tour.
Nothing but this dynamic touches the tour.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpfast import kernels

from ..arrays import Array
from ._common import COLOURS, dress

CITIES, STARTS = 10, 20
#: A, what two cities at one place cost, on distances within a square of side 1.
SHARING = 1.1
#: T falls from the first to the last by a factor a sweep.
WARM, COLD, COOLING = 0.25, 0.02, 0.98
#: As near as this to the shortest tour is good.
GOOD = 1.15


def entropy(V: Array) -> Array:
    """-Σ V log V of each start."""
    H: Array = -np.sum(V * np.log(np.maximum(V, 1e-300)), axis=(1, 2))
    return H


def energy(V: Array, D: Array) -> Array:
    """E of each start."""
    way = np.einsum("sit,ij,sjt->s", V, D, np.roll(V, -1, axis=2))
    sharing = np.sum(V.sum(axis=1) ** 2, axis=1) - np.sum(V**2, axis=(1, 2))
    E: Array = way + 0.5 * SHARING * sharing
    return E


def anneal(D: Array, random: np.random.Generator) -> tuple[Array, Array, float]:
    """V (starts, cities, places), E by sweep (sweeps + 1, starts), the largest rise of F in a sweep."""
    V = random.dirichlet(np.full(CITIES, 2.0), size=(STARTS, CITIES))
    starts = np.arange(STARTS)
    T, energies, rise = WARM, [energy(V, D)], -np.inf
    while T > COLD:
        before = energies[-1] - T * entropy(V)
        # Every start has an order of its own.
        for city in random.permuted(np.tile(np.arange(CITIES), (STARTS, 1)), axis=1).T:
            neighbours = np.roll(V, 1, axis=2) + np.roll(V, -1, axis=2)
            others = V.sum(axis=1) - V[starts, city]
            slope = np.einsum("sj,sjt->st", D[city], neighbours) + SHARING * others
            V[starts, city] = kernels.link("softmax", -slope / T)
        energies.append(energy(V, D))
        rise = max(rise, float((energies[-1] - T * entropy(V) - before).max()))
        T *= COOLING
    return V, np.array(energies), rise


@dataclass(frozen=True)
class Tours:
    """What the starts found for one set of cities.

    Attributes
    ----------
    places : array (CITIES, 2)
        Where the cities are.
    tours : array (STARTS, CITIES)
        The city at each place of the tour.
    ratios : array (STARTS,)
        The length over the shortest there is; infinite where a city is missing.
    shortest : float
        From all (CITIES - 1)! tours.
    energies : array (sweeps + 1, STARTS)
    rise : float
        The largest rise of the free energy F in a sweep.
    by_chance : float
        The share of all tours that are good.
    """

    places: Array
    tours: Array
    ratios: Array
    shortest: float
    energies: Array
    rise: float
    by_chance: float

    @property
    def valid(self) -> int:
        """How many starts found a tour: every city once."""
        return int(np.sum(np.isfinite(self.ratios)))

    @property
    def best(self) -> int:
        """How many starts found the shortest tour."""
        return int(np.sum(self.ratios < 1 + 1e-9))

    @property
    def good(self) -> int:
        """How many starts found a valid tour as near to the shortest as `GOOD`."""
        return int(np.sum(self.ratios <= GOOD))


def lengths(tours: Array, D: Array) -> Array:
    """The length of each row, a closed tour."""
    way: Array = D[tours, np.roll(tours, -1, axis=1)].sum(axis=1)
    return way


def every_tour() -> Array:
    """All tours that begin with city 0."""
    return np.array([(0, *rest) for rest in itertools.permutations(range(1, CITIES))], dtype=np.int8)


def tour(seed: int, every: Array) -> Tours:
    """Put cities in a square by chance, and find tours of them."""
    random = np.random.default_rng(seed)
    places = random.uniform(size=(CITIES, 2))
    D = np.linalg.norm(places[:, None] - places[None], axis=2)
    V, energies, rise = anneal(D, random)
    tours = V.argmax(axis=1)
    valid = (np.sort(tours, axis=1) == np.arange(CITIES)).all(axis=1)
    all_lengths = lengths(every, D)
    shortest = float(all_lengths.min())
    ratios = np.where(valid, lengths(tours, D) / shortest, np.inf)
    by_chance = float(np.mean(all_lengths <= GOOD * shortest))
    return Tours(places, tours, ratios, shortest, energies, rise, by_chance)


def draw(axes: Any, found: list[Tours]) -> None:
    """The energies of the first set of cities, its best and its median tour, and the lengths of all."""
    first = found[0]
    axes[0].plot(first.energies, color=COLOURS[0], alpha=0.45, linewidth=1)
    axes[0].axhline(first.shortest, color=COLOURS[1], linestyle="--", label="the shortest tour")
    axes[0].legend(frameon=False, fontsize="small")
    axes[0].set_title(f"a tour of ten cities: E of {STARTS} starts", fontsize="medium")
    dress(axes[0], "sweep, T falling", "energy E")

    order = np.argsort(first.ratios)
    for start, colour, style, name in ((order[STARTS // 2], 1, "--", "median"), (order[0], 0, "-", "best")):
        path = first.places[np.append(first.tours[start], first.tours[start][0])]
        label = f"{name} start: {first.ratios[start]:.2f} of the shortest"
        axes[1].plot(path[:, 0], path[:, 1], style, color=COLOURS[colour], label=label)
    axes[1].plot(first.places[:, 0], first.places[:, 1], "o", color=COLOURS[6], markersize=5)
    axes[1].set_xlim(-0.05, 1.05)
    axes[1].set_ylim(-0.05, 1.3)
    axes[1].set_aspect("equal")
    axes[1].legend(frameon=False, fontsize="small", loc="upper center")
    axes[1].set_title("two of its tours", fontsize="medium")
    dress(axes[1], "x", "y")

    for index, tours in enumerate(found):
        ratios = tours.ratios[np.isfinite(tours.ratios)]
        across = index + 1 + np.linspace(-0.3, 0.3, len(ratios))
        axes[2].plot(across, ratios, ".", color=COLOURS[0], markersize=4)
    axes[2].axhline(GOOD, color=COLOURS[1], linestyle="--", label=f"{GOOD:g} of the shortest")
    longest = max(float(tours.ratios[np.isfinite(tours.ratios)].max(initial=GOOD)) for tours in found)
    axes[2].set_ylim(0.98, longest + 0.06)
    axes[2].legend(frameon=False, fontsize="small", loc="upper left")
    axes[2].set_title(f"{len(found)} sets of cities, {STARTS} starts each", fontsize="medium")
    axes[2].set_xticks(range(1, len(found) + 1))
    dress(axes[2], "set of cities", "length of the tour / shortest")
