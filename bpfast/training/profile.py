"""Profile of a training step: the timers of the native step as a table."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._state import NetworkState
from ..arrays import checks
from ..arrays.threads import check_threads
from ..engine.interface import Data, Plan
from ..engine.program import Op
from ..native import _core
from ..native.engine import NativeEngine
from ..specs.losses import CustomLoss
from ..specs.optimizers import Optimizer
from ..specs.penalties import Penalty
from ..specs.record import Record, record
from ..specs.spec import flag
from .options import batch_rows

#: Phases of each op, in the order of the step's timers, and those of the whole step.
PHASES = ("forward", "delta", "gradient and update")
WHOLE = ("gather", "loss", "waiting")


@record
class Profile(Record):
    """Seconds of an epoch by op and phase, averaged over the threads.

    Attributes
    ----------
    ops : tuple of Op
        The ops of the network, from input to output.
    steps, rows : int
        Number of steps, and of rows in all of them.
    seconds : array (n_ops, 3)
        Seconds of each op's forward pass, delta, and gradient and update.
    whole : dict of str to float
        Seconds of gather, loss and waiting for other threads.
    threads : int
        Number of threads that had work.
    peak : float
        Peak of that many threads in GFLOP/s: see `bpfast.diagnostics.fma_peak`.
    """

    ops: tuple[Op, ...]
    steps: int
    rows: int
    seconds: NDArray[np.float64]
    whole: dict[str, float]
    threads: int
    peak: float

    @property
    def step_seconds(self) -> float:
        """Seconds per step."""
        return float(self.seconds.sum() + sum(self.whole.values())) / self.steps

    def operations(self) -> NDArray[np.float64]:
        """Return the floating-point operations of the epoch's matrix products (n_ops, 3)."""
        products = [2.0 * op.n_in * op.n_out if op.kind == "dense" else 0.0 for op in self.ops]
        table = np.outer(products, np.ones(3)) * self.rows
        # Below the first weights no delta is computed.
        table[: next((i for i, op in enumerate(self.ops) if op.kind == "dense"), 0) + 1, 1] = 0
        return table

    def __str__(self) -> str:
        head = ("layer", *(f"{phase} µs" for phase in PHASES), "GFLOP/s", "of peak")
        work, lines = self.operations(), [head]
        for i, op in enumerate(self.ops):
            rate = 1e-9 * work[i].sum() / max(self.seconds[i].sum(), 1e-12)
            micros = (f"{1e6 * s / self.steps:.1f}" for s in self.seconds[i])
            name = f"{op.layer} {op.kind} {op.n_in}-{op.n_out}"
            if op.kind in ("dense", "activation"):
                name += f" {op.activation.name}"
            lines.append((name, *micros, f"{rate:.1f}", f"{rate / self.peak:.0%}"))
        widths = [max(len(line[c]) for line in lines) for c in range(len(head))]
        rows = [
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines
        ]
        rate = 1e-9 * float(work.sum()) / (self.step_seconds * self.steps)
        rest = ", ".join(f"{name} {1e6 * s / self.steps:.1f}" for name, s in self.whole.items())
        total = (
            f"{1e6 * self.step_seconds:.1f} µs per step ({rest}), {rate:.1f} GFLOP/s, "
            f"{rate / self.peak:.0%} of the {self.peak:.1f} of {self.threads} "
            f"thread{'s' if self.threads > 1 else ''}"
        )
        return "\n".join([*rows, total])


def timed_epoch(
    state: NetworkState,
    data: Data,
    *,
    batch_size: int | str | None,
    optimizer: Optimizer,
    penalty: Penalty | None,
    shuffle: bool,
) -> Profile:
    """Train a network for two epochs and time the second; see `Network.profile`."""
    rows = batch_rows(batch_size, len(data), optimizer)
    n_batches = -(-len(data) // rows)
    optimizer_state = state.optimizer_state_for(optimizer)
    rates = np.array(optimizer_state.clock.rates(optimizer.schedule, n_batches))
    order = (state.seed, 0) if flag("profile", "shuffle", shuffle) else None
    noise = (state.seed, state.steps)
    plan = Plan(state.loss, rows, rates, penalty, order, noise, lr_scales=state.lr_scales)
    engine = state.engine
    if not isinstance(engine, NativeEngine) or isinstance(state.loss, CustomLoss):
        raise RuntimeError("profile does not support custom losses, which the native step does not run")
    engine.train(state.flat, optimizer_state, data, plan)
    engine.timers = np.zeros((engine.threads, 3 * len(state.program.ops) + 3))
    engine.train(state.flat, optimizer_state, data, plan)
    return _from_timers(state, engine.timers, n_batches, len(data))


def _from_timers(state: NetworkState, timers: NDArray[np.float64], steps: int, rows: int) -> Profile:
    """Return the profile of an epoch from the step's timers (threads, 3 n_ops + 3)."""
    # Threads without work have only waited.
    busy = timers[timers[:, :-1].sum(axis=1) > 0.05 * timers[:, :-1].sum(axis=1).max()]
    mean = busy.mean(axis=0)
    n_ops = len(state.program.ops)
    return Profile(
        ops=state.program.ops,
        steps=steps,
        rows=rows,
        seconds=mean[: 3 * n_ops].reshape(n_ops, 3),
        whole=dict(zip(WHOLE, mean[3 * n_ops :].tolist(), strict=True)),
        threads=len(busy),
        peak=fma_peak(state.dtype, len(busy)),
    )


def fma_peak(dtype: Any = "float32", threads: int = 1) -> float:
    """Measure the peak of the instruction set in use on this machine, in GFLOP/s.

    The best of 20 rounds of about a millisecond of independent multiply-adds, counted as two operations
    each, in registers only.

    Parameters
    ----------
    dtype : {"float32", "float64"}, default "float32"
        Data type of the operands.
    threads : int, default 1
        Number of threads that compute at the same time.

    Returns
    -------
    float
        Sum over the threads, in GFLOP/s.
    """
    size = checks.dtype_of(dtype).itemsize
    team = check_threads(threads) or 1
    rounds = 1000
    while _timed(size, rounds, 1)[1] < 1e-3:
        rounds *= 2
    best = 0.0
    for _ in range(20):
        made, seconds = _timed(size, rounds, team)
        best = max(best, 2e-9 * made * team / seconds)
    return best


def _timed(size: int, rounds: int, team: int) -> tuple[float, float]:
    start = time.perf_counter()
    made = _core.multiply_adds(size, rounds, team)
    return made, time.perf_counter() - start
