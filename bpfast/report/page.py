"""The report of a training run: data, network, training curves, and results on held-out rows."""

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
from ..data.tables import plural
from ..info import __version__, info
from ..network import Network, require_network
from ..plotting.style import figure_text
from ..storage.atomic import write_atomically
from ..training.history import History
from . import html
from .html import Digits, Html, details, facts, paragraph, picture, section, table

#: Limits: classes in a confusion matrix, rows of a long table, rows of a table of the worst.
MAX_CLASSES, MAX_ROWS, N_WORST = 50, 200, 10
#: Feature importance: maximum number of columns, number of shuffles, maximum number of multiplications.
MAX_COLUMNS, REPEATS, BUDGET = 100, 5, 10_000_000_000
#: Feature importance is not measured on fewer rows, unless there are no more.
MIN_ROWS = 200


@dataclass(frozen=True)
class HeldOut:
    """Rows that a network was not trained on.

    Attributes
    ----------
    y : array (N,)
        True labels or numbers.
    predicted : array
        Probabilities of shape (N, C), or (N, 1) for the second of two classes; or numbers of shape (N,)
        or (N, 1).
    X : array (N, I), optional
        Inputs. If given, the importance of the columns is measured.
    predict : callable, optional
        Function from inputs such as X to predictions such as `predicted`; `Network.predict` by default.
    columns : dict of str to slice, optional
        Columns of X that belong together, by name; each column on its own by default.
    rows : array of int (N,), optional
        Row numbers to show; 0 to N − 1 by default.
    cells : dict of str to array (N,), optional
        Further columns to show for the worst rows.
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
    """Descriptions for a report, all optional.

    Attributes
    ----------
    title : str
        Title of the page.
    headline : str
        The result in one sentence, including how it was measured.
    target : str
        Name of the target.
    data, options : sequence of (str, object)
        Names and values that describe the data and the training.
    extra : sequence of Html
        Tables to show in the section on the data.
    command : str
        Command line that reproduces the training.
    warning : str
        Warning to show at the top of the page.
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
    """Write a self-contained HTML report about a trained network.

    The page contains no scripts, loads nothing, and embeds its images.

    Parameters
    ----------
    path : path
        HTML file to write. An existing file is replaced once the page is complete.
    network : Network
    history : History, optional
        Result of `Network.fit`, for the training curves and the speed.
    held_out : HeldOut, optional
        Rows on which to evaluate the network. Without them the report says that it was not evaluated.
    classes : sequence, optional
        Labels in the order of the network's outputs, for a classification; omit for a regression.
    subject : Subject, optional
        Title and descriptions of the data and the training.
    trained_rows : int, optional
        Number of training rows, for the samples per second.

    Raises
    ------
    ModuleNotFoundError
        If matplotlib is not installed.
    ValueError
        If the predictions do not match the targets, or there are several numbers per row.
    """
    require_network("write_report", network)
    require_pictures()
    subject = subject or Subject()
    content = [
        _head(network, history, held_out, classes, subject),
        section("Data", facts(subject.data), *subject.extra) if subject.data else "",
        _network(network),
        _training(history, subject),
    ]
    if held_out is not None and len(held_out.y):
        content += (
            _classification(held_out, classes) if classes is not None else _regression(held_out, subject)
        )
        content.append(_importance(network, held_out, classes))
    content.append(_versions(history, trained_rows))
    write_atomically(path, html.page(subject.title, *content).encode("utf-8"))


def require_pictures() -> None:
    """Check that matplotlib is installed.

    Raises
    ------
    ModuleNotFoundError
        If it is not.
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
    items = _scores(held_out, classes) if held_out is not None and measured else []
    items.append(("Parameters", f"{network.n_parameters:,}", f"{network.n_inputs:,} inputs"))
    if history is not None and len(history):
        note = plural(len(history), "epoch")
        items.append(("Training time", _duration(sum(history.seconds)), note))
    lead = subject.headline
    if not measured:
        lead = "No rows were held out, so the network was not evaluated on unseen data."
    return Html(
        f"<header>\n<h1>{html.plain(subject.title)}</h1>\n"
        f"{paragraph(f'bpfast {__version__}, {date}', 'soft')}"
        f"{paragraph(subject.warning, 'warn') if subject.warning else ''}"
        f"{paragraph(lead, 'lead') if lead else ''}{html.tiles(items)}</header>\n"
    )


def _scores(held_out: HeldOut, classes: Sequence[Any] | None) -> list[tuple[str, str, str]]:
    n = f"on {len(held_out.y):,} held-out rows"
    if classes is None:
        scores = evaluation.regression_scores(held_out.y, held_out.predicted)
        error = figure_text(scores.mean_absolute_error)
        root = figure_text(scores.root_mean_squared_error)
        return [
            ("R²", f"{scores.r2:.4f}", n),
            ("Mean absolute error", error, f"root mean squared error {root}"),
        ]
    true, predicted = _class_numbers(held_out, classes)
    baseline = np.bincount(true, minlength=len(classes)).max() / len(true)
    return [
        ("Accuracy", f"{evaluation.accuracy(true, predicted):.4f}", n),
        ("Baseline", f"{baseline:.4f}", "accuracy of always predicting the most frequent class"),
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
        (f"{'· ' * ((len(label) - len(label.lstrip())) // 2)}{label.strip()}", int(width), kind, size)
        for index, layer in enumerate(network.layers)
        for label, width, kind, size in layer_rows(state, layer, str(index), 0)
    ]
    kibibytes = network.n_parameters * network.dtype.itemsize / 1024
    text = (
        f"{network.n_inputs:,} inputs, {network.n_parameters:,} parameters ({kibibytes:,.1f} KiB as "
        f"{network.dtype}); loss: {network.loss_spec.name}."
    )
    cells = [(label, width, kind, int(size.replace(",", ""))) for label, width, kind, size in rows]
    layers = table("Layers, from input to output", ["layer", "outputs", "kind", "parameters"], cells)
    return section("Network", paragraph(text), layers)


def _training(history: History | None, subject: Subject) -> Html:
    content: list[str] = []
    if subject.options:
        content.append(facts(subject.options))
    if subject.command:
        content += [
            paragraph(
                "This command reproduces the weights bit for bit, given the same data and version:"
                if history is not None and len(history) == history.planned
                else "It was trained with:"
            ),
            Html(f"<pre><code>{html.plain(subject.command)}</code></pre>\n"),
        ]
    if history is not None and len(history):
        last = ", ".join(
            f"{name.replace('_', ' ')} {values[-1]:.4g}"
            for name, values in history.columns.items()
            if values and name not in ("seconds", "learning_rate")
        )
        alt = f"Curves over {plural(len(history), 'epoch')}; last: {last}"
        content.append(picture(plotting.plot_history(history), alt, f"Last epoch: {last}."))
        if history.restored is not None:
            content.append(
                paragraph(
                    f"Early stopping restored the weights of epoch {history.restored + 1} (dotted line), the "
                    f"best of {len(history)}."
                )
            )
    else:
        content.append(paragraph("No epoch was completed, so there are no training curves."))
    return section("Training", *content)


def _class_numbers(held_out: HeldOut, classes: Sequence[Any]) -> tuple[Array, Array]:
    labels = evaluation.labels_of(held_out.predicted, classes)
    return (
        evaluation.class_numbers(held_out.y, classes),
        evaluation.class_numbers(labels, classes, "predicted"),
    )


def _classification(held_out: HeldOut, classes: Sequence[Any]) -> list[Html]:
    true, predicted = _class_numbers(held_out, classes)
    counts = evaluation.confusion_matrix(true, predicted, len(classes))
    return [
        _confusion(held_out, classes, counts),
        section("Classes", _class_scores(counts, classes)),
        _calibration(held_out, classes),
        _mistakes(held_out, classes, true, predicted),
    ]


def _confusion(held_out: HeldOut, classes: Sequence[Any], counts: Array) -> Html:
    content: list[Html] = []
    if len(classes) <= MAX_CLASSES:
        alt = (
            f"Confusion matrix of {len(classes)} classes; {np.trace(counts):,} of {counts.sum():,} rows are "
            "on the diagonal (correct); the numbers are in the tables below"
        )
        content.append(picture(plotting.plot_confusion(held_out.y, held_out.predicted, classes), alt))
    else:
        content.append(paragraph(f"A confusion matrix of {len(classes):,} classes is too large to draw."))
    pairs = _confused_pairs(counts, classes)
    if pairs and len(classes) > 2:
        content.append(table("Most frequent confusions", ["true", "predicted", "rows", "share"], pairs))
    return section("Confusion", *content)


def _confused_pairs(counts: Array, classes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Pairs of true and predicted class, the most frequent first."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:N_WORST]
    pairs = [divmod(int(index), len(classes)) for index in order if wrong.flat[index]]
    return [
        (str(classes[i]), str(classes[j]), int(wrong[i, j]), html.bar(wrong[i, j] / counts[i].sum()))
        for i, j in pairs
    ]


def _calibration(held_out: HeldOut, classes: Sequence[Any]) -> Html:
    of = classes[1] if len(classes) == 2 else None
    came_true, stated = evaluation.stated_probabilities(held_out.y, held_out.predicted, classes, of)
    found = evaluation.calibration(came_true, stated)
    alt = (
        f"Reliability diagram with {len(found.counts)} points; the expected calibration error is "
        f"{found.error:.4f}"
    )
    meaning = (
        "Of the rows for which a calibrated network predicts a probability of 80%, 80% are correct: its "
        "curve follows the dashed line. The expected calibration error is the mean distance from that line, "
        "weighted by the number of rows (Guo et al. 2017)."
    )
    curve = plotting.plot_calibration(held_out.y, held_out.predicted, classes, of)
    return section("Calibration", paragraph(meaning), picture(curve, alt))


def _class_scores(counts: Array, classes: Sequence[Any]) -> Html:
    scores = evaluation.class_scores(counts)
    shown = range(min(len(classes), MAX_ROWS))
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
        "Precision: share of the rows predicted as the class that belong to it; recall: share of the rows of "
        "the class that were predicted as it"
    )
    if len(classes) > MAX_ROWS:
        caption += f" (the first {MAX_ROWS} of {len(classes):,} classes)"
    return table(caption, ["class", "precision", "recall", "F1", "held-out rows"], rows)


def _mistakes(held_out: HeldOut, classes: Sequence[Any], true: Array, predicted: Array) -> Html:
    """The wrong predictions with the highest probability."""
    P = np.asarray(held_out.predicted, dtype=np.float64)
    confidence = np.maximum(P[:, 0], 1 - P[:, 0]) if P.shape[1] == 1 else P.max(axis=1)
    wrong = np.flatnonzero(true != predicted)
    if not len(wrong):
        return section("Mistakes", paragraph("None: all held-out rows were predicted correctly."))
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:N_WORST]
    cells = [
        (str(classes[true[i]]), str(classes[predicted[i]]), Digits(f"{confidence[i]:.4f}")) for i in worst
    ]
    names = ["true", "predicted", "probability"]
    rows = _rows("Most confident wrong predictions (rows are numbered from 0)", held_out, worst, names, cells)
    return section("Mistakes", rows)


def _rows(
    caption: str, held_out: HeldOut, indices: Array, names: list[str], cells: Sequence[Sequence[Any]]
) -> Html:
    """Table of some held-out rows, with the further columns to show for them."""
    numbers = held_out.rows if held_out.rows is not None else np.arange(len(held_out.y))
    headings = ["row", *names, *held_out.cells]
    others = [[_cell(values[i]) for values in held_out.cells.values()] for i in indices]
    rows = [(str(numbers[i]), *own, *more) for i, own, more in zip(indices, cells, others, strict=True)]
    return table(caption, headings, rows)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, (float, np.floating)) and np.isnan(value)):
        return "(missing)"
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        return Digits(f"{float(value):.6g}" if float(value) % 1 else f"{float(value):.15g}")
    text = str(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _regression(held_out: HeldOut, subject: Subject) -> list[Html]:
    scores = evaluation.regression_scores(held_out.y, held_out.predicted)
    y, errors = evaluation.residuals(held_out.y, held_out.predicted)
    alt = (
        f"Predicted against true values with R² {scores.r2:.4f}, and a histogram of the errors; the median "
        f"error is {figure_text(float(np.median(errors)))}"
    )
    drawn = plotting.plot_predictions(held_out.y, held_out.predicted, name=subject.target)
    quantiles = [5, 25, 50, 75, 95]
    spread = [
        (name, *(Digits(figure_text(float(value))) for value in np.percentile(values, quantiles)))
        for name, values in (("true", y), ("predicted", y + errors), ("predicted − true", errors))
    ]
    worst = np.argsort(-np.abs(errors), kind="stable")[:N_WORST]
    cells = [[Digits(figure_text(value)) for value in (y[i], y[i] + errors[i], errors[i])] for i in worst]
    names = ["true", "predicted", "error"]
    return [
        section(
            "Predictions",
            picture(drawn, alt),
            table("Percentiles of the held-out rows", ["", *(f"{q}%" for q in quantiles)], spread),
        ),
        section(
            "Largest errors",
            _rows("Largest errors (rows are numbered from 0)", held_out, worst, names, cells),
        ),
    ]


def _importance(network: Network, held_out: HeldOut, classes: Sequence[Any] | None) -> Html | str:
    if held_out.X is None:
        return ""
    X = held_out.X
    groups = held_out.columns or {str(k): slice(k, k + 1) for k in range(X.shape[1])}
    cost = network.n_parameters * (REPEATS * len(groups) + 1)
    n_rows = min(len(X), BUDGET // cost)
    if len(groups) > MAX_COLUMNS or n_rows < min(len(X), MIN_ROWS):
        text = f"Not measured: too many columns ({len(groups):,}) or parameters ({network.n_parameters:,})."
        return section("Feature importance", paragraph(text))
    chosen = np.linspace(0, len(X) - 1, n_rows).astype(np.int64)
    unit, score = _score(network, held_out, classes, chosen)
    found = evaluation.permutation_importance(score, X[chosen], groups, REPEATS)
    best = sorted(found.items(), key=lambda item: -item[1][0])
    first = ", ".join(f"{name} {mean:.4f}" for name, (mean, _) in best[:3])
    text = (
        f"Decrease of the {unit} on {n_rows:,} held-out rows when the values of a column are shuffled among "
        f"them: mean and standard deviation of {REPEATS} shuffles (Breiman 2001). Columns with the same "
        "information share its importance; a decrease does not imply cause and effect."
    )
    rows = [(name, Digits(f"{mean:.4f}"), Digits(f"{deviation:.4f}")) for name, (mean, deviation) in best]
    return section(
        "Feature importance",
        paragraph(text),
        picture(plotting.plot_importance(found, unit=unit), f"Bar chart of the importance; first: {first}"),
        details(
            f"All {len(rows)} columns",
            table(f"Decrease of the {unit}, in descending order", ["column", "mean", "deviation"], rows),
        ),
    )


def _score(
    network: Network, held_out: HeldOut, classes: Sequence[Any] | None, chosen: Array
) -> tuple[str, Callable[[Array], float]]:
    """Name of the score, and the function that computes it from inputs of the chosen rows."""
    predict, y = held_out.predict or network.predict, np.asarray(held_out.y)[chosen]
    if classes is None:
        return "R²", lambda X: evaluation.regression_scores(y, predict(X)).r2
    true = evaluation.class_numbers(y, classes)

    def accuracy(X: Array) -> float:
        labels = evaluation.labels_of(predict(X), classes)
        return evaluation.accuracy(true, evaluation.class_numbers(labels, classes, "predicted"))

    return "accuracy", accuracy


def _versions(history: History | None, rows: int | None) -> Html:
    pairs: list[tuple[str, object]] = []
    if history is not None and len(history):
        seconds = max(sum(history.seconds), 1e-9)
        pairs.append(
            ("Time", f"{_duration(seconds)} for {plural(len(history), 'epoch')}, excluding validation")
        )
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
    "isas": "Available instruction sets",
    "openmp": "OpenMP",
    "threads": "Threads",
    "compiler": "Compiler",
    "python": "Python",
    "numpy": "NumPy",
    "machine": "Machine",
}
