"""The subcommand `train`: train a network on a file, and write the model, a plot and a report."""

from __future__ import annotations

import argparse
import contextlib

import numpy as np

from .. import evaluation
from ..arrays import Array
from ..arrays.rows import rows_of
from ..data.preparation import TASKS
from ..data.tables import UserError, plural
from ..network import Network
from ..plotting import plot_history, require_drawable
from ..report.page import require_pictures
from ..storage import model_file
from ..storage.atomic import open_atomically
from ..storage.model_file import AdvisedError
from ..training.callbacks import Callback, EarlyStopping, ProgressBar
from ..training.checkpoint import Checkpoint
from ..training.history import History
from .console import INTERRUPTED, Printer, mistakes, require_writable, writing
from .options import (
    Subcommands,
    add_engine_options,
    add_quiet_option,
    megabytes,
    names,
    positive,
    share,
    widths,
)
from .predict import predictions_text
from .train_data import TrainingData, load_training_data
from .train_report import TrainingResult, write_training_report
from .train_settings import TrainingSettings, resolve_settings


def add_parser(subcommands: Subcommands) -> None:
    """Add the subcommand to the command line."""
    command = subcommands.add_parser(
        "train",
        help="train a network on a file, or on scikit-learn's digits",
        description="Train a network and write it to a file, together with the preprocessing of its inputs. "
        "Without FILE: train the classic sigmoid network on scikit-learn's digits.",
    )
    command.set_defaults(run=run)
    _add_data_options(command.add_argument_group("data"))
    model = command.add_argument_group("network and training")
    _add_network_options(model)
    _add_training_options(model)
    _add_output_options(command.add_argument_group("output"))


def _add_data_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("file", nargs="?", metavar="FILE", help="CSV with a header, NPZ, NPY or IDX; optionally gzipped")
    add("--target", metavar="NAME", help="column of a CSV file, or array of an NPZ file (default: y)")
    add("--features", metavar="NAME", help="array of an NPZ file that contains the inputs (default: X)")
    add("--labels", metavar="FILE", help="NPY or IDX file of the labels, for an NPY or IDX file")
    add("--ignore", type=names, default=(), metavar="A,B", help="columns to leave out")
    add("--text", type=names, default=(), metavar="A,B", help="columns to treat as categorical")
    add("--task", choices=TASKS, help="kind of task (default: inferred from the target)")
    add(
        "--memory",
        type=megabytes,
        default=megabytes("256"),
        metavar="MB",
        help="memory limit for the file and for its prepared rows (default: 256). A larger file is read in "
        "chunks; larger prepared rows are written to unnamed temporary files, in $TMPDIR if it is set, "
        "otherwise in the directory of the model",
    )
    add(
        "--validation",
        type=share,
        default=0.2,
        metavar="SHARE",
        help="fraction of the rows to hold out (default: 0.2)",
    )


def _add_network_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--hidden",
        type=widths,
        metavar="N,N",
        help="widths of the hidden layers, 0 for none (default: 128,64)",
    )
    add("--activation", metavar="NAME", help="activation of the hidden layers (default: relu)")


def _add_training_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--optimizer", metavar="NAME", help="adam, sgd, ... (default: adam)")
    add("--learning-rate", type=float, metavar="X", help="learning rate (default: depends on the optimizer)")
    add("--momentum", type=float, metavar="X", help="momentum of sgd")
    add("--batch-size", type=int, metavar="N", help="rows per step (default: 32)")
    add(
        "--epochs",
        type=positive,
        metavar="N",
        help="passes over the data (default: 20 to 200, depending on the number of rows)",
    )
    add("--penalty", metavar="NAME", help="l2, l1, elastic_net, l0 or frobenius")
    add("--alpha", type=float, metavar="X", help="strength of the penalty (default: 1e-4)")
    add(
        "--patience",
        type=positive,
        metavar="N",
        help="stop after N epochs without a lower held-out loss, and restore the best weights",
    )
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the weights, the split and the order of the rows (default: 0)",
    )
    add("--dtype", choices=("float32", "float64"), default="float32", help="data type (default: float32)")
    add_engine_options(group)


def _add_output_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--out",
        default="model.safetensors",
        metavar="FILE",
        help="model file to write (default: model.safetensors)",
    )
    add(
        "--checkpoint",
        metavar="FILE",
        help="save the state of the training after every epoch; if the file exists, resume from it",
    )
    plot = group.add_mutually_exclusive_group()
    plot.add_argument("--plot", metavar="FILE", help="plot of the training curves (default: curve.png)")
    plot.add_argument("--no-plot", action="store_true", help="do not write a plot")
    add("--report", metavar="FILE", help="HTML report of the training and its results")
    add("--predictions", metavar="FILE", help="CSV file of the predictions for the held-out rows")
    add_quiet_option(group)


def run(options: argparse.Namespace) -> int:
    """Train a network on a file, or on the digits; write the model and the other outputs."""
    with mistakes():
        settings = resolve_settings(options)
    plot = _plot_path(options)
    if options.report:
        with mistakes():
            require_pictures()
    outputs = [path for path in (options.out, plot, options.predictions, options.report) if path]
    checkpoint = [options.checkpoint] if options.checkpoint else []
    require_writable([*outputs, *checkpoint], [path for path in (options.file, options.labels) if path])
    say = Printer(options.quiet)
    data = load_training_data(options, say)
    network = _build_network(options, settings, data)
    epochs = settings.epochs_for(len(data.X))
    shape = "-".join(str(width) for width in network.program.widths)
    limit = "at most " if settings.patience else ""
    say("network", f"{shape}, {settings.summary}, {limit}{plural(epochs, 'epoch')}")
    history, interrupted = _fit(network, data, epochs, settings, options.checkpoint, say)
    if interrupted:
        say("stopped", f"interrupted; the model has the weights {_progress(history)}", always=True)
    outputs_held_out, headline = None, ""
    if len(data.X_held_out):
        predicted, outputs_held_out = _predict_held_out(network, data, options)
        headline = _headline(data, predicted, settings, history)
        say("held-out", headline, always=True)
    _print_advice(history, settings, len(data.X), say)
    with writing(options.out):
        network.save(options.out)
    if plot:
        with writing(plot):
            plot_history(history, plot)
    if options.report:
        result = TrainingResult(data, settings, outputs_held_out, headline, interrupted)
        with writing(options.report):
            write_training_report(options.report, options, network, history, result)
    say("wrote", ", ".join(outputs))
    return INTERRUPTED if interrupted else 0


def _plot_path(options: argparse.Namespace) -> str | None:
    """The file of the plot; None without one, also if matplotlib is missing and --plot is not given."""
    if options.no_plot:
        return None
    path: str = options.plot or "curve.png"
    try:
        require_drawable(path)
    except ModuleNotFoundError as error:
        if options.plot:
            raise UserError(str(error)) from None
        Printer(options.quiet)("note", f"{path} is not written: {error}")
        return None
    except ValueError as error:
        raise UserError(str(error)) from None
    return path


def _build_network(options: argparse.Namespace, settings: TrainingSettings, data: TrainingData) -> Network:
    """The untrained network, with the preparation in its metadata."""
    prepared = data.prepared
    with mistakes():
        network = Network(
            settings.layers(prepared.n_outputs),
            n_inputs=prepared.n_inputs,
            loss="cross_entropy" if prepared.task == "classification" else "squared_error",
            dtype=options.dtype,
            seed=options.seed,
            threads=options.threads,
            backend=options.backend,
        )
        network.metadata["preparation"] = prepared.to_json()
        model_file.require_room(network)
    return network


class _Recorder(Callback):
    """Keep what an interruption would lose: the history, and the weights of the last complete epoch."""

    def __init__(self, say: Printer) -> None:
        self._say = say
        self.history = History()
        self._weights: dict[str, Array] = {}

    def on_fit_begin(self, network: Network, history: History) -> None:
        self.history = history
        if len(history):
            complete = " (already complete)" if len(history) == history.planned else ""
            self._say("resumed", f"after epoch {len(history)}{complete}", always=True)
            self._keep(network)

    def on_epoch_end(self, network: Network, history: History) -> None:
        self._keep(network)

    def _keep(self, network: Network) -> None:
        self._weights = {name: array.copy() for name, array in network.parameters.items()}

    def on_fit_end(self, network: Network, history: History) -> None:
        for name, array in self._weights.items():
            network.parameters[name][...] = array


def _fit(
    network: Network,
    data: TrainingData,
    epochs: int,
    settings: TrainingSettings,
    checkpoint: str | None,
    say: Printer,
) -> tuple[History, bool]:
    """Train, or resume from the checkpoint; return the history, and whether Ctrl-C stopped it."""
    recorder = _Recorder(say)
    callbacks: list[Callback] = [recorder, *([] if say.quiet else [ProgressBar()])]
    if checkpoint is not None:
        callbacks.append(Checkpoint(checkpoint))
    if settings.patience is not None:
        callbacks.append(EarlyStopping(patience=settings.patience))
    y = data.prepared.targets(data.labelled.target)
    rows, held_out = data.labelled.rows, data.labelled.held_out
    try:
        network.fit(
            data.X,
            y[rows],
            epochs=epochs,
            batch_size=settings.batch_size,
            optimizer=settings.optimizer,
            penalty=settings.penalty,
            validation=(data.X_held_out, y[held_out]) if len(held_out) else None,
            callbacks=callbacks,
            shuffle="blocks" if isinstance(data.X, np.memmap) else True,
            resume=checkpoint,
        )
    except KeyboardInterrupt:
        return recorder.history, True
    except FloatingPointError as error:
        raise UserError(f"{error}; no file was written") from None
    except OSError as error:
        raise UserError(f"cannot write {checkpoint!r}: {error.strerror or error}") from None
    except AdvisedError as error:  # such as a checkpoint of another run
        reason = error.reason.removeprefix("resume: ")
        raise UserError(f"{reason}; pass another --checkpoint file") from None
    except ValueError as error:  # such as a number too large for float32
        raise UserError(str(error)) from None
    return recorder.history, False


def _predict_held_out(
    network: Network, data: TrainingData, options: argparse.Namespace
) -> tuple[Array, Array | None]:
    """Predict the held-out rows, and write the predictions to a CSV file if --predictions is given.

    Returns
    -------
    predicted : array (n,)
        Class numbers, or values in the units of the target.
    outputs : array (n, O) or None
        All outputs, if a report needs them.
    """
    prepared, X, row_ids = data.prepared, data.X_held_out, data.held_out_ids
    predicted, outputs = [], []
    with contextlib.ExitStack() as stack:
        file = None
        if options.predictions:
            stack.enter_context(writing(options.predictions))
            file = stack.enter_context(open_atomically(options.predictions))
            file.write(predictions_text(prepared, [], row_ids, head=True))
        start = 0
        for block in rows_of(X).blocks():
            A = network.predict(block)
            classes = prepared.task == "classification"
            predicted.append(A.argmax(axis=1) if classes else prepared.values(A))
            if file is not None:
                file.write(predictions_text(prepared, A, row_ids[start : start + len(block)]))
            if options.report:
                outputs.append(A)
            start += len(block)
    return np.concatenate(predicted), np.concatenate(outputs) if outputs else None


def _headline(data: TrainingData, predicted: Array, settings: TrainingSettings, history: History) -> str:
    """The score on the held-out rows, and what these were used for."""
    target = data.held_out_target
    if data.prepared.task == "classification":
        score = f"test accuracy {evaluation.accuracy(data.prepared.targets(target), predicted):.4f}"
    else:
        error = float(np.mean(np.abs(predicted - target)))
        shown = f"{error:,.0f}" if error >= 1000 else f"{error:.4g}"
        score = f"test R² {evaluation.r2(target, predicted):.4f}, mean absolute error {shown}"
    if settings.patience is None:
        used = "not used for training"
    else:
        used = f"used only to choose the best of {plural(len(history), 'epoch')}: slightly optimistic"
    return f"{score} ({len(target):,} rows, {used})"


def _progress(history: History) -> str:
    """How far an interrupted training run came."""
    return f"after epoch {len(history)}" if len(history) else "partway through epoch 1"


def _print_advice(history: History, settings: TrainingSettings, n_rows: int, say: Printer) -> None:
    """Print whether the network overfitted, and the speed."""
    if settings.patience is None and _overfitted(history):
        best = min(range(len(history)), key=history["val_loss"].__getitem__) + 1
        say("note", f"the held-out loss was lowest after epoch {best}; try early stopping with --patience 10")
    if len(history):
        seconds = max(sum(history.seconds), 1e-9)
        speed = n_rows * len(history) / seconds
        say("speed", f"{speed:,.0f} samples per second ({plural(len(history), 'epoch')} in {seconds:.2f} s)")


def _overfitted(history: History) -> bool:
    """Whether the held-out loss ended more than 5 % above its minimum."""
    return "val_loss" in history and len(history) > 1 and history.val_loss[-1] > 1.05 * min(history.val_loss)
