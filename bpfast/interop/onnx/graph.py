"""The nodes of an ONNX graph in the making: tables of what bpfast computes → operators of ONNX.

Standard operators wherever ONNX Runtime has a kernel for the network's dtype. For float64 it has none of
LeakyRelu, PRelu, Elu, Selu, Softplus and Erf, nor of what older versions make of x · Sigmoid(x), and the ε
of the normalisations is a float32 there: these are functions of the model's own, in the domain
``bpfast``, whose bodies are standard operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...arrays import Array
from ...engine.program import Op, Program
from ...reference.formulas import SELU_ALPHA, SELU_SCALE
from ...specs.activations import Activation

#: The operators' version, that of the classical ones (text columns), and the file's: ONNX 1.12 of 2022.
OPSET, ML_OPSET, IR_VERSION = 17, 3, 8
#: Where functions of the model's own live.
DOMAIN = "bpfast"
ML_DOMAIN = "ai.onnx.ml"


class Graph:
    """Nodes and tensors, added one by one under names that nobody else has.

    Parameters
    ----------
    dtype : dtype
        Of the network.
    prefix : str
        Of every name.
    inline : bool
        Write the body of a function where it is called.
    """

    def __init__(self, dtype: Any, prefix: str = "", inline: bool = False) -> None:
        self.dtype = np.dtype(dtype)
        self.prefix, self.inline = prefix, inline
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.functions: dict[str, Any] = {}
        self.taken: set[str] = set()

    @property
    def double(self) -> bool:
        """Whether the network is one of float64."""
        return bool(self.dtype == np.float64)

    def name(self, wanted: str) -> str:
        """The name, with a number behind it if it is taken."""
        name, count = f"{self.prefix}{wanted}", 1
        while name in self.taken:
            count += 1
            name = f"{self.prefix}{wanted}_{count}"
        self.taken.add(name)
        return name

    def node(
        self, op_type: str, *inputs: str, output: str | None = None, domain: str = "", **attributes: Any
    ) -> str:
        """Add a node of one output; return the output's name."""
        made = self.name(op_type.lower()) if output is None else output
        self.nodes.append(helper.make_node(op_type, inputs, [made], made, domain=domain, **attributes))
        return made

    def tensor(self, name: str, array: Array) -> str:
        """Add a constant as an initializer; return its name."""
        name = self.name(name)
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def number(self, value: float, dtype: Any = None) -> str:
        """A constant number, by default of the network's dtype."""
        array = np.array(value, self.dtype if dtype is None else dtype)
        return self.node("Constant", value=numpy_helper.from_array(array))

    def cast(self, value: str, dtype: Any, output: str | None = None) -> str:
        """The value as another dtype."""
        to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.node("Cast", value, output=output, to=to)

    def call(self, function: str, *inputs: str, **notes: float) -> str:
        """Call one of `FUNCTIONS`; what is noted with it is there to be read, not computed with."""
        if self.inline:
            return FUNCTIONS[function][1](self, *inputs)
        if function not in self.functions:
            self.functions[function] = _function(function, self.dtype, list(notes))
        return self.node(function, *inputs, output=None, domain=DOMAIN, **notes)


def _function(name: str, dtype: Any, notes: list[str]) -> Any:
    parameters, write = FUNCTIONS[name]
    body = Graph(dtype, inline=True)
    body.taken.update(parameters)
    made = write(body, *parameters)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_function(DOMAIN, name, list(parameters), [made], body.nodes, opsets, notes)


def _split(g: Graph, X: str) -> tuple[str, str]:
    """max(0, X) and min(0, X)."""
    zero = g.number(0)
    return g.node("Max", X, zero), g.node("Min", X, zero)


def _prelu(g: Graph, X: str, slope: str) -> str:
    above, below = _split(g, X)
    return g.node("Add", above, g.node("Mul", slope, below))


def _elu(g: Graph, X: str, alpha: str) -> str:
    """exp(u) - 1 = 2 t / (1 - t) with t = tanh(u / 2), which loses nothing where u is small."""
    above, below = _split(g, X)
    t = g.node("Tanh", g.node("Mul", below, g.number(0.5)))
    expm1 = g.node("Div", g.node("Add", t, t), g.node("Sub", g.number(1), t))
    return g.node("Add", above, g.node("Mul", alpha, expm1))


def _selu(g: Graph, X: str) -> str:
    return g.node("Mul", g.number(SELU_SCALE), _elu(g, X, g.number(SELU_ALPHA)))


def _softplus(g: Graph, X: str) -> str:
    """max(0, x) + log(1 + u), u = exp(-|x|); what w = 1 + u has lost is (w - 1) - u."""
    u = g.node("Exp", g.node("Neg", g.node("Abs", X)))
    one = g.number(1)
    w = g.node("Add", one, u)
    lost = g.node("Div", g.node("Sub", g.node("Sub", w, one), u), w)
    log1p = g.node("Sub", g.node("Log", w), lost)
    return g.node("Add", g.node("Max", X, g.number(0)), log1p)


#: (a + 4) exp(a² / 2) Φ(-a) as a polynomial in (a - 4) / (a + 4), for a ≥ 0: `CDF_C` of the native kernels.
CDF = (
    0.7552851304157515,
    -0.6078966419718921,
    0.3871374007422144,
    -0.186521857959662,
    0.06039657489083586,
    -0.007540188966515402,
    -0.003479692364099198,
    0.0016308184539892648,
    0.00013334426833524625,
    -0.00023109490586869139,
    -1.9079381671133106e-06,
    3.5144564434622096e-05,
    7.152560253632097e-07,
    -5.919952876676549e-06,
    -6.25755723456946e-07,
    1.0216727572813014e-06,
    2.647597955820229e-07,
    -1.5629924297872579e-07,
    -7.759207564566233e-08,
    1.583165446706975e-08,
    1.4712247003770828e-08,
    -2.605759598652324e-10,
    -1.1889377845510186e-09,
)


def _gelu(g: Graph, X: str) -> str:
    """max(0, x) - a Φ(-a), a = |x|."""
    a, center = g.node("Abs", X), g.number(4)
    below = g.node("Add", a, center)
    x = g.node("Div", g.node("Sub", a, center), below)
    sum_ = g.number(CDF[-1])
    for coefficient in reversed(CDF[:-1]):
        sum_ = g.node("Add", g.number(coefficient), g.node("Mul", sum_, x))
    square = g.node("Mul", g.node("Mul", a, a), g.number(-0.5))
    tail = g.node("Mul", g.node("Div", sum_, below), g.node("Exp", square))
    return g.node("Sub", g.node("Max", X, g.number(0)), g.node("Mul", a, tail))


def _silu(g: Graph, X: str) -> str:
    """Of x · Sigmoid(x) some runtimes make an operator that they have for float32 alone."""
    return g.node("Div", X, g.node("Add", g.number(1), g.node("Exp", g.node("Neg", X))))


def _batch_norm(g: Graph, X: str, scale: str, bias: str, mean: str, variance: str, epsilon: str) -> str:
    deviation = g.node("Sqrt", g.node("Add", variance, epsilon))
    normal = g.node("Div", g.node("Sub", X, mean), deviation)
    return g.node("Add", g.node("Mul", normal, scale), bias)


def _layer_norm(g: Graph, X: str, scale: str, bias: str, epsilon: str) -> str:
    centred = g.node("Sub", X, _row_mean(g, X))
    return _batch_norm(g, centred, scale, bias, g.number(0), _row_mean(g, _square(g, centred)), epsilon)


def _square(g: Graph, X: str) -> str:
    return g.node("Mul", X, X)


def _row_mean(g: Graph, X: str) -> str:
    return g.node("ReduceMean", X, axes=[-1], keepdims=1)


#: name → what it takes, and what writes its body.
FUNCTIONS: dict[str, tuple[tuple[str, ...], Callable[..., str]]] = {
    "PRelu": (("X", "slope"), _prelu),
    "Elu": (("X", "alpha"), _elu),
    "Selu": (("X",), _selu),
    "Softplus": (("X",), _softplus),
    "Gelu": (("X",), _gelu),
    "Silu": (("X",), _silu),
    "BatchNormalization": (("X", "scale", "B", "mean", "var", "epsilon"), _batch_norm),
    "LayerNormalization": (("X", "scale", "B", "epsilon"), _layer_norm),
}


def _erf_gelu(g: Graph, Z: str) -> str:
    """z Φ(z) as other exporters write it, which runtimes know."""
    erf = g.node("Erf", g.node("Div", Z, g.number(math.sqrt(2))))
    return g.node("Mul", g.node("Mul", Z, g.node("Add", erf, g.number(1))), g.number(0.5))


Write = Callable[[Graph, str, Activation], str]

#: name → (g, Z, activation) → the name of A.
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
    """Parameters and statistics by name, written into a graph when they are asked for."""

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
    # The mean is taken off before: runtimes fold it into β, where x and it cancel in float32.
    zeros = g.tensor(f"{op.layer}.zeros", np.zeros(op.n_out, g.dtype))
    centred = g.node("Sub", X, mean)
    return g.node(
        "BatchNormalization", centred, gamma, beta, zeros, variance, epsilon=epsilon, momentum=1 - momentum
    )


def _write_layer_norm(g: Graph, op: Op, weights: Weights, X: str) -> str:
    gamma, beta, epsilon = weights(op.W), weights(op.b), op.numbers[0]
    if g.double:
        return g.call("LayerNormalization", X, gamma, beta, g.number(epsilon))
    # Runtimes take the variance as the mean of squares less the square of the mean: which is then 0.
    centred = g.node("Sub", X, _row_mean(g, X))
    return g.node("LayerNormalization", centred, gamma, beta, epsilon=epsilon)


def _write_maxout(g: Graph, op: Op, weights: Weights, X: str) -> str:
    shape = g.tensor(f"{op.layer}.shape", np.array([0, int(op.numbers[0]), op.n_out], np.int64))
    return g.node("ReduceMax", g.node("Reshape", X, shape), axes=[1], keepdims=0)


def _write_prelu(g: Graph, op: Op, weights: Weights, X: str) -> str:
    return g.call("PRelu", X, weights(op.W)) if g.double else g.node("PRelu", X, weights(op.W))


#: kind → (g, op, weights, *sources) → the name of its target, as in prediction.
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

#: link → what makes predictions of Z.
LINKS: dict[str, Callable[[Graph, str], str]] = {
    "identity": lambda g, Z: Z,
    "sigmoid": lambda g, Z: g.node("Sigmoid", Z),
    "softmax": lambda g, Z: g.node("Softmax", Z, axis=1),
    "exp": lambda g, Z: g.node("Exp", Z),
}


def write_network(g: Graph, program: Program, arrays: Mapping[str, Array], X: str) -> str:
    """Write what turns X into the raw outputs Z, with parameters and statistics; return the name of Z."""
    weights, values = Weights(g, arrays), {0: X}
    for op in program.ops:
        if not op.head:
            values[op.target] = OPS[op.kind](g, op, weights, *(values[source] for source in op.sources))
    return values[program.output]


def value_info(name: str, dtype: Any, shape: list[Any]) -> Any:
    """The declaration of an input or output; `str` stands for texts."""
    kind = onnx.TensorProto.STRING if dtype is str else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, shape)
