"""Schedules: the learning rate η as a function of the epoch.

Time is a real number of epochs since the optimizer first met this schedule; within an epoch it
advances batch by batch, so that smooth schedules are smooth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .monitor import improves
from .spec import Family, Spec, integer, number


@dataclass(frozen=True)
class Schedule(Spec):
    """A learning rate that changes."""

    def rate(self, epoch: float) -> float:
        """η at a time in epochs."""
        raise NotImplementedError


schedules: Family[Schedule] = Family("schedule", Schedule)


def resolve_rate(owner: str, value: Any) -> Schedule:
    """Turn a number, or the configuration of a schedule, into a schedule."""
    if isinstance(value, Schedule):
        return value
    if isinstance(value, dict):
        return schedules.from_config(value)
    return Constant(number(owner, "learning_rate", value, above=0))


class _Initial:
    """Shared check of the first field."""

    def __post_init__(self) -> None:
        owner = type(self).__name__
        value = number(owner, "learning_rate", self.learning_rate, above=0)  # type: ignore[attr-defined]
        object.__setattr__(self, "learning_rate", value)


@schedules.register("constant")
@dataclass(frozen=True, repr=False)
class Constant(_Initial, Schedule):
    """η(t) = η₀."""

    learning_rate: float

    def __repr__(self) -> str:
        # As it is given to an optimizer.
        return repr(self.learning_rate)

    def rate(self, epoch: float) -> float:
        return self.learning_rate


@schedules.register("step")
@dataclass(frozen=True)
class StepDecay(_Initial, Schedule):
    """η(t) = η₀ factor^⌊t / every⌋.

    Parameters
    ----------
    learning_rate : float
    every : int, default 10
        Epochs between two steps.
    factor : float, default 0.1
        Above 0, at most 1.
    """

    learning_rate: float
    every: int = 10
    factor: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("every", integer("StepDecay", "every", self.every, at_least=1))
        self._set("factor", number("StepDecay", "factor", self.factor, above=0, at_most=1))

    def rate(self, epoch: float) -> float:
        return self.learning_rate * self.factor ** math.floor(epoch / self.every)


@schedules.register("exponential")
@dataclass(frozen=True)
class ExponentialDecay(_Initial, Schedule):
    """η(t) = η₀ factor^t.

    Parameters
    ----------
    learning_rate : float
    factor : float, default 0.95
        What is left after an epoch; above 0, at most 1.
    """

    learning_rate: float
    factor: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("factor", number("ExponentialDecay", "factor", self.factor, above=0, at_most=1))

    def rate(self, epoch: float) -> float:
        return float(self.learning_rate * self.factor**epoch)


@schedules.register("invscaling", "inverse_time")
@dataclass(frozen=True)
class InverseTime(_Initial, Schedule):
    """η(t) = η₀ / (1 + decay · t)^power.

    Parameters
    ----------
    learning_rate : float
    decay : float, default 1.0
        Per epoch, at least 0.
    power : float, default 0.5
        At least 0; 1 is the classic inverse time.
    """

    learning_rate: float
    decay: float = 1.0
    power: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("decay", number("InverseTime", "decay", self.decay, at_least=0))
        self._set("power", number("InverseTime", "power", self.power, at_least=0))

    def rate(self, epoch: float) -> float:
        return float(self.learning_rate / (1.0 + self.decay * epoch) ** self.power)


@schedules.register("cosine")
@dataclass(frozen=True)
class Cosine(_Initial, Schedule):
    """η(t) = final + ½ (η₀ - final) (1 + cos(π t / epochs)), then final (Loshchilov & Hutter 2017).

    Parameters
    ----------
    learning_rate : float
    epochs : int
        The length of the half wave.
    final : float, default 0.0
    """

    learning_rate: float
    epochs: int
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("epochs", integer("Cosine", "epochs", self.epochs, at_least=1))
        self._set("final", number("Cosine", "final", self.final, at_least=0))

    def rate(self, epoch: float) -> float:
        wave = 1.0 + math.cos(math.pi * min(epoch / self.epochs, 1.0))
        return self.final + 0.5 * (self.learning_rate - self.final) * wave


@schedules.register("warm_up")
@dataclass(frozen=True)
class WarmUp(Schedule):
    """A straight rise from start · η(0) to η(0) over some epochs, then the schedule η (Goyal et al. 2017).

    Parameters
    ----------
    learning_rate : float or Schedule
        What follows the rise; its time starts where the rise ends.
    epochs : float, default 1.0
        The length of the rise.
    start : float, default 0.01
        The share of η(0) to begin with; above 0, at most 1.
    """

    learning_rate: float | Schedule
    epochs: float = 1.0
    start: float = 0.01

    def __post_init__(self) -> None:
        self._set("learning_rate", resolve_rate("WarmUp", self.learning_rate))
        if isinstance(self.learning_rate, ReduceOnPlateau):
            raise TypeError("WarmUp: put ReduceOnPlateau around WarmUp, not inside it")
        self._set("epochs", number("WarmUp", "epochs", self.epochs, above=0))
        self._set("start", number("WarmUp", "start", self.start, above=0, at_most=1))

    def rate(self, epoch: float) -> float:
        after = self.learning_rate
        assert isinstance(after, Schedule)
        if epoch >= self.epochs:
            return after.rate(epoch - self.epochs)
        return after.rate(0.0) * (self.start + (1.0 - self.start) * epoch / self.epochs)


@schedules.register("reduce_on_plateau")
@dataclass(frozen=True)
class ReduceOnPlateau(Schedule):
    """η(t) times factor for every `patience` epochs in which the monitored loss did not fall.

    The validation loss is monitored if there is one, else the training loss.

    Parameters
    ----------
    learning_rate : float or Schedule
    factor : float, default 0.1
        Above 0, below 1.
    patience : int, default 10
        Epochs without improvement before a reduction.
    min_delta : float, default 1e-4
        The relative fall that counts as one.
    floor : float, default 0.0
        No reduction goes below this rate.
    """

    learning_rate: float | Schedule
    factor: float = 0.1
    patience: int = 10
    min_delta: float = 1e-4
    floor: float = 0.0

    def __post_init__(self) -> None:
        self._set("learning_rate", resolve_rate("ReduceOnPlateau", self.learning_rate))
        if isinstance(self.learning_rate, ReduceOnPlateau):
            raise TypeError("ReduceOnPlateau: learning_rate can't be another ReduceOnPlateau")
        self._set("factor", number("ReduceOnPlateau", "factor", self.factor, above=0, below=1))
        self._set("patience", integer("ReduceOnPlateau", "patience", self.patience, at_least=1))
        self._set("min_delta", number("ReduceOnPlateau", "min_delta", self.min_delta, at_least=0))
        self._set("floor", number("ReduceOnPlateau", "floor", self.floor, at_least=0))

    def rate(self, epoch: float) -> float:
        inner = self.learning_rate
        assert isinstance(inner, Schedule)
        return inner.rate(epoch)


@dataclass
class Clock:
    """What a schedule remembers between epochs: the time, and what a plateau has done so far."""

    epoch: int = 0
    scale: float = 1.0
    best: float = math.inf
    waited: int = 0

    def rates(self, schedule: Schedule, n_batches: int) -> list[float]:
        """η of each batch of the epoch under way."""
        floor = schedule.floor if isinstance(schedule, ReduceOnPlateau) else 0.0
        if isinstance(schedule, Constant):
            return [schedule.learning_rate] * n_batches
        times = (self.epoch + batch / n_batches for batch in range(n_batches))
        return [max(self.scale * schedule.rate(t), min(floor, schedule.rate(t))) for t in times]

    def advance(self, schedule: Schedule, loss: float) -> None:
        """Move to the next epoch, after one that ended with this monitored loss."""
        self.epoch += 1
        if not isinstance(schedule, ReduceOnPlateau):
            return
        if improves(loss, self.best, margin=schedule.min_delta, relative=True):
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited >= schedule.patience:
            self.scale, self.waited = self.scale * schedule.factor, 0
