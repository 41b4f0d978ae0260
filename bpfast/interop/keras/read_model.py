"""`from_keras`: Keras models as networks, by tables of exact classes.

A model must be a ``keras.Sequential``, which may be nested, or a functional model that is a single chain, of
the layers in `READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import keras
import numpy as np

from ...arrays import checks
from ...network import Network
from ...specs import activations as functions
from ...specs import layers
from ...specs.losses import Loss, link_of, resolve_loss
from ..common import Stack, read_at
from .losses import read_loss
from .slots import LINKS, batch_norm_slots, dense_slots, norm_slots, slot

#: Function of Keras → activation, with Keras's default parameters.
ACTIVATIONS: dict[Any, functions.Activation] = {
    keras.activations.linear: functions.Identity(),
    keras.activations.sigmoid: functions.Sigmoid(),
    keras.activations.tanh: functions.Tanh(),
    keras.activations.relu: functions.ReLU(),
    keras.activations.leaky_relu: functions.LeakyReLU(0.2),
    keras.activations.elu: functions.ELU(),
    keras.activations.selu: functions.SELU(),
    keras.activations.gelu: functions.GELU(),
    keras.activations.silu: functions.SiLU(),
    keras.activations.softplus: functions.Softplus(),
}


def _require(m: Any, **expected: Any) -> None:
    for name, value in expected.items():
        given = getattr(m, name, value)
        if given != value:
            raise ValueError(f"{name} must be {value!r} for bpfast; got {given!r}")


def _require_last_axis(m: Any) -> None:
    axis = list(m.axis) if isinstance(m.axis, (list, tuple)) else [m.axis]
    if axis not in ([-1], [1]):
        raise ValueError(f"axis must be the last one, -1 or 1; got {m.axis!r}")


def _read_dense(stack: Stack, m: Any) -> None:
    _require(m, quantization_mode=None, lora_enabled=False)
    stack.append(layers.Dense(m.units, bias=m.use_bias), dense_slots(m), m.units)


def _read_batch_norm(stack: Stack, m: Any) -> None:
    _require_last_axis(m)
    _require(m, renorm=False)
    # 1 - 0.99 is not exactly 0.01.
    layer = layers.BatchNorm(momentum=round(1 - m.momentum, 12), epsilon=m.epsilon)
    stack.append(layer, batch_norm_slots(m))


def _read_layer_norm(stack: Stack, m: Any) -> None:
    _require_last_axis(m)
    _require(m, rms_scaling=False)
    stack.append(layers.LayerNorm(epsilon=m.epsilon), norm_slots(m))


def _read_prelu(stack: Stack, m: Any) -> None:
    slope = slot("slope", m.alpha)
    shared = slope.raw is not None and slope.raw.size == 1 and stack.width > 1
    stack.append(layers.PReLU(), [replace(slope, order=np.zeros(stack.width, int)) if shared else slope])


def _read_dropout(stack: Stack, m: Any) -> None:
    _require(m, noise_shape=None)
    stack.append(layers.Dropout(m.rate))


def _leaky(slope: Any) -> functions.Activation:
    return functions.LeakyReLU(float(slope)) if slope else functions.ReLU()


def _read_relu(stack: Stack, m: Any) -> None:
    _require(m, max_value=None, threshold=0)
    stack.activate(_leaky(m.negative_slope))


#: Exact class of a layer → what appends it; activations of layers are read as separate steps.
READERS: dict[type, Callable[[Stack, Any], None]] = {
    keras.layers.InputLayer: lambda stack, m: None,
    keras.layers.Identity: lambda stack, m: None,
    keras.layers.Flatten: lambda stack, m: None,
    keras.layers.Activation: lambda stack, m: None,
    keras.layers.Softmax: lambda stack, m: _require_last_axis(m),
    keras.layers.Dense: _read_dense,
    keras.layers.Dropout: _read_dropout,
    keras.layers.BatchNormalization: _read_batch_norm,
    keras.layers.LayerNormalization: _read_layer_norm,
    keras.layers.ReLU: _read_relu,
    keras.layers.LeakyReLU: lambda stack, m: stack.activate(_leaky(m.negative_slope)),
    keras.layers.ELU: lambda stack, m: stack.activate(functions.ELU(float(m.alpha))),
    keras.layers.PReLU: _read_prelu,
}


def _leaves(model: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Iterate over the layers of a model in order, each with its position."""
    if "call" in vars(model):
        raise ValueError(f"{where} ({type(model).__name__}) has its own call, which bpfast would not run")
    if type(model) is keras.Sequential:
        for index, layer in enumerate(model.layers):
            yield from _leaves(layer, f"{where}.layers[{index}]")
    elif type(model).__name__ == "Functional" and isinstance(model, keras.Model):
        _require_chain(model)
        for index, layer in enumerate(model.layers):
            yield f"{where}.layers[{index}]", layer
    else:
        yield where, model


def _require_chain(model: Any) -> None:
    """Raise an error if the layers of a functional model are not a single chain."""
    outputs = [layer.output for layer in model.layers]
    try:
        chained = all(layer.input is value for layer, value in zip(model.layers[1:], outputs, strict=False))
    except (AttributeError, ValueError):
        chained = False  # a layer that is called several times has no single input
    if not chained or len(model.inputs) != 1 or model.outputs != outputs[-1:]:
        raise ValueError("model must be a functional model whose layers are a single chain")


def _steps(leaves: list[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Iterate over the layers, each followed by its activation function if it has one."""
    for where, m in leaves:
        yield where, m
        if type(m) is keras.layers.Softmax:
            yield where, keras.activations.softmax
        elif type(m) is keras.layers.Activation or getattr(m, "activation", keras.activations.linear) is not (
            keras.activations.linear
        ):
            yield where, m.activation


def _read_step(stack: Stack, m: Any) -> None:
    if type(m) in READERS:
        READERS[type(m)](stack, m)
    elif m in ACTIVATIONS:
        if m is not keras.activations.linear:
            stack.activate(ACTIVATIONS[m])
    elif m in LINKS:
        raise ValueError(f"{m.__name__} is the link of a loss and must be at the end of the model")
    else:
        known = ", ".join(function.__name__ for function in ACTIVATIONS)
        raise ValueError(f"activation must be one of {known}; got {getattr(m, '__name__', m)!r}")


@dataclass(frozen=True)
class ReadModel:
    """A model as layers, with the loss to use it with.

    Attributes
    ----------
    n_inputs : int
        Number of columns that the model takes.
    stack : Stack
        Its layers.
    loss : Loss
        Loss, without whose link the layers are read.
    dtype : str
        Data type in which it computes.
    """

    n_inputs: int
    stack: Stack
    loss: Loss
    dtype: str


def read_model(model: Any, loss: Any) -> ReadModel:
    """Read a model; `loss` replaces the loss that it is compiled with."""
    leaves = _checked_layers(model)
    if loss is None and not model.compiled:
        raise TypeError("from_keras: loss is needed, since the model is not compiled with one")
    given = model.loss if loss is None else loss
    spec, linked = read_loss(given) if loss is None or _is_keras(loss) else (resolve_loss(loss), None)
    steps = _without_link(list(_steps(leaves)), spec, linked)
    stack = Stack(_n_inputs(model, leaves))
    n_inputs = stack.width
    for where, m in steps:
        read_at(where, partial(_read_step, stack, m))
    return ReadModel(n_inputs, stack, spec, _dtype(leaves))


def _checked_layers(model: Any) -> list[tuple[str, Any]]:
    """Return the layers of a model with their positions, if bpfast has counterparts for all of them."""
    if not isinstance(model, keras.Model) or not (
        type(model) is keras.Sequential or type(model).__name__ == "Functional"
    ):
        raise TypeError(
            f"model must be a keras.Sequential or a functional keras.Model; got {type(model).__name__}"
        )
    if not model.built or not hasattr(model, "input_shape"):
        raise ValueError("model has not been built: add a keras.Input((n,)), or call it once")
    leaves = list(_leaves(model, "model"))
    _require_known(leaves)
    return leaves


def _n_inputs(model: Any, leaves: list[tuple[str, Any]]) -> int:
    """Return the number of columns that a model takes; other inputs must be flattened first."""
    shape = tuple(model.input_shape[1:])
    where, first = next((leaf for leaf in leaves if type(leaf[1]) is not keras.layers.InputLayer), ("", None))
    if not shape or None in shape or (len(shape) > 1 and type(first) is not keras.layers.Flatten):
        raise ValueError(
            f"model must take rows of numbers or begin with Flatten; got inputs of shape {shape}"
        )
    if len(shape) > 1:
        read_at(where, partial(_require, first, data_format="channels_last"))
    return prod(shape)


def _is_keras(loss: Any) -> bool:
    return isinstance(loss, keras.losses.Loss) or getattr(loss, "__module__", "").startswith("keras.")


def _require_known(leaves: list[tuple[str, Any]]) -> None:
    for where, m in leaves:
        if type(m) not in READERS:
            near = next((kind for kind in READERS if isinstance(m, kind)), None)
            hint = f"; a subclass of {near.__name__} may compute something else" if near else ""
            known = ", ".join(kind.__name__ for kind in READERS)
            raise ValueError(f"{where} ({type(m).__name__}) cannot be converted; bpfast reads {known}{hint}")


def _dtype(leaves: list[tuple[str, Any]]) -> str:
    kinds = {kind for _, m in leaves for kind in (m.compute_dtype, m.variable_dtype)}
    if len(kinds) != 1 or not kinds <= set(checks.DTYPES):
        raise ValueError(
            f"model must compute in float32 or in float64 only; got {' and '.join(sorted(kinds))}"
        )
    return str(kinds.pop())


def _without_link(steps: list[tuple[str, Any]], loss: Loss, linked: bool | None) -> list[tuple[str, Any]]:
    """Return the steps without the last one if it is the link that the loss applies itself.

    `linked` tells whether the given loss expects outputs with the link applied; None allows both.
    """
    own = link_of(loss)
    where, last = steps[-1]
    kind = LINKS.get(last)
    if kind in ("softmax", "exp") and kind != own:
        fits = "cross_entropy" if kind == "softmax" else "poisson"
        raise ValueError(
            f"{where}: {last.__name__} is the link of loss={fits!r}, which {loss.name} does not use"
        )
    if linked is not None and own != "identity" and linked != (kind == own):
        end = "ends with the link of its loss" if kind == own else f"does not end with the link {own}"
        expected = "probabilities" if linked else "logits (from_logits=True)"
        raise ValueError(f"model {end}, but its loss expects {expected}")
    return steps[:-1] if kind == own else steps


def from_keras(
    model: Any,
    *,
    loss: Any = None,
    dtype: Any = None,
    seed: int = 0,
    threads: int | None = None,
    backend: str | None = None,
) -> Network:
    """Convert a Keras model to a network with the same weights and predictions.

    Parameters
    ----------
    model : keras.Sequential or keras.Model
        A Sequential, which may be nested, or a functional model that is a single chain, of Dense,
        BatchNormalization, LayerNormalization, Dropout, PReLU, ReLU, LeakyReLU, ELU, Activation,
        Softmax, Flatten and Identity. Subclasses are not accepted. It must be built and all float32 or
        all float64. It is not changed.
    loss : str, Loss or keras.losses.Loss, optional
        As for `Network`, or a Keras loss; by default the one that the model is compiled with.
    dtype : {"float32", "float64"}, optional
        Data type of the network; by default that of the model.
    seed, threads, backend
        As for `Network`.

    Returns
    -------
    Network
        A final softmax, sigmoid or exponential that is the link of the loss is left out because the
        loss applies it; then ``net.predict(X)`` gives the model's outputs, otherwise ``net.forward(X)``
        does. Variables that are not trainable are frozen. A layer that occurs several times becomes
        several layers, whose weights `copy_to_keras` cannot write back. Keras's momentum of 0.99 is
        0.01 in bpfast. In training, running variances are updated with the unbiased variance of the
        batch, where Keras uses the biased one. A BatchNormalization with neither center nor scale keeps
        its statistics. Regularizers are not converted: see ``penalty`` of `Network.fit`.

    Raises
    ------
    ValueError
        If the model cannot be converted exactly; the message says why.
    """
    read = read_model(model, loss)
    chosen = read.dtype if dtype is None else dtype
    return read.stack.network(
        read.n_inputs, read.loss, dtype=chosen, seed=seed, threads=threads, backend=backend
    )
