"""Work to be timed, and the base class of peers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np


class LeftOutError(Exception):
    """A peer does not support a row; the text says why."""


class Work:
    """Work to repeat: `run(k)` does it k times and returns when all of it is done.

    Parameters
    ----------
    run : callable
    steps : int, default 1
        Steps in one repetition; times are per step.
    check : callable, optional
        Returns a number that must be the same for all peers after the first repetition, such as a loss or a
        mean of the result, or None if the peer has no such number.
    """

    def __init__(
        self, run: Callable[[int], Any], steps: int = 1, check: Callable[[], float | None] | None = None
    ) -> None:
        self.run = run
        self.steps = steps
        self._check = check
        self.repeats = 1

    def prepare(self, seconds: float) -> float | None:
        """Run once (which compiles), check, and find the number of repetitions that takes `seconds`."""
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
        """Run one round; return the seconds per step."""
        return self._elapsed() / (self.repeats * self.steps)


def calls(function: Callable[[], Any], check: Callable[[Any], float] | None = None) -> Work:
    """Work that calls a function repeatedly; `check` is applied to its result."""

    def run(k: int) -> None:
        for _ in range(k):
            function()

    return Work(run, check=None if check is None else lambda: check(function()))


def first(result: Any) -> float:
    """The first probability, as the check of a prediction."""
    return float(result[0, 0])


def mean_size(result: Any) -> float:
    """The mean of |a|, as the check of a kernel."""
    return float(np.abs(result).mean())


class Peer:
    """One library that runs the rows in its own process, created after the thread variables are set."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def work(self, row: Any) -> Work:
        """The work to time for a row, in the peer's fastest configuration."""
        if row.kind == "train":
            return self.train(row, *row.data())
        return self.predict(row) if row.kind == "predict" else self.kernel(row)

    def train(self, row: Any, X: Any, y: Any) -> Work:
        """Training epochs over the batches of the row, in the order of the data."""
        raise LeftOutError("it does not train")

    def predict(self, row: Any) -> Work:
        """Prediction from a NumPy array of rows to a NumPy array of probabilities."""
        raise LeftOutError("it does not predict")

    def kernel(self, row: Any) -> Work:
        """The kernel alone."""
        raise LeftOutError("it has no such kernel")
