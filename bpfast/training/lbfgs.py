"""L-BFGS on a network: SciPy's minimiser over the flat parameters, with the native loss and gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Array
from ..arrays.sparse import Features
from ..specs.penalties import Penalty

if TYPE_CHECKING:
    from ..engine.interface import TrainingPass
    from ..network import Network


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
    network: Network,
    X: Features,
    Y: Array,
    weights: Array | None,
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
    network : Network
    X, Y, weights
        Checked data.
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

    flat = network._flat
    gradient = np.zeros_like(flat)

    def evaluate(x: Array) -> tuple[float, Array]:
        try:
            with network._lock, np.errstate(over="ignore", invalid="ignore"):
                flat[...] = x
                value = network._objective(X, Y, weights, penalty, gradient, loss_scale, training)
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
        # A new engine: the old one keeps what all rows were in every layer.
        network._new_engine()
    flat[...] = found.x
    value = float(found.fun) if found.fun < TOO_FAR else np.inf
    stopped = found.status == 99  # by `after`
    return Minimum(value, int(found.nit), bool(found.success or stopped), str(found.message))
