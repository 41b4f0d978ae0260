"""A page to show of a training: what was learnt, from what, how well, and how to do it again."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import evaluation, plotting
from .._state import state_of
from .._summary import layer_rows
from ..arrays import Array
from ..info import __version__, info
from ..network import Network
from ..plotting.style import figure_text
from ..storage.atomic import write_atomically
from ..training.history import History
from . import html as pages
from .html import Digits, Html, facts, paragraph, section

#: Classes whose confusion is drawn, and rows that a table lists.
MOST_CLASSES, MOST_ROWS, WORST = 50, 200, 10
#: Columns whose importance is measured, repeats, and multiplications that it may take.
MOST_COLUMNS, REPEATS, BUDGET = 100, 5, 10_000_000_000
#: Rows below which the importance says little.
FEWEST_ROWS = 200


@dataclass(frozen=True)
class HeldOut:
    """Rows that a network was not trained on.

    Attributes
    ----------
    y : array (N,)
        What is true: labels, or numbers.
    predicted : array
        Probabilities (N, C), or (N, 1) of the second of two classes; or numbers (N,) or (N, 1).
    X : array (N, I), optional
        The inputs: with them the importance of the columns is measured.
    predict : callable, optional
        From inputs like X to what `predicted` holds; by default the network's `predict`.
    columns : dict of str to slice
        The columns of X that belong together, by name; by default each by its number.
    rows : array of int (N,), optional
        The numbers to call the rows by.
    cells : dict of str to array (N,)
        What else to show of the worst rows.
    """

    y: Array
    predicted: Array
    X: Array | None = None
    predict: Callable[[Array], Array] | None = None
    columns: Mapping[str, slice] = field(default_factory=dict)
    rows: Array | None = None
    cells: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """What the page says besides what it measures.

    Attributes
    ----------
    title : str
    headline : str
        The result in a sentence, with how it was measured.
    target : str
        What is predicted.
    data, options : sequence of (str, str)
        Of the data, and of the training: what is what.
    extra : sequence of Html
        Tables below those of the data.
    command : str
        What to type to do it again.
    warning : str
        What must be known before all else.
    """

    title: str = "A trained network"
    headline: str = ""
    target: str = ""
    data: Sequence[tuple[str, object]] = ()
    options: Sequence[tuple[str, object]] = ()
    extra: Sequence[Html] = ()
    command: str = ""
    warning: str = ""


def write_report(
    path: str | os.PathLike[str],
    network: Network,
    history: History | None = None,
    held_out: HeldOut | None = None,
    *,
    classes: Sequence[Any] | None = None,
    subject: Subject | None = None,
    trained_rows: int | None = None,
) -> None:
    """Write one HTML page about a trained network: no script, nothing fetched, pictures within.

    Parameters
    ----------
    path : path
        Where to; a file there is replaced once the page is complete.
    network : Network
    history : History, optional
        What `Network.fit` returned: curves and speed.
    held_out : HeldOut, optional
        Rows to measure the network by; without them the page says that nothing was measured.
    classes : sequence, optional
        The labels in the order of the network's outputs, for a classification; without them the
        predictions are numbers.
    subject : Subject, optional
        Title, data and options to name.
    trained_rows : int, optional
        Rows that were trained on, for the samples per second.

    Raises
    ------
    ModuleNotFoundError
        If matplotlib is missing.
    ValueError
        If the predictions do not fit the truths, or are several numbers a row.
    """
    require_pictures()
    subject = subject or Subject()
    content = [
        _head(network, history, held_out, classes, subject),
        section("Data", facts(subject.data), *subject.extra) if subject.data else "",
        _network(network),
        _training(history, subject),
    ]
    if held_out is not None and len(held_out.y):
        content += _classes(held_out, classes) if classes is not None else _numbers(held_out, subject)
        content.append(_importance(network, held_out, classes))
    content.append(_versions(history, trained_rows))
    page = pages.page(subject.title, *content)
    write_atomically(path, page.encode("utf-8"))


def require_pictures() -> None:
    """Check that matplotlib is here.

    Raises
    ------
    ModuleNotFoundError
        If it is missing.
    """
    plotting.new_figure(1.0, 1.0)


def _head(
    network: Network,
    history: History | None,
    held_out: HeldOut | None,
    classes: Sequence[Any] | None,
    subject: Subject,
) -> Html:
    date = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    measured = held_out is not None and len(held_out.y) > 0
    items = _headline(held_out, classes) if held_out is not None and measured else []
    items.append(("Parameters", f"{network.n_parameters:,}", f"{network.n_inputs:,} inputs"))
    if history is not None and len(history):
        note = f"{len(history):,} {'epoch' if len(history) == 1 else 'epochs'}"
        items.append(("Time to train", _duration(sum(history.seconds)), note))
    lead = subject.headline
    if not measured:
        lead = "No rows were held out, so how good this network is on data it has not seen was not measured."
    return Html(
        f"<header>\n<h1>{pages.plain(subject.title)}</h1>\n"
        f"{paragraph(f'bpfast {__version__}, {date}', 'soft')}"
        f"{paragraph(subject.warning, 'warn') if subject.warning else ''}"
        f"{paragraph(lead, 'lead') if lead else ''}{pages.tiles(items)}</header>\n"
    )


def _headline(held_out: HeldOut, classes: Sequence[Any] | None) -> list[tuple[str, str, str]]:
    n = f"of {len(held_out.y):,} rows not trained on"
    if classes is None:
        scores = evaluation.regression_scores(held_out.y, held_out.predicted)
        error = figure_text(scores.mean_absolute_error)
        root = figure_text(scores.root_mean_squared_error)
        return [("R²", f"{scores.r2:.4f}", n), ("Mean absolute error", error, f"root mean square {root}")]
    true, guessed = _class_numbers(held_out, classes)
    commonest = np.bincount(true, minlength=len(classes)).max() / len(true)
    return [
        ("Accuracy", f"{np.mean(true == guessed):.4f}", n),
        ("Commonest class", f"{commonest:.4f}", "accuracy of always guessing it"),
    ]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _network(network: Network) -> Html:
    state = state_of(network)
    rows = [
        (f"{'· ' * ((len(label) - len(label.lstrip())) // 2)}{label.strip()}", int(width), words, size)
        for index, layer in enumerate(network.layers)
        for label, width, words, size in layer_rows(state, layer, str(index), 0)
    ]
    kibibytes = network.n_parameters * network.dtype.itemsize / 1024
    text = (
        f"{network.n_inputs:,} inputs, {network.n_parameters:,} parameters ({kibibytes:,.1f} KiB as "
        f"{network.dtype}); the loss is {network.loss_spec.name}."
    )
    cells = [(label, width, words, int(size.replace(",", ""))) for label, width, words, size in rows]
    made = pages.table("Layers, from input to output", ["layer", "outputs", "kind", "parameters"], cells)
    return section("Network", paragraph(text), made)


def _training(history: History | None, subject: Subject) -> Html:
    content: list[str] = []
    if subject.options:
        content.append(facts(subject.options))
    if subject.command:
        content += [
            paragraph(
                "To train it again to the same bits, with the same data and version:"
                if history is not None and len(history) == history.planned
                else "It was trained by:"
            ),
            Html(f"<pre><code>{pages.plain(subject.command)}</code></pre>\n"),
        ]
    if history is not None and len(history):
        last = ", ".join(
            f"{name.replace('_', ' ')} {values[-1]:.4g}"
            for name, values in history.columns.items()
            if values and name not in ("seconds", "learning_rate")
        )
        alt = f"Curves over {len(history)} epochs; last: {last}"
        content.append(pages.picture(plotting.plot_history(history), alt, f"Last epoch: {last}."))
        if history.restored is not None:
            content.append(
                paragraph(
                    f"The weights are those of epoch {history.restored + 1}, the best of {len(history)} by "
                    "the figure that early stopping watched (dotted line)."
                )
            )
    else:
        content.append(paragraph("No epoch was completed, so there are no curves."))
    return section("Training", *content)


def _class_numbers(held_out: HeldOut, classes: Sequence[Any]) -> tuple[Array, Array]:
    guessed = evaluation.labels_of(held_out.predicted, classes)
    return (
        evaluation.class_numbers(held_out.y, classes),
        evaluation.class_numbers(guessed, classes, "predicted"),
    )


def _classes(held_out: HeldOut, classes: Sequence[Any]) -> list[Html]:
    true, guessed = _class_numbers(held_out, classes)
    counts = evaluation.confusion_matrix(true, guessed, len(classes))
    taken: list[Html] = []
    if len(classes) <= MOST_CLASSES:
        right = f"{np.trace(counts):,} of {counts.sum():,} rows on its diagonal, where they are right"
        alt = f"Confusion matrix of {len(classes)} classes, {right}; its figures are in the tables below"
        taken.append(pages.picture(plotting.plot_confusion(held_out.y, held_out.predicted, classes), alt))
    else:
        taken.append(paragraph(f"A matrix of {len(classes):,} classes is too large to draw."))
    pairs = _pairs(counts, classes)
    if pairs and len(classes) > 2:
        taken.append(
            pages.table("Classes most often taken for another", ["true", "predicted", "rows", "share"], pairs)
        )
    binary = len(classes) == 2
    of = classes[1] if binary else None
    came_true, stated = evaluation.stated_probabilities(held_out.y, held_out.predicted, classes, of)
    found = evaluation.calibration(came_true, stated)
    alt = (
        f"Reliability curve with {len(found.counts)} points; the expected calibration error is "
        f"{found.error:.4f}"
    )
    meaning = (
        "A calibrated network is right in 80% of the rows of which it says 80%: its curve follows the "
        "dashed line. The expected calibration error is the mean distance from it, by rows (Guo et al. 2017)."
    )
    curve = plotting.plot_calibration(held_out.y, held_out.predicted, classes, of)
    return [
        section("Confusion", *taken),
        section("Classes", _scores(counts, classes)),
        section("Calibration", paragraph(meaning), pages.picture(curve, alt)),
        *_mistakes(held_out, classes, true, guessed),
    ]


def _pairs(counts: Array, classes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """What was taken for what, the most frequent first."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:WORST]
    places = [divmod(int(index), len(classes)) for index in order if wrong.flat[index]]
    return [
        (str(classes[i]), str(classes[j]), int(wrong[i, j]), pages.bar(wrong[i, j] / counts[i].sum()))
        for i, j in places
    ]


def _scores(counts: Array, classes: Sequence[Any]) -> Html:
    scores = evaluation.class_scores(counts)
    shown = range(min(len(classes), MOST_ROWS))
    rows = [
        (
            str(classes[k]),
            Digits(f"{scores.precision[k]:.4f}"),
            Digits(f"{scores.recall[k]:.4f}"),
            Digits(f"{scores.f1[k]:.4f}"),
            int(scores.support[k]),
        )
        for k in shown
    ]
    caption = (
        "Precision: the share of the rows predicted so that is; recall: the share of the class that was found"
    )
    if len(classes) > MOST_ROWS:
        caption += f" (the first {MOST_ROWS} of {len(classes):,} classes)"
    return pages.table(caption, ["class", "precision", "recall", "F1", "rows held out"], rows)


def _mistakes(held_out: HeldOut, classes: Sequence[Any], true: Array, guessed: Array) -> list[Html]:
    """The rows that it was surest of, and wrong."""
    P = np.asarray(held_out.predicted, dtype=np.float64)
    sure = np.maximum(P[:, 0], 1 - P[:, 0]) if P.shape[1] == 1 else P.max(axis=1)
    wrong = np.flatnonzero(true != guessed)
    if not len(wrong):
        return [section("Mistakes", paragraph("None: every held-out row was predicted right."))]
    worst = wrong[np.argsort(-sure[wrong], kind="stable")][:WORST]
    cells = [(str(classes[true[i]]), str(classes[guessed[i]]), Digits(f"{sure[i]:.4f}")) for i in worst]
    made = _rows(
        "The surest of the wrong predictions; rows are numbered from 0",
        held_out,
        worst,
        ["true", "predicted", "stated"],
        cells,
    )
    return [section("Mistakes", made)]


def _rows(
    caption: str, held_out: HeldOut, places: Array, names: list[str], cells: Sequence[Sequence[Any]]
) -> Html:
    """Some of the held-out rows, with what else is known of them."""
    numbers = held_out.rows if held_out.rows is not None else np.arange(len(held_out.y))
    headings = ["row", *names, *held_out.cells]
    others = [[_cell(values[i]) for values in held_out.cells.values()] for i in places]
    rows = [(str(numbers[i]), *own, *more) for i, own, more in zip(places, cells, others, strict=True)]
    return pages.table(caption, headings, rows)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, (float, np.floating)) and np.isnan(value)):
        return "(missing)"
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        return Digits(f"{float(value):.6g}" if float(value) % 1 else f"{float(value):.15g}")
    text = str(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _numbers(held_out: HeldOut, subject: Subject) -> list[Html]:
    scores = evaluation.regression_scores(held_out.y, held_out.predicted)
    y, errors = evaluation.residuals(held_out.y, held_out.predicted)
    alt = (
        f"Predicted against true values with R² {scores.r2:.4f}, and a histogram of the errors, whose "
        f"median is {figure_text(float(np.median(errors)))}"
    )
    drawn = plotting.plot_predictions(held_out.y, held_out.predicted, name=subject.target)
    quantiles = [5, 25, 50, 75, 95]
    spread = [
        (name, *(Digits(figure_text(float(value))) for value in np.percentile(values, quantiles)))
        for name, values in (("true", y), ("predicted", y + errors), ("predicted − true", errors))
    ]
    worst = np.argsort(-np.abs(errors), kind="stable")[:WORST]
    cells = [[Digits(figure_text(value)) for value in (y[i], y[i] + errors[i], errors[i])] for i in worst]
    names = ["true", "predicted", "error"]
    return [
        section(
            "Predictions",
            pages.picture(drawn, alt),
            pages.table("Percentiles of the held-out rows", ["", *(f"{q}%" for q in quantiles)], spread),
        ),
        section(
            "Largest errors",
            _rows("Rows with the largest errors, numbered from 0", held_out, worst, names, cells),
        ),
    ]


def _importance(network: Network, held_out: HeldOut, classes: Sequence[Any] | None) -> Html | str:
    if held_out.X is None:
        return ""
    X = held_out.X
    groups = held_out.columns or {str(k): slice(k, k + 1) for k in range(X.shape[1])}
    cost = network.n_parameters * (REPEATS * len(groups) + 1)
    most = min(len(X), BUDGET // cost)
    if len(groups) > MOST_COLUMNS or most < min(len(X), FEWEST_ROWS):
        why = f"not measured: {len(groups):,} columns and {network.n_parameters:,} parameters are too many"
        return section("Importance of the columns", paragraph(f"It was {why}."))
    some = np.linspace(0, len(X) - 1, most).astype(np.int64)
    predict, y = held_out.predict or network.predict, np.asarray(held_out.y)[some]
    if classes is None:
        unit = "R²"

        def score(rows: Array) -> float:
            return evaluation.regression_scores(y, predict(rows)).r2
    else:
        unit, true = "accuracy", evaluation.class_numbers(y, classes)

        def score(rows: Array) -> float:
            guessed = evaluation.labels_of(predict(rows), classes)
            return float(np.mean(evaluation.class_numbers(guessed, classes, "predicted") == true))

    found = evaluation.permutation_importance(score, X[some], groups, REPEATS)
    best = sorted(found.items(), key=lambda item: -item[1][0])
    first = ", ".join(f"{name} {mean:.4f}" for name, (mean, _) in best[:3])
    text = (
        f"How much {unit} is lost on {most:,} held-out rows when a column's values are shuffled among them: "
        f"the mean of {REPEATS} shuffles, and their deviation (Breiman 2001). Columns that tell the same "
        "share what they are worth; what is lost says nothing of cause and effect."
    )
    rows = [(name, Digits(f"{mean:.4f}"), Digits(f"{deviation:.4f}")) for name, (mean, deviation) in best]
    return section(
        "Importance of the columns",
        paragraph(text),
        pages.picture(
            plotting.plot_importance(found, unit=unit), f"Bars of the columns' importance; first: {first}"
        ),
        pages.details(
            f"All {len(rows)} columns",
            pages.table(f"Loss of {unit}, in falling order", ["column", "mean", "deviation"], rows),
        ),
    )


def _versions(history: History | None, rows: int | None) -> Html:
    pairs: list[tuple[str, object]] = []
    if history is not None and len(history):
        seconds = max(sum(history.seconds), 1e-9)
        pairs.append(("Time", f"{_duration(seconds)} for {len(history):,} epochs, training alone"))
        if rows:
            pairs.append(("Speed", f"{rows * len(history) / seconds:,.0f} samples per second"))
    for name, value in info().items():
        if isinstance(value, (list, tuple)):
            value = ", ".join(map(str, value))
        shown = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
        pairs.append((_NAMES.get(name, name), shown))
    return section("Speed and versions", facts(pairs))


_NAMES = {
    "version": "bpfast",
    "backend": "Backend",
    "isa": "Instruction set",
    "isas": "Instruction sets here",
    "openmp": "OpenMP",
    "threads": "Threads",
    "compiler": "Compiler",
    "python": "Python",
    "numpy": "NumPy",
    "machine": "Machine",
}
