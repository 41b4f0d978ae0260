"""The kernels as functions; called by `kernels` with checked arguments."""

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

def dense_forward(
    X: Array, W: Array, b: Array | None, activation: str, parameter: float, A: Array, threads: int
) -> None: ...
def activation_derivative(Z: Array, activation: str, parameter: float, F: Array, threads: int) -> None: ...
def propagate_delta(
    D: Array, W: Array, Z_prev: Array, activation: str, parameter: float, D_prev: Array, threads: int
) -> None: ...
def weight_gradient(A_prev: Array, D: Array, dW: Array, db: Array, threads: int) -> None: ...
def loss_and_delta(
    loss: str, parameter: float, Y: Array, Z: Array, weights: Array | None, D: Array, threads: int
) -> float: ...
def link(name: str, Z: Array, A: Array, threads: int) -> None: ...
