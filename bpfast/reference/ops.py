"""The ops in NumPy: the forward pass (X → A) and the backward pass (dA → dX, dW, db, …) of each.

`OPS` lists them by the names of the native engine's table. Normalisation, maxout and the other layers are
computed here only; for activations, dropout masks and the loss see `formulas.py`. A forward function returns
its tape (what the backward function needs in addition to X) and A. A backward function fills the gradient g
(dW, db, dγ, dβ, …) and returns the delta of each source.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays import Array
from ..engine.interface import TrainingPass
from ..engine.program import Op
from . import formulas, random

Views = dict[str, Array]
Tape = Any
Forward = Callable[..., tuple[Tape, Array]]
Backward = Callable[..., tuple[Array, ...]]


def _dense_forward(op: Op, p: Views, training: TrainingPass | None, X: Array) -> tuple[Tape, Array]:
    assert op.W is not None
    Z = X @ p[op.W.name]
    if op.b is not None:
        Z += p[op.b.name]
    return Z, formulas.activate(Z, op.activation)


def _dense_backward(op: Op, p: Views, g: Views, Z: Tape, dA: Array, X: Array) -> tuple[Array, ...]:
    assert op.W is not None
    D = dA * formulas.derivative(Z, op.activation)
    g[op.W.name][...] = X.T @ D
    if op.b is not None:
        g[op.b.name][...] = D.sum(axis=0)
    return (D @ p[op.W.name].T,)


def _activation_forward(op: Op, p: Views, training: TrainingPass | None, X: Array) -> tuple[Tape, Array]:
    return None, formulas.activate(X, op.activation)


def _activation_backward(op: Op, p: Views, g: Views, _: Tape, dA: Array, X: Array) -> tuple[Array, ...]:
    return (dA * formulas.derivative(X, op.activation),)


def _dropout_forward(op: Op, p: Views, training: TrainingPass | None, X: Array) -> tuple[Tape, Array]:
    if training is None:
        M = np.ones_like(X)
    else:
        M = formulas.dropout_mask(X, op.numbers[0], *training.noise, op.target)
    return M, formulas.drop(X, M)


def _dropout_backward(op: Op, p: Views, g: Views, M: Tape, dA: Array, X: Array) -> tuple[Array, ...]:
    return (formulas.drop(dA, M),)


def renorm_limits(step: int, r_max: float, d_max: float, begin: float, end: float) -> tuple[float, float]:
    """Return r_t and d_t of a training step; see `BatchRenorm`."""
    if step < begin:
        return 1.0, 0.0
    share = 1.0 if step >= end else (step - begin) / (end - begin)
    return 1 + share * (r_max - 1), share * d_max


def _batch_norm_forward(op: Op, p: Views, training: TrainingPass | None, X: Array) -> tuple[Tape, Array]:
    assert op.W is not None
    assert op.b is not None
    assert op.statistics is not None
    momentum, epsilon, r_max, d_max, begin, end = op.numbers
    running_mean, running_variance = (p[s.name] for s in op.statistics)
    mean, deviation = running_mean.astype(np.float64), np.sqrt(running_variance.astype(np.float64) + epsilon)
    r, d = np.ones_like(mean), np.zeros_like(mean)
    batch_statistics = training is not None and not training.fixed(op)
    if training is not None and batch_statistics:
        r_t, d_t = renorm_limits(training.noise[1], r_max, d_max, begin, end)
        batch_mean, variance = X.mean(axis=0, dtype=np.float64), X.var(axis=0, dtype=np.float64)
        batch_deviation = np.sqrt(variance + epsilon)
        r = np.clip(batch_deviation / deviation, 1 / r_t, r_t)
        d = np.clip((batch_mean - mean) / deviation, -d_t, d_t)
        share = momentum if training.momentum is None else training.momentum
        unbiased = variance * (len(X) / max(1, len(X) - 1))
        if share > 0 and len(X) > 1:  # a single row has no variance
            moved = (1 - share) * mean + share * batch_mean
            spread = (1 - share) * running_variance.astype(np.float64) + share * unbiased
            most = np.finfo(X.dtype).max
            fits = (spread <= most) & (np.abs(moved) <= most)
            running_mean[fits], running_variance[fits] = moved[fits], spread[fits]
        mean, deviation = batch_mean, batch_deviation
    hat = (X - mean.astype(X.dtype)) * (1 / deviation).astype(X.dtype)
    normal = hat * r.astype(X.dtype) + d.astype(X.dtype)
    tape = (hat, normal, r / deviation, batch_statistics)
    return tape, normal * p[op.W.name] + p[op.b.name]


def _batch_norm_backward(op: Op, p: Views, g: Views, tape: Tape, dA: Array, X: Array) -> tuple[Array, ...]:
    assert op.W is not None
    assert op.b is not None
    hat, normal, scale, batch_statistics = tape
    g[op.W.name][...] = (dA * normal).sum(axis=0)
    g[op.b.name][...] = dA.sum(axis=0)
    D = dA
    if batch_statistics:
        D = dA - dA.mean(axis=0) - hat * (dA * hat).mean(axis=0)
    return (D * (p[op.W.name] * scale).astype(X.dtype),)


def _layer_norm_forward(op: Op, p: Views, training: TrainingPass | None, X: Array) -> tuple[Tape, Array]:
    assert op.W is not None
    assert op.b is not None
    mean, variance = X.mean(axis=1, dtype=np.float64), X.var(axis=1, dtype=np.float64)
    inverse = (1 / np.sqrt(variance + op.numbers[0])).astype(X.dtype)[:, None]
    hat = (X - mean.astype(X.dtype)[:, None]) * inverse
    return (hat, inverse), hat * p[op.W.name] + p[op.b.name]


def _layer_norm_backward(op: Op, p: Views, g: Views, tape: Tape, dA: Array, X: Array) -> tuple[Array, ...]:
    assert op.W is not None
    assert op.b is not None
    hat, inverse = tape
    g[op.W.name][...] = (dA * hat).sum(axis=0)
    g[op.b.name][...] = dA.sum(axis=0)
    D = dA * p[op.W.name]
    return (inverse * (D - D.mean(axis=1, keepdims=True) - hat * (D * hat).mean(axis=1, keepdims=True)),)


def _maxout_forward(op: Op, p: Views, training: TrainingPass | None, X: Array) -> tuple[Tape, Array]:
    pieces = X.reshape(len(X), int(op.numbers[0]), op.n_out)
    return None, pieces.max(axis=1)


def _maxout_backward(op: Op, p: Views, g: Views, _: Tape, dA: Array, X: Array) -> tuple[Array, ...]:
    pieces = X.reshape(len(X), int(op.numbers[0]), op.n_out)
    D = np.zeros_like(pieces)
    np.put_along_axis(D, pieces.argmax(axis=1)[:, None, :], dA[:, None, :], axis=1)
    return (D.reshape(X.shape),)


def _prelu_forward(op: Op, p: Views, training: TrainingPass | None, X: Array) -> tuple[Tape, Array]:
    assert op.W is not None
    return None, np.where(X > 0, X, p[op.W.name] * X)


def _prelu_backward(op: Op, p: Views, g: Views, _: Tape, dA: Array, X: Array) -> tuple[Array, ...]:
    assert op.W is not None
    g[op.W.name][...] = np.where(X > 0, 0, dA * X).sum(axis=0)
    return (np.where(X > 0, dA, p[op.W.name] * dA),)


def _rrelu_forward(op: Op, p: Views, training: TrainingPass | None, X: Array) -> tuple[Tape, Array]:
    lower, upper = op.numbers
    if training is None:
        slopes = np.full_like(X, (lower + upper) / 2)
    else:
        words = random.random_words(X.shape, *training.noise, op.target)
        slopes = (lower + (upper - lower) * (words * 2.0**-32)).astype(X.dtype)
    return slopes, np.where(X > 0, X, slopes * X)


def _rrelu_backward(op: Op, p: Views, g: Views, slopes: Tape, dA: Array, X: Array) -> tuple[Array, ...]:
    return (np.where(X > 0, dA, slopes * dA),)


def _add_forward(op: Op, p: Views, training: TrainingPass | None, X: Array, Y: Array) -> tuple[Tape, Array]:
    return None, X + Y


def _add_backward(op: Op, p: Views, g: Views, _: Tape, dA: Array, X: Array, Y: Array) -> tuple[Array, ...]:
    return dA, dA


OPS: dict[str, tuple[Forward, Backward]] = {
    "dense": (_dense_forward, _dense_backward),
    "activation": (_activation_forward, _activation_backward),
    "dropout": (_dropout_forward, _dropout_backward),
    "batch_norm": (_batch_norm_forward, _batch_norm_backward),
    "layer_norm": (_layer_norm_forward, _layer_norm_backward),
    "maxout": (_maxout_forward, _maxout_backward),
    "prelu": (_prelu_forward, _prelu_backward),
    "rrelu": (_rrelu_forward, _rrelu_backward),
    "add": (_add_forward, _add_backward),
}


def noisy(W: Array, deviation: float, seed: int, step: int, offset: int) -> Array:
    """Return W + deviation · N for weights that start at `offset` in the flat vector.

    N is approximately standard normal: the sum of eight uniform 16-bit draws, taken from two numbers of
    SplitMix64, standardized.
    """
    key = random.noise_key(seed, step, WEIGHTS)
    numbers = random.counted(key, 2 * offset, 2 * W.size).reshape(-1, 2)
    total = np.zeros(W.size)
    for shift in (0, 16, 32, 48):
        total += ((numbers >> np.uint64(shift)) & np.uint64(0xFFFF)).sum(axis=1).astype(np.float64)
    N = (total - 8 * 32767.5) * (1 / math.sqrt(8 * (2.0**32 - 1) / 12))
    result: Array = W + (deviation * N).astype(W.dtype).reshape(W.shape)
    return result


#: The stream of the weight noise; ops use the number of their target.
WEIGHTS = 2**32
