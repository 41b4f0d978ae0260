"""The formulas of bpfast in NumPy, each as a function of its own.

In this order: activations f and f'; dropout masks; the kernels of a dense layer as in `bpfast.kernels`
(A = f(XW + b), D_prev, dW and db); losses with D = ∂L/∂Z, and their links; update rules; penalties. The
forward and backward pass of the ops that an engine runs (dense, batch_norm, layer_norm, …) are in `ops.py`,
which calls these functions.

They are written for clarity, not speed. They are tested against finite differences, and the native kernels
are tested against them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays import Array, checks
from ..specs.activations import Activation, activations
from ..specs.losses import CustomLoss, Loss, resolve_loss
from ..specs.optimizers import Optimizer
from ..specs.penalties import Penalty
from .random import random_words

Function = Callable[[Array, float], Array]

_erfc = np.vectorize(math.erfc, otypes=[np.float64])
SELU_SCALE = 1.0507009873554804934193349852946
SELU_ALPHA = 1.6732632423543772848170429916717


def _sigmoid(Z: Array) -> Array:
    e = np.exp(-np.abs(Z))
    return np.where(Z >= 0, 1 / (1 + e), e / (1 + e))


def _softplus(Z: Array) -> Array:
    return np.maximum(Z, 0) + np.log1p(np.exp(-np.abs(Z)))


def _normal_cdf(Z: Array) -> Array:
    cdf: Array = 0.5 * _erfc(Z.astype(np.float64) * -math.sqrt(0.5))
    return cdf.astype(Z.dtype)


def _silu_derivative(Z: Array, _: float) -> Array:
    slope: Array = _sigmoid(Z) * (1 + Z * _sigmoid(-Z))
    return slope


def _gelu_derivative(Z: Array, _: float) -> Array:
    density = np.exp(-0.5 * Z * Z) / math.sqrt(2 * math.pi)
    return _normal_cdf(Z) + Z * density


#: name → (f(Z, parameter), f'(Z, parameter)).
ACTIVATIONS: dict[str, tuple[Function, Function]] = {
    "identity": (lambda Z, _: Z.copy(), lambda Z, _: np.ones_like(Z)),
    "sigmoid": (lambda Z, _: _sigmoid(Z), lambda Z, _: _sigmoid(Z) * _sigmoid(-Z)),
    "tanh": (lambda Z, _: np.tanh(Z), lambda Z, _: 1 - np.tanh(Z) ** 2),
    "relu": (lambda Z, _: np.maximum(Z, 0), lambda Z, _: (Z > 0).astype(Z.dtype)),
    "leaky_relu": (
        lambda Z, slope: np.where(Z > 0, Z, slope * Z),
        lambda Z, slope: np.where(Z > 0, 1, slope).astype(Z.dtype),
    ),
    "elu": (
        lambda Z, alpha: np.where(Z > 0, Z, alpha * np.expm1(np.minimum(Z, 0))),
        lambda Z, alpha: np.where(Z > 0, 1, alpha * np.exp(np.minimum(Z, 0))),
    ),
    "selu": (
        lambda Z, _: SELU_SCALE * np.where(Z > 0, Z, SELU_ALPHA * np.expm1(np.minimum(Z, 0))),
        lambda Z, _: SELU_SCALE * np.where(Z > 0, 1, SELU_ALPHA * np.exp(np.minimum(Z, 0))),
    ),
    "gelu": (lambda Z, _: Z * _normal_cdf(Z), _gelu_derivative),
    "silu": (lambda Z, _: Z * _sigmoid(Z), _silu_derivative),
    "softplus": (lambda Z, _: _softplus(Z), lambda Z, _: _sigmoid(Z)),
}


def activate(Z: Array, activation: Activation) -> Array:
    """A = f(Z)."""
    return ACTIVATIONS[activation.name][0](Z, activation.parameter)


def derivative(Z: Array, activation: Activation) -> Array:
    """f'(Z)."""
    return ACTIVATIONS[activation.name][1](Z, activation.parameter)


def dropout_mask(X: Array, rate: float, seed: int, step: int, place: int) -> Array:
    """Return M / (1 - rate) for the elements of X: 0 where an element is dropped.

    An element is kept if its number in `random_words` is at least rate · 2³².
    """
    kept = random_words(X.shape, seed, step, place) >= np.uint64(int(rate * 2**32))
    M: Array = np.where(kept, X.dtype.type(1 / (1 - rate)), X.dtype.type(0))
    return M


def drop(X: Array, M: Array) -> Array:
    """Return X ⊙ M, with 0 where M is 0, even if X is not finite."""
    A: Array = np.where(M > 0, X * M, X.dtype.type(0))
    return A


def dense_forward(
    X: Any, W: Any, b: Any = None, activation: str | Activation = "identity", *, out: Any = None
) -> Array:
    """A = f(X W + b); see `bpfast.kernels.dense_forward`."""
    X, W, b = checks.matrix("X", X), checks.matrix("W", W), None if b is None else checks.array("b", b)
    f = activations.resolve(activation)
    checks.matrix("X", X, columns=W.shape[0], taker="W")
    if b is not None and b.shape != (W.shape[1],):
        raise ValueError(f"b has shape {b.shape}; W has {W.shape[1]} columns")
    dtype = checks.common_dtype(X, W, *([] if b is None else [b]))
    Z = X.astype(dtype) @ W.astype(dtype)
    if b is not None:
        Z += b
    return _deliver(activate(Z, f), out)


def activation_derivative(Z: Any, activation: str | Activation, *, out: Any = None) -> Array:
    """f'(Z); see `bpfast.kernels.activation_derivative`."""
    Z = checks.array("Z", Z)
    if Z.size == 0:
        raise ValueError(f"Z is empty, shape {Z.shape}; at least 1 element is required")
    f = activations.resolve(activation)
    return _deliver(derivative(Z.astype(checks.common_dtype(Z)), f), out)


def propagate_delta(D: Any, W: Any, Z_prev: Any, activation: str | Activation, *, out: Any = None) -> Array:
    """D_prev = (D Wᵀ) ⊙ f'(Z_prev); see `bpfast.kernels.propagate_delta`."""
    D, W, Z_prev = checks.matrix("D", D), checks.matrix("W", W), checks.matrix("Z_prev", Z_prev)
    f = activations.resolve(activation)
    checks.matrix("D", D, columns=W.shape[1], taker="W")
    checks.matrix("Z_prev", Z_prev, columns=W.shape[0], taker="W")
    checks.matrix("Z_prev", Z_prev, rows=D.shape[0], taker="D")
    dtype = checks.common_dtype(D, W, Z_prev)
    D_prev = D.astype(dtype) @ W.astype(dtype).T
    D_prev *= derivative(Z_prev.astype(dtype), f)
    return _deliver(D_prev, out)


def weight_gradient(A_prev: Any, D: Any) -> tuple[Array, Array]:
    """dW = A_prevᵀ D and db = Σ D; see `bpfast.kernels.weight_gradient`."""
    A_prev, D = checks.matrix("A_prev", A_prev), checks.matrix("D", D)
    checks.matrix("A_prev", A_prev, rows=D.shape[0], taker="D")
    dtype = checks.common_dtype(A_prev, D)
    A_prev, D = A_prev.astype(dtype), D.astype(dtype)
    return A_prev.T @ D, D.sum(axis=0)


def _deliver(result: Array, out: Any) -> Array:
    if out is None:
        return result
    checks.output(out, result.shape, result.dtype)[...] = result
    return out  # type: ignore[no-any-return]


#: Item size → largest exponent of exp; beyond it the loss is infinite.
EXPONENT_CAP = {4: 80.0, 8: 700.0}


def _capped_exp(exponent: Array) -> tuple[Array, Array]:
    """Return exp with its argument capped, and the same with infinity where the cap was reached."""
    cap = EXPONENT_CAP[exponent.dtype.itemsize]
    capped = np.exp(np.minimum(exponent, cap))
    return capped, np.where(exponent < cap, capped, np.where(np.isnan(exponent), np.nan, np.inf))


def _absolute_error(Y: Array, Z: Array, _: float) -> tuple[Array, Array]:
    return np.abs(Z - Y), np.sign(Z - Y)


def _log_loss(Y: Array, Z: Array, cap: float) -> tuple[Array, Array]:
    # max(z, 0) - y z first: it cancels exactly where the prediction is confident and right.
    loss = np.maximum(Z, 0) - Y * Z + np.log1p(np.exp(-np.abs(Z)))
    return np.minimum(loss, cap), _sigmoid(Z) - Y


def _exponential(Y: Array, Z: Array, _: float) -> tuple[Array, Array]:
    slope, value = _capped_exp(-Y * Z)
    return value, -Y * slope


def _hinge(Y: Array, Z: Array, _: float) -> tuple[Array, Array]:
    margin = 1 - Y * Z
    return np.maximum(margin, 0), np.where(margin > 0, -Y, 0)


def _huber(Y: Array, Z: Array, threshold: float) -> tuple[Array, Array]:
    R = Z - Y
    inside = np.minimum(np.abs(R), threshold)
    return inside * (np.abs(R) - 0.5 * inside), np.clip(R, -threshold, threshold)


def _quantile(Y: Array, Z: Array, quantile: float) -> tuple[Array, Array]:
    R = Y - Z
    slope = np.where(R > 0, -quantile, 1 - quantile).astype(R.dtype)
    return np.maximum(quantile * R, (quantile - 1) * R), np.where(R == 0, 0, slope)


def _poisson(Y: Array, Z: Array, _: float) -> tuple[Array, Array]:
    slope, value = _capped_exp(Z)
    return value - Y * Z, slope - Y


#: name → f(Y, Z, parameter) → (loss, ∂loss/∂Z), elementwise.
POINTWISE_LOSSES: dict[str, Callable[[Array, Array, float], tuple[Array, Array]]] = {
    "squared_error": lambda Y, Z, _: ((Z - Y) ** 2, 2 * (Z - Y)),
    "absolute_error": _absolute_error,
    "log_loss": _log_loss,
    "exponential": _exponential,
    "hinge": _hinge,
    "huber": _huber,
    "quantile": _quantile,
    "poisson": _poisson,
}


def _softmax(Z: Array) -> Array:
    E: Array = np.exp(Z - Z.max(axis=1, keepdims=True))
    E /= E.sum(axis=1, keepdims=True)
    return E


def _cross_entropy(Y: Array, Z: Array, cap: float) -> tuple[Array, Array]:
    shifted = Z - Z.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    D = _softmax(Z)
    if Y.ndim == 1:
        rows = np.arange(len(Y))
        loss = log_sum - shifted[rows, Y]
        D[rows, Y] -= 1
    else:
        loss = log_sum - (Y * shifted).sum(axis=1)
        D -= Y
    return np.minimum(loss, cap), D


#: name → f(Y, Z, parameter) → (loss (B,), ∂loss/∂Z), per row.
ROWWISE_LOSSES: dict[str, Callable[[Array, Array, float], tuple[Array, Array]]] = {
    "cross_entropy": _cross_entropy,
}

#: name → the function that `predict` applies to Z.
LINKS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda Z: Z.copy(),
    "sigmoid": _sigmoid,
    "softmax": _softmax,
    "exp": np.exp,
}


def link(name: str, Z: Array) -> Array:
    """Apply a link function to the raw outputs."""
    with np.errstate(over="ignore", under="ignore"):
        return LINKS[name](Z)


def row_losses(loss: Loss, Y: Array, Z: Array) -> tuple[Array, Array, int]:
    """Return the loss of each row (B,) in float64, its derivative (B, O), and a divisor of the derivative."""
    if isinstance(loss, CustomLoss):
        return (*_custom_losses(loss, Y, Z), 1)
    if loss.name in ROWWISE_LOSSES:
        rows, D = ROWWISE_LOSSES[loss.name](Y, Z, loss.parameter)
        return rows.astype(np.float64), D, 1
    values, D = POINTWISE_LOSSES[loss.name](Y, Z, loss.parameter)
    return values.mean(axis=1, dtype=np.float64), D, Z.shape[1]


def _custom_losses(loss: CustomLoss, Y: Array, Z: Array) -> tuple[Array, Array]:
    result = loss.function(Y.copy(), Z.copy())
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError("the custom loss must return (loss, D): arrays of shape (B,) and (B, O)")
    rows, D = (checks.array(f"the custom loss's {n}", v) for n, v in zip(("loss", "D"), result, strict=True))
    if rows.shape != (Z.shape[0],) or D.shape != Z.shape:
        raise ValueError(
            f"the custom loss must return arrays of shape {(Z.shape[0],)} and {Z.shape}; "
            f"got {rows.shape} and {D.shape}"
        )
    return rows.astype(np.float64), D.astype(Z.dtype)


def mean_loss(
    rows: Array, D: Array, n: int, weights: Array | None, scale: float = 1.0
) -> tuple[float, Array]:
    """Return `scale` times the weighted mean loss, and its derivative with respect to Z.

    Parameters
    ----------
    rows : array (B,)
        Loss of each row.
    D : array (B, O)
        n times the derivative of the loss of each row.
    n : int
        Divisor of D.
    weights : array (B,) or None
        Sample weights.
    scale : float, default 1.0
        Factor of the mean.
    """
    if weights is None:
        return float(rows.sum() / len(rows) * scale), D * D.dtype.type(scale / len(rows) / n)
    total = weights.sum()
    if total == 0:
        return 0.0, np.zeros_like(D)
    share = (scale * weights / total / n).astype(D.dtype)[:, None]
    counted = np.where(weights > 0, rows, 0)
    return float(scale * (weights * counted).sum() / total), np.where(share > 0, D, 0) * share


def loss_and_delta(loss: str | Loss, Y: Any, Z: Any, *, sample_weight: Any = None) -> tuple[float, Array]:
    """Return the mean loss and D = ∂L/∂Z; see `bpfast.kernels.loss_and_delta`."""
    spec = resolve_loss(loss)
    Z = checks.matrix("Z", Z)
    Z = Z.astype(checks.common_dtype(Z))
    Y = checks.targets(spec, Y, Z.shape[0], Z.shape[1], Z.dtype, name="Y")
    w = checks.weights(sample_weight, Z.shape[0])
    with np.errstate(over="ignore", invalid="ignore"):
        value, D = mean_loss(*row_losses(spec, Y, Z), w)
    overflow(spec, value, Z)
    return value, D


def overflow(loss: Loss, value: float, Z: Array) -> None:
    """Raise an error if the loss is infinite because its exponent has reached the cap."""
    if math.isinf(value) and loss.name in ("exponential", "poisson") and np.isfinite(Z).all():
        raise FloatingPointError(
            f"{loss.name}: the exponent reached the cap of {EXPONENT_CAP[Z.dtype.itemsize]:g} for "
            f"{Z.dtype} (the largest |Z| is {float(np.abs(Z).max()):g}); lower the learning rate "
            f"or scale the targets"
        )


Hyper = tuple[float, ...]
Rule = Callable[[Array, Array, Array, Hyper, float, int, bool], float]


def _sgd(w: Array, g: Array, s: Array, h: Hyper, lr: float, t: int, decay: bool) -> float:
    w -= lr * g
    return lr


def _momentum(w: Array, g: Array, s: Array, h: Hyper, lr: float, t: int, decay: bool) -> float:
    s[0] = h[0] * s[0] - lr * g
    w += s[0]
    return lr / (1 - h[0])


def _nesterov(w: Array, g: Array, s: Array, h: Hyper, lr: float, t: int, decay: bool) -> float:
    s[0] = h[0] * s[0] - lr * g
    w += h[0] * s[0] - lr * g
    return lr / (1 - h[0])


def _adam(w: Array, g: Array, s: Array, h: Hyper, lr: float, t: int, decay: bool) -> float:
    beta_1, beta_2, epsilon, epsilon_hat = h[:4]
    s[0] = beta_1 * s[0] + (1 - beta_1) * g
    s[1] = beta_2 * s[1] + (1 - beta_2) * g * g
    m_hat = s[0] / (1 - beta_1**t)
    v_hat = s[1] / (1 - beta_2**t)
    if epsilon_hat:
        epsilon /= math.sqrt(1 - beta_2**t)
    w -= lr * m_hat / (np.sqrt(v_hat) + epsilon)
    return lr


def _adamw(w: Array, g: Array, s: Array, h: Hyper, lr: float, t: int, decay: bool) -> float:
    if decay:
        w -= lr * h[4] * w
    return _adam(w, g, s, h, lr, t, decay)


def _rmsprop(w: Array, g: Array, s: Array, h: Hyper, lr: float, t: int, decay: bool) -> float:
    s[0] = h[0] * s[0] + (1 - h[0]) * g * g
    w -= lr * g / (np.sqrt(s[0]) + h[1])
    return lr


def _adagrad(w: Array, g: Array, s: Array, h: Hyper, lr: float, t: int, decay: bool) -> float:
    s[0] += g * g
    w -= lr * g / (np.sqrt(s[0]) + h[0])
    return lr


def _rprop(w: Array, g: Array, s: Array, h: Hyper, lr: float, t: int, decay: bool) -> float:
    eta_minus, eta_plus, step_min, step_max = h
    sign = np.sign(g) * np.sign(s[0])
    grown, shrunk = np.minimum(eta_plus * s[1], step_max), np.maximum(eta_minus * s[1], step_min)
    s[1] = np.where(sign > 0, grown, np.where(sign < 0, shrunk, s[1]))
    s[0] = np.where(sign < 0, 0, g)
    w -= np.sign(s[0]) * s[1]
    return lr


#: rule → f(w, g, state, hyperparameters, learning rate, step t (from 1), whether w decays). It updates w and
#: state in place and returns the step size for the proximal step of the penalty.
OPTIMIZERS: dict[str, Rule] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "nesterov": _nesterov,
    "adam": _adam,
    "adamw": _adamw,
    "rmsprop": _rmsprop,
    "adagrad": _adagrad,
    "rprop": _rprop,
}


def clip(gradients: list[Array], optimizer: Optimizer) -> list[Array]:
    """Clip the elements of the gradients to clip_value, then scale them to a joint norm of clip_norm."""
    if optimizer.clip_value is not None:
        gradients = [np.clip(g, -optimizer.clip_value, optimizer.clip_value) for g in gradients]
    if optimizer.clip_norm is not None:
        norm = math.sqrt(sum(_norm(g) ** 2 for g in gradients))
        if norm > optimizer.clip_norm:
            gradients = [g * g.dtype.type(optimizer.clip_norm / norm) for g in gradients]
    return gradients


def _soft(W: Array, threshold: float) -> Array:
    return np.sign(W) * np.maximum(np.abs(W) - threshold, 0)


def _zero_gradient(W: Array, *_: float) -> Array:
    return np.zeros_like(W)


def _unchanged(W: Array, *_: float) -> Array:
    return W


def _norm(W: Array) -> float:
    return math.sqrt(float(np.sum(W.astype(np.float64) ** 2)))


def _frobenius_gradient(W: Array, alpha: float, mix: float) -> Array:
    norm = _norm(W)
    gradient: Array = W * W.dtype.type(alpha / norm if norm > 0 else 0.0)
    return gradient


#: name → (value(W, α, ρ), gradient of the smooth part(W, α, ρ), proximal step(W, α, ρ, η)).
PENALTIES: dict[str, tuple[Callable[..., float], Callable[..., Array], Callable[..., Array]]] = {
    "l2": (lambda W, a, _: 0.5 * a * _norm(W) ** 2, lambda W, a, _: a * W, _unchanged),
    "l1": (
        lambda W, a, _: a * float(np.abs(W).sum(dtype=np.float64)),
        _zero_gradient,
        lambda W, a, _, lr: _soft(W, lr * a),
    ),
    "elastic_net": (
        lambda W, a, r: a * (r * float(np.abs(W).sum(dtype=np.float64)) + 0.5 * (1 - r) * _norm(W) ** 2),
        lambda W, a, r: a * (1 - r) * W,
        lambda W, a, r, lr: _soft(W, lr * a * r),
    ),
    "l0": (
        lambda W, a, _: a * float(np.count_nonzero(W)),
        _zero_gradient,
        lambda W, a, _, lr: np.where(np.abs(W) <= math.sqrt(2 * lr * a), 0, W),
    ),
    "frobenius": (lambda W, a, _: a * _norm(W), _frobenius_gradient, _unchanged),
}


def penalty_value(penalty: Penalty, W: Array) -> float:
    """α Ω(W)."""
    return PENALTIES[penalty.name][0](W, penalty.alpha, penalty.mix)


def penalty_gradient(penalty: Penalty, W: Array) -> Array:
    """Return the gradient of the smooth part of α Ω(W)."""
    return PENALTIES[penalty.name][1](W, penalty.alpha, penalty.mix)


def penalty_proximal(penalty: Penalty, W: Array, rate: float) -> Array:
    """Return argmin over V of ½ ‖V - W‖² + η α Ω(V), η = rate, for the part of Ω without a derivative."""
    return PENALTIES[penalty.name][2](W, penalty.alpha, penalty.mix, rate)
