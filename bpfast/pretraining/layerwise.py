"""Common parts of the pretraining methods: their specification, and the layer being pretrained."""

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
    """Base class of the methods by which a layer learns from its inputs."""

    epochs: int = 10
    batch_size: int | None = 32

    def __post_init__(self) -> None:
        owner = type(self).__name__
        self._set("epochs", integer(owner, "epochs", self.epochs, at_least=1))
        if self.batch_size is not None:
            self._set("batch_size", integer(owner, "batch_size", self.batch_size, at_least=1))

    def check(self, network: Network, index: int) -> None:
        """Raise ValueError for a layer that this method cannot pretrain."""

    def train(self, task: Task) -> History:
        """Pretrain a layer: change the task's W and b in place."""
        raise NotImplementedError


pretrainers: Family[Pretrainer] = Family("pretraining method", Pretrainer)


@dataclass
class Task:
    """A `Dense` layer being pretrained.

    Attributes
    ----------
    network : Network
        Network of the layer.
    index : int
        Index of the layer in `network.layers`.
    X : array (B, I)
        Inputs of the layer.
    W : array (I, O)
        Copy of its weights, changed in place.
    b : array (O,)
        Copy of its biases, changed in place; 0 if the layer has none.
    biased : bool
        Whether the layer has a bias.
    rng : numpy.random.Generator
        Generator seeded with the network's seed and the index.
    report : callable
        To be called with the loss of every epoch.
    """

    network: Network
    index: int
    X: Array
    W: Array
    b: Array
    biased: bool
    rng: np.random.Generator
    report: Callable[[float], None]

    @classmethod
    def of(cls, network: Network, index: int, X: Array, report: Callable[[float], None]) -> Task:
        """Return the task of pretraining a layer, with copies of its weights."""
        W = network.parameters[f"{index}.W"].copy()
        b = network.parameters.get(f"{index}.b")
        rng = np.random.default_rng([network.seed, index])
        start = np.zeros_like(W[0]) if b is None else b.copy()
        return cls(network, index, X, W, start, b is not None, rng, report)

    def result(self) -> dict[str, Array]:
        """Return the weights by their names in the network."""
        return {f"{self.index}.W": self.W} | ({f"{self.index}.b": self.b} if self.biased else {})

    def batches(self, rows: int | None) -> Iterator[NDArray[np.int64]]:
        """Yield the row indices batch by batch, in a new random order."""
        order = self.rng.permutation(len(self.X))
        size = len(self.X) if rows is None else rows
        return (order[start : start + size] for start in range(0, len(self.X), size))

    def require_finite(self, epoch: int, loss: float, *arrays: Array) -> None:
        """Raise FloatingPointError if an epoch ended in NaN or infinity."""
        if not np.isfinite(loss) or not all(_core.all_finite(array) for array in arrays):
            raise self.diverged(epoch)

    def diverged(self, epoch: int) -> FloatingPointError:
        """Return the error of an epoch that ended in NaN or infinity."""
        return FloatingPointError(
            f"pretrain: layers[{self.index}] diverged in epoch {epoch}; the network is unchanged. "
            f"A lower learning rate or scaled data often helps"
        )


def in_unit_range(X: Array) -> bool:
    """Whether all elements are from 0 to 1."""
    return bool(X.min() >= 0 and X.max() <= 1)


class Report(Callback):
    """Report the loss of every epoch to a function."""

    def __init__(self, report: Callable[[float], None]) -> None:
        self._report = report

    def on_epoch_end(self, network: Any, history: History) -> None:
        self._report(history["loss"][-1])
