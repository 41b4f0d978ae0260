"""Schedules, as public API; defined in `bpfast.specs.schedules`."""

from .specs.schedules import (
    Constant,
    Cosine,
    ExponentialDecay,
    InverseTime,
    ReduceOnPlateau,
    Schedule,
    StepDecay,
    WarmUp,
    resolve_rate,
    schedules,
)

__all__ = [
    "Constant",
    "Cosine",
    "ExponentialDecay",
    "InverseTime",
    "ReduceOnPlateau",
    "Schedule",
    "StepDecay",
    "WarmUp",
    "resolve_rate",
    "schedules",
]
