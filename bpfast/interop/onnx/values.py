"""What the names of an ONNX graph stand for while it is read.

A constant array, a `Value` (what a layer makes of another value), or a `Partial`: something that is no
layer yet, such as x / √2 on the way to a GELU, and an error if nothing makes a layer of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...arrays import Array
from ...specs.layers import Dense, Layer


@dataclass(frozen=True)
class Piece:
    """A layer with its arrays by name, and of a residual one the pieces within."""

    layer: Layer
    arrays: dict[str, Array] = field(default_factory=dict)
    within: tuple[Piece, ...] = ()


@dataclass(frozen=True, eq=False)
class Value:
    """A matrix with a row a sample.

    Attributes
    ----------
    width : int
        Its columns.
    sources : tuple of Value
        None of the input, one of a layer, two of a sum.
    piece : Piece or None
        The layer that makes it; None of the input and of a sum.
    node : NodeProto
    """

    width: int
    sources: tuple[Value, ...] = ()
    piece: Piece | None = None
    node: Any = None
    #: The last value that all ways from the input to this one go through, and how many there are.
    gate: Value | None = None
    depth: int = 0


@dataclass(frozen=True)
class Partial:
    """Not yet what a layer makes: `kind` says what of `value`.

    affine: a x + c, column by column · erf: erf(a x) · cdf: a (1 + erf(x / √2)) · gelu: 2 a gelu(x) ·
    mean: of each row · centred: x less its mean · pieces: rows cut into a · softmax, exp ·
    complement: 1 - x · both: 1 - x beside x · unflattened: the input, of more than two dimensions
    """

    kind: str
    value: Value
    node: Any
    a: Any = 1.0
    c: Any = 0.0

    @property
    def width(self) -> int:
        """Its columns, flattened."""
        return {"mean": 1, "both": 2}.get(self.kind, self.value.width)


class Reader:
    """What the names of a graph stand for; `batch` is how many rows it declares, None if any number."""

    def __init__(self, graph: Any, known: dict[str, Any], batch: int | None = None) -> None:
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.known, self.batch = known, batch

    def get(self, name: str) -> Any:
        """The array, Value or Partial of a name; None where an optional input is left out."""
        if name and name not in self.known:
            if name not in self.tensors:
                raise ValueError(f"value {name!r} is not the first output of its node, which alone is read")
            self.known[name] = array_of(self.tensors[name])
        return self.known.get(name)

    def inputs(self, node: Any) -> list[Any]:
        """What a node reads."""
        return [self.get(name) for name in node.input]

    def value(self, thing: Any, node: Any) -> Value:
        """The thing as a value, an unfinished sum or product as part of the dense layer before it."""
        if isinstance(thing, Partial) and thing.kind == "affine":
            return folded(thing)
        if isinstance(thing, Partial) and thing.kind == "unflattened":
            refuse(node, "takes an input of more than two dimensions; a Flatten is wanted before it")
        if isinstance(thing, Partial):
            refuse(thing.node, "stands where bpfast has no layer for it")
        if not isinstance(thing, Value):
            refuse(node, "wants a value computed from the input, and gets a constant")
        return thing

    def constant(self, thing: Any, node: Any) -> Array:
        """The thing as an array of floats."""
        if not isinstance(thing, np.ndarray):
            refuse(node, "wants a constant, and gets what is computed from the input")
        if thing.dtype not in (np.float32, np.float64):
            refuse(node, f"has weights of {thing.dtype}; float32 or float64 is wanted")
        if not np.isfinite(thing).all():
            refuse(node, "has weights that are not finite")
        return thing

    def columns(self, thing: Any, width: int, node: Any) -> Array:
        """A constant of one number a column (width,)."""
        array = self.constant(thing, node)
        flat = array[0] if array.ndim == 2 and len(array) == 1 else array
        if flat.size == 1 and array.ndim <= 2:
            return np.full(width, flat.reshape(-1)[0])
        if flat.shape != (width,):
            refuse(node, f"has a constant of shape {array.shape} for {width} columns")
        return np.array(flat)


def refuse(node: Any, why: str) -> NoReturn:
    """Say which node can't be read."""
    kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    raise ValueError(f"node {node.name or node.output[0]!r} ({kind}) {why}")


def layer_value(
    node: Any, source: Value, width: int, kind: Callable[..., Layer], *given: Any, **more: Any
) -> Value:
    """A value that a layer makes; `arrays` are its parameters."""
    arrays = more.pop("arrays", {})
    try:
        layer = kind(*given, **more)
    except (ValueError, TypeError) as error:
        refuse(node, f"can't be taken: {error}")
    return Value(width, (source,), Piece(layer, arrays), node, source, source.depth + 1)


def attributes(node: Any) -> dict[str, Any]:
    """The attributes of a node; floats as the shortest number that is the same float32."""
    found = {a.name: a for a in node.attribute}
    return {
        name: float(str(np.float32(a.f)))
        if a.type == onnx.AttributeProto.FLOAT
        else helper.get_attribute_value(a)
        for name, a in found.items()
    }


def array_of(tensor: Any) -> Array:
    """The array of a tensor that is in the model itself."""
    name = tensor.name or "of a Constant"
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise ValueError(f"tensor {name!r} lies outside of the model; save the model with its weights inside")
    try:
        if any(extent < 0 for extent in tensor.dims):
            raise ValueError(f"its shape is {tuple(tensor.dims)}")
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"tensor {name!r} is damaged: {' '.join(str(error).split())}") from None


def row(x: Any, width: int) -> Array:
    return np.broadcast_to(np.asarray(x, np.float64), (width,))


def foldable(value: Value) -> bool:
    return value.piece is not None and isinstance(value.piece.layer, Dense)


def folded(affine: Partial) -> Value:
    """a (X W + b) + c as one dense layer."""
    value = affine.value
    if not foldable(value):
        refuse(affine.node, "scales or shifts what is not the output of a dense layer")
    assert value.piece is not None
    assert isinstance(value.piece.layer, Dense)
    W, b = value.piece.arrays["W"], value.piece.arrays.get("b")
    a, c = (row(x, value.width) for x in (affine.a, affine.c))
    if not (a == 1).all():
        W = (W * a).astype(W.dtype)
    bias = c if b is None else b * a + c
    piece = Piece(replace(value.piece.layer, bias=True), {"W": W, "b": bias.astype(W.dtype)})
    return replace(value, piece=piece, node=affine.node)
