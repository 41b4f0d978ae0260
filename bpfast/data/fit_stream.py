"""Learn a preparation from a stream, and write the prepared rows of a stream to temporary files.

The counterpart of `fit_table.learn` and `Preparation.inputs` for files that do not fit in memory.
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
from .fit_table import StrayTexts, all_missing, text_column, usable_moments, with_target
from .preparation import Counts, NumberColumn, Preparation, TextColumn, require_finite, require_inputs
from .streams import Stream
from .tables import Table, UserError

#: Number of values in the sample of rows from which medians are computed.
SAMPLE = 2**22


class Moments:
    """Mean and standard deviation of columns, accumulated block by block, and a sample of the rows.

    The mean and the sum of squared deviations of a block are merged with those so far (Chan, Golub &
    LeVeque 1979): d = mean' − mean, mean += d n'/(n + n'), M += M' + d² n n'/(n + n').

    Parameters
    ----------
    columns : int
        Number of columns.
    rows : int
        Total number of rows, which determines the spacing of the sample.
    """

    def __init__(self, columns: int, rows: int) -> None:
        self.count = np.zeros(columns)
        self.mean = np.zeros(columns)
        self._squares = np.zeros(columns)
        self._step = -(-rows // max(1, SAMPLE // max(1, columns)))
        self._rows = 0
        self._sample: list[Array] = []

    def add(self, block: Array) -> None:
        """Add rows of numbers, NaN where missing."""
        first = -self._rows % self._step
        self._sample.append(block[first :: self._step].copy())
        self._rows += len(block)
        block = block.astype(np.float64)
        absent = np.isnan(block)
        count = (len(block) - absent.sum(axis=0)).astype(np.float64)
        divisor = np.maximum(count, 1.0)
        with np.errstate(over="ignore", invalid="ignore"):
            block[absent] = 0.0
            mean = block.sum(axis=0) / divisor
            block -= mean
            block[absent] = 0.0
            # Correct the mean and the squares for the rounding of the mean.
            rest = block.sum(axis=0) / divisor
            mean += rest
            block *= block
            squares = block.sum(axis=0) - divisor * rest * rest
            total = np.maximum(self.count + count, 1.0)
            shift = mean - self.mean
            self.mean += shift * (count / total)
            self._squares += squares + shift * shift * (self.count * count / total)
        self.count += count

    @property
    def deviation(self) -> Array:
        """Standard deviations of the columns."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(np.sqrt(np.maximum(self._squares, 0.0) / np.maximum(self.count, 1.0)))

    def medians(self) -> list[float]:
        """Medians of the sample; the mean for a column that is missing in all of it."""
        sample = np.concatenate(self._sample)
        found = []
        for column, mean in zip(sample.T, self.mean.tolist(), strict=True):
            present = column[~np.isnan(column)].astype(np.float64)
            found.append(float(np.median(present)) if len(present) else mean)
        return found


def learn(
    stream: Stream,
    target: Array,
    task: str,
    classes: Sequence[Any],
    row_ids: Array,
    rows: Array,
    advance: Callable[[int], None],
) -> Preparation:
    """Learn a preparation from some rows of a stream whose types are known (`Stream.targets`).

    Means and standard deviations are those of all training rows, up to rounding. The median that
    replaces missing values is taken over evenly spaced training rows, `SAMPLE` values in total.

    Parameters
    ----------
    stream : Stream
    target : array (N,)
        Targets of the rows that have one.
    task : {"classification", "regression"}
    classes : sequence
        Sorted labels of a classification.
    row_ids : array of int (N,)
        Numbers in the stream of the rows that have a target.
    rows : array of int
        Training rows, as indices into `row_ids`.
    advance : callable
        Called with the progress, see `Stream.chunks`.

    Returns
    -------
    Preparation

    Raises
    ------
    UserError
        If a column is empty, not finite, or has too many categories.
    """
    about = stream.about
    labelled = replace(about, row_ids=row_ids)
    columns: list[NumberColumn | TextColumn]
    if about.full_scale is not None:
        columns = [NumberColumn(name, 0.0, 0.0, about.full_scale) for name in stream.names]
    else:
        texts, statistics = _scan(stream, _RowMasks(row_ids, rows), len(rows), advance)
        numbers = statistics.columns()
        columns = [
            texts[name].column(name, about) if name in texts else numbers[name].column(name, about)
            for name in stream.names
        ]
    return with_target(labelled, target, task, classes, rows, columns)


@dataclass
class _Texts:
    """Values of a text column: counts in the training rows, stray texts in all labelled rows."""

    counts: Counter[str] = field(default_factory=Counter)
    stray: StrayTexts = field(default_factory=StrayTexts)

    def column(self, name: str, about: Table) -> TextColumn:
        """The categorical column, unless its values are numbers with a few stray texts."""
        self.stray.refuse(name, about)
        return text_column(name, self.counts, about)


@dataclass(frozen=True)
class _Number:
    """Statistics of a numeric column; `infinite` has its first infinite value, if any."""

    count: float
    median: float
    mean: float
    deviation: float
    infinite: Array | None

    def column(self, name: str, about: Table) -> NumberColumn:
        """The numeric column, unless it is empty or not finite."""
        if self.infinite is not None:
            require_finite(f"column {name!r}", self.infinite, about)
        if not self.count:
            raise all_missing(name, about)
        return NumberColumn(name, self.median, *usable_moments(f"column {name!r}", self.mean, self.deviation))


class _Numbers:
    """Statistics of all numeric columns."""

    def __init__(self, names: list[str], n_rows: int) -> None:
        self._names = names
        self._moments = Moments(len(names), n_rows)
        self._infinite: dict[str, Array] = {}

    def add(self, table: Table) -> None:
        """Add the rows of a table; infinite values count as missing, and the first is remembered.

        Which column is reported depends on the order of the columns, not of the rows.
        """
        block = _matrix(table, self._names)
        if block.dtype.kind == "f":
            bad = np.isinf(block)
            for index in np.flatnonzero(bad.any(axis=0)):
                self._infinite.setdefault(self._names[index], block[bad[:, index], index][:1])
            if bad.any():
                block = np.where(bad, np.nan, block)
        self._moments.add(block)

    def columns(self) -> dict[str, _Number]:
        """The statistics by name."""
        m = self._moments
        statistics = zip(self._names, m.count, m.medians(), m.mean, m.deviation, strict=True)
        return {
            name: _Number(count, median, float(mean), float(deviation), self._infinite.get(name))
            for name, count, median, mean, deviation in statistics
        }


def _scan(
    stream: Stream, masks: _RowMasks, n_rows: int, advance: Callable[[int], None]
) -> tuple[dict[str, _Texts], _Numbers]:
    """Collect the statistics of all columns in one pass."""
    texts: dict[str, _Texts] | None = None
    numbers = _Numbers([], 0)
    for table in stream.chunks(advance=advance):
        if texts is None:
            texts = {name: _Texts() for name, values in table.columns.items() if values.dtype == object}
            numbers = _Numbers([name for name in table.columns if name not in texts], n_rows)
        table = masks.labelled(table)
        for name, found in texts.items():
            found.stray.add(table.columns[name], table)
        table = table.take(masks.trained(table))
        for name, found in texts.items():
            found.counts.update(value for value in table.columns[name].tolist() if value is not None)
        numbers.add(table)
    assert texts is not None
    return texts, numbers


class _RowMasks:
    """Which rows of a stream have a target, and which of those are training rows."""

    def __init__(self, row_ids: Array, rows: Array) -> None:
        size = int(row_ids[-1]) + 1
        self._labelled, self._trained = np.zeros(size, bool), np.zeros(size, bool)
        self._labelled[row_ids] = True
        self._trained[row_ids[rows]] = True

    def labelled(self, table: Table) -> Table:
        """A chunk without the rows that have no target."""
        chosen = self._of(self._labelled, table)
        return table if chosen.all() else table.take(chosen)

    def trained(self, table: Table) -> Array:
        """Mask of the training rows of a chunk."""
        return self._of(self._trained, table)

    @staticmethod
    def _of(mask: Array, table: Table) -> Array:
        assert table.row_ids is not None
        within = table.row_ids < len(mask)
        return np.asarray(within & mask[np.where(within, table.row_ids, 0)])


def _matrix(table: Table, names: list[str]) -> Array:
    """The named columns as one array."""
    if table.matrix is not None:
        return table.matrix
    if not names:
        return np.empty((len(table), 0))
    return np.column_stack([table.columns[name].astype(np.float64) for name in names])


def prepare(
    stream: Stream,
    prepared: Preparation,
    dtype: Any,
    row_ids: Array,
    rows: Array,
    held_out: Array,
    folder: str,
    advance: Callable[[int], None],
) -> tuple[Array, Array, Counts]:
    """Prepare the rows of a stream and write them to two memory-mapped temporary files.

    On POSIX systems the files are unlinked before the first row is written, so nothing is left behind
    however the process ends.

    Parameters
    ----------
    stream : Stream
    prepared : Preparation
    dtype : dtype
        Data type of the network.
    row_ids, rows, held_out : array of int
        See `learn`; `held_out` are indices of the held-out rows.
    folder : str
        Directory of the files.
    advance : callable
        Called with the progress, see `Stream.chunks`.

    Returns
    -------
    X, X_held_out : array (n, n_inputs)
        Inputs of the training rows and of the held-out rows.
    counts : Counts

    Raises
    ------
    UserError
        If there is not enough disk space, a row is invalid, or the file changes while it is read.
    """
    dtype, width = np.dtype(dtype), prepared.n_inputs
    needed = (len(rows) + len(held_out)) * width * dtype.itemsize
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the prepared rows need {needed / 1e9:.1f} GB in {folder!r}, but only {free / 1e9:.1f} GB are "
            f"free; free some space, set TMPDIR to a larger disk, or pass a larger --memory"
        )
    masks, counts = _RowMasks(row_ids, rows), Counts()
    try:
        with tempfile.TemporaryFile(dir=folder) as train, tempfile.TemporaryFile(dir=folder) as rest:
            for table in stream.chunks(width, advance):
                table = masks.labelled(table)
                if not len(table):
                    continue
                X, found = prepared.inputs(table, dtype)
                require_inputs(X, table)
                counts.add(found)
                trained = masks.trained(table)
                train.write(X[trained].data)
                rest.write(X[~trained].data)
            shapes = (len(rows), width), (len(held_out), width)
            if (train.tell(), rest.tell()) != tuple(n * width * dtype.itemsize for n, _ in shapes):
                raise UserError(f"{stream.about.source} was modified while it was being read")
            mapped = [_mapped(f, dtype, shape) for f, shape in zip((train, rest), shapes, strict=True)]
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write the prepared rows to {folder!r}: {reason}") from None
    return mapped[0], mapped[1], counts.ordered([column.name for column in prepared.columns])


def _mapped(file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, int]) -> Array:
    if not shape[0]:
        return np.empty(shape, dtype)
    file.flush()
    return np.memmap(file, dtype, mode="r", shape=shape)


def temporary_folder(out: str) -> str:
    """Directory of the prepared rows: ``$TMPDIR`` if it is set, otherwise the directory of the model.

    Not the system default, which may be in memory.
    """
    folder = os.environ.get("TMPDIR") or os.path.dirname(os.path.abspath(out))
    if not os.path.isdir(folder):
        raise UserError(f"TMPDIR={folder!r} is not a directory")
    return folder
