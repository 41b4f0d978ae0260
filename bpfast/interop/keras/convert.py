"""Keras's models as networks, networks as models, and weights written back; Keras 3, any backend.

What Keras has to be is a ``keras.Sequential``, nested or not, or a functional model that is one chain, of
the layers that have a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import numpy as np

try:
    import keras
except ModuleNotFoundError as error:
    if error.name != "keras":
        raise ImportError(
            f"Keras has no backend to run on ({error}); install one, and name it in KERAS_BACKEND "
            f"(torch, tensorflow or jax)"
        ) from error
    raise ImportError("bpfast.interop.keras needs Keras 3: pip install keras") from None

from ...arrays import checks
from ...network import Network
from ...specs import activations as functions
from ...specs import layers
from ...specs.losses import Loss, link_of, resolve_loss
from ...specs.spec import flag
from ..common import Slot, Stack, at_place
from .losses import read_loss

__all__ = ["copy_to_keras", "from_keras", "to_keras"]

#: The functions that a loss applies by itself → the link's name.
LINKS: dict[Any, str] = {
    keras.activations.softmax: "softmax",
    keras.activations.sigmoid: "sigmoid",
    keras.activations.exponential: "exp",
}

#: Keras's functions to bpfast's, with the parameters that they have there by default.
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


def _slot(name: str, variable: Any) -> Slot:
    if variable is None:
        return Slot(name, trained=False)
    raw = np.asarray(keras.ops.convert_to_numpy(variable))
    return Slot(name, bool(variable.trainable), variable, raw, lambda v, values: v.assign(values))


def _dense_slots(m: Any) -> list[Slot]:
    return [_slot("W", m.kernel), *([_slot("b", m.bias)] if m.use_bias else [])]


def _norm_slots(m: Any) -> list[Slot]:
    return [_slot("gamma", m.gamma), _slot("beta", m.beta)]


def _batch_norm_slots(m: Any) -> list[Slot]:
    return [*_norm_slots(m), _slot("mean", m.moving_mean), _slot("variance", m.moving_variance)]


def _require(m: Any, **wanted: Any) -> None:
    for name, value in wanted.items():
        came = getattr(m, name, value)
        if came != value:
            raise ValueError(f"{name} must be {value!r} for bpfast; got {came!r}")


def _require_last_axis(m: Any) -> None:
    axis = list(m.axis) if isinstance(m.axis, (list, tuple)) else [m.axis]
    if axis not in ([-1], [1]):
        raise ValueError(f"axis must be the last; got {m.axis!r}")


def _read_dense(stack: Stack, m: Any) -> None:
    _require(m, quantization_mode=None, lora_enabled=False)
    stack.append(layers.Dense(m.units, bias=m.use_bias), _dense_slots(m), m.units)


def _read_batch_norm(stack: Stack, m: Any) -> None:
    _require_last_axis(m)
    _require(m, renorm=False)
    # 1 - 0.99 is not 0.01 to the last bit.
    layer = layers.BatchNorm(momentum=round(1 - m.momentum, 12), epsilon=m.epsilon)
    stack.append(layer, _batch_norm_slots(m))


def _read_layer_norm(stack: Stack, m: Any) -> None:
    _require_last_axis(m)
    _require(m, rms_scaling=False)
    stack.append(layers.LayerNorm(epsilon=m.epsilon), _norm_slots(m))


def _read_prelu(stack: Stack, m: Any) -> None:
    slot = _slot("slope", m.alpha)
    one = slot.raw is not None and slot.raw.size == 1 and stack.width > 1
    stack.append(layers.PReLU(), [replace(slot, order=np.zeros(stack.width, int)) if one else slot])


def _read_dropout(stack: Stack, m: Any) -> None:
    _require(m, noise_shape=None)
    stack.append(layers.Dropout(m.rate))


def _leaky(slope: Any) -> functions.Activation:
    return functions.LeakyReLU(float(slope)) if slope else functions.ReLU()


def _read_relu(stack: Stack, m: Any) -> None:
    _require(m, max_value=None, threshold=0)
    stack.activate(_leaky(m.negative_slope))


#: Keras's layers, the exact classes, to what they append; their activations come as steps of their own.
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
    """The layers of a model in order, each with its place; a functional model's must be a chain."""
    if "call" in vars(model):
        raise ValueError(
            f"{where} ({type(model).__name__}) has a call of its own, which bpfast would not run"
        )
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
    """Refuse a functional model whose layers do not follow one another."""
    outputs = [layer.output for layer in model.layers]
    try:
        chained = all(layer.input is value for layer, value in zip(model.layers[1:], outputs, strict=False))
    except (AttributeError, ValueError):
        chained = False  # A layer with several calls has no one input.
    if not chained or len(model.inputs) != 1 or model.outputs != outputs[-1:]:
        raise ValueError("model is a functional model whose layers are no single chain; bpfast reads chains")


def _steps(leaves: list[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Each layer, and behind it the function that it applies at its end."""
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
        raise ValueError(f"{m.__name__} is the link of a loss, and stands at the end alone")
    else:
        known = ", ".join(function.__name__ for function in ACTIVATIONS)
        raise ValueError(f"activation must be one of {known}; got {getattr(m, '__name__', m)!r}")


def _read(model: Any, loss: Any) -> tuple[Stack, int, Loss, str]:
    """A model's layers, how many columns it takes, its loss and its dtype."""
    if not isinstance(model, keras.Model) or not (
        type(model) is keras.Sequential or type(model).__name__ == "Functional"
    ):
        raise TypeError(
            f"model must be a keras.Sequential or a functional keras.Model; got {type(model).__name__}"
        )
    if not model.built or not hasattr(model, "input_shape"):
        raise ValueError("model has not been built: it needs a keras.Input((n,)), or to be called once")
    leaves = list(_leaves(model, "model"))
    _require_known(leaves)
    if loss is None and not model.compiled:
        raise TypeError("from_keras: loss is needed, since the model is not compiled with one")
    given = model.loss if loss is None else loss
    spec, linked = read_loss(given) if loss is None or _is_keras(loss) else (resolve_loss(loss), None)
    steps = _without_link(list(_steps(leaves)), spec, linked)
    shape = tuple(model.input_shape[1:])
    where, first = _first(leaves)
    if not shape or None in shape or (len(shape) > 1 and type(first) is not keras.layers.Flatten):
        raise ValueError(
            f"model takes inputs of shape {shape}; rows of numbers, or a Flatten first, are wanted"
        )
    if len(shape) > 1:
        at_place(where, partial(_require, first, data_format="channels_last"))
    stack = Stack(prod(shape))
    for where, m in steps:
        at_place(where, partial(_read_step, stack, m))
    return stack, prod(shape), spec, _dtype(leaves)


def _is_keras(loss: Any) -> bool:
    return isinstance(loss, keras.losses.Loss) or getattr(loss, "__module__", "").startswith("keras.")


def _first(leaves: list[tuple[str, Any]]) -> tuple[str, Any]:
    """What comes first behind the input, with its place."""
    return next((leaf for leaf in leaves if type(leaf[1]) is not keras.layers.InputLayer), ("model", None))


def _require_known(leaves: list[tuple[str, Any]]) -> None:
    for where, m in leaves:
        if type(m) not in READERS:
            near = next((kind for kind in READERS if isinstance(m, kind)), None)
            hint = f"; a subclass of {near.__name__} may compute something else" if near else ""
            known = ", ".join(kind.__name__ for kind in READERS)
            raise ValueError(f"{where} ({type(m).__name__}): bpfast reads {known}{hint}")


def _dtype(leaves: list[tuple[str, Any]]) -> str:
    kinds = {kind for _, m in leaves for kind in (m.compute_dtype, m.variable_dtype)}
    if len(kinds) != 1 or not kinds <= set(checks.DTYPES):
        raise ValueError(
            f"model computes in {' and '.join(sorted(kinds))}; all float32 or all float64 is wanted"
        )
    return str(kinds.pop())


def _without_link(steps: list[tuple[str, Any]], loss: Loss, linked: bool | None) -> list[tuple[str, Any]]:
    """The steps, less the last where it is the link that the loss applies by itself.

    `linked` tells whether the loss was written for outputs behind the link; None where either will do.
    """
    own = link_of(loss)
    where, last = steps[-1]
    kind = LINKS.get(last)
    if kind in ("softmax", "exp") and kind != own:
        fits = "cross_entropy" if kind == "softmax" else "poisson"
        raise ValueError(
            f"{where}: its {last.__name__} is the link of loss={fits!r}; {loss.name} does without it"
        )
    if linked is not None and own != "identity" and linked != (kind == own):
        there = "ends with its link" if kind == own else f"does not end with its link, {own}"
        wanted = "probabilities" if linked else "from_logits=True"
        raise ValueError(f"model {there}; its loss is for {wanted}")
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
    """A network that predicts what a Keras model does, with its weights.

    Parameters
    ----------
    model : keras.Sequential or keras.Model
        Nested Sequentials, or a functional model that is one chain, of Dense, BatchNormalization,
        LayerNormalization, Dropout, PReLU, ReLU, LeakyReLU, ELU, Activation, Softmax, Flatten and
        Identity; of these exact classes, built, all float32 or all float64. It is not changed.
    loss : str, Loss or Keras's, optional
        As for `Network`; by default what the model is compiled with.
    dtype : {"float32", "float64"}, optional
        By default the model's.
    seed, threads, backend
        As for `Network`.

    Returns
    -------
    Network
        A softmax, sigmoid or exponential at the end that is the loss's link is left out, since the loss
        applies it: then ``net.predict(X)`` gives the model's outputs, otherwise ``net.forward(X)`` does.
        What is not trainable is frozen. A layer in several places becomes several, which `copy_to_keras`
        refuses. A momentum of 0.99 is 0.01 here; in training a running variance
        takes the unbiased one of the batch, where Keras takes the biased. A BatchNormalization with
        neither center nor scale keeps its statistics. Regularisers are not carried: see ``penalty`` of
        `Network.fit`.

    Raises
    ------
    ValueError
        If the model has what bpfast would not compute alike: the message names it.
    """
    stack, width, spec, own = _read(model, loss)
    chosen = own if dtype is None else dtype
    return stack.network(width, spec, dtype=chosen, seed=seed, threads=threads, backend=backend)


def copy_to_keras(net: Network, model: Any) -> None:
    """Write the weights and running statistics of a network into the model that it was read from.

    Parameters
    ----------
    net : Network
        From `from_keras` of this model, or of one with the same layers.
    model : keras.Sequential or keras.Model

    Raises
    ------
    ValueError
        If the model's layers are others, or if one stands in several places, which a network trains apart;
        then it stays as it was.

    Examples
    --------
    >>> import keras, numpy
    >>> from bpfast.interop.keras import copy_to_keras, from_keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> net = from_keras(model, loss="squared_error")
    >>> history = net.fit(numpy.eye(4), numpy.arange(4), epochs=3)
    >>> copy_to_keras(net, model)
    """
    if not isinstance(net, Network):
        raise TypeError(f"copy_to_keras: net must be a bpfast.Network; got {net!r}")
    stack, width, _, _ = _read(model, net.loss_spec)
    if width != net.n_inputs or tuple(map(_kind, stack.made())) != tuple(map(_kind, net.layers)):
        raise ValueError("copy_to_keras: the model's layers are not those of the network")
    slots = stack.named()
    arrays = {**net.parameters, **net.statistics}
    _require_apart(slots)
    for name, slot in slots.items():
        if slot.shared and slot.trained:
            raise ValueError(
                f"copy_to_keras: the model has one slope for all columns; the network's {name} has more"
            )
    for name, slot in slots.items():
        slot.store(arrays[name])


def _require_apart(slots: Mapping[str, Slot]) -> None:
    """Refuse a variable in several places: each would be written with what another place has learned."""
    seen: dict[int, str] = {}
    for name, slot in slots.items():
        if slot.source is not None and seen.setdefault(id(slot.source), name) != name:
            raise ValueError(
                f"copy_to_keras: the model has one variable ({slot.source.path}) in several places, "
                f"{seen[id(slot.source)]} and {name} of the network, which trains each apart"
            )


def _kind(layer: layers.Layer) -> tuple[Any, ...]:
    """What makes a layer's parameters and prediction, beside its input."""
    config = layer.config()
    return tuple(str(config.get(key)) for key in ("name", "units", "bias", "activation", "epsilon"))


# What a layer becomes: Keras's, and its slots once they are built.
_Made = tuple[list[Any], Callable[[], list[Slot]]]


def _no_slots() -> list[Slot]:
    return []


def _function(activation: Any, dtype: str) -> list[Any]:
    return [FUNCTIONS[activation.name](activation, dtype)] if activation.name != "identity" else []


def _named(activation: Any, dtype: str) -> Any:
    return keras.layers.Activation(activation.name, dtype=dtype)


def _make_dense(layer: Any, dtype: str) -> _Made:
    # What is drawn would be overwritten; Keras's random numbers stay where they are.
    m = keras.layers.Dense(layer.units, use_bias=layer.bias, kernel_initializer="zeros", dtype=dtype)
    return [m, *_function(layer.activation, dtype)], partial(_dense_slots, m)


def _make_batch_norm(layer: Any, dtype: str) -> _Made:
    m = keras.layers.BatchNormalization(momentum=1 - layer.momentum, epsilon=layer.epsilon, dtype=dtype)
    return [m], partial(_batch_norm_slots, m)


def _make_layer_norm(layer: Any, dtype: str) -> _Made:
    m = keras.layers.LayerNormalization(epsilon=layer.epsilon, dtype=dtype)
    return [m], partial(_norm_slots, m)


def _make_prelu(layer: Any, dtype: str) -> _Made:
    m = keras.layers.PReLU(dtype=dtype)
    return [m], lambda: [_slot("slope", m.alpha)]


#: bpfast's activations to Keras's layers.
FUNCTIONS: dict[str, Callable[[Any, str], Any]] = {
    **dict.fromkeys(("sigmoid", "tanh", "relu", "selu", "gelu", "silu", "softplus"), _named),
    "leaky_relu": lambda f, dtype: keras.layers.LeakyReLU(negative_slope=f.slope, dtype=dtype),
    "elu": lambda f, dtype: keras.layers.ELU(alpha=f.alpha, dtype=dtype),
}

#: bpfast's layers to Keras's; a Residual, a Maxout and an RReLU have no layer there.
MAKERS: dict[type[layers.Layer], Callable[[Any, str], _Made]] = {
    layers.Dense: _make_dense,
    layers.Activation: lambda layer, dtype: (_function(layer.activation, dtype), _no_slots),
    layers.Dropout: lambda layer, dtype: ([keras.layers.Dropout(layer.rate, dtype=dtype)], _no_slots),
    layers.BatchNorm: _make_batch_norm,
    layers.BatchRenorm: _make_batch_norm,
    layers.LayerNorm: _make_layer_norm,
    layers.PReLU: _make_prelu,
    layers.Auxiliary: lambda layer, dtype: ([], _no_slots),
}


def to_keras(net: Network, *, link: bool = False) -> Any:
    """A Keras model that predicts what a network does, with its weights.

    Parameters
    ----------
    net : Network
        Without `Residual`, `Maxout` and `RReLU`, which have no layer in Keras.
    link : bool, default False
        Put the loss's link at the end: then the model gives what ``net.predict`` gives, otherwise the
        raw outputs of ``net.forward``, which Keras calls logits.

    Returns
    -------
    keras.Sequential
        Not compiled, of the network's dtype; what is frozen is not trainable. A `BatchRenorm` becomes a
        BatchNormalization, which predicts alike; auxiliary heads are left out.
    """
    if not isinstance(net, Network):
        raise TypeError(f"to_keras: net must be a bpfast.Network; got {net!r}")
    dtype, own = str(net.dtype), link_of(net.loss_spec)
    made: list[Any] = [keras.Input((net.n_inputs,), dtype=dtype)]
    parts: list[_Made] = []
    for index, layer in enumerate(net.layers):
        if type(layer) not in MAKERS:
            raise ValueError(f"to_keras: layers[{index}] ({type(layer).__name__}) has no layer in Keras")
        parts.append(MAKERS[type(layer)](layer, dtype))
        made += parts[-1][0]
    functions_of_links = {kind: function for function, kind in LINKS.items()}
    if flag("to_keras", "link", link) and own != "identity":
        made.append(keras.layers.Activation(functions_of_links[own], dtype=dtype))
    elif getattr(made[-1], "activation", None) is functions_of_links.get(own, made):
        made.append(keras.layers.Activation("linear", dtype=dtype))  # It is no link: see `from_keras`.
    model = keras.Sequential(made)
    _fill(net, parts)
    return model


def _fill(net: Network, parts: Sequence[_Made]) -> None:
    arrays, scales = {**net.parameters, **net.statistics}, net.learning_rate_scales
    for index, (modules, slots) in enumerate(parts):
        named = {f"{index}.{slot.name}": slot for slot in slots()}
        for name, slot in named.items():
            slot.store(arrays[name])
        frozen = [name for name in named if scales.get(name) == 0]
        if frozen and len(frozen) == sum(name in scales for name in named):
            modules[0].trainable = False  # So that a BatchNormalization keeps its statistics.
        else:
            for name in frozen:
                named[name].source.trainable = False
