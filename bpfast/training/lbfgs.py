"""L-BFGS on a network: SciPy's minimiser over the flat parameters, with the native loss and gradient."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .._state import BaseNetwork, NetworkState, state_of
from ..arrays import Array
from ..engine.interface import Data, TrainingPass
from ..native import _core
from ..specs.optimizers import LBFGS
from ..specs.penalties import Penalty
from .callbacks import CallbackList
from .checkpoint import Checkpoint
from .fit import extra_columns, extra_figures, spell
from .history import History
from .options import FitOptions

#: The objective where it can't be computed.
TOO_FAR = 1e150


@dataclass(frozen=True)
class Minimum:
    """Where the minimiser ended.

    Attributes
    ----------
    value : float
        The objective there.
    iterations : int
    converged : bool
    message : str
        SciPy's, of why it stopped.
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
        A smooth one.
    loss_scale : float
        What the mean loss is multiplied by.
    max_iter, max_fun : int
        The most iterations, and evaluations of the objective.
    tolerance : float
        Of the largest element of the gradient.
    memory : int
        Steps that the inverse Hessian is made of.
    least_fall : float
        The search ends where the objective falls by less, relative to itself.
    training : TrainingPass, optional
        How the passes are made, if not as in prediction.
    moves : array of bool, optional
        The elements of the flat parameters that may move; the others stay.
    after : callable
        Called after every iteration, with the objective; ends the search by returning True.
    """
    from scipy.optimize import minimize as scipy_minimize

    flat = state.flat
    gradient = np.zeros_like(flat)

    def evaluate(x: Array) -> tuple[float, Array]:
        try:
            with state.lock, np.errstate(over="ignore", invalid="ignore"):
                flat[...] = x
                value = state.objective(data, penalty, gradient, loss_scale, training)
        except FloatingPointError:
            # An exponent reached its cap: a step too far, from which the line search comes back.
            return TOO_FAR, gradient.astype(np.float64)
        if moves is not None:
            gradient[~moves] = 0
        return value, gradient.astype(np.float64)

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
        # The engine keeps the values of all rows in every layer.
        state.reset_engine()
    flat[...] = found.x
    value = float(found.fun) if found.fun < TOO_FAR else np.inf
    stopped = found.status == 99  # by `after`
    return Minimum(value, int(found.nit), bool(found.success or stopped), str(found.message))


def fit_lbfgs(network: BaseNetwork, data: Data, options: FitOptions) -> History:
    """Train a network on checked data by L-BFGS, one iteration per epoch; see `Network.fit`."""
    state, optimizer, penalty = state_of(network), options.optimizer, options.penalty
    assert isinstance(optimizer, LBFGS)
    _require_suitable(state, options)
    history = History(*extra_columns(state, penalty, options.held_out), planned=options.epochs)
    callbacks = CallbackList(options.callbacks, network, history)
    reached, since = state.flat.copy(), time.perf_counter()

    def after(value: float) -> bool:
        nonlocal reached, since
        _update_statistics(state, data)
        reached = state.flat.copy()
        loss = value - state.penalty(penalty)
        history.add(
            loss=loss,
            learning_rate=math.nan,
            seconds=time.perf_counter() - since,
            **extra_figures(state, penalty, options.held_out),
        )
        state.epochs += 1
        ended = callbacks.batch_end(0, loss)
        ended = callbacks.epoch_end() or ended
        since = time.perf_counter()
        return ended

    try:
        callbacks.begin()
        since = time.perf_counter()
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
                after=after,
            )
            _update_statistics(state, data)
            _require_finite(state, found.value, len(history))
        except BaseException:
            # What was learned is kept, as after an epoch of `fit`.
            np.copyto(state.flat, reached)
            raise
        finally:
            state.reset_engine()
    finally:
        callbacks.end()
    return history


def _require_suitable(state: NetworkState, options: FitOptions) -> None:
    """Refuse what L-BFGS cannot do."""
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
            f"weights of the last good one. Scaled data often helps"
        )
