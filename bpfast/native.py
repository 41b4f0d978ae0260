"""The native engine's face: programs and plans turned into what `_engine` takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _engine
from .engines import Noise, OptimizerState, Plan, train_in_python
from .losses import CustomLoss
from .penalties import Penalty
from .program import Op, Program
from .sparse import CSR, Features

Array = NDArray[Any]


def _row(op: Op) -> tuple[Any, ...]:
    W, b = (-1 if p is None else p.offset for p in (op.W, op.b))
    return (op.kind, op.activation.name, op.parameter, op.source, op.target, W, b)


def _penalty(penalty: Penalty | None) -> tuple[str, float, float] | None:
    return None if penalty is None else (penalty.name, penalty.alpha, penalty.mix)


def _memory(X: Features) -> Any:
    """What `_engine` reads X from."""
    return (X.indptr, X.indices, X.data) if isinstance(X, CSR) else X


#: Rows of a sparse X that are made dense together where an op wants them so.
BLOCK = 1024


class NativeEngine:
    """Runs a program with the native kernels, the GIL released."""

    def __init__(self, program: Program, dtype: np.dtype[Any], threads: int) -> None:
        self.program = program
        self.dtype = dtype
        self.threads = threads
        #: Where the timers of `train` go, (threads, 3 n_ops + 3), while somebody wants them.
        self.timers: Array | None = None
        ops = [_row(op) for op in program.ops]
        self.core = _engine.Core(ops, list(program.widths), program.size, dtype, threads)
        self.predict = self.core.predict
        # Dense ops read sparse rows as they are.
        self.reads_sparse = all(op.kind == "dense" for op in program.ops if op.source == 0)
        self._order = np.empty(0, np.int64)

    def outputs(self, parameters: Array, X: Features) -> Array:
        if isinstance(X, CSR) and not self.reads_sparse:
            return np.concatenate([self.outputs(parameters, block.toarray()) for block in X.blocks(BLOCK)])
        Z = np.empty((len(X), self.program.n_outputs), self.dtype)
        self.core.outputs(parameters, _memory(X), Z, len(X))
        return Z

    def forward(self, parameters: Array, X: Features, noise: Noise | None = None) -> Array:
        if isinstance(X, CSR):
            # `backward` reads it again, when the caller may have changed what is his.
            X = CSR(X.indptr, X.indices, X.data.copy(), X.shape) if self.reads_sparse else X.toarray()
        Z = np.empty((len(X), self.program.n_outputs), self.dtype)
        self.core.forward(parameters, _memory(X), Z, len(X), noise)
        return Z

    def backward(self, parameters: Array, D: Array, gradient: Array, dX: Array | None = None) -> None:
        self.core.backward(parameters, D, gradient, dX, len(D))

    def update(
        self,
        parameters: Array,
        gradient: Array,
        state: OptimizerState,
        learning_rate: float,
        penalty: Penalty | None,
    ) -> None:
        rule = state.optimizer
        self.core.update(
            parameters,
            gradient,
            state.arrays,
            rule.rule,
            rule.hyperparameters,
            _penalty(penalty),
            learning_rate,
            state.steps,
        )
        state.steps += 1

    def train(
        self,
        parameters: Array,
        state: OptimizerState,
        X: Features,
        Y: Array,
        weights: Array | None,
        plan: Plan,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if isinstance(plan.loss, CustomLoss):
            return train_in_python(self, parameters, state, X, Y, weights, plan)
        order = plan.order
        if plan.shuffle is not None:
            if len(self._order) != len(X):
                self._order = np.empty(len(X), np.int64)
            order = self._order
        losses = np.full(len(plan.learning_rates), np.nan)
        counts = np.zeros(len(plan.learning_rates))
        steps, interrupt = self.core.train(
            parameters,
            _memory(X),
            None if Y.ndim == 1 else Y,
            Y if Y.ndim == 1 else None,
            weights,
            len(X),
            plan.batch_size,
            order,
            plan.shuffle,
            plan.loss.name,
            plan.loss.parameter,
            plan.loss_scale,
            state.arrays,
            state.optimizer.rule,
            state.optimizer.hyperparameters,
            _penalty(plan.penalty),
            plan.alphas,
            plan.objective,
            plan.learning_rates,
            state.steps,
            losses,
            counts,
            self.timers,
            plan.noise,
        )
        state.steps += steps
        if interrupt is not None:
            raise interrupt
        return losses, counts
