"""Tours of ten cities by minimising an energy: the second half of the example `hopfield`.

V[i, t] is the share of city i in position t of the tour (Hopfield & Tank 1985). Their own dynamics seldom
find a good tour, or any tour (Wilson & Pawley 1988); this is the mean-field annealing of Peterson &
Söderberg (1989). A softmax distributes each city over the positions,

    V[i] ← softmax(-∂E/∂V[i] / T),    E = ½ Σ d(i, j) V[i, t] (V[j, t+1] + V[j, t-1])
                                        + ½ A Σ over t of ((Σ V[i, t])² - Σ V[i, t]²),

one city after another, with decreasing T. E is linear in each V[i], so that an update minimises the free
energy F = E - T · entropy(V) over V[i]; in the end V is 0 or 1, and E the length of the tour. The result is
not improved by any other means.
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
#: A, the cost of two cities in one position, for distances within a square of side 1.
SHARING = 1.1
#: First T, last T, and the factor per sweep.
WARM, COLD, COOLING = 0.25, 0.02, 0.98
#: A tour counts as good if its length divided by the shortest is at most this.
GOOD = 1.15


def entropy(V: Array) -> Array:
    """Return -Σ V log V of each start."""
    H: Array = -np.sum(V * np.log(np.maximum(V, 1e-300)), axis=(1, 2))
    return H


def energy(V: Array, D: Array) -> Array:
    """Return E of each start."""
    way = np.einsum("sit,ij,sjt->s", V, D, np.roll(V, -1, axis=2))
    sharing = np.sum(V.sum(axis=1) ** 2, axis=1) - np.sum(V**2, axis=(1, 2))
    E: Array = way + 0.5 * SHARING * sharing
    return E


def anneal(D: Array, random: np.random.Generator) -> tuple[Array, Array, float]:
    """Return V (starts, cities, positions), E (sweeps + 1, starts) and the largest increase of F."""
    V = random.dirichlet(np.full(CITIES, 2.0), size=(STARTS, CITIES))
    starts = np.arange(STARTS)
    T, energies, rise = WARM, [energy(V, D)], -np.inf
    while T > COLD:
        before = energies[-1] - T * entropy(V)
        # Every start updates the cities in another order.
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
    """The tours that the starts found for one set of cities.

    Attributes
    ----------
    places : array (CITIES, 2)
        Coordinates of the cities.
    tours : array (STARTS, CITIES)
        City in each position of the tour.
    ratios : array (STARTS,)
        Length divided by the shortest; infinite if a city is missing.
    shortest : float
        Length of the shortest of all (CITIES - 1)! tours.
    energies : array (sweeps + 1, STARTS)
        E after each sweep.
    rise : float
        Largest increase of the free energy F in a sweep.
    by_chance : float
        Share of good tours among all tours.
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
        """Number of starts that found a tour with every city once."""
        return int(np.sum(np.isfinite(self.ratios)))

    @property
    def best(self) -> int:
        """Number of starts that found the shortest tour."""
        return int(np.sum(self.ratios < 1 + 1e-9))

    @property
    def good(self) -> int:
        """Number of starts that found a good tour."""
        return int(np.sum(self.ratios <= GOOD))


def lengths(tours: Array, D: Array) -> Array:
    """Return the length of each row, a closed tour."""
    way: Array = D[tours, np.roll(tours, -1, axis=1)].sum(axis=1)
    return way


def every_tour() -> Array:
    """Return all tours that begin with city 0."""
    return np.array([(0, *rest) for rest in itertools.permutations(range(1, CITIES))], dtype=np.int8)


def tour(seed: int, every: Array) -> Tours:
    """Place cities in a square at random, and find tours of them."""
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
    """Draw energies, best and median tour of the first set of cities, and the lengths of all tours."""
    first = found[0]
    axes[0].plot(first.energies, color=COLOURS[0], alpha=0.45, linewidth=1)
    axes[0].axhline(first.shortest, color=COLOURS[1], linestyle="--", label="the shortest tour")
    axes[0].legend(frameon=False, fontsize="small")
    axes[0].set_title(f"a tour of ten cities: E of {STARTS} starts", fontsize="medium")
    dress(axes[0], "sweep, with decreasing T", "energy E")

    order = np.argsort(first.ratios)
    for start, colour, style, name in ((order[STARTS // 2], 1, "--", "median"), (order[0], 0, "-", "best")):
        path = first.places[np.append(first.tours[start], first.tours[start][0])]
        label = f"{name} start: {first.ratios[start]:.2f} times the shortest"
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
    axes[2].axhline(GOOD, color=COLOURS[1], linestyle="--", label=f"{GOOD:g} times the shortest")
    longest = max(float(tours.ratios[np.isfinite(tours.ratios)].max(initial=GOOD)) for tours in found)
    axes[2].set_ylim(0.98, longest + 0.06)
    axes[2].legend(frameon=False, fontsize="small", loc="upper left")
    axes[2].set_title(f"{len(found)} sets of cities, {STARTS} starts each", fontsize="medium")
    axes[2].set_xticks(range(1, len(found) + 1))
    dress(axes[2], "set of cities", "length of the tour / shortest")
