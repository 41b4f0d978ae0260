"""Optimizers: rules that update a weight w from its gradient g.

A specification names its rule in the engines' tables, the hyperparameters in the order in which the rule
reads them, and the state of the rule: named arrays with one element per weight.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, ClassVar

from .schedules import Schedule, resolve_rate
from .spec import Family, Spec, flag, integer, number, spec


@spec
class Optimizer(Spec):
    """An update rule and its hyperparameters.

    Parameters
    ----------
    learning_rate : float or Schedule
        Learning rate η > 0, or a schedule.
    clip_value : float, optional
        Clip every element of the gradient to [-clip_value, clip_value]; greater than 0.
    clip_norm : float, optional
        Scale the gradient so that its norm over all trained parameters is at most this value (Pascanu
        et al. 2013); greater than 0. Applied after `clip_value`. Penalties are added afterwards and
        are not clipped.
    """

    learning_rate: float | Schedule
    clip_value: float | None = field(default=None, kw_only=True)
    clip_norm: float | None = field(default=None, kw_only=True)
    #: Whether the rule needs the gradient of all rows in each step.
    full_batch: ClassVar[bool] = False

    def __post_init__(self) -> None:
        owner = type(self).__name__
        self._set("learning_rate", resolve_rate(owner, self.learning_rate))
        for name in ("clip_value", "clip_norm"):
            value = getattr(self, name)
            if value is not None:
                self._set(name, number(owner, name, value, above=0))

    @property
    def rule(self) -> str:
        """The rule's name in the engines' tables."""
        return self.name

    @property
    def hyperparameters(self) -> tuple[float, ...]:
        """The numbers of the rule except the learning rate, in the order in which the rule reads them."""
        return ()

    @property
    def state(self) -> dict[str, float]:
        """The state arrays of the rule: name → initial value."""
        return {}

    @property
    def schedule(self) -> Schedule:
        """The learning rate as a schedule."""
        assert isinstance(self.learning_rate, Schedule)
        return self.learning_rate


optimizers: Family[Optimizer] = Family("optimizer", Optimizer)
optimizers.hints["lbfgs"] = "L-BFGS needs all rows at once and is available only in Network.fit"


@optimizers.register("sgd")
@spec
class SGD(Optimizer):
    """Stochastic gradient descent: v ← μ v - η g, w ← w + v.

    With Nesterov momentum w ← w + μ v - η g (Sutskever et al. 2013).

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.01
        Learning rate η, or a schedule.
    momentum : float, default 0.0
        μ, at least 0 and less than 1. Without momentum w ← w - η g, and there is no state.
    nesterov : bool, default False
        Use Nesterov momentum; requires momentum greater than 0.
    clip_value, clip_norm : float, optional
        Limits for the elements and for the norm of the gradient; see `Optimizer`.
    """

    learning_rate: float | Schedule = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("momentum", number("SGD", "momentum", self.momentum, at_least=0, below=1))
        flag("SGD", "nesterov", self.nesterov)
        if self.nesterov and self.momentum == 0:
            raise ValueError("SGD: nesterov requires momentum greater than 0; got momentum=0")

    @property
    def rule(self) -> str:
        if self.momentum == 0:
            return "sgd"
        return "nesterov" if self.nesterov else "momentum"

    @property
    def hyperparameters(self) -> tuple[float, ...]:
        return () if self.momentum == 0 else (self.momentum,)

    @property
    def state(self) -> dict[str, float]:
        return {} if self.momentum == 0 else {"velocity": 0.0}


def _check_betas(owner: str, spec: Adam | AdamW) -> None:
    spec._set("beta_1", number(owner, "beta_1", spec.beta_1, at_least=0, below=1))
    spec._set("beta_2", number(owner, "beta_2", spec.beta_2, at_least=0, below=1))
    spec._set("epsilon", number(owner, "epsilon", spec.epsilon, above=0))
    flag(owner, "epsilon_hat", spec.epsilon_hat)


@optimizers.register("adam")
@spec
class Adam(Optimizer):
    """Adam: m ← β₁ m + (1-β₁) g, v ← β₂ v + (1-β₂) g², w ← w - η m̂ / (√v̂ + ε) (Kingma & Ba 2015).

    m̂ = m / (1-β₁ᵗ) and v̂ = v / (1-β₂ᵗ) in step t = 1, 2, …

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.001
        Learning rate η, or a schedule.
    beta_1, beta_2 : float, default 0.9 and 0.999
        Decay rates β₁ and β₂ of the moments; at least 0 and less than 1.
    epsilon : float, default 1e-8
        ε, greater than 0.
    epsilon_hat : bool, default False
        Add ε before the bias correction of the root, like ε̂ in the paper, scikit-learn and Keras:
        w ← w - η m̂ / ((√v + ε) / √(1-β₂ᵗ)).
    clip_value, clip_norm : float, optional
        Limits for the elements and for the norm of the gradient; see `Optimizer`.
    """

    learning_rate: float | Schedule = 1e-3
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    epsilon_hat: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_betas("Adam", self)

    @property
    def hyperparameters(self) -> tuple[float, ...]:
        return (self.beta_1, self.beta_2, self.epsilon, float(self.epsilon_hat))

    @property
    def state(self) -> dict[str, float]:
        return {"m": 0.0, "v": 0.0}


@optimizers.register("adamw")
@spec
class AdamW(Optimizer):
    """Adam with decoupled weight decay: w ← w - η λ w before the update (Loshchilov & Hutter 2019).

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.001
        Learning rate η, or a schedule.
    beta_1, beta_2 : float, default 0.9 and 0.999
        Decay rates of the moments, as in `Adam`.
    epsilon : float, default 1e-8
        ε, greater than 0.
    weight_decay : float, default 0.01
        λ ≥ 0, applied to weights but not to biases.
    epsilon_hat : bool, default False
        Add ε before the bias correction, as in `Adam`.
    clip_value, clip_norm : float, optional
        Limits for the elements and for the norm of the gradient; see `Optimizer`.
    """

    learning_rate: float | Schedule = 1e-3
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    epsilon_hat: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_betas("AdamW", self)
        self._set("weight_decay", number("AdamW", "weight_decay", self.weight_decay, at_least=0))

    @property
    def hyperparameters(self) -> tuple[float, ...]:
        return (self.beta_1, self.beta_2, self.epsilon, float(self.epsilon_hat), self.weight_decay)

    @property
    def state(self) -> dict[str, float]:
        return {"m": 0.0, "v": 0.0}


@optimizers.register("rmsprop")
@spec
class RMSprop(Optimizer):
    """RMSprop: v ← ρ v + (1-ρ) g², w ← w - η g / (√v + ε) (Tieleman & Hinton 2012).

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.001
        Learning rate η, or a schedule.
    rho : float, default 0.9
        Decay rate ρ of the mean square; at least 0 and less than 1.
    epsilon : float, default 1e-8
        ε, greater than 0.
    clip_value, clip_norm : float, optional
        Limits for the elements and for the norm of the gradient; see `Optimizer`.
    """

    learning_rate: float | Schedule = 1e-3
    rho: float = 0.9
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("rho", number("RMSprop", "rho", self.rho, at_least=0, below=1))
        self._set("epsilon", number("RMSprop", "epsilon", self.epsilon, above=0))

    @property
    def hyperparameters(self) -> tuple[float, ...]:
        return (self.rho, self.epsilon)

    @property
    def state(self) -> dict[str, float]:
        return {"v": 0.0}


@optimizers.register("adagrad")
@spec
class Adagrad(Optimizer):
    """AdaGrad: v ← v + g², w ← w - η g / (√v + ε) (Duchi et al. 2011).

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.01
        Learning rate η, or a schedule.
    epsilon : float, default 1e-10
        ε, greater than 0.
    clip_value, clip_norm : float, optional
        Limits for the elements and for the norm of the gradient; see `Optimizer`.
    """

    learning_rate: float | Schedule = 0.01
    epsilon: float = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("epsilon", number("Adagrad", "epsilon", self.epsilon, above=0))

    @property
    def hyperparameters(self) -> tuple[float, ...]:
        return (self.epsilon,)

    @property
    def state(self) -> dict[str, float]:
        return {"v": 0.0}


@optimizers.register("rprop")
@spec
class Rprop(Optimizer):
    """Rprop: a step size Δ per weight, adapted by the sign of g (Riedmiller & Braun 1993; iRprop⁻).

    With s = sign(g · g_previous): if s > 0, Δ ← min(η⁺ Δ, Δmax); if s < 0, Δ ← max(η⁻ Δ, Δmin) and
    g ← 0. Then w ← w - sign(g) Δ, and g becomes g_previous. The rule requires full-batch training.

    Parameters
    ----------
    learning_rate : float, default 0.01
        The initial Δ; a schedule is not supported.
    eta_minus, eta_plus : float, default 0.5 and 1.2
        Factors η⁻ (between 0 and 1 exclusive) and η⁺ (greater than 1).
    step_min, step_max : float, default 1e-6 and 50
        Bounds Δmin and Δmax; greater than 0.
    clip_value, clip_norm : float, optional
        Limits for the elements and for the norm of the gradient; see `Optimizer`.
    """

    learning_rate: float | Schedule = 0.01
    eta_minus: float = 0.5
    eta_plus: float = 1.2
    step_min: float = 1e-6
    step_max: float = 50.0
    full_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.learning_rate, Schedule) and self.learning_rate.name != "constant":
            raise TypeError("Rprop: learning_rate must be a number; schedules are not supported")
        super().__post_init__()
        for name, bounds in (
            ("eta_minus", {"above": 0.0, "below": 1.0}),
            ("eta_plus", {"above": 1.0}),
            ("step_min", {"above": 0.0}),
            ("step_max", {"above": 0.0}),
        ):
            self._set(name, number("Rprop", name, getattr(self, name), **bounds))
        if self.step_min > self.step_max:
            raise ValueError(
                f"Rprop: step_min must be at most step_max; got {self.step_min} and {self.step_max}"
            )

    @property
    def hyperparameters(self) -> tuple[float, ...]:
        return (self.eta_minus, self.eta_plus, self.step_min, self.step_max)

    @property
    def state(self) -> dict[str, float]:
        return {"previous": 0.0, "delta": self.schedule.rate(0.0)}


@spec
class LBFGS(Spec):
    """L-BFGS (Liu & Nocedal 1989): line searches along -H g; runs SciPy's L-BFGS-B.

    Only `Network.fit` supports it, with full-batch training: an epoch is an iteration. Training ends when
    no element of the gradient exceeds the tolerance, or when the objective no longer decreases. No state
    is kept for the next call. It suits small smooth problems. The objective must be deterministic and
    differentiable: layers that draw random numbers, weight noise and penalties without a derivative are
    not supported. `BatchNorm` uses the statistics of all rows. Frozen layers do not change; other
    learning rate scales have no effect.

    Parameters
    ----------
    memory : int, default 10
        Number of past steps that approximate the inverse Hessian H; at least 1.
    tolerance : float, default 1e-6
        Training ends when no element of the gradient is larger; at least 0.
    max_evaluations : int, optional
        Maximum number of evaluations of the objective; 20 per epoch by default.
    """

    memory: int = 10
    tolerance: float = 1e-6
    max_evaluations: int | None = None
    name: ClassVar[str] = "lbfgs"

    def __post_init__(self) -> None:
        self._set("memory", integer("LBFGS", "memory", self.memory, at_least=1))
        self._set("tolerance", number("LBFGS", "tolerance", self.tolerance, at_least=0))
        if self.max_evaluations is not None:
            count = integer("LBFGS", "max_evaluations", self.max_evaluations, at_least=1)
            self._set("max_evaluations", count)


def resolve_optimizer(value: Any) -> Optimizer | LBFGS:
    """Convert the `optimizer` argument of `fit` to a specification."""
    if isinstance(value, LBFGS):
        return value
    return LBFGS() if value is LBFGS or value == LBFGS.name else optimizers.resolve(value, "optimizer")
