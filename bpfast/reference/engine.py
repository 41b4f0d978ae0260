"""The reference engine, which runs programs in NumPy, and its training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array
from ..arrays.sparse import CSR, Features, dense, take
from ..engine.interface import Data, Engine, OptimizerState, Plan, TrainingPass
from ..engine.program import Op, Parameter, Program
from ..specs.penalties import Penalty
from . import formulas as reference
from .ops import OPS, noisy
from .random import permutation


def _unprepared(parameters: Array, X: Any, link: str) -> None:
    """Return None: the reference engine validates every X first."""


class ReferenceEngine:
    """Run a program in NumPy, op by op."""

    #: BLAS may round the same row differently in matrices with different numbers of rows.
    row_block = 256

    def __init__(self, program: Program, dtype: np.dtype[Any]) -> None:
        self.program = program
        self.dtype = dtype
        self.predict: Callable[[Array, Any, str], Array | None] = _unprepared
        # Of the last forward pass: values, arrays saved by ops, deltas, effective parameters, training.
        self._values: dict[int, Array] = {}
        self._saved: dict[int, Any] = {}
        self._deltas: dict[int, Array] = {}
        self._effective: dict[str, Array] = {}
        self._training: TrainingPass | None = None

    def outputs(self, parameters: Array, X: Features) -> Array:
        size = self.row_block
        blocks = X.blocks(size) if isinstance(X, CSR) else (X[i : i + size] for i in range(0, len(X), size))
        p, output = self._views(parameters), self.program.output
        return np.concatenate([self._forward(p, dense(block), None)[0][output] for block in blocks])

    def forward(self, parameters: Array, X: Features, training: TrainingPass | None = None) -> Array:
        self._training, self._effective = training, self._views(parameters)
        if training is not None and training.weight_noise > 0:
            for p in self.program.parameters:
                if p.penalised:
                    W = self._effective[p.name]
                    self._effective[p.name] = noisy(W, training.weight_noise, *training.noise, p.offset)
        self._deltas = {}
        self._values, self._saved = self._forward(self._effective, dense(X), training)
        return self._values[self.program.output].copy()

    def head_outputs(self) -> list[Array]:
        if self._training is None or not self._training.heads:
            return []
        return [self._values[head.value] for head in self.program.heads]

    def _views(self, parameters: Array) -> dict[str, Array]:
        return {**self.program.views(parameters), **self.program.views(parameters, trained=False)}

    def _forward(
        self, p: dict[str, Array], X: Array, training: TrainingPass | None
    ) -> tuple[dict[int, Array], dict[int, Any]]:
        values, saved = {0: X}, {}
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for op in self._ops(training):
                sources = (values[source] for source in op.sources)
                saved[op.target], values[op.target] = OPS[op.kind][0](op, p, training, *sources)
        return values, saved

    def _ops(self, training: TrainingPass | None) -> list[Op]:
        """The ops of a pass: those of heads only if it includes them."""
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
                found = OPS[op.kind][1](op, self._effective, g, saved, dA, *sources)
                for source, accumulates, delta in zip(op.sources, op.accumulates, found, strict=True):
                    deltas[source] = deltas[source] + delta if accumulates else delta
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
        lr_scales: Mapping[str, float] | None = None,
    ) -> None:
        lr_scales = lr_scales or {}
        trained = [p for p in self.program.parameters if p.trained and lr_scales.get(p.name, 1.0) > 0]
        gradients = reference.clip([gradient[p.block] for p in trained], state.optimizer)
        for p, g in zip(trained, gradients, strict=True):
            rate = learning_rate * lr_scales.get(p.name, 1.0)
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
        data: Data,
        plan: Plan,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return train_in_python(self, parameters, state, data, plan)


def head_losses(
    engine: Engine, Y: Array, weights: Array | None, scale: float = 1.0
) -> tuple[float, list[Array]]:
    """Return the contribution of the heads to the objective of the last forward pass, and their deltas."""
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
    data: Data,
    plan: Plan,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Train step by step in Python: `Engine.train` of the reference, and of any engine with a custom loss."""
    n, X, Y, weights = len(data), data.X, data.Y, data.weights
    order = np.arange(n) if plan.order is None else plan.order
    if plan.shuffle is not None:
        order = permutation(n, *plan.shuffle)
    losses = np.full(len(plan.learning_rates), np.nan)
    counts = np.zeros(len(plan.learning_rates))
    gradient = np.zeros_like(parameters)
    for batch, learning_rate in enumerate(plan.learning_rates.tolist()):
        rows = order[batch * plan.batch_size : (batch + 1) * plan.batch_size]
        w = None if weights is None else weights[rows]
        Z = engine.forward(parameters, take(X, rows), plan.training_pass(batch))
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            loss, D = reference.mean_loss(*reference.row_losses(plan.loss, Y[rows], Z), w, plan.loss_scale)
        head_loss, head_deltas = head_losses(engine, Y[rows], w, plan.loss_scale)
        loss += head_loss
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
        engine.update(parameters, gradient, state, learning_rate, penalty, plan.lr_scales)
    return losses, counts
