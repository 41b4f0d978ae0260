"""Modules that PyTorch does not have, and where the arrays of a layer are stored in its modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from ...arrays import Array
from ..common import Slot


class Residual(nn.Module):  # type: ignore[misc]
    """A = X + F(X), or F(X) + skip(X): the counterpart of `bpfast.Residual`.

    Parameters
    ----------
    body : nn.Sequential
        F.
    skip : nn.Linear, optional
        The projection P, without a bias, where F(X) and X have different numbers of columns.
    """

    __module__ = "bpfast.interop.torch"  # the public path, which pickles store

    def __init__(self, body: Any, skip: Any = None) -> None:
        super().__init__()
        self.body = body
        self.skip = nn.Identity() if skip is None else skip

    def forward(self, x: Any) -> Any:
        """Return body(x) + skip(x)."""
        return self.body(x) + self.skip(x)


class Exp(nn.Module):  # type: ignore[misc]
    """A = exp(Z), the link of the poisson loss."""

    __module__ = "bpfast.interop.torch"

    def forward(self, z: Any) -> Any:
        """Return exp(z)."""
        return torch.exp(z)


#: Module that a loss applies itself → name of the link.
LINKS: dict[type, str] = {nn.Softmax: "softmax", nn.LogSoftmax: "softmax", nn.Sigmoid: "sigmoid", Exp: "exp"}


def _put(tensor: Any, values: Array) -> None:
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(np.array(values.T)))


def slot(name: str, tensor: Any) -> Slot:
    """Make a slot for a tensor, whose axes are those of bpfast reversed."""
    if tensor is None:
        return Slot(name, trained=False)
    return Slot(name, bool(tensor.requires_grad), tensor, tensor.detach().numpy().T, _put)


def linear_slots(m: Any) -> list[Slot]:
    """Slots of a Linear."""
    return [slot("W", m.weight), *([] if m.bias is None else [slot("b", m.bias)])]


def norm_slots(m: Any) -> list[Slot]:
    """Slots of a LayerNorm, and the trained ones of a BatchNorm1d."""
    return [slot("gamma", m.weight), slot("beta", m.bias)]


def batch_norm_slots(m: Any) -> list[Slot]:
    """Slots of a BatchNorm1d."""
    return [*norm_slots(m), slot("mean", m.running_mean), slot("variance", m.running_var)]
