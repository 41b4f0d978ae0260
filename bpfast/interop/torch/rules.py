"""PyTorch's losses and optimizers as bpfast's: those that mean exactly the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...specs.losses import (
    AbsoluteError,
    CrossEntropy,
    Huber,
    LogLoss,
    Loss,
    Poisson,
    SquaredError,
    resolve_loss,
)
from ...specs.optimizers import LBFGS, SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop, Rprop, resolve_optimizer


@dataclass(frozen=True)
class LossRow:
    """One of PyTorch's losses.

    Attributes
    ----------
    make : callable
        Its instance to a loss.
    wanted : dict
        The only values of its attributes that mean the same here, beside reduction="mean".
    link : type, optional
        The module that must end what it is used with.
    """

    make: Callable[[Any], Loss]
    wanted: Mapping[str, Any]
    link: type | None = None


LOSSES: dict[type, LossRow] = {
    nn.MSELoss: LossRow(lambda m: SquaredError(), {}),
    nn.L1Loss: LossRow(lambda m: AbsoluteError(), {}),
    nn.HuberLoss: LossRow(lambda m: Huber(m.delta), {}),
    nn.SmoothL1Loss: LossRow(lambda m: Huber(), {"beta": 1.0}),
    nn.CrossEntropyLoss: LossRow(
        lambda m: CrossEntropy(), {"weight": None, "ignore_index": -100, "label_smoothing": 0.0}
    ),
    nn.NLLLoss: LossRow(lambda m: CrossEntropy(), {"weight": None, "ignore_index": -100}, nn.LogSoftmax),
    nn.BCEWithLogitsLoss: LossRow(lambda m: LogLoss(), {"weight": None, "pos_weight": None}),
    nn.BCELoss: LossRow(lambda m: LogLoss(), {"weight": None}, nn.Sigmoid),
    nn.PoissonNLLLoss: LossRow(lambda m: Poisson(), {"log_input": True, "full": False}),
}


def read_loss(loss: Any) -> tuple[Loss, LossRow | None]:
    """A loss of either library as bpfast's; with its row where it is PyTorch's."""
    if isinstance(loss, type) and issubclass(loss, nn.Module):
        loss = loss()
    if not isinstance(loss, nn.Module):
        return resolve_loss(loss), None
    name, row = type(loss).__name__, LOSSES.get(type(loss))
    if row is None:
        known = ", ".join(kind.__name__ for kind in LOSSES)
        raise ValueError(f"loss {name} has no counterpart in bpfast (of PyTorch's: {known})")
    _require_same(
        f"loss {name}", vars(loss) | dict(loss.named_buffers()), {"reduction": "mean", **row.wanted}
    )
    return row.make(loss), row


def _require_same(what: str, given: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        came = given.get(name)
        if (came is None) != (value is None) or (value is not None and came != value):
            came = "a tensor" if isinstance(came, torch.Tensor) else repr(came)
            raise ValueError(f"{what}: {name} must be {value!r} for bpfast; got {came}")


@dataclass(frozen=True)
class OptimizerRow:
    """One of PyTorch's optimizers: its parameter group to bpfast's, and the values that it must have."""

    make: Callable[[dict[str, Any]], Optimizer]
    wanted: Mapping[str, Any]


#: PyTorch's weight_decay decays biases too, so that 0 alone means the same.
OPTIMIZERS: dict[type, OptimizerRow] = {
    torch.optim.SGD: OptimizerRow(
        lambda g: SGD(g["lr"], g["momentum"], g["nesterov"]), {"weight_decay": 0, "dampening": 0}
    ),
    torch.optim.Adam: OptimizerRow(
        lambda g: Adam(g["lr"], g["betas"][0], g["betas"][1], g["eps"]), {"weight_decay": 0, "amsgrad": False}
    ),
    torch.optim.AdamW: OptimizerRow(
        lambda g: AdamW(g["lr"], g["betas"][0], g["betas"][1], g["eps"], 0.0),
        {"weight_decay": 0, "amsgrad": False},
    ),
    torch.optim.RMSprop: OptimizerRow(
        lambda g: RMSprop(g["lr"], g["alpha"], g["eps"]),
        {"weight_decay": 0, "momentum": 0, "centered": False},
    ),
    torch.optim.Adagrad: OptimizerRow(
        lambda g: Adagrad(g["lr"], g["eps"]),
        {"weight_decay": 0, "lr_decay": 0, "initial_accumulator_value": 0},
    ),
    torch.optim.Rprop: OptimizerRow(lambda g: Rprop(g["lr"], *g["etas"], *g["step_sizes"]), {}),
}


def read_optimizer(optimizer: Any, trained: list[Any]) -> Optimizer | LBFGS:
    """An optimizer of either library as bpfast's; PyTorch's must be new, and of these tensors."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        return resolve_optimizer(optimizer)
    name, row = type(optimizer).__name__, OPTIMIZERS.get(type(optimizer))
    if row is None:
        known = ", ".join(kind.__name__ for kind in OPTIMIZERS)
        raise ValueError(f"optimizer {name} has no counterpart that is read (of PyTorch's: {known})")
    if len(optimizer.param_groups) != 1:
        raise ValueError(f"optimizer {name} has {len(optimizer.param_groups)} parameter groups; 1 is wanted")
    group = optimizer.param_groups[0]
    if not {id(t) for t in trained} <= {id(t) for t in group["params"]}:
        raise ValueError(f"optimizer {name} does not have all parameters of the module that require grad")
    # Adagrad has a state before its first step; that of SGD has no number of steps.
    if any(float(s.get("step", s.get("momentum_buffer") is not None)) > 0 for s in optimizer.state.values()):
        raise ValueError(f"optimizer {name} has made steps, and its state is not taken; pass a new one")
    if float(group.get("weight_decay", 0)) != 0:
        raise ValueError(
            f"optimizer {name} has weight_decay {group['weight_decay']}, which shrinks biases too, as bpfast "
            f"does not; pass weight_decay=0 with penalty=bpfast.L2(...), or optimizer=bpfast.AdamW(...)"
        )
    _require_same(f"optimizer {name}", group, {"maximize": False, **row.wanted})
    return row.make({key: float(v) if isinstance(v, torch.Tensor) else v for key, v in group.items()})
