"""Networks to and from ONNX, to predict where there is no bpfast, and to take over what others trained.

``pip install "bpfast[onnx]"``; to run a model, ``pip install onnxruntime``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...arrays import Array

try:
    import onnx
except ModuleNotFoundError:
    raise ModuleNotFoundError('bpfast.interop.onnx needs onnx: pip install "bpfast[onnx]"') from None

from ...data import tables
from ...data.preparation import Preparation
from ...engine.program import Program
from ...frozen import FrozenNetwork
from ...info import __version__
from ...network import Network
from ...specs.losses import CustomLoss, Loss, link_of
from ...specs.spec import flag
from ...storage.atomic import write_atomically
from .graph import DOMAIN, IR_VERSION, LINKS, ML_DOMAIN, ML_OPSET, OPSET, Graph, value_info, write_network
from .preparation import write_inputs, write_label, write_values
from .reading import read_model, read_network

__all__ = ["from_onnx", "onnx_inputs", "to_onnx"]

#: A file of protocol buffers ends here; some of it is not parameters.
MOST_BYTES = 2**31 - 2**20
OUTPUTS = ("label", "probabilities", "scores", "variable")


def to_onnx(
    network: Network | FrozenNetwork, path: str | os.PathLike[str] | None = None, *, preparation: bool = True
) -> onnx.ModelProto:
    """A network as an ONNX model, which predicts as `Network.predict` does.

    Opset 17 and IR version 8, which runtimes since 2022 read; tried with ONNX Runtime 1.18 and newer.
    The number of rows is free. Float32 networks take standard operators alone (and those of ai.onnx.ml
    for text columns). For float64, where ONNX Runtime has no kernels for LeakyRelu, PRelu, Elu, Selu,
    Softplus and Erf, and ε of the normalisations would be a float32, these are functions in the model
    (domain ``bpfast``), of standard operators; `onnx.inliner.inline_local_functions` dissolves them for
    a runtime that knows no functions. `Dropout` and auxiliary heads are not there, as in prediction;
    `RReLU` has its mean slope.

    Parameters
    ----------
    network : Network or FrozenNetwork
    path : path, optional
        Where to write it too: whole or not at all.
    preparation : bool, default True
        For a model of the command line (`bpfast train`): take raw rows, with what fills gaps, scales
        numbers and encodes texts in the graph, and give labels or values in the target's units.
        Otherwise the network alone, from prepared X.

    Returns
    -------
    onnx.ModelProto
        Its input is ``X`` (N, n_inputs) of the network's dtype; of a model with preparation, see below.
        Its outputs have the names that skl2onnx gives them:

        ==========================  ===========================================================
        loss                        outputs
        ==========================  ===========================================================
        cross_entropy               ``label`` int64 (N,), the class of the largest probability;
                                    ``probabilities`` (N, O)
        log_loss                    ``label`` int64 (N,), or (N, O) of several outputs: 1 where
                                    the probability is above 0.5; ``probabilities`` (N, O)
        hinge, exponential          ``label`` int64, in the same shapes: 1 where the score is
                                    above 0, else -1; ``scores`` (N, O)
        others                      ``variable`` (N, O)
        ==========================  ===========================================================

        The second of two is what `predict` gives, of the network's dtype. A custom loss goes by its
        link, softmax or sigmoid as the first two.

        With preparation, a CSV's columns are an input each, named as the column (with a number behind
        it if an output is called so): float64 (N, 1), NaN where missing, or texts (N, 1), empty where
        missing. A text that training did not see counts as none of the categories. What has no named
        columns (NPZ, idx, the digits) is ``X`` (N, n) of float64. ``label`` is the label itself (text,
        int64, bool or float64), whose order in ``probabilities`` is the metadata's "classes";
        ``variable`` is of float64. `onnx_inputs` makes the inputs of a data frame or a file.

    Raises
    ------
    TypeError
        If it is no network.
    ValueError
        If it is too large for ONNX, 2 GiB, or its preparation is broken.

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
            f"to_onnx takes a bpfast.Network (of an estimator, est.to_network()); got {type(network)!r}"
        )
    program = network.program if isinstance(network, Network) else network._program
    arrays = {**network.parameters, **network.statistics}
    size = sum(array.nbytes for array in arrays.values())
    if size > MOST_BYTES:
        raise ValueError(f"the network has {size:,} bytes of parameters; an ONNX model holds at most 2 GiB")
    prepared = (
        _preparation(network.metadata, program) if flag("to_onnx", "preparation", preparation) else None
    )
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
    if path is not None:
        write_atomically(path, model.SerializeToString())
    return model


def _preparation(metadata: Mapping[str, str], program: Program) -> Preparation | None:
    text = metadata.get("preparation")
    if text is None:
        return None
    try:
        prepared = Preparation.from_json(text)
    except ValueError as error:
        raise ValueError(f"the network's preparation is broken: {error}") from None
    sizes = (prepared.n_inputs, prepared.n_outputs)
    if sizes != (program.n_inputs, program.n_outputs):
        raise ValueError(
            f"the network's preparation is broken: it makes {sizes[0]} inputs and {sizes[1]} outputs, the "
            f"network has {program.n_inputs} and {program.n_outputs}"
        )
    return prepared


def _write_outputs(
    g: Graph, A: str, network: Network | FrozenNetwork, n: int, prepared: Preparation | None
) -> list[Any]:
    """Write what becomes of a prediction; return the declared outputs."""
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
    """1 where A is above the middle, else 0 or -1."""
    yes = g.node("Greater", A, g.number(0.0 if signs else 0.5))
    label = g.node("Where", yes, g.number(1, np.int64), g.number(-1 if signs else 0, np.int64))
    if n == 1:
        g.node("Reshape", label, g.tensor("shape", np.array([-1], np.int64)), output="label")
    else:
        g.node("Identity", label, output="label")


def _opsets(g: Graph) -> list[Any]:
    known = {"": OPSET, ML_DOMAIN: ML_OPSET, DOMAIN: 1}
    used = {"", *(node.domain for node in g.nodes)}
    return [onnx.helper.make_opsetid(domain, version) for domain, version in known.items() if domain in used]


def _properties(network: Network | FrozenNetwork, prepared: Preparation | None) -> dict[str, str]:
    """What a reader may want beside the graph."""
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


def onnx_inputs(model: onnx.ModelProto | str | os.PathLike[str], rows: Any) -> dict[str, Array]:
    """The inputs that a model of `to_onnx` takes, from raw rows: what ONNX Runtime is fed.

    Without bpfast at hand, a data frame does it in three lines::

        numbers = {name: frame[[name]].to_numpy("float64") for name in number_columns}
        texts = {name: frame[[name]].fillna("").astype(str).to_numpy(object) for name in text_columns}
        label, probabilities = session.run(None, numbers | texts)

    Parameters
    ----------
    model : ModelProto or path
    rows : pandas.DataFrame, mapping, array or path
        Columns by name, of which the model takes those that it needs; an array (N, n) for a model with
        the one input X. A path is that of a file as `bpfast predict` takes it, CSV, NPZ or idx, and is
        read in the same way: whole numbers and truth values in a text column keep their spelling,
        which a data frame keeps only if it was read with ``dtype={name: str}``.

    Returns
    -------
    dict of str to array
        For ``session.run(None, onnx_inputs(model, rows))``.

    Raises
    ------
    ValueError
        If a column is missing, or holds texts where numbers are wanted.

    Examples
    --------
    >>> import bpfast as bp
    >>> from bpfast.interop.onnx import onnx_inputs, to_onnx
    >>> net = bp.Network([bp.Dense(3)], n_inputs=2, loss="squared_error")
    >>> onnx_inputs(to_onnx(net), [[1, 2]])["X"].dtype
    dtype('float32')
    """
    proto = read_model(model)
    inputs = list(proto.graph.input)
    texts = [i for i in inputs if i.type.tensor_type.elem_type == onnx.TensorProto.STRING]
    properties = {p.key: p.value for p in proto.metadata_props}
    columns = [i.name for i in inputs]
    if "columns" in properties:
        columns = [str(name) for name in json.loads(properties["columns"])]
    named = dict(zip((i.name for i in inputs), columns, strict=True))
    if isinstance(rows, (str, os.PathLike)):
        features = properties.get("features", tables.FEATURES)
        rows = _columns_of(os.fspath(rows), [named[i.name] for i in texts], features)
    if "columns" not in properties and len(inputs) == 1 and not texts:
        return {inputs[0].name: _matrix(inputs[0], rows)}
    if not hasattr(rows, "keys"):
        raise ValueError(f"rows must have named columns: {tables.listed(columns)}; got {type(rows)!r}")
    missing = [name for name in columns if name not in rows]
    if missing:
        raise ValueError(f"rows lack columns that the model takes: {tables.listed(missing)}")
    wanted = {text.name for text in texts}
    return {
        name: _texts(rows[column]) if name in wanted else _numbers(column, rows[column])
        for name, column in named.items()
    }


def _columns_of(path: str, texts: list[str], features: str) -> Mapping[str, Array]:
    """The columns of a file, texts as they are spelt."""
    kind = tables.kind_of(path)
    if kind == "npz":
        return tables.read_npz(path, features=features).columns
    if kind == "idx":
        return tables.read_idx(path).columns
    return tables.read_csv(path, text=texts, lenient=True).columns


def _matrix(declared: Any, rows: Any) -> Array:
    """Rows for the one input of a model."""
    kind = onnx.helper.tensor_dtype_to_np_dtype(declared.type.tensor_type.elem_type)
    width = declared.type.tensor_type.shape.dim[1].dim_value
    if isinstance(rows, Mapping):
        rows = np.column_stack(list(rows.values()))
    X = np.asarray(rows, dtype=kind)
    if X.ndim != 2 or X.shape[1] != width:
        raise ValueError(f"rows must have shape (N, {width}); got {X.shape}")
    return np.ascontiguousarray(X)


def _numbers(name: str, values: Any) -> Array:
    """A column of numbers (N, 1), NaN where missing."""
    array = _plain(values)
    if array.dtype == object:
        array = np.array([np.nan if value is None else value for value in array], dtype=object)
    try:
        return np.asarray(array, dtype=np.float64).reshape(-1, 1)
    except (ValueError, TypeError) as error:
        raise ValueError(f"column {name!r} must hold numbers: {error}") from None


def _texts(values: Any) -> Array:
    """A column of texts (N, 1), empty where missing."""
    array = _plain(values).astype(object)
    gone = [value is None or (isinstance(value, float) and np.isnan(value)) for value in array]
    texts = ["" if missing else str(value) for value, missing in zip(array, gone, strict=True)]
    return np.array(texts, dtype=object).reshape(-1, 1)


def _plain(values: Any) -> Array:
    """A column as an array, None where pandas has a missing value of its own."""
    if not hasattr(values, "dtype"):
        return np.array(values, dtype=object)  # beside texts, NaN would become a text
    if hasattr(values, "notna") and not isinstance(values.dtype, np.dtype):
        values = values.astype(object).where(values.notna(), None)
    return np.asarray(values)


def from_onnx(
    model: onnx.ModelProto | str | os.PathLike[str],
    *,
    loss: str | Loss | Any = None,
    output: str | None = None,
    seed: int = 0,
    threads: int | None = None,
    backend: str | None = None,
) -> Network:
    """A bpfast network from an ONNX model of a dense one: to predict with, and to train on.

    Read are Gemm, MatMul and Add of weights; Relu, Sigmoid, Tanh, LeakyRelu, Elu, Selu, Softplus, Gelu
    (also written with Erf), x · Sigmoid(x), PRelu; BatchNormalization, LayerNormalization; residual Add;
    a maximum over pieces of a dense layer (`Maxout`); Softmax, Sigmoid and Exp at the end. Dropout,
    Identity, Flatten, and Cast and Reshape that change nothing, are passed over. What feeds other
    outputs does not count. Of `to_onnx` all comes back but what belongs to training alone (dropout,
    heads, initial values, the limits of a `BatchRenorm`, the slopes that an `RReLU` draws). What the
    model says is computed by nobody but bpfast: nothing in it is executed.

    Parameters
    ----------
    model : ModelProto or path
        float32 or float64, with its weights inside.
    loss : str, Loss or callable, optional
        What to train with, and the link of the prediction. By default what `to_onnx` has noted, or what
        the end of the graph asks for: cross_entropy after Softmax, log_loss after Sigmoid, poisson after
        Exp, else squared_error. A model that ends in raw outputs (logits) wants its loss named:
        `predict` then gives probabilities.
    output : str, optional
        The output, or any value of the graph, to read up to. By default the only one, or else
        ``probabilities``, ``scores`` or ``variable``.
    seed, threads, backend
        As for `Network`.

    Returns
    -------
    Network

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no ONNX model, or damaged; if a node is none of the above, which is named; if
        weights are missing, elsewhere, not finite or do not fit.

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
