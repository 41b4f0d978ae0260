"""The data that `train` trains on: read, labelled, split into training and held-out rows, and prepared."""

from __future__ import annotations

import math
import os
import time
from argparse import Namespace
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..arrays import Array
from ..data import fit_stream, fit_table, tables
from ..data.preparation import Counts, Preparation, missing
from ..data.streams import CsvStream, MatrixStream, Stream, TableStream
from ..data.tables import Table, UserError, plural
from .console import Printer, refuse_unsupported


@dataclass(frozen=True)
class LabelledRows:
    """The rows that have a target.

    Attributes
    ----------
    target : array (N,)
        Their targets.
    row_ids : array of int (N,)
        Their numbers in the file.
    task : {"classification", "regression"}
    classes : tuple
        Sorted labels of a classification; empty for a regression.
    rows, held_out : array of int
        Indices of the training rows and of the held-out rows among the N.
    """

    target: Array
    row_ids: Array
    task: str
    classes: tuple[Any, ...]
    rows: Array
    held_out: Array


@dataclass(frozen=True)
class TrainingData:
    """Prepared rows, in memory or mapped from temporary files.

    Attributes
    ----------
    about : Table
        Describes the source of the rows; its columns are not used.
    labelled : LabelledRows
    prepared : Preparation
        Learned from the training rows.
    X, X_held_out : array (n, I)
        Inputs of the training rows and of the held-out rows.
    counts : Counts
        Missing values and unseen categories that the preparation found.
    columns : dict of str to array
        Columns of the file as read; empty if the file is not in memory.
    """

    about: Table
    labelled: LabelledRows
    prepared: Preparation
    X: Array
    X_held_out: Array
    counts: Counts
    columns: dict[str, Array] = field(default_factory=dict)

    @property
    def held_out_target(self) -> Array:
        """Targets of the held-out rows."""
        return self.labelled.target[self.labelled.held_out]

    @property
    def held_out_ids(self) -> Array:
        """Numbers in the file of the held-out rows."""
        return self.labelled.row_ids[self.labelled.held_out]


def load_training_data(options: Namespace, say: Printer) -> TrainingData:
    """Read the rows, split them, learn the preparation, and apply it."""
    source = _read(options)
    if isinstance(source, Table):
        about, columns = source, source.columns
    else:
        about, columns = source.about, {}
        fit_stream.temporary_folder(options.out)  # raises before the passes over the file
    target, row_ids = _targets(source, about, say)
    task, labels, classes = _task(options, about, target, row_ids, say)
    rows, held_out = fit_table.split(labels, len(target), options.validation, options.seed)
    labelled = LabelledRows(target, row_ids, task, classes, rows, held_out)
    prepared, X, X_held_out, counts = _prepare(options, source, labelled, say)
    data = TrainingData(about, labelled, prepared, X, X_held_out, counts, columns)
    _describe(data, say)
    return data


def _read(options: Namespace) -> Table | Stream:
    """The rows as a table in memory, or as a stream if the file is larger than --memory."""
    if options.file is None:
        for name in ("target", "labels", "features", "ignore", "text"):
            if getattr(options, name):
                raise UserError(f"--{name} needs a FILE; without one, scikit-learn's digits are used")
        return tables.digits()
    path: str = options.file
    kind = tables.kind_of(path)
    refuse_unsupported(options, path, kind)
    return _read_csv(options, path) if kind == "csv" else _read_arrays(options, path, kind)


def _read_csv(options: Namespace, path: str) -> Table | Stream:
    columns = {"target": options.target, "ignore": options.ignore, "text": options.text}
    if not options.target:
        names = tables.listed(CsvStream(path).names)
        raise UserError(f"--target is required: the column of {path!r} to predict (columns: {names})")
    if os.path.getsize(path) > options.memory:
        return CsvStream(path, **columns)
    return tables.read_csv(path, **columns)


def _read_arrays(options: Namespace, path: str, kind: str) -> Table | Stream:
    if kind == "npz":
        features, name = options.features or tables.FEATURES, options.target or tables.TARGET
        array, target = tables.npz_arrays(path, features, name)
    else:
        if not options.labels:
            raise UserError(f"--labels is required: the file of the labels of {path!r}")
        features, name = tables.FEATURES, "label"
        array, target = tables.array_of(path, kind), tables.label_array(options.labels)
    if _nbytes(options, *array.shape) > options.memory:
        return MatrixStream(kind, array, target, name, features)
    return tables.read_matrix(kind, array, target, name, features)


def _nbytes(options: Namespace, *shape: int) -> int:
    """Memory that an array of prepared values takes."""
    return math.prod(shape) * int(np.dtype(options.dtype).itemsize)


def _targets(source: Table | Stream, about: Table, say: Printer) -> tuple[Array, Array]:
    """Targets of the rows that have one, and the numbers of these rows in the file."""
    if isinstance(source, Table):
        assert source.target is not None
        target = source.target
    else:
        with say.progress("reading targets", source) as advance:
            target = source.targets(advance)
    present = ~missing(target)
    if not present.any():
        raise UserError(f"target {about.target_name!r} of {about.source} is missing in every row")
    row_ids = np.flatnonzero(present)
    if len(row_ids) < len(target):
        say("note", f"rows without a target skipped: {len(target) - len(row_ids):,}")
        target = target[present]
    return target, row_ids


def _task(
    options: Namespace, about: Table, target: Array, row_ids: Array, say: Printer
) -> tuple[str, Array | None, tuple[Any, ...]]:
    """The task; for a classification also the class number of each row, and the classes."""
    if target.dtype == object and options.task != "classification":
        fit_table.refuse_stray_texts(about.target_name, target, replace(about, row_ids=row_ids))
    task, reason = fit_table.infer_task(target)
    if options.task and options.task != task:
        task, reason = options.task, "set by --task"
    elif not options.task and options.file is not None and target.dtype != object:
        other = "regression" if task == "classification" else "classification"
        reason += f"; pass --task {other} to override"
    say("task", f"{task} of {about.target_name!r} ({reason})")
    if task == "regression":
        return task, None, ()
    classes, labels = fit_table.class_numbers(target, about.target_name)
    return task, labels, classes


def _prepare(
    options: Namespace, source: Table | Stream, labelled: LabelledRows, say: Printer
) -> tuple[Preparation, Array, Array, Counts]:
    """Learn the preparation from the training rows and apply it; (preparation, X, X_held_out, counts)."""
    start = time.perf_counter()
    target, row_ids, rows, held_out = labelled.target, labelled.row_ids, labelled.rows, labelled.held_out
    if isinstance(source, Table):
        table = source if len(row_ids) == len(source) else source.take(row_ids)
        prepared = fit_table.learn(table, target, labelled.task, labelled.classes, rows)
        if _nbytes(options, len(table), prepared.n_inputs) <= options.memory:
            X, counts = prepared.inputs(table, options.dtype)
            return prepared, X[rows], X[held_out], counts
        source = TableStream(source)
    else:
        with say.progress("learning", source) as advance:
            prepared = fit_stream.learn(
                source, target, labelled.task, labelled.classes, row_ids, rows, advance
            )
    learned = time.perf_counter()
    folder = fit_stream.temporary_folder(options.out)
    with say.progress("preparing", source) as advance:
        X, X_held_out, counts = fit_stream.prepare(
            source, prepared, options.dtype, row_ids, rows, held_out, folder, advance
        )
    seconds = learned - start, time.perf_counter() - learned
    size = (X.nbytes + X_held_out.nbytes) / 1e6
    say(
        "streamed",
        f"learned in {seconds[0]:.1f} s, prepared in {seconds[1]:.1f} s: {size:,.0f} MB in {folder!r}",
    )
    return prepared, X, X_held_out, counts


def _describe(data: TrainingData, say: Printer) -> None:
    """Print the size of the data, the split, and what the preparation found."""
    prepared, about = data.prepared, data.about
    n_rows, n_held_out = len(data.labelled.rows), len(data.labelled.held_out)
    n_texts = len(prepared.texts)
    n_numbers = len(prepared.columns) - n_texts
    if about.full_scale is None:
        inputs = f"{plural(n_numbers, 'numeric column')} standardised"
    else:
        inputs = f"{plural(n_numbers, 'value')} divided by {about.full_scale:g}"
    if n_texts:
        inputs += f", {plural(n_texts, 'text column')} one-hot encoded"
    width = plural(prepared.n_inputs, "input")
    say("data", f"{about.source}: {n_rows + n_held_out:,} rows; {width} ({inputs})")
    say("split", f"{n_rows:,} training rows, {n_held_out:,} held-out rows")
    say.counts(data.counts)
    for column in prepared.columns:
        if column.width > max(fit_table.MAX_CLASSES, n_rows // 2):
            say(
                "note",
                f"text column {column.name!r} has {column.width} categories; consider --ignore {column.name}",
            )
