"""One epoch: the order of its rows, and its parts, between which others may look."""

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

#: A piece of rows that stay together under shuffle="blocks", in bytes of float32; pieces of a window.
PIECE_BYTES, WINDOW_PIECES = 2**22, 16


@dataclass
class Progress:
    """How far an epoch has come.

    Attributes
    ----------
    losses, counts : float64 arrays, one element a batch
        The losses of the batches and what they count; NaN and 0 for those to come.
    done : int
        Batches made.
    """

    losses: NDArray[np.float64]
    counts: NDArray[np.float64]
    done: int = 0

    @classmethod
    def begin(cls, n_batches: int) -> Progress:
        """Of an epoch that has not begun."""
        return cls(np.full(n_batches, np.nan), np.zeros(n_batches))


#: (n, function): call the function after every n batches of an epoch.
Pause = tuple[int, Callable[[Progress], None]]


def block_order(n: int, columns: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """An order of the rows of an epoch in which what is near each other in a file stays near.

    Pieces of about 4 MiB are put in a new order, and then the rows within each 16 of them: a pass
    over a file reads pieces as they lie, and has few of them in memory at a time. Both orders are
    those of `reference.permutation`.

    Parameters
    ----------
    n, columns : int
        The shape of X.
    seed, epoch : int
    """
    piece = max(1, PIECE_BYTES // (4 * columns))
    n_pieces = -(-n // piece)
    key = mix64(mix64(seed) + epoch)
    pieces = np.empty(n_pieces, np.int64)
    shuffled(pieces, key, n_pieces)
    order = np.empty(n, np.int64)
    place = 0
    for window, first in enumerate(range(0, n_pieces, WINDOW_PIECES)):
        starts = pieces[first : first + WINDOW_PIECES].tolist()
        rows = np.concatenate([np.arange(p * piece, min(n, (p + 1) * piece)) for p in starts])
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

    One call of the engine, or several where callbacks or checkpoints come in between or X is a large array
    mapped from a file; the results are bitwise identical.

    Parameters
    ----------
    state : NetworkState
    optimizer_state : OptimizerState
    data : Data
    plan : Plan
        Plan of the whole epoch.
    callbacks : CallbackList, optional
        Called after every batch if one of them wants to be.
    progress : Progress, optional
        Batches done before; updated as the epoch goes on.
    pauses : sequence of (int, callable)
        Called with the progress after every so many batches.
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
        fit_at_once = max(1, fitting // plan.batch_size)
        stop = min([n_batches, first + fit_at_once, *((first // step + 1) * step for step in steps)])
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
    """The order of the rows of an epoch."""
    order = np.arange(n) if plan.order is None else plan.order
    if plan.shuffle is not None:
        shuffled(order, *plan.shuffle)
    return order


def _part(plan: Plan, order: NDArray[np.int64], first: int, stop: int) -> Plan:
    """The plan of batches `first` to `stop`."""
    seed, step = plan.noise
    return replace(
        plan,
        learning_rates=plan.learning_rates[first:stop],
        alphas=None if plan.alphas is None else plan.alphas[first:stop],
        shuffle=None,
        order=order[first * plan.batch_size : stop * plan.batch_size],
        noise=(seed, step + first),
    )
