"""Losses: functions of the targets Y and the raw outputs Z, which include the link function.

A pointwise loss is averaged over rows and outputs, cross_entropy over rows. With ``sample_weight`` w
the mean over rows is Σ w·loss / Σ w.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

from .spec import Family, Spec, number, spec


class Loss(Spec):
    """A loss L(Y, Z) and the link function that turns Z into a prediction.

    Attributes
    ----------
    link : str
        The function that `predict` applies to Z: ``identity``, ``sigmoid``, ``softmax`` or ``exp``.
    targets : str
        The values that Y may contain: ``values`` (any number), ``classes`` (integers, or rows of
        probabilities), ``probabilities`` (0 to 1), ``signs`` (-1 or +1), ``counts`` (0 or more).
    metric : str
        The metric that `fit` reports for validation data: ``accuracy`` or ``r2``; empty for none.
    """

    link: ClassVar[str] = "identity"
    targets: ClassVar[str] = "values"
    metric: ClassVar[str] = "r2"
    #: Whether the gradient is continuous.
    smooth: ClassVar[bool] = True

    @property
    def parameter(self) -> float:
        """The parameter of the loss; 0 if it has none."""
        return 0.0


losses: Family[Loss] = Family("loss", Loss)


@spec
class _Capped(Loss):
    """A loss whose value can be capped, but not its gradient."""

    cap: float | None = None

    def __post_init__(self) -> None:
        if self.cap is not None:
            self._set("cap", number(type(self).__name__, "cap", self.cap, above=0))

    @property
    def parameter(self) -> float:
        return math.inf if self.cap is None else self.cap


@losses.register("squared_error", "mse")
@spec
class SquaredError(Loss):
    """L = (z - y)², ∂L/∂z = 2 (z - y)."""


@losses.register("absolute_error", "mae")
@spec
class AbsoluteError(Loss):
    """L = |z - y|, ∂L/∂z = sign(z - y), with 0 at z = y."""

    smooth: ClassVar[bool] = False


@losses.register("log_loss", "binary_cross_entropy", "binary_crossentropy")
@spec
class LogLoss(_Capped):
    """L = softplus(z) - y z = -y log p - (1 - y) log(1 - p) with p = sigmoid(z); ∂L/∂z = p - y.

    Targets are 0, 1 or probabilities in between, one column per output (several for multi-label data).

    Parameters
    ----------
    cap : float, optional
        The largest loss of one output of one row; the gradient is not capped. Clipping probabilities
        at ε, as scikit-learn does, corresponds to a cap of -log ε. No cap by default.
    """

    link: ClassVar[str] = "sigmoid"
    targets: ClassVar[str] = "probabilities"
    metric: ClassVar[str] = "accuracy"


@losses.register(
    "cross_entropy",
    "softmax_cross_entropy",
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
)
@spec
class CrossEntropy(_Capped):
    """L = -Σ y log softmax(z) over the outputs; ∂L/∂z = softmax(z) - y.

    Targets are integer classes (B,), or probabilities (B, O) whose rows sum to 1.

    Parameters
    ----------
    cap : float, optional
        The largest loss of one row; the gradient is not capped. See `LogLoss`. No cap by default.
    """

    link: ClassVar[str] = "softmax"
    targets: ClassVar[str] = "classes"
    metric: ClassVar[str] = "accuracy"


@losses.register("exponential")
@spec
class Exponential(Loss):
    """L = exp(-y z) for y = ±1, ∂L/∂z = -y exp(-y z) (as in AdaBoost; Friedman et al. 2000).

    The exponent is capped (at 80 in float32, 700 in float64). The loss of a row that reaches the cap
    is infinite, and training stops with an error that names the cap.
    """

    targets: ClassVar[str] = "signs"
    metric: ClassVar[str] = "accuracy"


@losses.register("hinge")
@spec
class Hinge(Loss):
    """L = max(0, 1 - y z) for y = ±1, ∂L/∂z = -y if y z < 1, else 0 (as in a linear SVM)."""

    targets: ClassVar[str] = "signs"
    metric: ClassVar[str] = "accuracy"
    smooth: ClassVar[bool] = False


@losses.register("huber")
@spec
class Huber(Loss):
    """L = ½ r² if |r| ≤ threshold, else threshold (|r| - ½ threshold), with r = z - y (Huber 1964).

    Parameters
    ----------
    threshold : float, default 1.0
        The error beyond which the loss grows linearly, in the units of y; greater than 0.
    """

    threshold: float = 1.0

    def __post_init__(self) -> None:
        self._set("threshold", number("Huber", "threshold", self.threshold, above=0))

    @property
    def parameter(self) -> float:
        return self.threshold


@losses.register("quantile", "pinball")
@spec
class Quantile(Loss):
    """L = max(q r, (q - 1) r) with r = y - z; its minimum is the q-quantile of y (Koenker 1978).

    ∂L/∂z = -q if y > z, 1 - q if y < z, 0 at z = y.

    Parameters
    ----------
    quantile : float, default 0.5
        q, between 0 and 1 exclusive; 0.5 gives half the absolute error.
    """

    quantile: float = 0.5
    smooth: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._set("quantile", number("Quantile", "quantile", self.quantile, above=0, below=1))

    @property
    def parameter(self) -> float:
        return self.quantile


@losses.register("poisson")
@spec
class Poisson(Loss):
    """L = exp(z) - y z for counts y ≥ 0, with link exp; ∂L/∂z = exp(z) - y.

    This is half the Poisson deviance, up to a term that depends only on y. The exponent is capped as
    in `Exponential`.
    """

    link: ClassVar[str] = "exp"
    targets: ClassVar[str] = "counts"


@spec
class CustomLoss(Loss):
    """A user-defined loss in Python; the rest of the training step stays native.

    Parameters
    ----------
    function : callable
        ``function(Y, Z) -> (loss, D)``: the loss of each row (B,), and D = ∂loss/∂Z (B, O) of
        each row. Do not divide by B: the mean over the batch is taken afterwards.
    output_link : str, default "identity"
        The function that `predict` applies to Z: ``identity``, ``sigmoid``, ``softmax`` or ``exp``.

    Notes
    -----
    A model is saved without the function; pass ``loss=`` to `bpfast.load`.
    """

    function: Callable[[Any, Any], tuple[Any, Any]]
    output_link: str = "identity"
    name: ClassVar[str] = "custom"
    metric: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"CustomLoss: function must be callable; got {self.function!r}")
        if self.output_link not in LINKS:
            raise ValueError(
                f"CustomLoss: output_link must be one of {', '.join(LINKS)}; got {self.output_link!r}"
            )

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "output_link": self.output_link}


LINKS = ("identity", "sigmoid", "softmax", "exp")


def link_of(loss: Loss) -> str:
    """Return the link function that `predict` applies for a loss."""
    return loss.output_link if isinstance(loss, CustomLoss) else loss.link


def resolve_loss(value: Any) -> Loss:
    """Convert a name, a specification or a plain function to a loss."""
    if callable(value) and not isinstance(value, (Loss, type)):
        return CustomLoss(value)
    if not isinstance(value, (str, Loss)) and not (isinstance(value, type) and issubclass(value, Loss)):
        raise TypeError(f"loss must be a name, a Loss object or a function; got {value!r}")
    return losses.resolve(value, "loss")
