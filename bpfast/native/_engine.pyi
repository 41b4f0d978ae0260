"""The native engine; called by `native` with checked arguments."""

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
Features = Array | tuple[Array, Array, Array]

class Core:
    def __init__(
        self,
        ops: list[tuple[Any, ...]],
        heads: list[tuple[Any, ...]],
        output: int,
        widths: list[int],
        size: int,
        dtype: Any,
        threads: int,
    ) -> None: ...
    def outputs(self, parameters: Array, X: Features, Z: Array, rows: int) -> None: ...
    def predict(self, parameters: Array, X: Any, link: str) -> Array | None: ...
    def forward(
        self, parameters: Array, X: Features, Z: Array, rows: int, training: tuple[Any, ...] | None = None
    ) -> None: ...
    def value(self, value: int, A: Array, D: Array | None = None) -> None: ...
    def backward(
        self,
        parameters: Array,
        D: Array,
        gradient: Array,
        dX: Array | None,
        rows: int,
        heads: tuple[Array, ...] = (),
    ) -> None: ...
    def update(
        self,
        parameters: Array,
        gradient: Array,
        state: Array,
        rule: str,
        hyperparameters: tuple[float, ...],
        clip: tuple[float, float],
        penalty: tuple[str, float, float] | None,
        learning_rate: float,
        steps: int,
        rates: tuple[tuple[float, float], ...] = (),
    ) -> None: ...
    def train(
        self,
        parameters: Array,
        X: Features,
        Y: Array | None,
        classes: Array | None,
        weights: Array | None,
        rows: int,
        batch_size: int,
        order: Array | None,
        shuffle: tuple[int, int] | None,
        loss: str,
        loss_parameter: float,
        loss_scale: float,
        state: Array,
        rule: str,
        hyperparameters: tuple[float, ...],
        clip: tuple[float, float],
        penalty: tuple[str, float, float] | None,
        alphas: Array | None,
        objective: bool,
        learning_rates: Array,
        steps: int,
        batch_loss: Array,
        batch_weight: Array,
        seconds: Array | None,
        training: tuple[Any, ...] | None,
        rates: tuple[tuple[float, float], ...] = (),
    ) -> tuple[int, BaseException | None]: ...
    @property
    def nbytes(self) -> int: ...

def shuffled(order: Array, seed: int, epoch: int) -> None: ...
