"""The rows that are timed: networks, batches and optimizers that span the sizes of the field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import bpfast as bp


@dataclass(frozen=True)
class Row:
    """A training step: widths from input to output, rows a batch."""

    name: str
    widths: tuple[int, ...]
    batch: int
    optimizer: bp.Adam | bp.SGD
    activation: str = "relu"
    loss: str = "cross_entropy"

    @property
    def multiply_adds(self) -> int:
        """Of a step: forward, dW, and every delta but that of the input."""
        products = [a * b for a, b in zip(self.widths, self.widths[1:], strict=False)]
        return self.batch * (3 * sum(products) - products[0])

    def data(self, batches: int, seed: int = 0) -> tuple[Any, Any]:
        """Random rows and targets for so many batches, float32."""
        rng = np.random.default_rng(seed)
        n = self.batch * batches
        X = rng.standard_normal((n, self.widths[0]), dtype=np.float32)
        if self.loss == "cross_entropy":
            return X, rng.integers(0, self.widths[-1], n)
        return X, rng.standard_normal((n, self.widths[-1]), dtype=np.float32)

    def network(self, **options: Any) -> bp.Network:
        """The network, untrained."""
        hidden = [bp.Dense(units, self.activation) for units in self.widths[1:-1]]
        return bp.Network(
            [*hidden, bp.Dense(self.widths[-1])], n_inputs=self.widths[0], loss=self.loss, **options
        )


MOMENTUM = bp.SGD(1e-3, momentum=0.9)
ROWS = [
    Row("T1", (13, 32, 32, 1), 32, bp.Adam(), loss="squared_error"),
    Row("T2", (64, 100, 10), 200, bp.Adam()),
    Row("T3", (784, 128, 10), 32, bp.SGD(1e-2), activation="sigmoid"),
    Row("T4", (54, 200, 200, 7), 256, bp.Adam()),
    Row("T5", (784, 256, 256, 10), 128, bp.Adam()),
    Row("T6", (784, 512, 512, 512, 10), 256, MOMENTUM),
    Row("T7", (1024, 1024, 1024, 1024), 512, bp.Adam(), loss="squared_error"),
    Row("T8", (4096, 4096, 4096), 256, MOMENTUM, loss="squared_error"),
]
