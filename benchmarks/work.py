"""What a peer hands over to be timed, and what a peer is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np


class LeftOutError(Exception):
    """A peer does not do this; the text says why."""


class Work:
    """Something to repeat: `run(k)` does it k times over, and returns when all of it is done.

    Parameters
    ----------
    run : callable
    steps : int, default 1
        In one repetition; times are given a step.
    check : callable, optional
        A number that must be the same for all peers after the first repetition: a loss, a mean of
        the result. None where a peer's cannot be.
    """

    def __init__(
        self, run: Callable[[int], Any], steps: int = 1, check: Callable[[], float | None] | None = None
    ) -> None:
        self.run = run
        self.steps = steps
        self._check = check
        self.repeats = 1

    def prepare(self, seconds: float) -> float | None:
        """Run once (which compiles), check, and find how many repetitions take so many seconds."""
        self.run(1)
        check = None if self._check is None else self._check()
        while (elapsed := self._elapsed()) < seconds / 2:
            self.repeats = math.ceil(self.repeats * min(16.0, seconds / max(elapsed, 1e-9)))
        self.repeats = max(1, round(self.repeats * seconds / elapsed))
        return None if check is None else float(check)

    def _elapsed(self) -> float:
        start = time.perf_counter()
        self.run(self.repeats)
        return time.perf_counter() - start

    def measure(self) -> float:
        """Seconds a step, of one round."""
        return self._elapsed() / (self.repeats * self.steps)


def calls(function: Callable[[], Any], check: Callable[[Any], float] | None = None) -> Work:
    """A work that calls a function again and again; `check` looks at its result."""

    def run(k: int) -> None:
        for _ in range(k):
            function()

    return Work(run, check=None if check is None else lambda: check(function()))


def first(result: Any) -> float:
    """The first probability: a check of a prediction."""
    return float(result[0, 0])


def mean_size(result: Any) -> float:
    """The mean of |a|: a check of a kernel."""
    return float(np.abs(result).mean())


class Peer:
    """One way to do the rows, in a process of its own; made after the thread variables are set."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def work(self, row: Any) -> Work:
        """What is timed of a row, at the peer's best."""
        if row.kind == "train":
            return self.train(row, *row.data())
        return self.predict(row) if row.kind == "predict" else self.kernel(row)

    def train(self, row: Any, X: Any, y: Any) -> Work:
        """Epochs of the row's batches, in the order of the data."""
        raise LeftOutError("it does not train")

    def predict(self, row: Any) -> Work:
        """A NumPy array of rows in, a NumPy array of probabilities out."""
        raise LeftOutError("it does not predict")

    def kernel(self, row: Any) -> Work:
        """The kernel by itself."""
        raise LeftOutError("it has no such kernel")
