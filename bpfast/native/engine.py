"""The engine that runs a program with the compiled kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array
from ..arrays.sparse import CSR, Features
from ..engine.interface import Data, OptimizerState, Plan, TrainingPass
from ..engine.program import Head, Op, Program
from ..reference.engine import train_in_python
from ..specs.losses import CustomLoss
from ..specs.penalties import Penalty
from . import _core

#: Rows of a sparse X that are converted to dense rows together, if an op reads them so.
DENSE_BLOCK = 1024


def _op_row(op: Op) -> tuple[Any, ...]:
    """The op as `_core.Core` takes it."""
    parameters = (op.W, op.b, *(op.statistics or (None, None)))
    offsets = tuple(-1 if p is None else p.offset for p in parameters)
    names = tuple("" if p is None else p.name for p in (op.W, op.b))
    return (
        op.kind,
        op.activation.name,
        op.numbers,
        op.sources,
        op.target,
        offsets,
        names,
        op.head,
        op.accumulates,
    )


def _head_row(head: Head) -> tuple[Any, ...]:
    """The head as `_core.Core` takes it."""
    assert head.loss is not None
    return (head.value, head.loss.name, head.loss.parameter, head.weight)


class NativeEngine:
    """Run a program with the native kernels, with the GIL released.

    Parameters
    ----------
    program : Program
    dtype : numpy.dtype
        float32 or float64.
    threads : int
        Maximum number of threads.
    """

    row_block = 1

    def __init__(self, program: Program, dtype: np.dtype[Any], threads: int) -> None:
        self.program = program
        self.dtype = dtype
        self.threads = threads
        #: Timers of `train`, (threads, 3 n_ops + 3), or None: see `bpfast.training.profile`.
        self.timers: Array | None = None
        ops = [_op_row(op) for op in program.ops]
        heads = [_head_row(head) for head in program.heads]
        self.core = _core.Core(ops, heads, program.output, list(program.widths), program.size, dtype, threads)
        self.predict = self.core.predict
        # Dense ops read sparse rows in place.
        self.reads_sparse = all(op.kind == "dense" for op in program.ops if 0 in op.sources)
        #: The rows of the last forward pass, and whether it included the heads.
        self._taped: tuple[int, bool] | None = None
        self._backward_done = False

    def outputs(self, parameters: Array, X: Features) -> Array:
        if isinstance(X, CSR) and not self.reads_sparse:
            blocks = X.blocks(DENSE_BLOCK)
            return np.concatenate([self.outputs(parameters, block.toarray()) for block in blocks])
        Z = np.empty((len(X), self.program.n_outputs), self.dtype)
        self.core.outputs(parameters, X, Z, len(X))
        return Z

    def forward(self, parameters: Array, X: Features, training: TrainingPass | None = None) -> Array:
        if isinstance(X, CSR):
            # A copy, since `backward` reads it again, and the caller may have changed it by then.
            X = CSR(X.indptr, X.indices, X.data.copy(), X.shape) if self.reads_sparse else X.toarray()
        Z = np.empty((len(X), self.program.n_outputs), self.dtype)
        self._taped = None
        self.core.forward(parameters, X, Z, len(X), training)
        self._taped, self._backward_done = (len(X), training is not None and training.heads), False
        return Z

    def head_outputs(self) -> list[Array]:
        if self._taped is None or not self._taped[1]:
            return []
        return [self._value(head.value)[0] for head in self.program.heads]

    def _value(self, value: int, delta: bool = False) -> tuple[Array, Array]:
        """Copy a value of the last pass, and its delta."""
        assert self._taped is not None
        A, D = (np.zeros((self._taped[0], self.program.widths[value]), self.dtype) for _ in "AD")
        self.core.value(value, A, D if delta else None)
        return A, D

    def values(self) -> list[tuple[Array, Array]]:
        if self._taped is None or not self._backward_done:
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
        self._backward_done = True

    def update(
        self,
        parameters: Array,
        gradient: Array,
        state: OptimizerState,
        learning_rate: float,
        penalty: Penalty | None,
        lr_scales: Mapping[str, float] | None = None,
    ) -> None:
        self.core.update(parameters, gradient, state, learning_rate, penalty, lr_scales)

    def train(
        self,
        parameters: Array,
        state: OptimizerState,
        data: Data,
        plan: Plan,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if isinstance(plan.loss, CustomLoss):
            return train_in_python(self, parameters, state, data, plan)
        self._taped = None
        return self.core.train(parameters, state, data, plan, self.timers)
