"""Initializers, as public API; defined in `bpfast.specs.initializers`."""

from .specs.initializers import (
    Constant,
    HeNormal,
    HeUniform,
    Initializer,
    LeCunNormal,
    LeCunUniform,
    Orthogonal,
    XavierNormal,
    XavierUniform,
    Zeros,
    initializers,
)

__all__ = [
    "Constant",
    "HeNormal",
    "HeUniform",
    "Initializer",
    "LeCunNormal",
    "LeCunUniform",
    "Orthogonal",
    "XavierNormal",
    "XavierUniform",
    "Zeros",
    "initializers",
]
