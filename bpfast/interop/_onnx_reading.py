"""Reading an ONNX graph: nodes → values with the layers that make them → nested layers → a network.

Each needed node is looked at once, in order, by the table `READERS`. What a name stands for is a
constant array, a `Value` (what a layer makes of another value), or a `Partial`: something that is
no layer yet, such as x / √2 on the way to a GELU, and an error if nothing makes a layer of it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ..layers import Activation, BatchNorm, Dense, Layer, LayerNorm, Maxout, PReLU, Residual
from ..losses import Loss, link_of, losses, resolve_loss
from ..network import Network
from ..reference import SELU_ALPHA, SELU_SCALE
from ._onnx_graph import DOMAIN, ML_DOMAIN

Array = NDArray[Any]

#: Link → the loss that is taken where nothing names one.
DEFAULT_LOSSES = {
    "softmax": "cross_entropy",
    "sigmoid": "log_loss",
    "exp": "poisson",
    "identity": "squared_error",
}
#: The outputs that hold the prediction, where there are several.
PREDICTIONS = ("probabilities", "scores", "variable", "output_probability")
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)


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
    complement: 1 - x · unflattened: the input, of more than two dimensions
    """

    kind: str
    value: Value
    node: Any
    a: Any = 1.0
    c: Any = 0.0


class _Reader:
    """What the names of a graph stand for."""

    def __init__(self, graph: Any, needed: list[Any], known: dict[str, Any]) -> None:
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.known = known
        for node in needed:
            key = ("" if node.domain == "ai.onnx" else node.domain, node.op_type)
            if key not in READERS:
                refuse(node, "is not among the operators of a dense network that bpfast has")
            self.known[node.output[0]] = READERS[key](self, node)

    def get(self, name: str) -> Any:
        """The array, Value or Partial of a name; None where an optional input is left out."""
        if name and name not in self.known:
            self.known[name] = array_of(self.tensors[name])
        return self.known.get(name)

    def inputs(self, node: Any) -> list[Any]:
        """What a node reads."""
        return [self.get(name) for name in node.input]

    def value(self, thing: Any, node: Any) -> Value:
        """The thing as a value, an unfinished sum or product as part of the dense layer before it."""
        if isinstance(thing, Partial) and thing.kind == "affine":
            return folded(thing)
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
        if flat.size == 1:
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


# ---- what each operator is


def _constant(r: _Reader, node: Any) -> Array:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            return array_of(attribute.t)
    (value,) = attributes(node).values()
    return np.asarray(value, np.float32 if isinstance(value, float) else None)


def _same(r: _Reader, node: Any) -> Any:
    """In prediction the first input as it is."""
    thing, *rest = r.inputs(node)
    if node.op_type == "Dropout" and len(rest) == 2 and np.any(rest[1]):
        refuse(node, "drops in prediction too")
    return thing


def _cast(r: _Reader, node: Any) -> Any:
    (thing,), to = r.inputs(node), attributes(node)["to"]
    if isinstance(thing, np.ndarray):
        return thing.astype(helper.tensor_dtype_to_np_dtype(to))
    if to not in FLOATS:
        refuse(node, "makes something else than float32 or float64 of a value")
    return thing


def _transpose(r: _Reader, node: Any) -> Array:
    (thing,) = r.inputs(node)
    return np.transpose(r.constant(thing, node), attributes(node).get("perm"))


def _flatten(r: _Reader, node: Any) -> Any:
    (thing,) = r.inputs(node)
    if attributes(node).get("axis", 1) not in (1, -1):
        refuse(node, "flattens the rows too")
    return _flat(r, thing, node)


def _flat(r: _Reader, thing: Any, node: Any) -> Any:
    if isinstance(thing, Partial) and thing.kind == "unflattened":
        return thing.value
    return thing if isinstance(thing, Partial) else r.value(thing, node)


def _reshape(r: _Reader, node: Any) -> Any:
    thing, shape = r.inputs(node)
    if not isinstance(shape, np.ndarray):
        refuse(node, "has a shape that is computed; a constant one is wanted")
    if isinstance(thing, np.ndarray):
        return thing.reshape(shape)
    flat = _flat(r, thing, node)
    width = flat.width if isinstance(flat, Value) else flat.value.width
    extents = [int(extent) for extent in shape]
    if len(extents) == 2 and extents[1] in (width, -1) and extents != [-1, -1]:
        return flat
    if len(extents) == 3 and math.prod(extents[1:]) == width and isinstance(flat, Value):
        return Partial("pieces", flat, node, extents[1])
    refuse(node, f"makes shape {extents} of rows of {width} values")


def _maximum(r: _Reader, node: Any) -> Value:
    """Of the pieces of a dense layer: a Maxout."""
    thing, *axes = r.inputs(node)
    told = attributes(node)
    axis = list(np.ravel(axes[0] if axes else told.get("axes", [])))
    if not isinstance(thing, Partial) or thing.kind != "pieces" or axis != [1] or told.get("keepdims", 1):
        refuse(node, "is a maximum over other things than the pieces of a Maxout")
    dense = thing.value.piece
    if dense is None or not isinstance(dense.layer, Dense):
        refuse(node, "is a maximum over pieces that no dense layer makes")
    (source,), units = thing.value.sources, thing.value.width // thing.a
    options = {"bias": "b" in dense.arrays, "arrays": dense.arrays}
    return layer_value(node, source, units, Maxout, units, thing.a, **options)


def _gemm(r: _Reader, node: Any) -> Value:
    thing, W, *rest = r.inputs(node)
    told = attributes(node)
    if told.get("transA"):
        refuse(node, "transposes its rows")
    weights = r.constant(W, node) * np.asarray(told.get("alpha", 1.0)).astype(W.dtype)
    b = rest[0] if rest else None
    made = _dense(r, node, thing, weights.T if told.get("transB") else weights)
    if b is None:
        return made
    return folded(Partial("affine", made, node, 1.0, r.columns(b, made.width, node) * told.get("beta", 1.0)))


def _matmul(r: _Reader, node: Any) -> Value:
    thing, W = r.inputs(node)
    return _dense(r, node, thing, r.constant(W, node))


def _dense(r: _Reader, node: Any, thing: Any, W: Array) -> Value:
    """X W; a x + c before it becomes part of it where no dense layer takes it."""
    scaled = None
    if isinstance(thing, Partial) and thing.kind == "affine" and not _foldable(thing.value):
        scaled, thing = thing, thing.value
    value = r.value(thing, node)
    if W.ndim != 2 or W.shape[0] != value.width or not W.size:
        refuse(node, f"has weights of shape {W.shape} for {value.width} columns")
    arrays = {"W": W}
    if scaled is not None:
        exact, a, c = W.astype(np.float64), _row(scaled.a, value.width), _row(scaled.c, value.width)
        arrays = {"W": (exact * a[:, None]).astype(W.dtype), "b": (c @ exact).astype(W.dtype)}
    units = W.shape[1]
    return layer_value(node, value, units, Dense, units, bias="b" in arrays, arrays=arrays)


def _row(x: Any, width: int) -> Array:
    return np.broadcast_to(np.asarray(x, np.float64), (width,))


def _foldable(value: Value) -> bool:
    return value.piece is not None and isinstance(value.piece.layer, Dense)


def folded(affine: Partial) -> Value:
    """a (X W + b) + c as one dense layer."""
    value = affine.value
    if not _foldable(value):
        refuse(affine.node, "scales or shifts what is not the output of a dense layer")
    assert value.piece is not None
    assert isinstance(value.piece.layer, Dense)
    W, b = value.piece.arrays["W"], value.piece.arrays.get("b")
    a, c = (_row(x, value.width) for x in (affine.a, affine.c))
    if not (a == 1).all():
        W = (W * a).astype(W.dtype)
    bias = c if b is None else b * a + c
    piece = Piece(replace(value.piece.layer, bias=True), {"W": W, "b": bias.astype(W.dtype)})
    return replace(value, piece=piece, node=affine.node)


def _arithmetic(r: _Reader, node: Any) -> Any:
    """Add, Sub, Mul and Div, of two values or of a value and a constant."""
    x, y = r.inputs(node)
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        combined: Array = _OF_CONSTANTS[node.op_type](x, y)
        return combined
    if isinstance(x, np.ndarray) or isinstance(y, np.ndarray):
        return _with_constant(r, node, x, y)
    if node.op_type not in _PAIRS:
        _no_pair(r, node, x, y)
    return _PAIRS[node.op_type](r, node, x, y)


def _with_constant(r: _Reader, node: Any, x: Any, y: Any) -> Any:
    reversed_ = isinstance(x, np.ndarray)
    thing, number = (y, x) if reversed_ else (x, y)
    op = node.op_type
    array = r.constant(number, node).astype(np.float64)
    if reversed_ and op == "Sub" and array.size == 1 and array == 1:
        return Partial("complement", r.value(thing, node), node)
    if reversed_ and op in ("Sub", "Div"):
        refuse(node, "takes a value from a constant, or divides one by it")
    scaling = op in ("Mul", "Div")
    if op == "Div" and (array == 0).any():
        refuse(node, "divides by 0")
    change = {"Add": array, "Sub": -array, "Mul": array, "Div": 1 / array if op == "Div" else array}[op]
    if isinstance(thing, Partial) and thing.kind in ("erf", "cdf", "gelu"):
        return _towards_gelu(node, thing, float(change.reshape(-1)[0]) if change.size == 1 else math.nan)
    if isinstance(thing, Partial) and thing.kind != "affine":
        refuse(thing.node, "stands where bpfast has no layer for it")
    affine = thing if isinstance(thing, Partial) else Partial("affine", r.value(thing, node), node)
    change = change.reshape(()) if change.size == 1 else r.columns(change, affine.value.width, node)
    if scaling:
        return replace(affine, node=node, a=affine.a * change, c=affine.c * change)
    return replace(affine, node=node, c=affine.c + change)


def _towards_gelu(node: Any, thing: Partial, number: float) -> Any:
    """erf(x / √2) + 1, and multiples of that and of x times it."""
    if thing.kind == "erf" and node.op_type == "Add" and number == 1 and _near(thing.a, math.sqrt(0.5)):
        return Partial("cdf", thing.value, node)
    if thing.kind != "erf" and node.op_type in ("Mul", "Div"):
        return _gelu_of(replace(thing, node=node, a=thing.a * number))
    refuse(node, "is no part of a GELU")


def _gelu_of(thing: Partial) -> Any:
    if thing.kind == "gelu" and _near(thing.a, 0.5):
        return layer_value(thing.node, thing.value, thing.value.width, Activation, "gelu")
    return thing


def _near(a: Any, b: float) -> bool:
    return bool(np.size(a) == 1 and abs(float(a) - b) < 1e-6)


def _sum(r: _Reader, node: Any, x: Any, y: Any) -> Value:
    """Two branches, which part at the last gate that both have."""
    u, v = r.value(x, node), r.value(y, node)
    if u.width != v.width:
        refuse(node, f"adds {u.width} columns and {v.width}")
    a, b = u, v
    while a is not b:
        if a.depth < b.depth:
            a, b = b, a
        assert a.gate is not None
        a = a.gate
    return Value(u.width, (u, v), None, node, a, a.depth + 1)


def _difference(r: _Reader, node: Any, x: Any, y: Any) -> Partial:
    if isinstance(y, Partial) and y.kind == "mean" and x is y.value:
        return Partial("centred", y.value, node)
    return _no_pair(r, node, x, y)


def _product(r: _Reader, node: Any, x: Any, y: Any) -> Any:
    for one, other in ((x, y), (y, x)):
        if isinstance(other, Partial) and other.kind == "cdf":
            factor = _multiple(one, other.value)
            if factor is not None:
                return _gelu_of(Partial("gelu", other.value, node, other.a * factor))
        sigmoid = isinstance(other, Value) and other.piece is not None and other.sources == (one,)
        if sigmoid and other.piece.layer == Activation("sigmoid"):
            return layer_value(node, one, one.width, Activation, "silu")
    return _no_pair(r, node, x, y)


def _multiple(thing: Any, value: Value) -> float | None:
    """a, if the thing is a x."""
    if thing is value:
        return 1.0
    if not isinstance(thing, Partial) or thing.kind != "affine" or thing.value is not value:
        return None
    return float(thing.a) if np.size(thing.a) == 1 and not np.any(thing.c) else None


def _no_pair(r: _Reader, node: Any, x: Any, y: Any) -> NoReturn:
    refuse(node, "combines two values in a way that bpfast has no layer for")


_OF_CONSTANTS: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
}
_PAIRS: dict[str, Callable[..., Any]] = {"Add": _sum, "Sub": _difference, "Mul": _product}


def _erf(r: _Reader, node: Any) -> Partial:
    (thing,) = r.inputs(node)
    if isinstance(thing, Value):
        return Partial("erf", thing, node)
    factor = _multiple(thing, thing.value) if isinstance(thing, Partial) else None
    if factor is None:
        refuse(node, "is no part of a GELU")
    return Partial("erf", thing.value, node, factor)


def _row_mean(r: _Reader, node: Any) -> Partial:
    thing, *axes = r.inputs(node)
    told = attributes(node)
    axis = list(np.ravel(axes[0] if axes else told.get("axes", [])))
    if axis not in ([-1], [1]) or not told.get("keepdims", 1):
        refuse(node, "is a mean over other things than the columns of each row")
    return Partial("mean", r.value(thing, node), node)


def _function(name: str, **defaults: float) -> Callable[[_Reader, Any], Value]:
    """A reader for an activation whose attributes must be these, or are its parameters."""

    def read(r: _Reader, node: Any) -> Value:
        value = r.value(r.get(node.input[0]), node)
        told = attributes(node)
        for key, wanted in defaults.items():
            if not _near(told.get(key, wanted), wanted):
                refuse(node, f"has {key} {told[key]}; bpfast has it with {wanted}")
        if told.get("approximate", b"none") not in (b"none", "none"):
            refuse(node, "is an approximation; the GELU of bpfast goes by erf")
        return layer_value(node, value, value.width, Activation, name)

    return read


def _elu(r: _Reader, node: Any) -> Value:
    from ..activations import ELU

    thing, *alpha = r.inputs(node)
    value = r.value(thing, node)
    number = _number(r, node, alpha[0]) if alpha else attributes(node).get("alpha", 1.0)
    return _activation(node, value, ELU, number)


def _number(r: _Reader, node: Any, thing: Any) -> float:
    array = r.constant(thing, node)
    if array.size != 1:
        refuse(node, f"has a constant of shape {array.shape}; one number is wanted")
    return float(array.reshape(()))


def _activation(node: Any, value: Value, kind: Any, number: float) -> Value:
    return layer_value(node, value, value.width, lambda: Activation(kind(number)))


def _leaky(r: _Reader, node: Any) -> Value:
    value = r.value(r.get(node.input[0]), node)
    return _sloped(node, value, attributes(node).get("alpha", 0.01))


def _sloped(node: Any, value: Value, slope: float) -> Value:
    from ..activations import LeakyReLU

    if slope > 0:
        return _activation(node, value, LeakyReLU, slope)
    return layer_value(node, value, value.width, PReLU, arrays={"slope": np.full(value.width, slope)})


def _prelu(r: _Reader, node: Any) -> Value:
    thing, slope = r.inputs(node)
    value = r.value(thing, node)
    if r.constant(slope, node).ndim == 0:
        return _sloped(node, value, float(slope))
    slopes = r.columns(slope, value.width, node)
    return layer_value(node, value, value.width, PReLU, arrays={"slope": slopes})


def _shifted(thing: Any) -> tuple[Any, Any]:
    """x and c, if the thing is x + c; else the thing and 0."""
    if isinstance(thing, Partial) and thing.kind == "affine" and np.all(np.asarray(thing.a) == 1):
        return thing.value, thing.c
    return thing, 0.0


def _batch_norm(r: _Reader, node: Any) -> Value:
    thing, gamma, beta, mean, variance, *rest = r.inputs(node)
    told = attributes(node)
    if told.get("training_mode"):
        refuse(node, "normalises by the batch in prediction too")
    shifted, shift = _shifted(thing)
    value = r.value(shifted, node)
    arrays = [r.columns(array, value.width, node) for array in (gamma, beta, mean, variance)]
    if arrays[3].min() < 0:
        refuse(node, "has a variance below 0")
    if np.any(shift):
        arrays[2] = (arrays[2] - shift).astype(arrays[2].dtype)
    momentum = round(1 - told.get("momentum", 0.9), 6)
    options = {
        "epsilon": _number(r, node, rest[0]) if rest else told.get("epsilon", 1e-5),
        "momentum": momentum if 0 < momentum <= 1 else 0.1,
        "arrays": dict(zip(("gamma", "beta", "mean", "variance"), arrays, strict=True)),
    }
    return layer_value(node, value, value.width, BatchNorm, **options)


def _layer_norm(r: _Reader, node: Any) -> Value:
    thing, scale, *rest = r.inputs(node)
    told = attributes(node)
    if told.get("axis", -1) not in (1, -1) or any(node.output[1:]):
        refuse(node, "normalises over other things than the columns of each row")
    if isinstance(thing, Partial) and thing.kind == "centred":
        thing = thing.value
    value = r.value(thing, node)
    gamma = r.columns(scale, value.width, node)
    has_beta = bool(rest) and rest[0] is not None
    beta = r.columns(rest[0], value.width, node) if has_beta else np.zeros_like(gamma)
    epsilon = _number(r, node, rest[1]) if len(rest) > 1 else told.get("epsilon", 1e-5)
    arrays = {"gamma": gamma, "beta": beta}
    return layer_value(node, value, value.width, LayerNorm, epsilon=epsilon, arrays=arrays)


def _link(r: _Reader, node: Any) -> Partial:
    (thing,) = r.inputs(node)
    if node.op_type == "Softmax" and attributes(node).get("axis", -1) not in (1, -1):
        refuse(node, "is over other things than the columns of each row")
    return Partial(node.op_type.lower(), r.value(thing, node), node)


def _concat(r: _Reader, node: Any) -> Value:
    """1 - p beside p: the probabilities of two classes, of which p is enough."""
    things = r.inputs(node)
    two = len(things) == 2 and isinstance(things[0], Partial) and things[0].kind == "complement"
    if not two or things[0].value is not things[1] or things[1].width != 1:
        refuse(node, "puts columns side by side, which no layer of bpfast does")
    value: Value = things[1]
    return value


def _scaler(r: _Reader, node: Any) -> Partial:
    (thing,), told = r.inputs(node), attributes(node)
    value = r.value(thing, node)
    scale = r.columns(np.asarray(told.get("scale", [1.0]), np.float64), value.width, node)
    offset = r.columns(np.asarray(told.get("offset", [0.0]), np.float64), value.width, node)
    return Partial("affine", value, node, scale, -offset * scale)


Read = Callable[[_Reader, Any], Any]
_STANDARD: dict[str, Read] = {
    "Constant": _constant,
    "Identity": _same,
    "Dropout": _same,
    "Cast": _cast,
    "Transpose": _transpose,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "ReduceMax": _maximum,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _arithmetic,
    "Sub": _arithmetic,
    "Mul": _arithmetic,
    "Div": _arithmetic,
    "Erf": _erf,
    "ReduceMean": _row_mean,
    "Relu": _function("relu"),
    "Sigmoid": _function("sigmoid"),
    "Tanh": _function("tanh"),
    "Softplus": _function("softplus"),
    "Gelu": _function("gelu"),
    "Selu": _function("selu", alpha=SELU_ALPHA, gamma=SELU_SCALE),
    "Elu": _elu,
    "LeakyRelu": _leaky,
    "PRelu": _prelu,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "Softmax": _link,
    "Exp": _link,
    "Concat": _concat,
}
_OWN = ("PRelu", "Elu", "Selu", "Softplus", "Gelu", "BatchNormalization", "LayerNormalization")

#: (domain, operator) → (reader, node) → what its output is.
READERS: dict[tuple[str, str], Read] = {
    **{("", name): read for name, read in _STANDARD.items()},
    **{(DOMAIN, name): _STANDARD[name] for name in _OWN},
    (ML_DOMAIN, "Scaler"): _scaler,
    (ML_DOMAIN, "ZipMap"): _same,
}


# ---- from values to layers


def _chain(target: Value, start: Value) -> list[Piece]:
    """The layers from one value to another, in order."""
    pieces: list[Piece] = []
    while target is not start:
        if target.piece is not None:
            pieces.append(target.piece)
        else:
            pieces.append(_residual(target))
        assert target.gate is not None
        target = target.gate
    return _joined(pieces[::-1])


def _residual(total: Value) -> Piece:
    """A sum whose one branch is what came in, or a projection of it."""
    assert total.gate is not None
    branches = [_chain(source, total.gate) for source in total.sources]
    for within, skip in (branches, branches[::-1]):
        if not skip:
            within = within or [Piece(Activation("identity"))]
            return Piece(Residual(*(piece.layer for piece in within)), {}, tuple(within))
    for within, skip in (branches, branches[::-1]):
        projects = [piece.layer for piece in skip] == [Dense(total.width, bias=False)]
        if projects and total.gate.width != total.width:
            layer = Residual(*(piece.layer for piece in within))
            return Piece(layer, {"skip.W": skip[0].arrays["W"]}, tuple(within))
    refuse(total.node, "adds two branches, of which none is what came in or a projection of other width")


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Dense layers with the activation behind them."""
    joined: list[Piece] = []
    for piece in pieces:
        before = joined[-1].layer if joined else None
        plain = isinstance(before, Dense) and before == Dense(before.units, bias=before.bias)
        if plain and isinstance(before, Dense) and isinstance(piece.layer, Activation):
            layer = Dense(before.units, piece.layer.activation, bias=before.bias)
            joined[-1] = Piece(layer, joined[-1].arrays)
        else:
            joined.append(piece)
    return joined


def _arrays(pieces: list[Piece] | tuple[Piece, ...], prefix: str = "") -> dict[str, Array]:
    """The arrays of all pieces under the names that a network gives them."""
    named: dict[str, Array] = {}
    for index, piece in enumerate(pieces):
        named |= {f"{prefix}{index}.{name}": array for name, array in piece.arrays.items()}
        named |= _arrays(piece.within, f"{prefix}{index}.")
    return named


# ---- from a model to a network


def read_model(model: Any) -> Any:
    """A model from a file, or as it is.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        If there is no file, if it is no model, or damaged.
    """
    if isinstance(model, onnx.ModelProto):
        return model
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(f"model must be an onnx.ModelProto or the path of a file; got {type(model)!r}")
    path = os.fspath(model)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no model file {path!r}")
    try:
        with open(path, "rb") as file:
            proto = onnx.ModelProto.FromString(file.read())
    except (DecodeError, OSError) as error:
        raise ValueError(f"{path!r} is not an ONNX model, or is damaged: {error}") from None
    if not proto.graph.node:
        raise ValueError(f"{path!r} is not an ONNX model, or is damaged: it has no nodes")
    return proto


def _needed(graph: Any, output: str) -> tuple[list[Any], list[str]]:
    """The nodes that an output depends on, in the graph's order, and the inputs among them."""
    makers = {name: node for node in graph.node for name in node.output if name}
    weights = {tensor.name for tensor in graph.initializer}
    waiting, seen = [output], {output}
    while waiting:
        name = waiting.pop()
        for source in makers[name].input if name in makers else ():
            if source and source not in seen:
                seen.add(source)
                waiting.append(source)
    nodes = [node for node in graph.node if any(name in seen for name in node.output)]
    return nodes, [i.name for i in graph.input if i.name in seen and i.name not in weights]


def _output(graph: Any, output: str | None) -> str:
    names = [declared.name for declared in graph.output]
    if output is not None:
        if output not in {*names, *(name for node in graph.node for name in node.output)}:
            raise ValueError(f"output: the model has no {output!r}; its outputs are {', '.join(names)}")
        return output
    found = [name for name in PREDICTIONS if name in names] or names
    if len(names) > 1 and found == names:
        raise ValueError(f"the model has the outputs {', '.join(names)}; say which one with output=")
    return found[0]


def _input(graph: Any, names: list[str], nodes: list[Any]) -> Any:
    """The input as a value."""
    if len(names) != 1:
        raise ValueError(
            f"the prediction depends on {len(names)} inputs ({', '.join(names[:5])}); one is wanted "
            f"(a model of `bpfast train` is to be exported with preparation=False)"
        )
    kind = next(i.type for i in graph.input if i.name == names[0]).tensor_type
    if kind.elem_type not in FLOATS:
        raise ValueError(f"input {names[0]!r} is not one of float32 or float64")
    extents = [dim.dim_value for dim in kind.shape.dim[1:]]
    if extents and all(extents):
        width = math.prod(extents)
    elif len(extents) <= 1:
        width = _width_of_first(graph, nodes)
    else:
        raise ValueError(f"input {names[0]!r} has {len(extents)} dimensions of which some are not declared")
    value = Value(width)
    return value if len(extents) <= 1 else Partial("unflattened", value, nodes[0])


def _width_of_first(graph: Any, nodes: list[Any]) -> int:
    """The rows of the first weights."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in nodes:
        if node.op_type in ("Gemm", "MatMul") and len(shapes.get(node.input[1], ())) == 2:
            return int(shapes[node.input[1]][1 if attributes(node).get("transB") else 0])
    raise ValueError("the model does not say how many columns its input has")


def _check(model: Any) -> None:
    graph = model.graph
    tensors = [*graph.initializer, *(a.t for node in graph.node for a in node.attribute if a.HasField("t"))]
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            array_of(tensor)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ValueError(f"the model is damaged: {' '.join(str(error).split())}") from None
    if graph.sparse_initializer:
        raise ValueError("the model has sparse weights; dense ones are wanted")


def _noted_loss(model: Any) -> Loss | None:
    """The loss that `to_onnx` has noted."""
    noted = {p.key: p.value for p in model.metadata_props}.get("loss")
    if noted is None or model.producer_name != "bpfast":
        return None
    try:
        return losses.from_config(json.loads(noted))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"the model is damaged: its loss can't be read: {error}") from None


def read_network(model: Any, loss: Any, output: str | None, options: dict[str, Any]) -> Network:
    """The network that makes an output of a model."""
    _check(model)
    name = _output(model.graph, output)
    nodes, inputs = _needed(model.graph, name)
    root = _input(model.graph, inputs, nodes)
    reader = _Reader(model.graph, nodes, {inputs[0]: root})
    start = root.value if isinstance(root, Partial) else root
    end = reader.known[name]
    link = end.kind if isinstance(end, Partial) and end.kind in ("softmax", "exp") else "identity"
    last = end.value if link != "identity" else reader.value(end, nodes[-1])
    if last.piece is not None and last.piece.layer == Activation("sigmoid") and link == "identity":
        link = "sigmoid"
    spec = resolve_loss(loss) if loss is not None else _noted_loss(model)
    spec = resolve_loss(DEFAULT_LOSSES[link]) if spec is None else spec
    wanted = link_of(spec)
    if link == "sigmoid" and wanted == "sigmoid":
        last = last.sources[0]
    elif link not in ("identity", wanted) and not (link == "sigmoid" and wanted == "identity"):
        raise ValueError(f"loss {spec.name!r} predicts by {wanted}; the model ends in {link}")
    pieces = _chain(last, start)
    if not pieces:
        raise ValueError("the model has no layer")
    arrays = _arrays(pieces)
    double = any(array.dtype == np.float64 for array in arrays.values())
    network = Network(
        [piece.layer for piece in pieces],
        n_inputs=start.width,
        loss=spec,
        dtype="float64" if double else "float32",
        **options,
    )
    places = {**network.parameters, **network.statistics}
    for key, array in arrays.items():
        places[key][...] = array
    return network
