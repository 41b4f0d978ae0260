"""One epoch: the order of its rows, and its parts, between which others may look."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array
from ..arrays.mapped import mapped_rows
from ..arrays.sparse import Features
from ..engine.interface import Data, OptimizerState, Plan
from ..native._core import shuffled
from ..reference.random import mix64
from .callbacks import Callback

if TYPE_CHECKING:
    from ..network import Network


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


#: (every so many batches, what to call then).
Pause = tuple[int, Callable[[Progress], None]]


def asked(answers: Iterable[Any]) -> bool:
    """Whether a callback wants the end; each of them is called, also when an earlier one does."""
    return sum(isinstance(answer, (bool, np.bool_)) and bool(answer) for answer in answers) > 0


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
    network: Network,
    state: OptimizerState,
    X: Features,
    Y: Array,
    weights: Array | None,
    plan: Plan,
    callbacks: Sequence[Callback] = (),
    progress: Progress | None = None,
    pauses: Sequence[Pause] = (),
) -> tuple[Array, Array, bool]:
    """One epoch: the losses and weights of its batches, and whether a callback ends the training.

    One call of the engine, or several where callbacks or checkpoints come between, or where X is a
    large array mapped from a file: the same bits. With `progress` it goes on from there.
    """
    watching = [c for c in callbacks if type(c).on_batch_end is not Callback.on_batch_end]
    n_batches = len(plan.learning_rates)
    progress = Progress.begin(n_batches) if progress is None else progress
    mapped = mapped_rows(X)
    if not (watching or pauses or progress.done or mapped):
        with network._lock:
            return *network._engine.train(network._flat, state, Data(X, Y, weights), plan), False
    order = np.arange(len(X)) if plan.order is None else plan.order
    if plan.shuffle is not None:
        shuffled(order, *plan.shuffle)
    steps = [every for every, _ in pauses] + [1] * bool(watching)
    fitting = 0 if mapped is None else mapped.rows_at_a_time(plan.shuffle is not None)
    over = False
    while progress.done < n_batches and not over:
        first = progress.done
        last = min([n_batches, *((first // step + 1) * step for step in steps)])
        if mapped is not None:
            last = min(last, first + max(1, fitting // plan.batch_size))
        part = _part(plan, order, first, last)
        if mapped is not None:
            mapped.will_need(part.order)  # type: ignore[arg-type]
        with network._lock:
            made = network._engine.train(network._flat, state, Data(X, Y, weights), part)
        progress.losses[first:last], progress.counts[first:last] = made
        if mapped is not None:
            fitting = mapped.release((last - first) * plan.batch_size)
        if not np.isfinite(made[0]).all():
            break
        progress.done = last
        over = asked(c.on_batch_end(network, last - 1, float(made[0][-1])) for c in watching)
        for every, write in pauses:
            if last % every == 0 and last < n_batches and not over:
                write(progress)
    if over:
        return progress.losses[: progress.done], progress.counts[: progress.done], True
    return progress.losses, progress.counts, False


def _part(plan: Plan, order: NDArray[np.int64], first: int, last: int) -> Plan:
    """Some of the batches of a plan."""
    seed, step = plan.noise
    return replace(
        plan,
        learning_rates=plan.learning_rates[first:last],
        alphas=None if plan.alphas is None else plan.alphas[first:last],
        shuffle=None,
        order=order[first * plan.batch_size : last * plan.batch_size],
        noise=(seed, step + first),
    )
