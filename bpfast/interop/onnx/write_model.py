"""`to_onnx`: networks as ONNX models."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from ...data.preparation import Preparation
from ...engine.program import Program
from ...frozen import FrozenNetwork
from ...info import __version__
from ...network import Network
from ...specs.losses import CustomLoss, link_of
from ...specs.spec import flag
from ...storage.atomic import write_atomically
from .write_graph import DOMAIN, IR_VERSION, ML_DOMAIN, ML_OPSET, OPSET, Graph, value_info
from .write_network import LINKS, write_network
from .write_preparation import write_inputs, write_label, write_values

#: Most bytes of parameters: a protocol buffer holds 2 GiB, of which the graph needs a part.
MOST_BYTES = 2**31 - 2**20
OUTPUTS = ("label", "probabilities", "scores", "variable")


def to_onnx(
    network: Network | FrozenNetwork, path: str | os.PathLike[str] | None = None, *, preparation: bool = True
) -> onnx.ModelProto:
    """Convert a network to an ONNX model with the predictions of `Network.predict`.

    The model has opset 17 and IR version 8, which runtimes since 2022 support; it is tested with ONNX
    Runtime 1.18 and newer. The number of rows is not fixed. Float32 networks use standard operators
    only (and those of ai.onnx.ml for text columns). For float64, ONNX Runtime has no kernels for
    LeakyRelu, PRelu, Elu, Selu, Softplus and Erf, and the ε of normalisations would be a float32:
    these are functions in the model (domain ``bpfast``) that consist of standard operators. For a
    runtime without support for functions, `onnx.inliner.inline_local_functions` inlines them.
    `Dropout` and auxiliary heads are left out, as in prediction; `RReLU` uses its mean slope.

    Parameters
    ----------
    network : Network or FrozenNetwork
        Network to convert.
    path : path, optional
        File to write as well; it is written atomically.
    preparation : bool, default True
        For a model of the command line (`bpfast train`): include its preparation, so that the model
        takes raw rows (missing values are filled, numbers scaled and text encoded in the graph) and
        outputs labels, or values in the units of the target. If False, the model takes prepared X.

    Returns
    -------
    onnx.ModelProto
        Its input is ``X`` (N, n_inputs) with the dtype of the network; for a model with preparation
        see below. Its outputs have the names that skl2onnx uses:

        ==========================  ===========================================================
        loss                        outputs
        ==========================  ===========================================================
        cross_entropy               ``label`` int64 (N,), the class of the largest probability;
                                    ``probabilities`` (N, O)
        log_loss                    ``label`` int64 (N,), or (N, O) with several outputs: 1 where
                                    the probability is above 0.5, else 0;
                                    ``probabilities`` (N, O)
        hinge, exponential          ``label`` int64 of the same shapes: 1 where the score is
                                    above 0, else -1; ``scores`` (N, O)
        others                      ``variable`` (N, O)
        ==========================  ===========================================================

        The second of two outputs is what `predict` returns, with the dtype of the network. For a
        custom loss the outputs depend on its link: softmax and sigmoid as in the first two rows.

        With preparation, each column of a CSV file is an input with the name of the column (followed
        by a number if an output has that name): float64 (N, 1), NaN where missing, or strings (N, 1),
        empty where missing. Text that did not occur in training belongs to none of the categories.
        Data without named columns (NPZ, IDX, the digits) are the input ``X`` (N, n) of float64.
        ``label`` is the label itself (string, int64, bool or float64); the metadata entry "classes"
        has the order of the labels in ``probabilities``. ``variable`` is float64. `onnx_inputs` makes
        the inputs from a data frame or a file.

    Raises
    ------
    TypeError
        If `network` is not a network.
    ValueError
        If the network exceeds the size limit of ONNX, 2 GiB, or its preparation is damaged.

    Examples
    --------
    >>> import bpfast as bp
    >>> from bpfast.interop.onnx import to_onnx
    >>> net = bp.Network([bp.Dense(8, "relu"), bp.Dense(3)], n_inputs=4, loss="cross_entropy")
    >>> [output.name for output in to_onnx(net).graph.output]
    ['label', 'probabilities']
    """
    if not isinstance(network, (Network, FrozenNetwork)):
        raise TypeError(
            f"to_onnx takes a bpfast.Network (for an estimator, est.to_network()); got {type(network)!r}"
        )
    program = network.program
    prepared = (
        _preparation(network.metadata, program) if flag("to_onnx", "preparation", preparation) else None
    )
    model = _model(network, program, prepared)
    if path is not None:
        write_atomically(path, model.SerializeToString())
    return model


def _model(network: Network | FrozenNetwork, program: Program, prepared: Preparation | None) -> Any:
    """Make the model, and check it."""
    arrays = {**network.parameters, **network.statistics}
    size = sum(array.nbytes for array in arrays.values())
    if size > MOST_BYTES:
        raise ValueError(f"the network has {size:,} bytes of parameters; an ONNX model holds at most 2 GiB")
    g = Graph(network.dtype)
    g.taken.update(OUTPUTS)
    if prepared is None:
        X = g.name("X")
        inputs = [value_info(X, network.dtype, ["N", program.n_inputs])]
    else:
        X, inputs = write_inputs(g, prepared)
    A = LINKS[link_of(network.loss_spec)](g, write_network(g, program, arrays, X))
    outputs = _write_outputs(g, A, network, program.n_outputs, prepared)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(g.nodes, "network", inputs, outputs, g.tensors),
        functions=list(g.functions.values()),
        opset_imports=_opsets(g),
        ir_version=IR_VERSION,
        producer_name="bpfast",
        producer_version=__version__,
    )
    onnx.helper.set_model_props(model, _properties(network, prepared))
    onnx.checker.check_model(model)
    return model


def _preparation(metadata: Mapping[str, str], program: Program) -> Preparation | None:
    """Return the preparation in a network's metadata, or None if it has none."""
    text = metadata.get("preparation")
    if text is None:
        return None
    try:
        prepared = Preparation.from_json(text)
    except ValueError as error:
        raise ValueError(f"the network's preparation is damaged: {error}") from None
    sizes = (prepared.n_inputs, prepared.n_outputs)
    if sizes != (program.n_inputs, program.n_outputs):
        raise ValueError(
            f"the network's preparation is damaged: it has {sizes[0]} inputs and {sizes[1]} outputs, but the "
            f"network has {program.n_inputs} and {program.n_outputs}"
        )
    return prepared


def _write_outputs(
    g: Graph, A: str, network: Network | FrozenNetwork, n: int, prepared: Preparation | None
) -> list[Any]:
    """Write the outputs for the predictions A; return their declarations."""
    dtype, link = network.dtype, link_of(network.loss_spec)
    if prepared is not None and prepared.task == "regression":
        write_values(g, A, prepared, "variable")
        return [value_info("variable", np.float64, ["N", 1])]
    signs = network.loss_spec.targets == "signs"
    if prepared is not None or link == "softmax":
        best = g.node("ArgMax", A, axis=1, keepdims=0, output=None if prepared else "label")
        kind = write_label(g, best, prepared.classes, "label") if prepared else int
        label = value_info("label", kind, ["N"])
    elif link == "sigmoid" or signs:
        _write_decisions(g, A, n, signs)
        label = value_info("label", int, ["N"] if n == 1 else ["N", n])
    else:
        g.node("Identity", A, output="variable")
        return [value_info("variable", dtype, ["N", n])]
    values = "scores" if signs else "probabilities"
    g.node("Identity", A, output=values)
    return [label, value_info(values, dtype, ["N", n])]


def _write_decisions(g: Graph, A: str, n: int, signs: bool) -> None:
    """Write the label: 1 where A is above the threshold, else 0 or -1."""
    yes = g.node("Greater", A, g.number(0.0 if signs else 0.5))
    label = g.node("Where", yes, g.number(1, np.int64), g.number(-1 if signs else 0, np.int64))
    if n == 1:
        g.node("Reshape", label, g.tensor("shape", np.array([-1], np.int64)), output="label")
    else:
        g.node("Identity", label, output="label")


def _opsets(g: Graph) -> list[Any]:
    """Return the versions of the operator sets that the nodes use."""
    known = {"": OPSET, ML_DOMAIN: ML_OPSET, DOMAIN: 1}
    used = {"", *(node.domain for node in g.nodes)}
    return [onnx.helper.make_opsetid(domain, version) for domain, version in known.items() if domain in used]


def _properties(network: Network | FrozenNetwork, prepared: Preparation | None) -> dict[str, str]:
    """Return the metadata: the loss, and what is needed to prepare inputs and name classes."""
    properties = {}
    if not isinstance(network.loss_spec, CustomLoss):
        properties["loss"] = json.dumps(network.loss_spec.config())
    if prepared is not None:
        if prepared.kind == "csv":
            properties["columns"] = json.dumps([column.name for column in prepared.columns])
        if prepared.kind == "npz":
            properties["features"] = prepared.features
        if prepared.classes:
            properties["classes"] = json.dumps(prepared.classes)
        properties["target"] = prepared.target
    return properties
