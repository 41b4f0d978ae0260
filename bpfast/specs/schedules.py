"""Schedules: the learning rate η as a function of the epoch.

Time t is measured in epochs since the optimizer first used the schedule. It advances with every batch, so
a smooth schedule changes the rate smoothly within an epoch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .monitor import improves
from .spec import Family, Spec, integer, number, spec


class Schedule(Spec):
    """A learning rate that varies with time."""

    def rate(self, epoch: float) -> float:
        """Return η at a time in epochs."""
        raise NotImplementedError


schedules: Family[Schedule] = Family("schedule", Schedule)


def resolve_rate(owner: str, value: Any) -> Schedule:
    """Convert a number, or the configuration of a schedule, to a schedule."""
    if isinstance(value, Schedule):
        return value
    if isinstance(value, dict):
        return schedules.from_config(value)
    return Constant(number(owner, "learning_rate", value, above=0))


class _Initial:
    """Validation of `learning_rate`, shared by the schedules that start from a number."""

    def __post_init__(self) -> None:
        owner = type(self).__name__
        value = number(owner, "learning_rate", self.learning_rate, above=0)  # type: ignore[attr-defined]
        object.__setattr__(self, "learning_rate", value)


@schedules.register("constant")
@spec
class Constant(_Initial, Schedule):
    """A constant rate: η(t) = η₀.

    Parameters
    ----------
    learning_rate : float
        η₀, greater than 0.
    """

    learning_rate: float

    def __repr__(self) -> str:
        # As passed to an optimizer.
        return repr(self.learning_rate)

    def rate(self, epoch: float) -> float:
        return self.learning_rate


@schedules.register("step")
@spec
class StepDecay(_Initial, Schedule):
    """Step decay: η(t) = η₀ factor^⌊t / every⌋.

    Parameters
    ----------
    learning_rate : float
        η₀, greater than 0.
    every : int, default 10
        Number of epochs between reductions.
    factor : float, default 0.1
        Factor of each reduction; greater than 0, at most 1.
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
@spec
class ExponentialDecay(_Initial, Schedule):
    """Exponential decay: η(t) = η₀ factor^t.

    Parameters
    ----------
    learning_rate : float
        η₀, greater than 0.
    factor : float, default 0.95
        Factor per epoch; greater than 0, at most 1.
    """

    learning_rate: float
    factor: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("factor", number("ExponentialDecay", "factor", self.factor, above=0, at_most=1))

    def rate(self, epoch: float) -> float:
        return float(self.learning_rate * self.factor**epoch)


@schedules.register("invscaling", "inverse_time")
@spec
class InverseTime(_Initial, Schedule):
    """Inverse time decay: η(t) = η₀ / (1 + decay · t)^power.

    Parameters
    ----------
    learning_rate : float
        η₀, greater than 0.
    decay : float, default 1.0
        Speed of the decay, per epoch; at least 0.
    power : float, default 0.5
        Exponent, at least 0; 1 gives the classic 1 / (1 + decay · t).
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
@spec
class Cosine(_Initial, Schedule):
    """Cosine decay: η(t) = final + ½ (η₀ - final) (1 + cos(π t / epochs)) (Loshchilov & Hutter 2017).

    Parameters
    ----------
    learning_rate : float
        η₀, greater than 0.
    epochs : int
        Number of epochs of the decay; the rate stays at `final` afterwards.
    final : float, default 0.0
        The final rate, at least 0.
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
@spec
class WarmUp(Schedule):
    """Linear warm-up from start · η(0) to η(0), followed by the schedule η (Goyal et al. 2017).

    Parameters
    ----------
    learning_rate : float or Schedule
        η, the rate or schedule after the warm-up; its time starts when the warm-up ends.
    epochs : float, default 1.0
        Length of the warm-up in epochs; greater than 0.
    start : float, default 0.01
        Initial fraction of η(0); greater than 0, at most 1.
    """

    learning_rate: float | Schedule
    epochs: float = 1.0
    start: float = 0.01

    def __post_init__(self) -> None:
        self._set("learning_rate", resolve_rate("WarmUp", self.learning_rate))
        if isinstance(self.learning_rate, ReduceOnPlateau):
            raise TypeError(
                "WarmUp: learning_rate must not be a ReduceOnPlateau; use ReduceOnPlateau(WarmUp(...))"
            )
        self._set("epochs", number("WarmUp", "epochs", self.epochs, above=0))
        self._set("start", number("WarmUp", "start", self.start, above=0, at_most=1))

    def rate(self, epoch: float) -> float:
        after = self.learning_rate
        assert isinstance(after, Schedule)
        if epoch >= self.epochs:
            return after.rate(epoch - self.epochs)
        return after.rate(0.0) * (self.start + (1.0 - self.start) * epoch / self.epochs)


@schedules.register("reduce_on_plateau")
@spec
class ReduceOnPlateau(Schedule):
    """Reduce the rate when the monitored loss has stopped improving.

    After every `patience` epochs in a row without improvement, the rate is multiplied by `factor`. The
    validation loss is monitored if there is one, otherwise the training loss.

    Parameters
    ----------
    learning_rate : float or Schedule
        The rate or schedule to reduce.
    factor : float, default 0.1
        Factor of each reduction; between 0 and 1 exclusive.
    patience : int, default 10
        Number of epochs without improvement before a reduction; at least 1.
    min_delta : float, default 1e-4
        Relative decrease of the loss that counts as improvement; at least 0.
    floor : float, default 0.0
        Lower bound of reduced rates.
    """

    learning_rate: float | Schedule
    factor: float = 0.1
    patience: int = 10
    min_delta: float = 1e-4
    floor: float = 0.0

    def __post_init__(self) -> None:
        self._set("learning_rate", resolve_rate("ReduceOnPlateau", self.learning_rate))
        if isinstance(self.learning_rate, ReduceOnPlateau):
            raise TypeError("ReduceOnPlateau: learning_rate must not be another ReduceOnPlateau")
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
    """The state of a schedule between epochs.

    Attributes
    ----------
    epoch : int
        Epochs so far.
    scale : float
        The product of the reductions of a `ReduceOnPlateau`.
    best : float
        The best monitored loss.
    waited : int
        Epochs since the last improvement or reduction.
    """

    epoch: int = 0
    scale: float = 1.0
    best: float = math.inf
    waited: int = 0

    def rates(self, schedule: Schedule, n_batches: int) -> list[float]:
        """Return η for each batch of the current epoch."""
        floor = schedule.floor if isinstance(schedule, ReduceOnPlateau) else 0.0
        if isinstance(schedule, Constant):
            return [schedule.learning_rate] * n_batches
        times = (self.epoch + batch / n_batches for batch in range(n_batches))
        return [max(self.scale * schedule.rate(t), min(floor, schedule.rate(t))) for t in times]

    def advance(self, schedule: Schedule, loss: float) -> None:
        """End the current epoch, whose monitored loss is given."""
        self.epoch += 1
        if not isinstance(schedule, ReduceOnPlateau):
            return
        if improves(loss, self.best, margin=schedule.min_delta, relative=True):
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited >= schedule.patience:
            self.scale, self.waited = self.scale * schedule.factor, 0
