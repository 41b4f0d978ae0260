"""Penalties Ω on the weights: J = mean loss + α Ω(W). Biases are never penalised.

A smooth penalty is added to the gradient, g = dW + α Ω'(W), before the optimizer's update. A part
without a derivative is applied after the update as a proximal step (Parikh & Boyd 2014), which makes
weights exactly 0. Its step size is the learning rate η, or η / (1 - μ) with momentum μ: that is how far
a constant gradient moves a weight, so the minimum of J is unchanged. Optimizers that scale each weight's
gradient (Adam, RMSprop, ...) use the plain η: weights become exactly 0 there too, but α is then relative
to the scaled gradient, not to the gradient of J.
"""

from __future__ import annotations

from typing import ClassVar

from .spec import Family, Spec, number, spec


@spec
class Penalty(Spec):
    """A penalty and its strength.

    Parameters
    ----------
    alpha : float
        The strength α ≥ 0.
    """

    alpha: float
    #: Whether Ω has a derivative everywhere, so that it needs no proximal step.
    smooth: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._set("alpha", number(type(self).__name__, "alpha", self.alpha, at_least=0))

    @property
    def mix(self) -> float:
        """The fraction ρ of L1 in an elastic net; 0 for other penalties."""
        return 0.0


penalties: Family[Penalty] = Family("penalty", Penalty)


@penalties.register("l2", "ridge")
@spec
class L2(Penalty):
    """Ω = ½ ‖W‖₂², gradient α W (ridge)."""


@penalties.register("l1", "lasso")
@spec
class L1(Penalty):
    """Ω = ‖W‖₁, proximal step W ← sign(W) max(0, |W| - η α) (lasso; Tibshirani 1996)."""

    smooth: ClassVar[bool] = False


@penalties.register("elastic_net", "elasticnet")
@spec
class ElasticNet(Penalty):
    """Ω = ρ ‖W‖₁ + ½ (1 - ρ) ‖W‖₂² with ρ = l1_ratio (Zou & Hastie 2005).

    Parameters
    ----------
    alpha : float
        The strength α ≥ 0.
    l1_ratio : float, default 0.5
        The fraction ρ of L1, from 0 to 1.
    """

    l1_ratio: float = 0.5
    smooth: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("l1_ratio", number("ElasticNet", "l1_ratio", self.l1_ratio, at_least=0, at_most=1))

    @property
    def mix(self) -> float:
        return self.l1_ratio


@penalties.register("l0")
@spec
class L0(Penalty):
    """Ω = #(W ≠ 0), proximal step W ← 0 if |W| ≤ √(2 η α) (hard threshold; Blumensath & Davies 2008)."""

    smooth: ClassVar[bool] = False


@penalties.register("frobenius")
@spec
class Frobenius(Penalty):
    """Ω = Σ over matrices ‖W‖_F, not squared; gradient α W / ‖W‖_F, or 0 for W = 0."""
