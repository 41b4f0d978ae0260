"""What the subcommands do: train, predict, info, gallery. `__main__` reads their options."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import files, preparation, report, tables, training_report
from . import gallery as _gallery
from .callbacks import Callback, EarlyStopping
from .info import info as installation
from .layers import Dense
from .network import Network
from .optimizers import Optimizer, optimizers
from .penalties import Penalty, penalties
from .preparation import Counts, Preparation
from .tables import Table, UserError
from .training import History

Array = NDArray[Any]

#: The exit status of a program that Ctrl-C ended.
INTERRUPTED = 130
#: What the epochs shall come to where nobody says how many.
STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 20_000, 20, 200


@dataclass(frozen=True)
class Recipe:
    """How to train, less the data."""

    hidden: tuple[int, ...]
    activation: str
    optimizer: Optimizer
    penalty: Penalty | None
    batch_size: int | None
    epochs: int | None
    patience: int | None
    text: str

    def layers(self, n_outputs: int) -> list[Dense]:
        """The hidden layers and the last."""
        return [*(Dense(units, self.activation) for units in self.hidden), Dense(n_outputs)]

    def epochs_for(self, rows: int) -> int:
        """The epochs asked for, or as many as make a fair number of steps."""
        if self.epochs is not None:
            return self.epochs
        steps = -(-rows // (self.batch_size or rows))
        return max(FEWEST_EPOCHS, min(MOST_EPOCHS, round(STEPS / steps)))


class _Recorder(Callback):
    """Keeps what an interruption would lose: the history, and the weights of the last whole epoch."""

    def __init__(self) -> None:
        self.history = History()
        self._weights: dict[str, Array] = {}

    def on_fit_begin(self, network: Network, history: History) -> None:
        self.history = history

    def on_epoch_end(self, network: Network, history: History) -> None:
        self._weights = {name: array.copy() for name, array in network.parameters.items()}

    def on_fit_end(self, network: Network, history: History) -> None:
        for name, array in self._weights.items():
            network.parameters[name][...] = array


@contextlib.contextmanager
def _mistakes() -> Iterator[None]:
    """Turn the library's complaints about what it was given into a line for a person."""
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError, ModuleNotFoundError) as error:
        raise UserError(str(error)) from None


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    """Name the file that a full disk or the like kept from being written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path!r} can't be written: {error.strerror or error}") from None


def train(options: Namespace) -> int:
    """Train a network on a file, or on the digits; write the model and a picture."""
    with _mistakes():
        recipe = _recipe(options)
    picture = _picture(options)
    if options.report:
        with _mistakes():
            report.require_pictures()
    outputs = [path for path in (options.out, picture, options.predictions, options.report) if path]
    _require_writable(outputs, [path for path in (options.file, options.labels) if path])
    say = _Printer(options.quiet)
    table = _read(options)
    table, goal, origin = _drop_unlabelled(table, say)
    task, labels, classes = _task(options, table, goal, say)
    rows, held_out = preparation.split(labels, len(table), options.validation, options.seed)
    prepared = preparation.learn(table, goal, task, classes, rows)
    X, counts = prepared.inputs(table, options.dtype)
    y = prepared.targets(goal)
    _describe(table, prepared, rows, held_out, counts, say)

    with _mistakes():
        network = Network(
            recipe.layers(prepared.n_outputs),
            n_inputs=prepared.n_inputs,
            loss="cross_entropy" if task == "classification" else "squared_error",
            dtype=options.dtype,
            seed=options.seed,
            threads=options.threads,
            backend=options.backend,
        )
        network.metadata["preparation"] = prepared.to_json()
    epochs = recipe.epochs_for(len(rows))
    widths = "-".join(str(width) for width in network.program.widths)
    most = "at most " if recipe.patience else ""
    say("network", f"{widths}, {recipe.text}, {most}{epochs} epochs")
    validation = (X[held_out], y[held_out]) if len(held_out) else None
    history, interrupted = _fit(network, X[rows], y[rows], validation, epochs, recipe, options.quiet)

    if interrupted:
        after = f"its state after epoch {len(history)}" if len(history) else "part of its first epoch"
        say("stopped", f"interrupted; the model has {after}", always=True)
    predicted, headline = None, ""
    if len(held_out):
        predicted = network.predict(X[held_out])
        margin, headline = _result(prepared, predicted, y[held_out], goal[held_out], recipe, history)
        say(margin, headline, always=True)
        if options.predictions:
            _write_predictions(options.predictions, prepared, predicted, origin[held_out])
    if len(history):
        seconds = max(sum(history.seconds), 1e-9)
        speed = len(rows) * len(history) / seconds
        say("speed", f"{speed:,.0f} samples per second, {len(history)} epochs in {seconds:.2f} s")
    with _writing(options.out):
        network.save(options.out)
    if picture:
        from .plotting import plot_history

        with _writing(picture):
            plot_history(history, picture)
    if options.report:
        made = training_report.Training(
            table,
            goal,
            origin,
            rows,
            held_out,
            prepared,
            counts,
            X,
            predicted,
            headline=headline,
            recipe=recipe.text,
            optimizer=repr(recipe.optimizer),
            interrupted=interrupted,
        )
        with _writing(options.report):
            training_report.write_training_report(options.report, options, network, history, made)
    say("wrote", ", ".join(outputs))
    return INTERRUPTED if interrupted else 0


def _fit(
    network: Network,
    X: Array,
    y: Array,
    validation: tuple[Array, Array] | None,
    epochs: int,
    recipe: Recipe,
    quiet: bool,
) -> tuple[History, bool]:
    """Train; also say whether Ctrl-C ended it."""
    recorder = _Recorder()
    callbacks: list[Callback] = [recorder]
    if recipe.patience is not None:
        callbacks.append(EarlyStopping(patience=recipe.patience))
    try:
        network.fit(
            X,
            y,
            epochs=epochs,
            batch_size=recipe.batch_size,
            optimizer=recipe.optimizer,
            penalty=recipe.penalty,
            validation=validation,
            callbacks=callbacks,
            progress=not quiet,
        )
    except KeyboardInterrupt:
        return recorder.history, True
    except FloatingPointError as error:
        raise UserError(f"{error}; no file was written") from None
    except ValueError as error:  # such as a number too large for float32
        raise UserError(str(error)) from None
    return recorder.history, False


def _recipe(options: Namespace) -> Recipe:
    """The options, with the defaults of the digits or of a file in the gaps."""
    classic = options.file is None
    hidden = options.hidden if options.hidden is not None else ((64,) if classic else (128, 64))
    activation = options.activation or ("sigmoid" if classic else "relu")
    for units in hidden:
        Dense(units, activation)
    name = options.optimizer or ("sgd" if classic else "adam")
    settings: dict[str, Any] = {}
    if options.learning_rate is not None:
        settings["learning_rate"] = options.learning_rate
    if options.momentum is not None:
        if optimizers[name].name != "sgd":
            raise UserError(f"--momentum belongs to the optimizer sgd, not to {name}")
        settings["momentum"] = options.momentum
    if classic and options.optimizer is None:
        settings = {"learning_rate": 0.1, "momentum": 0.9} | settings
    optimizer = optimizers[name](**settings)
    if options.alpha is not None and options.penalty is None:
        raise UserError("--alpha is the strength of a --penalty; name one, such as --penalty l2")
    alpha = 1e-4 if options.alpha is None else options.alpha
    penalty = None if options.penalty is None else penalties[options.penalty](alpha)
    if options.patience is not None and options.validation == 0:
        raise UserError("--patience watches the held-out rows; --validation 0 leaves none")
    if options.predictions and options.validation == 0:
        raise UserError("--predictions are of the held-out rows; --validation 0 leaves none")
    batch_size = options.batch_size
    if batch_size is None and not optimizer.full_batch:
        batch_size = 32
    epochs = 50 if classic and options.epochs is None else options.epochs
    steps = "full batches" if batch_size is None else f"batches of {batch_size}"
    parts = [activation, f"{optimizer.name} {optimizer.schedule.rate(0.0):g}", steps]
    if penalty is not None:
        parts.insert(2, f"{penalty.name} {penalty.alpha:g}")
    return Recipe(
        hidden, activation, optimizer, penalty, batch_size, epochs, options.patience, ", ".join(parts)
    )


def _picture(options: Namespace) -> str | None:
    """Where the picture goes; nowhere if it is the default and matplotlib is missing."""
    if options.no_plot:
        return None
    from .plotting import require_drawable

    path: str = options.plot or "curve.png"
    try:
        require_drawable(path)
    except ModuleNotFoundError as error:
        if options.plot:
            raise UserError(str(error)) from None
        _Printer(options.quiet)("note", f"no {path}: {error}")
        return None
    except ValueError as error:
        raise UserError(str(error)) from None
    return path


def _require_writable(outputs: list[str], inputs: list[str]) -> None:
    """Refuse before the work what would fail after it."""
    seen = {os.path.realpath(path) for path in inputs}
    for path in outputs:
        if os.path.realpath(path) in seen:
            raise UserError(f"{path!r} is named twice; it would be overwritten")
        seen.add(os.path.realpath(path))
        if os.path.isdir(path):
            raise UserError(f"{path!r} is a directory; a file is wanted")
        folder = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(folder):
            raise UserError(f"{path!r} can't be written: there is no directory {folder!r}")
        with _writing(path), tempfile.TemporaryFile(dir=folder):
            pass


class _Printer:
    """Prints a line with a margin; when quiet only what matters always."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def __call__(self, margin: str, text: str, always: bool = False) -> None:
        if always or not self._quiet:
            print(f"{margin:<9} {text}", flush=True)


def _read(options: Namespace) -> Table:
    if options.file is None:
        given = {"--target": options.target, "--labels": options.labels, "--features": options.features}
        for option, value in (given | {"--ignore": options.ignore, "--text": options.text}).items():
            if value:
                raise UserError(f"{option} needs a FILE; without one the embedded digits are used")
        return tables.digits()
    kind = tables.kind_of(options.file)
    _refuse_foreign(options, kind)
    if kind == "npz":
        return tables.read_npz(
            options.file,
            features=options.features or tables.FEATURES,
            target=options.target or tables.TARGET,
        )
    if kind == "idx":
        if not options.labels:
            raise UserError(f"{options.file!r} is an idx file; name the file of its labels with --labels")
        return tables.read_idx(options.file, labels=options.labels)
    if not options.target:
        names = tables.listed(tables.read_csv(options.file).columns)
        raise UserError(f"--target is needed: the column of {options.file!r} to predict (columns: {names})")
    return tables.read_csv(options.file, target=options.target, ignore=options.ignore, text=options.text)


def _refuse_foreign(options: Namespace, kind: str) -> None:
    """Options that another kind of file takes are mistakes, not to be passed over."""
    homes = {
        "labels": ("idx",),
        "features": ("npz",),
        "target": ("csv", "npz"),
        "ignore": ("csv",),
        "text": ("csv",),
    }
    for name, kinds in homes.items():
        if getattr(options, name, None) and kind not in kinds:
            raise UserError(f"--{name} does not go with {options.file!r}, which is of the kind {kind}")


def _drop_unlabelled(table: Table, say: _Printer) -> tuple[Table, Array, Array]:
    """The rows that have a target, their targets, and their numbers in the file."""
    assert table.target is not None
    goal = table.target
    there = ~preparation.missing(goal)
    if not there.any():
        raise UserError(f"target {table.target_name!r} of {table.source} is empty in every row")
    origin = np.flatnonzero(there)
    if len(origin) < len(goal):
        say("note", f"rows without a target are left out: {len(goal) - len(origin):,}")
        columns = {name: values[there] for name, values in table.columns.items()}
        table = replace(table, columns=columns, target=goal[there])
    return table, goal[there], origin


def _task(
    options: Namespace, table: Table, goal: Array, say: _Printer
) -> tuple[str, Array | None, tuple[Any, ...]]:
    """The task, and for a classification each row's class number and the classes."""
    if goal.dtype == object and options.task != "classification":
        preparation.refuse_junk(table.target_name, goal, table)
    task, reason = preparation.infer_task(goal)
    if options.task and options.task != task:
        task, reason = options.task, "as asked for"
    elif not options.task and options.file is not None:
        other = "regression" if task == "classification" else "classification"
        reason += "" if goal.dtype == object else f"; --task {other} for the other"
    say("task", f"{task} of {table.target_name!r} ({reason})")
    if task == "regression":
        return task, None, ()
    classes, labels = preparation.class_numbers(goal, table.target_name)
    return task, labels, classes


def _describe(
    table: Table, prepared: Preparation, rows: Array, held_out: Array, counts: Counts, say: _Printer
) -> None:
    texts = prepared.texts
    numbers = len(prepared.columns) - len(texts)
    made = f"{numbers} numbers standardised"
    if table.full_scale is not None:
        made = f"{numbers} values divided by {table.full_scale:g}"
    if texts:
        made += f", {len(texts)} text {'column' if len(texts) == 1 else 'columns'} one-hot"
    say("data", f"{table.source}: {len(table):,} rows; {prepared.n_inputs} inputs ({made})")
    if len(held_out):
        say("split", f"{len(rows):,} rows to train on, {len(held_out):,} held out")
    else:
        say("split", f"all {len(rows):,} rows to train on, none held out")
    _describe_counts(counts, say)
    for column in prepared.columns:
        if column.width > max(preparation.FEW_VALUES, len(rows) // 2):
            say("note", f"text column {column.name!r} has {column.width} categories; --ignore it?")


def _describe_counts(counts: Counts, say: _Printer) -> None:
    if counts.imputed:
        say("imputed", f"missing values: {_by_column(counts.imputed)}")
    if counts.unseen:
        say("unseen", f"texts that no training row had: {_by_column(counts.unseen)}; their inputs are 0")
    if counts.ignored:
        say("ignored", f"columns that the model does not use: {', '.join(counts.ignored)}")


def _by_column(counts: dict[str, int]) -> str:
    columns = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"{sum(counts.values()):,} ({columns})"


def _result(
    prepared: Preparation, predicted: Array, y: Array, goal: Array, recipe: Recipe, history: History
) -> tuple[str, str]:
    """The figure of the held-out rows, with what they were used for."""
    if prepared.task == "classification":
        figure = f"test accuracy {np.mean(predicted.argmax(axis=1) == y):.4f}"
    else:
        errors = prepared.values(predicted) - goal
        spread = float(np.var(goal.astype(np.float64)))
        score = 1.0 - float(np.mean(errors**2)) / spread if spread > 0 else 0.0
        error = float(np.mean(np.abs(errors)))
        shown = f"{error:,.0f}" if error >= 1000 else f"{error:.4g}"
        figure = f"test R² {score:.4f}, mean absolute error {shown}"
    used = "not trained on"
    if recipe.patience is not None:
        used += f", but the best epoch of {len(history)} was chosen by them: somewhat optimistic"
    return "held-out", f"{figure} ({len(y):,} rows, {used})"


def predict(options: Namespace) -> int:
    """Predict the rows of a file with a model that `train` wrote; write a CSV."""
    say = _Printer(options.quiet)
    _require_writable([options.out], [options.model, options.file])
    if os.path.isdir(options.model):
        raise UserError(f"{options.model!r} is a directory; a model file is wanted")
    with _mistakes():
        network = files.load(options.model, threads=options.threads, backend=options.backend)
    prepared = _preparation(network, options.model)
    kind = tables.kind_of(options.file)
    _refuse_foreign(options, kind)
    if kind == "npz":
        table = tables.read_npz(options.file, features=options.features or prepared.features)
    elif kind == "idx":
        table = tables.read_idx(options.file)
    else:
        table = tables.read_csv(options.file, text=prepared.texts, lenient=True)
    X, counts = prepared.inputs(table, network.dtype)
    _describe_counts(counts, say)
    with _mistakes():
        predicted = network.predict(X)
    _write_predictions(options.out, prepared, predicted, None)
    say("wrote", f"{options.out}: {len(X):,} predictions of {prepared.target!r}", always=True)
    return 0


def _preparation(network: Network, path: str) -> Preparation:
    """What the model's file says of its inputs, checked against the network."""
    text = network.metadata.get("preparation")
    if text is None:
        raise UserError(f"{path!r} does not say how its inputs are prepared: `bpfast train` did not write it")
    try:
        prepared = Preparation.from_json(text)
        if (prepared.n_inputs, prepared.n_outputs) != (network.n_inputs, network.n_outputs):
            raise ValueError(
                f"it makes {prepared.n_inputs} inputs and {prepared.n_outputs} outputs, "
                f"the network has {network.n_inputs} and {network.n_outputs}"
            )
    except ValueError as error:
        raise UserError(f"the preparation in {path!r} is broken: {error}") from None
    return prepared


def _write_predictions(path: str, prepared: Preparation, predicted: Array, rows: Array | None) -> None:
    """A CSV with a line a row; `repr` keeps every bit of a number."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    head = [] if rows is None else ["row"]
    numbers = [[]] * len(predicted) if rows is None else [[int(row)] for row in rows]
    if prepared.task == "classification":
        writer.writerow([*head, "prediction", *(f"probability_{label}" for label in prepared.classes)])
        best = predicted.argmax(axis=1)
        for number, index, shares in zip(numbers, best.tolist(), predicted.tolist(), strict=True):
            writer.writerow([*number, prepared.classes[index], *map(repr, shares)])
    else:
        writer.writerow([*head, "prediction"])
        for number, value in zip(numbers, prepared.values(predicted).tolist(), strict=True):
            writer.writerow([*number, repr(value)])
    with _writing(path):
        files.write_atomically(path, text.getvalue().encode("utf-8"))


def info(options: Namespace) -> int:
    """Print what this installation is and what it will use."""
    with _mistakes():
        facts = installation()
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        if isinstance(value, (list, tuple)):
            value = ", ".join(str(item) for item in value)
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        print(f"{name:<{width}}  {value}")
    return 0


def gallery(options: Namespace) -> int:
    """List the gallery, or run one of its entries."""
    from .plotting import require_drawable

    if options.name is None:
        if options.out:
            raise UserError(
                "--out is the picture of an example; which one is wanted too (see `bpfast gallery`)"
            )
        width = max(len(name) for name in _gallery.ENTRIES)
        for name, line in _gallery.ENTRIES.items():
            print(f"{name:<{width}}  {line}")
        return 0
    picture = options.out or f"{options.name}.png"
    with _mistakes():
        _gallery.require(options.name)
        require_drawable(picture)
    _require_writable([picture], [])
    with _writing(picture):
        _gallery.run(options.name, picture)
    return 0
