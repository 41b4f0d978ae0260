"""Networks to and from PyTorch."""

from .convert import Exp, Residual, from_torch, to_torch, train_torch

__all__ = [
    "Exp",
    "Residual",
    "from_torch",
    "to_torch",
    "train_torch",
]
