"""A preparation learnt from a stream, and a stream's rows prepared into temporary files.

For files whose rows do not fit in memory: what `learning.learn` and `Preparation.inputs` do with a
table in one piece.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any

import numpy as np

from ..arrays import Array
from .fit_table import Junk, all_missing, text_column, usable_moments, with_target
from .preparation import Counts, NumberColumn, Preparation, TextColumn, require_finite, require_inputs
from .streams import Stream
from .tables import Table, UserError

#: The numbers of the sample of rows that medians are taken of.
SAMPLE = 2**22


class Moments:
    """Mean and deviation of columns, part by part, and a sample of their rows.

    A part's own mean and sum of squares about it are merged with those so far (Chan, Golub & LeVeque
    1979): d = mean' - mean, mean += d n'/(n + n'), M += M' + d² n n'/(n + n').

    Parameters
    ----------
    columns : int
    rows : int
        How many there will be: every so many-th is in the sample.
    """

    def __init__(self, columns: int, rows: int) -> None:
        self.count = np.zeros(columns)
        self.mean = np.zeros(columns)
        self._squares = np.zeros(columns)
        self._step = -(-rows // max(1, SAMPLE // max(1, columns)))
        self._rows = 0
        self._sample: list[Array] = []

    def add(self, block: Array) -> None:
        """Rows of numbers, NaN where missing."""
        first = -self._rows % self._step
        self._sample.append(block[first :: self._step].copy())
        self._rows += len(block)
        block = block.astype(np.float64)
        missed = np.isnan(block)
        count = (len(block) - missed.sum(axis=0)).astype(np.float64)
        divisor = np.maximum(count, 1.0)
        with np.errstate(over="ignore", invalid="ignore"):
            block[missed] = 0.0
            mean = block.sum(axis=0) / divisor
            block -= mean
            block[missed] = 0.0
            # What rounding left in the mean, and its share of the squares.
            rest = block.sum(axis=0) / divisor
            mean += rest
            block *= block
            squares = block.sum(axis=0) - divisor * rest * rest
            total = np.maximum(self.count + count, 1.0)
            gap = mean - self.mean
            self.mean += gap * (count / total)
            self._squares += squares + gap * gap * (self.count * count / total)
        self.count += count

    @property
    def deviation(self) -> Array:
        """The standard deviations."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(np.sqrt(np.maximum(self._squares, 0.0) / np.maximum(self.count, 1.0)))

    def medians(self) -> list[float]:
        """Of the sample; the mean of a column that is empty there."""
        sample = np.concatenate(self._sample)
        found = []
        for column, mean in zip(sample.T, self.mean.tolist(), strict=True):
            there = column[~np.isnan(column)].astype(np.float64)
            found.append(float(np.median(there)) if len(there) else mean)
        return found


@dataclass
class _Texts:
    """What a column of texts held."""

    counts: Counter[str] = field(default_factory=Counter)
    junk: Junk = field(default_factory=Junk)


def learn(
    stream: Stream,
    goal: Array,
    task: str,
    classes: Sequence[Any],
    origin: Array,
    rows: Array,
    moved: Callable[[int], None],
) -> Preparation:
    """Learn a preparation from some rows of a stream that knows its columns (`Stream.targets`).

    Means and deviations are those of all training rows, to rounding; the number that fills holes is the
    median of evenly spaced training rows, `SAMPLE` numbers in all (of all of them where they are fewer).

    Parameters
    ----------
    stream : Stream
    goal : array (N,)
        The targets of the rows that have one.
    task : {"classification", "regression"}
    classes : sequence
        The labels of a classification.
    origin : array (N,) of int
        The numbers in the stream of the rows that have a target.
    rows : array of int
        The training rows, as places in `origin`.
    moved : callable
        Told of the progress.

    Raises
    ------
    UserError
        If a column can't be learnt from.
    """
    about = stream.about
    labelled = replace(about, origin=origin)
    columns: list[NumberColumn | TextColumn]
    if about.full_scale is not None:
        columns = [NumberColumn(name, 0.0, 0.0, about.full_scale) for name in stream.names]
        return with_target(labelled, goal, task, classes, rows, columns)
    chosen = _Chosen(origin, rows)
    moments: Moments | None = None
    numbers: list[str] = []
    texts: dict[str, _Texts] = {}
    infinite: dict[str, Array] = {}
    for table in stream.chunks(moved=moved):
        if moments is None:
            numbers = [name for name, values in table.columns.items() if values.dtype != object]
            texts = {name: _Texts() for name in table.columns if name not in numbers}
            moments = Moments(len(numbers), len(rows))
        table = chosen.labelled(table)
        for name, found in texts.items():
            found.junk.add(table.columns[name], table)
        table = table.take(chosen.trained(table))
        for name, found in texts.items():
            found.counts.update(value for value in table.columns[name].tolist() if value is not None)
        moments.add(_without_infinite(_numbers(table, numbers), numbers, infinite))
    assert moments is not None
    figures = zip(moments.count, moments.medians(), moments.mean, moments.deviation, strict=True)
    learnt = dict(zip(numbers, figures, strict=True))
    columns = []
    for name in stream.names:
        if name in texts:
            texts[name].junk.refuse(name, about)
            columns.append(text_column(name, texts[name].counts, about))
            continue
        if name in infinite:
            require_finite(f"column {name!r}", infinite[name], about)
        count, fill, mean, deviation = learnt[name]
        if not count:
            raise all_missing(name, about)
        columns.append(
            NumberColumn(name, fill, *usable_moments(f"column {name!r}", float(mean), float(deviation)))
        )
    return with_target(labelled, goal, task, classes, rows, columns)


class _Chosen:
    """Which rows of a stream have a target, and which of those are trained on."""

    def __init__(self, origin: Array, rows: Array) -> None:
        size = int(origin[-1]) + 1
        self._labelled, self._trained = np.zeros(size, bool), np.zeros(size, bool)
        self._labelled[origin] = True
        self._trained[origin[rows]] = True

    def labelled(self, table: Table) -> Table:
        """A chunk without the rows that have no target."""
        chosen = self._of(self._labelled, table)
        return table if chosen.all() else table.take(chosen)

    def trained(self, table: Table) -> Array:
        """True for the training rows of a chunk."""
        return self._of(self._trained, table)

    @staticmethod
    def _of(mask: Array, table: Table) -> Array:
        assert table.origin is not None
        within = table.origin < len(mask)
        return np.asarray(within & mask[np.where(within, table.origin, 0)])


def _numbers(table: Table, names: list[str]) -> Array:
    """Columns side by side."""
    if table.matrix is not None:
        return table.matrix
    if not names:
        return np.empty((len(table), 0))
    return np.column_stack([table.columns[name].astype(np.float64) for name in names])


def _without_infinite(block: Array, names: list[str], met: dict[str, Array]) -> Array:
    """A block with its infinite numbers as holes; the first of each column is kept by the column's name.

    Which of them is refused, the order of the columns says, not that of the rows.
    """
    if block.dtype.kind != "f":
        return block
    bad = np.isinf(block)
    if not bad.any():
        return block
    for place in np.flatnonzero(bad.any(axis=0)):
        met.setdefault(names[place], block[bad[:, place], place][:1])
    return np.where(bad, np.nan, block)


def prepare(
    stream: Stream,
    prepared: Preparation,
    dtype: Any,
    origin: Array,
    rows: Array,
    held_out: Array,
    folder: str,
    moved: Callable[[int], None],
) -> tuple[Array, Array, Counts]:
    """Prepare a stream's rows into two temporary files, mapped: those to train on, and those held out.

    On POSIX the files have lost their names before the first row is written: whatever ends the process,
    nothing of them is left.

    Parameters
    ----------
    stream, prepared
    dtype : dtype
        Of the network.
    origin, rows, held_out
        See `learn`.
    folder : str
        Of the files.
    moved : callable
        Told of the progress.

    Returns
    -------
    X, X_held_out : array (n, n_inputs)
    counts : Counts

    Raises
    ------
    UserError
        If the disk is too small for them, a row can't be prepared, or the file changes under way.
    """
    dtype, width = np.dtype(dtype), prepared.n_inputs
    needed = (len(rows) + len(held_out)) * width * dtype.itemsize
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the prepared rows take {needed / 1e9:.1f} GB in {folder!r}, where {free / 1e9:.1f} GB are "
            f"free; make room, set TMPDIR to a larger disk, or keep them in memory with a larger --memory"
        )
    chosen, counts = _Chosen(origin, rows), Counts()
    try:
        with tempfile.TemporaryFile(dir=folder) as train, tempfile.TemporaryFile(dir=folder) as rest:
            for table in stream.chunks(width, moved):
                table = chosen.labelled(table)
                if not len(table):
                    continue
                X, met = prepared.inputs(table, dtype)
                require_inputs(X, table)
                counts.add(met)
                trained = chosen.trained(table)
                train.write(X[trained].data)
                rest.write(X[~trained].data)
            shapes = (len(rows), width), (len(held_out), width)
            if (train.tell(), rest.tell()) != tuple(n * width * dtype.itemsize for n, _ in shapes):
                raise UserError(f"{stream.about.source} has changed while it was read")
            mapped = [_mapped(f, dtype, shape) for f, shape in zip((train, rest), shapes, strict=True)]
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"the prepared rows can't be written to {folder!r}: {reason}") from None
    return mapped[0], mapped[1], counts.ordered([column.name for column in prepared.columns])


def _mapped(file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, int]) -> Array:
    if not shape[0]:
        return np.empty(shape, dtype)
    file.flush()
    return np.memmap(file, dtype, mode="r", shape=shape)


def temporary_folder(out: str) -> str:
    """Where prepared rows go: ``$TMPDIR`` if it is set, else beside the model, on a disk, not in memory."""
    folder = os.environ.get("TMPDIR") or os.path.dirname(os.path.abspath(out))
    if not os.path.isdir(folder):
        raise UserError(f"TMPDIR is {folder!r}, which is no directory; prepared rows are to go there")
    return folder
