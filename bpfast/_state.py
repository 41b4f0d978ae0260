"""What a network is: program, flat parameters, engine, optimizer state and counters.

Public within the package. `bpfast.Network` checks arguments and hands them down to its state; training,
storage, diagnostics and the estimators work on the state itself, which `state_of` returns.
"""

from __future__ import annotations

import numbers
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import backends, reference
from .arrays import Array, checks
from .arrays.aligned import aligned, aligned_copy
from .arrays.sparse import Features
from .arrays.threads import check_threads
from .engine import interface
from .engine.interface import Data, Engine, OptimizerState, TrainingPass
from .engine.program import Program, compile_program
from .reference.engine import head_losses
from .specs.layers import Layer
from .specs.losses import Loss, link_of
from .specs.optimizers import Optimizer
from .specs.penalties import Penalty
from .specs.record import Record, record
from .specs.spec import integer

#: Attributes that `_derive` builds again, left out of a pickle.
_DERIVED = frozenset(
    [
        *("parameters", "statistics", "link_name", "lock", "fitting", "taped_rows", "has_gradient"),
        *("_gradient", "_engine", "_predict"),
    ]
)

_living: weakref.WeakSet[NetworkState] = weakref.WeakSet()


def _after_fork() -> None:
    """Reset locks and engines in a forked child, where no thread is left to release a held lock."""
    for state in list(_living):
        state._derive()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@record
class Snapshot(Record):
    """Copy of what training changes in a network, to restore after an error."""

    flat: Array
    seed: int
    epochs: int
    steps: int
    lr_scales: dict[str, float]
    metadata: dict[str, str]
    optimizer_state: OptimizerState | None


class NetworkState:
    """A network's program, parameters, engine, optimizer state and counters.

    Parameters
    ----------
    layers, n_inputs, loss, dtype, seed, threads, backend
        As for `bpfast.Network`; `loss` is a `Loss`.
    initialize : bool, default True
        Draw the initial parameters; otherwise they are 0, to be overwritten.

    Attributes
    ----------
    program : Program
    flat : array (program.size,)
        Parameters and running statistics in one vector that starts on a cache line.
    parameters, statistics : mapping of str to array
        Views of `flat` by name.
    optimizer_state : OptimizerState or None
        State from which the next call with the same kind of optimizer continues.
    epochs, steps : int
        Epochs and steps trained so far; the random numbers of the next step depend on (seed, steps).
    lr_scales : dict
        Multipliers of the learning rate by parameter name, without those that are 1.
    metadata : dict of str to str
        Text stored in the model file.
    lock : threading.RLock
        Held while the engine runs.
    taped_rows : int
        Rows of the last ``forward(training=True)``; 0 if there is nothing to backpropagate.
    has_gradient : bool
        Whether `backward` has filled `gradient` since.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        n_inputs: int,
        loss: Loss,
        dtype: Any,
        seed: int,
        threads: int | None,
        backend: str | None,
        initialize: bool = True,
    ) -> None:
        self.layers = tuple(layers)
        self.loss = loss
        self.dtype = checks.dtype_of(dtype)
        self.seed = integer("Network", "seed", seed, at_least=0)
        self.threads = check_threads(threads)
        self.backend = backends.resolve_backend(backend)
        program = compile_program(self.layers, integer("Network", "n_inputs", n_inputs, at_least=1))
        self.program = program.with_losses(loss)
        if loss.name == "cross_entropy" and program.n_outputs < 2:
            raise ValueError("cross_entropy needs at least 2 outputs; for one output use log_loss")
        self.metadata: dict[str, str] = {}
        self.optimizer_state: OptimizerState | None = None
        self.epochs = 0
        self.steps = 0
        self.lr_scales: dict[str, float] = {}
        if initialize:
            self.flat = self.program.initial(self.seed, self.dtype)
        else:
            self.flat = aligned(self.program.size, self.dtype)
            self.flat[...] = 0
        self._derive()

    def _derive(self) -> None:
        """Set the attributes that are derived from the rest and left out of a pickle."""
        self.parameters: Mapping[str, Array] = MappingProxyType(self.program.views(self.flat))
        self.statistics: Mapping[str, Array] = MappingProxyType(self.program.views(self.flat, False))
        self.link_name = link_of(self.loss)
        self.lock = threading.RLock()
        self.fitting = False
        self.taped_rows = 0
        self.has_gradient = False
        self._gradient: Array | None = None
        self.reset_engine()
        _living.add(self)

    def __getstate__(self) -> dict[str, Any]:
        with self.lock:
            state = {key: value for key, value in self.__dict__.items() if key not in _DERIVED}
            return {**state, "flat": self.flat.copy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.flat = aligned_copy(self.flat)
        self._derive()

    @property
    def gradient(self) -> Array:
        """The flat gradient of `backward`, allocated on first use because most networks never need it."""
        if self._gradient is None:
            self._gradient = np.zeros(self.flat.shape, self.dtype)
        return self._gradient

    @property
    def engine(self) -> Engine:
        """The engine, built on first use because a network may be loaded only to be inspected."""
        with self.lock:
            if self._engine is None:
                self._engine = backends.make_engine(self.program, self.dtype, self.backend, self.threads)
            return self._engine

    _engine: Engine | None
    _predict: Callable[[Array, Any, str], Array | None] | None

    def reset_engine(self) -> None:
        """Discard the engine, and with it the memory of its last call."""
        with self.lock:
            self._engine = None
            # The engine's `predict`, cached for calls of a few microseconds.
            self._predict = None

    def predict_ready(self, X: Any) -> Array | None:
        """Predict if X needs no preparation, else return None.

        X needs no preparation if it is a finite C-contiguous array of at least one row, of the network's
        dtype and width.
        """
        with self.lock:
            predict = self._predict
            if predict is None:
                predict = self._predict = self.engine.predict
            return predict(self.flat, X, self.link_name)

    def outputs(self, X: Features) -> Array:
        """Return the raw outputs Z (B, O) in prediction mode."""
        with self.lock:
            return interface.outputs(self.engine, self.flat, X)

    def link(self, Z: Array) -> Array:
        """Apply the loss's link function to raw outputs Z (B, O)."""
        return backends.predict(self.loss, Z, self.threads, self.backend)

    def check(self, X: Any, y: Any, sample_weight: Any = None, prefix: str = "") -> Data:
        """Check training or evaluation rows; `prefix` precedes the argument names in messages."""
        X = checks.features(X, self.program.n_inputs, self.dtype, f"{prefix}X")
        Y = checks.targets(self.loss, y, len(X), self.program.n_outputs, self.dtype, f"{prefix}y")
        return Data(X, Y, checks.weights(sample_weight, len(X), f"{prefix}sample_weight"))

    def evaluate(self, data: Data) -> tuple[float, Array]:
        """Return the mean loss and the raw outputs in prediction mode."""
        Z = self.outputs(data.X)
        loss, _ = backends.evaluate(self.loss, data.Y, Z, data.weights, self.threads, self.backend)
        return loss, Z

    def penalty(self, penalty: Penalty | None) -> float:
        """Return α Ω(W) of the current weights."""
        if penalty is None:
            return 0.0
        return sum(
            reference.penalty_value(penalty, self.parameters[p.name])
            for p in self.program.parameters
            if p.penalised
        )

    def objective(
        self,
        data: Data,
        penalty: Penalty | None,
        gradient: Array,
        loss_scale: float = 1.0,
        training: TrainingPass | None = None,
    ) -> float:
        """Return J = loss_scale · mean loss + α Ω(W); write its flat gradient to `gradient`."""
        Y, weights = data.Y, data.weights
        with self.lock:
            self.forget_tape()
            Z = self.engine.forward(self.flat, data.X, training)
            value, D = backends.evaluate(self.loss, Y, Z, weights, self.threads, self.backend)
            of_heads, head_deltas = head_losses(self.engine, Y, weights, loss_scale)
            if loss_scale != 1:
                D = D * D.dtype.type(loss_scale)
            self.engine.backward(self.flat, D, gradient, heads=head_deltas)
        if penalty is not None:
            views = self.program.views(gradient)
            for p in self.program.parameters:
                if p.penalised:
                    views[p.name] += reference.penalty_gradient(penalty, self.parameters[p.name])
        return value * loss_scale + of_heads + self.penalty(penalty)

    def next_pass(self) -> TrainingPass:
        """Return the training pass of the next step, without its update of the running statistics."""
        return TrainingPass((self.seed, self.steps), 0.0, True, lr_scales=self.lr_scales)

    def forward(self, X: Features) -> Array:
        """Run a training pass without heads, to be continued by `backward`; it counts as a step."""
        with self.lock:
            self.forget_tape()
            training = TrainingPass((self.seed, self.steps), lr_scales=self.lr_scales)
            self.steps += 1
            Z = self.engine.forward(self.flat, X, training)
            self.taped_rows = len(X)
            return Z

    def backward(self, D: Array) -> Array:
        """Fill `gradient` from D = ∂L/∂Z (B, O) of the last `forward`; return ∂L/∂X (B, I)."""
        with self.lock:
            self.has_gradient = True
            dX = np.empty((len(D), self.program.n_inputs), self.dtype)
            self.engine.backward(self.flat, D, self.gradient, dX)
        return dX

    def update(self, optimizer: Optimizer, penalty: Penalty | None) -> None:
        """Make one step of an optimizer with `gradient`."""
        with self.lock:
            state = self.optimizer_state_for(optimizer)
            rate = optimizer.schedule.rate(float(state.clock.epoch))
            self.engine.update(self.flat, self.gradient, state, rate, penalty, self.lr_scales)

    def forget_tape(self) -> None:
        """Invalidate what `backward` and `update` would continue from."""
        self.taped_rows, self.has_gradient = 0, False

    def optimizer_state_for(self, optimizer: Optimizer) -> OptimizerState:
        """Return the state from which an optimizer continues.

        A change of hyperparameters keeps the moments; a change of schedule resets its clock.
        """
        state = self.optimizer_state
        if state is None or state.optimizer.rule != optimizer.rule:
            state = OptimizerState.initial(optimizer, self.program.size, self.dtype)
        elif state.optimizer.learning_rate != optimizer.learning_rate:
            state.clock = type(state.clock)()
        state.optimizer = optimizer
        self.optimizer_state = state
        return state

    def names_of(self, key: Any) -> list[str]:
        """Return the names of a layer's parameters, or the one name given."""
        if isinstance(key, bool) or not isinstance(key, (numbers.Integral, str)):
            raise TypeError(f"a layer must be an index or a name such as '0.W'; got {key!r}")
        n = len(self.layers)
        if not isinstance(key, str):
            if not -n <= int(key) < n:
                raise ValueError(f"layer index must be from 0 to {n - 1}; got {key}")
            key = str(int(key) % n)
        found = [p for p in self.parameters if p == key or p.startswith(f"{key}.")]
        if not found and not any(f"{op.layer}.".startswith(f"{key}.") for op in self.program.ops):
            layers = ", ".join(f"{i} ({type(layer).__name__})" for i, layer in enumerate(self.layers))
            raise ValueError(
                f"unknown layer or parameter {key!r}; expected the index of a layer: {layers}; or the name "
                f"of a parameter: {', '.join(self.parameters)}"
            )
        return found

    def trainable(self) -> NDArray[np.bool_]:
        """Return the mask of the elements of `flat` that training may change."""
        mask = np.zeros(self.flat.shape, bool)
        for p in self.program.parameters:
            mask[p.block] = p.trained and self.lr_scales.get(p.name, 1.0) > 0
        return mask

    def require_no_fit(self, call: str) -> None:
        """Raise RuntimeError while `fit` is running."""
        if self.fitting:
            raise RuntimeError(
                f"{call} was called while fit is running on this network; call it after fit has returned"
            )

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Mark this network as being trained; raise RuntimeError if it already is."""
        with self.lock:
            if self.fitting:
                raise RuntimeError("this network is already being trained; one fit at a time")
            self.fitting = True
        try:
            yield
        finally:
            self.fitting = False

    def snapshot(self) -> Snapshot:
        """Copy what training changes; the optimizer's state by reference."""
        return Snapshot(
            self.flat.copy(),
            self.seed,
            self.epochs,
            self.steps,
            self.lr_scales,
            self.metadata,
            self.optimizer_state,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Restore a snapshot."""
        np.copyto(self.flat, snapshot.flat)
        self.seed, self.epochs, self.steps = snapshot.seed, snapshot.epochs, snapshot.steps
        self.lr_scales, self.metadata = snapshot.lr_scales, snapshot.metadata
        self.optimizer_state = snapshot.optimizer_state


class BaseNetwork:
    """Base class of `bpfast.Network`: holds a `NetworkState` and exposes its attributes."""

    _state: NetworkState

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, from input to output."""
        return self._state.layers

    @property
    def loss_spec(self) -> Loss:
        """The loss, whose link function `predict` applies."""
        return self._state.loss

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of parameters and arithmetic."""
        return self._state.dtype

    @property
    def seed(self) -> int:
        """Seed of the random numbers of training."""
        return self._state.seed

    @seed.setter
    def seed(self, value: int) -> None:
        self._state.seed = integer("Network", "seed", value, at_least=0)

    @property
    def threads(self) -> int | None:
        """Maximum number of threads; None for all available cores."""
        return self._state.threads

    @property
    def backend(self) -> str:
        """ "native" or "reference"."""
        return self._state.backend

    @property
    def program(self) -> Program:
        """The layers as a flat list of ops with one layout of parameters."""
        return self._state.program

    @property
    def parameters(self) -> Mapping[str, Array]:
        """Trained parameters by name, as views of one vector."""
        return self._state.parameters

    @property
    def statistics(self) -> Mapping[str, Array]:
        """Running means and variances of normalised columns by name, updated by training."""
        return self._state.statistics

    @property
    def metadata(self) -> dict[str, str]:
        """Free text stored in the model file, such as how the inputs were prepared."""
        return self._state.metadata

    @metadata.setter
    def metadata(self, value: dict[str, str]) -> None:
        if not isinstance(value, dict) or not all(isinstance(s, str) for s in (*value, *value.values())):
            raise TypeError(f"metadata must be a dict of str to str; got {value!r}")
        self._state.metadata = value

    @property
    def gradient(self) -> Mapping[str, Array]:
        """∂L/∂parameter by name, as computed by the last `backward`."""
        return MappingProxyType(self._state.program.views(self._state.gradient))

    @property
    def n_inputs(self) -> int:
        """Number of columns of X."""
        return self.program.n_inputs

    @property
    def n_outputs(self) -> int:
        """Number of columns of Z."""
        return self.program.n_outputs

    @property
    def n_parameters(self) -> int:
        """Total number of trained parameters."""
        return self.program.n_trained

    @property
    def epochs(self) -> int:
        """Epochs trained so far, over all calls of `fit`."""
        return self._state.epochs


def state_of(network: BaseNetwork) -> NetworkState:
    """Return the state of a network."""
    return network._state
