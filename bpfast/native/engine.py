"""The native engine's face: programs and plans turned into what `_engine` takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array
from ..arrays.sparse import CSR, Features
from ..engine.interface import Data, OptimizerState, Plan, TrainingPass
from ..engine.program import Op, Program
from ..reference.engine import train_in_python
from ..specs.losses import CustomLoss, Loss
from ..specs.optimizers import Optimizer
from ..specs.penalties import Penalty
from . import _engine


def _row(op: Op) -> tuple[Any, ...]:
    offsets = tuple(-1 if p is None else p.offset for p in (op.W, op.b, *(op.statistics or (None, None))))
    return (op.kind, op.activation.name, op.numbers, op.sources, op.target, offsets, op.head, op.accumulates)


def _training(training: TrainingPass | None, program: Program) -> tuple[Any, ...] | None:
    if training is None:
        return None
    fixed = tuple(op.statistics is not None and training.fixed(op) for op in program.ops)
    return (*training.noise, training.momentum, training.heads, training.weight_noise, fixed)


def _clip(optimizer: Optimizer) -> tuple[float, float]:
    value, norm = (math.inf if c is None else c for c in (optimizer.clip_value, optimizer.clip_norm))
    return value, norm


def _loss(loss: Loss | None) -> tuple[str, float]:
    assert loss is not None
    return loss.name, loss.parameter


def _penalty(penalty: Penalty | None) -> tuple[str, float, float] | None:
    return None if penalty is None else (penalty.name, penalty.alpha, penalty.mix)


def _memory(X: Features) -> Any:
    """What `_engine` reads X from."""
    return (X.indptr, X.indices, X.data) if isinstance(X, CSR) else X


#: Rows of a sparse X that are made dense together where an op wants them so.
BLOCK = 1024


class NativeEngine:
    """Runs a program with the native kernels, the GIL released."""

    row_block = 1

    def __init__(self, program: Program, dtype: np.dtype[Any], threads: int) -> None:
        self.program = program
        self.dtype = dtype
        self.threads = threads
        #: Where the timers of `train` go, (threads, 3 n_ops + 3), while somebody wants them.
        self.timers: Array | None = None
        ops = [_row(op) for op in program.ops]
        heads = [(head.value, *_loss(head.loss), head.weight) for head in program.heads]
        self.core = _engine.Core(
            ops, heads, program.output, list(program.widths), program.size, dtype, threads
        )
        self.predict = self.core.predict
        # Dense ops read sparse rows as they are.
        self.reads_sparse = all(op.kind == "dense" for op in program.ops if 0 in op.sources)
        self._order = np.empty(0, np.int64)
        #: The rows of the last forward pass, and whether the heads were there.
        self._taped: tuple[int, bool] | None = None
        self._backed = False

    def outputs(self, parameters: Array, X: Features) -> Array:
        if isinstance(X, CSR) and not self.reads_sparse:
            return np.concatenate([self.outputs(parameters, block.toarray()) for block in X.blocks(BLOCK)])
        Z = np.empty((len(X), self.program.n_outputs), self.dtype)
        self.core.outputs(parameters, _memory(X), Z, len(X))
        return Z

    def forward(self, parameters: Array, X: Features, training: TrainingPass | None = None) -> Array:
        if isinstance(X, CSR):
            # `backward` reads it again, when the caller may have changed what is his.
            X = CSR(X.indptr, X.indices, X.data.copy(), X.shape) if self.reads_sparse else X.toarray()
        Z = np.empty((len(X), self.program.n_outputs), self.dtype)
        self._taped = None
        self.core.forward(parameters, _memory(X), Z, len(X), _training(training, self.program))
        self._taped, self._backed = (len(X), training is not None and training.heads), False
        return Z

    def head_outputs(self) -> list[Array]:
        if self._taped is None or not self._taped[1]:
            return []
        return [self._value(head.value)[0] for head in self.program.heads]

    def _value(self, value: int, delta: bool = False) -> tuple[Array, Array]:
        """A value of the last pass, and its delta."""
        assert self._taped is not None
        A, D = (np.zeros((self._taped[0], self.program.widths[value]), self.dtype) for _ in "AD")
        self.core.value(value, A, D if delta else None)
        return A, D

    def values(self) -> list[tuple[Array, Array]]:
        if self._taped is None or not self._backed:
            raise RuntimeError("values needs a forward and a backward pass before it")
        heads = self._taped[1]
        return [self._value(op.target, True) for op in self.program.ops if heads or not op.head]

    def backward(
        self,
        parameters: Array,
        D: Array,
        gradient: Array,
        dX: Array | None = None,
        heads: Sequence[Array] = (),
    ) -> None:
        self.core.backward(parameters, D, gradient, dX, len(D), tuple(heads))
        self._backed = True

    def _lr_scales(self, lr_scales: Mapping[str, float] | None) -> tuple[tuple[float, float], ...]:
        """The multipliers of the learning rate of each op's W and b; none where all are 1."""
        if not lr_scales:
            return ()
        names = (("" if p is None else p.name for p in (op.W, op.b)) for op in self.program.ops)
        return tuple((lr_scales.get(W, 1.0), lr_scales.get(b, 1.0)) for W, b in names)

    def update(
        self,
        parameters: Array,
        gradient: Array,
        state: OptimizerState,
        learning_rate: float,
        penalty: Penalty | None,
        lr_scales: Mapping[str, float] | None = None,
    ) -> None:
        rule = state.optimizer
        self.core.update(
            parameters,
            gradient,
            state.arrays,
            rule.rule,
            rule.hyperparameters,
            _clip(rule),
            _penalty(penalty),
            learning_rate,
            state.steps,
            self._lr_scales(lr_scales),
        )
        state.steps += 1

    def train(
        self,
        parameters: Array,
        state: OptimizerState,
        data: Data,
        plan: Plan,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if isinstance(plan.loss, CustomLoss):
            return train_in_python(self, parameters, state, data, plan)
        X, Y, weights = data.X, data.Y, data.weights
        order = plan.order
        if plan.shuffle is not None:
            if len(self._order) != len(X):
                self._order = np.empty(len(X), np.int64)
            order = self._order
        losses = np.full(len(plan.learning_rates), np.nan)
        counts = np.zeros(len(plan.learning_rates))
        self._taped = None
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
            _clip(state.optimizer),
            _penalty(plan.penalty),
            plan.alphas,
            plan.objective,
            plan.learning_rates,
            state.steps,
            losses,
            counts,
            self.timers,
            _training(plan.training_pass(0), self.program),
            self._lr_scales(plan.lr_scales),
        )
        state.steps += steps
        if interrupt is not None:
            raise interrupt
        return losses, counts
