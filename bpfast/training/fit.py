"""fit: epochs, history, validation, stopping."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Array, checks
from ..arrays.sparse import Features, thin
from ..engine.interface import Data, Plan
from ..native import _core
from ..native.engine import NativeEngine
from ..specs.losses import CustomLoss
from ..specs.optimizers import LBFGS, Optimizer
from ..specs.penalties import Penalty
from ..specs.spec import flag, integer
from .callbacks import Callback, ProgressBar
from .checkpoint import Checkpoint, Run, pack_states
from .epoch import Progress, asked, block_order, run_epoch
from .history import History
from .metrics import METRICS
from .profile import Profile, from_timers
from .resume import Saved, fingerprint
from .resume import read as read_checkpoint

if TYPE_CHECKING:
    from ..network import Network


def fit(
    network: Network,
    X: Features,
    Y: Array,
    weights: Array | None,
    *,
    epochs: int,
    batch_size: int | str | None,
    optimizer: Optimizer,
    penalty: Penalty | None,
    validation: tuple[Any, ...] | None,
    callbacks: Sequence[Callback],
    shuffle: bool | str,
    progress: bool,
    weight_noise: float = 0.0,
    resume: str | os.PathLike[str] | None = None,
) -> History:
    """Train a network on checked data; see `Network.fit`."""
    rows = _batch_rows(batch_size, len(X), optimizer.full_batch, type(optimizer).__name__)
    require_rows(network, rows)
    held_out = _validation(network, validation)
    shuffle, progress = _shuffle(shuffle), flag("fit", "progress", progress)
    callbacks = [*([ProgressBar()] if progress else []), *callback_list(callbacks)]
    savers = [callback for callback in callbacks if isinstance(callback, Checkpoint)]
    n_batches = -(-len(X) // rows)
    history = History(*_columns(network, penalty, held_out), planned=epochs)
    run = Run(network, optimizer, history, callbacks, {})
    saved = None
    if savers or resume is not None:
        run.arguments = {
            "batch_size": rows,
            "optimizer": optimizer.config(),
            "penalty": None if penalty is None else penalty.config(),
            "shuffle": shuffle,
            "weight_noise": weight_noise,
            "backend": network.backend,
            "data": fingerprint(X, Y, weights),
            "validation": None if held_out is None else fingerprint(*held_out),
        }
    if resume is not None:
        saved = read_checkpoint(resume, run, n_batches)
    _begin(run, savers, saved)
    network._taped, network._backed = 0, False
    X = thinned(network, X, rows, epochs)
    state = network._optimizer_state(optimizer)
    epoch_progress = None if saved is None else saved.progress
    # Before the epoch under way; kept while there is none, for the checkpoints.
    good = np.empty_like(network._flat) if run.good is None else run.good
    pauses = [(saver.batches, saver.write) for saver in savers if saver.batches is not None]
    try:
        while len(history) < epochs and not run.ended:
            done = 0
            if epoch_progress is None:
                np.copyto(good, network._flat)
                epoch_progress = Progress.begin(n_batches)
            else:
                done = epoch_progress.done
            run.good = good
            first_step = network._steps - done
            rates = np.array(state.clock.rates(optimizer.schedule, n_batches))
            order = (network.seed, network._epochs)
            plan = Plan(
                network.loss_spec,
                rows,
                rates,
                penalty,
                order if shuffle is True else None,
                (network.seed, first_step),
                order=block_order(len(X), X.shape[1], *order) if shuffle == BLOCKS else None,
                weight_noise=weight_noise,
                lr_scales=network._lr_scales,
            )
            before = state.steps
            start = time.perf_counter()
            try:
                losses, counts, ended = run_epoch(
                    network, state, X, Y, weights, plan, callbacks, epoch_progress, pauses
                )
            except Exception:
                # A custom loss or a callback has failed.
                _roll_back(network, good)
                raise
            except BaseException:
                # After an interrupt, on the other hand, what was learned is kept.
                network._steps += state.steps - before
                raise
            seconds = time.perf_counter() - start
            _require_finite(network, losses, good, len(history))
            network._epochs += 1
            network._steps = first_step + len(losses)
            epoch_progress = None
            figures = _figures(network, losses, counts, penalty, held_out)
            history.add(learning_rate=rates[-1], seconds=seconds, **figures)
            state.clock.tick(optimizer.schedule, figures.get("val_loss", figures["loss"]))
            run.ended = asked(callback.on_epoch_end(network, history) for callback in callbacks) or ended
            for saver in savers:
                saver.look()
            for saver in savers:
                saver.after_epoch(run.ended or len(history) >= epochs)
    finally:
        end_callbacks(callbacks, network, history)
    return history


#: The `shuffle` that keeps rows of a file near each other.
BLOCKS = "blocks"


def _shuffle(value: Any) -> bool | str:
    if not isinstance(value, bool) and value != BLOCKS:
        raise TypeError(f"fit: shuffle must be True, False or {BLOCKS!r}; got {value!r}")
    return value  # type: ignore[no-any-return]


def _begin(run: Run, savers: Sequence[Checkpoint], saved: Saved | None) -> None:
    """Take over what was saved, and tell the callbacks; after an error the network is as before."""
    if saved is not None:
        saved.take(run)
    try:
        for saver in savers:
            saver.begin(run)
        for callback in run.callbacks:
            callback.on_fit_begin(run.network, run.history)
        if saved is not None:
            saved.restore()
        if savers:
            pack_states(run.callbacks, {})  # refused now rather than after an epoch
    except BaseException:
        if saved is not None:
            saved.give_back(run.network)
        raise


def search(
    network: Network,
    X: Features,
    Y: Array,
    weights: Array | None,
    *,
    epochs: int,
    batch_size: int | str | None,
    optimizer: LBFGS,
    penalty: Penalty | None,
    validation: tuple[Any, ...] | None,
    callbacks: Sequence[Callback],
    shuffle: bool | str,
    progress: bool,
    weight_noise: float = 0.0,
    resume: str | os.PathLike[str] | None = None,
) -> History:
    """Train a network on checked data by L-BFGS, an iteration an epoch; see `Network.fit`."""
    from .lbfgs import minimize

    callbacks = callback_list(callbacks)
    if resume is not None or any(isinstance(callback, Checkpoint) for callback in callbacks):
        raise ValueError(
            "fit: L-BFGS, whose memory is SciPy's, can't be taken up again to the same bits; save the "
            "network, and fit the loaded one on"
        )
    if batch_size not in ("auto", None) and _batch_rows(batch_size, len(X)) < len(X):
        raise ValueError(f"fit: LBFGS takes all rows at once; pass batch_size=None (got {batch_size!r})")
    if penalty is not None and not penalty.smooth:
        raise ValueError(f"fit: LBFGS needs a penalty with a derivative, such as L2; got {penalty!r}")
    if network.program.renormalises:
        raise ValueError(
            "fit: LBFGS needs the gradient of its objective, and BatchRenorm holds r and d constant; "
            "take BatchNorm: all rows are one batch"
        )
    if network.program.random or weight_noise > 0:
        raise ValueError(
            "fit: LBFGS needs an objective that stays the same; this one draws random numbers "
            "(Dropout, RReLU or weight_noise)"
        )
    _shuffle(shuffle)
    held_out, progress = _validation(network, validation), flag("fit", "progress", progress)
    callbacks = [*([ProgressBar()] if progress else []), *callbacks]
    history = History(*_columns(network, penalty, held_out), planned=epochs)
    for callback in callbacks:
        callback.on_fit_begin(network, history)
    reached, since = network._flat.copy(), time.perf_counter()

    def after(value: float) -> bool:
        nonlocal reached, since
        _settle(network, X)
        reached = network._flat.copy()
        loss = value - network.penalty(penalty)
        figures = _figures(network, np.array([loss]), np.ones(1), penalty, held_out)
        history.add(learning_rate=math.nan, seconds=time.perf_counter() - since, **figures)
        network._epochs += 1
        over = asked(callback.on_batch_end(network, 0, loss) for callback in callbacks)
        over = asked(callback.on_epoch_end(network, history) for callback in callbacks) or over
        since = time.perf_counter()
        return over

    try:
        found = minimize(
            network,
            X,
            Y,
            weights,
            penalty=penalty,
            max_iter=epochs,
            max_fun=20 * epochs if optimizer.max_evaluations is None else optimizer.max_evaluations,
            tolerance=optimizer.tolerance,
            memory=optimizer.memory,
            least_fall=10 * float(np.finfo(network.dtype).eps),
            training=network._next_step(),
            moves=network._moves(),
            after=after,
        )
        _settle(network, X)
        if not (math.isfinite(found.value) and _core.all_finite(network._flat)):
            raise FloatingPointError(
                f"the objective became {_spell(found.value)} in iteration {len(history)} of LBFGS; the "
                f"network keeps the weights of the last good one. Scaled data often helps"
            )
    except BaseException:
        # What was learned is kept, as after an epoch of `fit`.
        np.copyto(network._flat, reached)
        raise
    finally:
        network._new_engine()
        end_callbacks(callbacks, network, history)
    return history


def _settle(network: Network, X: Features) -> None:
    """The running statistics become those of all rows."""
    if network.statistics:
        how = replace(network._next_step(), momentum=1.0, heads=False)
        with network._lock:
            network._engine.forward(network._flat, X, how)


def thinned(network: Network, X: Features, batch_size: int, epochs: int) -> Features:
    """X as the engine trains on it fastest: mostly zeros as sparse rows, to the same bits."""
    engine = network._engine
    if not isinstance(engine, NativeEngine) or not engine.reads_sparse:
        return X
    return thin(X, batch_size, network.program.ops[0].n_out, epochs)


def end_callbacks(callbacks: Sequence[Callback], network: Network, history: History) -> None:
    """Tell each of them that the training is over, also when another raises."""
    with ExitStack() as ending:
        for callback in reversed(callbacks):
            ending.callback(callback.on_fit_end, network, history)


def timed_epoch(
    network: Network,
    X: Features,
    Y: Array,
    weights: Array | None,
    *,
    batch_size: int | str | None,
    optimizer: Optimizer,
    penalty: Penalty | None,
    shuffle: bool,
) -> Profile:
    """Train a network for two epochs on checked data and time the second; see `Network.profile`."""
    rows = _batch_rows(batch_size, len(X), optimizer.full_batch, type(optimizer).__name__)
    n_batches = -(-len(X) // rows)
    state = network._optimizer_state(optimizer)
    rates = np.array(state.clock.rates(optimizer.schedule, n_batches))
    order = (network.seed, 0) if flag("profile", "shuffle", shuffle) else None
    noise = (network.seed, network._steps)
    plan = Plan(network.loss_spec, rows, rates, penalty, order, noise, lr_scales=network._lr_scales)
    engine = network._engine
    if not isinstance(engine, NativeEngine) or isinstance(network.loss_spec, CustomLoss):
        raise RuntimeError("profile times the native step; a custom loss does without")
    engine.train(network._flat, state, Data(X, Y, weights), plan)
    engine.timers = np.zeros((engine.threads, 3 * len(network.program.ops) + 3))
    engine.train(network._flat, state, Data(X, Y, weights), plan)
    return from_timers(network, engine.timers, n_batches, len(X))


def _batch_rows(batch_size: int | str | None, n: int, full: bool = False, owner: str = "") -> int:
    """The rows of a batch; `full` where an optimizer, the owner, must have them all."""
    if batch_size == "auto":
        batch_size = None if full else 32
    rows = n if batch_size is None else min(n, integer("fit", "batch_size", batch_size, at_least=1))
    if full and rows < n:
        raise ValueError(
            f"fit: {owner} needs the full batch; pass batch_size=None (got {batch_size} for {n} rows)"
        )
    return rows


def require_rows(network: Network, rows: int) -> None:
    """Refuse batches of one row where they are to be normalised."""
    if rows == 1 and network.statistics and set(network.learning_rate_scales.values()) != {0.0}:
        names = {op.layer for op in network.program.ops if op.statistics is not None}
        raise ValueError(
            f"fit: batch_size must be at least 2 for what normalises batches (layers[{min(names)}]); a "
            f"batch of one row has no variance"
        )


def _validation(network: Network, validation: Any) -> tuple[Features, Array, Array | None] | None:
    if validation is None:
        return None
    if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3):
        raise TypeError("fit: validation must be (X, y) or (X, y, sample_weight)")
    Xv = checks.features(validation[0], network.n_inputs, network.dtype, "validation X")
    Yv = checks.targets(
        network.loss_spec, validation[1], len(Xv), network.n_outputs, network.dtype, "validation y"
    )
    weights = validation[2] if len(validation) == 3 else None
    return Xv, Yv, checks.weights(weights, len(Xv), "validation sample_weight")


def callback_list(callbacks: Any) -> list[Callback]:
    """One callback, or a sequence of them, checked."""
    if isinstance(callbacks, Callback):
        return [callbacks]
    if not isinstance(callbacks, Sequence):
        raise TypeError(f"fit: callbacks must be a list of Callback objects; got {callbacks!r}")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            a_class = isinstance(callback, type) and issubclass(callback, Callback)
            hint = f"; make one: {callback.__name__}()" if a_class else "; derive it from bp.Callback"
            raise TypeError(f"fit: callbacks must be Callback objects; got {callback!r}{hint}")
    return list(callbacks)


def _roll_back(network: Network, good: Array) -> None:
    """To the weights of the last good epoch; the optimizer's state has gone on, so it is dropped."""
    network._flat[...] = good
    network.reset_optimizer()


def _require_finite(network: Network, losses: Array, good: Array, epoch: int) -> None:
    """Refuse an epoch that ended in NaN or infinity: put the weights back, forget the state."""
    bad = np.flatnonzero(~np.isfinite(losses))
    if not len(bad) and _core.all_finite(network._flat):
        return
    _roll_back(network, good)
    if not len(bad):
        what = f"the weights overflowed at the end of epoch {epoch}"
    else:
        batch = int(bad[0])
        what = f"the loss became {_spell(losses[batch])} in epoch {epoch}, batch {batch}"
        if math.isinf(losses[batch]) and network.loss_spec.name in ("exponential", "poisson"):
            what += f" (the exponent of the {network.loss_spec.name} loss reached its cap)"
    raise FloatingPointError(
        f"{what}; the network keeps the weights of the last good epoch. "
        f"A lower learning rate or scaled data often helps"
    )


def _spell(value: float) -> str:
    return "NaN" if math.isnan(value) else "infinite"


def _columns(network: Network, penalty: Penalty | None, held_out: Any) -> list[str]:
    """What `_figures` will give beside the loss."""
    columns = [] if penalty is None else ["penalty"]
    if held_out is not None:
        metric = network.loss_spec.metric
        columns += ["val_loss", f"val_{metric}"] if metric else ["val_loss"]
    return columns


def _figures(
    network: Network,
    losses: Array,
    counts: Array,
    penalty: Penalty | None,
    held_out: tuple[Features, Array, Array | None] | None,
) -> dict[str, float]:
    figures = {"loss": float((losses * counts).sum() / counts.sum())}
    if penalty is not None:
        figures["penalty"] = network.penalty(penalty)
    if held_out is not None:
        Xv, Yv, wv = held_out
        figures["val_loss"], Z = network._evaluate(Xv, Yv, wv)
        metric = network.loss_spec.metric
        if metric:
            figures[f"val_{metric}"] = METRICS[metric](network, Yv, Z, wv)
    return figures
