"""The interface through which layers append their ops and parameters to a program."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from .activations import Activation
from .initializers import Initializer
from .losses import Loss


class Builder(Protocol):
    """What `Layer.build` calls; `bpfast.engine.program` implements it.

    A value is a matrix with one row per sample, referred to by a number. A parameter is opaque to layers:
    they receive it from `parameter` and pass it to `op`.
    """

    def width(self, value: int) -> int:
        """Return the number of columns of a value."""

    def inside(self, name: int | str) -> AbstractContextManager[None]:
        """Return a context in which layers are built as parts of the current layer, under this name."""

    def parameter(
        self,
        name: str,
        shape: tuple[int, ...],
        initializer: Initializer,
        *,
        penalised: bool = False,
        trained: bool = True,
    ) -> Any:
        """Append a parameter of the current layer, or a running statistic if it is not trained."""

    def op(
        self,
        kind: str,
        sources: int | tuple[int, ...],
        n_out: int,
        *,
        activation: Activation | None = None,
        numbers: tuple[float, ...] | None = None,
        W: Any = None,
        b: Any = None,
        statistics: Any = None,
        head: bool = False,
    ) -> int:
        """Append an op that reads the source values; return the value that it computes."""

    def head(self, value: int, loss: Loss | None, weight: float) -> None:
        """Attach an auxiliary loss to a value; None stands for the loss of the network."""
