"""Conversion of networks from and to PyTorch, and training of PyTorch modules in bpfast."""

try:
    import torch as _torch  # noqa: F401
except ImportError:
    raise ImportError('bpfast.interop.torch needs PyTorch: pip install "bpfast[torch]"') from None

from .modules import Exp, Residual
from .read_module import from_torch
from .train import train_torch
from .write_module import to_torch

__all__ = [
    "Exp",
    "Residual",
    "from_torch",
    "to_torch",
    "train_torch",
]
