"""What the subcommands train, info and gallery do. `__main__` reads their options."""

from __future__ import annotations

import contextlib
import math
import os
import time
from argparse import Namespace
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import gallery as _gallery
from ..arrays import Array
from ..arrays.mapped import mapped_rows
from ..data import fit_stream as outofcore
from ..data import fit_table as learning
from ..data import preparation, tables
from ..data.preparation import Counts, Preparation
from ..data.streams import CsvStream, MatrixStream, Stream, TableStream
from ..data.tables import Table, UserError
from ..info import info as installation
from ..network import Network
from ..report import page as report
from ..specs.layers import Dense
from ..specs.optimizers import Optimizer, optimizers
from ..specs.penalties import Penalty, penalties
from ..storage import model_file as files
from ..storage.atomic import open_atomically
from ..training.callbacks import Callback, EarlyStopping, ProgressBar
from ..training.checkpoint import Checkpoint
from ..training.history import History
from . import train_report as training_report
from .console import Printer, mistakes, refuse_foreign, require_writable, writing
from .predict import predictions_text

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

    def __init__(self, say: Printer) -> None:
        self._say = say
        self.history = History()
        self._weights: dict[str, Array] = {}

    def on_fit_begin(self, network: Network, history: History) -> None:
        self.history = history
        if len(history):
            ended = "; it was complete" if len(history) == history.planned else ""
            self._say("resumed", f"a run of {len(history)} epochs{ended}", always=True)
            self._keep(network)

    def on_epoch_end(self, network: Network, history: History) -> None:
        self._keep(network)

    def _keep(self, network: Network) -> None:
        self._weights = {name: array.copy() for name, array in network.parameters.items()}

    def on_fit_end(self, network: Network, history: History) -> None:
        for name, array in self._weights.items():
            network.parameters[name][...] = array


def train(options: Namespace) -> int:
    """Train a network on a file, or on the digits; write the model and a picture."""
    with mistakes():
        recipe = _recipe(options)
    picture = _picture(options)
    if options.report:
        with mistakes():
            report.require_pictures()
    outputs = [path for path in (options.out, picture, options.predictions, options.report) if path]
    kept = [options.checkpoint] if options.checkpoint else []
    require_writable([*outputs, *kept], [path for path in (options.file, options.labels) if path])
    say = Printer(options.quiet)
    source = _read(options)
    if not isinstance(source, Table):
        outofcore.temporary_folder(options.out)  # refused before the work
    goal, origin = _labelled(source, say)
    about = source if isinstance(source, Table) else source.about
    task, labels, classes = _task(options, about, goal, origin, say)
    rows, held_out = learning.split(labels, len(goal), options.validation, options.seed)
    data = _prepare(options, source, goal, task, classes, origin, rows, held_out, say)
    prepared = data.prepared
    y = prepared.targets(goal)
    _describe(about, prepared, rows, held_out, data.counts, say)

    with mistakes():
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
        files.require_room(network)
    epochs = recipe.epochs_for(len(rows))
    widths = "-".join(str(width) for width in network.program.widths)
    most = "at most " if recipe.patience else ""
    say("network", f"{widths}, {recipe.text}, {most}{epochs} epochs")
    validation = (data.X_held_out, y[held_out]) if len(held_out) else None
    shuffle = "blocks" if isinstance(data.X, np.memmap) else True
    train_rows = data.X, y[rows]
    history, interrupted = _fit(
        network, *train_rows, validation, epochs, shuffle, recipe, options.checkpoint, say
    )

    if interrupted:
        after = f"its state after epoch {len(history)}" if len(history) else "part of its first epoch"
        say("stopped", f"interrupted; the model has {after}", always=True)
    predicted, headline = None, ""
    if len(held_out):
        found, predicted = _evaluate(network, data, origin[held_out], options)
        margin, headline = _result(prepared, found, y[held_out], goal[held_out], recipe, history)
        say(margin, headline, always=True)
    if recipe.patience is None and _overfitted(history):
        best = min(range(len(history)), key=history["val_loss"].__getitem__) + 1
        say("note", f"the held-out loss was lowest after epoch {best}; --patience 10 stops near it")
    if len(history):
        seconds = max(sum(history.seconds), 1e-9)
        speed = len(rows) * len(history) / seconds
        text = f"{speed:,.0f} samples per second, {len(history)} epochs in {seconds:.2f} s of training alone"
        say("speed", text)
    with writing(options.out):
        network.save(options.out)
    if picture:
        from ..plotting import plot_history

        with writing(picture):
            plot_history(history, picture)
    if options.report:
        made = training_report.Training(
            about,
            {name: values[origin[held_out]] for name, values in _columns(source).items()},
            goal,
            origin,
            rows,
            held_out,
            prepared,
            data.counts,
            data.X_held_out,
            predicted,
            headline=headline,
            recipe=recipe.text,
            optimizer=repr(recipe.optimizer),
            interrupted=interrupted,
        )
        with writing(options.report):
            training_report.write_training_report(options.report, options, network, history, made)
    say("wrote", ", ".join(outputs))
    return INTERRUPTED if interrupted else 0


def _overfitted(history: History) -> bool:
    """Whether the held-out loss has risen again by a twentieth."""
    return "val_loss" in history and len(history) > 1 and history.val_loss[-1] > 1.05 * min(history.val_loss)


def _fit(
    network: Network,
    X: Array,
    y: Array,
    validation: tuple[Array, Array] | None,
    epochs: int,
    shuffle: bool | str,
    recipe: Recipe,
    checkpoint: str | None,
    say: Printer,
) -> tuple[History, bool]:
    """Train, or go on with what the checkpoint has; also say whether Ctrl-C ended it."""
    recorder = _Recorder(say)
    callbacks: list[Callback] = [recorder, *([] if say.quiet else [ProgressBar()])]
    if checkpoint is not None:
        callbacks.append(Checkpoint(checkpoint))
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
            shuffle=shuffle,
            resume=checkpoint,
        )
    except KeyboardInterrupt:
        return recorder.history, True
    except FloatingPointError as error:
        raise UserError(f"{error}; no file was written") from None
    except OSError as error:
        raise UserError(f"{checkpoint!r} can't be written: {error.strerror or error}") from None
    except ValueError as error:  # such as a number too large for float32, or a checkpoint of another run
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
    from ..plotting import require_drawable

    path: str = options.plot or "curve.png"
    try:
        require_drawable(path)
    except ModuleNotFoundError as error:
        if options.plot:
            raise UserError(str(error)) from None
        Printer(options.quiet)("note", f"no {path}: {error}")
        return None
    except ValueError as error:
        raise UserError(str(error)) from None
    return path


def _read(options: Namespace) -> Table | Stream:
    """The rows: in memory, or as a stream of a file that is larger than what may be there."""
    if options.file is None:
        given = {"--target": options.target, "--labels": options.labels, "--features": options.features}
        for option, value in (given | {"--ignore": options.ignore, "--text": options.text}).items():
            if value:
                raise UserError(f"{option} needs a FILE; without one the embedded digits are used")
        return tables.digits()
    path: str = options.file
    kind = tables.kind_of(path)
    refuse_foreign(options, path, kind)
    if kind == "csv":
        columns = {"target": options.target, "ignore": options.ignore, "text": options.text}
        if not options.target:
            names = tables.listed(CsvStream(path).names)
            raise UserError(f"--target is needed: the column of {path!r} to predict (columns: {names})")
        if os.path.getsize(path) > options.memory:
            return CsvStream(path, **columns)
        return tables.read_csv(path, **columns)
    if kind == "npz":
        features, target = options.features or tables.FEATURES, options.target or tables.TARGET
        array, goal = tables.npz_arrays(path, features, target)
    else:
        if not options.labels:
            spelled = "an idx" if kind == "idx" else "an NPY"
            raise UserError(f"{path!r} is {spelled} file; name the file of its labels with --labels")
        features, target = tables.FEATURES, "label"
        array, goal = tables.array_of(path, kind), tables.label_array(options.labels)
    if _bytes(options, *array.shape) > options.memory:
        return MatrixStream(kind, array, goal, target, features)
    return tables.read_matrix(kind, array, goal, target, features)


def _bytes(options: Namespace, *shape: int) -> int:
    """Of so many prepared numbers."""
    return math.prod(shape) * int(np.dtype(options.dtype).itemsize)


def _labelled(source: Table | Stream, say: Printer) -> tuple[Array, Array]:
    """The targets of the rows that have one, and the numbers of those rows in the file."""
    about = source if isinstance(source, Table) else source.about
    if isinstance(source, Table):
        assert source.target is not None
        goal = source.target
    else:
        with say.progress("reading targets", source) as moved:
            goal = source.targets(moved)
    there = ~preparation.missing(goal)
    if not there.any():
        raise UserError(f"target {about.target_name!r} of {about.source} is empty in every row")
    origin = np.flatnonzero(there)
    if len(origin) < len(goal):
        say("note", f"rows without a target are left out: {len(goal) - len(origin):,}")
        goal = goal[there]
    return goal, origin


@dataclass(frozen=True)
class _Data:
    """Prepared rows: in memory, or mapped from temporary files."""

    prepared: Preparation
    X: Array
    X_held_out: Array
    counts: Counts


def _prepare(
    options: Namespace,
    source: Table | Stream,
    goal: Array,
    task: str,
    classes: tuple[Any, ...],
    origin: Array,
    rows: Array,
    held_out: Array,
    say: Printer,
) -> _Data:
    """Learn from the training rows how to prepare them, and do it."""
    start = time.perf_counter()
    if isinstance(source, Table):
        table = source if len(origin) == len(source) else source.take(origin)
        prepared = learning.learn(table, goal, task, classes, rows)
        if _bytes(options, len(table), prepared.n_inputs) <= options.memory:
            X, counts = prepared.inputs(table, options.dtype)
            return _Data(prepared, X[rows], X[held_out], counts)
        source = TableStream(source)
    else:
        with say.progress("learning", source) as moved:
            prepared = outofcore.learn(source, goal, task, classes, origin, rows, moved)
    between = time.perf_counter()
    folder = outofcore.temporary_folder(options.out)
    with say.progress("preparing", source) as moved:
        X, X_held_out, counts = outofcore.prepare(
            source, prepared, options.dtype, origin, rows, held_out, folder, moved
        )
    took = between - start, time.perf_counter() - between
    size = (X.nbytes + X_held_out.nbytes) / 1e6
    say("streamed", f"learnt in {took[0]:.1f} s; prepared in {took[1]:.1f} s: {size:,.0f} MB in {folder!r}")
    return _Data(prepared, X, X_held_out, counts)


def _task(
    options: Namespace, about: Table, goal: Array, origin: Array, say: Printer
) -> tuple[str, Array | None, tuple[Any, ...]]:
    """The task, and for a classification each row's class number and the classes."""
    if goal.dtype == object and options.task != "classification":
        learning.refuse_junk(about.target_name, goal, replace(about, origin=origin))
    task, reason = learning.infer_task(goal)
    if options.task and options.task != task:
        task, reason = options.task, "as asked for"
    elif not options.task and options.file is not None:
        other = "regression" if task == "classification" else "classification"
        reason += "" if goal.dtype == object else f"; --task {other} for the other"
    say("task", f"{task} of {about.target_name!r} ({reason})")
    if task == "regression":
        return task, None, ()
    classes, labels = learning.class_numbers(goal, about.target_name)
    return task, labels, classes


def _describe(
    about: Table, prepared: Preparation, rows: Array, held_out: Array, counts: Counts, say: Printer
) -> None:
    texts = prepared.texts
    numbers = len(prepared.columns) - len(texts)
    made = f"{numbers} numbers standardised"
    if about.full_scale is not None:
        made = f"{numbers} values divided by {about.full_scale:g}"
    if texts:
        made += f", {len(texts)} text {'column' if len(texts) == 1 else 'columns'} one-hot"
    n = len(rows) + len(held_out)
    say("data", f"{about.source}: {n:,} rows; {prepared.n_inputs} inputs ({made})")
    if len(held_out):
        say("split", f"{len(rows):,} rows to train on, {len(held_out):,} held out")
    else:
        say("split", f"all {len(rows):,} rows to train on, none held out")
    say.counts(counts)
    for column in prepared.columns:
        if column.width > max(learning.FEW_VALUES, len(rows) // 2):
            say("note", f"text column {column.name!r} has {column.width} categories; --ignore it?")


def _columns(source: Table | Stream) -> dict[str, Array]:
    """What the rows were in the file, where that is in memory."""
    return source.columns if isinstance(source, Table) else {}


def _evaluate(network: Network, data: _Data, origin: Array, options: Namespace) -> tuple[Array, Array | None]:
    """The class number or the value that each held-out row is predicted; for a report all outputs.

    All of it goes into a CSV, if one is wanted, on the way.
    """
    prepared, X, path = data.prepared, data.X_held_out, options.predictions
    found, outputs = [], []
    with contextlib.ExitStack() as stack:
        file = None
        if path:
            stack.enter_context(writing(path))
            file = stack.enter_context(open_atomically(path))
            file.write(predictions_text(prepared, [], origin, head=True))
        rows, start = mapped_rows(X), 0
        for block in [X] if rows is None else rows.blocks():
            predicted, part = network.predict(block), origin[start : start + len(block)]
            classes = prepared.task == "classification"
            found.append(predicted.argmax(axis=1) if classes else prepared.values(predicted))
            if file is not None:
                file.write(predictions_text(prepared, predicted, part))
            if options.report:
                outputs.append(predicted)
            start += len(block)
    return np.concatenate(found), np.concatenate(outputs) if outputs else None


def _result(
    prepared: Preparation, found: Array, y: Array, goal: Array, recipe: Recipe, history: History
) -> tuple[str, str]:
    """The figure of the held-out rows, with what they were used for."""
    if prepared.task == "classification":
        figure = f"test accuracy {np.mean(found == y):.4f}"
    else:
        errors = found - goal
        spread = float(np.var(goal.astype(np.float64)))
        score = 1.0 - float(np.mean(errors**2)) / spread if spread > 0 else 0.0
        error = float(np.mean(np.abs(errors)))
        shown = f"{error:,.0f}" if error >= 1000 else f"{error:.4g}"
        figure = f"test R² {score:.4f}, mean absolute error {shown}"
    used = "not trained on"
    if recipe.patience is not None:
        used += f", but the best epoch of {len(history)} was chosen by them: somewhat optimistic"
    return "held-out", f"{figure} ({len(y):,} rows, {used})"


def info(options: Namespace) -> int:
    """Print what this installation is and what it will use."""
    with mistakes():
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
    from ..plotting import require_drawable

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
    with mistakes():
        _gallery.require(options.name)
        require_drawable(picture)
    require_writable([picture], [])
    with writing(picture):
        _gallery.run(options.name, picture)
    return 0
