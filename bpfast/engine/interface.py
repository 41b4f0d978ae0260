"""The interface of an engine, which runs a program, and the objects that it exchanges with its callers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array
from ..arrays.aligned import aligned
from ..arrays.rows import rows_of
from ..arrays.sparse import Features
from ..specs.losses import Loss
from ..specs.optimizers import Optimizer
from ..specs.penalties import Penalty
from ..specs.record import Record, record
from ..specs.schedules import Clock
from .program import Op, Program

#: Source of random draws: the seed of the network, and the number of steps made before.
Noise = tuple[int, int]


@record
class TrainingPass(Record):
    """How a forward pass in training differs from one in prediction.

    Attributes
    ----------
    noise : (seed, step)
        Source of the draws of random ops.
    momentum : float or None, default None
        Momentum of running statistics, in place of each op's own: 0 keeps them, 1 replaces them by those of
        the batch.
    heads : bool, default False
        Whether the pass includes the auxiliary heads.
    weight_noise : float, default 0.0
        Standard deviation of the noise that is added to the penalised weights.
    lr_scales : dict
        As in a `Plan`. A batch normalisation whose parameters are both scaled by 0 uses its running
        statistics and keeps them.
    """

    noise: Noise
    momentum: float | None = None
    heads: bool = False
    weight_noise: float = 0.0
    lr_scales: Mapping[str, float] = field(default_factory=dict)

    def fixed(self, op: Op) -> bool:
        """Whether an op uses its running statistics, and keeps them."""
        return all(p is not None and self.lr_scales.get(p.name) == 0 for p in (op.W, op.b))


@dataclass(eq=False)
class OptimizerState:
    """The state of an optimizer between steps, for one network.

    Attributes
    ----------
    optimizer : Optimizer
        The optimizer that was used last.
    arrays : array (n_states, size)
        The state of its rule, in the layout of the flat parameters.
    steps : int, default 0
        Number of steps made.
    clock : Clock
        Time of the learning-rate schedule.
    """

    optimizer: Optimizer
    arrays: Array
    steps: int = 0
    clock: Clock = field(default_factory=Clock)

    @classmethod
    def initial(cls, optimizer: Optimizer, size: int, dtype: np.dtype[Any]) -> OptimizerState:
        """Return the state before the first step."""
        arrays = aligned((len(optimizer.state), size), dtype)
        for row, value in zip(arrays, optimizer.state.values(), strict=True):
            row[...] = value
        return cls(optimizer, arrays)


@record
class Data(Record):
    """Validated training rows.

    Attributes
    ----------
    X : array (B, I) or CSR
        Inputs.
    Y : array
        Targets: int64 classes (B,), or an array (B, O) of the network's dtype.
    weights : float64 array (B,) or None, default None
        Weights of the rows; None for equal weights.
    """

    X: Features
    Y: Array
    weights: Array | None = None

    def __len__(self) -> int:
        return len(self.X)


@record
class Plan(Record):
    """The plan of an epoch, which an engine reads as a whole.

    Attributes
    ----------
    loss : Loss
        Loss of the network.
    batch_size : int
        Rows of a batch; the last batch may have fewer.
    learning_rates : float64 array (n_batches,)
        Learning rate of each batch.
    penalty : Penalty or None
        Penalty of the weights.
    shuffle : (seed, epoch) or None
        Source of the random order of the rows; with None the order is `order`, or that of the data.
    noise : (seed, step)
        Source of the random draws of the first batch; later batches use the following steps.
    order : int64 array or None, default None
        Row numbers to train on, in this order. Not used with `shuffle`.
    loss_scale : float, default 1.0
        Multiplier of the mean loss.
    alphas : float64 array (n_batches,) or None, default None
        Strength of the penalty in each batch, in place of its own.
    objective : bool, default False
        Whether the losses of the batches include the penalty of the weights before the step.
    weight_noise : float, default 0.0
        Standard deviation of the noise that is added to the penalised weights in the passes of each step.
    lr_scales : dict
        Multipliers of the learning rate, by name of parameter; 1 for all others. A parameter scaled by 0 is
        frozen.
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
    lr_scales: Mapping[str, float] = field(default_factory=dict)

    def training_pass(self, batch: int) -> TrainingPass:
        """Return how the forward pass of a batch differs from prediction."""
        seed, step = self.noise
        return TrainingPass((seed, step + batch), None, True, self.weight_noise, self.lr_scales)

    def penalty_of(self, batch: int) -> Penalty | None:
        """Return the penalty of a batch."""
        if self.penalty is None or self.alphas is None:
            return self.penalty
        return replace(self.penalty, alpha=float(self.alphas[batch]))


class Engine(Protocol):
    """Run a program on a flat vector of parameters. Arguments have been validated.

    X is an array or `CSR` rows, which become dense one batch at a time, or not at all.
    """

    program: Program
    dtype: np.dtype[Any]
    #: `outputs` of blocks with a multiple of this many rows are identical to those of all rows at once.
    row_block: int

    @property
    def predict(self) -> Callable[[Array, Any, str], Array | None]:
        """(parameters, X, link) → the link of the outputs, or None if X must be validated first."""

    def outputs(self, parameters: Array, X: Features) -> Array:
        """Return Z, the raw outputs (B, O) of X (B, I), computed in blocks of rows; nothing is kept."""

    def forward(self, parameters: Array, X: Features, training: TrainingPass | None = None) -> Array:
        """Return Z, and keep every value for `backward`.

        With `training`, random ops draw, and the running statistics among the parameters are updated.
        """

    def head_outputs(self) -> list[Array]:
        """Return the raw outputs of the heads in the last `forward`, if it included them."""

    def backward(
        self,
        parameters: Array,
        D: Array,
        gradient: Array,
        dX: Array | None = None,
        heads: Sequence[Array] = (),
    ) -> None:
        """Fill the flat gradient, and dX = ∂L/∂X (B, I) unless None, from D = ∂L/∂Z (B, O).

        Both are those of the last `forward`; `heads` are the deltas of its heads.
        """

    def values(self) -> list[tuple[Array, Array]]:
        """Return copies of (A, dA) of every op in the last `forward` and `backward`.

        For a dense op, dA is ∂L/∂Z instead of ∂L/∂A.
        """

    def update(
        self,
        parameters: Array,
        gradient: Array,
        state: OptimizerState,
        learning_rate: float,
        penalty: Penalty | None,
        lr_scales: Mapping[str, float] | None = None,
    ) -> None:
        """Make one step of the optimizer with a flat gradient, in place; `lr_scales` as in a `Plan`."""

    def train(
        self,
        parameters: Array,
        state: OptimizerState,
        data: Data,
        plan: Plan,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Train for one epoch, in place; return the loss and the weight of each batch.

        Training stops after a batch whose loss is not finite; later batches have a loss of NaN.
        """


def outputs(engine: Engine, parameters: Array, X: Features) -> Array:
    """Return the raw outputs Z (B, O) in prediction; a large mapped file is read in blocks."""
    parts = [engine.outputs(parameters, block) for block in rows_of(X).blocks(engine.row_block)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
