"""skl2onnx's hooks, which make the estimators of `bpfast.sklearn` convertible to ONNX.

``skl2onnx.to_onnx(pipeline, X[:1])`` converts a pipeline that ends in one of the estimators; nothing has to
be registered. The outputs of a classifier are ``label`` and ``probabilities`` (n, n_classes), which are
tensors whatever the option ``zipmap`` says; with hinge and exponential losses ``label`` and ``scores``.
Multilabel outputs are 0 and 1 (n, n_labels). The output of a regressor is ``variable`` (n, n_outputs).
Boolean classes and integral floats become int64, as in skl2onnx. The network computes in its own dtype;
inputs and outputs are float64 if the given input type is. Of a parameter search, convert ``best_estimator_``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ..specs.losses import link_of


class Convertible:
    """Mixin with the hooks that skl2onnx looks for in an estimator that it does not know."""

    #: The skl2onnx converter that takes the same options.
    alias: ClassVar[str]

    def onnx_parser(self) -> Callable[..., list[str] | None]:
        """Return what names the outputs that have other names than usual."""
        margins = hasattr(self, "decision_function")
        return lambda scope=None, inputs=None: ["label", "scores"] if margins else None

    def onnx_shape_calculator(self) -> Callable[[Any], None]:
        """Return what sets the types of the outputs."""
        return _set_types

    def onnx_converter(self) -> Callable[[Any, Any, Any], None]:
        """Return what writes the nodes."""
        return _convert


def _labels(classes: Any) -> tuple[Any, ...]:
    """Return the classes as strings or integers."""
    if classes.dtype.kind in "OSU":
        return tuple(str(label) for label in classes)
    whole = classes.astype(np.int64)
    if not (whole == classes).all():
        raise ValueError(f"classes must be strings or integers for ONNX; got {classes.tolist()}")
    return tuple(whole.tolist())


def _set_types(operator: Any) -> None:
    from skl2onnx.common.data_types import Int64TensorType, StringTensorType, guess_tensor_type

    est, rows = operator.raw_operator, operator.inputs[0].get_first_dimension()
    floats = type(guess_tensor_type(operator.inputs[0].type))
    if len(operator.outputs) == 1:
        operator.outputs[0].set_type(floats([rows, est.n_outputs_]))
        return
    text = isinstance(_labels(est.classes_)[0], str)
    several = est._target_type == "multilabel"
    shape = [rows, est.n_outputs_] if several else [rows]
    operator.outputs[0].set_type((StringTensorType if text and not several else Int64TensorType)(shape))
    margins = hasattr(est, "decision_function")
    operator.outputs[1].set_type(floats([rows, est.n_outputs_ if margins else len(est.classes_)]))


def _convert(scope: Any, operator: Any, container: Any) -> None:
    from onnx import helper
    from skl2onnx.common.data_types import guess_proto_type

    from .onnx.write_graph import Graph
    from .onnx.write_network import LINKS, write_network

    est = operator.raw_operator
    network = est.to_network()
    g = Graph(network.dtype, scope.get_unique_variable_name("bpfast") + ".", inline=True)
    X = g.cast(operator.inputs[0].full_name, network.dtype)
    arrays = {**network.parameters, **network.statistics}
    A = LINKS[link_of(network.loss_spec)](g, write_network(g, network.program, arrays, X))
    *labels, values = operator.outputs
    if labels:
        A = _write_label(g, est, A, labels[0].full_name)
    dtype = helper.tensor_dtype_to_np_dtype(guess_proto_type(values.type))
    g.cast(A, dtype, values.full_name)
    for tensor in g.tensors:
        content = tensor if tensor.raw_data else list(tensor.string_data)
        container.add_initializer(tensor.name, tensor.data_type, list(tensor.dims), content)
    for node in g.nodes:
        options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        container.add_node(
            node.op_type,
            list(node.input),
            list(node.output),
            op_domain=node.domain,
            name=node.name,
            **options,
        )


def _write_label(g: Any, est: Any, A: str, output: str) -> str:
    """Write the label; return the name of the probabilities of all classes, or of the margins."""
    from .onnx.write_preparation import write_label

    margins = hasattr(est, "decision_function")
    one, both = est.n_outputs_ == 1, A
    if one and not margins:
        both = g.node("Concat", g.node("Sub", g.number(1), A), A, axis=1)
    if est._target_type == "multiclass":
        write_label(g, g.node("ArgMax", A, axis=1, keepdims=0), _labels(est.classes_), output)
        return both
    above = g.node("Greater", A, g.number(0.0 if margins else 0.5))
    if est._target_type == "multilabel":
        g.cast(above, np.int64, output)
        return both
    classes = _labels(est.classes_)
    flat = g.node("Reshape", g.cast(above, np.int64), g.tensor("shape", np.array([-1], np.int64)))
    write_label(g, flat, (classes[0], classes[-1]), output)
    return both
