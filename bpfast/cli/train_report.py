"""The HTML report of `train`: its data, its settings and its results."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array
from ..data.preparation import TextColumn
from ..data.tables import Table, listed, plural
from ..network import Network
from ..plotting.style import figure_text
from ..report import html
from ..report.html import Digits, Html, isolated
from ..report.page import MAX_ROWS, N_WORST, HeldOut, Subject, write_report
from ..training.history import History
from .train_data import TrainingData
from .train_settings import TrainingSettings

#: The columns of the data are shown next to single rows if there are at most this many.
MAX_CELLS = 12


@dataclass(frozen=True)
class TrainingResult:
    """A training run of the command line.

    Attributes
    ----------
    data : TrainingData
    settings : TrainingSettings
    outputs : array (n, O) or None
        Outputs of the network for the held-out rows.
    headline : str
        Score on the held-out rows.
    interrupted : bool
        Whether Ctrl-C ended the training.
    """

    data: TrainingData
    settings: TrainingSettings
    outputs: Array | None
    headline: str
    interrupted: bool


def write_training_report(
    path: str, options: Namespace, network: Network, history: History, result: TrainingResult
) -> None:
    """Write the report of a training run; see `write_report`.

    Parameters
    ----------
    path : str
        HTML file to write.
    options : Namespace
        Options of the command line.
    network : Network
    history : History
    result : TrainingResult
    """
    data, headline = result.data, result.headline
    prepared = data.prepared
    classes = prepared.classes if prepared.task == "classification" else None
    subject = Subject(
        title=f"{isolated(prepared.target)} of {isolated(_source(options, data.about))}",
        headline=headline and f"{headline[0].upper()}{headline[1:]}.",
        target=prepared.target,
        data=_data_facts(data),
        options=_option_facts(options, network, history, result.settings),
        extra=[_class_table(data) if classes is not None else _target_table(data), _column_table(data)],
        command=getattr(options, "command", ""),
        warning=_warning(history) if result.interrupted else "",
    )
    held_out = None if result.outputs is None else _held_out(network, data, result.outputs, classes)
    write_report(path, network, history, held_out, classes=classes, subject=subject, trained_rows=len(data.X))


def _source(options: Namespace, about: Table) -> str:
    """Name of the data, without its directory."""
    return os.path.basename(options.file) if options.file else about.source


def _warning(history: History) -> str:
    after = f"after epoch {len(history)}" if len(history) else "partway through epoch 1"
    return f"The training was interrupted; the network has the weights {after}."


def _held_out(network: Network, data: TrainingData, outputs: Array, classes: Sequence[Any] | None) -> HeldOut:
    prepared, row_ids, target = data.prepared, data.held_out_ids, data.held_out_target
    groups, start = {}, 0
    for column in prepared.columns:
        groups[column.name] = slice(start, start + column.width)
        start += column.width
    few = len(prepared.columns) <= MAX_CELLS
    cells = {name: values[row_ids] for name, values in data.columns.items()} if few else {}
    if classes is not None:
        labels = np.empty(len(row_ids), dtype=object)
        labels[:] = [classes[number] for number in prepared.targets(target)]
        return HeldOut(labels, outputs, data.X_held_out, None, groups, row_ids, cells)

    def predict(X: Array) -> Array:
        return prepared.values(network.predict(X))

    return HeldOut(
        target.astype(np.float64),
        prepared.values(outputs),
        data.X_held_out,
        predict,
        groups,
        row_ids,
        cells,
    )


def _data_facts(data: TrainingData) -> list[tuple[str, object]]:
    prepared, counts, about = data.prepared, data.counts, data.about
    texts = prepared.texts
    n_numbers = len(prepared.columns) - len(texts)
    n_rows, n_held_out = len(data.labelled.rows), len(data.labelled.held_out)
    task = prepared.task
    if prepared.classes:
        task += f" into {len(prepared.classes):,} classes"
    facts: list[tuple[str, object]] = [
        ("Source", isolated(about.source)),
        ("Target", f"{isolated(prepared.target)}: {task}"),
        ("Rows", f"{n_rows + n_held_out:,}: {n_rows:,} for training, {n_held_out:,} held out"),
        ("Columns", f"{len(prepared.columns):,}, encoded as {prepared.n_inputs:,} inputs"),
    ]
    if n_numbers:
        scaling = "standardised" if about.full_scale is None else f"divided by {about.full_scale:g}"
        facts.append(("Numeric columns", f"{n_numbers:,}, {scaling}"))
    if texts:
        facts.append(("Text columns", f"{len(texts):,}, one-hot encoded: {listed(map(isolated, texts))}"))
    for name, found in (("Missing values, filled in", counts.imputed), ("Unseen categories", counts.unseen)):
        if found:
            shown = listed(f"{isolated(column)} {count:,}" for column, count in found.items())
            facts.append((name, f"{sum(found.values()):,} ({shown})"))
    if counts.ignored:
        facts.append(("Unused columns", listed(map(isolated, counts.ignored))))
    return facts


def _option_facts(
    options: Namespace, network: Network, history: History, settings: TrainingSettings
) -> list[tuple[str, object]]:
    epochs = f"{len(history):,}"
    if history.planned and history.planned != len(history):
        epochs += f" of at most {history.planned:,}"
    facts: list[tuple[str, object]] = [
        ("Settings", settings.summary),
        ("Optimizer", repr(settings.optimizer)),
        ("Epochs", epochs),
    ]
    if settings.patience:
        facts.append(
            ("Early stopping", f"after {plural(settings.patience, 'epoch')} without a lower held-out loss")
        )
    return [*facts, ("Seed", network.seed), ("Data type", str(network.dtype))]


def _class_table(data: TrainingData) -> Html:
    """Number of rows of each class."""
    classes, labelled = data.prepared.classes, data.labelled
    numbers = data.prepared.targets(labelled.target)
    trained, tested = (
        np.bincount(numbers[rows], minlength=len(classes)) for rows in (labelled.rows, labelled.held_out)
    )
    share = (trained + tested) / max(1, (trained + tested).sum())
    order = range(min(len(classes), MAX_ROWS))
    rows = [(str(classes[k]), int(trained[k]), int(tested[k]), html.bar(float(share[k]))) for k in order]
    caption = "Rows of each class"
    if len(classes) > MAX_ROWS:
        caption += f" (the first {MAX_ROWS} of {len(classes):,})"
    table = html.table(caption, ["class", "training", "held out", "share"], rows)
    return table if len(classes) <= N_WORST else html.details(f"The {len(classes):,} classes", table)


def _target_table(data: TrainingData) -> Html:
    """Distribution of the target of a regression."""
    rows = []
    for name, chosen in (("training", data.labelled.rows), ("held out", data.labelled.held_out)):
        values = data.labelled.target[chosen].astype(np.float64)
        if len(values):
            marks = [values.min(), *np.percentile(values, [25, 50, 75]), values.max(), values.mean()]
            rows.append((name, *(Digits(figure_text(float(mark))) for mark in marks)))
    headings = ["rows", "min", "25%", "median", "75%", "max", "mean"]
    return html.table(f"Distribution of {isolated(data.prepared.target)}", headings, rows)


def _column_table(data: TrainingData) -> Html:
    """Type and preparation of each column."""
    columns, full_scale = data.prepared.columns, data.about.full_scale
    rows = []
    for column in columns[:MAX_ROWS]:
        if isinstance(column, TextColumn):
            kind, categories = "text", listed(map(isolated, column.categories), 6)
            values = f"{column.width:,} categories: {categories}"
        else:
            kind = "numeric"
            values = f"mean {figure_text(column.mean)}, standard deviation {figure_text(column.scale)}"
            if full_scale is not None:
                values = f"divided by {column.scale:g}"
        rows.append((column.name, kind, values, int(data.counts.imputed.get(column.name, 0))))
    caption = "Columns, as learned from the training rows"
    if len(columns) > MAX_ROWS:
        caption += f" (the first {MAX_ROWS})"
    table = html.table(caption, ["column", "type", "values", "missing"], rows)
    return html.details(f"The {len(columns):,} columns", table)
