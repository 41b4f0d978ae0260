"""Dense neural networks trained by backpropagation on the CPU, with bitwise reproducible results."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import _built as _built
from .activations import ELU, GELU, SELU, Identity, LeakyReLU, ReLU, Sigmoid, SiLU, Softplus, Tanh
from .frozen import FrozenNetwork
from .info import __version__, info
from .initializers import (
    Constant,
    HeNormal,
    HeUniform,
    LeCunNormal,
    LeCunUniform,
    Orthogonal,
    XavierNormal,
    XavierUniform,
    Zeros,
)
from .layers import (
    Activation,
    Auxiliary,
    BatchNorm,
    BatchRenorm,
    Dense,
    Dropout,
    LayerNorm,
    Maxout,
    PReLU,
    Residual,
    RReLU,
)
from .losses import (
    AbsoluteError,
    CrossEntropy,
    CustomLoss,
    Exponential,
    Hinge,
    Huber,
    LogLoss,
    Poisson,
    Quantile,
    SquaredError,
)
from .network import Network, load
from .optimizers import LBFGS, SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop, Rprop
from .penalties import L0, L1, L2, ElasticNet, Frobenius
from .schedules import Cosine, ExponentialDecay, InverseTime, ReduceOnPlateau, StepDecay, WarmUp
from .training.callbacks import Callback, EarlyStopping, ProgressBar
from .training.checkpoint import Checkpoint
from .training.history import History

# For type checkers; at run time `__getattr__` loads these, so that `import bpfast` is fast.
if TYPE_CHECKING:
    from . import diagnostics as diagnostics
    from . import pretraining as pretraining
    from .diagnostics.gradient_check import check_gradients
    from .diagnostics.gradient_flow import GradientFlow, gradient_flow
    from .diagnostics.learning_rate import find_learning_rate
    from .pretraining.pretrain import RBM, Autoencoder, pretrain

_LOADED_ON_USE = {
    "diagnostics": ("GradientFlow", "check_gradients", "find_learning_rate", "gradient_flow"),
    "pretraining": ("RBM", "Autoencoder", "pretrain"),
}


def __getattr__(name: str) -> Any:
    """Load diagnostics and pretraining on first use."""
    for package, names in _LOADED_ON_USE.items():
        if name == package or name in names:
            module = import_module(f".{package}", __name__)
            return module if name == package else getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_LOADED_ON_USE})


__all__ = [
    "ELU",
    "GELU",
    "L0",
    "L1",
    "L2",
    "LBFGS",
    "RBM",
    "SELU",
    "SGD",
    "AbsoluteError",
    "Activation",
    "Adagrad",
    "Adam",
    "AdamW",
    "Autoencoder",
    "Auxiliary",
    "BatchNorm",
    "BatchRenorm",
    "Callback",
    "Checkpoint",
    "Constant",
    "Cosine",
    "CrossEntropy",
    "CustomLoss",
    "Dense",
    "Dropout",
    "EarlyStopping",
    "ElasticNet",
    "Exponential",
    "ExponentialDecay",
    "Frobenius",
    "FrozenNetwork",
    "GradientFlow",
    "HeNormal",
    "HeUniform",
    "Hinge",
    "History",
    "Huber",
    "Identity",
    "InverseTime",
    "LayerNorm",
    "LeCunNormal",
    "LeCunUniform",
    "LeakyReLU",
    "LogLoss",
    "Maxout",
    "Network",
    "Optimizer",
    "Orthogonal",
    "PReLU",
    "Poisson",
    "ProgressBar",
    "Quantile",
    "RMSprop",
    "RReLU",
    "ReLU",
    "ReduceOnPlateau",
    "Residual",
    "Rprop",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "SquaredError",
    "StepDecay",
    "Tanh",
    "WarmUp",
    "XavierNormal",
    "XavierUniform",
    "Zeros",
    "__version__",
    "check_gradients",
    "find_learning_rate",
    "gradient_flow",
    "info",
    "load",
    "pretrain",
]
