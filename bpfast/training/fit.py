"""Network.fit: the trainer of a network's epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .._state import BaseNetwork, NetworkState, state_of
from ..arrays.sparse import sparsify
from ..engine.interface import Data, Plan
from ..native import _core
from ..native.engine import NativeEngine
from ..specs.optimizers import Optimizer
from ..specs.penalties import Penalty
from .callbacks import CallbackList
from .checkpoint import Checkpoint, FitRun, pack_states
from .epoch import Pause, Progress, block_order, run_epoch
from .history import History
from .loop import Epoch, Trainer, train
from .metrics import METRICS
from .options import BLOCKS, FitOptions
from .resume import SavedRun, fingerprint, read_checkpoint


def fit(network: BaseNetwork, data: Data, options: FitOptions) -> History:
    """Train a network on checked data; see `Network.fit`."""
    state, optimizer = state_of(network), options.optimizer
    assert isinstance(optimizer, Optimizer)
    history = History(*extra_columns(state, options.penalty, options.held_out), planned=options.epochs)
    callbacks = CallbackList(options.callbacks, network, history)
    savers = [callback for callback in callbacks if isinstance(callback, Checkpoint)]
    run = FitRun(network, state, optimizer, history, options.callbacks, {})
    saved = None
    if savers or options.resume is not None:
        run.arguments = _arguments(state, data, options)
    if options.resume is not None:
        saved = read_checkpoint(options.resume, run, -(-len(data) // options.batch_size))
    try:
        _begin(run, callbacks, savers, saved)
        state.forget_tape()
        trainer = _FitTrainer(run, data, options, callbacks, savers)
        if saved is not None:
            trainer.progress = saved.progress
        if not run.ended:
            train(trainer, callbacks, history, options.epochs)
    finally:
        callbacks.end()
    return history


def _arguments(state: NetworkState, data: Data, options: FitOptions) -> dict[str, object]:
    """Return what the result of a fit depends on; a resumed run must have the same."""
    held_out = options.held_out
    # The first that differs is reported: other data may change the batch size too.
    return {
        "data": fingerprint(data),
        "validation": None if held_out is None else fingerprint(held_out),
        "batch_size": options.batch_size,
        "optimizer": options.optimizer.config(),
        "penalty": None if options.penalty is None else options.penalty.config(),
        "shuffle": options.shuffle,
        "weight_noise": options.weight_noise,
        "backend": state.backend,
    }


def _begin(
    run: FitRun, callbacks: CallbackList, savers: Sequence[Checkpoint], saved: SavedRun | None
) -> None:
    """Restore a saved run and begin the callbacks; after an error the network is unchanged."""
    before = run.state.snapshot() if saved is not None else None
    if saved is not None:
        saved.take(run)
    try:
        for saver in savers:
            saver.begin(run)
        callbacks.begin()
        if saved is not None:
            saved.restore_callbacks()
        if savers:
            pack_states(run.callbacks, {})  # Raise now rather than after an epoch.
    except BaseException:
        if before is not None:
            try:
                callbacks.end()
            finally:
                run.state.restore(before)
        raise


class _FitTrainer(Trainer):
    """Epochs of `Network.fit`: shuffled batches, validation, checkpoints."""

    def __init__(
        self,
        run: FitRun,
        data: Data,
        options: FitOptions,
        callbacks: CallbackList,
        savers: Sequence[Checkpoint],
    ) -> None:
        self.run, self.options, self.callbacks, self.savers = run, options, callbacks, savers
        self.state, self.history = run.state, run.history
        self.data = sparsified(run.state, data, options.batch_size, options.epochs)
        self.optimizer_state = self.state.optimizer_state_for(run.optimizer)
        self.n_batches = -(-len(data) // options.batch_size)
        self.pauses: list[Pause] = [(s.batches, s.write) for s in savers if s.batches is not None]
        #: Progress of the epoch within which the resumed checkpoint was written.
        self.progress: Progress | None = None
        #: Number of the first step of the current epoch.
        self.first_step = self.state.steps
        #: Flat vector before the current epoch; the run holds it for its checkpoints.
        self.last_good = np.empty_like(self.state.flat) if run.last_good is None else run.last_good

    def epoch(self) -> Epoch:
        state, optimizer_state = self.state, self.optimizer_state
        progress, done = self.progress, 0
        if progress is None:
            np.copyto(self.last_good, state.flat)
            progress = Progress.begin(self.n_batches)
        else:
            done = progress.done
        self.progress = None
        self.run.last_good = self.last_good
        self.first_step = state.steps - done
        before = optimizer_state.steps
        try:
            return run_epoch(
                state, optimizer_state, self.data, self._plan(), self.callbacks, progress, self.pauses
            )
        except Exception:
            # A custom loss or a callback has failed.
            self._roll_back()
            raise
        except BaseException:
            # An interrupt keeps the steps made so far.
            state.steps += optimizer_state.steps - before
            raise

    def _plan(self) -> Plan:
        state, options = self.state, self.options
        schedule = self.run.optimizer.schedule
        key = (state.seed, state.epochs)
        X = self.data.X
        return Plan(
            state.loss,
            options.batch_size,
            np.array(self.optimizer_state.clock.rates(schedule, self.n_batches)),
            options.penalty,
            key if options.shuffle is True else None,
            (state.seed, self.first_step),
            order=block_order(len(X), X.shape[1], *key) if options.shuffle == BLOCKS else None,
            weight_noise=options.weight_noise,
            lr_scales=state.lr_scales,
        )

    def figures(self, epoch: Epoch) -> dict[str, float]:
        self._require_finite(epoch)
        self.state.epochs += 1
        self.state.steps = self.first_step + len(epoch.losses)
        return {"loss": epoch.loss} | extra_figures(self.state, self.options.penalty, self.options.held_out)

    def advance(self, figures: dict[str, float]) -> None:
        monitored = figures.get("val_loss", figures["loss"])
        self.optimizer_state.clock.advance(self.run.optimizer.schedule, monitored)

    def ends(self, asked: bool) -> bool:
        self.run.ended = asked
        last = asked or len(self.history) >= self.options.epochs
        for saver in self.savers:
            saver.update_best()
        for saver in self.savers:
            saver.after_epoch(last)
        return asked

    def _roll_back(self) -> None:
        """Restore the weights of the last good epoch; discard the optimizer's state, which has moved on."""
        np.copyto(self.state.flat, self.last_good)
        self.state.optimizer_state = None

    def _require_finite(self, epoch: Epoch) -> None:
        """Raise FloatingPointError after an epoch that ended in NaN or infinity, and roll back."""
        state, losses = self.state, epoch.losses
        if epoch.finite and _core.all_finite(state.flat):
            return
        self._roll_back()
        if epoch.finite:
            what = f"the weights overflowed at the end of epoch {len(self.history)}"
        else:
            batch = int(np.flatnonzero(~np.isfinite(losses))[0])
            what = f"the loss became {spell(losses[batch])} in epoch {len(self.history)}, batch {batch}"
            if math.isinf(losses[batch]) and state.loss.name in ("exponential", "poisson"):
                what += f" (the exponent of the {state.loss.name} loss reached its cap)"
        raise FloatingPointError(
            f"{what}; the network keeps the weights of the last good epoch. "
            f"A lower learning rate or scaled data often helps"
        )


def spell(value: float) -> str:
    """Return NaN or infinity as a word."""
    return "NaN" if math.isnan(value) else "infinite"


def sparsified(state: NetworkState, data: Data, batch_size: int, epochs: int) -> Data:
    """Return the data in the form that trains fastest: an X of mostly zeros becomes sparse rows.

    Results are bitwise identical.
    """
    engine = state.engine
    if not isinstance(engine, NativeEngine) or not engine.reads_sparse:
        return data
    return replace(data, X=sparsify(data.X, batch_size, state.program.ops[0].n_out, epochs))


def extra_columns(state: NetworkState, penalty: Penalty | None, held_out: Data | None) -> list[str]:
    """Return the names of `extra_figures`."""
    columns = [] if penalty is None else ["penalty"]
    if held_out is not None:
        metric = state.loss.metric
        columns += ["val_loss", f"val_{metric}"] if metric else ["val_loss"]
    return columns


def extra_figures(state: NetworkState, penalty: Penalty | None, held_out: Data | None) -> dict[str, float]:
    """Return the penalty, and loss and metric of the held-out rows."""
    figures = {}
    if penalty is not None:
        figures["penalty"] = state.penalty(penalty)
    if held_out is not None:
        figures["val_loss"], Z = state.evaluate(held_out)
        metric = state.loss.metric
        if metric:
            figures[f"val_{metric}"] = METRICS[metric](state, held_out, Z)
    return figures
