"""Optimizers, as public API; defined in `bpfast.specs.optimizers`."""

from .specs.optimizers import (
    LBFGS,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Optimizer,
    RMSprop,
    Rprop,
    optimizers,
    resolve_optimizer,
)

__all__ = [
    "LBFGS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Optimizer",
    "RMSprop",
    "Rprop",
    "optimizers",
    "resolve_optimizer",
]
