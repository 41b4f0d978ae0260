"""The program: layers turned into a flat list of ops and one layout of parameters.

Both engines run the same program. A value is a matrix with one row a sample; value 0 is X, and each
op reads one value and makes the next. Parameters live in one flat vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from .activations import Activation
from .initializers import Initializer, generator
from .layers import Layer
from .memory import aligned

#: Every parameter starts at a multiple of this many elements (64 bytes in float32).
ALIGNMENT = 16
#: The largest program that the engines' index arithmetic is made for.
MAX_PARAMETERS = 2**40


@dataclass(frozen=True)
class Parameter:
    """A block of the flat vector."""

    name: str
    offset: int
    shape: tuple[int, ...]
    initializer: Initializer
    penalised: bool

    @property
    def size(self) -> int:
        size = 1
        for extent in self.shape:
            size *= extent
        return size

    @property
    def block(self) -> slice:
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True)
class Op:
    """One step of the program: `target` is made from `source`.

    `kind` is the op's name in the engines' tables; `parameter` the one number that its function
    takes: the activation's, or a dropout's rate.
    """

    kind: str
    source: int
    target: int
    n_in: int
    n_out: int
    activation: Activation
    W: Parameter | None = None
    b: Parameter | None = None
    parameter: float = 0.0


@dataclass(frozen=True)
class Program:
    """What an engine runs."""

    ops: tuple[Op, ...]
    widths: tuple[int, ...]
    parameters: tuple[Parameter, ...]
    size: int

    @property
    def n_inputs(self) -> int:
        return self.widths[0]

    @property
    def n_outputs(self) -> int:
        return self.widths[self.ops[-1].target]

    def initial(self, seed: int, dtype: Any) -> NDArray[Any]:
        """The flat vector at the start; padding between blocks is 0."""
        flat = aligned(self.size, dtype)
        flat[...] = 0
        for stream, parameter in enumerate(self.parameters):
            values = parameter.initializer.draw(parameter.shape, generator(seed, stream))
            flat[parameter.block] = values.ravel()
        return flat

    def views(self, flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The parameters by name, as views of a flat vector."""
        return {p.name: flat[p.block].reshape(p.shape) for p in self.parameters}


@dataclass
class Builder:
    """Collects ops and parameters while the layers build themselves."""

    widths: list[int]
    ops: list[Op] = field(default_factory=list)
    parameters: list[Parameter] = field(default_factory=list)
    size: int = 0
    prefix: str = ""

    def width(self, value: int) -> int:
        """The number of columns of a value."""
        return self.widths[value]

    def parameter(
        self, name: str, shape: tuple[int, ...], initializer: Initializer, *, penalised: bool
    ) -> Parameter:
        """Lay out a parameter behind those before it."""
        parameter = Parameter(self.prefix + name, self.size, shape, initializer, penalised)
        end = parameter.offset + parameter.size
        if end > MAX_PARAMETERS:
            raise ValueError(
                f"parameter {parameter.name} of shape {shape} makes the network larger than "
                f"{MAX_PARAMETERS} numbers"
            )
        self.size = -(-end // ALIGNMENT) * ALIGNMENT
        self.parameters.append(parameter)
        return parameter

    def op(
        self,
        kind: str,
        source: int,
        n_out: int,
        activation: Activation,
        W: Parameter | None = None,
        b: Parameter | None = None,
        parameter: float | None = None,
    ) -> int:
        """Append an op; return the value that it makes."""
        target = len(self.widths)
        self.widths.append(n_out)
        if parameter is None:
            parameter = activation.parameter
        self.ops.append(Op(kind, source, target, self.width(source), n_out, activation, W, b, parameter))
        return target


def compile_program(layers: Sequence[Layer], n_inputs: int) -> Program:
    """Compile layers into a program.

    Parameters
    ----------
    layers : sequence of Layer
        At least one.
    n_inputs : int
        Columns of X.
    """
    builder = Builder(widths=[n_inputs])
    value = 0
    for index, layer in enumerate(layers):
        builder.prefix = f"{index}."
        value = layer.build(builder, value)
    return Program(tuple(builder.ops), tuple(builder.widths), tuple(builder.parameters), builder.size)
