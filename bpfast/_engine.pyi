"""The native engine's border; called by `native`, `kernels` and `info` with checked arguments."""

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

def work_per_thread(value: float | None = None) -> float: ...
def isas() -> list[str]: ...
def isa() -> str: ...
def openmp() -> bool: ...
def compiler() -> str: ...
def tables() -> dict[str, list[str]]: ...

class Core:
    def __init__(
        self, ops: list[tuple[Any, ...]], widths: list[int], size: int, item_size: int, threads: int
    ) -> None: ...
    def outputs(self, parameters: Array, X: Array, Z: Array, rows: int) -> None: ...
    def forward(self, parameters: Array, X: Array, Z: Array, rows: int) -> None: ...
    def backward(self, parameters: Array, D: Array, gradient: Array, dX: Array, rows: int) -> None: ...
    def update(
        self,
        parameters: Array,
        gradient: Array,
        state: Array,
        rule: str,
        hyperparameters: tuple[float, ...],
        penalty: tuple[str, float, float] | None,
        learning_rate: float,
        steps: int,
    ) -> None: ...
    def train(
        self,
        parameters: Array,
        X: Array,
        Y: Array | None,
        classes: Array | None,
        weights: Array | None,
        rows: int,
        batch_size: int,
        order: Array | None,
        shuffle: tuple[int, int] | None,
        loss: str,
        loss_parameter: float,
        state: Array,
        rule: str,
        hyperparameters: tuple[float, ...],
        penalty: tuple[str, float, float] | None,
        learning_rates: Array,
        steps: int,
        batch_loss: Array,
        batch_weight: Array,
    ) -> tuple[int, BaseException | None]: ...
    @property
    def nbytes(self) -> int: ...

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
def shuffled(order: Array, seed: int, epoch: int) -> None: ...
