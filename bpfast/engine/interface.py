"""The engines: what runs a program. Two of them, one interface: NumPy here, native in `_engine`."""

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
from ..specs.schedules import Clock
from .program import Op, Program

#: What the random ops draw from: the network's seed, and how many steps were made before.
Noise = tuple[int, int]


@dataclass(frozen=True)
class TrainingPass:
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
    lr_scales : dict
        As in a `Plan`. What normalises a batch takes its running statistics where both its parameters
        are at 0, and they stay.
    """

    noise: Noise
    momentum: float | None = None
    heads: bool = False
    weight_noise: float = 0.0
    lr_scales: Mapping[str, float] = field(default_factory=dict)

    def fixed(self, op: Op) -> bool:
        """Whether an op's running statistics stay and are taken."""
        return all(p is not None and self.lr_scales.get(p.name) == 0 for p in (op.W, op.b))


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


@dataclass(frozen=True, eq=False)
class Data:
    """Checked rows to train on.

    Attributes
    ----------
    X : array (B, I) or CSR
    Y : array
        Targets: int64 classes (B,), or an array (B, O) of the network's dtype.
    weights : float64 array (B,) or None
        Weights of the rows.
    """

    X: Features
    Y: Array
    weights: Array | None = None

    def __len__(self) -> int:
        return len(self.X)


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
    lr_scales : dict
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
    lr_scales: Mapping[str, float] = field(default_factory=dict)

    def training_pass(self, batch: int) -> TrainingPass:
        """How a batch's forward pass is made."""
        seed, step = self.noise
        return TrainingPass((seed, step + batch), None, True, self.weight_noise, self.lr_scales)

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
    #: `outputs` of blocks of a multiple of so many rows are those of all rows at once.
    row_block: int

    @property
    def predict(self) -> Callable[[Array, Any, str], Array | None]:
        """(parameters, X, link) → what the link makes of the outputs; None if X is to be checked first."""

    def outputs(self, parameters: Array, X: Features) -> Array:
        """Z, the raw outputs (B, O) of X (B, I), in blocks of rows: nothing is kept."""

    def forward(self, parameters: Array, X: Features, training: TrainingPass | None = None) -> Array:
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
        lr_scales: Mapping[str, float] | None = None,
    ) -> None:
        """One step of the optimizer with a flat gradient, in place; `lr_scales` as in a `Plan`."""

    def train(
        self,
        parameters: Array,
        state: OptimizerState,
        data: Data,
        plan: Plan,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """One epoch, in place: the loss and the weight of each batch.

        Stops after a batch whose loss is not finite; the batches behind it keep a loss of NaN.
        """


def outputs(engine: Engine, parameters: Array, X: Features) -> Array:
    """Return the raw outputs Z (B, O) in prediction; a large mapped file is read in blocks."""
    parts = [engine.outputs(parameters, block) for block in rows_of(X).blocks(engine.row_block)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
