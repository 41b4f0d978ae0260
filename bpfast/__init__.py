"""Dense neural networks trained by backpropagation on the CPU, with bitwise reproducible results."""

from . import _built as _built
from .activations import ELU, GELU, SELU, Identity, LeakyReLU, ReLU, Sigmoid, SiLU, Softplus, Tanh
from .diagnostics.gradient_check import check_gradients
from .diagnostics.gradient_flow import GradientFlow, gradient_flow
from .diagnostics.learning_rate import find_learning_rate
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
from .pretraining.pretrain import RBM, Autoencoder, pretrain
from .schedules import Cosine, ExponentialDecay, InverseTime, ReduceOnPlateau, StepDecay, WarmUp
from .training.callbacks import Callback, EarlyStopping, ProgressBar
from .training.checkpoint import Checkpoint
from .training.history import History

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
