"""What the scikit-learn estimators share: parameters read, data checked, a network held, fits undone.

Public API of scikit-learn alone, from 1.5 on.
"""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d

from .._state import state_of
from ..arrays import Array, checks
from ..arrays.sparse import Features
from ..network import Network
from ..specs import optimizers, penalties
from ..specs.activations import Activation, Sigmoid, activations
from ..specs.layers import Activation as ActivationLayer
from ..specs.layers import BatchNorm, Dense, Dropout, Layer
from ..specs.losses import CrossEntropy, LogLoss, Loss, losses
from ..specs.schedules import Constant, Schedule
from ..specs.spec import Family, flag, number
from ..training.callbacks import Callback, check_callbacks

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # before 1.6

    def validate_data(estimator: Any, X: Any, y: Any = "no_validation", **options: Any) -> Any:
        return estimator._validate_data(X, y, **options)


#: The largest momentum: scikit-learn takes 1 too, which is this to the last bit but one.
MOST_MOMENTUM = float(np.nextafter(1.0, 0.0))


#: What the parameters take beside what scikit-learn's complaint about them names.
MORE = {
    "solver": f"bpfast also takes {', '.join(optimizers.optimizers)} and optimizers such as bp.SGD(0.1).",
    "activation": f"bpfast also takes {', '.join(activations)}, objects such as bp.LeakyReLU(0.1) and a "
    "tuple with one for each hidden layer.",
    "learning_rate": "bpfast also takes schedules such as bp.Cosine(0.01, epochs=50); a number goes to "
    "learning_rate_init.",
    "loss": f"bpfast also takes {', '.join(losses)} as far as they fit, objects such as bp.Quantile(0.9) "
    "and, for a regressor, a function of your own as bp.CustomLoss(f).",
}


@dataclass(frozen=True)
class Recipe:
    """An estimator's parameters, read.

    Attributes
    ----------
    hidden : tuple of int
    activations : tuple of Activation
        One a hidden layer.
    optimizer : Optimizer or None
        None for lbfgs.
    rate : str
        How the learning rate changes: as scikit-learn's parameter says, or "schedule" for the
        optimizer's own way.
    penalty : Penalty or None
        Its α is divided by the weight of each batch.
    dropout : tuple of float
        One a hidden layer.
    batch_norm : bool
    callbacks : list of Callback
    """

    hidden: tuple[int, ...]
    activations: tuple[Activation, ...]
    optimizer: optimizers.Optimizer | None
    rate: str
    penalty: penalties.Penalty | None
    dropout: tuple[float, ...]
    batch_norm: bool
    callbacks: list[Callback]


@dataclass(frozen=True)
class FitData:
    """What a fit sees, checked: X, targets as the loss takes them, float64 weights or None.

    `raw` is what a scorer is given: X and y as they came.
    """

    X: Features
    Y: Array
    weights: Array | None
    raw: tuple[Any, Any]


class BaseMLP(BaseEstimator):  # type: ignore[misc]
    """The part that the classifier and the regressor have in common."""

    #: scikit-learn's class of the same name.
    _theirs: type
    _optimizer: Any
    coefs_: list[Array]
    intercepts_: list[Array]
    batch_norms_: list[tuple[Array, ...]]

    def _keep(self, parameters: dict[str, Any]) -> None:
        """The parameters of `__init__` as attributes, untouched."""
        for name, value in parameters.items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    # ---- parameters

    def _recipe(self) -> Recipe:
        """The parameters, read and checked; anew only if one of them has changed."""
        kind: Any = type(self)
        values = [getattr(self, name) for name in _names(kind)]
        key = tuple((type(value), value) for value in values)
        try:
            hash(key)
        except TypeError:  # a list may change and be the same
            return self._read()
        held = self.__dict__.get("_held_recipe")
        if held is None or held[0] != key:
            held = self._held_recipe = (key, self._read())
        return held[1]

    def _read(self) -> Recipe:
        """Read and check the parameters, scikit-learn's own by scikit-learn."""
        solver: Any = self.solver if self._is_ours("solver") else None
        self._judge()
        hidden = _hidden(self.hidden_layer_sizes)
        rate = "schedule" if isinstance(self.learning_rate, Schedule) else self.learning_rate
        if _is_kind(solver, optimizers.Optimizer):
            rate, solver = "schedule", optimizers.optimizers.resolve(solver)
            if isinstance(self.learning_rate, Schedule):
                solver = replace(solver, learning_rate=self.learning_rate)
        elif self.solver == "adam" and rate != "schedule":
            # As there: the rates by name are for sgd; and for the solvers that only we have.
            rate = "constant"
        return Recipe(
            hidden=hidden,
            activations=self._activations(len(hidden)),
            optimizer=None if self.solver == "lbfgs" else self._optimizer_of(solver),
            rate=rate,
            penalty=self._penalty(),
            dropout=_dropout(self.dropout, len(hidden)),
            batch_norm=_flag(type(self).__name__, "batch_norm", self.batch_norm),
            callbacks=check_callbacks(() if self.callbacks is None else self.callbacks),
        )

    def _is_ours(self, name: str) -> bool:
        """Whether a parameter's value is one that scikit-learn does not know and we do."""
        value = getattr(self, name)
        if name == "activation":
            return self._activations_or_none() is not None
        if name == "solver":
            return _is_kind(value, optimizers.Optimizer) or _is_name(
                value, optimizers.optimizers, ("sgd", "adam")
            )
        if name == "learning_rate":
            return isinstance(value, Schedule)
        if name == "loss":
            return _is_kind(value, Loss) or _is_name(value, losses, ("squared_error", "poisson"))
        return False

    def _activations(self, layers: int) -> tuple[Activation, ...]:
        """The activation of each hidden layer."""
        given = self._activations_or_none()
        if given is None:
            given = (activations.resolve(self.activation),)
        if not isinstance(self.activation, (tuple, list)):
            given = given * layers
        if len(given) != layers:
            raise ValueError(f"activation has {len(given)} entries for {layers} hidden layers")
        return given

    def _activations_or_none(self) -> tuple[Activation, ...] | None:
        """The activations that are not scikit-learn's: a tuple, an object, a name of ours."""
        value = self.activation
        if isinstance(value, (tuple, list)):
            return tuple(activations.resolve(each) for each in value)
        if _is_kind(value, Activation):
            return (activations.resolve(value),)
        if _is_name(value, activations, ("identity", "logistic", "tanh", "relu")):
            return (activations.resolve(value),)
        return None

    def _judge(self) -> None:
        """Let scikit-learn judge its own parameters: an estimator of its own is asked to fit no rows."""
        parameters = {
            name: getattr(self, name)
            for name in _names(self._theirs)
            if not (name in ("activation", "solver", "learning_rate", "loss") and self._is_ours(name))
        }
        try:
            self._theirs(**parameters).fit(np.empty((0, 1)), np.empty(0))
        except ValueError as error:
            # Of parameters it is a TypeError too; of the missing rows it is not.
            if isinstance(error, TypeError):
                named = [hint for name, hint in MORE.items() if f"'{name}' parameter" in str(error)]
                raise type(error)(" ".join([str(error), *named])) from None

    def _optimizer_of(self, solver: Any) -> optimizers.Optimizer:
        """The optimizer of the solver's name, with those of the parameters that it takes."""
        if _is_kind(solver, optimizers.Optimizer):
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

    # ---- data

    def _weights(self, sample_weight: Any, rows: int) -> Array | None:
        """The weights of the rows as float64 (B,), from a number or a sequence."""
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
            raise ValueError("sample_weight is zero in every row; at least one above zero is wanted")
        return checks.weights(weights, rows)

    def _matrices(self, X: Any, y: Any, reset: bool, **options: Any) -> tuple[Any, Any]:
        """X and y by scikit-learn's checks; a y of one column becomes flat."""
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

    # ---- the network

    def _make_network(self, widths: Sequence[int], dtype: Any, batch_norm: bool) -> Network:
        """A network of these widths, of this dtype if the parameter is None; its weights are 0.

        `batch_norm` is of the network, not the parameter: a fitted one stays as it is.
        """
        hidden = widths[1:-1]
        if self.dtype is not None:
            dtype = checks.dtype_of(self.dtype)
        kinds, rates = self._activations(len(hidden)), _dropout(self.dropout, len(hidden))
        layers: list[Layer] = []
        for units, activation, rate in zip(hidden, kinds, rates, strict=True):
            if batch_norm:
                layers += [Dense(units, initializer="zeros"), BatchNorm(), ActivationLayer(activation)]
            else:
                layers.append(Dense(units, activation, initializer="zeros"))
            if rate > 0:
                layers.append(Dropout(rate))
        layers.append(Dense(widths[-1], initializer="zeros"))
        loss, threads = self._loss(dtype), _threads(self.n_jobs)
        return Network(layers, n_inputs=widths[0], loss=loss, dtype=dtype, threads=threads)

    def _draw(self, recipe: Recipe, widths: Sequence[int], random: Any) -> Iterator[tuple[Array, Array]]:
        """The initial W and b of every layer, as scikit-learn draws them (Glorot & Bengio 2010).

        Uniform up to √(6 / (I + O)), √(2 / (I + O)) for the sigmoid; the last layer goes by the
        last hidden activation, and an only one by `activation` all the same.
        """
        last = recipe.activations[-1:]
        if not last and not isinstance(self.activation, (tuple, list)):
            last = self._activations(1)
        kinds = [*recipe.activations, *(last or [None])]
        for kind, fan_in, fan_out in zip(kinds, widths[:-1], widths[1:], strict=True):
            bound = np.sqrt((2.0 if isinstance(kind, Sigmoid) else 6.0) / (fan_in + fan_out))
            yield random.uniform(-bound, bound, (fan_in, fan_out)), random.uniform(-bound, bound, fan_out)

    def _adopt(self, network: Network) -> None:
        """Make the network this estimator's: coefs_, intercepts_ and batch_norms_ become views of it."""
        dense = _views(network, "dense")
        self.coefs_ = [W for W, _ in dense]
        self.intercepts_ = [b for _, b in dense]
        self.batch_norms_ = _views(network, "batch_norm")
        self._held = (network, self._arrays(), self._key())

    def _arrays(self) -> list[Array]:
        """What the network consists of; a model taken over from elsewhere has no batch_norms_."""
        norms = self.__dict__.get("batch_norms_", ())
        return [*self.coefs_, *self.intercepts_, *itertools.chain.from_iterable(norms)]

    def _key(self) -> tuple[Any, ...]:
        """The parameters that a held network depends on beside its weights."""
        return (self.activation, self.dropout, self.n_jobs, self.loss, self.dtype)

    def _network(self) -> Network:
        """The network of the fitted arrays as they are now, which anybody may have replaced."""
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
            raise ValueError(f"batch_norms_ has {len(norms)} entries for {len(coefs) - 1} hidden layers")
        for k, (norm, width) in enumerate(zip(norms, widths[1:], strict=False)):
            shapes = [np.shape(array) for array in norm]
            if shapes != [(width,)] * 4:
                raise ValueError(
                    f"batch_norms_[{k}] must be gamma, beta, mean and variance of shape {(width,)}; "
                    f"got {shapes}"
                )
            if np.min(norm[3]) < 0:
                raise ValueError(f"batch_norms_[{k}] has a variance below 0")
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
        _fill(_views(network, "dense"), weights)

    def _loss(self, dtype: Any = np.float64) -> Loss:
        """What a network of this dtype minimises; it owns the link of the prediction."""
        raise NotImplementedError

    def _linked(self, X: Any) -> Array:
        """What the network predicts for rows that are checked here: (B, O)."""
        if not hasattr(self, "feature_names_in_") and hasattr(self, "coefs_"):
            # An array of floats needs no more checks than the network's own.
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
        """A bpfast `Network` of its own with these weights: `predict` gives what this estimator's does.

        For a classifier these are the probabilities of `classes_` (of the second, where there are
        two), whose names the network does not know; for a regressor, columns (n, n_outputs).
        """
        check_is_fitted(self)
        network = copy.deepcopy(self._network())
        if isinstance(network.loss_spec, (LogLoss, CrossEntropy)):
            # The cap is scikit-learn's way to count.
            state_of(network).loss = replace(network.loss_spec, cap=None)
        return network

    # ---- as it was

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in ("_held", "_held_recipe")}

    @contextmanager
    def _or_as_before(self) -> Iterator[None]:
        """After an error everything is as it was before the call."""
        before = dict(self.__dict__)
        lengths = {name: len(value) for name, value in before.items() if isinstance(value, list)}
        network = before["_held"][0] if "_held" in before else None
        snapshot = None if network is None else state_of(network).snapshot()
        try:
            yield
        except BaseException:
            # Of the stochastic solvers an interrupt is no error, and does not get here.
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
    """The arrays of every op of a kind, as views: W and b, or γ, β, running mean and variance."""
    named = {**network.parameters, **network.statistics}
    ops = [op for op in network.program.ops if op.kind == kind]
    return [tuple(named[p.name] for p in (op.W, op.b, *(op.statistics or ())) if p is not None) for op in ops]


def _fill(views: list[tuple[Array, ...]], values: Any) -> None:
    """Give views their values."""
    for view, value in zip(itertools.chain(*views), itertools.chain(*values), strict=True):
        view[...] = value


def _is_kind(value: Any, kind: type) -> bool:
    """Whether a value is a specification of a kind, or the class of one."""
    return isinstance(value, kind) or (isinstance(value, type) and issubclass(value, kind))


def _is_name(value: Any, family: Family[Any], theirs: tuple[str, ...]) -> bool:
    """Whether a value names a member of a family that scikit-learn has not."""
    return isinstance(value, str) and value in family and value not in theirs


@functools.cache
def _names(kind: type) -> tuple[str, ...]:
    """The parameters of an estimator."""
    return tuple(inspect.signature(kind).parameters)


def _hidden(sizes: Any) -> tuple[int, ...]:
    """The widths of the hidden layers, from a number or a sequence."""
    sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
    for units in sizes:
        if isinstance(units, bool) or not isinstance(units, Integral):
            raise TypeError(f"hidden_layer_sizes must hold whole numbers; got {units!r}")
    if any(units <= 0 for units in sizes):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    return tuple(int(units) for units in sizes)


def _dropout(rates: Any, layers: int) -> tuple[float, ...]:
    """The share that is dropped behind each hidden layer."""
    rates = tuple(rates) if isinstance(rates, (tuple, list)) else (rates,) * layers
    if len(rates) != layers:
        raise ValueError(f"dropout has {len(rates)} rates for {layers} hidden layers")
    return tuple(number("dropout", "a rate", rate, at_least=0, below=1) for rate in rates)


def _flag(owner: str, name: str, value: Any) -> bool:
    """True or False, NumPy's too, as a grid of parameters may hold them."""
    return flag(owner, name, bool(value) if isinstance(value, np.bool_) else value)


def _threads(n_jobs: Any) -> int | None:
    """At most so many threads: None for the default, counted from the cores where negative."""
    if n_jobs is None or n_jobs == -1:
        return None
    if isinstance(n_jobs, (int, np.integer)) and not isinstance(n_jobs, bool) and n_jobs < -1:
        return max(1, checks.default_threads() + 1 + int(n_jobs))
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, (int, np.integer)) or n_jobs == 0:
        raise ValueError(
            "n_jobs must be a number of threads, -1 for all cores, -2 for all but one and so on, or None; "
            f"got {n_jobs!r}"
        )
    return checks.threads(n_jobs)


def rate_of(optimizer: optimizers.Optimizer) -> float | None:
    """The learning rate of an optimizer, if it is one number."""
    schedule = optimizer.schedule
    return schedule.learning_rate if isinstance(schedule, Constant) else None
