"""The training loop, which all ways of training share."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from ..specs.record import Record, record
from .callbacks import CallbackList
from .history import History


@record
class Epoch(Record):
    """Result of one epoch.

    Attributes
    ----------
    losses : float64 array (n_batches,)
        Loss of each batch before its update; NaN after a batch that ended the epoch.
    counts : float64 array (n_batches,)
        Weight of each batch.
    learning_rate : float
        Learning rate of the last batch.
    ended : bool
        Whether a callback ended the training within the epoch.
    """

    losses: NDArray[np.float64]
    counts: NDArray[np.float64]
    learning_rate: float
    ended: bool = False

    @property
    def loss(self) -> float:
        """The mean loss over the batches."""
        return float((self.losses * self.counts).sum() / self.counts.sum())

    @property
    def finite(self) -> bool:
        """Whether the loss of every batch is finite."""
        return bool(np.isfinite(self.losses).all())


class Trainer:
    """One way of training; `train` calls the methods in this order, every epoch."""

    def epoch(self) -> Epoch:
        """Train for one epoch; this is what the history's ``seconds`` measure."""
        raise NotImplementedError

    def figures(self, epoch: Epoch) -> dict[str, float] | None:
        """Return the epoch's entries of the history; None ends the training without them."""
        return {"loss": epoch.loss}

    def advance(self, figures: dict[str, float]) -> None:
        """Advance counters and the clock of the schedule to the next epoch."""

    def ends(self, asked: bool) -> bool:
        """Return whether the training ends here; `asked` is whether a callback returned True."""
        return asked


def train(trainer: Trainer, callbacks: CallbackList, history: History, epochs: int) -> None:
    """Train until the history has `epochs` entries, or a callback or the trainer ends the training."""
    ended = False
    while len(history) < epochs and not ended:
        start = time.perf_counter()
        epoch = trainer.epoch()
        seconds = time.perf_counter() - start
        figures = trainer.figures(epoch)
        if figures is None:
            return
        history.add(learning_rate=epoch.learning_rate, seconds=seconds, **figures)
        trainer.advance(figures)
        ended = trainer.ends(callbacks.epoch_end() or epoch.ended)
