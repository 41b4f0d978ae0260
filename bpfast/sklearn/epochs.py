"""The stochastic solvers of the scikit-learn estimators: their epochs, counted and ended as there."""

from __future__ import annotations

import copy
import inspect
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from ..arrays import Array
from ..arrays.aligned import aligned_copy
from ..arrays.sparse import take
from ..engine.interface import OptimizerState, Plan
from ..native import _core
from ..network import Network
from ..specs.losses import Quantile
from ..specs.schedules import Clock
from ..training.callbacks import Callback
from ..training.epoch import asked, run_epoch
from ..training.fit import end_callbacks, thinned
from ..training.history import History
from .base import Data, Recipe, rate_of

#: The learning rate below which an adaptive one falls no further, and what it is divided by.
LEAST_RATE, RATE_DIVISOR = 1e-6, 5.0

NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to"
    " be preprocessed."
)


class Optimizer:
    """An optimizer at work: its state and its learning rate, which may change between epochs.

    Attributes
    ----------
    state : OptimizerState
    learning_rate : float or None
        None where a schedule has it.
    """

    def __init__(self, recipe: Recipe, network: Network) -> None:
        assert recipe.optimizer is not None
        self.state = OptimizerState.initial(recipe.optimizer, network.program.size, network.dtype)
        self.learning_rate = rate_of(recipe.optimizer)

    def fits(self, recipe: Recipe, network: Network) -> bool:
        """Whether it can go on with this network by these parameters."""
        assert recipe.optimizer is not None
        arrays = self.state.arrays
        return (
            self.state.optimizer.rule == recipe.optimizer.rule
            and arrays.dtype == network.dtype
            and arrays.shape[1:] == (network.program.size,)
        )

    def copy(self, recipe: Recipe) -> Optimizer:
        """Another one in the same state, with the numbers of a recipe.

        The rate stays where its course has led it, unless an optimizer or a schedule that was given
        has another.
        """
        assert recipe.optimizer is not None
        other, old = copy.copy(self), self.state
        given = recipe.rate == "schedule" and old.optimizer.learning_rate != recipe.optimizer.learning_rate
        other.state = OptimizerState(
            recipe.optimizer,
            aligned_copy(old.arrays),
            old.steps,
            Clock() if given else copy.copy(old.clock),
        )
        if given:
            other.learning_rate = rate_of(recipe.optimizer)
        return other

    def rates(self, n_batches: int) -> Array:
        """The rate of every batch of the epoch under way."""
        if self.learning_rate is not None:
            return np.full(n_batches, self.learning_rate)
        return np.array(self.state.clock.rates(self.state.optimizer.schedule, n_batches))


@dataclass(frozen=True)
class Options:
    """What a fit of epochs takes beside data and recipe, from the estimator's parameters.

    Attributes
    ----------
    epochs : int
        At most; 1 for `partial_fit`.
    rows : int64 array or None
        The rows to train on; None for all.
    held_out : Data or None
        What the validation figures are of.
    score : callable or None
        (Z, data, loss) → the figure that early stopping goes by; None without early stopping.
    offset : float array (n,) or None
        What each row's loss has beside the network's.
    scale : float
        What the network's mean loss is multiplied by.
    incremental : bool
        Whether this is one of several calls.
    """

    epochs: int
    rows: NDArray[np.int64] | None
    held_out: Data | None
    score: Callable[[Array, Data, float], float] | None
    offset: Array | None
    scale: float
    incremental: bool


class _Order:
    """The order of the rows, epoch by epoch: each a shuffle of the one before, as in scikit-learn."""

    def __init__(self, rows: NDArray[np.int64] | None, n: int, shuffle: bool, random: Any) -> None:
        self._rows, self._shuffle, self._random = rows, shuffle, random
        self._index = np.arange(n, dtype=np.int64)

    def next(self) -> NDArray[np.int64] | None:
        """The numbers of the rows; None for all in their own order."""
        if not self._shuffle:
            return self._rows
        picks = np.arange(len(self._index))
        self._random.shuffle(picks)
        self._index = self._index[picks]
        return self._index if self._rows is None else self._rows[self._index]


def fit_epochs(est: Any, network: Network, recipe: Recipe, data: Data, options: Options, random: Any) -> None:
    """Train for epochs; est's figures follow, and its weights where early stopping goes back to the best."""
    n = len(data.X) if options.rows is None else len(options.rows)
    batch = _batch_size(est.batch_size, n, recipe)
    starts = np.arange(0, n, batch)
    counts = np.minimum(batch, n - starts).astype(np.float64)
    X = thinned(network, data.X, batch, options.epochs)
    order = _Order(options.rows, n, bool(est.shuffle), random)
    optimizer = _optimizer(est, recipe, network, options)
    columns = ("val_loss", "val_score") if options.score else ("val_loss",) if options.held_out else ()
    history = History(*columns, planned=options.epochs)
    est.history_ = history
    est.n_iter_ = 0
    ended = False
    begun: list[Callback] = []
    try:
        for callback in recipe.callbacks:
            begun.append(callback)
            callback.on_fit_begin(network, history)
        for _ in range(options.epochs):
            rows = order.next()
            totals = counts if data.weights is None else _totals(data.weights, rows, starts)
            plan = Plan(
                network.loss_spec,
                batch,
                optimizer.rates(len(starts)),
                recipe.penalty,
                None,
                (network.seed, network._steps),
                order=rows,
                loss_scale=options.scale,
                alphas=None if recipe.penalty is None else _alphas(recipe.penalty.alpha, totals),
                objective=True,
            )
            begin = time.perf_counter()
            losses, _, ended = run_epoch(
                network, optimizer.state, X, data.Y, data.weights, plan, recipe.callbacks
            )
            seconds = time.perf_counter() - begin
            network._steps += len(losses)
            if options.offset is not None:
                losses = losses + _offsets(options.offset, data.weights, rows, starts, totals)[: len(losses)]
            seen = counts[: len(losses)]
            est.n_iter_ += 1
            est.t_ += n
            est.loss_ = float(losses @ seen / seen.sum())
            est.loss_curve_.append(est.loss_)
            if est.verbose:
                print(f"Iteration {est.n_iter_}, loss = {est.loss_:.8f}")
            if not np.isfinite(losses).all() or not _core.all_finite(network._flat):
                _diverged(est, options, losses)
                break
            figures = _validate(est, network, options)
            history.add(loss=est.loss_, learning_rate=plan.learning_rates[-1], seconds=seconds, **figures)
            _count_no_improvement(est, network, figures.get("val_score"))
            if recipe.rate == "invscaling":
                optimizer.learning_rate = float(est.learning_rate_init) / (est.t_ + 1) ** est.power_t
            optimizer.state.clock.tick(optimizer.state.optimizer.schedule, figures.get("val_loss", est.loss_))
            if asked(each.on_epoch_end(network, history) for each in recipe.callbacks) or ended:
                break
            if est._no_improvement_count > est.n_iter_no_change and _stops(est, optimizer, recipe, options):
                break
            if not options.incremental and est.n_iter_ == est.max_iter:
                warnings.warn(
                    f"Stochastic Optimizer: Maximum iterations ({est.max_iter}) reached and the"
                    " optimization hasn't converged yet.",
                    ConvergenceWarning,
                    stacklevel=6,
                )
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=6)
    finally:
        end_callbacks(begun, network, history)
    if options.score is not None and (not options.incremental or est.should_stop_):
        network._flat[...] = est._best


def _batch_size(wanted: Any, n: int, recipe: Recipe) -> int:
    assert recipe.optimizer is not None
    if recipe.optimizer.full_batch:
        if not isinstance(wanted, str) and wanted < n:
            raise ValueError(
                f"batch_size must be 'auto' or at least {n}, all rows, for "
                f"{type(recipe.optimizer).__name__}; got {wanted}"
            )
        return n
    if recipe.batch_norm and not isinstance(wanted, str) and wanted == 1:
        raise ValueError("batch_size must be at least 2 with batch_norm: one row has no variance; got 1")
    if isinstance(wanted, str):
        return min(200, n)
    if wanted > n:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped",
            stacklevel=7,
        )
    return int(np.clip(wanted, 1, n))


def _optimizer(est: Any, recipe: Recipe, network: Network, options: Options) -> Optimizer:
    """The one at work if this call goes on where the last ended, else a new one.

    It is a copy: after an error the last call's is there as it was.
    """
    assert recipe.optimizer is not None
    held = est.__dict__.get("_optimizer")
    goes_on = options.incremental or (est.warm_start and est.keep_optimizer)
    if goes_on and held is not None and held.fits(recipe, network):
        est._optimizer = held.copy(recipe)
    else:
        est._optimizer = Optimizer(recipe, network)
    return est._optimizer


def _totals(weights: Array, rows: NDArray[np.int64] | None, starts: Array) -> Array:
    """The weight of every batch."""
    return np.add.reduceat(weights if rows is None else weights[rows], starts)


def _alphas(alpha: float, totals: Array) -> Array:
    """α of every batch: scikit-learn's penalty counts as one more row's loss."""
    return np.divide(alpha, totals, out=np.zeros_like(totals), where=totals > 0)


def _offsets(
    offset: Array, weights: Array | None, rows: NDArray[np.int64] | None, starts: Array, totals: Array
) -> Array:
    """What the batches' losses have beside the network's."""
    each = offset if weights is None else offset * weights
    sums = np.add.reduceat(each if rows is None else each[rows], starts)
    return np.divide(sums, totals, out=np.zeros_like(totals), where=totals > 0)


def _validate(est: Any, network: Network, options: Options) -> dict[str, float]:
    """The figures of the held-out rows."""
    held_out = options.held_out
    if held_out is None:
        return {}
    try:
        loss, Z = network._evaluate(held_out.X, held_out.Y, held_out.weights)
    except FloatingPointError:
        # An exponent reached its cap.
        loss, Z = np.inf, network._engine.outputs(network._flat, held_out.X)
    figures = {"val_loss": loss * options.scale + _mean_offset(est, held_out)}
    est.validation_loss_curve_.append(figures["val_loss"])
    if options.score is not None:
        figures["val_score"] = options.score(Z, held_out, figures["val_loss"])
        est.validation_scores_.append(figures["val_score"])
        if est.verbose:
            print(f"Validation score: {figures['val_score']:f}")
    return figures


def _mean_offset(est: Any, data: Data) -> float:
    offset = est._offset(data.Y)
    return 0.0 if offset is None else float(np.average(offset, weights=data.weights))


def _count_no_improvement(est: Any, network: Network, score: float | None) -> None:
    """One more epoch without improvement of score or loss, or none; the best weights are kept."""
    if score is None:
        improves = est.loss_ <= est.best_loss_ - est.tol
        est.best_loss_ = min(est.best_loss_, est.loss_)
    else:
        improves = score >= est.best_validation_score_ + est.tol
        if score > est.best_validation_score_:
            est.best_validation_score_ = score
            est._best = network._flat.copy()
    est._no_improvement_count = 0 if improves else est._no_improvement_count + 1


def _stops(est: Any, optimizer: Optimizer, recipe: Recipe, options: Options) -> bool:
    """Whether too many epochs without improvement end the training; an adaptive rate falls first."""
    what = "Training loss" if options.score is None else "Validation score"
    text = f"{what} did not improve more than tol={est.tol:f} for {est.n_iter_no_change} consecutive epochs."
    falls = recipe.rate == "adaptive" and optimizer.learning_rate is not None
    if falls and optimizer.learning_rate > LEAST_RATE:  # type: ignore[operator]
        optimizer.learning_rate /= RATE_DIVISOR  # type: ignore[operator]
        if est.verbose:
            print(f"{text} Setting learning rate to {optimizer.learning_rate:f}")
        est._no_improvement_count = 0
        return False
    if est.verbose:
        print(f"{text} {'Learning rate too small. ' if falls else ''}Stopping.")
    est.should_stop_ = True
    return True


def _diverged(est: Any, options: Options, losses: Array) -> None:
    """A loss or a weight that is not finite: the best weights are left, or there is an error."""
    bad = np.flatnonzero(~np.isfinite(losses))
    where = f" (epoch {est.n_iter_}, batch {bad[0]})" if len(bad) else f" (epoch {est.n_iter_})"
    if options.score is None:
        raise ValueError(f"{NOT_FINITE} Or learning_rate_init is too large{where}.")
    est.validation_scores_.append(float("nan"))
    warnings.warn(
        f"The loss is no longer finite{where}; the weights with the best validation score are kept.",
        ConvergenceWarning,
        stacklevel=7,
    )
    # Its moments are no longer finite either.
    del est._optimizer
    est.should_stop_ = True


def scorer_of(est: Any, network: Network) -> Callable[[Array, Data, float], float]:
    """(Z, data, loss) → the score that early stopping goes by: est.scoring's, or accuracy or R²."""
    if est.scoring == "loss" or (est.scoring is None and isinstance(network.loss_spec, Quantile)):
        return lambda Z, data, loss: -loss
    if est.scoring is None:
        return lambda Z, data, loss: est._own_score(network._link(Z), data)
    from sklearn.metrics import check_scoring

    # Its X has no names of columns; the network is the one in training.
    view = copy.copy(est)
    view.__dict__.pop("feature_names_in_", None)
    view._adopt(network)
    if not isinstance(est.scoring, str) and not callable(est.scoring):
        raise ValueError(f"scoring must be a scorer's name, 'loss' or a callable; got {est.scoring!r}")
    scorer = check_scoring(view, scoring=est.scoring)
    takes = inspect.signature(scorer).parameters
    weighs = "sample_weight" in takes or any(p.kind is p.VAR_KEYWORD for p in takes.values())

    def score(Z: Array, data: Data, loss: float) -> float:
        more = {"sample_weight": data.weights} if weighs and data.weights is not None else {}
        try:
            return float(scorer(view, *data.raw, **more))
        except (ValueError, TypeError) as error:
            raise ValueError(f"scoring={est.scoring!r} failed on the held-out rows: {error}") from error

    return score


def held_out_part(data: Data, rows: NDArray[np.int64]) -> Data:
    """Some rows of the data."""
    weights = None if data.weights is None else data.weights[rows]
    return Data(take(data.X, rows), data.Y[rows], weights, (data.raw[0][rows], data.raw[1][rows]))
