"""The rows that are timed: training steps, predictions and kernels of typical sizes.

Only NumPy is imported until `Row.network` is called, because the processes of the peers import this, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Rule:
    """The update rule, independent of the peer."""

    name: str
    learning_rate: float = 1e-3
    momentum: float = 0.0


@dataclass(frozen=True)
class Row:
    """A training step: widths from input to output, rows per batch, batches per epoch."""

    name: str
    widths: tuple[int, ...]
    batch: int
    rule: Rule
    batches: int
    activation: str = "relu"
    loss: str = "cross_entropy"

    kind = "train"

    @property
    def title(self) -> str:
        """Widths, batch and rule."""
        momentum = "+momentum" if self.rule.momentum else ""
        return f"{dashes(self.widths)} b{self.batch} {self.rule.name}{momentum}"

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of a step: forward, dW, and all deltas except that of the input."""
        products = [a * b for a, b in pairwise(self.widths)]
        return self.batch * (3 * sum(products) - products[0])

    @property
    def n_parameters(self) -> int:
        """Weights and biases."""
        return sum((a + 1) * b for a, b in pairwise(self.widths))

    @property
    def bytes(self) -> int:
        """The least traffic of a step if the parameters do not fit in a cache.

        W is read in the forward pass and, except in the first layer, in the backward pass; the update
        reads and writes W and each state of the rule.
        """
        states = {"adam": 2, "sgd": 1 if self.rule.momentum else 0}[self.rule.name]
        first = (self.widths[0] + 1) * self.widths[1]
        return 4 * (self.n_parameters * (2 + 2 * (1 + states)) - first)

    @property
    def optimizer(self) -> Any:
        """The optimizer of bpfast."""
        import bpfast as bp

        if self.rule.name == "adam":
            return bp.Adam(self.rule.learning_rate)
        return bp.SGD(self.rule.learning_rate, momentum=self.rule.momentum)

    def data(self, batches: int | None = None, seed: int = 0) -> tuple[Any, Any]:
        """Random float32 rows and targets for a number of batches (by default an epoch)."""
        rng = np.random.default_rng(seed)
        n = self.batch * (batches or self.batches)
        X = rng.standard_normal((n, self.widths[0]), dtype=np.float32)
        if self.loss == "cross_entropy":
            return X, rng.integers(0, self.widths[-1], n)
        return X, rng.standard_normal((n, self.widths[-1]), dtype=np.float32)

    def weights(self, seed: int = 1) -> list[tuple[Any, Any]]:
        """(W, b) of every layer, the same for every peer."""
        return glorot(self.widths, seed)

    def network(self, **options: Any) -> Any:
        """The untrained network of bpfast."""
        import bpfast as bp

        hidden = [bp.Dense(units, self.activation) for units in self.widths[1:-1]]
        return bp.Network(
            [*hidden, bp.Dense(self.widths[-1])], n_inputs=self.widths[0], loss=self.loss, **options
        )


@dataclass(frozen=True)
class PredictRow:
    """A prediction: rows in, probabilities out, both NumPy arrays."""

    name: str
    widths: tuple[int, ...]
    batch: int

    kind = "predict"

    @property
    def title(self) -> str:
        """Widths and rows."""
        return f"{dashes(self.widths)} {self.batch} {'row' if self.batch == 1 else 'rows'}"

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of a call."""
        return self.batch * sum(a * b for a, b in pairwise(self.widths))

    def data(self, seed: int = 0) -> Any:
        """Random float32 rows."""
        return np.random.default_rng(seed).standard_normal((self.batch, self.widths[0]), dtype=np.float32)

    def weights(self, seed: int = 1) -> list[tuple[Any, Any]]:
        """(W, b) of every layer, the same for every peer."""
        return glorot(self.widths, seed)

    def training(self) -> Row:
        """The same network as a training row, for peers that must be trained before they predict."""
        return Row(self.name, self.widths, self.batch, Rule("adam"), 1)


@dataclass(frozen=True)
class KernelRow:
    """A kernel on a batch of B rows, with I inputs and O outputs."""

    name: str
    function: str
    shape: tuple[int, int, int]

    kind = "kernel"

    @property
    def title(self) -> str:
        """Function and shape."""
        return f"{self.function} {dashes(self.shape)}"

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the product."""
        return int(np.prod(self.shape))

    def data(self, seed: int = 0) -> dict[str, Any]:
        """Random float32 arguments of the kernel."""
        B, I, O = self.shape
        rng = np.random.default_rng(seed)
        sizes: dict[str, tuple[int, ...]] = {"X": (B, I), "W": (I, O), "b": (O,), "D": (B, O)}
        return {name: rng.standard_normal(size, dtype=np.float32) for name, size in sizes.items()}


def dashes(sizes: tuple[int, ...]) -> str:
    """Sizes joined by dashes, such as 64-100-10."""
    return "-".join(map(str, sizes))


def glorot(widths: tuple[int, ...], seed: int) -> list[tuple[Any, Any]]:
    """Glorot-uniform weights and zero biases, float32."""
    rng = np.random.default_rng(seed)
    layers = []
    for inputs, outputs in pairwise(widths):
        bound = np.float32((6 / (inputs + outputs)) ** 0.5)
        W = (2 * rng.random((inputs, outputs), dtype=np.float32) - 1) * bound
        layers.append((W, np.zeros(outputs, np.float32)))
    return layers


ADAM = Rule("adam")
MOMENTUM = Rule("sgd", momentum=0.9)
SGD = Rule("sgd", learning_rate=1e-2)
ROWS = [
    Row("T1", (13, 32, 32, 1), 32, ADAM, 100, loss="squared_error"),
    Row("T2", (64, 100, 10), 200, ADAM, 100),
    Row("T3", (784, 128, 10), 32, SGD, 100, activation="sigmoid"),
    Row("T4", (54, 200, 200, 7), 256, ADAM, 50),
    Row("T5", (784, 256, 256, 10), 128, ADAM, 40),
    Row("T6", (784, 512, 512, 512, 10), 256, MOMENTUM, 8),
    Row("T7", (1024, 1024, 1024, 1024), 512, ADAM, 2, loss="squared_error"),
    Row("T8", (4096, 4096, 4096), 256, MOMENTUM, 2, loss="squared_error"),
    Row("T9", (4096, 4096, 4096), 16, ADAM, 2, loss="squared_error"),
    Row("T10", (784, 256, 256, 10), 1, SGD, 500),
    Row("T11", (4, 32, 16, 4), 10_000, ADAM, 1),
]

PREDICT_ROWS = [
    PredictRow(f"P{index}", widths, batch)
    for index, (widths, batch) in enumerate(
        ((widths, batch) for widths in ((64, 100, 10), (784, 256, 256, 10)) for batch in (1, 64, 2000)), 1
    )
]

# The first layers of T2 and T3, the second of T4, and 1024³.
KERNEL_SHAPES = [(200, 64, 100), (32, 784, 128), (256, 200, 200), (1024, 1024, 1024)]
KERNEL_ROWS = [
    KernelRow(f"K{index}", function, shape)
    for index, (function, shape) in enumerate(
        (
            (function, shape)
            for function in ("dense_forward", "propagate_delta", "weight_gradient")
            for shape in KERNEL_SHAPES
        ),
        1,
    )
]

# One epoch of scikit-learn's digits: 1792 of the 1797 rows, in full batches.
COLD_ROW = Row("cold", (64, 100, 10), 32, ADAM, 56)
BY_NAME = {row.name: row for row in [*ROWS, *PREDICT_ROWS, *KERNEL_ROWS]}
