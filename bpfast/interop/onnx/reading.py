"""Reading an ONNX graph: nodes → values with the layers that make them → nested layers → a network.

Each node that the prediction needs is looked at once, in order, by the table `READERS`.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, import-not-found, unused-ignore]

from ...arrays import Array
from ...network import Network
from ...specs.layers import Activation, Dense, Residual
from ...specs.losses import Loss, link_of, losses, resolve_loss
from .graph import DOMAIN, FUNCTIONS
from .operators import FLOATS, READERS
from .values import Partial, Piece, Reader, Value, array_of, attributes, refuse

#: Link → the loss that is taken where nothing names one.
DEFAULT_LOSSES = {
    "softmax": "cross_entropy",
    "sigmoid": "log_loss",
    "exp": "poisson",
    "identity": "squared_error",
}
#: The outputs that hold the prediction, where there are several.
PREDICTIONS = ("probabilities", "scores", "variable", "output_probability")
#: Where a file may declare columns for which it brings no weights.
MOST_COLUMNS = 2**24


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
    return refuse(total.node, "adds two branches, neither of which is what came in or its projection")


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


def _tensor_type(graph: Any, name: str) -> Any:
    return next(i.type for i in graph.input if i.name == name).tensor_type


def _batch(graph: Any, name: str) -> int | None:
    """The rows that an input declares; None if any number."""
    extents = [dim.dim_value for dim in _tensor_type(graph, name).shape.dim]
    return extents[0] or None if len(extents) > 1 else None


def _input(graph: Any, names: list[str], nodes: list[Any]) -> Any:
    """The input as a value."""
    if len(names) != 1:
        raise ValueError(
            f"the prediction depends on {len(names)} inputs ({', '.join(names[:5])}"
            f"{', …' if len(names) > 5 else ''}); one is wanted (a model of `bpfast train` is to be exported "
            f"with preparation=False, or --network-alone)"
        )
    kind = _tensor_type(graph, names[0])
    if kind.elem_type not in FLOATS:
        raise ValueError(f"input {names[0]!r} is not one of float32 or float64")
    extents = [dim.dim_value for dim in kind.shape.dim[1:]]
    if extents and all(extents):
        width = math.prod(extents)
    elif len(extents) <= 1:
        width = _width_of_first(graph, nodes)
    else:
        raise ValueError(f"input {names[0]!r} has {len(extents)} dimensions of which some are not declared")
    if width > MOST_COLUMNS:
        raise ValueError(f"input {names[0]!r} declares {width:,} columns; at most {MOST_COLUMNS:,} are read")
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
        raise ValueError(f"the model does not pass ONNX's checker: {' '.join(str(error).split())}") from None
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


def _interpret(graph: Any, needed: list[Any], known: dict[str, Any], batch: int | None) -> Reader:
    """The nodes read, in order."""
    reader = Reader(graph, known, batch)
    for node in needed:
        key = ("" if node.domain == "ai.onnx" else node.domain, node.op_type)
        if key not in READERS:
            refuse(node, "is not among the operators of a dense network that bpfast has")
        if node.domain == DOMAIN and len(node.input) != len(FUNCTIONS[node.op_type][0]):
            refuse(node, f"takes {', '.join(FUNCTIONS[node.op_type][0])}; got {len(node.input)} inputs")
        reader.known[node.output[0]] = READERS[key](reader, node)
    return reader


def read_network(model: Any, loss: Any, output: str | None, options: dict[str, Any]) -> Network:
    """The network that makes an output of a model."""
    _check(model)
    name = _output(model.graph, output)
    nodes, inputs = _needed(model.graph, name)
    if not nodes:
        raise ValueError(f"output {name!r} is not computed by any node")
    root = _input(model.graph, inputs, nodes)
    reader = _interpret(model.graph, nodes, {inputs[0]: root}, _batch(model.graph, inputs[0]))
    start = root.value if isinstance(root, Partial) else root
    end = reader.get(name)
    kind = end.kind if isinstance(end, Partial) else ""
    link = kind if kind in ("softmax", "exp") else "identity"
    last = end.value if kind in ("softmax", "exp", "both") else reader.value(end, nodes[-1])
    if last.piece is not None and last.piece.layer == Activation("sigmoid") and link == "identity":
        link = "sigmoid"
    noted = _noted_loss(model) if loss is None and output is None else loss
    spec = resolve_loss(DEFAULT_LOSSES[link] if noted is None else noted)
    wanted = link_of(spec)
    if link == "sigmoid" and wanted == "sigmoid":
        last = last.sources[0]
    elif link not in ("identity", wanted) and not (link == "sigmoid" and wanted == "identity"):
        raise ValueError(f"loss {spec.name!r} predicts by {wanted}; the model ends in {link}")
    try:
        pieces = _chain(last, start) or [Piece(Activation("identity"))]
    except RecursionError:
        raise ValueError("the model's residual sums are nested too deeply") from None
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
