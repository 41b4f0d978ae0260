"""Layers: what a network is made of. Each appends its ops and parameters to a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from . import activations as _activations
from .initializers import Initializer, initializers
from .specs import Family, Spec, flag, integer, number

if TYPE_CHECKING:
    from .program import Builder


@dataclass(frozen=True)
class Layer(Spec):
    """One layer."""

    def build(self, builder: Builder, source: int) -> int:
        """Append this layer behind the value `source`; return the value it makes."""
        raise NotImplementedError


layers: Family[Layer] = Family("layer", Layer)


def _resolve_activation(value: Any) -> _activations.Activation:
    if isinstance(value, dict):
        return _activations.activations.from_config(value)
    return _activations.activations.resolve(value)


def _resolve_initializer(value: Any) -> Initializer:
    if isinstance(value, dict):
        return initializers.from_config(value)
    return initializers.resolve(value)


@layers.register("dense")
@dataclass(frozen=True)
class Dense(Layer):
    """A = f(Z), Z = X W + b: every input feeds every unit.

    Parameters
    ----------
    units : int
        O, the number of outputs.
    activation : str or Activation, default "identity"
        f.
    initializer : str or Initializer, optional
        Where W starts. By default what suits the activation: Xavier uniform for sigmoid, tanh
        and identity, He normal for the relu family, LeCun normal for selu.
    bias_initializer : str or Initializer, default "zeros"
        Where b starts.
    bias : bool, default True
        Whether there is a b.
    """

    units: int
    activation: str | _activations.Activation = "identity"
    initializer: str | Initializer | None = None
    bias_initializer: str | Initializer = "zeros"
    bias: bool = True

    def __post_init__(self) -> None:
        self._set("units", integer("Dense", "units", self.units, at_least=1))
        self._set("activation", _resolve_activation(self.activation))
        assert isinstance(self.activation, _activations.Activation)
        initializer = self.activation.initializer if self.initializer is None else self.initializer
        self._set("initializer", _resolve_initializer(initializer))
        self._set("bias_initializer", _resolve_initializer(self.bias_initializer))
        flag("Dense", "bias", self.bias)

    def build(self, builder: Builder, source: int) -> int:
        assert isinstance(self.activation, _activations.Activation)
        assert isinstance(self.initializer, Initializer)
        assert isinstance(self.bias_initializer, Initializer)
        n_in = builder.width(source)
        W = builder.parameter("W", (n_in, self.units), self.initializer, penalised=True)
        b = None
        if self.bias:
            b = builder.parameter("b", (self.units,), self.bias_initializer, penalised=False)
        return builder.op("dense", source, self.units, self.activation, W=W, b=b)


@layers.register("activation")
@dataclass(frozen=True)
class Activation(Layer):
    """A = f(X), an activation as a layer of its own.

    Parameters
    ----------
    activation : str or Activation
        f.
    """

    activation: str | _activations.Activation
    name: ClassVar[str] = "activation"

    def __post_init__(self) -> None:
        self._set("activation", _resolve_activation(self.activation))

    def build(self, builder: Builder, source: int) -> int:
        assert isinstance(self.activation, _activations.Activation)
        return builder.op("activation", source, builder.width(source), self.activation)


@layers.register("dropout")
@dataclass(frozen=True)
class Dropout(Layer):
    """A = X ⊙ M / (1 - rate) in training, M = 0 with probability rate, else 1; A = X in prediction.

    Each step draws M anew from the network's seed, how many steps were made before, and the
    element's place alone (Srivastava et al. 2014). `fit` and ``forward(training=True)`` drop;
    `predict`, `loss`, `gradients` and validation do not.

    Parameters
    ----------
    rate : float, default 0.5
        The share of the elements that is dropped; at least 0, less than 1.
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        self._set("rate", number("Dropout", "rate", self.rate, at_least=0, below=1))

    def build(self, builder: Builder, source: int) -> int:
        return builder.op(
            "dropout", source, builder.width(source), _activations.Identity(), parameter=self.rate
        )
