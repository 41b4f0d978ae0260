"""PyTorch's losses and optimizers whose counterparts in bpfast compute exactly the same."""

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
    """The counterpart of a PyTorch loss.

    Attributes
    ----------
    make : callable
        Makes the loss from an instance of PyTorch's.
    required : dict
        Required values of the instance's attributes, in addition to reduction="mean".
    link : type, optional
        Module that must be the last one of the module that the loss is used with.
    """

    make: Callable[[Any], Loss]
    required: Mapping[str, Any]
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
    """Read a loss of bpfast or PyTorch; for the latter also return its row of `LOSSES`."""
    if isinstance(loss, type) and issubclass(loss, nn.Module):
        loss = loss()
    if not isinstance(loss, nn.Module):
        return resolve_loss(loss), None
    name, row = type(loss).__name__, LOSSES.get(type(loss))
    if row is None:
        known = ", ".join(kind.__name__ for kind in LOSSES)
        raise ValueError(f"loss {name} has no counterpart in bpfast (of PyTorch's: {known})")
    _require_same(
        f"loss {name}", vars(loss) | dict(loss.named_buffers()), {"reduction": "mean", **row.required}
    )
    return row.make(loss), row


def _require_same(what: str, given: Mapping[str, Any], required: Mapping[str, Any]) -> None:
    for name, value in required.items():
        came = given.get(name)
        if (came is None) != (value is None) or (value is not None and came != value):
            came = "a tensor" if isinstance(came, torch.Tensor) else repr(came)
            raise ValueError(f"{what}: {name} must be {value!r} for bpfast; got {came}")


@dataclass(frozen=True)
class OptimizerRow:
    """The counterpart of a PyTorch optimizer.

    Attributes
    ----------
    make : callable
        Makes the optimizer from a parameter group of PyTorch's.
    required : dict
        Required values of the parameter group.
    """

    make: Callable[[dict[str, Any]], Optimizer]
    required: Mapping[str, Any]


#: PyTorch's weight_decay also decays biases, so that only 0 has a counterpart.
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
    """Read an optimizer of bpfast or PyTorch; the latter must be new and have all trained tensors."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        return resolve_optimizer(optimizer)
    name, row = type(optimizer).__name__, OPTIMIZERS.get(type(optimizer))
    if row is None:
        known = ", ".join(kind.__name__ for kind in OPTIMIZERS)
        raise ValueError(f"optimizer {name} has no counterpart in bpfast (of PyTorch's: {known})")
    if len(optimizer.param_groups) != 1:
        raise ValueError(
            f"optimizer {name} has {len(optimizer.param_groups)} parameter groups; only 1 is supported"
        )
    group = optimizer.param_groups[0]
    if not {id(t) for t in trained} <= {id(t) for t in group["params"]}:
        raise ValueError(f"optimizer {name} does not have all parameters of the module that require grad")
    # Adagrad has a state before its first step; the state of SGD has no step counter.
    if any(float(s.get("step", s.get("momentum_buffer") is not None)) > 0 for s in optimizer.state.values()):
        raise ValueError(f"optimizer {name} has made steps, and its state cannot be used; pass a new one")
    if float(group.get("weight_decay", 0)) != 0:
        raise ValueError(
            f"optimizer {name} has weight_decay {group['weight_decay']}, which also applies to "
            f"biases, unlike that of bpfast; pass weight_decay=0 and penalty=bpfast.L2(...), or "
            f"optimizer=bpfast.AdamW(...)"
        )
    _require_same(f"optimizer {name}", group, {"maximize": False, **row.required})
    return row.make({key: float(v) if isinstance(v, torch.Tensor) else v for key, v in group.items()})
