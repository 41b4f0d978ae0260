"""The program: layers turned into a flat list of ops and one layout of parameters.

Both engines run the same program. A value is a matrix with one row a sample; value 0 is X, and each
op reads one value, or two, and makes a new one. Parameters live in one flat vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from ..arrays.aligned import aligned
from ..specs.activations import Activation, Identity
from ..specs.initializers import Initializer, generator
from ..specs.layers import Layer
from ..specs.losses import CustomLoss, Loss

#: Every parameter starts at a multiple of this many elements (64 bytes in float32).
ALIGNMENT = 16
#: The largest program that the engines' index arithmetic is made for.
MAX_PARAMETERS = 2**40
#: Ops of a program; layers within layers, which functions that call themselves go through.
MAX_OPS, MAX_DEPTH = 10_000, 50


@dataclass(frozen=True)
class Parameter:
    """A block of the flat vector; what is not `trained` is a running statistic."""

    name: str
    offset: int
    shape: tuple[int, ...]
    initializer: Initializer
    penalised: bool
    trained: bool = True

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
    """One step of the program: `target` is made from the sources.

    Attributes
    ----------
    kind : str
        The op's name in the engines' tables.
    sources : tuple of int
        The values it reads: one, or for an ``add`` two.
    target : int
        The value it makes.
    n_in, n_out : int
        Columns of the first source, and of the target.
    activation : Activation
        f of a ``dense`` or ``activation`` op; else the identity.
    numbers : tuple of float
        What the op's function takes: the activation's parameter, a dropout's rate, …
    W, b : Parameter or None
        The weights (I, O) and biases (O,) of a ``dense`` op; of others one number a column: γ and β,
        or the slope.
    statistics : (Parameter, Parameter) or None
        Running mean and variance (O,).
    layer : str
        The name of the layer that it belongs to, as in the parameters' names.
    head : bool
        Whether it belongs to an auxiliary head, which is not there in prediction.
    accumulates : tuple of bool
        For each source, whether a later op reads it too: then this op's delta is added to that op's.
    """

    kind: str
    sources: tuple[int, ...]
    target: int
    n_in: int
    n_out: int
    activation: Activation
    numbers: tuple[float, ...] = ()
    W: Parameter | None = None
    b: Parameter | None = None
    statistics: tuple[Parameter, Parameter] | None = None
    layer: str = ""
    head: bool = False
    accumulates: tuple[bool, ...] = (False,)

    @property
    def source(self) -> int:
        """The first value it reads."""
        return self.sources[0]


@dataclass(frozen=True)
class Head:
    """A loss of its own on the value of an auxiliary head; it counts `weight` times in the objective."""

    value: int
    layer: str
    loss: Loss | None
    weight: float


@dataclass(frozen=True)
class Program:
    """What an engine runs."""

    ops: tuple[Op, ...]
    widths: tuple[int, ...]
    parameters: tuple[Parameter, ...]
    size: int
    output: int
    heads: tuple[Head, ...] = ()

    @property
    def n_inputs(self) -> int:
        return self.widths[0]

    @property
    def n_outputs(self) -> int:
        return self.widths[self.output]

    @property
    def random(self) -> bool:
        """Whether a step of training draws random numbers."""
        return any(op.kind in RANDOM for op in self.ops)

    @property
    def renormalises(self) -> bool:
        """Whether an op corrects the batch's statistics by running ones."""
        return any(op.kind == "batch_norm" and op.numbers[2:4] != (1.0, 0.0) for op in self.ops)

    def initial(self, seed: int, dtype: Any) -> NDArray[Any]:
        """The flat vector at the start; padding between blocks is 0."""
        flat = aligned(self.size, dtype)
        flat[...] = 0
        for stream, parameter in enumerate(self.parameters):
            values = parameter.initializer.draw(parameter.shape, generator(seed, stream))
            flat[parameter.block] = values.ravel()
        return flat

    def views(self, flat: NDArray[Any], trained: bool = True) -> dict[str, NDArray[Any]]:
        """The parameters by name, or else the statistics, as views of a flat vector."""
        return {p.name: flat[p.block].reshape(p.shape) for p in self.parameters if p.trained == trained}

    def with_losses(self, loss: Loss) -> Program:
        """This program with every head's loss in place: its own, or the network's."""
        return replace(self, heads=tuple(_with_loss(head, self, loss) for head in self.heads))


def _with_loss(head: Head, program: Program, loss: Loss) -> Head:
    """The head with its loss, which takes the same targets as the network's."""
    own = loss if head.loss is None else head.loss
    where = f"layers[{head.layer}]: Auxiliary"
    if isinstance(own, CustomLoss):
        raise ValueError(f"{where}: loss must be one of bpfast's own; got a custom loss")
    if own.targets != loss.targets:
        raise ValueError(
            f"{where}: loss {own.name!r} takes {own.targets} for y, the network's loss {loss.name!r} takes "
            f"{loss.targets}; both get the same y"
        )
    if program.widths[head.value] != program.n_outputs:
        raise ValueError(
            f"{where}: units must be {program.n_outputs}, the outputs of the network, since both get the "
            f"same y; got {program.widths[head.value]}"
        )
    return replace(head, loss=own)


@dataclass
class Builder:
    """Collects ops and parameters while the layers build themselves."""

    widths: list[int]
    ops: list[Op] = field(default_factory=list)
    parameters: list[Parameter] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)
    size: int = 0
    layer: str = ""

    def width(self, value: int) -> int:
        """The number of columns of a value."""
        return self.widths[value]

    @contextmanager
    def inside(self, index: int | str) -> Iterator[None]:
        """The layers that are built meanwhile are part of this one, under a number or name."""
        outer = self.layer
        if outer.count(".") >= MAX_DEPTH:
            raise ValueError(f"layers may be {MAX_DEPTH} deep within each other; {outer[:20]}… are deeper")
        self.layer = f"{outer}.{index}" if outer else str(index)
        try:
            yield
        finally:
            self.layer = outer

    def parameter(
        self,
        name: str,
        shape: tuple[int, ...],
        initializer: Initializer,
        *,
        penalised: bool = False,
        trained: bool = True,
    ) -> Parameter:
        """Lay out a parameter behind those before it."""
        parameter = Parameter(f"{self.layer}.{name}", self.size, shape, initializer, penalised, trained)
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
        sources: int | tuple[int, ...],
        n_out: int,
        *,
        activation: Activation | None = None,
        numbers: tuple[float, ...] | None = None,
        W: Parameter | None = None,
        b: Parameter | None = None,
        statistics: tuple[Parameter, Parameter] | None = None,
        head: bool = False,
    ) -> int:
        """Append an op; return the value that it makes."""
        sources = (sources,) if isinstance(sources, int) else sources
        activation = Identity() if activation is None else activation
        target = len(self.widths)
        if len(self.ops) == MAX_OPS:
            raise ValueError(f"the layers make more than {MAX_OPS} ops")
        self.widths.append(n_out)
        self.ops.append(
            Op(
                kind,
                sources,
                target,
                self.width(sources[0]),
                n_out,
                activation,
                (activation.parameter,) if numbers is None else numbers,
                W,
                b,
                statistics,
                self.layer,
                head,
            )
        )
        return target

    def head(self, value: int, loss: Loss | None, weight: float) -> None:
        """Give a value a loss of its own."""
        self.heads.append(Head(value, self.layer, loss, weight))


#: The kinds of op that draw random numbers in training.
RANDOM = frozenset(("dropout", "rrelu"))


def _with_accumulation(ops: Sequence[Op], output: int) -> tuple[Op, ...]:
    """Return the ops, each with whether the delta of what it reads has been written before.

    Deltas are computed from the last op to the first; that of the output comes from the loss.
    """
    written, result = {output}, []
    for op in reversed(ops):
        accumulates = []
        for source in op.sources:
            accumulates.append(source in written)
            written.add(source)
        result.append(replace(op, accumulates=tuple(accumulates)))
    return tuple(reversed(result))


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
        with builder.inside(index):
            value = layer.build(builder, value)
    if value == 0:
        raise ValueError("layers must have one that makes an output; got Auxiliary heads alone")
    return Program(
        _with_accumulation(builder.ops, value),
        tuple(builder.widths),
        tuple(builder.parameters),
        builder.size,
        value,
        tuple(builder.heads),
    )
