"""The engine and the kernels of each backend."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from . import kernels
from .arrays import Array
from .arrays.threads import default_threads
from .engine.interface import Engine
from .engine.program import Program
from .native.engine import NativeEngine
from .reference import formulas as reference
from .reference.engine import ReferenceEngine
from .specs.losses import CustomLoss, Loss, link_of

BACKENDS = ("native", "reference")


def resolve_backend(backend: str | None) -> str:
    """Return the backend: the argument, or `BPFAST_BACKEND`, or ``"native"``."""
    source = "backend"
    if backend is None:
        backend, source = os.environ.get("BPFAST_BACKEND") or "native", "BPFAST_BACKEND"
    if backend not in BACKENDS:
        raise ValueError(f"{source} must be one of {', '.join(BACKENDS)}; got {backend!r}")
    return backend


def make_engine(program: Program, dtype: np.dtype[Any], backend: str, threads: int | None) -> Engine:
    """Return an engine for a program."""
    if backend == "reference":
        return ReferenceEngine(program, dtype)
    return NativeEngine(program, dtype, threads or default_threads())


def evaluate(
    loss: Loss, Y: Array, Z: Array, weights: Array | None, threads: int | None, backend: str
) -> tuple[float, Array]:
    """Return the mean loss and D = ∂L/∂Z of raw outputs, by the kernels of a backend."""
    if backend == "reference" or isinstance(loss, CustomLoss):
        return reference.loss_and_delta(loss, Y, Z, sample_weight=weights)
    return kernels.loss_and_delta(loss, Y, Z, sample_weight=weights, threads=threads)


def predict(loss: Loss, Z: Array, threads: int | None, backend: str) -> Array:
    """Apply the link function of the loss to raw outputs."""
    if backend == "reference":
        return reference.link(link_of(loss), Z)
    return kernels.link(link_of(loss), Z, threads=threads)
