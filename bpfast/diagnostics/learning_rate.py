"""Learning-rate range test: find a learning rate to train with."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._state import NetworkState, state_of
from ..arrays import Array
from ..engine.interface import Data, Plan
from ..network import Network, require_network
from ..plotting import plot_range_test
from ..specs.optimizers import Optimizer, optimizers
from ..specs.penalties import Penalty, penalties
from ..specs.spec import integer, number
from ..training.callbacks import Callback, CallbackList
from ..training.epoch import run_epoch
from ..training.history import History
from ..training.loop import Epoch, Trainer, train


@dataclass(frozen=True, eq=False)
class RangeTest:
    """Result of `find_learning_rate`.

    Attributes
    ----------
    rates : array (n,)
        Learning rates, increasing.
    losses : array (n,)
        Loss of each batch before its step.
    smoothed : array (n,)
        Losses averaged over a triangular window of about a tenth of the steps.
    diverged : bool
        Whether the test ended early because the loss diverged.
    """

    rates: Array
    losses: Array
    smoothed: Array
    diverged: bool

    @property
    def lowest(self) -> float:
        """Learning rate with the lowest smoothed loss; already too large, since the loss rises from there."""
        return float(self.rates[self.smoothed.argmin()])

    @property
    def suggestion(self) -> float:
        """Learning rate at which the smoothed loss fell most steeply over log η, before `lowest`.

        Rates before the last one with less than a tenth of the total fall are ignored as noise. NaN if
        the loss never fell. A tenth of `lowest` is another rule of thumb.
        """
        end = int(self.smoothed.argmin())
        if end == 0:
            return math.nan
        fallen = self.smoothed[0] - self.smoothed[: end + 1]
        begin = int(np.flatnonzero(fallen <= 0.1 * fallen[end])[-1])
        slopes = np.gradient(self.smoothed, np.log(self.rates))
        return float(self.rates[begin + slopes[begin : end + 1].argmin()])

    def __str__(self) -> str:
        end = "where the loss diverged" if self.diverged else "the largest tried"
        return (
            f"learning rate {self.suggestion:.2g}: there the loss fell fastest; it was lowest at "
            f"{self.lowest:.2g}; {len(self.rates)} steps from {self.rates[0]:.2g} to {self.rates[-1]:.2g}, "
            f"{end}"
        )

    def plot(self, path: Any = None) -> Any:
        """Draw the loss over the rate with matplotlib, write it to `path` if given, return the figure."""
        return plot_range_test(self, path)


class _Watch(Callback):
    """Ends a range test when the exponentially smoothed loss has diverged."""

    MEMORY, GROWTH = 0.8, 3.0

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.diverged = False
        self._mean = self._weight = 0.0
        self._first = self._best = math.nan

    def on_batch_end(self, network: Any, batch: int, loss: float) -> bool:
        self.losses.append(loss)
        self._mean = self.MEMORY * self._mean + (1 - self.MEMORY) * loss
        self._weight = self.MEMORY * self._weight + (1 - self.MEMORY)
        mean = self._mean / self._weight
        if len(self.losses) == 1:
            self._first = self._best = mean
        self._best = min(self._best, mean)
        # A loss may be near 0 or negative, so the fall so far sets the scale too.
        scale = max(abs(self._best), self._first - self._best)
        self.diverged = mean > self._best + self.GROWTH * scale
        return self.diverged


def find_learning_rate(
    network: Network,
    X: Any,
    y: Any,
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    batch_size: int = 32,
    optimizer: str | Optimizer = "adam",
    penalty: str | Penalty | None = None,
    sample_weight: Any = None,
) -> RangeTest:
    """Run a learning-rate range test (Smith 2017): train with an increasing rate and record the loss.

    A copy of the network makes step k = 0, 1, … with the rate η = low (high / low)^(k / (steps - 1)),
    until the loss grows to several times its lowest value. The rate at which the loss falls fastest is
    a good one to train with. The network does not change.

    Parameters
    ----------
    network : Network
        Network to train, from its current weights.
    X : array or sparse matrix (B, I)
        Training rows.
    y : array (B,) or (B, O)
        Their targets.
    low, high : float, default 1e-6 and 10
        First and last learning rate; 0 < low < high.
    steps : int, default 100
        Number of batches, at least 3, over as many epochs as needed.
    batch_size : int, default 32
        Rows per step; use that of the training to come.
    optimizer : str or Optimizer, default "adam"
        Optimizer, started afresh; its own learning rate is ignored.
    penalty : Penalty, optional
        Penalty on the weights; none by default.
    sample_weight : array (B,), optional
        Weights of the rows.

    Returns
    -------
    RangeTest
        The rates and losses, with ``suggestion`` and ``plot``.

    Raises
    ------
    FloatingPointError
        If the loss of the first batch is not finite.

    Examples
    --------
    >>> import bpfast as bp, numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> net = bp.Network([bp.Dense(8, "tanh"), bp.Dense(1)], n_inputs=3, loss="squared_error")
    >>> found = bp.find_learning_rate(net, X, X.sum(axis=1), optimizer="sgd")
    >>> 0.01 < found.suggestion < 1
    True
    """
    owner = "find_learning_rate"
    require_network(owner, network)
    low = number(owner, "low", low, above=0)
    high = number(owner, "high", high, above=low)
    steps = integer(owner, "steps", steps, at_least=3)
    spec = optimizers.resolve(optimizer, f"{owner}: optimizer")
    if spec.full_batch:
        raise ValueError(
            f"{owner}: optimizer must work on batches; {type(spec).__name__} needs the full batch"
        )
    penalty_spec = None if penalty is None else penalties.resolve(penalty, f"{owner}: penalty")
    copied = copy.copy(network)
    state = state_of(copied)
    data = state.check(X, y, sample_weight)
    rows = min(len(data), integer(owner, "batch_size", batch_size, at_least=1))
    state.optimizer_state = None
    watch = _Watch()
    history = History(planned=-(-steps // -(-len(data) // rows)))
    callbacks = CallbackList([watch], copied, history)
    trainer = _RangeTrainer(state, data, np.geomspace(low, high, steps), rows, spec, penalty_spec, callbacks)
    with callbacks.running():
        train(trainer, callbacks, history, steps)
    if not watch.losses:
        raise FloatingPointError(f"{owner}: the loss is not finite before the first step")
    losses = np.array(watch.losses)
    diverged = watch.diverged or not trainer.finite
    return RangeTest(trainer.rates[: len(losses)], losses, _smooth(losses, steps // 20), diverged)


class _RangeTrainer(Trainer):
    """Epochs in which each batch has a different learning rate."""

    def __init__(
        self,
        state: NetworkState,
        data: Data,
        rates: Array,
        batch_size: int,
        optimizer: Optimizer,
        penalty: Penalty | None,
        callbacks: CallbackList,
    ) -> None:
        self.state, self.data, self.rates, self.batch_size = state, data, rates, batch_size
        self.penalty, self.callbacks = penalty, callbacks
        self.optimizer_state = state.optimizer_state_for(optimizer)
        self.n_batches = -(-len(data) // batch_size)
        self.done, self.finite = 0, True

    def epoch(self) -> Epoch:
        state = self.state
        rates = self.rates[self.done : self.done + self.n_batches]
        plan = Plan(
            state.loss,
            self.batch_size,
            rates,
            self.penalty,
            (state.seed, state.epochs + self.done // self.n_batches),
            (state.seed, state.steps + self.done),
            lr_scales=state.lr_scales,
        )
        self.done += len(rates)
        return run_epoch(state, self.optimizer_state, self.data, plan, self.callbacks)

    def figures(self, epoch: Epoch) -> dict[str, float] | None:
        self.finite = epoch.finite
        return {"loss": epoch.loss} if epoch.finite else None

    def ends(self, asked: bool) -> bool:
        return asked or self.done >= len(self.rates)


def _smooth(values: Array, reach: int) -> Array:
    """Return the triangular moving average over `reach` neighbours on both sides, fewer at the ends."""
    kernel = np.concatenate([np.arange(1, reach + 2), np.arange(reach, 0, -1)]).astype(float)
    sums, weights = (np.convolve(v, kernel)[reach : reach + len(v)] for v in (values, np.ones_like(values)))
    return np.asarray(sums / weights)
