"""Losses, as public API; defined in `bpfast.specs.losses`."""

from .specs.losses import (
    LINKS,
    AbsoluteError,
    CrossEntropy,
    CustomLoss,
    Exponential,
    Hinge,
    Huber,
    LogLoss,
    Loss,
    Poisson,
    Quantile,
    SquaredError,
    link_of,
    losses,
    resolve_loss,
)

__all__ = [
    "LINKS",
    "AbsoluteError",
    "CrossEntropy",
    "CustomLoss",
    "Exponential",
    "Hinge",
    "Huber",
    "LogLoss",
    "Loss",
    "Poisson",
    "Quantile",
    "SquaredError",
    "link_of",
    "losses",
    "resolve_loss",
]
