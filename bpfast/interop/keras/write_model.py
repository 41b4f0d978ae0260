"""`to_keras`: networks as Keras models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras

from ...network import Network
from ...specs import layers
from ...specs.losses import link_of
from ...specs.spec import flag
from ..common import Slot
from .slots import LINKS, batch_norm_slots, dense_slots, norm_slots, slot

# The Keras layers of a layer, and what returns its slots once the model is built.
_Made = tuple[list[Any], Callable[[], list[Slot]]]


def _no_slots() -> list[Slot]:
    return []


def _function(activation: Any, dtype: str) -> list[Any]:
    return [FUNCTIONS[activation.name](activation, dtype)] if activation.name != "identity" else []


def _named(activation: Any, dtype: str) -> Any:
    return keras.layers.Activation(activation.name, dtype=dtype)


def _make_dense(layer: Any, dtype: str) -> _Made:
    # Initial values would be overwritten, and drawing them would advance Keras's random generator.
    m = keras.layers.Dense(layer.units, use_bias=layer.bias, kernel_initializer="zeros", dtype=dtype)
    return [m, *_function(layer.activation, dtype)], partial(dense_slots, m)


def _make_batch_norm(layer: Any, dtype: str) -> _Made:
    m = keras.layers.BatchNormalization(momentum=1 - layer.momentum, epsilon=layer.epsilon, dtype=dtype)
    return [m], partial(batch_norm_slots, m)


def _make_layer_norm(layer: Any, dtype: str) -> _Made:
    m = keras.layers.LayerNormalization(epsilon=layer.epsilon, dtype=dtype)
    return [m], partial(norm_slots, m)


def _make_prelu(layer: Any, dtype: str) -> _Made:
    m = keras.layers.PReLU(dtype=dtype)
    return [m], lambda: [slot("slope", m.alpha)]


#: Name of an activation → Keras layer.
FUNCTIONS: dict[str, Callable[[Any, str], Any]] = {
    **dict.fromkeys(("sigmoid", "tanh", "relu", "selu", "gelu", "silu", "softplus"), _named),
    "leaky_relu": lambda f, dtype: keras.layers.LeakyReLU(negative_slope=f.slope, dtype=dtype),
    "elu": lambda f, dtype: keras.layers.ELU(alpha=f.alpha, dtype=dtype),
}

#: Layer → what makes its Keras layers; Residual, Maxout and RReLU have none.
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
    """Convert a network to a Keras model with the same weights and predictions.

    Parameters
    ----------
    net : Network
        Network to convert, without `Residual`, `Maxout` and `RReLU`, which have no counterpart in Keras.
    link : bool, default False
        Append the link of the loss. The model then returns what ``net.predict`` returns, otherwise the
        raw outputs of ``net.forward``, which Keras calls logits.

    Returns
    -------
    keras.Sequential
        Model with the dtype of the network, not compiled; frozen parameters are not trainable. A
        `BatchRenorm` becomes a BatchNormalization, which has the same predictions; auxiliary heads are
        left out.
    """
    if not isinstance(net, Network):
        raise TypeError(f"to_keras: net must be a bpfast.Network; got {net!r}")
    dtype, own = str(net.dtype), link_of(net.loss_spec)
    made: list[Any] = [keras.Input((net.n_inputs,), dtype=dtype)]
    parts: list[_Made] = []
    for index, layer in enumerate(net.layers):
        if type(layer) not in MAKERS:
            raise ValueError(
                f"to_keras: layers[{index}] ({type(layer).__name__}) has no counterpart in Keras"
            )
        parts.append(MAKERS[type(layer)](layer, dtype))
        made += parts[-1][0]
    functions_of_links = {kind: function for function, kind in LINKS.items()}
    if flag("to_keras", "link", link) and own != "identity":
        made.append(keras.layers.Activation(functions_of_links[own], dtype=dtype))
    elif getattr(made[-1], "activation", None) is functions_of_links.get(own, made):
        # So that `from_keras` reads the last layer as an activation, not as the link.
        made.append(keras.layers.Activation("linear", dtype=dtype))
    model = keras.Sequential(made)
    _fill(net, parts)
    return model


def _fill(net: Network, parts: Sequence[_Made]) -> None:
    """Write the arrays of a network to the built layers, and freeze what is frozen."""
    arrays, scales = {**net.parameters, **net.statistics}, net.learning_rate_scales
    for index, (modules, slots) in enumerate(parts):
        named = {f"{index}.{each.name}": each for each in slots()}
        for name, each in named.items():
            each.store(arrays[name])
        frozen = [name for name in named if scales.get(name) == 0]
        if frozen and len(frozen) == sum(name in scales for name in named):
            modules[0].trainable = False  # a BatchNormalization then keeps its statistics
        else:
            for name in frozen:
                named[name].source.trainable = False
