"""Stochastic solvers of the scikit-learn estimators: epochs are counted and ended as in scikit-learn."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from .._state import NetworkState, state_of
from ..arrays import Array
from ..arrays.aligned import aligned_copy
from ..arrays.sparse import take
from ..engine.interface import OptimizerState, Plan
from ..native import _core
from ..network import Network
from ..specs.losses import Quantile
from ..specs.monitor import direction, improves
from ..specs.schedules import Clock
from ..training.callbacks import CallbackList
from ..training.epoch import run_epoch
from ..training.fit import sparsified
from ..training.history import History
from ..training.loop import Epoch, Trainer, train
from .base import FitData, Recipe, rate_of

#: Minimum of an adaptive learning rate, and its divisor.
LEAST_RATE, RATE_DIVISOR = 1e-6, 5.0

NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to"
    " be preprocessed."
)


class OptimizerCourse:
    """State of an optimizer and its learning rate, which may change between epochs.

    Attributes
    ----------
    state : OptimizerState
        State of the optimizer.
    learning_rate : float or None
        Current learning rate; None if it follows a schedule.
    """

    def __init__(self, recipe: Recipe, network: Network) -> None:
        assert recipe.optimizer is not None
        self.state = OptimizerState.initial(recipe.optimizer, network.program.size, network.dtype)
        self.learning_rate = rate_of(recipe.optimizer)

    def fits(self, recipe: Recipe, network: Network) -> bool:
        """Whether it can continue with this network and these parameters."""
        assert recipe.optimizer is not None
        arrays = self.state.arrays
        return (
            self.state.optimizer.rule == recipe.optimizer.rule
            and arrays.dtype == network.dtype
            and arrays.shape[1:] == (network.program.size,)
        )

    def copy(self, recipe: Recipe) -> OptimizerCourse:
        """Return a copy with the hyperparameters of a recipe.

        The current learning rate is kept, unless the recipe has a different optimizer object or schedule.
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
        """Return the learning rate of every batch of the current epoch."""
        if self.learning_rate is not None:
            return np.full(n_batches, self.learning_rate)
        return np.array(self.state.clock.rates(self.state.optimizer.schedule, n_batches))


@dataclass(frozen=True)
class Options:
    """Options of a stochastic fit, besides the data and the recipe.

    Attributes
    ----------
    epochs : int
        Maximum number of epochs; 1 for `partial_fit`.
    rows : int64 array or None
        Indices of the rows to train on; None for all.
    held_out : FitData or None
        Held-out rows to evaluate after every epoch.
    score : callable or None
        (Z, data, loss) → the score for early stopping; None without early stopping.
    offset : float array (n,) or None
        Difference between scikit-learn's loss of each row and the network's.
    scale : float
        Factor of the network's mean loss.
    incremental : bool
        Whether this is a call of `partial_fit`.
    """

    epochs: int
    rows: NDArray[np.int64] | None
    held_out: FitData | None
    score: Callable[[Array, FitData, float], float] | None
    offset: Array | None
    scale: float
    incremental: bool


class _Order:
    """Order of the rows in each epoch: a shuffle of the previous one, as in scikit-learn."""

    def __init__(self, rows: NDArray[np.int64] | None, n: int, shuffle: bool, random: Any) -> None:
        self._rows, self._shuffle, self._random = rows, shuffle, random
        self._index = np.arange(n, dtype=np.int64)

    def next(self) -> NDArray[np.int64] | None:
        """Return the row indices of the next epoch; None for all rows in their original order."""
        if not self._shuffle:
            return self._rows
        picks = np.arange(len(self._index))
        self._random.shuffle(picks)
        self._index = self._index[picks]
        return self._index if self._rows is None else self._rows[self._index]


def fit_epochs(
    est: Any, network: Network, recipe: Recipe, data: FitData, options: Options, random: Any
) -> None:
    """Train for epochs and set the estimator's attributes; early stopping keeps the best weights."""
    columns = ("val_loss", "val_score") if options.score else ("val_loss",) if options.held_out else ()
    history = History(*columns, planned=options.epochs)
    callbacks = CallbackList(recipe.callbacks, network, history)
    trainer = _EstimatorTrainer(est, network, recipe, data, options, random, callbacks)
    est.history_ = history
    est.n_iter_ = 0
    try:
        with callbacks.running():
            train(trainer, callbacks, history, options.epochs)
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=6)
    if options.score is not None and (not options.incremental or est.should_stop_):
        state_of(network).flat[...] = est._best


class _EstimatorTrainer(Trainer):
    """Epochs that are counted, scored and ended as in scikit-learn."""

    def __init__(
        self,
        est: Any,
        network: Network,
        recipe: Recipe,
        data: FitData,
        options: Options,
        random: Any,
        callbacks: CallbackList,
    ) -> None:
        self.est, self.recipe, self.options = est, recipe, options
        self.state, self.callbacks = state_of(network), callbacks
        self.n = len(data.X) if options.rows is None else len(options.rows)
        self.batch_size = _batch_size(est.batch_size, self.n, recipe)
        self.starts = np.arange(0, self.n, self.batch_size)
        self.counts = np.minimum(self.batch_size, self.n - self.starts).astype(np.float64)
        self.data = sparsified(self.state, data, self.batch_size, options.epochs)
        self.order = _Order(options.rows, self.n, bool(est.shuffle), random)
        self.course = _course(est, recipe, network, options)

    def epoch(self) -> Epoch:
        state, options, weights = self.state, self.options, self.data.weights
        rows = self.order.next()
        totals = self.counts if weights is None else _totals(weights, rows, self.starts)
        penalty = self.recipe.penalty
        plan = Plan(
            state.loss,
            self.batch_size,
            self.course.rates(len(self.starts)),
            penalty,
            None,
            (state.seed, state.steps),
            order=rows,
            loss_scale=options.scale,
            alphas=None if penalty is None else _alphas(penalty.alpha, totals),
            objective=True,
        )
        before = self.course.state.steps
        try:
            epoch = run_epoch(state, self.course.state, self.data, plan, self.callbacks)
        except BaseException:
            # After an interrupt, random layers continue after the steps that were made.
            state.steps += self.course.state.steps - before
            raise
        losses = epoch.losses
        state.steps += len(losses)
        if options.offset is not None:
            losses = losses + _offsets(options.offset, weights, rows, self.starts, totals)[: len(losses)]
        return Epoch(losses, self.counts[: len(losses)], epoch.learning_rate, epoch.ended)

    def figures(self, epoch: Epoch) -> dict[str, float] | None:
        est = self.est
        est.n_iter_ += 1
        est.t_ += self.n
        est.loss_ = float(epoch.losses @ epoch.counts / epoch.counts.sum())
        est.loss_curve_.append(est.loss_)
        if est.verbose:
            print(f"Iteration {est.n_iter_}, loss = {est.loss_:.8f}")
        if not epoch.finite or not _core.all_finite(self.state.flat):
            _diverged(est, self.options, epoch.losses)
            return None
        return {"loss": est.loss_} | _validate(est, self.state, self.options)

    def advance(self, figures: dict[str, float]) -> None:
        est, course = self.est, self.course
        _count_no_improvement(est, self.state, figures.get("val_score"))
        if self.recipe.rate == "invscaling":
            course.learning_rate = float(est.learning_rate_init) / (est.t_ + 1) ** est.power_t
        monitored = figures.get("val_loss", est.loss_)
        course.state.clock.advance(course.state.optimizer.schedule, monitored)

    def ends(self, asked: bool) -> bool:
        est, options = self.est, self.options
        if asked:
            return True
        if est._no_improvement_count > est.n_iter_no_change and _stops(
            est, self.course, self.recipe, options
        ):
            return True
        if not options.incremental and est.n_iter_ == est.max_iter:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({est.max_iter}) reached and the"
                " optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=8,
            )
        return False


def _batch_size(batch_size: Any, n: int, recipe: Recipe) -> int:
    """Return the rows per batch for `n` rows, clipped as in scikit-learn."""
    assert recipe.optimizer is not None
    if recipe.optimizer.full_batch:
        if not isinstance(batch_size, str) and batch_size < n:
            raise ValueError(
                f"batch_size must be 'auto' or at least {n}, all rows, for "
                f"{type(recipe.optimizer).__name__}; got {batch_size}"
            )
        return n
    if recipe.batch_norm and not isinstance(batch_size, str) and batch_size == 1:
        raise ValueError("batch_size must be at least 2 with batch_norm: one row has no variance; got 1")
    if isinstance(batch_size, str):
        return min(200, n)
    if batch_size > n:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped",
            stacklevel=8,
        )
    return int(np.clip(batch_size, 1, n))


def _course(est: Any, recipe: Recipe, network: Network, options: Options) -> OptimizerCourse:
    """Return the course of the last call if this call continues it, else a new one.

    It is a copy, so that the last call's course is unchanged after an error.
    """
    assert recipe.optimizer is not None
    held = est.__dict__.get("_optimizer")
    continues = options.incremental or (est.warm_start and est.keep_optimizer)
    if continues and held is not None and held.fits(recipe, network):
        est._optimizer = held.copy(recipe)
    else:
        est._optimizer = OptimizerCourse(recipe, network)
    return est._optimizer


def _totals(weights: Array, rows: NDArray[np.int64] | None, starts: Array) -> Array:
    """Return the total weight of every batch."""
    return np.add.reduceat(weights if rows is None else weights[rows], starts)


def _alphas(alpha: float, totals: Array) -> Array:
    """Return α of every batch: scikit-learn divides the penalty by the batch's total weight."""
    return np.divide(alpha, totals, out=np.zeros_like(totals), where=totals > 0)


def _offsets(
    offset: Array, weights: Array | None, rows: NDArray[np.int64] | None, starts: Array, totals: Array
) -> Array:
    """Return the difference between scikit-learn's loss of each batch and the network's."""
    each = offset if weights is None else offset * weights
    sums = np.add.reduceat(each if rows is None else each[rows], starts)
    return np.divide(sums, totals, out=np.zeros_like(totals), where=totals > 0)


def _validate(est: Any, state: NetworkState, options: Options) -> dict[str, float]:
    """Evaluate the held-out rows: loss and, with early stopping, score."""
    held_out = options.held_out
    if held_out is None:
        return {}
    try:
        loss, Z = state.evaluate(held_out)
    except FloatingPointError:
        # An exponent reached its cap.
        loss, Z = np.inf, state.outputs(held_out.X)
    figures = {"val_loss": loss * options.scale + _mean_offset(est, held_out)}
    est.validation_loss_curve_.append(figures["val_loss"])
    if options.score is not None:
        figures["val_score"] = options.score(Z, held_out, figures["val_loss"])
        est.validation_scores_.append(figures["val_score"])
        if est.verbose:
            print(f"Validation score: {figures['val_score']:f}")
    return figures


def _mean_offset(est: Any, data: FitData) -> float:
    """Return the difference between scikit-learn's mean loss and the network's."""
    offset = est._offset(data.Y)
    return 0.0 if offset is None else float(np.average(offset, weights=data.weights))


def _count_no_improvement(est: Any, state: NetworkState, score: float | None) -> None:
    """Count epochs without improvement of the score or the loss; keep the weights of the best score."""
    if score is None:
        better = improves(est.loss_, est.best_loss_, margin=est.tol, strict=False)
        est.best_loss_ = min(est.best_loss_, est.loss_)
    else:
        rising = direction("val_score")
        better = improves(score, est.best_validation_score_, rising, margin=est.tol, strict=False)
        if improves(score, est.best_validation_score_, rising):
            est.best_validation_score_ = score
            est._best = state.flat.copy()
    est._no_improvement_count = 0 if better else est._no_improvement_count + 1


def _stops(est: Any, course: OptimizerCourse, recipe: Recipe, options: Options) -> bool:
    """Whether the training ends after too many epochs without improvement; an adaptive rate falls first."""
    what = "Training loss" if options.score is None else "Validation score"
    text = f"{what} did not improve more than tol={est.tol:f} for {est.n_iter_no_change} consecutive epochs."
    falls = recipe.rate == "adaptive" and course.learning_rate is not None
    if falls and course.learning_rate > LEAST_RATE:  # type: ignore[operator]
        course.learning_rate /= RATE_DIVISOR  # type: ignore[operator]
        if est.verbose:
            print(f"{text} Setting learning rate to {course.learning_rate:f}")
        est._no_improvement_count = 0
        return False
    if est.verbose:
        print(f"{text} {'Learning rate too small. ' if falls else ''}Stopping.")
    est.should_stop_ = True
    return True


def _diverged(est: Any, options: Options, losses: Array) -> None:
    """Stop after a non-finite loss or weight; raise ValueError without early stopping."""
    bad = np.flatnonzero(~np.isfinite(losses))
    where = f" (epoch {est.n_iter_}, batch {bad[0]})" if len(bad) else f" (epoch {est.n_iter_})"
    if options.score is None:
        raise ValueError(f"{NOT_FINITE} Or learning_rate_init is too large{where}.")
    est.validation_scores_.append(float("nan"))
    warnings.warn(
        f"The loss is no longer finite{where}; the weights with the best validation score are kept.",
        ConvergenceWarning,
        stacklevel=9,
    )
    # The optimizer's moments are no longer finite either.
    del est._optimizer
    est.should_stop_ = True


def scorer_of(est: Any, network: Network) -> Callable[[Array, FitData, float], float]:
    """Return (Z, data, loss) → score for early stopping: by est.scoring, else accuracy or R²."""
    if est.scoring == "loss" or (est.scoring is None and isinstance(network.loss_spec, Quantile)):
        return lambda Z, data, loss: -loss
    if est.scoring is None:
        return lambda Z, data, loss: est._own_score(state_of(network).link(Z), data)
    from sklearn.metrics import check_scoring

    # A view of the estimator for the scorer, without column names, on the network being trained.
    view = copy.copy(est)
    view.__dict__.pop("feature_names_in_", None)
    view._adopt(network)
    if not isinstance(est.scoring, str) and not callable(est.scoring):
        raise ValueError(f"scoring must be a scorer's name, 'loss' or a callable; got {est.scoring!r}")
    scorer = check_scoring(view, scoring=est.scoring)
    takes = inspect.signature(scorer).parameters
    weighs = "sample_weight" in takes or any(p.kind is p.VAR_KEYWORD for p in takes.values())

    def score(Z: Array, data: FitData, loss: float) -> float:
        more = {"sample_weight": data.weights} if weighs and data.weights is not None else {}
        try:
            return float(scorer(view, *data.raw, **more))
        except (ValueError, TypeError) as error:
            raise ValueError(f"scoring={est.scoring!r} failed on the held-out rows: {error}") from error

    return score


def held_out_part(data: FitData, rows: NDArray[np.int64]) -> FitData:
    """Return the given rows of the data."""
    weights = None if data.weights is None else data.weights[rows]
    return FitData(take(data.X, rows), data.Y[rows], weights, (data.raw[0][rows], data.raw[1][rows]))
