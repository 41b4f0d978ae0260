"""One epoch: the order of its rows, and its division into calls of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .._state import NetworkState
from ..arrays.rows import rows_of
from ..engine.interface import Data, OptimizerState, Plan
from ..native._core import shuffled
from ..reference.random import mix64
from .callbacks import CallbackList
from .loop import Epoch

#: With shuffle="blocks": bytes (as float32) of a block of rows that stay together; blocks per window.
BLOCK_BYTES, WINDOW_BLOCKS = 2**22, 16


@dataclass(eq=False)
class Progress:
    """Progress of an epoch.

    Attributes
    ----------
    losses, counts : float64 arrays (n_batches,)
        Loss and weight of each batch; NaN and 0 for those to come.
    done : int
        Number of batches done.
    """

    losses: NDArray[np.float64]
    counts: NDArray[np.float64]
    done: int = 0

    @classmethod
    def begin(cls, n_batches: int) -> Progress:
        """Return the progress of an epoch that has not begun."""
        return cls(np.full(n_batches, np.nan), np.zeros(n_batches))


#: (n, function): call the function after every n batches of an epoch.
Pause = tuple[int, Callable[[Progress], None]]


def block_order(n: int, columns: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return an order of the rows of an epoch in which neighbouring rows stay close together.

    Blocks of about 4 MiB are shuffled, then the rows within each window of 16 blocks, so that a pass
    over a file reads it block by block with few blocks in memory at a time. Both orders are those of
    `reference.permutation`.

    Parameters
    ----------
    n, columns : int
        Shape of X.
    seed : int
        Seed of the network.
    epoch : int
        Number of the epoch, from 0.

    Returns
    -------
    int64 array (n,)
        Row indices.
    """
    size = max(1, BLOCK_BYTES // (4 * columns))
    n_blocks = -(-n // size)
    key = mix64(mix64(seed) + epoch)
    blocks = np.empty(n_blocks, np.int64)
    shuffled(blocks, key, n_blocks)
    order = np.empty(n, np.int64)
    place = 0
    for window, first in enumerate(range(0, n_blocks, WINDOW_BLOCKS)):
        window_blocks = blocks[first : first + WINDOW_BLOCKS].tolist()
        rows = np.concatenate([np.arange(b * size, min(n, (b + 1) * size)) for b in window_blocks])
        within = np.empty(len(rows), np.int64)
        shuffled(within, key, window)
        order[place : place + len(rows)] = rows[within]
        place += len(rows)
    return order


def run_epoch(
    state: NetworkState,
    optimizer_state: OptimizerState,
    data: Data,
    plan: Plan,
    callbacks: CallbackList | None = None,
    progress: Progress | None = None,
    pauses: Sequence[Pause] = (),
) -> Epoch:
    """Train for one epoch, or for the rest of one.

    An epoch is one call of the engine, or several if callbacks or checkpoints interrupt it or X is a large
    memory-mapped array; the results are bitwise identical.

    Parameters
    ----------
    state : NetworkState
    optimizer_state : OptimizerState
    data : Data
    plan : Plan
        Plan of the whole epoch.
    callbacks : CallbackList, optional
        Called after every batch if one of them defines `on_batch_end`.
    progress : Progress, optional
        Batches already done; updated as the epoch proceeds.
    pauses : sequence of (int, callable)
        After every n batches the function is called with the progress.

    Returns
    -------
    Epoch
    """
    n_batches = len(plan.learning_rates)
    last_rate = float(plan.learning_rates[-1])
    progress = Progress.begin(n_batches) if progress is None else progress
    watched = callbacks is not None and callbacks.watch_batches
    rows = rows_of(data.X)
    fitting = rows.rows_at_a_time(plan.shuffle is not None)
    if not (watched or pauses or progress.done) and fitting >= len(rows):
        with state.lock:
            losses, counts = state.engine.train(state.flat, optimizer_state, data, plan)
        return Epoch(losses, counts, last_rate)
    order = _order(plan, len(data))
    steps = [every for every, _ in pauses] + [1] * watched
    ended = False
    while progress.done < n_batches and not ended:
        first = progress.done
        stop = min([n_batches, *((first // step + 1) * step for step in steps)])
        if fitting < len(rows):
            stop = min(stop, first + max(1, fitting // plan.batch_size))
        part = _part(plan, order, first, stop)
        rows.will_need(order[first * plan.batch_size : stop * plan.batch_size])
        with state.lock:
            losses, counts = state.engine.train(state.flat, optimizer_state, data, part)
        progress.losses[first:stop], progress.counts[first:stop] = losses, counts
        fitting = rows.release((stop - first) * plan.batch_size)
        if not np.isfinite(losses).all():
            break
        progress.done = stop
        ended = watched and callbacks.batch_end(stop - 1, float(losses[-1]))  # type: ignore[union-attr]
        for every, write in pauses:
            if stop % every == 0 and stop < n_batches and not ended:
                write(progress)
    made = progress.done if ended else n_batches
    return Epoch(progress.losses[:made], progress.counts[:made], last_rate, ended)


def _order(plan: Plan, n: int) -> NDArray[np.int64]:
    """Return the order of the rows of an epoch."""
    order = np.arange(n) if plan.order is None else plan.order
    if plan.shuffle is not None:
        shuffled(order, *plan.shuffle)
    return order


def _part(plan: Plan, order: NDArray[np.int64], first: int, stop: int) -> Plan:
    """Return the plan of batches `first` to `stop`."""
    seed, step = plan.noise
    return replace(
        plan,
        learning_rates=plan.learning_rates[first:stop],
        alphas=None if plan.alphas is None else plan.alphas[first:stop],
        shuffle=None,
        order=order[first * plan.batch_size : stop * plan.batch_size],
        noise=(seed, step + first),
    )
