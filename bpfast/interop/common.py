"""What the exchanges share: layers read one after the other, with the arrays that belong to each."""

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
    """One parameter or statistic of a layer, and where it lies in the other library.

    Attributes
    ----------
    name : str
        As in `Network.parameters`, less the layer's number.
    trained : bool
    source : object, optional
        What holds it there; None where the other layer has none, and it stays what it is at the start.
    raw : array, optional
        Its values in bpfast's shape.
    put : callable, optional
        ``put(source, values)`` writes values of bpfast's shape to where they came from.
    order : array of int, optional
        Of every column here, its place among the columns there; one place may serve several.
    """

    name: str
    trained: bool
    source: Any = None
    raw: Array | None = None
    put: Callable[[Any, Array], None] | None = None
    order: NDArray[np.int64] | None = None

    @property
    def array(self) -> Array | None:
        """Its values, as bpfast has them."""
        return self.raw if self.raw is None or self.order is None else self.raw[..., self.order]

    @property
    def shared(self) -> bool:
        """Whether one number there is several here."""
        return self.order is not None and len(np.unique(self.order)) < len(self.order)

    def store(self, values: Array) -> None:
        """Write values, as bpfast has them, to where they came from."""
        if self.put is None:
            return
        assert self.raw is not None
        there = np.empty(self.raw.shape, values.dtype)
        there[..., slice(None) if self.order is None else self.order] = values
        self.put(self.source, there)


@dataclass
class Stack:
    """Layers behind an input of `width` columns, which becomes that of their output."""

    width: int
    layers: list[Layer] = field(default_factory=list)
    slots: list[list[Slot]] = field(default_factory=list)

    def append(self, layer: Layer, slots: Sequence[Slot] = (), width: int | None = None) -> None:
        """Put a layer at the end; it keeps the width where none is given."""
        self.layers.append(layer)
        self.slots.append(list(slots))
        self.width = self.width if width is None else width

    def require_width(self, takes: int) -> None:
        """Refuse a layer that takes other columns than it gets."""
        if takes != self.width:
            raise ValueError(f"takes {takes} columns; it gets {self.width}")

    def bare_dense(self) -> Dense | None:
        """The last layer, if it is a Dense without an activation."""
        last = self.layers[-1] if self.layers else None
        return last if isinstance(last, Dense) and isinstance(last.activation, Identity) else None

    def activate(self, function: Function) -> None:
        """An activation: the Dense before it takes it, if it has none."""
        dense = self.bare_dense()
        if dense is None:
            self.append(Activation(function))
        else:
            self.layers[-1] = Dense(dense.units, function, bias=dense.bias)

    def maxout(self, pieces: int) -> None:
        """The largest of every `pieces` columns side by side, of the Dense before."""
        dense = self.bare_dense()
        if dense is None or dense.units % pieces:
            raise ValueError(f"bpfast takes it behind a dense layer, {pieces} of whose columns make one")
        units = dense.units // pieces
        self.layers[-1] = Maxout(units, pieces, bias=dense.bias)
        self.slots[-1] = [replace(slot, order=pieces_order(units, pieces)) for slot in self.slots[-1]]
        self.width = units

    def residual(self, inner: Stack, projection: Slot | None) -> None:
        """A + F(A), F the layers of another stack."""
        slots = list(inner.named().values())
        if projection is not None:
            slots.append(replace(projection, name="skip.W"))
        self.append(Residual(*inner.made()), slots, inner.width)

    def made(self) -> list[Layer]:
        """The layers; where there are none, one that changes nothing."""
        return self.layers or [Activation("identity")]

    def named(self) -> dict[str, Slot]:
        """The slots by their names in a network of these layers."""
        found = [(f"{i}.{slot.name}", slot) for i, slots in enumerate(self.slots) for slot in slots]
        return {name: replace(slot, name=name) for name, slot in found}

    def network(self, n_inputs: int, loss: Loss, **options: Any) -> Network:
        """A network of these layers and values; what is not trained there is frozen."""
        made = Network(self.made(), n_inputs=n_inputs, loss=loss, **options)
        places = {**made.parameters, **made.statistics}
        slots = self.named()
        for name, slot in slots.items():
            if slot.array is None:
                continue
            values = checks.cast(name, slot.array, made.dtype)
            if not np.isfinite(values).all():
                raise ValueError(f"{name} is not finite in {made.dtype}")
            if slot.name.endswith("variance") and values.min() < 0:
                raise ValueError(f"{name} is below 0")
            places[name][...] = values
        frozen = [name for name, slot in slots.items() if name in made.parameters and not slot.trained]
        made.scale_learning_rates(dict.fromkeys(frozen, 0.0))
        return made


def pieces_order(units: int, pieces: int) -> NDArray[np.int64]:
    """Of every column k · units + u of a `Maxout`, its place where the pieces of a unit lie side by side."""
    return np.arange(units * pieces).reshape(units, pieces).T.ravel()


def at_place(where: str, read: Callable[[], None]) -> None:
    """Read one layer; an error tells which it was."""
    try:
        read()
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from None
