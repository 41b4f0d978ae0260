"""Callbacks: objects that `fit` calls after every epoch or every batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .._state import state_of
from ..specs.monitor import direction, improves
from ..specs.spec import flag, integer, number
from .history import History


class Callback:
    """Base class of callbacks: override the methods you need.

    Their arguments are the `bpfast.Network` being trained and its `bpfast.History`.
    """

    def on_fit_begin(self, network: Any, history: History) -> None:
        """Called before the first epoch."""

    def on_batch_end(self, network: Any, batch: int, loss: float) -> bool | None:
        """Called after every batch; return True to end the training.

        Without this method an epoch is one native call. The results are the same either way.

        Parameters
        ----------
        network : Network
            The network being trained.
        batch : int
            Index of the batch within the epoch, from 0.
        loss : float
            Mean loss of the batch before its update.
        """

    def on_epoch_end(self, network: Any, history: History) -> bool | None:
        """Called after every epoch; return True to end the training."""

    def on_fit_end(self, network: Any, history: History) -> None:
        """Called after the last epoch, however the training ended."""

    def state(self) -> dict[str, Any]:
        """Return the state for a `Checkpoint` to store: numbers, strings, arrays, and lists or dicts of them.

        A callback without state returns an empty dict, always.
        """
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned; called after `on_fit_begin`."""


class EarlyStopping(Callback):
    """End the training when a monitored metric stops improving (Prechelt 1998).

    Parameters
    ----------
    monitor : str, default "val_loss"
        Column of the history. Losses improve by falling, accuracy and r2 by rising.
    patience : int, default 10
        Number of epochs without improvement after which the training ends.
    min_delta : float, default 0.0
        Minimum change that counts as an improvement.
    restore_best : bool, default True
        Whether to restore the parameters and running statistics of the best epoch at the end.

    Attributes
    ----------
    best : float
        Best value of the monitored metric.
    best_epoch : int
        Epoch of the best value, from 0 within the last fit.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 10,
        min_delta: float = 0.0,
        restore_best: bool = True,
    ) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"EarlyStopping: monitor must be the name of a column; got {monitor!r}")
        self.monitor = monitor
        self.patience = integer("EarlyStopping", "patience", patience, at_least=1)
        self.min_delta = number("EarlyStopping", "min_delta", min_delta, at_least=0)
        self.restore_best = flag("EarlyStopping", "restore_best", restore_best)
        self._direction = direction(monitor)
        self._reset()

    def _reset(self) -> None:
        self.best = math.inf * self._direction
        self.best_epoch = -1
        self._weights: Any = None
        # Dtype and shape that stored weights must have.
        self._like: Any = None

    def on_fit_begin(self, network: Any, history: History) -> None:
        if self.monitor not in history:
            hint = "; pass validation data" if self.monitor.startswith("val_") else ""
            raise ValueError(
                f"EarlyStopping monitors {self.monitor!r}, which this fit does not record "
                f"(recorded: {', '.join(history.columns)}){hint}"
            )
        self._reset()
        flat = state_of(network).flat
        self._like = (flat.dtype, flat.shape)

    def on_epoch_end(self, network: Any, history: History) -> bool:
        column = history[self.monitor]
        epoch, value = len(column) - 1, column[-1]
        if improves(value, self.best, self._direction, margin=self.min_delta):
            self.best, self.best_epoch = value, epoch
            if self.restore_best:
                # Including the running statistics, which belong to these weights.
                self._weights = state_of(network).flat.copy()
        return epoch - self.best_epoch >= self.patience

    def on_fit_end(self, network: Any, history: History) -> None:
        if self._weights is not None:
            state_of(network).flat[...] = self._weights
            self._weights = None
            history.restored = self.best_epoch

    def state(self) -> dict[str, Any]:
        kept = {"best": self.best, "best_epoch": self.best_epoch, **self._settings()}
        return kept if self._weights is None else {**kept, "weights": self._weights}

    def _settings(self) -> dict[str, Any]:
        """Parameters that the state depends on."""
        return {"monitor": self.monitor, "min_delta": self.min_delta, "restore_best": self.restore_best}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name, value in self._settings().items():
            if state[name] != value:
                raise ValueError(
                    f"the run's EarlyStopping had {name} {state[name]!r}; this one has {value!r}"
                )
        best_epoch = integer("EarlyStopping", "best_epoch", state["best_epoch"], at_least=-1)
        weights = state.get("weights")
        if (
            weights is not None
            and (getattr(weights, "dtype", None), getattr(weights, "shape", None)) != self._like
        ):
            raise ValueError("EarlyStopping: weights do not have the dtype and shape of this network")
        self.best, self.best_epoch, self._weights = float(state["best"]), best_epoch, weights


class ProgressBar(Callback):
    """Progress bar on standard error (tqdm), with the losses and metrics of the last epoch."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_fit_begin(self, network: Any, history: History) -> None:
        # Imported here because tqdm takes longer to import than the rest of bpfast.
        from tqdm import tqdm

        self._bar = tqdm(total=history.planned, initial=len(history), unit="epoch", dynamic_ncols=True)

    def on_epoch_end(self, network: Any, history: History) -> None:
        self._bar.update()
        shown = [name for name in history.columns if name not in ("learning_rate", "seconds", "penalty")]
        self._bar.set_postfix({name: f"{history[name][-1]:.4g}" for name in shown}, refresh=False)

    def on_fit_end(self, network: Any, history: History) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


class CallbackList:
    """The callbacks of one training, called in order.

    Parameters
    ----------
    callbacks : sequence of Callback
    network : Network
        Passed to the callbacks.
    history : History
        Passed to the callbacks.
    """

    def __init__(self, callbacks: Sequence[Callback], network: Any, history: History) -> None:
        self._callbacks = tuple(callbacks)
        self._network, self._history = network, history
        self._begun: list[Callback] = []
        self._watching = [c for c in callbacks if type(c).on_batch_end is not Callback.on_batch_end]

    def __iter__(self) -> Iterator[Callback]:
        return iter(self._callbacks)

    @property
    def watch_batches(self) -> bool:
        """Whether a callback defines `on_batch_end`."""
        return bool(self._watching)

    def begin(self) -> None:
        """Call every `on_fit_begin`."""
        for callback in self._callbacks:
            callback.on_fit_begin(self._network, self._history)
            self._begun.append(callback)

    def batch_end(self, batch: int, loss: float) -> bool:
        """Call every `on_batch_end`; return whether one of them ends the training."""
        return _any_true([c.on_batch_end(self._network, batch, loss) for c in self._watching])

    def epoch_end(self) -> bool:
        """Call every `on_epoch_end`; return whether one of them ends the training."""
        return _any_true([c.on_epoch_end(self._network, self._history) for c in self._callbacks])

    def end(self) -> None:
        """Call `on_fit_end` of those that have begun, in order; raise the first error after the last call."""
        begun, self._begun = self._begun, []
        first_error: BaseException | None = None
        for callback in begun:
            try:
                callback.on_fit_end(self._network, self._history)
            except BaseException as error:
                first_error = first_error or error
        if first_error is not None:
            raise first_error

    @contextmanager
    def running(self) -> Iterator[None]:
        """Call `begin`, and `end` however the body ends."""
        try:
            self.begin()
            yield
        finally:
            self.end()


def _any_true(answers: Sequence[Any]) -> bool:
    """Whether one of the callbacks returned True."""
    return any(isinstance(answer, (bool, np.bool_)) and bool(answer) for answer in answers)


def check_callbacks(callbacks: Any) -> list[Callback]:
    """Return a list of callbacks; raise TypeError if `callbacks` is not one or a sequence of them."""
    if isinstance(callbacks, Callback):
        return [callbacks]
    several = isinstance(callbacks, Sequence) and not isinstance(callbacks, (str, bytes))
    for callback in callbacks if several else [callbacks]:
        if not isinstance(callback, Callback):
            raise TypeError(
                f"fit: callbacks must be a Callback object or a list of them; "
                f"got {callback!r}{_hint(callback)}"
            )
    return list(callbacks)


def _hint(value: Any) -> str:
    """Return how to make a callback of a class or function, for an error message."""
    if isinstance(value, type) and issubclass(value, Callback):
        return f"; pass an object, {value.__name__}(...), not the class"
    return "; derive it from bp.Callback" if callable(value) else ""
