"""The engines: what runs a program. Two of them, one interface: NumPy here, native in `_engine`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from . import reference
from .losses import Loss
from .mapped import mapped_rows
from .memory import aligned
from .optimizers import Optimizer
from .penalties import Penalty
from .program import Op, Parameter, Program
from .reference_ops import OPS, noisy
from .schedules import Clock
from .sparse import CSR, Features, dense, take

Array = NDArray[Any]
#: What the random ops draw from: the network's seed, and how many steps were made before.
Noise = tuple[int, int]


@dataclass(frozen=True)
class Training:
    """How a forward pass of training differs from one of prediction.

    Attributes
    ----------
    noise : (seed, step)
    momentum : float or None
        In place of that by which running statistics move: 0 keeps them, 1 takes the batch's.
    heads : bool
        Whether the auxiliary heads are there.
    weight_noise : float
        The deviation of what is added to the penalised weights.
    rates : dict
        As in a `Plan`. What normalises a batch takes its running statistics where both its parameters
        are at 0, and they stay.
    """

    noise: Noise
    momentum: float | None = None
    heads: bool = False
    weight_noise: float = 0.0
    rates: Mapping[str, float] = field(default_factory=dict)

    def fixed(self, op: Op) -> bool:
        """Whether an op's running statistics stay and are taken."""
        return all(p is not None and self.rates.get(p.name) == 0 for p in (op.W, op.b))


@dataclass
class OptimizerState:
    """What an optimizer keeps between steps, for one network.

    Attributes
    ----------
    optimizer : Optimizer
        The specification that was used last.
    arrays : array (n_states, size)
        The rule's state, laid out as the flat parameters.
    steps : int
        Steps made.
    clock : Clock
        The schedule's time.
    """

    optimizer: Optimizer
    arrays: Array
    steps: int = 0
    clock: Clock = field(default_factory=Clock)

    @classmethod
    def initial(cls, optimizer: Optimizer, size: int, dtype: np.dtype[Any]) -> OptimizerState:
        """The state before the first step."""
        arrays = aligned((len(optimizer.state), size), dtype)
        for row, value in zip(arrays, optimizer.state.values(), strict=True):
            row[...] = value
        return cls(optimizer, arrays)


@dataclass(frozen=True)
class Plan:
    """How an epoch is to be run.

    Attributes
    ----------
    loss : Loss
    batch_size : int
    learning_rates : float64 array, one a batch
    penalty : Penalty or None
    shuffle : (seed, epoch) or None
        What the order of the rows is drawn from; None keeps the order, or takes `order`.
    noise : (seed, step)
        What the first batch's random ops draw from; the batches behind it have the next steps.
    order : int64 array or None
        The numbers of the rows to take, in their order; not with `shuffle`.
    loss_scale : float
        What the mean loss is multiplied by.
    alphas : float64 array, one a batch, or None
        The penalty's strength in each batch, in place of its own.
    objective : bool
        Whether the losses of the batches include the penalty, of the weights before the step.
    weight_noise : float
        The deviation of what is added to the penalised weights in each step's passes.
    rates : dict
        What the learning rate is multiplied by, by the names of parameters; 1 for the others. At 0 a
        parameter stays as it is.
    """

    loss: Loss
    batch_size: int
    learning_rates: NDArray[np.float64]
    penalty: Penalty | None
    shuffle: tuple[int, int] | None
    noise: Noise
    order: NDArray[np.int64] | None = None
    loss_scale: float = 1.0
    alphas: NDArray[np.float64] | None = None
    objective: bool = False
    weight_noise: float = 0.0
    rates: Mapping[str, float] = field(default_factory=dict)

    def training(self, batch: int) -> Training:
        """How a batch's forward pass is made."""
        seed, step = self.noise
        return Training((seed, step + batch), None, True, self.weight_noise, self.rates)

    def penalty_of(self, batch: int) -> Penalty | None:
        """The penalty of a batch."""
        if self.penalty is None or self.alphas is None:
            return self.penalty
        return replace(self.penalty, alpha=float(self.alphas[batch]))


class Engine(Protocol):
    """Runs a program on a flat vector of parameters. Arguments are checked before they get here.

    X is an array, or `CSR` rows, which are made dense a batch at a time or not at all.
    """

    program: Program
    dtype: np.dtype[Any]

    @property
    def predict(self) -> Callable[[Array, Any, str], Array | None]:
        """(parameters, X, link) → what the link makes of the outputs; None if X is to be checked first."""

    def outputs(self, parameters: Array, X: Features) -> Array:
        """Z, the raw outputs (B, O) of X (B, I), in blocks of rows: nothing is kept."""

    def forward(self, parameters: Array, X: Features, training: Training | None = None) -> Array:
        """Z, and every value between, kept for `backward`; perhaps as in training.

        In training the running statistics among the parameters move.
        """

    def head_outputs(self) -> list[Array]:
        """The raw outputs of the heads in the last `forward`, if they were there."""

    def backward(
        self,
        parameters: Array,
        D: Array,
        gradient: Array,
        dX: Array | None = None,
        heads: Sequence[Array] = (),
    ) -> None:
        """Fill the flat gradient, and ∂L/∂X (B, I) if asked, from D = ∂L/∂Z (B, O) of the last `forward`.

        heads: the same of each head, if they were there.
        """

    def values(self) -> list[tuple[Array, Array]]:
        """(A, dA) of every op in the last `forward` and `backward`, in copies.

        Of a dense op the native engine has ∂L/∂Z in place of dA = ∂L/∂A.
        """

    def update(
        self,
        parameters: Array,
        gradient: Array,
        state: OptimizerState,
        learning_rate: float,
        penalty: Penalty | None,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        """One step of the optimizer with a flat gradient, in place; `rates` as in a `Plan`."""

    def train(
        self,
        parameters: Array,
        state: OptimizerState,
        X: Features,
        Y: Array,
        weights: Array | None,
        plan: Plan,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """One epoch, in place: the loss and the weight of each batch.

        Stops after a batch whose loss is not finite; the batches behind it keep a loss of NaN.
        """


#: Rows of a sparse X that the reference makes dense together.
BLOCK = 256


def _unprepared(parameters: Array, X: Any, link: str) -> None:
    """No X is ready for the reference: every one is checked."""


class ReferenceEngine:
    """Runs a program in NumPy, one op after the other."""

    def __init__(self, program: Program, dtype: np.dtype[Any]) -> None:
        self.program = program
        self.dtype = dtype
        self.predict: Callable[[Array, Any, str], Array | None] = _unprepared
        # Of the last forward pass: the values, what the ops saved, the weights it saw, its training.
        self._values: dict[int, Array] = {}
        self._saved: dict[int, Any] = {}
        self._deltas: dict[int, Array] = {}
        self._seen: dict[str, Array] = {}
        self._training: Training | None = None

    def outputs(self, parameters: Array, X: Features) -> Array:
        if isinstance(X, CSR):
            return np.concatenate([self.outputs(parameters, block.toarray()) for block in X.blocks(BLOCK)])
        return self._forward(self._views(parameters), X, None)[0][self.program.output]

    def forward(self, parameters: Array, X: Features, training: Training | None = None) -> Array:
        self._training, self._seen = training, self._views(parameters)
        if training is not None and training.weight_noise > 0:
            for p in self.program.parameters:
                if p.penalised:
                    W = self._seen[p.name]
                    self._seen[p.name] = noisy(W, training.weight_noise, *training.noise, p.offset)
        self._deltas = {}
        self._values, self._saved = self._forward(self._seen, dense(X), training)
        return self._values[self.program.output].copy()

    def head_outputs(self) -> list[Array]:
        if self._training is None or not self._training.heads:
            return []
        return [self._values[head.value] for head in self.program.heads]

    def _views(self, parameters: Array) -> dict[str, Array]:
        return {**self.program.views(parameters), **self.program.views(parameters, trained=False)}

    def _forward(
        self, p: dict[str, Array], X: Array, training: Training | None
    ) -> tuple[dict[int, Array], dict[int, Any]]:
        values, saved = {0: X}, {}
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for op in self._ops(training):
                sources = (values[source] for source in op.sources)
                saved[op.target], values[op.target] = OPS[op.kind][0](op, p, training, *sources)
        return values, saved

    def _ops(self, training: Training | None) -> list[Op]:
        """The ops that are there: those of heads only with their losses."""
        heads = training is not None and training.heads
        return [op for op in self.program.ops if heads or not op.head]

    def backward(
        self,
        parameters: Array,
        D: Array,
        gradient: Array,
        dX: Array | None = None,
        heads: Sequence[Array] = (),
    ) -> None:
        gradient[...] = 0
        g = self.program.views(gradient)
        deltas = {self.program.output: D}
        deltas.update({head.value: D for head, D in zip(self.program.heads, heads, strict=False)})
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for op in reversed(self._ops(self._training)):
                sources = [self._values[source] for source in op.sources]
                saved, dA = self._saved[op.target], deltas[op.target]
                found = OPS[op.kind][1](op, self._seen, g, saved, dA, *sources)
                for source, adds, delta in zip(op.sources, op.adds, found, strict=True):
                    deltas[source] = deltas[source] + delta if adds else delta
        self._deltas = deltas
        if dX is not None:
            dX[...] = deltas[0]

    def values(self) -> list[tuple[Array, Array]]:
        if not self._deltas:
            raise RuntimeError("values needs a forward and a backward pass before it")
        ops = self._ops(self._training)
        return [(self._values[op.target].copy(), self._own_delta(op)) for op in ops]

    def _own_delta(self, op: Op) -> Array:
        delta = self._deltas[op.target].copy()
        if op.kind == "dense":
            delta *= reference.derivative(self._saved[op.target], op.activation)
        return delta

    def update(
        self,
        parameters: Array,
        gradient: Array,
        state: OptimizerState,
        learning_rate: float,
        penalty: Penalty | None,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        rates = rates or {}
        trained = [p for p in self.program.parameters if p.trained and rates.get(p.name, 1.0) > 0]
        gradients = reference.clip([gradient[p.block] for p in trained], state.optimizer)
        for p, g in zip(trained, gradients, strict=True):
            rate = learning_rate * rates.get(p.name, 1.0)
            self._update(p, parameters[p.block], g, state, rate, penalty if p.penalised else None)
        state.steps += 1

    def _update(
        self,
        p: Parameter,
        w: Array,
        g: Array,
        state: OptimizerState,
        learning_rate: float,
        penalty: Penalty | None,
    ) -> None:
        if penalty is not None:
            g = g + reference.penalty_gradient(penalty, w)
        rule = reference.OPTIMIZERS[state.optimizer.rule]
        hyperparameters = state.optimizer.hyperparameters
        s = state.arrays[:, p.block]
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            rate = rule(w, g, s, hyperparameters, learning_rate, state.steps + 1, p.penalised)
        if penalty is not None:
            w[...] = reference.penalty_proximal(penalty, w, rate)

    def train(
        self,
        parameters: Array,
        state: OptimizerState,
        X: Features,
        Y: Array,
        weights: Array | None,
        plan: Plan,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return train_in_python(self, parameters, state, X, Y, weights, plan)


def outputs(engine: Engine, parameters: Array, X: Features) -> Array:
    """The raw outputs in prediction; of a large array in a file in blocks that are let go."""
    mapped = mapped_rows(X)
    if mapped is None:
        return engine.outputs(parameters, X)
    return np.concatenate([engine.outputs(parameters, block) for block in mapped.blocks()])


def head_losses(
    engine: Engine, Y: Array, weights: Array | None, scale: float = 1.0
) -> tuple[float, list[Array]]:
    """What the heads of the last forward pass add to the objective, and the delta of each."""
    total, deltas = 0.0, []
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for head, Z in zip(engine.program.heads, engine.head_outputs(), strict=False):
            assert head.loss is not None
            rows = reference.row_losses(head.loss, Y, Z)
            loss, D = reference.mean_loss(*rows, weights, scale * head.weight)
            total += loss
            deltas.append(D)
    return total, deltas


def train_in_python(
    engine: Engine,
    parameters: Array,
    state: OptimizerState,
    X: Features,
    Y: Array,
    weights: Array | None,
    plan: Plan,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`Engine.train`, step by step from Python: the reference's, and any engine's under a custom loss."""
    n = len(X)
    order = np.arange(n) if plan.order is None else plan.order
    if plan.shuffle is not None:
        order = reference.permutation(n, *plan.shuffle)
    losses = np.full(len(plan.learning_rates), np.nan)
    counts = np.zeros(len(plan.learning_rates))
    gradient = np.zeros_like(parameters)
    for batch, learning_rate in enumerate(plan.learning_rates.tolist()):
        rows = order[batch * plan.batch_size : (batch + 1) * plan.batch_size]
        w = None if weights is None else weights[rows]
        Z = engine.forward(parameters, take(X, rows), plan.training(batch))
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            loss, D = reference.mean_loss(*reference.row_losses(plan.loss, Y[rows], Z), w, plan.loss_scale)
        beside, head_deltas = head_losses(engine, Y[rows], w, plan.loss_scale)
        loss += beside
        penalty = plan.penalty_of(batch)
        if plan.objective and penalty is not None:
            views = engine.program.views(parameters)
            penalised = (views[p.name] for p in engine.program.parameters if p.penalised)
            loss += sum(reference.penalty_value(penalty, W) for W in penalised)
        losses[batch] = loss
        counts[batch] = len(rows) if w is None else w.sum()
        if not np.isfinite(loss):
            break
        engine.backward(parameters, D, gradient, heads=head_deltas)
        engine.update(parameters, gradient, state, learning_rate, penalty, plan.rates)
    return losses, counts
