"""What the names of an ONNX graph stand for while it is read.

A name is a constant array, a `Value` (the output of a layer), or a `Partial`: an intermediate result that
later nodes must complete to a layer, such as x / √2 in a GELU.
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
    """A layer with its arrays by name, and the pieces inside if it is a `Residual`."""

    layer: Layer
    arrays: dict[str, Array] = field(default_factory=dict)
    within: tuple[Piece, ...] = ()


@dataclass(frozen=True, eq=False)
class Value:
    """A matrix with one row per sample.

    Attributes
    ----------
    width : int
        Number of columns.
    sources : tuple of Value
        Values that it is computed from: none for the input, one for a layer, two for a sum.
    piece : Piece or None
        Layer that computes it; None for the input and for a sum.
    node : NodeProto
        Node that computes it.
    gate : Value or None
        Last value through which every path from the input to this one passes.
    depth : int
        Number of gates from the input to this value.
    """

    width: int
    sources: tuple[Value, ...] = ()
    piece: Piece | None = None
    node: Any = None
    gate: Value | None = None
    depth: int = 0


@dataclass(frozen=True)
class Partial:
    """An intermediate result that is not the output of a layer; `kind` says how it depends on `value`, x.

    affine: a x + c per column · erf: erf(a x) · cdf: a (1 + erf(x / √2)) · gelu: 2 a gelu(x) ·
    mean: the mean of each row · centred: x minus that mean · pieces: rows reshaped into a pieces ·
    softmax, exp · complement: 1 - x · both: the columns 1 - x and x · unflattened: the input, with more
    than two dimensions
    """

    kind: str
    value: Value
    node: Any
    a: Any = 1.0
    c: Any = 0.0

    @property
    def width(self) -> int:
        """Number of columns after flattening."""
        return {"mean": 1, "both": 2}.get(self.kind, self.value.width)


class Reader:
    """What the names of a graph stand for.

    Parameters
    ----------
    graph : GraphProto
        Graph to read.
    known : dict
        What the names read so far stand for; it is extended.
    batch : int, optional
        Number of rows that the graph declares; None if it is not fixed.
    """

    def __init__(self, graph: Any, known: dict[str, Any], batch: int | None = None) -> None:
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.known, self.batch = known, batch

    def get(self, name: str) -> Any:
        """Return the array, Value or Partial of a name; None for an omitted optional input."""
        if name and name not in self.known:
            if name not in self.tensors:
                raise ValueError(
                    f"value {name!r} is not the first output of its node; only that is supported"
                )
            self.known[name] = array_of(self.tensors[name])
        return self.known.get(name)

    def inputs(self, node: Any) -> list[Any]:
        """Return what the inputs of a node stand for."""
        return [self.get(name) for name in node.input]

    def value(self, thing: Any, node: Any) -> Value:
        """Return `thing` as a Value; a scale and shift become part of the preceding dense layer."""
        if isinstance(thing, Partial) and thing.kind == "affine":
            return folded(thing)
        if isinstance(thing, Partial) and thing.kind == "unflattened":
            refuse(node, "takes an input with more than two dimensions; it must be flattened first")
        if isinstance(thing, Partial):
            refuse(thing.node, "is in a position where bpfast has no layer for it")
        if not isinstance(thing, Value):
            refuse(node, "must take a value that depends on the input; got a constant")
        return thing

    def constant(self, thing: Any, node: Any) -> Array:
        """Return `thing` as an array of floats."""
        if not isinstance(thing, np.ndarray):
            refuse(node, "must take a constant; got a value that depends on the input")
        if thing.dtype not in (np.float32, np.float64):
            refuse(node, f"must have weights of float32 or float64; got {thing.dtype}")
        if not np.isfinite(thing).all():
            refuse(node, "has weights that are not finite")
        return thing

    def columns(self, thing: Any, width: int, node: Any) -> Array:
        """Return a constant with one number per column (width,)."""
        array = self.constant(thing, node)
        flat = array[0] if array.ndim == 2 and len(array) == 1 else array
        if flat.size == 1 and array.ndim <= 2:
            return np.full(width, flat.reshape(-1)[0])
        if flat.shape != (width,):
            refuse(node, f"has a constant of shape {array.shape} for {width} columns")
        return np.array(flat)


def refuse(node: Any, why: str) -> NoReturn:
    """Raise an error that names the node that cannot be converted."""
    kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    raise ValueError(f"node {node.name or node.output[0]!r} ({kind}) {why}")


def layer_value(
    node: Any, source: Value, width: int, kind: Callable[..., Layer], *given: Any, **more: Any
) -> Value:
    """Make the Value of a layer `kind(*given, **more)`, with the parameters `arrays`."""
    arrays = more.pop("arrays", {})
    try:
        layer = kind(*given, **more)
    except (ValueError, TypeError) as error:
        refuse(node, f"cannot be converted: {error}")
    return Value(width, (source,), Piece(layer, arrays), node, source, source.depth + 1)


def attributes(node: Any) -> dict[str, Any]:
    """Return the attributes of a node; a float is the shortest number with the same float32."""
    found = {a.name: a for a in node.attribute}
    return {
        name: float(str(np.float32(a.f)))
        if a.type == onnx.AttributeProto.FLOAT
        else helper.get_attribute_value(a)
        for name, a in found.items()
    }


def array_of(tensor: Any) -> Array:
    """Return the array of a tensor, which must be stored in the model itself."""
    name = tensor.name or "of a Constant"
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise ValueError(
            f"tensor {name!r} is stored outside of the model; save the model with its weights inside"
        )
    try:
        if any(extent < 0 for extent in tensor.dims):
            raise ValueError(f"its shape is {tuple(tensor.dims)}")
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"tensor {name!r} is damaged: {' '.join(str(error).split())}") from None


def row(x: Any, width: int) -> Array:
    """Broadcast a number, or one number per column, to (width,)."""
    return np.broadcast_to(np.asarray(x, np.float64), (width,))


def foldable(value: Value) -> bool:
    """Whether a value is the output of a dense layer, into which a scale and shift can be folded."""
    return value.piece is not None and isinstance(value.piece.layer, Dense)


def folded(affine: Partial) -> Value:
    """Fold a (X W + b) + c into one dense layer."""
    value = affine.value
    if not foldable(value):
        refuse(affine.node, "scales or shifts a value that is not the output of a dense layer")
    assert value.piece is not None
    assert isinstance(value.piece.layer, Dense)
    W, b = value.piece.arrays["W"], value.piece.arrays.get("b")
    a, c = (row(x, value.width) for x in (affine.a, affine.c))
    if not (a == 1).all():
        W = (W * a).astype(W.dtype)
    bias = c if b is None else b * a + c
    piece = Piece(replace(value.piece.layer, bias=True), {"W": W, "b": bias.astype(W.dtype)})
    return replace(value, piece=piece, node=affine.node)
