"""The report of a training by the command line: its data, its options, and what came out."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Array
from ..data.preparation import Counts, Preparation, TextColumn
from ..data.tables import Table, listed
from ..plotting.style import figure_text
from ..report import html as pages
from ..report.html import Digits, Html
from ..report.page import MOST_ROWS, WORST, HeldOut, Subject, write_report

if TYPE_CHECKING:
    from ..network import Network
    from ..training.history import History


#: Columns that a table of rows shows, if the data have no more.
CELLS = 12


@dataclass(frozen=True)
class Training:
    """What the command `train` knows when it has trained.

    Attributes
    ----------
    about : Table
        Where the rows come from; its columns are not looked at.
    cells : dict of str to array
        The columns of the held-out rows as they were in the file; empty where that is not in memory.
    goal : array (N,)
        The targets of the rows that have one.
    origin : array of int (N,)
        Their numbers in the file.
    rows, held_out : array of int
        Those trained on, and those not.
    prepared : Preparation
    counts : Counts
        What preparing met with.
    X_held_out : array (n, I)
        The inputs of the held-out rows.
    predicted : array or None
        The network's outputs for the held-out rows.
    headline : str
    recipe : str
        The training's settings in a line.
    optimizer : str
        With all its parameters.
    interrupted : bool
    """

    about: Table
    cells: dict[str, Array]
    goal: Array
    origin: Array
    rows: Array
    held_out: Array
    prepared: Preparation
    counts: Counts
    X_held_out: Array
    predicted: Array | None
    headline: str
    recipe: str
    optimizer: str
    interrupted: bool


def write_training_report(
    path: str, options: Namespace, network: Network, history: History, made: Training
) -> None:
    """Write the report of a training by the command line; see `write_report`.

    Parameters
    ----------
    path : str
    options : Namespace
        Of the command line.
    network : Network
    history : History
    made : Training
    """
    prepared = made.prepared
    classes = prepared.classes if prepared.task == "classification" else None
    subject = Subject(
        title=f"{pages.apart(prepared.target)} of {pages.apart(_source(options, made.about))}",
        headline=made.headline and f"{made.headline[0].upper()}{made.headline[1:]}.",
        target=prepared.target,
        data=_data(made),
        options=_options(options, network, history, made),
        extra=[_balance(made) if classes is not None else _spread(made), *_columns(made)],
        command=getattr(options, "command", ""),
        warning=_warning(history) if made.interrupted else "",
    )
    held_out = None if made.predicted is None else _held_out(network, made, made.predicted, classes)
    write_report(
        path, network, history, held_out, classes=classes, subject=subject, trained_rows=len(made.rows)
    )


def _source(options: Namespace, about: Table) -> str:
    """The data by name, without the folder."""
    return os.path.basename(options.file) if options.file else about.source


def _warning(history: History) -> str:
    after = f"its state after epoch {len(history)}" if len(history) else "part of its first epoch"
    return f"The training was interrupted; the network has {after}."


def _held_out(network: Network, made: Training, outputs: Array, classes: Sequence[Any] | None) -> HeldOut:
    prepared, places = made.prepared, made.held_out
    groups, place = {}, 0
    for column in prepared.columns:
        groups[column.name] = slice(place, place + column.width)
        place += column.width
    few = len(prepared.columns) <= CELLS
    cells = made.cells if few else {}
    if classes is not None:
        truths = np.empty(len(places), dtype=object)
        truths[:] = [classes[number] for number in prepared.targets(made.goal[places])]
        return HeldOut(truths, outputs, made.X_held_out, None, groups, made.origin[places], cells)

    def predict(X: Array) -> Array:
        return prepared.values(network.predict(X))

    goal = made.goal[places].astype(np.float64)
    return HeldOut(
        goal, prepared.values(outputs), made.X_held_out, predict, groups, made.origin[places], cells
    )


def _data(made: Training) -> list[tuple[str, object]]:
    prepared, counts = made.prepared, made.counts
    texts = prepared.texts
    numbers = len(prepared.columns) - len(texts)
    total = len(made.rows) + len(made.held_out)
    how = "standardised" if made.about.full_scale is None else f"divided by {made.about.full_scale:g}"
    task = prepared.task
    if prepared.classes:
        task += f" into {len(prepared.classes):,} classes"
    pairs: list[tuple[str, object]] = [
        ("Source", pages.apart(made.about.source)),
        ("Target", f"{pages.apart(prepared.target)}: {task}"),
        ("Rows", f"{total:,}: {len(made.rows):,} to train on, {len(made.held_out):,} held out"),
        ("Columns", f"{len(prepared.columns):,}, which make {prepared.n_inputs:,} inputs"),
    ]
    if numbers:
        pairs.append(("Numbers", f"{numbers:,} {how}"))
    if texts:
        pairs.append(("Texts", f"{len(texts):,} one-hot: {listed(map(pages.apart, texts))}"))
    for name, found in (("Missing, filled in", counts.imputed), ("Unseen texts", counts.unseen)):
        if found:
            shown = listed(f"{pages.apart(column)} {count:,}" for column, count in found.items())
            pairs.append((name, f"{sum(found.values()):,} ({shown})"))
    if counts.ignored:
        pairs.append(("Not used", listed(map(pages.apart, counts.ignored))))
    return pairs


def _options(
    options: Namespace, network: Network, history: History, made: Training
) -> list[tuple[str, object]]:
    done = f"{len(history):,}"
    if history.planned and history.planned != len(history):
        done += f" of at most {history.planned:,}"
    pairs: list[tuple[str, object]] = [
        ("Settings", made.recipe),
        ("Optimizer", made.optimizer),
        ("Epochs", done),
    ]
    if getattr(options, "patience", None):
        pairs.append(("Early stopping", f"after {options.patience} epochs without a better held-out loss"))
    return [*pairs, ("Seed", network.seed), ("Precision", str(network.dtype))]


def _balance(made: Training) -> Html:
    """How many rows each class has."""
    classes = made.prepared.classes
    numbers = made.prepared.targets(made.goal)
    trained, tested = (
        np.bincount(numbers[some], minlength=len(classes)) for some in (made.rows, made.held_out)
    )
    share = (trained + tested) / max(1, (trained + tested).sum())
    order = range(min(len(classes), MOST_ROWS))
    rows = [(str(classes[k]), int(trained[k]), int(tested[k]), pages.bar(float(share[k]))) for k in order]
    caption = "Rows of each class"
    if len(classes) > MOST_ROWS:
        caption += f" (the first {MOST_ROWS} of {len(classes):,})"
    made_table = pages.table(caption, ["class", "trained on", "held out", "share"], rows)
    return made_table if len(classes) <= WORST else pages.details(f"The {len(classes):,} classes", made_table)


def _spread(made: Training) -> Html:
    """Where the numbers to predict lie."""
    rows = []
    for name, some in (("trained on", made.rows), ("held out", made.held_out)):
        values = made.goal[some].astype(np.float64)
        if len(values):
            marks = [values.min(), *np.percentile(values, [25, 50, 75]), values.max(), values.mean()]
            rows.append((name, *(Digits(figure_text(float(mark))) for mark in marks)))
    headings = ["rows", "least", "25%", "median", "75%", "most", "mean"]
    return pages.table(f"Where {pages.apart(made.prepared.target)} lies", headings, rows)


def _columns(made: Training) -> list[Html]:
    """What each column is taken for."""
    rows = []
    for column in made.prepared.columns[:MOST_ROWS]:
        if isinstance(column, TextColumn):
            what, how = (
                "text",
                f"{column.width:,} categories: {listed(map(pages.apart, column.categories), 6)}",
            )
        else:
            what = "number"
            how = f"mean {figure_text(column.mean)}, deviation {figure_text(column.scale)}"
            if made.about.full_scale is not None:
                how = f"divided by {column.scale:g}"
        rows.append((column.name, what, how, int(made.counts.imputed.get(column.name, 0))))
    caption = "Columns, as learnt from the rows trained on"
    if len(made.prepared.columns) > MOST_ROWS:
        caption += f" (the first {MOST_ROWS})"
    table = pages.table(caption, ["column", "taken as", "values", "filled in"], rows)
    return [pages.details(f"The {len(made.prepared.columns):,} columns", table)]
