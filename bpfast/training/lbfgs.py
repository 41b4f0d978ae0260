"""L-BFGS: SciPy's minimiser over the flat parameters, with the engine's loss and gradient."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .._state import BaseNetwork, NetworkState, state_of
from ..arrays import Array
from ..engine.interface import Data, TrainingPass
from ..native import _core
from ..specs.optimizers import LBFGS
from ..specs.penalties import Penalty
from ..specs.record import Record, record
from .callbacks import CallbackList
from .checkpoint import Checkpoint
from .fit import extra_columns, extra_figures, spell
from .history import History
from .options import FitOptions

#: Value of the objective where it cannot be computed.
TOO_FAR = 1e150


@record
class Minimum(Record):
    """Result of `minimize`.

    Attributes
    ----------
    value : float
        Objective at the end.
    iterations : int
        Number of iterations.
    converged : bool
        Whether the search converged, or `after` ended it.
    message : str
        SciPy's reason for stopping.
    """

    value: float
    iterations: int
    converged: bool
    message: str


def minimize(
    state: NetworkState,
    data: Data,
    *,
    penalty: Penalty | None = None,
    loss_scale: float = 1.0,
    max_iter: int = 200,
    max_fun: int = 15000,
    tolerance: float = 1e-4,
    memory: int = 10,
    least_fall: float = 2.2e-9,
    training: TrainingPass | None = None,
    moves: Array | None = None,
    after: Callable[[float], bool] = lambda value: False,
) -> Minimum:
    """Minimise the objective over all rows by L-BFGS-B (Byrd et al. 1995), in place.

    Parameters
    ----------
    state : NetworkState
    data : Data
    penalty : Penalty, optional
        Smooth penalty.
    loss_scale : float, default 1.0
        Factor of the mean loss.
    max_iter, max_fun : int
        Maximum number of iterations and of evaluations of the objective.
    tolerance : float
        The search ends when no element of the gradient is larger in magnitude.
    memory : int
        Number of steps that the inverse Hessian is approximated from.
    least_fall : float
        The search ends when the objective falls by less, relative to its value.
    training : TrainingPass, optional
        Training pass to evaluate with; passes are in prediction mode by default.
    moves : array of bool, optional
        Mask of the elements of the flat parameters that may change; all by default.
    after : callable
        Called with the objective after every iteration; ends the search by returning True.

    Returns
    -------
    Minimum
    """
    from scipy.optimize import minimize as scipy_minimize

    flat = state.flat
    evaluate = _Objective(state, data, penalty, loss_scale, training, moves)

    def step(intermediate_result: Any) -> None:
        flat[...] = intermediate_result.x
        if after(float(intermediate_result.fun)):
            raise StopIteration

    options = {
        "maxiter": max_iter,
        "maxfun": max_fun,
        "gtol": tolerance,
        "maxcor": memory,
        "ftol": least_fall,
    }
    start = flat.astype(np.float64)
    try:
        found = scipy_minimize(evaluate, start, method="L-BFGS-B", jac=True, callback=step, options=options)
    except BaseException:
        flat[...] = start
        raise
    finally:
        # The engine holds the activations of all rows.
        state.reset_engine()
    flat[...] = found.x
    value = float(found.fun) if found.fun < TOO_FAR else np.inf
    stopped = found.status == 99  # by `after`
    return Minimum(value, int(found.nit), bool(found.success or stopped), str(found.message))


class _Objective:
    """The objective and its gradient as a function of the flat parameters, for SciPy."""

    def __init__(
        self,
        state: NetworkState,
        data: Data,
        penalty: Penalty | None,
        loss_scale: float,
        training: TrainingPass | None,
        moves: Array | None,
    ) -> None:
        self.state, self.data, self.penalty = state, data, penalty
        self.loss_scale, self.training, self.moves = loss_scale, training, moves
        self.gradient = np.zeros_like(state.flat)

    def __call__(self, x: Array) -> tuple[float, Array]:
        state, gradient = self.state, self.gradient
        try:
            with state.lock, np.errstate(over="ignore", invalid="ignore"):
                state.flat[...] = x
                value = state.objective(self.data, self.penalty, gradient, self.loss_scale, self.training)
        except FloatingPointError:
            # An exponent reached its cap: the step is too long, and the line search will shorten it.
            return TOO_FAR, gradient.astype(np.float64)
        if self.moves is not None:
            gradient[~self.moves] = 0
        return value, gradient.astype(np.float64)


def fit_lbfgs(network: BaseNetwork, data: Data, options: FitOptions) -> History:
    """Train a network on checked data by L-BFGS, one iteration per epoch; see `Network.fit`."""
    state, optimizer, penalty = state_of(network), options.optimizer, options.penalty
    assert isinstance(optimizer, LBFGS)
    _require_suitable(state, options)
    history = History(*extra_columns(state, penalty, options.held_out), planned=options.epochs)
    callbacks = CallbackList(options.callbacks, network, history)
    with callbacks.running():
        iterations = _Iterations(state, data, options, callbacks, history)
        try:
            found = minimize(
                state,
                data,
                penalty=penalty,
                max_iter=options.epochs,
                max_fun=optimizer.max_evaluations or 20 * options.epochs,
                tolerance=optimizer.tolerance,
                memory=optimizer.memory,
                least_fall=10 * float(np.finfo(state.dtype).eps),
                training=state.next_pass(),
                moves=state.trainable(),
                after=iterations.after,
            )
            _update_statistics(state, data)
            _require_finite(state, found.value, len(history))
        except BaseException:
            # Keep the last iteration, as `fit` keeps the last epoch.
            np.copyto(state.flat, iterations.reached)
            raise
        finally:
            state.reset_engine()
    return history


class _Iterations:
    """Records each iteration of L-BFGS as an epoch, and calls the callbacks."""

    def __init__(
        self, state: NetworkState, data: Data, options: FitOptions, callbacks: CallbackList, history: History
    ) -> None:
        self.state, self.data, self.options = state, data, options
        self.callbacks, self.history = callbacks, history
        self.reached = state.flat.copy()
        self.start = time.perf_counter()

    def after(self, value: float) -> bool:
        """Record an iteration that reached `value`; return whether a callback ends the training."""
        state, penalty = self.state, self.options.penalty
        _update_statistics(state, self.data)
        self.reached = state.flat.copy()
        loss = value - state.penalty(penalty)
        self.history.add(
            loss=loss,
            learning_rate=math.nan,
            seconds=time.perf_counter() - self.start,
            **extra_figures(state, penalty, self.options.held_out),
        )
        state.epochs += 1
        ended = self.callbacks.batch_end(0, loss)
        ended = self.callbacks.epoch_end() or ended
        self.start = time.perf_counter()
        return ended


def _require_suitable(state: NetworkState, options: FitOptions) -> None:
    """Raise ValueError for options that L-BFGS does not support."""
    penalty = options.penalty
    if options.resume is not None or any(isinstance(callback, Checkpoint) for callback in options.callbacks):
        raise ValueError(
            "fit: L-BFGS cannot be resumed exactly, because SciPy holds its memory; save the network, "
            "load it and call fit again"
        )
    if penalty is not None and not penalty.smooth:
        raise ValueError(f"fit: LBFGS needs a penalty with a derivative, such as L2; got {penalty!r}")
    if state.program.renormalises:
        raise ValueError(
            "fit: LBFGS needs the gradient of its objective, but BatchRenorm holds r and d constant; "
            "use BatchNorm instead: all rows are one batch"
        )
    if state.program.random or options.weight_noise > 0:
        raise ValueError(
            "fit: LBFGS needs an objective that stays the same, but this one draws random numbers "
            "(Dropout, RReLU or weight_noise)"
        )


def _update_statistics(state: NetworkState, data: Data) -> None:
    """Set the running statistics to those of all rows."""
    if state.statistics:
        training = replace(state.next_pass(), momentum=1.0, heads=False)
        with state.lock:
            state.engine.forward(state.flat, data.X, training)


def _require_finite(state: NetworkState, value: float, iteration: int) -> None:
    if not (math.isfinite(value) and _core.all_finite(state.flat)):
        raise FloatingPointError(
            f"the objective became {spell(value)} in iteration {iteration} of LBFGS; the network keeps the "
            f"weights of the last good iteration. Scaled data often helps"
        )
