"""Optimizers: the rule that turns a gradient g into a new weight w.

A specification names its rule in the engines' tables, the rule's hyperparameters in order, and the
state that the rule keeps (one number a parameter and a name).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from .schedules import Schedule, resolve_rate
from .spec import Family, Spec, flag, integer, number


@dataclass(frozen=True)
class Optimizer(Spec):
    """A rule and its hyperparameters.

    Parameters
    ----------
    learning_rate : float or Schedule
        The step size η > 0, or a schedule of it.
    clip_value : float, optional
        Every element of the gradient is clipped to [-clip_value, clip_value]; above 0.
    clip_norm : float, optional
        Where the norm of the whole gradient, over all trained parameters, is greater, the gradient is
        scaled down to it (Pascanu et al. 2013); above 0. After `clip_value`. Neither sees a penalty.
    """

    learning_rate: float | Schedule
    clip_value: float | None = field(default=None, kw_only=True)
    clip_norm: float | None = field(default=None, kw_only=True)
    #: True where the rule compares the gradients of whole passes over the data.
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
        """The rule's numbers, less the learning rate, in the order that the rule reads them."""
        return ()

    @property
    def state(self) -> dict[str, float]:
        """The arrays that the rule keeps, by name, each with its initial value."""
        return {}

    @property
    def schedule(self) -> Schedule:
        """The learning rate as a schedule."""
        assert isinstance(self.learning_rate, Schedule)
        return self.learning_rate


optimizers: Family[Optimizer] = Family("optimizer", Optimizer)
optimizers.hints["lbfgs"] = "L-BFGS takes all rows at once, so that it is for Network.fit alone"


@optimizers.register("sgd")
@dataclass(frozen=True)
class SGD(Optimizer):
    """v ← μ v - η g, w ← w + v; with Nesterov w ← w + μ v - η g (Sutskever et al. 2013).

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.01
    momentum : float, default 0.0
        μ, from 0 to below 1. At 0 there is no state: w ← w - η g.
    nesterov : bool, default False
        Look ahead along v; needs momentum.
    clip_value, clip_norm : float, optional
        What an element of the gradient, and the norm of all of it, may be at the most: see `Optimizer`.
    """

    learning_rate: float | Schedule = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("momentum", number("SGD", "momentum", self.momentum, at_least=0, below=1))
        flag("SGD", "nesterov", self.nesterov)
        if self.nesterov and self.momentum == 0:
            raise ValueError("SGD: nesterov needs momentum greater than 0; got momentum=0")

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
@dataclass(frozen=True)
class Adam(Optimizer):
    """m ← β₁ m + (1-β₁) g, v ← β₂ v + (1-β₂) g², w ← w - η m̂ / (√v̂ + ε) (Kingma & Ba 2015).

    m̂ = m / (1-β₁ᵗ) and v̂ = v / (1-β₂ᵗ) at step t = 1, 2, …

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.001
    beta_1, beta_2 : float, default 0.9 and 0.999
        The decay of the two moments, from 0 to below 1.
    epsilon : float, default 1e-8
    epsilon_hat : bool, default False
        Let ε join the root before its correction, as the paper's ε̂ does, and with it scikit-learn
        and Keras: w ← w - η m̂ / ((√v + ε) / √(1-β₂ᵗ)).
    clip_value, clip_norm : float, optional
        What an element of the gradient, and the norm of all of it, may be at the most: see `Optimizer`.
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
@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with w ← w - η λ w before it, on weights alone (Loshchilov & Hutter 2019).

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.001
    beta_1, beta_2 : float, default 0.9 and 0.999
    epsilon : float, default 1e-8
    weight_decay : float, default 0.01
        λ ≥ 0; biases do not decay.
    epsilon_hat : bool, default False
        As in `Adam`.
    clip_value, clip_norm : float, optional
        What an element of the gradient, and the norm of all of it, may be at the most: see `Optimizer`.
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
@dataclass(frozen=True)
class RMSprop(Optimizer):
    """v ← ρ v + (1-ρ) g², w ← w - η g / (√v + ε) (Tieleman & Hinton 2012).

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.001
    rho : float, default 0.9
        The decay of the mean square, from 0 to below 1.
    epsilon : float, default 1e-8
    clip_value, clip_norm : float, optional
        What an element of the gradient, and the norm of all of it, may be at the most: see `Optimizer`.
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
@dataclass(frozen=True)
class Adagrad(Optimizer):
    """v ← v + g², w ← w - η g / (√v + ε) (Duchi et al. 2011).

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.01
    epsilon : float, default 1e-10
    clip_value, clip_norm : float, optional
        What an element of the gradient, and the norm of all of it, may be at the most: see `Optimizer`.
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
@dataclass(frozen=True)
class Rprop(Optimizer):
    """A step size Δ for every weight, led by the sign of g alone (Riedmiller & Braun 1993; iRprop⁻).

    s = sign(g · g_previous). Where s > 0: Δ ← min(η⁺ Δ, Δmax); where s < 0: Δ ← max(η⁻ Δ, Δmin)
    and g ← 0. Then w ← w - sign(g) Δ, and g is remembered. Δ starts at the learning rate.
    The rule needs whole passes: `fit` takes the full batch.

    Parameters
    ----------
    learning_rate : float, default 0.01
        The initial Δ; no schedule.
    eta_minus, eta_plus : float, default 0.5 and 1.2
    step_min, step_max : float, default 1e-6 and 50
    clip_value, clip_norm : float, optional
        What an element of the gradient, and the norm of all of it, may be at the most: see `Optimizer`.
    """

    learning_rate: float | Schedule = 0.01
    eta_minus: float = 0.5
    eta_plus: float = 1.2
    step_min: float = 1e-6
    step_max: float = 50.0
    full_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.learning_rate, Schedule) and self.learning_rate.name != "constant":
            raise TypeError("Rprop: learning_rate must be a number; its steps adapt by themselves")
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


@dataclass(frozen=True)
class LBFGS(Spec):
    """L-BFGS (Liu & Nocedal 1989): a line search along -H g, H from the last steps; SciPy's L-BFGS-B.

    For `Network.fit` alone, with all rows at once: an epoch is an iteration, and the training ends
    where no element of the gradient is larger than the tolerance or the objective falls no more.
    Nothing is kept for the next call. Good for small smooth problems; the objective must stay the
    same, so there may be no random ops, weight noise, or penalty without a derivative. A `BatchNorm`
    takes the statistics of all rows. Layers that are frozen stay as they are; other multiples of the
    learning rate mean nothing here.

    Parameters
    ----------
    memory : int, default 10
        How many steps H is made of.
    tolerance : float, default 1e-6
        At least 0.
    max_evaluations : int, optional
        The most evaluations of the objective; by default 20 an epoch.
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
    """Turn what `fit` takes into a rule, or into L-BFGS."""
    if isinstance(value, LBFGS):
        return value
    return LBFGS() if value is LBFGS or value == LBFGS.name else optimizers.resolve(value, "optimizer")
