"""`from_onnx`: ONNX models as networks.

Nodes are read to values, values to nested layers, layers to a network. Each node on which the output depends
is read once, in the order of the graph, by its function in the table `READERS`.
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
from .read_operators import FLOATS, READERS
from .read_values import Partial, Piece, Reader, Value, array_of, attributes, refuse
from .write_graph import DOMAIN, FUNCTIONS

#: Link at the end of a model → default loss.
DEFAULT_LOSSES = {
    "softmax": "cross_entropy",
    "sigmoid": "log_loss",
    "exp": "poisson",
    "identity": "squared_error",
}
#: Names of the outputs with the predictions, if there are several outputs.
PREDICTIONS = ("probabilities", "scores", "variable", "output_probability")
#: Most columns of an input, which a file may declare without having weights for them.
MOST_COLUMNS = 2**24


def _chain(target: Value, start: Value) -> list[Piece]:
    """Return the layers from one value to another, in order."""
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
    """Return the `Residual` of a sum with one branch that is its input, or a projection of it."""
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
    return refuse(total.node, "adds two branches, neither of which is the input or a projection of it")


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Join each dense layer with an activation that follows it."""
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1].layer if joined else None
        plain = isinstance(last, Dense) and last == Dense(last.units, bias=last.bias)
        if plain and isinstance(last, Dense) and isinstance(piece.layer, Activation):
            layer = Dense(last.units, piece.layer.activation, bias=last.bias)
            joined[-1] = Piece(layer, joined[-1].arrays)
        else:
            joined.append(piece)
    return joined


def _arrays(pieces: list[Piece] | tuple[Piece, ...], prefix: str = "") -> dict[str, Array]:
    """Return the arrays of all pieces by the names that they have in a network."""
    named: dict[str, Array] = {}
    for index, piece in enumerate(pieces):
        named |= {f"{prefix}{index}.{name}": array for name, array in piece.arrays.items()}
        named |= _arrays(piece.within, f"{prefix}{index}.")
    return named


def read_model(model: Any) -> Any:
    """Read a model from a file; a ModelProto is returned unchanged.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        If the file does not exist, is not a model, or is damaged.
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
    """Return the nodes on which an output depends, in the graph's order, and the names of its inputs."""
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
    """Return the name of the output to read."""
    names = [declared.name for declared in graph.output]
    if output is not None:
        if output not in {*names, *(name for node in graph.node for name in node.output)}:
            raise ValueError(f"output: the model has no {output!r}; its outputs are {', '.join(names)}")
        return output
    found = [name for name in PREDICTIONS if name in names] or names
    if len(names) > 1 and found == names:
        raise ValueError(f"the model has the outputs {', '.join(names)}; select one with output=")
    return found[0]


def _tensor_type(graph: Any, name: str) -> Any:
    return next(i.type for i in graph.input if i.name == name).tensor_type


def _batch(graph: Any, name: str) -> int | None:
    """Return the number of rows that an input declares; None if it is not fixed."""
    extents = [dim.dim_value for dim in _tensor_type(graph, name).shape.dim]
    return extents[0] or None if len(extents) > 1 else None


def _input(graph: Any, names: list[str], nodes: list[Any]) -> Any:
    """Return the input as a Value, or as a Partial if it has to be flattened."""
    if len(names) != 1:
        raise ValueError(
            f"the output must depend on a single input, but it depends on {len(names)} inputs "
            f"({', '.join(names[:5])}{', …' if len(names) > 5 else ''}); export a model of `bpfast train` "
            f"with preparation=False or --network-alone"
        )
    kind = _tensor_type(graph, names[0])
    if kind.elem_type not in FLOATS:
        raise ValueError(f"input {names[0]!r} must be float32 or float64")
    extents = [dim.dim_value for dim in kind.shape.dim[1:]]
    if extents and all(extents):
        width = math.prod(extents)
    elif len(extents) <= 1:
        width = _width_of_first(graph, nodes)
    else:
        raise ValueError(
            f"input {names[0]!r} has {len(extents)} dimensions, some of which do not have a fixed size"
        )
    if width > MOST_COLUMNS:
        raise ValueError(
            f"input {names[0]!r} declares {width:,} columns; at most {MOST_COLUMNS:,} are supported"
        )
    value = Value(width)
    return value if len(extents) <= 1 else Partial("unflattened", value, nodes[0])


def _width_of_first(graph: Any, nodes: list[Any]) -> int:
    """Return the number of columns that the first weights take."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in nodes:
        if node.op_type in ("Gemm", "MatMul") and len(shapes.get(node.input[1], ())) == 2:
            return int(shapes[node.input[1]][1 if attributes(node).get("transB") else 0])
    raise ValueError("the model does not declare the number of columns of its input")


def _check(model: Any) -> None:
    """Check a model with ONNX's checker, and that its weights are dense and inside the model."""
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
        raise ValueError("the model has sparse weights; only dense weights are supported")


def _noted_loss(model: Any) -> Loss | None:
    """Return the loss that `to_onnx` has stored in the metadata, or None."""
    noted = {p.key: p.value for p in model.metadata_props}.get("loss")
    if noted is None or model.producer_name != "bpfast":
        return None
    try:
        return losses.from_config(json.loads(noted))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"the model is damaged: its loss cannot be read: {error}") from None


def _interpret(graph: Any, needed: list[Any], known: dict[str, Any], batch: int | None) -> Reader:
    """Read the nodes in order."""
    reader = Reader(graph, known, batch)
    for node in needed:
        key = ("" if node.domain == "ai.onnx" else node.domain, node.op_type)
        if key not in READERS:
            refuse(node, "is not a supported operator of a dense network")
        if node.domain == DOMAIN and len(node.input) != len(FUNCTIONS[node.op_type][0]):
            refuse(node, f"takes {', '.join(FUNCTIONS[node.op_type][0])}; got {len(node.input)} inputs")
        reader.known[node.output[0]] = READERS[key](reader, node)
    return reader


def read_network(model: Any, loss: Any, output: str | None, options: dict[str, Any]) -> Network:
    """Make the network that computes an output of a model."""
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
    own = link_of(spec)
    if link == "sigmoid" and own == "sigmoid":
        last = last.sources[0]
    elif link not in ("identity", own) and not (link == "sigmoid" and own == "identity"):
        raise ValueError(f"loss {spec.name!r} has the link {own}, but the model ends in {link}")
    try:
        pieces = _chain(last, start) or [Piece(Activation("identity"))]
    except RecursionError:
        raise ValueError("the residual sums of the model are nested too deeply") from None
    return _network(pieces, start.width, spec, options)


def _network(pieces: list[Piece], n_inputs: int, loss: Loss, options: dict[str, Any]) -> Network:
    """Make a network of layers with their arrays; it is float64 if any of them is."""
    arrays = _arrays(pieces)
    double = any(array.dtype == np.float64 for array in arrays.values())
    network = Network(
        [piece.layer for piece in pieces],
        n_inputs=n_inputs,
        loss=loss,
        dtype="float64" if double else "float32",
        **options,
    )
    targets = {**network.parameters, **network.statistics}
    for key, array in arrays.items():
        targets[key][...] = array
    return network


def from_onnx(
    model: onnx.ModelProto | str | os.PathLike[str],
    *,
    loss: str | Loss | Any = None,
    output: str | None = None,
    seed: int = 0,
    threads: int | None = None,
    backend: str | None = None,
) -> Network:
    """Convert an ONNX model of a dense network to a bpfast network, for prediction and further training.

    Supported are Gemm, MatMul and Add with weights; Relu, Sigmoid, Tanh, LeakyRelu, Elu, Selu, Softplus,
    Gelu (also in terms of Erf), x · Sigmoid(x), PRelu; BatchNormalization, LayerNormalization; residual
    Add; a maximum over pieces of a dense layer (`Maxout`); Softmax, Sigmoid and Exp at the end. Dropout,
    Identity, Flatten, and Cast and Reshape without effect are skipped. Nodes that only other outputs
    need are ignored. Models of `to_onnx` are restored except for what only matters in training (dropout,
    auxiliary heads, initializers, the limits of a `BatchRenorm`, the range of slopes of an `RReLU`).
    Nothing in the model is executed.

    Parameters
    ----------
    model : ModelProto or path
        Model in float32 or float64 that contains its weights.
    loss : str, Loss or callable, optional
        Loss for training, whose link is applied in prediction. By default the one that `to_onnx` has
        stored, or one that fits the end of the graph: cross_entropy for Softmax, log_loss for Sigmoid,
        poisson for Exp, else squared_error. If the model returns raw outputs (logits), pass the loss:
        `predict` then returns probabilities.
    output : str, optional
        Name of the output, or of any other value of the graph, that the network computes. By default
        the only output, or else ``probabilities``, ``scores`` or ``variable``.
    seed, threads, backend
        As for `Network`.

    Returns
    -------
    Network

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is not an ONNX model or is damaged; if a node is not supported, with its name; if
        weights are missing, stored elsewhere, not finite or of the wrong shape.

    Examples
    --------
    >>> import bpfast as bp
    >>> from bpfast.interop.onnx import from_onnx, to_onnx
    >>> net = bp.Network([bp.Dense(8, "relu"), bp.Dense(3)], n_inputs=4, loss="cross_entropy")
    >>> from_onnx(to_onnx(net))
    <bpfast.Network 4-8-3 cross_entropy float32 67 parameters>
    """
    proto = read_model(model)
    return read_network(proto, loss, output, {"seed": seed, "threads": threads, "backend": backend})
