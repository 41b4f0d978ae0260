"""Layers: each appends its ops and parameters to a program."""

from __future__ import annotations

from typing import Any, ClassVar

from . import activations as _activations
from .builder import Builder
from .initializers import Constant, Initializer, initializers
from .losses import Loss, losses
from .spec import Family, Spec, flag, integer, number, spec


class Layer(Spec):
    """A layer of a network."""

    @property
    def text(self) -> str:
        """The hyperparameters shown by `Network.summary`."""
        return ""

    def build(self, builder: Builder, source: int) -> int:
        """Append this layer to a program, reading the value `source`; return the value it computes."""
        raise NotImplementedError


layers: Family[Layer] = Family("layer", Layer)


def _resolve_activation(owner: str, value: Any) -> _activations.Activation:
    if isinstance(value, dict):
        return _activations.activations.from_config(value)
    return _activations.activations.resolve(value, f"{owner}: activation")


def _resolve_initializer(value: Any) -> Initializer:
    if isinstance(value, dict):
        return initializers.from_config(value)
    return initializers.resolve(value)


@layers.register("dense")
@spec
class Dense(Layer):
    """Fully connected layer: A = f(Z), Z = X W + b.

    Parameters
    ----------
    units : int
        Number of outputs O.
    activation : str or Activation, default "identity"
        Activation function f.
    initializer : str or Initializer, optional
        Initializer of W. The default depends on the activation: Xavier uniform for sigmoid, tanh
        and identity, He normal for the relu family, LeCun normal for selu.
    bias_initializer : str or Initializer, default "zeros"
        Initializer of b.
    bias : bool, default True
        Whether the layer has a bias b.
    """

    units: int
    activation: str | _activations.Activation = "identity"
    initializer: str | Initializer | None = None
    bias_initializer: str | Initializer = "zeros"
    bias: bool = True

    def __post_init__(self) -> None:
        self._set("units", integer("Dense", "units", self.units, at_least=1))
        self._set("activation", _resolve_activation(type(self).__name__, self.activation))
        assert isinstance(self.activation, _activations.Activation)
        initializer = self.activation.initializer if self.initializer is None else self.initializer
        self._set("initializer", _resolve_initializer(initializer))
        self._set("bias_initializer", _resolve_initializer(self.bias_initializer))
        flag("Dense", "bias", self.bias)

    @property
    def text(self) -> str:
        assert isinstance(self.activation, _activations.Activation)
        return self.activation.name

    def build(self, builder: Builder, source: int, head: bool = False) -> int:
        assert isinstance(self.activation, _activations.Activation)
        assert isinstance(self.initializer, Initializer)
        assert isinstance(self.bias_initializer, Initializer)
        n_in = builder.width(source)
        W = builder.parameter("W", (n_in, self.units), self.initializer, penalised=True)
        b = builder.parameter("b", (self.units,), self.bias_initializer) if self.bias else None
        return builder.op("dense", source, self.units, activation=self.activation, W=W, b=b, head=head)


@layers.register("activation")
@spec
class Activation(Layer):
    """Activation as a separate layer: A = f(X).

    Parameters
    ----------
    activation : str or Activation
        Activation function f.
    """

    activation: str | _activations.Activation
    name: ClassVar[str] = "activation"

    def __post_init__(self) -> None:
        self._set("activation", _resolve_activation(type(self).__name__, self.activation))

    @property
    def text(self) -> str:
        assert isinstance(self.activation, _activations.Activation)
        return self.activation.name

    def build(self, builder: Builder, source: int) -> int:
        assert isinstance(self.activation, _activations.Activation)
        return builder.op("activation", source, builder.width(source), activation=self.activation)


@layers.register("dropout")
@spec
class Dropout(Layer):
    """A = X ⊙ M / (1 - rate) in training, with M = 0 with probability rate, else 1; A = X in prediction.

    M is a function of the network's seed, the number of steps made so far and the position of the
    element (Srivastava et al. 2014), so it does not depend on the number of threads. Elements are dropped
    by `fit` and ``forward(training=True)``, not by `predict`, `loss`, `gradients` or validation.

    Parameters
    ----------
    rate : float, default 0.5
        Fraction of the elements that is dropped; at least 0 and less than 1.
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        self._set("rate", number("Dropout", "rate", self.rate, at_least=0, below=1))

    @property
    def text(self) -> str:
        return f"rate {self.rate:g}"

    def build(self, builder: Builder, source: int) -> int:
        return builder.op("dropout", source, builder.width(source), numbers=(self.rate,))


def _columns(builder: Builder, name: str, width: int, value: float, trained: bool = True) -> Any:
    """Append a parameter with one number per column."""
    return builder.parameter(name, (width,), Constant(value), trained=trained)


def _build_batch_norm(builder: Builder, source: int, numbers: tuple[float, ...]) -> int:
    width = builder.width(source)
    return builder.op(
        "batch_norm",
        source,
        width,
        numbers=numbers,
        W=_columns(builder, "gamma", width, 1.0),
        b=_columns(builder, "beta", width, 0.0),
        statistics=(
            _columns(builder, "mean", width, 0.0, trained=False),
            _columns(builder, "variance", width, 1.0, trained=False),
        ),
    )


@layers.register("batch_norm")
@spec(kw_only=True)
class BatchNorm(Layer):
    """Batch normalization: A = γ (X - μ) / √(σ² + ε) + β per column (Ioffe & Szegedy 2015).

    In training μ and σ² are the mean and (biased) variance of the batch, and running statistics are
    updated: m ← (1 - momentum) m + momentum · μ, and likewise with the unbiased variance, as in PyTorch.
    A batch of one row does not update them. Prediction uses the running statistics, which are available
    as `Network.statistics`. Sample weights have no effect on the statistics. γ and β (O,) are trained,
    start at 1 and 0, and are not penalised.

    Parameters
    ----------
    momentum : float, default 0.1
        Weight of the batch in the update of the running statistics; greater than 0, at most 1. This is
        PyTorch's convention; Keras's momentum of 0.99 corresponds to 0.01.
    epsilon : float, default 1e-5
        ε, in the units of X²; greater than 0.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        self._set("momentum", number("BatchNorm", "momentum", self.momentum, above=0, at_most=1))
        self._set("epsilon", number("BatchNorm", "epsilon", self.epsilon, above=0))

    def build(self, builder: Builder, source: int) -> int:
        # The op of BatchRenorm with r = 1 and d = 0.
        return _build_batch_norm(builder, source, (self.momentum, self.epsilon, 1.0, 0.0, 0.0, 0.0))


@layers.register("batch_renorm")
@spec(kw_only=True)
class BatchRenorm(Layer):
    """Batch renormalization: A = γ (r (X - μ) / √(σ² + ε) + d) + β per column (Ioffe 2017).

    μ and σ² are the statistics of the batch, as in `BatchNorm`. The corrections r = √(σ² + ε) / √(s² + ε)
    and d = (μ - m) / √(s² + ε), with the running mean m and variance s² before the step, make training use
    the same statistics as prediction. r is clipped to [1 / r_t, r_t] and d to [-d_t, d_t]; both are
    treated as constants in the gradient. In training step t, r_t and d_t are 1 and 0 before `begin`
    (plain `BatchNorm`), r_max and d_max from `end` on, and are interpolated linearly in between. Use it
    for small batches, or for batches whose rows are similar to each other.

    Parameters
    ----------
    r_max : float, default 3.0
        Final limit of r; at least 1.
    d_max : float, default 5.0
        Final limit of d; at least 0.
    begin, end : int, default 100 and 1000
        Training steps at which the limits start to grow and reach their final values.
    momentum : float, default 0.1
        Weight of the batch in the update of the running statistics; greater than 0, at most 1. Use a
        smaller value for smaller batches.
    epsilon : float, default 1e-5
        ε, in the units of X²; greater than 0.
    """

    r_max: float = 3.0
    d_max: float = 5.0
    begin: int = 100
    end: int = 1000
    momentum: float = 0.1
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        self._set("r_max", number("BatchRenorm", "r_max", self.r_max, at_least=1))
        self._set("d_max", number("BatchRenorm", "d_max", self.d_max, at_least=0))
        self._set("begin", integer("BatchRenorm", "begin", self.begin, at_least=0))
        self._set("end", integer("BatchRenorm", "end", self.end, at_least=self.begin))
        self._set("momentum", number("BatchRenorm", "momentum", self.momentum, above=0, at_most=1))
        self._set("epsilon", number("BatchRenorm", "epsilon", self.epsilon, above=0))

    def build(self, builder: Builder, source: int) -> int:
        numbers = (self.momentum, self.epsilon, self.r_max, self.d_max, float(self.begin), float(self.end))
        return _build_batch_norm(builder, source, numbers)


@layers.register("layer_norm")
@spec(kw_only=True)
class LayerNorm(Layer):
    """Layer normalization: A = γ (X - μ) / √(σ² + ε) + β per row (Ba, Kiros & Hinton 2016).

    μ and σ² are the mean and (biased) variance of each row, in training and in prediction. γ and β (O,)
    are trained, start at 1 and 0, and are not penalised.

    Parameters
    ----------
    epsilon : float, default 1e-5
        ε, in the units of X²; greater than 0.
    """

    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        self._set("epsilon", number("LayerNorm", "epsilon", self.epsilon, above=0))

    def build(self, builder: Builder, source: int) -> int:
        width = builder.width(source)
        gamma, beta = _columns(builder, "gamma", width, 1.0), _columns(builder, "beta", width, 0.0)
        return builder.op("layer_norm", source, width, numbers=(self.epsilon,), W=gamma, b=beta)


@layers.register("maxout")
@spec
class Maxout(Layer):
    """Maxout: A = max over k of (X Wₖ + bₖ) (Goodfellow et al. 2013).

    The delta goes to the largest piece, or to the first of equal ones. Column k · units + u of
    W (I, pieces · units) is piece k of unit u.

    Parameters
    ----------
    units : int
        Number of outputs O.
    pieces : int, default 2
        Number of linear pieces per unit.
    initializer : str or Initializer, default "he_normal"
        Initializer of W.
    bias : bool, default True
        Whether the layer has a bias b, which starts at 0.
    """

    units: int
    pieces: int = 2
    initializer: str | Initializer = "he_normal"
    bias: bool = True

    def __post_init__(self) -> None:
        self._set("units", integer("Maxout", "units", self.units, at_least=1))
        self._set("pieces", integer("Maxout", "pieces", self.pieces, at_least=1))
        self._set("initializer", _resolve_initializer(self.initializer))
        flag("Maxout", "bias", self.bias)

    @property
    def text(self) -> str:
        return f"{self.pieces} piece{'s' if self.pieces > 1 else ''}"

    def build(self, builder: Builder, source: int) -> int:
        assert isinstance(self.initializer, Initializer)
        pieces = Dense(self.units * self.pieces, initializer=self.initializer, bias=self.bias)
        return builder.op("maxout", pieces.build(builder, source), self.units, numbers=(float(self.pieces),))


@layers.register("prelu")
@spec
class PReLU(Layer):
    """Parametric ReLU: A = max(0, X) + a ⊙ min(0, X) with trained slopes a (O,) (He et al. 2015).

    a is not penalised, as weight decay would move it towards the plain ReLU.

    Parameters
    ----------
    initial : float, default 0.25
        Initial value of a.
    """

    initial: float = 0.25

    def __post_init__(self) -> None:
        self._set("initial", number("PReLU", "initial", self.initial))

    def build(self, builder: Builder, source: int) -> int:
        width = builder.width(source)
        return builder.op("prelu", source, width, W=_columns(builder, "slope", width, self.initial))


@layers.register("rrelu")
@spec
class RReLU(Layer):
    """Randomized leaky ReLU: A = max(0, X) + a ⊙ min(0, X) with random slopes a (Xu et al. 2015).

    In training a is drawn uniformly from [lower, upper] for every element in every step, with a
    counter-based generator as in `Dropout`; in prediction a = (lower + upper) / 2.

    Parameters
    ----------
    lower, upper : float, default 1/8 and 1/3
        Bounds of the slopes; upper must be at least lower.
    """

    lower: float = 1 / 8
    upper: float = 1 / 3

    def __post_init__(self) -> None:
        self._set("lower", number("RReLU", "lower", self.lower))
        self._set("upper", number("RReLU", "upper", self.upper, at_least=self.lower))

    @property
    def text(self) -> str:
        return f"{self.lower:.4g} to {self.upper:.4g}"

    def build(self, builder: Builder, source: int) -> int:
        return builder.op("rrelu", source, builder.width(source), numbers=(self.lower, self.upper))


@layers.register("residual")
@spec(init=False)
class Residual(Layer):
    """Residual block: A = X + F(X), where F is a sequence of layers (He et al. 2016).

    If F(X) has a different number of columns than X, A = X P + F(X) with a projection P (I, O), which is
    trained and penalised like the W of a `Dense`.

    Parameters
    ----------
    *layers : Layer
        The layers of F, at least one.

    Examples
    --------
    >>> import bpfast as bp
    >>> block = bp.Residual(bp.BatchNorm(), bp.Activation("relu"), bp.Dense(64))
    """

    layers: tuple[Layer, ...]

    def __init__(self, *layers: Layer) -> None:
        if not layers:
            raise TypeError("Residual requires at least one layer")
        for index, layer in enumerate(layers):
            if isinstance(layer, (list, tuple)):
                raise TypeError(
                    "Residual: pass layers as separate arguments, not as a list: Residual(*layers)"
                )
            if not isinstance(layer, Layer):
                raise TypeError(
                    f"Residual: layer {index} must be a layer, such as bp.Dense(10); got {layer!r}"
                )
        self._set("layers", layers)

    def __repr__(self) -> str:
        return f"Residual({', '.join(map(repr, self.layers))})"

    @classmethod
    def from_fields(cls, values: dict[str, Any]) -> Residual:
        return cls(*map(layers.from_config, values["layers"]))

    def build(self, builder: Builder, source: int) -> int:
        value = source
        for index, layer in enumerate(self.layers):
            with builder.inside(index):
                value = layer.build(builder, value)
        width, skip = builder.width(value), source
        if builder.width(source) != width:
            with builder.inside("skip"):
                skip = Dense(width, bias=False).build(builder, source)
        return builder.op("add", (value, skip), width)


@layers.register("auxiliary")
@spec
class Auxiliary(Layer):
    """Auxiliary head: adds weight · L(y, X W + b) to the objective; A = X.

    It supplies an additional gradient to the layers before it (Lee et al. 2015; Szegedy et al. 2015). It
    is active only in `fit`, not in prediction, `loss` or validation. Its targets are those of the network.

    Parameters
    ----------
    units : int
        Number of outputs, the same as that of the network.
    loss : str or Loss, optional
        A loss that accepts the same targets as the network's loss, which is the default.
    weight : float, default 0.3
        Weight of the head's loss in the objective; greater than 0.
    """

    units: int
    loss: str | Loss | None = None
    weight: float = 0.3

    def __post_init__(self) -> None:
        self._set("units", integer("Auxiliary", "units", self.units, at_least=1))
        loss: Any = self.loss
        if isinstance(loss, dict):
            self._set("loss", losses.from_config(loss))
        elif loss is not None:
            self._set("loss", losses.resolve(loss, "Auxiliary: loss"))
        self._set("weight", number("Auxiliary", "weight", self.weight, above=0))

    @property
    def text(self) -> str:
        loss = "" if self.loss is None else f"{self.loss.name} "  # type: ignore[union-attr]
        return f"head {loss}{self.units} × {self.weight:g}"

    def build(self, builder: Builder, source: int) -> int:
        assert self.loss is None or isinstance(self.loss, Loss)
        value = Dense(self.units).build(builder, source, head=True)
        builder.head(value, self.loss, self.weight)
        return source
