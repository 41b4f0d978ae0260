"""Activations: A = f(Z), element by element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .spec import Family, Spec, number


@dataclass(frozen=True)
class Activation(Spec):
    """An elementwise function with at most one parameter."""

    initializer: ClassVar[str] = "xavier_uniform"
    #: False where f' jumps: finite differences mean nothing across the jump.
    smooth: ClassVar[bool] = True

    @property
    def parameter(self) -> float:
        """The one number that the function takes; 0 where it takes none."""
        return 0.0


activations: Family[Activation] = Family("activation", Activation)
activations.hints["softmax"] = "the loss applies it to the last layer: loss='cross_entropy'"


@activations.register("identity", "linear")
@dataclass(frozen=True)
class Identity(Activation):
    """f(z) = z, f'(z) = 1."""


@activations.register("sigmoid", "logistic")
@dataclass(frozen=True)
class Sigmoid(Activation):
    """f(z) = 1 / (1 + exp(-z)), f'(z) = f(z) (1 - f(z))."""


@activations.register("tanh")
@dataclass(frozen=True)
class Tanh(Activation):
    """f(z) = tanh(z), f'(z) = 1 - f(z)²."""


@activations.register("relu")
@dataclass(frozen=True)
class ReLU(Activation):
    """f(z) = max(0, z), f'(z) = 1 where z > 0, else 0 (Nair & Hinton 2010)."""

    initializer: ClassVar[str] = "he_normal"
    smooth: ClassVar[bool] = False


@activations.register("leaky_relu")
@dataclass(frozen=True)
class LeakyReLU(Activation):
    """f(z) = z where z > 0, else slope · z (Maas et al. 2013).

    Parameters
    ----------
    slope : float, default 0.01
        The derivative at z ≤ 0; positive, since the sign of A tells the side of Z.
    """

    slope: float = 0.01
    initializer: ClassVar[str] = "he_normal"
    smooth: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._set("slope", number("LeakyReLU", "slope", self.slope, above=0))

    @property
    def parameter(self) -> float:
        return self.slope


@activations.register("elu")
@dataclass(frozen=True)
class ELU(Activation):
    """f(z) = z where z > 0, else alpha · (exp(z) - 1) (Clevert et al. 2016).

    Parameters
    ----------
    alpha : float, default 1.0
        Minus the value that f falls to; positive. f' is continuous for alpha = 1 alone.
    """

    alpha: float = 1.0
    initializer: ClassVar[str] = "he_normal"

    def __post_init__(self) -> None:
        self._set("alpha", number("ELU", "alpha", self.alpha, above=0))

    @property
    def parameter(self) -> float:
        return self.alpha


@activations.register("selu")
@dataclass(frozen=True)
class SELU(Activation):
    """f(z) = λ z where z > 0, else λ α (exp(z) - 1); λ = 1.0507…, α = 1.6733… (Klambauer et al. 2017)."""

    initializer: ClassVar[str] = "lecun_normal"
    smooth: ClassVar[bool] = False


@activations.register("gelu")
@dataclass(frozen=True)
class GELU(Activation):
    """f(z) = z Φ(z), Φ the normal distribution function, by erf (Hendrycks & Gimpel 2016)."""

    initializer: ClassVar[str] = "he_normal"


@activations.register("silu", "swish")
@dataclass(frozen=True)
class SiLU(Activation):
    """f(z) = z sigmoid(z) (Elfwing et al. 2018)."""

    initializer: ClassVar[str] = "he_normal"


@activations.register("softplus")
@dataclass(frozen=True)
class Softplus(Activation):
    """f(z) = log(1 + exp(z)), f'(z) = sigmoid(z) (Dugas et al. 2001)."""

    initializer: ClassVar[str] = "he_normal"
