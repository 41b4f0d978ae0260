"""The rows that are timed: training steps, predictions and kernels that span the sizes of the field.

Nothing but NumPy is imported here until `Row.network` is called: the peers' processes read it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Rule:
    """How the weights are updated, in words that every peer understands."""

    name: str
    learning_rate: float = 1e-3
    momentum: float = 0.0


@dataclass(frozen=True)
class Row:
    """A training step: widths from input to output, rows a batch, batches an epoch."""

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
        """Of a step: forward, dW, and every delta but that of the input."""
        products = [a * b for a, b in pairwise(self.widths)]
        return self.batch * (3 * sum(products) - products[0])

    @property
    def n_parameters(self) -> int:
        """Weights and biases."""
        return sum((a + 1) * b for a, b in pairwise(self.widths))

    @property
    def bytes(self) -> int:
        """The least that a step moves where the parameters do not fit in a cache.

        W is read forward and (but the first layer's) backward; the update reads and writes W and
        each of the rule's states.
        """
        states = {"adam": 2, "sgd": 1 if self.rule.momentum else 0}[self.rule.name]
        first = (self.widths[0] + 1) * self.widths[1]
        return 4 * (self.n_parameters * (2 + 2 * (1 + states)) - first)

    @property
    def optimizer(self) -> Any:
        """bpfast's."""
        import bpfast as bp

        if self.rule.name == "adam":
            return bp.Adam(self.rule.learning_rate)
        return bp.SGD(self.rule.learning_rate, momentum=self.rule.momentum)

    def data(self, batches: int | None = None, seed: int = 0) -> tuple[Any, Any]:
        """Random rows and targets for so many batches (by default an epoch's), float32."""
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
        """bpfast's network, untrained."""
        import bpfast as bp

        hidden = [bp.Dense(units, self.activation) for units in self.widths[1:-1]]
        return bp.Network(
            [*hidden, bp.Dense(self.widths[-1])], n_inputs=self.widths[0], loss=self.loss, **options
        )


@dataclass(frozen=True)
class PredictRow:
    """Rows in, probabilities out, both NumPy arrays."""

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
        """Of a call."""
        return self.batch * sum(a * b for a, b in pairwise(self.widths))

    def data(self, seed: int = 0) -> Any:
        """Random rows, float32."""
        return np.random.default_rng(seed).standard_normal((self.batch, self.widths[0]), dtype=np.float32)

    def weights(self, seed: int = 1) -> list[tuple[Any, Any]]:
        """(W, b) of every layer, the same for every peer."""
        return glorot(self.widths, seed)

    def training(self) -> Row:
        """The same network as a row to train, for peers that must be trained before they predict."""
        return Row(self.name, self.widths, self.batch, Rule("adam"), 1)


@dataclass(frozen=True)
class KernelRow:
    """One of the kernels on a batch of B rows between I inputs and O outputs."""

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
        """Of the product."""
        return int(np.prod(self.shape))

    def data(self, seed: int = 0) -> dict[str, Any]:
        """Random arrays of the kernel's arguments, float32."""
        B, I, O = self.shape
        rng = np.random.default_rng(seed)
        sizes: dict[str, tuple[int, ...]] = {"X": (B, I), "W": (I, O), "b": (O,), "D": (B, O)}
        return {name: rng.standard_normal(size, dtype=np.float32) for name, size in sizes.items()}


def dashes(sizes: tuple[int, ...]) -> str:
    """64-100-10."""
    return "-".join(map(str, sizes))


def glorot(widths: tuple[int, ...], seed: int) -> list[tuple[Any, Any]]:
    """Uniform weights of Glorot's variance, and zero biases, float32."""
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

# The first layers of T2 and T3, the second of T4, and a cube.
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

# One epoch of scikit-learn's digits: 1792 of the 1797 rows, in whole batches.
COLD_ROW = Row("cold", (64, 100, 10), 32, ADAM, 56)
BY_NAME = {row.name: row for row in [*ROWS, *PREDICT_ROWS, *KERNEL_ROWS]}
