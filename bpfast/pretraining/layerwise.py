"""What the ways to pretrain a layer share: their specification, and a layer at work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array
from ..native import _core
from ..network import Network
from ..specs.spec import Family, Spec, integer, spec
from ..training.callbacks import Callback
from ..training.history import History


@spec
class Pretrainer(Spec):
    """How a layer learns from its inputs alone."""

    epochs: int = 10
    batch_size: int | None = 32

    def __post_init__(self) -> None:
        owner = type(self).__name__
        self._set("epochs", integer(owner, "epochs", self.epochs, at_least=1))
        if self.batch_size is not None:
            self._set("batch_size", integer(owner, "batch_size", self.batch_size, at_least=1))

    def check(self, network: Network, index: int) -> None:
        """Refuse a layer that this can't pretrain."""

    def train(self, task: Task) -> History:
        """Pretrain a layer: change the task's W and b."""
        raise NotImplementedError


pretrainers: Family[Pretrainer] = Family("pretraining method", Pretrainer)


@dataclass
class Task:
    """A `Dense` layer to pretrain.

    Attributes
    ----------
    network : Network
        What it is of.
    index : int
        Its place there.
    X : array (B, I)
        Its inputs.
    W, b : arrays
        Copies of its weights, which change; without a bias b stays 0.
    rng : numpy.random.Generator
        From the network's seed and the layer's place.
    tell : callable
        To be called with the loss of every epoch.
    """

    network: Network
    index: int
    X: Array
    W: Array
    b: Array
    biased: bool
    rng: np.random.Generator
    tell: Callable[[float], None]

    @classmethod
    def of(cls, network: Network, index: int, X: Array, tell: Callable[[float], None]) -> Task:
        W = network.parameters[f"{index}.W"].copy()
        b = network.parameters.get(f"{index}.b")
        rng = np.random.default_rng([network.seed, index])
        start = np.zeros_like(W[0]) if b is None else b.copy()
        return cls(network, index, X, W, start, b is not None, rng, tell)

    def result(self) -> dict[str, Array]:
        """The weights by their names in the network."""
        return {f"{self.index}.W": self.W} | ({f"{self.index}.b": self.b} if self.biased else {})

    def batches(self, rows: int | None) -> Iterator[NDArray[np.int64]]:
        """The numbers of the rows, a batch at a time, in a new order."""
        order = self.rng.permutation(len(self.X))
        size = len(self.X) if rows is None else rows
        return (order[start : start + size] for start in range(0, len(self.X), size))

    def require_finite(self, epoch: int, loss: float, *arrays: Array) -> None:
        """Raise FloatingPointError if an epoch ended in NaN or infinity."""
        if not np.isfinite(loss) or not all(_core.all_finite(array) for array in arrays):
            raise self.diverged(epoch)

    def diverged(self, epoch: int) -> FloatingPointError:
        """The error of an epoch that ended in NaN or infinity."""
        return FloatingPointError(
            f"pretrain: layers[{self.index}] diverged in epoch {epoch}; the network is as it was. "
            f"A lower learning rate or scaled data often helps"
        )


def in_unit_range(X: Array) -> bool:
    """Whether all elements lie from 0 to 1."""
    return bool(X.min() >= 0 and X.max() <= 1)


class Teller(Callback):
    """Pass on the loss of every epoch."""

    def __init__(self, tell: Callable[[float], None]) -> None:
        self._tell = tell

    def on_epoch_end(self, network: Any, history: History) -> None:
        self._tell(history["loss"][-1])
