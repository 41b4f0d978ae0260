"""The engines: what runs a program. Two of them, one interface: NumPy here, native in `_engine`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from . import reference
from .losses import Loss
from .memory import aligned
from .optimizers import Optimizer
from .penalties import Penalty
from .program import Op, Parameter, Program
from .schedules import Clock
from .sparse import CSR, Features, dense, take

Array = NDArray[Any]
#: What a dropout draws its mask from: the network's seed, and how many steps were made before.
Noise = tuple[int, int]


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
        What the first batch's masks are drawn from; the batches behind it have the next steps.
    order : int64 array or None
        The numbers of the rows to take, in their order; not with `shuffle`.
    loss_scale : float
        What the mean loss is multiplied by.
    alphas : float64 array, one a batch, or None
        The penalty's strength in each batch, in place of its own.
    objective : bool
        Whether the losses of the batches include the penalty, of the weights before the step.
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

    def forward(self, parameters: Array, X: Features, noise: Noise | None = None) -> Array:
        """Z, and every value between, kept for `backward`; with noise as in that step of training."""

    def backward(self, parameters: Array, D: Array, gradient: Array, dX: Array | None = None) -> None:
        """Fill the flat gradient, and ∂L/∂X (B, I) if asked, from D = ∂L/∂Z (B, O) of the last `forward`."""

    def update(
        self,
        parameters: Array,
        gradient: Array,
        state: OptimizerState,
        learning_rate: float,
        penalty: Penalty | None,
    ) -> None:
        """One step of the optimizer with a flat gradient, in place."""

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


class _Ops:
    """The reference's ops: name → forward and backward, as the native engine's table has them."""

    @staticmethod
    def dense_forward(op: Op, X: Array, p: dict[str, Array], noise: Noise | None) -> tuple[Array, Array]:
        assert op.W is not None
        Z = X @ p[op.W.name]
        if op.b is not None:
            Z += p[op.b.name]
        return Z, reference.activate(Z, op.activation)

    @staticmethod
    def dense_backward(
        op: Op, X: Array, Z: Array, dA: Array, p: dict[str, Array], g: dict[str, Array]
    ) -> Array:
        assert op.W is not None
        D = dA * reference.derivative(Z, op.activation)
        g[op.W.name][...] = X.T @ D
        if op.b is not None:
            g[op.b.name][...] = D.sum(axis=0)
        return D @ p[op.W.name].T

    @staticmethod
    def activation_forward(op: Op, X: Array, p: dict[str, Array], noise: Noise | None) -> tuple[Array, Array]:
        return X, reference.activate(X, op.activation)

    @staticmethod
    def activation_backward(
        op: Op, X: Array, Z: Array, dA: Array, p: dict[str, Array], g: dict[str, Array]
    ) -> Array:
        return dA * reference.derivative(Z, op.activation)

    @staticmethod
    def dropout_forward(op: Op, X: Array, p: dict[str, Array], noise: Noise | None) -> tuple[Array, Array]:
        M = np.ones_like(X) if noise is None else reference.dropout_mask(X, op.parameter, *noise, op.target)
        return M, reference.drop(X, M)

    @staticmethod
    def dropout_backward(
        op: Op, X: Array, Z: Array, dA: Array, p: dict[str, Array], g: dict[str, Array]
    ) -> Array:
        return reference.drop(dA, Z)


OPS = {
    "dense": (_Ops.dense_forward, _Ops.dense_backward),
    "activation": (_Ops.activation_forward, _Ops.activation_backward),
    "dropout": (_Ops.dropout_forward, _Ops.dropout_backward),
}


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
        self._values: list[tuple[Array, Array]] = []

    def outputs(self, parameters: Array, X: Features) -> Array:
        if isinstance(X, CSR):
            return np.concatenate([self.outputs(parameters, block.toarray()) for block in X.blocks(BLOCK)])
        return self._forward(parameters, X)[-1][1]

    def forward(self, parameters: Array, X: Features, noise: Noise | None = None) -> Array:
        self._values = self._forward(parameters, dense(X), noise)
        return self._values[-1][1].copy()

    def _forward(self, parameters: Array, X: Array, noise: Noise | None = None) -> list[tuple[Array, Array]]:
        p = self.program.views(parameters)
        values = [(X, X)]
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for op in self.program.ops:
                values.append(OPS[op.kind][0](op, values[op.source][1], p, noise))
        return values

    def backward(self, parameters: Array, D: Array, gradient: Array, dX: Array | None = None) -> None:
        p, g = self.program.views(parameters), self.program.views(gradient)
        delta = D
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for op in reversed(self.program.ops):
                X, Z = self._values[op.source][1], self._values[op.target][0]
                delta = OPS[op.kind][1](op, X, Z, delta, p, g)
        if dX is not None:
            dX[...] = delta

    def update(
        self,
        parameters: Array,
        gradient: Array,
        state: OptimizerState,
        learning_rate: float,
        penalty: Penalty | None,
    ) -> None:
        for p in self.program.parameters:
            self._update(p, parameters, gradient, state, learning_rate, penalty)
        state.steps += 1

    def _update(
        self,
        p: Parameter,
        parameters: Array,
        gradient: Array,
        state: OptimizerState,
        learning_rate: float,
        penalty: Penalty | None,
    ) -> None:
        w, g, s = parameters[p.block], gradient[p.block], state.arrays[:, p.block]
        penalty = penalty if p.penalised else None
        if penalty is not None:
            g = g + reference.penalty_gradient(penalty, w)
        rule = reference.OPTIMIZERS[state.optimizer.rule]
        hyperparameters = state.optimizer.hyperparameters
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
    seed, step = plan.noise
    for batch, learning_rate in enumerate(plan.learning_rates.tolist()):
        rows = order[batch * plan.batch_size : (batch + 1) * plan.batch_size]
        w = None if weights is None else weights[rows]
        Z = engine.forward(parameters, take(X, rows), (seed, step + batch))
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            loss, D = reference.mean_loss(*reference.row_losses(plan.loss, Y[rows], Z), w, plan.loss_scale)
        penalty = plan.penalty_of(batch)
        if plan.objective and penalty is not None:
            views = engine.program.views(parameters)
            penalised = (views[p.name] for p in engine.program.parameters if p.penalised)
            loss += sum(reference.penalty_value(penalty, W) for W in penalised)
        losses[batch] = loss
        counts[batch] = len(rows) if w is None else w.sum()
        if not np.isfinite(loss):
            break
        engine.backward(parameters, D, gradient)
        engine.update(parameters, gradient, state, learning_rate, penalty)
    return losses, counts
