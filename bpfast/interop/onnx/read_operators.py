"""The operators of ONNX that are read: a table of functions from a node to a value, partial or array."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import onnx
from onnx import helper

from ...arrays import Array
from ...reference.formulas import SELU_ALPHA, SELU_SCALE
from ...specs.activations import ELU, LeakyReLU
from ...specs.layers import Activation, BatchNorm, Dense, LayerNorm, Maxout, PReLU
from .read_values import (
    Partial,
    Reader,
    Value,
    array_of,
    attributes,
    foldable,
    folded,
    layer_value,
    refuse,
    row,
)
from .write_graph import DOMAIN, ML_DOMAIN

FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)


def _constant(r: Reader, node: Any) -> Array:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            return array_of(attribute.t)
    (value,) = attributes(node).values()
    return np.asarray(value, np.float32 if isinstance(value, float) else None)


def _same(r: Reader, node: Any) -> Any:
    """The first input, for operators without effect in prediction."""
    thing, *rest = r.inputs(node)
    if node.op_type == "Dropout" and len(rest) == 2 and np.any(rest[1]):
        refuse(node, "also drops values in prediction")
    return thing


def _cast(r: Reader, node: Any) -> Any:
    (thing,), to = r.inputs(node), attributes(node)["to"]
    if isinstance(thing, np.ndarray):
        return thing.astype(helper.tensor_dtype_to_np_dtype(to))
    if to not in FLOATS:
        refuse(node, "casts a value to a type other than float32 or float64")
    return thing


def _transpose(r: Reader, node: Any) -> Array:
    (thing,), perm = r.inputs(node), attributes(node).get("perm")
    array = r.constant(thing, node)
    if perm is not None and sorted(perm) != list(range(array.ndim)):
        refuse(node, f"permutes the dimensions of shape {array.shape} by {list(perm)}")
    return np.transpose(array, perm)


def _flatten(r: Reader, node: Any) -> Any:
    (thing,) = r.inputs(node)
    deep = isinstance(thing, Partial) and thing.kind in _DEEP
    if attributes(node).get("axis", 1) not in ((1,) if deep else (1, -1)):
        refuse(node, "also flattens the rows")
    return _flat(r, thing, node)


#: Kinds of partials with more than two dimensions, whose flattened form is their value.
_DEEP = ("unflattened", "pieces")


def _flat(r: Reader, thing: Any, node: Any) -> Any:
    if isinstance(thing, Partial):
        return thing.value if thing.kind in _DEEP else thing
    return r.value(thing, node)


def _reshape(r: Reader, node: Any) -> Any:
    thing, shape = r.inputs(node)
    if not isinstance(shape, np.ndarray):
        refuse(node, "has a computed shape; it must be constant")
    if isinstance(thing, np.ndarray):
        try:
            return thing.reshape(shape)
        except (ValueError, TypeError):
            refuse(node, f"cannot reshape {thing.size} numbers to {shape.tolist()}")
    flat = _flat(r, thing, node)
    width = flat.width
    extents = [int(extent) for extent in np.ravel(shape)]
    copied = () if attributes(node).get("allowzero") else (0,)
    if not extents or extents[0] not in (-1, *copied, r.batch):
        refuse(node, f"reshapes rows of {width} values to {extents}; the first size must be -1 or 0")
    if len(extents) == 2 and extents[1] in (width, -1) and extents != [-1, -1]:
        return flat
    cut = len(extents) == 3 and min(extents[1:]) > 0 and math.prod(extents[1:]) == width
    if cut and isinstance(flat, Value):
        return Partial("pieces", flat, node, extents[1])
    return refuse(node, f"reshapes rows of {width} values to {extents}")


def _maximum(r: Reader, node: Any) -> Value:
    """The maximum over the pieces of a dense layer, a Maxout."""
    thing, *axes = r.inputs(node)
    options = attributes(node)
    axis = list(np.ravel(axes[0] if axes else options.get("axes", [])))
    if not isinstance(thing, Partial) or thing.kind != "pieces" or axis != [1] or options.get("keepdims", 1):
        refuse(node, "is a maximum that is not over the pieces of a Maxout")
    dense = thing.value.piece
    if dense is None or not isinstance(dense.layer, Dense):
        refuse(node, "is a maximum over pieces that are not the output of a dense layer")
    (source,), units = thing.value.sources, thing.value.width // thing.a
    return layer_value(
        node, source, units, Maxout, units, thing.a, bias="b" in dense.arrays, arrays=dense.arrays
    )


def _gemm(r: Reader, node: Any) -> Value:
    thing, W, *rest = r.inputs(node)
    options = attributes(node)
    if options.get("transA"):
        refuse(node, "transposes its rows")
    weights = r.constant(W, node) * np.asarray(options.get("alpha", 1.0)).astype(W.dtype)
    b = rest[0] if rest else None
    value = _dense(r, node, thing, weights.T if options.get("transB") else weights)
    if b is None:
        return value
    shift = r.columns(b, value.width, node) * options.get("beta", 1.0)
    return folded(Partial("affine", value, node, 1.0, shift))


def _matmul(r: Reader, node: Any) -> Value:
    thing, W = r.inputs(node)
    return _dense(r, node, thing, r.constant(W, node))


def _dense(r: Reader, node: Any, thing: Any, W: Array) -> Value:
    """X W; a preceding a x + c is folded into it if no dense layer comes before that."""
    scaled = None
    if isinstance(thing, Partial) and thing.kind == "affine" and not foldable(thing.value):
        scaled, thing = thing, thing.value
    value = r.value(thing, node)
    if W.ndim != 2 or W.shape[0] != value.width or not W.size:
        refuse(node, f"has weights of shape {W.shape} for {value.width} columns")
    arrays = {"W": W}
    if scaled is not None:
        exact, a, c = W.astype(np.float64), row(scaled.a, value.width), row(scaled.c, value.width)
        arrays = {"W": (exact * a[:, None]).astype(W.dtype), "b": (c @ exact).astype(W.dtype)}
    units = W.shape[1]
    return layer_value(node, value, units, Dense, units, bias="b" in arrays, arrays=arrays)


def _arithmetic(r: Reader, node: Any) -> Any:
    """Add, Sub, Mul and Div of two values, two constants, or a value and a constant."""
    x, y = r.inputs(node)
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        if x.shape != y.shape and 1 not in (x.size, y.size):
            refuse(node, f"combines constants of shapes {x.shape} and {y.shape}")
        combined: Array = _OF_CONSTANTS[node.op_type](x, y)
        return combined
    if isinstance(x, np.ndarray) or isinstance(y, np.ndarray):
        return _with_constant(r, node, x, y)
    if node.op_type not in _PAIRS:
        _no_pair(r, node, x, y)
    return _PAIRS[node.op_type](r, node, x, y)


def _with_constant(r: Reader, node: Any, x: Any, y: Any) -> Any:
    """Add, Sub, Mul and Div of a value and a constant."""
    reversed_ = isinstance(x, np.ndarray)
    thing, number = (y, x) if reversed_ else (x, y)
    op = node.op_type
    array = r.constant(number, node).astype(np.float64)
    if reversed_ and op == "Sub" and array.size == 1 and array == 1:
        return Partial("complement", r.value(thing, node), node)
    if reversed_ and op in ("Sub", "Div"):
        refuse(node, "subtracts a value from a constant, or divides a constant by a value")
    scaling = op in ("Mul", "Div")
    if op == "Div" and (array == 0).any():
        refuse(node, "divides by 0")
    change = {"Add": array, "Sub": -array, "Mul": array, "Div": 1 / array if op == "Div" else array}[op]
    if isinstance(thing, Partial) and thing.kind in ("erf", "cdf", "gelu"):
        return _towards_gelu(node, thing, float(change.reshape(-1)[0]) if change.size == 1 else math.nan)
    if isinstance(thing, Partial) and thing.kind != "affine":
        refuse(thing.node, "is in a position where bpfast has no layer for it")
    affine = thing if isinstance(thing, Partial) else Partial("affine", r.value(thing, node), node)
    change = (
        change.reshape(())
        if change.size == 1 and change.ndim <= 2
        else r.columns(change, affine.value.width, node)
    )
    if scaling:
        return replace(affine, node=node, a=affine.a * change, c=affine.c * change)
    return replace(affine, node=node, c=affine.c + change)


def _towards_gelu(node: Any, thing: Partial, number: float) -> Any:
    """erf(x / √2) + 1, and multiples of it and of x times it."""
    if thing.kind == "erf" and node.op_type == "Add" and number == 1 and _near(thing.a, math.sqrt(0.5)):
        return Partial("cdf", thing.value, node)
    if thing.kind != "erf" and node.op_type in ("Mul", "Div"):
        return _gelu_of(replace(thing, node=node, a=thing.a * number))
    return refuse(node, "is not part of a GELU")


def _gelu_of(thing: Partial) -> Any:
    if thing.kind == "gelu" and _near(thing.a, 0.5):
        return layer_value(thing.node, thing.value, thing.value.width, Activation, "gelu")
    return thing


def _near(a: Any, b: float) -> bool:
    return bool(np.size(a) == 1 and abs(float(a) - b) < 1e-6)


def _sum(r: Reader, node: Any, x: Any, y: Any) -> Value:
    """The sum of two branches, which fork at their last common gate."""
    u, v = r.value(x, node), r.value(y, node)
    if u.width != v.width:
        refuse(node, f"adds {u.width} columns to {v.width}")
    a, b = u, v
    while a is not b:
        if a.depth < b.depth:
            a, b = b, a
        assert a.gate is not None
        a = a.gate
    return Value(u.width, (u, v), None, node, a, a.depth + 1)


def _difference(r: Reader, node: Any, x: Any, y: Any) -> Partial:
    if isinstance(y, Partial) and y.kind == "mean" and x is y.value:
        return Partial("centred", y.value, node)
    return _no_pair(r, node, x, y)


def _product(r: Reader, node: Any, x: Any, y: Any) -> Any:
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
    """Return a if `thing` is a x, else None."""
    if thing is value:
        return 1.0
    if not isinstance(thing, Partial) or thing.kind != "affine" or thing.value is not value:
        return None
    return float(thing.a) if np.size(thing.a) == 1 and not np.any(thing.c) else None


def _no_pair(r: Reader, node: Any, x: Any, y: Any) -> NoReturn:
    refuse(node, "combines two values in a way that bpfast has no layer for")


_OF_CONSTANTS: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
}
_PAIRS: dict[str, Callable[..., Any]] = {"Add": _sum, "Sub": _difference, "Mul": _product}


def _erf(r: Reader, node: Any) -> Partial:
    (thing,) = r.inputs(node)
    if isinstance(thing, Value):
        return Partial("erf", thing, node)
    factor = _multiple(thing, thing.value) if isinstance(thing, Partial) else None
    if factor is None:
        refuse(node, "is not part of a GELU")
    return Partial("erf", thing.value, node, factor)


def _row_mean(r: Reader, node: Any) -> Partial:
    thing, *axes = r.inputs(node)
    options = attributes(node)
    axis = list(np.ravel(axes[0] if axes else options.get("axes", [])))
    if axis not in ([-1], [1]) or not options.get("keepdims", 1):
        refuse(node, "is a mean that is not over the columns of each row")
    return Partial("mean", r.value(thing, node), node)


def _function(name: str, **defaults: float) -> Callable[[Reader, Any], Value]:
    """Make a reader of an activation whose attributes, if any, must have these values."""

    def read(r: Reader, node: Any) -> Value:
        value = r.value(r.get(node.input[0]), node)
        options = attributes(node)
        for key, expected in defaults.items():
            if not _near(options.get(key, expected), expected):
                refuse(node, f"must have {key} {expected} for bpfast; got {options[key]}")
        if options.get("approximate", b"none") not in (b"none", "none"):
            refuse(node, "is an approximation; bpfast computes GELU with erf")
        return layer_value(node, value, value.width, Activation, name)

    return read


def _elu(r: Reader, node: Any) -> Value:
    thing, *alpha = r.inputs(node)
    value = r.value(thing, node)
    number = _number(r, node, alpha[0]) if alpha else attributes(node).get("alpha", 1.0)
    return _activation(node, value, ELU, number)


def _number(r: Reader, node: Any, thing: Any) -> float:
    array = r.constant(thing, node)
    if array.size != 1:
        refuse(node, f"must have a constant of one number; got shape {array.shape}")
    return float(array.reshape(()))


def _activation(node: Any, value: Value, kind: Any, number: float) -> Value:
    return layer_value(node, value, value.width, lambda: Activation(kind(number)))


def _leaky(r: Reader, node: Any) -> Value:
    value = r.value(r.get(node.input[0]), node)
    return _sloped(node, value, attributes(node).get("alpha", 0.01))


def _sloped(node: Any, value: Value, slope: float) -> Value:
    if slope > 0:
        return _activation(node, value, LeakyReLU, slope)
    return layer_value(node, value, value.width, PReLU, arrays={"slope": np.full(value.width, slope)})


def _prelu(r: Reader, node: Any) -> Value:
    thing, slope = r.inputs(node)
    value = r.value(thing, node)
    if r.constant(slope, node).ndim == 0:
        return _sloped(node, value, float(slope))
    slopes = r.columns(slope, value.width, node)
    return layer_value(node, value, value.width, PReLU, arrays={"slope": slopes})


def _shifted(thing: Any) -> tuple[Any, Any]:
    """Return x and c if `thing` is x + c, else `thing` and 0."""
    if isinstance(thing, Partial) and thing.kind == "affine" and np.all(np.asarray(thing.a) == 1):
        return thing.value, thing.c
    return thing, 0.0


def _batch_norm(r: Reader, node: Any) -> Value:
    thing, gamma, beta, mean, variance, *rest = r.inputs(node)
    options = attributes(node)
    # Before opset 14 there is no such attribute, but training mode has more outputs.
    if options.get("training_mode") or any(node.output[1:]):
        refuse(node, "uses the statistics of the batch in prediction as well")
    shifted, shift = _shifted(thing)
    value = r.value(shifted, node)
    arrays = [r.columns(array, value.width, node) for array in (gamma, beta, mean, variance)]
    if arrays[3].min() < 0:
        refuse(node, "has a negative variance")
    if np.any(shift):
        arrays[2] = (arrays[2] - shift).astype(arrays[2].dtype)
    momentum = round(1 - options.get("momentum", 0.9), 6)
    return layer_value(
        node,
        value,
        value.width,
        BatchNorm,
        epsilon=_number(r, node, rest[0]) if rest else options.get("epsilon", 1e-5),
        momentum=momentum if 0 < momentum <= 1 else 0.1,
        arrays=dict(zip(("gamma", "beta", "mean", "variance"), arrays, strict=True)),
    )


def _layer_norm(r: Reader, node: Any) -> Value:
    thing, scale, *rest = r.inputs(node)
    options = attributes(node)
    if options.get("axis", -1) not in (1, -1) or any(node.output[1:]):
        refuse(node, "must normalise over the columns of each row only")
    if isinstance(thing, Partial) and thing.kind == "centred":
        thing = thing.value
    value = r.value(thing, node)
    gamma = r.columns(scale, value.width, node)
    has_beta = bool(rest) and rest[0] is not None
    beta = r.columns(rest[0], value.width, node) if has_beta else np.zeros_like(gamma)
    epsilon = _number(r, node, rest[1]) if len(rest) > 1 else options.get("epsilon", 1e-5)
    arrays = {"gamma": gamma, "beta": beta}
    return layer_value(node, value, value.width, LayerNorm, epsilon=epsilon, arrays=arrays)


def _link(r: Reader, node: Any) -> Partial:
    (thing,) = r.inputs(node)
    if node.op_type == "Softmax" and attributes(node).get("axis", -1) not in (1, -1):
        refuse(node, "must be over the columns of each row")
    return Partial(node.op_type.lower(), r.value(thing, node), node)


def _concat(r: Reader, node: Any) -> Partial:
    """The columns 1 - p and p of a sigmoid p: the probabilities of two classes."""
    things = r.inputs(node)
    two = len(things) == 2 and isinstance(things[0], Partial) and things[0].kind == "complement"
    if attributes(node)["axis"] not in (1, -1):
        refuse(node, "concatenates rows")
    if not two or things[0].value is not things[1] or things[1].width != 1:
        refuse(node, "concatenates columns, which bpfast has no layer for")
    piece = things[1].piece
    if piece is None or piece.layer != Activation("sigmoid"):
        refuse(node, "concatenates 1 - p and a p that is not a sigmoid")
    return Partial("both", things[1], node)


def _scaler(r: Reader, node: Any) -> Partial:
    (thing,), options = r.inputs(node), attributes(node)
    value = r.value(thing, node)
    scale = r.columns(np.asarray(options.get("scale", [1.0]), np.float64), value.width, node)
    offset = r.columns(np.asarray(options.get("offset", [0.0]), np.float64), value.width, node)
    return Partial("affine", value, node, scale, -offset * scale)


Read = Callable[[Reader, Any], Any]
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
_FUNCTIONS = ("PRelu", "Elu", "Selu", "Softplus", "Gelu", "BatchNormalization", "LayerNormalization")

#: (domain, operator) → function (reader, node) that returns what the node's output stands for.
READERS: dict[tuple[str, str], Read] = {
    **{("", name): read for name, read in _STANDARD.items()},
    **{(DOMAIN, name): _STANDARD[name] for name in _FUNCTIONS},
    (DOMAIN, "Silu"): _function("silu"),
    (ML_DOMAIN, "Scaler"): _scaler,
    (ML_DOMAIN, "ZipMap"): _same,
}
