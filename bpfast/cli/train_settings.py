"""How `train` trains: the options of the command line, with their defaults filled in."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from typing import Any

from ..data.tables import UserError
from ..specs.layers import Dense
from ..specs.optimizers import Optimizer, optimizers
from ..specs.penalties import Penalty, penalties

#: The default number of epochs gives about this many steps, within these limits.
STEPS, MIN_EPOCHS, MAX_EPOCHS = 20_000, 20, 200


@dataclass(frozen=True)
class TrainingSettings:
    """Network and training, independent of the data.

    Attributes
    ----------
    hidden : tuple of int
        Widths of the hidden layers.
    activation : str
        Activation of the hidden layers.
    optimizer : Optimizer
    penalty : Penalty or None
    batch_size : int or None
        Rows per step; None for all rows.
    epochs : int or None
        Number of epochs; None to choose it by the number of rows.
    patience : int or None
        Patience of early stopping; None for none.
    """

    hidden: tuple[int, ...]
    activation: str
    optimizer: Optimizer
    penalty: Penalty | None
    batch_size: int | None
    epochs: int | None
    patience: int | None

    @property
    def summary(self) -> str:
        """The settings in one line."""
        steps = "full batches" if self.batch_size is None else f"batches of {self.batch_size}"
        parts = [self.activation, f"{self.optimizer.name} {self.optimizer.schedule.rate(0.0):g}", steps]
        if self.penalty is not None:
            parts.insert(2, f"{self.penalty.name} {self.penalty.alpha:g}")
        return ", ".join(parts)

    def layers(self, n_outputs: int) -> list[Dense]:
        """The hidden layers and the output layer."""
        return [*(Dense(units, self.activation) for units in self.hidden), Dense(n_outputs)]

    def epochs_for(self, n_rows: int) -> int:
        """The number of epochs asked for, or a default that depends on the number of training rows."""
        if self.epochs is not None:
            return self.epochs
        steps = -(-n_rows // (self.batch_size or n_rows))
        return max(MIN_EPOCHS, min(MAX_EPOCHS, round(STEPS / steps)))


def resolve_settings(options: Namespace) -> TrainingSettings:
    """Fill in the defaults, which without a file are those of the classic network for the digits.

    Raises
    ------
    UserError, ValueError, TypeError
        If an option is invalid, or two options contradict each other.
    """
    classic = options.file is None
    hidden = options.hidden if options.hidden is not None else ((64,) if classic else (128, 64))
    activation = options.activation or ("sigmoid" if classic else "relu")
    for units in hidden:
        Dense(units, activation)
    optimizer = _optimizer(options, classic)
    penalty = _penalty(options)
    for name in ("patience", "predictions"):
        if getattr(options, name) and options.validation == 0:
            raise UserError(f"--{name} needs held-out rows, but --validation is 0")
    batch_size = options.batch_size
    if batch_size is None and not optimizer.full_batch:
        batch_size = 32
    epochs = 50 if classic and options.epochs is None else options.epochs
    return TrainingSettings(hidden, activation, optimizer, penalty, batch_size, epochs, options.patience)


def _optimizer(options: Namespace, classic: bool) -> Optimizer:
    name = options.optimizer or ("sgd" if classic else "adam")
    parameters: dict[str, Any] = {}
    if classic and options.optimizer is None:
        parameters = {"learning_rate": 0.1, "momentum": 0.9}
    if options.learning_rate is not None:
        parameters["learning_rate"] = options.learning_rate
    if options.momentum is not None:
        if optimizers[name].name != "sgd":
            raise UserError(f"--momentum applies only to the optimizer sgd; got --optimizer {name}")
        parameters["momentum"] = options.momentum
    return optimizers[name](**parameters)


def _penalty(options: Namespace) -> Penalty | None:
    if options.penalty is None:
        if options.alpha is not None:
            raise UserError("--alpha needs a --penalty, such as --penalty l2")
        return None
    return penalties[options.penalty](1e-4 if options.alpha is None else options.alpha)
