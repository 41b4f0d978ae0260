"""Common to all converters: a stack of layers read in order, with the arrays that belong to each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array, checks
from ..network import Network
from ..specs.activations import Activation as Function
from ..specs.activations import Identity
from ..specs.layers import Activation, Dense, Layer, Maxout, Residual
from ..specs.losses import Loss


@dataclass(frozen=True)
class Slot:
    """One parameter or statistic of a layer and its counterpart in the other library.

    Attributes
    ----------
    name : str
        Name as in `Network.parameters`, without the layer's number.
    trained : bool
        Whether the other library trains it.
    source : object, optional
        Object that holds it in the other library; None if the other layer does not have it and it
        keeps its initial value.
    raw : array, optional
        Values of `source` in bpfast's shape.
    put : callable, optional
        ``put(source, values)`` writes values in bpfast's shape to `source`.
    order : array of int, optional
        Index in `raw` of every column of the layer; an index may occur several times.
    """

    name: str
    trained: bool
    source: Any = None
    raw: Array | None = None
    put: Callable[[Any, Array], None] | None = None
    order: NDArray[np.int64] | None = None

    @property
    def array(self) -> Array | None:
        """The values as the bpfast layer holds them."""
        return self.raw if self.raw is None or self.order is None else self.raw[..., self.order]

    @property
    def shared(self) -> bool:
        """Whether one number of the source is used for several columns."""
        return self.order is not None and len(np.unique(self.order)) < len(self.order)

    def store(self, values: Array) -> None:
        """Write the values of the bpfast layer to the source."""
        if self.put is None:
            return
        assert self.raw is not None
        ordered = np.empty(self.raw.shape, values.dtype)
        ordered[..., slice(None) if self.order is None else self.order] = values
        self.put(self.source, ordered)


@dataclass
class Stack:
    """Layers in order, with their slots.

    Attributes
    ----------
    width : int
        Number of columns of the input, then of the output of the last layer.
    layers : list of Layer
    slots : list of list of Slot
        Slots of each layer.
    """

    width: int
    layers: list[Layer] = field(default_factory=list)
    slots: list[list[Slot]] = field(default_factory=list)

    def append(self, layer: Layer, slots: Sequence[Slot] = (), width: int | None = None) -> None:
        """Append a layer; without `width`, it keeps the number of columns."""
        self.layers.append(layer)
        self.slots.append(list(slots))
        self.width = self.width if width is None else width

    def require_width(self, expected: int) -> None:
        """Raise an error if the next layer does not take the current number of columns."""
        if expected != self.width:
            raise ValueError(f"takes {expected} columns but gets {self.width}")

    def bare_dense(self) -> Dense | None:
        """Return the last layer if it is a Dense without an activation."""
        last = self.layers[-1] if self.layers else None
        return last if isinstance(last, Dense) and isinstance(last.activation, Identity) else None

    def activate(self, function: Function) -> None:
        """Append an activation, or make it that of a preceding Dense without one."""
        dense = self.bare_dense()
        if dense is None:
            self.append(Activation(function))
        else:
            self.layers[-1] = Dense(dense.units, function, bias=dense.bias)

    def maxout(self, pieces: int) -> None:
        """Turn a Dense followed by the maximum over groups of `pieces` adjacent columns into a Maxout."""
        dense = self.bare_dense()
        if dense is None or dense.units % pieces:
            raise ValueError(
                f"must follow a dense layer whose number of columns is divisible by {pieces}, to be a Maxout"
            )
        units = dense.units // pieces
        self.layers[-1] = Maxout(units, pieces, bias=dense.bias)
        self.slots[-1] = [replace(slot, order=pieces_order(units, pieces)) for slot in self.slots[-1]]
        self.width = units

    def residual(self, inner: Stack, projection: Slot | None) -> None:
        """Append A + F(A), where F is the layers of another stack."""
        slots = list(inner.named_slots().values())
        if projection is not None:
            slots.append(replace(projection, name="skip.W"))
        self.append(Residual(*inner.all_layers()), slots, inner.width)

    def all_layers(self) -> list[Layer]:
        """Return the layers, or an identity if there are none."""
        return self.layers or [Activation("identity")]

    def named_slots(self) -> dict[str, Slot]:
        """Return the slots by their names in a network with these layers."""
        found = [(f"{i}.{slot.name}", slot) for i, slots in enumerate(self.slots) for slot in slots]
        return {name: replace(slot, name=name) for name, slot in found}

    def network(self, n_inputs: int, loss: Loss, **options: Any) -> Network:
        """Make a network with these layers and values; untrained parameters are frozen."""
        net = Network(self.all_layers(), n_inputs=n_inputs, loss=loss, **options)
        arrays = {**net.parameters, **net.statistics}
        slots = self.named_slots()
        for name, slot in slots.items():
            if slot.array is None:
                continue
            values = checks.cast(name, slot.array, net.dtype)
            if not np.isfinite(values).all():
                raise ValueError(f"{name} contains values that are not finite in {net.dtype}")
            if slot.name.endswith("variance") and values.min() < 0:
                raise ValueError(f"{name} contains negative values")
            arrays[name][...] = values
        frozen = [name for name, slot in slots.items() if name in net.parameters and not slot.trained]
        net.scale_learning_rates(dict.fromkeys(frozen, 0.0))
        return net


def pieces_order(units: int, pieces: int) -> NDArray[np.int64]:
    """Map column k · units + u of a `Maxout` to its column if the pieces of each unit are adjacent."""
    return np.arange(units * pieces).reshape(units, pieces).T.ravel()


def read_at(where: str, read: Callable[[], None]) -> None:
    """Call `read`, and prefix the message of an error with the position of the layer."""
    try:
        read()
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from None
