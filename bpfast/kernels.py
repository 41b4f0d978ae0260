"""The kernels as functions, for training loops written in NumPy.

Arrays are float32 or float64; the result is float32 if every input is. Arrays that are not C-contiguous are
copied, and inputs are never changed. `out` receives the result in place of a new array. `threads` is the
maximum number of threads, by default all available cores; the result does not depend on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import Array, checks
from .arrays.aligned import LINE, aligned_copy
from .arrays.threads import check_threads, default_threads
from .native import _core
from .reference import formulas as reference
from .specs.activations import Activation, activations
from .specs.losses import LINKS, CustomLoss, Loss, resolve_loss

#: Rows of dW from which it pays to copy D to aligned memory.
COPY_ROWS = 64


def _threads(value: int | None) -> int:
    return check_threads(value) or default_threads()


def _result(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], *inputs: Any) -> tuple[Array, Array]:
    """Return the arrays to compute in and to return; they differ if `out` is strided or overlaps an input."""
    if out is None:
        fresh = np.empty(shape, dtype)
        return fresh, fresh
    checks.output(out, shape, dtype)
    overlaps = any(i is not None and np.may_share_memory(out, i) for i in inputs)
    if overlaps or not (out.flags.c_contiguous and out.flags.aligned):
        return np.empty(shape, dtype), out
    return out, out


def _finish(result: Array, given: Array) -> Array:
    if given is not result:
        given[...] = result
    return given


def dense_forward(
    X: Any,
    W: Any,
    b: Any = None,
    activation: str | Activation = "identity",
    *,
    out: Array | None = None,
    threads: int | None = None,
) -> Array:
    """A = f(X W + b).

    Parameters
    ----------
    X : array (B, I)
        Inputs.
    W : array (I, O)
        Weights.
    b : array (O,), optional
        Biases.
    activation : str or Activation, default "identity"
        f.
    out : array (B, O), optional
        Array for the result.
    threads : int, optional
        Maximum number of threads.

    Returns
    -------
    array (B, O)
    """
    W = checks.matrix("W", W)
    X = checks.matrix("X", X, columns=W.shape[0], taker="W")
    if b is not None:
        b = checks.array("b", b)
        if b.shape != (W.shape[1],):
            raise ValueError(f"b has shape {b.shape}; W has {W.shape[1]} columns")
    f = activations.resolve(activation)
    dtype = checks.common_dtype(X, W, *([] if b is None else [b]))
    X, W = checks.cast("X", X, dtype), checks.cast("W", W, dtype)
    b = None if b is None else checks.cast("b", b, dtype)
    A, given = _result(out, (X.shape[0], W.shape[1]), dtype, X, W, b)
    _core.dense_forward(X, W, b, f.name, f.parameter, A, _threads(threads))
    return _finish(A, given)


def activation_derivative(
    Z: Any,
    activation: str | Activation,
    *,
    out: Array | None = None,
    threads: int | None = None,
) -> Array:
    """The derivative f'(Z), element by element.

    Parameters
    ----------
    Z : array of any shape
        Pre-activations.
    activation : str or Activation
        f.
    out : array of the shape of Z, optional
        Array for the result.
    threads : int, optional
        Maximum number of threads.

    Returns
    -------
    array of the shape of Z
    """
    Z = checks.array("Z", Z)
    if Z.size == 0:
        raise ValueError(f"Z is empty, shape {Z.shape}; it must have at least 1 element")
    f = activations.resolve(activation)
    shape, dtype = Z.shape, checks.common_dtype(Z)
    Z = checks.cast("Z", Z, dtype)
    F, given = _result(out, shape, dtype, Z)
    _core.activation_derivative(Z, f.name, f.parameter, F, _threads(threads))
    return _finish(F, given)


def propagate_delta(
    D: Any,
    W: Any,
    Z_prev: Any,
    activation: str | Activation,
    *,
    out: Array | None = None,
    threads: int | None = None,
) -> Array:
    """D_prev = (D Wᵀ) ⊙ f'(Z_prev): the delta of a layer from that of the next layer.

    Parameters
    ----------
    D : array (B, O)
        ∂L/∂Z of the next layer.
    W : array (I, O)
        The weights of the next layer.
    Z_prev : array (B, I)
        The pre-activations of this layer.
    activation : str or Activation
        f of this layer.
    out : array (B, I), optional
        Array for the result.
    threads : int, optional
        Maximum number of threads.

    Returns
    -------
    array (B, I)
    """
    W = checks.matrix("W", W)
    D = checks.matrix("D", D, columns=W.shape[1], taker="W")
    Z_prev = checks.matrix("Z_prev", Z_prev, columns=W.shape[0], taker="W")
    checks.matrix("Z_prev", Z_prev, rows=D.shape[0], taker="D")
    f = activations.resolve(activation)
    dtype = checks.common_dtype(D, W, Z_prev)
    D, W = checks.cast("D", D, dtype), checks.cast("W", W, dtype)
    Z_prev = checks.cast("Z_prev", Z_prev, dtype)
    D_prev, given = _result(out, Z_prev.shape, dtype, D, W, Z_prev)
    _core.propagate_delta(D, W, Z_prev, f.name, f.parameter, D_prev, _threads(threads))
    return _finish(D_prev, given)


def weight_gradient(A_prev: Any, D: Any, *, threads: int | None = None) -> tuple[Array, Array]:
    """dW = A_prevᵀ D and db = Σ D over the rows.

    Parameters
    ----------
    A_prev : array (B, I)
        The layer's input.
    D : array (B, O)
        ∂L/∂Z of the layer.
    threads : int, optional
        Maximum number of threads.

    Returns
    -------
    dW : array (I, O)
    db : array (O,)
    """
    D = checks.matrix("D", D)
    A_prev = checks.matrix("A_prev", A_prev, rows=D.shape[0], taker="D")
    dtype = checks.common_dtype(A_prev, D)
    A_prev, D = checks.cast("A_prev", A_prev, dtype), checks.cast("D", D, dtype)
    if A_prev.shape[1] >= COPY_ROWS and D.shape[1] * D.itemsize % LINE == 0 and D.ctypes.data % LINE:
        # Every strip of dW reads all of D, and a row that crosses cache lines is read twice.
        D = aligned_copy(D)
    dW, db = np.empty((A_prev.shape[1], D.shape[1]), dtype), np.empty(D.shape[1], dtype)
    _core.weight_gradient(A_prev, D, dW, db, _threads(threads))
    return dW, db


def loss_and_delta(
    loss: str | Loss,
    Y: Any,
    Z: Any,
    *,
    sample_weight: Any = None,
    threads: int | None = None,
) -> tuple[float, Array]:
    """The mean loss, and D = ∂L/∂Z of that mean.

    Parameters
    ----------
    loss : str or Loss
        The loss.
    Y : array (B,) or (B, O)
        Targets in the form that the loss expects; see `bpfast.losses`.
    Z : array (B, O)
        Raw outputs.
    sample_weight : array (B,), optional
        Non-negative weights, not all 0: the mean is Σ w·loss / Σ w.
    threads : int, optional
        Maximum number of threads.

    Returns
    -------
    loss : float
    D : array (B, O)

    Raises
    ------
    FloatingPointError
        If an exponent of the exponential or Poisson loss reaches its cap.
    """
    spec = resolve_loss(loss)
    if isinstance(spec, CustomLoss):
        return reference.loss_and_delta(spec, Y, Z, sample_weight=sample_weight)
    Z = checks.matrix("Z", Z)
    Z = checks.cast("Z", Z, checks.common_dtype(Z))
    Y = checks.targets(spec, Y, Z.shape[0], Z.shape[1], Z.dtype, name="Y")
    w = checks.weights(sample_weight, Z.shape[0])
    D = np.empty_like(Z)
    value = _core.loss_and_delta(spec.name, spec.parameter, Y, Z, w, D, _threads(threads))
    reference.overflow(spec, value, Z)
    return value, D


def link(name: str, Z: Any, *, threads: int | None = None) -> Array:
    """Apply a link function to raw outputs (B, O): identity, sigmoid, softmax (over each row) or exp."""
    if name not in LINKS:
        raise ValueError(f"unknown link {name!r} (known: {', '.join(LINKS)})")
    Z = checks.matrix("Z", Z)
    Z = checks.cast("Z", Z, checks.common_dtype(Z))
    A: Array = np.empty_like(Z)
    _core.link(name, Z, A, _threads(threads))
    return A
