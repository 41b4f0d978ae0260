"""Checks of single parameters of the estimators, and which of their values scikit-learn does not know."""

from __future__ import annotations

import functools
import inspect
from numbers import Integral
from typing import Any

import numpy as np

from ..arrays.threads import check_threads, default_threads
from ..specs.activations import activations
from ..specs.losses import losses
from ..specs.optimizers import optimizers
from ..specs.spec import Family, flag, number

#: Parameter → what it accepts in addition to what scikit-learn's error message lists.
HINTS = {
    "solver": f"bpfast also takes {', '.join(optimizers)} and optimizers such as bp.SGD(0.1).",
    "activation": f"bpfast also takes {', '.join(activations)}, objects such as bp.LeakyReLU(0.1) and a "
    "tuple with one for each hidden layer.",
    "learning_rate": "bpfast also takes schedules such as bp.Cosine(0.01, epochs=50); pass a number as "
    "learning_rate_init.",
    "loss": f"bpfast also takes those of {', '.join(losses)} that fit the estimator, objects such as "
    "bp.Quantile(0.9) and, for a regressor, a custom function as bp.CustomLoss(f).",
}


@functools.cache
def parameter_names(kind: type) -> tuple[str, ...]:
    """Names of the parameters of an estimator class."""
    return tuple(inspect.signature(kind).parameters)


def is_kind(value: Any, kind: type) -> bool:
    """Whether a value is an instance or a subclass of a specification class."""
    return isinstance(value, kind) or (isinstance(value, type) and issubclass(value, kind))


def is_new_name(value: Any, family: Family[Any], theirs: tuple[str, ...]) -> bool:
    """Whether a value names a member of a family that scikit-learn does not have."""
    return isinstance(value, str) and value in family and value not in theirs


def hidden_units(sizes: Any) -> tuple[int, ...]:
    """Number of units of each hidden layer, from a number or a sequence."""
    sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
    for units in sizes:
        if isinstance(units, bool) or not isinstance(units, Integral):
            raise TypeError(f"hidden_layer_sizes must contain integers; got {units!r}")
    if any(units <= 0 for units in sizes):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    return tuple(int(units) for units in sizes)


def dropout_rates(rates: Any, layers: int) -> tuple[float, ...]:
    """Fraction of the outputs of each hidden layer that is dropped in training."""
    rates = tuple(rates) if isinstance(rates, (tuple, list)) else (rates,) * layers
    if len(rates) != layers:
        raise ValueError(f"dropout must have one rate per hidden layer ({layers}); got {len(rates)}")
    return tuple(number("dropout", "a rate", rate, at_least=0, below=1) for rate in rates)


def boolean(owner: str, name: str, value: Any) -> bool:
    """True or False; NumPy's booleans, as parameter grids may hold them, are accepted too."""
    return flag(owner, name, bool(value) if isinstance(value, np.bool_) else value)


def threads_of(n_jobs: Any) -> int | None:
    """Maximum number of threads for `n_jobs`; None is the default of a network."""
    if n_jobs is None or n_jobs == -1:
        return None
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, (int, np.integer)) or n_jobs == 0:
        raise ValueError(
            "n_jobs must be a number of threads, -1 for all cores, -2 for all but one and so on, or None; "
            f"got {n_jobs!r}"
        )
    if n_jobs < -1:
        return max(1, default_threads() + 1 + int(n_jobs))
    return check_threads(n_jobs)
