"""Programs: layers compiled into a flat list of ops and one layout of parameters.

Both engines run the same program. A value is a matrix with one row per sample; value 0 is X, and each op
reads one or two values and computes a new one. All parameters are stored in one flat vector.
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
from ..specs.record import Record, record

#: The offset of every parameter is a multiple of this number of elements (64 bytes in float32).
ALIGNMENT = 16
#: The limit of the engines' index arithmetic.
MAX_PARAMETERS = 2**40
#: The most ops of a program, and the deepest nesting of layers (which recursive functions visit).
MAX_OPS, MAX_DEPTH = 10_000, 50


@record
class Parameter(Record):
    """A block of the flat vector: a trained parameter, or a running statistic if not `trained`."""

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


@record
class Op(Record):
    """One op of the program: it computes the value `target` from the values `sources`.

    Attributes
    ----------
    kind : str
        Name of the op in the engines' tables.
    sources : tuple of int
        The values it reads: two for ``add``, otherwise one.
    target : int
        The value it computes.
    n_in, n_out : int
        Numbers of columns of the first source and of the target.
    activation : Activation
        f of a ``dense`` or ``activation`` op; the identity for other ops.
    numbers : tuple of float
        Arguments of the op's function: the parameter of the activation, the rate of a dropout, …
    W, b : Parameter or None
        Weights (I, O) and biases (O,) of a ``dense`` op. For other ops one number per column: γ and β,
        or the slope.
    statistics : (Parameter, Parameter) or None
        Running mean and variance (O,).
    layer : str
        Name of its layer, as in the names of parameters.
    head : bool
        Whether it belongs to an auxiliary head, which is inactive in prediction.
    accumulates : tuple of bool
        For each source, whether a later op reads it as well, so that this op adds its delta to the delta
        of that op.
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
        """The first of its sources."""
        return self.sources[0]


@record
class Head(Record):
    """An auxiliary loss on a value; it enters the objective with a weight."""

    value: int
    layer: str
    loss: Loss | None
    weight: float


@record
class Program(Record):
    """A compiled network, as engines run it.

    Attributes
    ----------
    ops : tuple of Op
        In the order of the forward pass.
    widths : tuple of int
        Number of columns of each value.
    parameters : tuple of Parameter
        Trained parameters and running statistics.
    size : int
        Number of elements of the flat vector.
    output : int
        The value of the raw outputs Z.
    heads : tuple of Head
        The auxiliary heads.
    """

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
    def n_trained(self) -> int:
        """The number of trained parameters."""
        return sum(parameter.size for parameter in self.parameters if parameter.trained)

    @property
    def random(self) -> bool:
        """Whether a training step draws random numbers."""
        return any(op.kind in RANDOM for op in self.ops)

    @property
    def renormalises(self) -> bool:
        """Whether an op corrects the statistics of a batch by the running statistics."""
        return any(op.kind == "batch_norm" and op.numbers[2:4] != (1.0, 0.0) for op in self.ops)

    def initial(self, seed: int, dtype: Any) -> NDArray[Any]:
        """Return the initial flat vector; padding between blocks is 0."""
        flat = aligned(self.size, dtype)
        flat[...] = 0
        for stream, parameter in enumerate(self.parameters):
            values = parameter.initializer.draw(parameter.shape, generator(seed, stream))
            flat[parameter.block] = values.ravel()
        return flat

    def views(self, flat: NDArray[Any], trained: bool = True) -> dict[str, NDArray[Any]]:
        """Return the trained parameters, or the running statistics, by name as views of a flat vector."""
        return {p.name: flat[p.block].reshape(p.shape) for p in self.parameters if p.trained == trained}

    def with_losses(self, loss: Loss) -> Program:
        """Return the program with the loss of the network filled in for heads that have none."""
        return replace(self, heads=tuple(_with_loss(head, self, loss) for head in self.heads))


def _with_loss(head: Head, program: Program, loss: Loss) -> Head:
    """Return the head with its loss; check that it accepts the same targets as the network's."""
    own = loss if head.loss is None else head.loss
    where = f"layers[{head.layer}]: Auxiliary"
    if isinstance(own, CustomLoss):
        raise ValueError(f"{where}: loss must be a built-in loss; got a custom loss")
    if own.targets != loss.targets:
        raise ValueError(
            f"{where}: loss {own.name!r} expects y to contain {own.targets}, but the network's loss "
            f"{loss.name!r} expects {loss.targets}; both use the same y"
        )
    if program.widths[head.value] != program.n_outputs:
        raise ValueError(
            f"{where}: units must be {program.n_outputs}, the number of outputs of the network, as both "
            f"use the same y; got {program.widths[head.value]}"
        )
    return replace(head, loss=own)


@dataclass(eq=False)
class ProgramBuilder:
    """Collects the ops and parameters that layers append: see `bpfast.specs.builder.Builder`."""

    widths: list[int]
    ops: list[Op] = field(default_factory=list)
    parameters: list[Parameter] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)
    size: int = 0
    layer: str = ""

    def width(self, value: int) -> int:
        """Return the number of columns of a value."""
        return self.widths[value]

    @contextmanager
    def inside(self, name: int | str) -> Iterator[None]:
        """Build layers as parts of the current layer, under this name."""
        outer = self.layer
        if outer.count(".") >= MAX_DEPTH:
            raise ValueError(
                f"layers must not be nested more than {MAX_DEPTH} levels deep; got {outer[:20]}…"
            )
        self.layer = f"{outer}.{name}" if outer else str(name)
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
        """Append a parameter of the current layer to the flat vector."""
        parameter = Parameter(f"{self.layer}.{name}", self.size, shape, initializer, penalised, trained)
        end = parameter.offset + parameter.size
        if end > MAX_PARAMETERS:
            raise ValueError(
                f"the network is too large: parameter {parameter.name} of shape {shape} exceeds the limit of "
                f"{MAX_PARAMETERS} parameters"
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
        """Append an op; return the value that it computes."""
        sources = (sources,) if isinstance(sources, int) else sources
        activation = Identity() if activation is None else activation
        target = len(self.widths)
        if len(self.ops) == MAX_OPS:
            raise ValueError(f"the layers have more than {MAX_OPS} ops")
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
        """Attach an auxiliary loss to a value."""
        self.heads.append(Head(value, self.layer, loss, weight))


#: Kinds of ops that draw random numbers in training.
RANDOM = frozenset(("dropout", "rrelu"))


def _with_accumulation(ops: Sequence[Op], output: int) -> tuple[Op, ...]:
    """Return the ops with `accumulates` set.

    The backward pass visits the ops in reverse and starts from the delta of the output. An op adds to the
    delta of a source if that delta has been written before.
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
        Number of columns of X.
    """
    builder = ProgramBuilder(widths=[n_inputs])
    value = 0
    for index, layer in enumerate(layers):
        with builder.inside(index):
            value = layer.build(builder, value)
    if value == 0:
        raise ValueError("layers must include one that computes an output; got only Auxiliary heads")
    return Program(
        _with_accumulation(builder.ops, value),
        tuple(builder.widths),
        tuple(builder.parameters),
        builder.size,
        value,
        tuple(builder.heads),
    )
