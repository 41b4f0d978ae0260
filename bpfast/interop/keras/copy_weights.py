"""`copy_to_keras`: weights of a network written to the Keras model that it was read from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...network import Network
from ...specs import layers
from ..common import Slot
from .read_model import read_model


def copy_to_keras(net: Network, model: Any) -> None:
    """Write the weights and running statistics of a network to the Keras model that it was read from.

    Parameters
    ----------
    net : Network
        Network that `from_keras` made from this model, or from one with the same layers.
    model : keras.Sequential or keras.Model
        Model to change.

    Raises
    ------
    ValueError
        If the layers of the model differ from those of the network, or if a layer occurs several times,
        since the network trains each occurrence separately. The model is then unchanged.

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
    read = read_model(model, net.loss_spec)
    layers_of_model = tuple(map(_kind, read.stack.all_layers()))
    if read.n_inputs != net.n_inputs or layers_of_model != tuple(map(_kind, net.layers)):
        raise ValueError("copy_to_keras: the model's layers are not those of the network")
    slots = read.stack.named_slots()
    arrays = {**net.parameters, **net.statistics}
    _require_separate(slots)
    for name, slot in slots.items():
        if slot.shared and slot.trained:
            raise ValueError(
                f"copy_to_keras: the model has one slope for all columns; the network's {name} has several"
            )
    for name, slot in slots.items():
        slot.store(arrays[name])


def _require_separate(slots: Mapping[str, Slot]) -> None:
    """Raise an error if a variable occurs several times, for which the network has different values."""
    seen: dict[int, str] = {}
    for name, slot in slots.items():
        if slot.source is not None and seen.setdefault(id(slot.source), name) != name:
            raise ValueError(
                f"copy_to_keras: the model uses one variable ({slot.source.path}) several times, as "
                f"{seen[id(slot.source)]} and {name} of the network, which are trained separately"
            )


def _kind(layer: layers.Layer) -> tuple[Any, ...]:
    """Return the settings of a layer that determine its parameters and predictions."""
    config = layer.config()
    return tuple(str(config.get(key)) for key in ("name", "units", "bias", "activation", "epsilon"))
