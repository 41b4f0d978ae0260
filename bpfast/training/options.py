"""Arguments of `Network.fit` and their checks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .._state import NetworkState
from ..engine.interface import Data
from ..specs.optimizers import LBFGS, Optimizer
from ..specs.penalties import Penalty, penalties
from ..specs.record import Record, record
from ..specs.spec import file_path, flag, integer, number
from .callbacks import Callback, ProgressBar, check_callbacks

#: Value of `shuffle` that keeps neighbouring rows close together.
BLOCKS = "blocks"


@record
class FitOptions(Record):
    """Checked arguments of `Network.fit`."""

    epochs: int
    batch_size: int
    optimizer: Optimizer | LBFGS
    penalty: Penalty | None
    held_out: Data | None
    callbacks: Sequence[Callback]
    shuffle: bool | str
    weight_noise: float
    resume: str | os.PathLike[str] | None

    @classmethod
    def check(
        cls,
        state: NetworkState,
        n: int,
        *,
        epochs: int,
        batch_size: int | str | None,
        optimizer: Optimizer | LBFGS,
        penalty: Any,
        validation: Any,
        callbacks: Any,
        shuffle: Any,
        progress: bool,
        weight_noise: float,
        resume: str | os.PathLike[str] | None,
    ) -> FitOptions:
        """Check the arguments of a fit to `n` rows."""
        epochs = integer("fit", "epochs", epochs, at_least=1)
        spec = None if penalty is None else penalties.resolve(penalty, "penalty")
        noise = number("fit", "weight_noise", weight_noise, at_least=0)
        rows = batch_rows(batch_size, n, optimizer)
        if isinstance(optimizer, Optimizer):
            require_rows(state, rows)
        held_out = _validation(state, validation)
        shuffle, progress = _shuffle(shuffle), flag("fit", "progress", progress)
        called = [*([ProgressBar()] if progress else []), *check_callbacks(callbacks)]
        if resume is not None:
            file_path("fit", "resume", resume)
        return cls(epochs, rows, optimizer, spec, held_out, called, shuffle, noise, resume)


def batch_rows(batch_size: int | str | None, n: int, optimizer: Optimizer | LBFGS) -> int:
    """Return the rows per batch; "auto" is 32, or all `n` if the optimizer needs the full batch."""
    full = isinstance(optimizer, LBFGS) or optimizer.full_batch
    if isinstance(batch_size, str) and batch_size == "auto":
        batch_size = None if full else 32
    if batch_size is None:
        return n
    if isinstance(batch_size, bool) or not hasattr(batch_size, "__index__"):
        raise TypeError(f"fit: batch_size must be an integer, None or 'auto'; got {batch_size!r}")
    rows = min(n, integer("fit", "batch_size", batch_size, at_least=1))
    if full and rows < n:
        raise ValueError(
            f"fit: {type(optimizer).__name__} needs the full batch; pass batch_size=None "
            f"(got {batch_size} for {n} rows)"
        )
    return rows


def require_rows(state: NetworkState, rows: int) -> None:
    """Raise ValueError for batches of one row if a layer normalises batches."""
    scales = [state.lr_scales.get(name, 1.0) for name in state.parameters]
    if rows == 1 and state.statistics and any(scales):
        names = {op.layer for op in state.program.ops if op.statistics is not None}
        raise ValueError(
            f"fit: batch_size must be at least 2 for layers that normalise batches (layers[{min(names)}]); "
            f"a batch of one row has no variance"
        )


def _validation(state: NetworkState, validation: Any) -> Data | None:
    if validation is None:
        return None
    if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3):
        raise TypeError(
            f"fit: validation must be (X, y) or (X, y, sample_weight); got {type(validation).__name__}"
        )
    X, y, weights = (*validation, None)[:3]
    return state.check(X, y, weights, prefix="validation ")


def _shuffle(value: Any) -> bool | str:
    if not isinstance(value, bool) and value != BLOCKS:
        raise TypeError(f"fit: shuffle must be True, False or {BLOCKS!r}; got {value!r}")
    return value  # type: ignore[no-any-return]
