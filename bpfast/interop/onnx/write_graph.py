"""An ONNX graph under construction, and the functions in the domain ``bpfast`` that it may call.

Standard operators are used wherever ONNX Runtime has a kernel for the dtype of the network. For float64 it
has none for LeakyRelu, PRelu, Elu, Selu, Softplus and Erf, nor for the operator into which older versions
fuse x · Sigmoid(x), and the ε of the normalisations is a float32. These are written as functions of the
model, whose bodies are standard operators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...arrays import Array
from ...reference.formulas import SELU_ALPHA, SELU_SCALE

#: Versions of the standard operators, of ai.onnx.ml and of the file format, as in ONNX 1.12 (2022).
OPSET, ML_OPSET, IR_VERSION = 17, 3, 8
#: Domain of the functions of a model.
DOMAIN = "bpfast"
ML_DOMAIN = "ai.onnx.ml"


class Graph:
    """Nodes and tensors of a graph, which are added one by one and get unique names.

    Parameters
    ----------
    dtype : dtype
        Data type of the network.
    prefix : str, default ""
        Prefix of every name.
    inline : bool, default False
        Write the bodies of functions in place of calls.
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
        """Whether the network is float64."""
        return bool(self.dtype == np.float64)

    def name(self, base: str) -> str:
        """Return a unique name: `base`, followed by a number if it is taken."""
        name, count = f"{self.prefix}{base}", 1
        while name in self.taken:
            count += 1
            name = f"{self.prefix}{base}_{count}"
        self.taken.add(name)
        return name

    def node(
        self, op_type: str, *inputs: str, output: str | None = None, domain: str = "", **attributes: Any
    ) -> str:
        """Add a node with one output; return the name of the output."""
        made = self.name(op_type.lower()) if output is None else output
        self.nodes.append(helper.make_node(op_type, inputs, [made], made, domain=domain, **attributes))
        return made

    def tensor(self, name: str, array: Array) -> str:
        """Add a constant as an initializer; return its name."""
        name = self.name(name)
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def number(self, value: float, dtype: Any = None) -> str:
        """Add a constant number, by default with the dtype of the network; return its name."""
        array = np.array(value, self.dtype if dtype is None else dtype)
        return self.node("Constant", value=numpy_helper.from_array(array))

    def cast(self, value: str, dtype: Any, output: str | None = None) -> str:
        """Cast a value to another dtype; return the name of the result."""
        to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.node("Cast", value, output=output, to=to)

    def call(self, function: str, *inputs: str, **notes: float) -> str:
        """Call one of `FUNCTIONS`; `notes` are attributes for `from_onnx`, without effect on the result."""
        if self.inline:
            return FUNCTIONS[function][1](self, *inputs)
        if function not in self.functions:
            self.functions[function] = _function(function, self.dtype, list(notes))
        return self.node(function, *inputs, output=None, domain=DOMAIN, **notes)


def _function(name: str, dtype: Any, notes: list[str]) -> Any:
    """Make the definition of a function."""
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
    """exp(u) - 1 = 2 t / (1 - t) with t = tanh(u / 2), which is accurate for small u."""
    above, below = _split(g, X)
    t = g.node("Tanh", g.node("Mul", below, g.number(0.5)))
    expm1 = g.node("Div", g.node("Add", t, t), g.node("Sub", g.number(1), t))
    return g.node("Add", above, g.node("Mul", alpha, expm1))


def _selu(g: Graph, X: str) -> str:
    return g.node("Mul", g.number(SELU_SCALE), _elu(g, X, g.number(SELU_ALPHA)))


def _softplus(g: Graph, X: str) -> str:
    """max(0, x) + log(1 + u), u = exp(-|x|); (w - 1) - u is the rounding error of w = 1 + u."""
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
    """x / (1 + exp(-x)): some runtimes fuse x · Sigmoid(x) into an operator for float32 only."""
    return g.node("Div", X, g.node("Add", g.number(1), g.node("Exp", g.node("Neg", X))))


def _batch_norm(g: Graph, X: str, scale: str, bias: str, mean: str, variance: str, epsilon: str) -> str:
    deviation = g.node("Sqrt", g.node("Add", variance, epsilon))
    normal = g.node("Div", g.node("Sub", X, mean), deviation)
    return g.node("Add", g.node("Mul", normal, scale), bias)


def _layer_norm(g: Graph, X: str, scale: str, bias: str, epsilon: str) -> str:
    centred = g.node("Sub", X, row_mean(g, X))
    return _batch_norm(g, centred, scale, bias, g.number(0), row_mean(g, _square(g, centred)), epsilon)


def _square(g: Graph, X: str) -> str:
    return g.node("Mul", X, X)


def row_mean(g: Graph, X: str) -> str:
    """Write the mean of each row."""
    return g.node("ReduceMean", X, axes=[-1], keepdims=1)


#: Name of a function → its parameters, and what writes its body.
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


def value_info(name: str, dtype: Any, shape: list[Any]) -> Any:
    """Declare an input or output; the dtype `str` stands for strings."""
    kind = onnx.TensorProto.STRING if dtype is str else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, shape)
