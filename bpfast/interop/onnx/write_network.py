"""The nodes of a network: tables from activations, ops and links to operators of ONNX."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...arrays import Array
from ...engine.program import Op, Program
from ...specs.activations import Activation
from .write_graph import Graph, row_mean


def _erf_gelu(g: Graph, Z: str) -> str:
    """z Φ(z) in the form of other exporters, which runtimes recognise."""
    erf = g.node("Erf", g.node("Div", Z, g.number(math.sqrt(2))))
    return g.node("Mul", g.node("Mul", Z, g.node("Add", erf, g.number(1))), g.number(0.5))


Write = Callable[[Graph, str, Activation], str]

#: Name of an activation → function (g, Z, activation) that writes it and returns the name of A.
ACTIVATIONS: dict[str, Write] = {
    "identity": lambda g, Z, f: Z,
    "sigmoid": lambda g, Z, f: g.node("Sigmoid", Z),
    "tanh": lambda g, Z, f: g.node("Tanh", Z),
    "relu": lambda g, Z, f: g.node("Relu", Z),
    "leaky_relu": lambda g, Z, f: _leaky(g, Z, f.parameter),
    "elu": lambda g, Z, f: (
        g.call("Elu", Z, g.number(f.parameter)) if g.double else g.node("Elu", Z, alpha=f.parameter)
    ),
    "selu": lambda g, Z, f: g.call("Selu", Z) if g.double else g.node("Selu", Z),
    "gelu": lambda g, Z, f: g.call("Gelu", Z) if g.double else _erf_gelu(g, Z),
    "silu": lambda g, Z, f: g.call("Silu", Z) if g.double else g.node("Mul", Z, g.node("Sigmoid", Z)),
    "softplus": lambda g, Z, f: g.call("Softplus", Z) if g.double else g.node("Softplus", Z),
}


def _leaky(g: Graph, X: str, slope: float) -> str:
    return g.call("PRelu", X, g.number(slope)) if g.double else g.node("LeakyRelu", X, alpha=slope)


class Weights:
    """Parameters and statistics by name, each written to the graph when it is used."""

    def __init__(self, graph: Graph, arrays: Mapping[str, Array]) -> None:
        self._graph, self._arrays = graph, arrays

    def __call__(self, parameter: Any) -> str:
        return self._graph.tensor(parameter.name, self._arrays[parameter.name])


def _write_dense(g: Graph, op: Op, weights: Weights, X: str) -> str:
    Z = g.node("Gemm", X, weights(op.W), *([] if op.b is None else [weights(op.b)]))
    return ACTIVATIONS[op.activation.name](g, Z, op.activation)


def _write_batch_norm(g: Graph, op: Op, weights: Weights, X: str) -> str:
    assert op.statistics is not None
    gamma, beta, (mean, variance) = weights(op.W), weights(op.b), map(weights, op.statistics)
    momentum, epsilon = op.numbers[:2]
    if g.double:
        number = g.number(epsilon)
        return g.call("BatchNormalization", X, gamma, beta, mean, variance, number, momentum=1 - momentum)
    # The mean is subtracted first: runtimes fold it into β, where it cancels with x in float32.
    zeros = g.tensor(f"{op.layer}.zeros", np.zeros(op.n_out, g.dtype))
    centred = g.node("Sub", X, mean)
    return g.node(
        "BatchNormalization", centred, gamma, beta, zeros, variance, epsilon=epsilon, momentum=1 - momentum
    )


def _write_layer_norm(g: Graph, op: Op, weights: Weights, X: str) -> str:
    gamma, beta, epsilon = weights(op.W), weights(op.b), op.numbers[0]
    if g.double:
        return g.call("LayerNormalization", X, gamma, beta, g.number(epsilon))
    # Runtimes compute the variance as the mean of squares minus the squared mean, which is 0 after this.
    centred = g.node("Sub", X, row_mean(g, X))
    return g.node("LayerNormalization", centred, gamma, beta, epsilon=epsilon)


def _write_maxout(g: Graph, op: Op, weights: Weights, X: str) -> str:
    shape = g.tensor(f"{op.layer}.shape", np.array([0, int(op.numbers[0]), op.n_out], np.int64))
    return g.node("ReduceMax", g.node("Reshape", X, shape), axes=[1], keepdims=0)


def _write_prelu(g: Graph, op: Op, weights: Weights, X: str) -> str:
    return g.call("PRelu", X, weights(op.W)) if g.double else g.node("PRelu", X, weights(op.W))


#: Kind of an op → function (g, op, weights, *sources) that writes its prediction and returns its name.
OPS: dict[str, Callable[..., str]] = {
    "dense": _write_dense,
    "activation": lambda g, op, weights, X: ACTIVATIONS[op.activation.name](g, X, op.activation),
    "dropout": lambda g, op, weights, X: X,
    "batch_norm": _write_batch_norm,
    "layer_norm": _write_layer_norm,
    "maxout": _write_maxout,
    "prelu": _write_prelu,
    "rrelu": lambda g, op, weights, X: _leaky(g, X, sum(op.numbers) / 2),
    "add": lambda g, op, weights, X, Y: g.node("Add", X, Y),
}

#: Name of a link → function (g, Z) that writes the predictions and returns their name.
LINKS: dict[str, Callable[[Graph, str], str]] = {
    "identity": lambda g, Z: Z,
    "sigmoid": lambda g, Z: g.node("Sigmoid", Z),
    "softmax": lambda g, Z: g.node("Softmax", Z, axis=1),
    "exp": lambda g, Z: g.node("Exp", Z),
}


def write_network(g: Graph, program: Program, arrays: Mapping[str, Array], X: str) -> str:
    """Write the network from X to the raw outputs Z, with its arrays; return the name of Z."""
    weights, values = Weights(g, arrays), {0: X}
    for op in program.ops:
        if not op.head:
            values[op.target] = OPS[op.kind](g, op, weights, *(values[source] for source in op.sources))
    return values[program.output]
