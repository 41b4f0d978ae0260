"""The common base of the estimators: reads parameters, checks data, keeps the fitted network.

Uses only the public API of scikit-learn 1.5 and later.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d

from .._state import state_of
from ..arrays import Array, checks
from ..engine.interface import Data
from ..network import Network
from ..specs import optimizers, penalties
from ..specs.activations import Activation, Sigmoid, activations
from ..specs.layers import Activation as ActivationLayer
from ..specs.layers import BatchNorm, Dense, Dropout, Layer
from ..specs.losses import CrossEntropy, LogLoss, Loss, losses
from ..specs.record import record
from ..specs.schedules import Constant, Schedule
from ..specs.spec import number
from ..training.callbacks import Callback, check_callbacks
from .parameters import (
    HINTS,
    boolean,
    dropout_rates,
    hidden_units,
    is_kind,
    is_new_name,
    parameter_names,
    threads_of,
)

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # scikit-learn < 1.6

    def validate_data(estimator: Any, X: Any, y: Any = "no_validation", **options: Any) -> Any:
        return estimator._validate_data(X, y, **options)


#: The largest momentum: scikit-learn also accepts 1, for which this is the nearest float64 below.
MOST_MOMENTUM = float(np.nextafter(1.0, 0.0))


@dataclass(frozen=True)
class Recipe:
    """The checked parameters of an estimator.

    Attributes
    ----------
    hidden : tuple of int
        Units of each hidden layer.
    activations : tuple of Activation
        Activation of each hidden layer.
    optimizer : Optimizer or None
        None for lbfgs.
    rate : str
        How the learning rate changes: the value of scikit-learn's parameter, or "schedule" if the
        optimizer's schedule decides.
    penalty : Penalty or None
        Penalty, whose α is divided by the total weight of each batch.
    dropout : tuple of float
        Dropout rate of each hidden layer.
    batch_norm : bool
        Whether hidden layers are normalised.
    callbacks : list of Callback
        Callbacks of training.
    """

    hidden: tuple[int, ...]
    activations: tuple[Activation, ...]
    optimizer: optimizers.Optimizer | None
    rate: str
    penalty: penalties.Penalty | None
    dropout: tuple[float, ...]
    batch_norm: bool
    callbacks: list[Callback]


@record
class FitData(Data):
    """Checked data of a fit, and the data that a scorer receives.

    Attributes
    ----------
    raw : tuple
        X and y as they were passed, for scorers.
    """

    raw: tuple[Any, Any] = (None, None)


def supports_partial_fit(est: Any) -> bool:
    """Whether an estimator has `partial_fit`, for scikit-learn's `available_if`."""
    if isinstance(est.solver, str) and est.solver == "lbfgs":
        raise AttributeError("partial_fit needs a stochastic solver, such as 'adam'; got solver='lbfgs'")
    return True


class BaseMLP(BaseEstimator):  # type: ignore[misc]
    """Parameters, data checks and the network of the classifier and the regressor."""

    #: The scikit-learn class of the same name.
    _theirs: type
    _optimizer: Any
    coefs_: list[Array]
    intercepts_: list[Array]
    batch_norms_: list[tuple[Array, ...]]

    def _keep(self, parameters: dict[str, Any]) -> None:
        """Store the parameters of `__init__` unchanged, as scikit-learn requires."""
        for name, value in parameters.items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    def _recipe(self) -> Recipe:
        """Read and check the parameters; the result is kept until one of them changes."""
        kind: Any = type(self)
        values = [getattr(self, name) for name in parameter_names(kind)]
        key = tuple((type(value), value) for value in values)
        try:
            hash(key)
        except TypeError:  # a list may have changed in place
            return self._read()
        held = self.__dict__.get("_held_recipe")
        if held is None or held[0] != key:
            held = self._held_recipe = (key, self._read())
        return held[1]

    def _read(self) -> Recipe:
        """Read and check the parameters; scikit-learn checks those that it has itself."""
        solver: Any = self.solver if self._is_ours("solver") else None
        self._check_with_sklearn()
        hidden = hidden_units(self.hidden_layer_sizes)
        rate = "schedule" if isinstance(self.learning_rate, Schedule) else self.learning_rate
        if is_kind(solver, optimizers.Optimizer):
            rate, solver = "schedule", optimizers.optimizers.resolve(solver)
            if isinstance(self.learning_rate, Schedule):
                solver = replace(solver, learning_rate=self.learning_rate)
        elif self.solver == "adam" and rate != "schedule":
            # As in scikit-learn, the named schedules do not apply to adam.
            rate = "constant"
        return Recipe(
            hidden=hidden,
            activations=self._activations(len(hidden)),
            optimizer=None if self.solver == "lbfgs" else self._optimizer_of(solver),
            rate=rate,
            penalty=self._penalty(),
            dropout=dropout_rates(self.dropout, len(hidden)),
            batch_norm=boolean(type(self).__name__, "batch_norm", self.batch_norm),
            callbacks=check_callbacks(() if self.callbacks is None else self.callbacks),
        )

    def _is_ours(self, name: str) -> bool:
        """Whether bpfast knows the value of a parameter and scikit-learn does not."""
        value = getattr(self, name)
        if name == "activation":
            return self._activations_or_none() is not None
        if name == "solver":
            return is_kind(value, optimizers.Optimizer) or is_new_name(
                value, optimizers.optimizers, ("sgd", "adam")
            )
        if name == "learning_rate":
            return isinstance(value, Schedule)
        if name == "loss":
            return is_kind(value, Loss) or is_new_name(value, losses, ("squared_error", "poisson"))
        return False

    def _activations(self, layers: int) -> tuple[Activation, ...]:
        """Return the activation of each hidden layer."""
        given = self._activations_or_none()
        if given is None:
            given = (activations.resolve(self.activation),)
        if not isinstance(self.activation, (tuple, list)):
            given = given * layers
        if len(given) != layers:
            raise ValueError(f"activation must have one entry per hidden layer ({layers}); got {len(given)}")
        return given

    def _activations_or_none(self) -> tuple[Activation, ...] | None:
        """Return the activations if scikit-learn does not know them: a tuple, an object or a new name."""
        value = self.activation
        if isinstance(value, (tuple, list)):
            return tuple(activations.resolve(each) for each in value)
        if is_kind(value, Activation):
            return (activations.resolve(value),)
        if is_new_name(value, activations, ("identity", "logistic", "tanh", "relu")):
            return (activations.resolve(value),)
        return None

    def _check_with_sklearn(self) -> None:
        """Check the parameters that scikit-learn has, by fitting its estimator to no rows."""
        parameters = {
            name: getattr(self, name)
            for name in parameter_names(self._theirs)
            if not (name in ("activation", "solver", "learning_rate", "loss") and self._is_ours(name))
        }
        try:
            self._theirs(**parameters).fit(np.empty((0, 1)), np.empty(0))
        except ValueError as error:
            # InvalidParameterError is also a TypeError; the error about the missing rows is not.
            if isinstance(error, TypeError):
                named = [hint for name, hint in HINTS.items() if f"'{name}' parameter" in str(error)]
                raise type(error)(" ".join([str(error), *named])) from None

    def _optimizer_of(self, solver: Any) -> optimizers.Optimizer:
        """Return the optimizer that `solver` names, with the parameters that it takes."""
        if is_kind(solver, optimizers.Optimizer):
            return optimizers.optimizers.resolve(solver)
        rate = self.learning_rate
        if not isinstance(rate, Schedule):
            rate = float(self.learning_rate_init)
        if self.solver == "sgd":
            momentum = min(float(self.momentum), MOST_MOMENTUM)
            nesterov = bool(self.nesterovs_momentum) and momentum > 0
            return optimizers.SGD(rate, momentum=momentum, nesterov=nesterov)
        if self.solver == "adam":
            return optimizers.Adam(rate, self.beta_1, self.beta_2, self.epsilon, epsilon_hat=True)
        kind = optimizers.optimizers[solver]
        ours = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        taken = inspect.signature(kind).parameters
        return kind(learning_rate=rate, **{name: value for name, value in ours.items() if name in taken})

    def _penalty(self) -> penalties.Penalty | None:
        if self.penalty not in ("l2", "l1", "elasticnet", None):
            raise ValueError(f"penalty must be 'l2', 'l1', 'elasticnet' or None; got {self.penalty!r}")
        ratio = number(type(self).__name__, "l1_ratio", self.l1_ratio, at_least=0, at_most=1)
        if self.penalty is None or self.alpha == 0:
            return None
        alpha = float(self.alpha)
        if self.penalty == "elasticnet":
            return penalties.ElasticNet(alpha, ratio)
        return penalties.L2(alpha) if self.penalty == "l2" else penalties.L1(alpha)

    def _weights(self, sample_weight: Any, rows: int) -> Array | None:
        """Check the weights of the rows, a number or a sequence; return float64 (B,)."""
        if sample_weight is None:
            return None
        if isinstance(sample_weight, Real):
            sample_weight = np.full(rows, sample_weight, np.float64)
        weights = check_array(
            sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight", ensure_min_samples=0
        )
        if weights.ndim != 1:
            raise ValueError(f"sample_weight must have 1 dimension; got shape {weights.shape}")
        if len(weights) != rows:
            raise ValueError(f"sample_weight.shape == {weights.shape}, expected {(rows,)}!")
        if not weights.any():
            raise ValueError("sample_weight is zero in every row; at least one weight must be above zero")
        return checks.weights(weights, rows)

    def _matrices(self, X: Any, y: Any, reset: bool, **options: Any) -> tuple[Any, Any]:
        """Validate X and y with scikit-learn's checks; a y with one column becomes one-dimensional."""
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            dtype=(np.float64, np.float32),
            reset=reset,
            **options,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return X, y

    def _make_network(self, widths: Sequence[int], dtype: Any, batch_norm: bool) -> Network:
        """Make a network with zero weights.

        `dtype` applies if the parameter is None. `batch_norm` is passed separately because the
        layers of a fitted network do not follow the parameter.
        """
        hidden = widths[1:-1]
        if self.dtype is not None:
            dtype = checks.dtype_of(self.dtype)
        kinds, rates = self._activations(len(hidden)), dropout_rates(self.dropout, len(hidden))
        layers: list[Layer] = []
        for units, activation, rate in zip(hidden, kinds, rates, strict=True):
            if batch_norm:
                layers += [Dense(units, initializer="zeros"), BatchNorm(), ActivationLayer(activation)]
            else:
                layers.append(Dense(units, activation, initializer="zeros"))
            if rate > 0:
                layers.append(Dropout(rate))
        layers.append(Dense(widths[-1], initializer="zeros"))
        loss, threads = self._loss(dtype), threads_of(self.n_jobs)
        return Network(layers, n_inputs=widths[0], loss=loss, dtype=dtype, threads=threads)

    def _draw(self, recipe: Recipe, widths: Sequence[int], random: Any) -> Iterator[tuple[Array, Array]]:
        """Draw the initial W and b of every layer as scikit-learn does (Glorot & Bengio 2010).

        They are uniform with bound √(6 / (I + O)), or √(2 / (I + O)) for the sigmoid. The output layer
        uses the bound of the last hidden activation; without hidden layers, that of `activation`.
        """
        last = recipe.activations[-1:]
        if not last and not isinstance(self.activation, (tuple, list)):
            last = self._activations(1)
        kinds = [*recipe.activations, *(last or [None])]
        for kind, fan_in, fan_out in zip(kinds, widths[:-1], widths[1:], strict=True):
            bound = np.sqrt((2.0 if isinstance(kind, Sigmoid) else 6.0) / (fan_in + fan_out))
            yield random.uniform(-bound, bound, (fan_in, fan_out)), random.uniform(-bound, bound, fan_out)

    def _adopt(self, network: Network) -> None:
        """Take a network as the fitted one: coefs_, intercepts_ and batch_norms_ become views of it."""
        dense = _views(network, "dense")
        self.coefs_ = [W for W, _ in dense]
        self.intercepts_ = [b for _, b in dense]
        self.batch_norms_ = _views(network, "batch_norm")
        self._held = (network, self._arrays(), self._key())

    def _arrays(self) -> list[Array]:
        """Return all fitted arrays; a model converted from scikit-learn has no batch_norms_."""
        norms = self.__dict__.get("batch_norms_", ())
        return [*self.coefs_, *self.intercepts_, *itertools.chain.from_iterable(norms)]

    def _key(self) -> tuple[Any, ...]:
        """Return the parameters, other than its weights, on which a network depends."""
        return (self.activation, self.dropout, self.n_jobs, self.loss, self.dtype)

    def _network(self) -> Network:
        """Return the network of the fitted arrays, rebuilt if an array has been replaced."""
        held = self.__dict__.get("_held")
        arrays = self._arrays()
        if held is not None and all(a is b for a, b in zip(arrays, held[1], strict=False)):
            network, known, key = held
            if len(known) == len(arrays) and key == self._key():
                return network
        coefs = [np.asarray(W) for W in self.coefs_]
        widths = [len(coefs[0]), *(W.shape[1] for W in coefs)]
        norms = self.__dict__.get("batch_norms_", ())
        if len(norms) not in (0, len(coefs) - 1):
            raise ValueError(
                f"batch_norms_ must have one entry per hidden layer ({len(coefs) - 1}); got {len(norms)}"
            )
        for k, (norm, width) in enumerate(zip(norms, widths[1:], strict=False)):
            _check_batch_norm(k, norm, width)
        dtype = np.float32 if coefs[0].dtype == np.float32 else np.float64
        network = self._make_network(widths, dtype, len(norms) > 0)
        self._set_weights(network, zip(coefs, self.intercepts_, strict=True))
        _fill(_views(network, "batch_norm"), norms)
        state = state_of(network)
        state.seed, state.steps = self.__dict__.get("_noise", (0, 0))
        self._adopt(network)
        return network

    @staticmethod
    def _set_weights(network: Network, weights: Any) -> None:
        """Copy (W, b) of every layer into a network."""
        _fill(_views(network, "dense"), weights)

    def _loss(self, dtype: Any = np.float64) -> Loss:
        """Return the loss of a network of this dtype, which also defines the link of predictions."""
        raise NotImplementedError

    def _linked(self, X: Any) -> Array:
        """Check X and return the network's predictions (B, O)."""
        if not hasattr(self, "feature_names_in_") and hasattr(self, "coefs_"):
            # For an array of floats the checks of the network suffice.
            network = self._network()
            if isinstance(X, np.ndarray) and X.dtype in (np.float32, np.float64) and X.dtype != network.dtype:
                with np.errstate(over="ignore"):
                    ready = state_of(network).predict_ready(X.astype(network.dtype))
            else:
                ready = state_of(network).predict_ready(X)
            if ready is not None:
                return ready
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse=["csr", "csc"], dtype=(np.float64, np.float32), reset=False)
        return self._network().predict(X)

    def to_network(self) -> Network:
        """Return an independent bpfast `Network` with these weights.

        Its `predict` returns the probabilities of `classes_` for a classifier (with two classes, that
        of the second), and columns (n, n_outputs) for a regressor. It does not know class names.
        """
        check_is_fitted(self)
        network = copy.deepcopy(self._network())
        if isinstance(network.loss_spec, (LogLoss, CrossEntropy)):
            # Only scikit-learn's loss values are capped.
            state_of(network).loss = replace(network.loss_spec, cap=None)
        return network

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in ("_held", "_held_recipe")}

    @contextmanager
    def _or_as_before(self) -> Iterator[None]:
        """Restore the state before the call after an error."""
        before = dict(self.__dict__)
        lengths = {name: len(value) for name, value in before.items() if isinstance(value, list)}
        network = before["_held"][0] if "_held" in before else None
        snapshot = None if network is None else state_of(network).snapshot()
        try:
            yield
        except BaseException:
            # The stochastic solvers handle an interrupt themselves: it does not get here.
            self.__dict__.clear()
            self.__dict__.update(before)
            for name, length in lengths.items():
                del before[name][length:]
            if network is not None and snapshot is not None:
                state_of(network).restore(snapshot)
            raise

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _views(network: Network, kind: str) -> list[tuple[Array, ...]]:
    """Return views of the arrays of all ops of a kind: W and b, or γ, β, running mean and variance."""
    named = {**network.parameters, **network.statistics}
    ops = [op for op in network.program.ops if op.kind == kind]
    return [tuple(named[p.name] for p in (op.W, op.b, *(op.statistics or ())) if p is not None) for op in ops]


def _fill(views: list[tuple[Array, ...]], values: Any) -> None:
    """Copy values into views."""
    for view, value in zip(itertools.chain(*views), itertools.chain(*values), strict=True):
        view[...] = value


def _check_batch_norm(layer: int, arrays: Any, width: int) -> None:
    """Check γ, β, mean and variance of a hidden layer, which may have been replaced."""
    shapes = [np.shape(array) for array in arrays]
    if shapes != [(width,)] * 4:
        raise ValueError(
            f"batch_norms_[{layer}] must be gamma, beta, mean and variance of shape {(width,)}; got {shapes}"
        )
    if np.min(arrays[3]) < 0:
        raise ValueError(f"batch_norms_[{layer}] contains a negative variance; variances must be at least 0")


def rate_of(optimizer: optimizers.Optimizer) -> float | None:
    """Return the learning rate of an optimizer if it is constant, else None."""
    schedule = optimizer.schedule
    return schedule.learning_rate if isinstance(schedule, Constant) else None
