"""Activations: A = f(Z), elementwise."""

from __future__ import annotations

from typing import ClassVar

from .spec import Family, Spec, number, spec


class Activation(Spec):
    """An elementwise function with at most one parameter."""

    initializer: ClassVar[str] = "xavier_uniform"
    #: Whether f' is continuous; finite differences are meaningless across a jump.
    smooth: ClassVar[bool] = True

    @property
    def parameter(self) -> float:
        """The parameter of the function; 0 if it has none."""
        return 0.0


activations: Family[Activation] = Family("activation", Activation)
activations.hints["softmax"] = "the loss applies it to the outputs: use loss='cross_entropy'"


@activations.register("identity", "linear")
@spec
class Identity(Activation):
    """f(z) = z, f'(z) = 1."""


@activations.register("sigmoid", "logistic")
@spec
class Sigmoid(Activation):
    """f(z) = 1 / (1 + exp(-z)), f'(z) = f(z) (1 - f(z))."""


@activations.register("tanh")
@spec
class Tanh(Activation):
    """f(z) = tanh(z), f'(z) = 1 - f(z)²."""


@activations.register("relu")
@spec
class ReLU(Activation):
    """f(z) = max(0, z), f'(z) = 1 if z > 0, else 0 (Nair & Hinton 2010)."""

    initializer: ClassVar[str] = "he_normal"
    smooth: ClassVar[bool] = False


@activations.register("leaky_relu")
@spec
class LeakyReLU(Activation):
    """f(z) = z if z > 0, else slope · z (Maas et al. 2013).

    Parameters
    ----------
    slope : float, default 0.01
        The derivative for z ≤ 0; greater than 0, so that A and Z have the same sign.
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
@spec
class ELU(Activation):
    """f(z) = z if z > 0, else alpha · (exp(z) - 1) (Clevert et al. 2016).

    Parameters
    ----------
    alpha : float, default 1.0
        Minus the limit of f for z → -∞; greater than 0. f' is continuous only for alpha = 1.
    """

    alpha: float = 1.0
    initializer: ClassVar[str] = "he_normal"

    def __post_init__(self) -> None:
        self._set("alpha", number("ELU", "alpha", self.alpha, above=0))

    @property
    def parameter(self) -> float:
        return self.alpha


@activations.register("selu")
@spec
class SELU(Activation):
    """f(z) = λ z if z > 0, else λ α (exp(z) - 1); λ = 1.0507…, α = 1.6733… (Klambauer et al. 2017)."""

    initializer: ClassVar[str] = "lecun_normal"
    smooth: ClassVar[bool] = False


@activations.register("gelu")
@spec
class GELU(Activation):
    """f(z) = z Φ(z) with the normal distribution function Φ, computed by erf (Hendrycks & Gimpel 2016)."""

    initializer: ClassVar[str] = "he_normal"


@activations.register("silu", "swish")
@spec
class SiLU(Activation):
    """f(z) = z sigmoid(z) (Elfwing et al. 2018)."""

    initializer: ClassVar[str] = "he_normal"


@activations.register("softplus")
@spec
class Softplus(Activation):
    """f(z) = log(1 + exp(z)), f'(z) = sigmoid(z) (Dugas et al. 2001)."""

    initializer: ClassVar[str] = "he_normal"
