"""The subcommand `predict`: apply a model to the rows of a file of any size, and write a CSV file."""

from __future__ import annotations

import argparse
import csv
import io
import os
from typing import IO, Any

from ..arrays import Array
from ..data import tables
from ..data.preparation import Counts, Preparation, require_inputs
from ..data.streams import CsvStream, MatrixStream, RetypedError, Stream
from ..data.tables import UserError
from ..network import Network, load
from ..storage.atomic import open_atomically
from .console import Printer, mistakes, refuse_unsupported, require_writable, writing
from .options import Subcommands, add_engine_options, add_quiet_option


def add_parser(subcommands: Subcommands) -> None:
    """Add the subcommand to the command line."""
    command = subcommands.add_parser(
        "predict",
        help="predict the rows of a file with a trained model",
        description="Write a CSV file with one line for each row of FILE: the prediction and, for "
        "classification, the probability of each class. FILE (CSV, NPZ, NPY or IDX, optionally gzipped) "
        "may be larger than memory; it is read in chunks.",
    )
    command.set_defaults(run=run)
    command.add_argument("model", metavar="MODEL", help="model file of `bpfast train`")
    command.add_argument(
        "file", metavar="FILE", help="raw rows with the columns that the model was trained on"
    )
    command.add_argument("--features", metavar="NAME", help="array of an NPZ file that contains the inputs")
    command.add_argument(
        "--out", default="predictions.csv", metavar="FILE", help="file to write (default: predictions.csv)"
    )
    add_engine_options(command)
    add_quiet_option(command)


def run(options: argparse.Namespace) -> int:
    """Predict the rows of a file with a model of `bpfast train`; write a CSV file."""
    say = Printer(options.quiet)
    require_writable([options.out], [options.model, options.file])
    if os.path.isdir(options.model):
        raise UserError(f"{options.model!r} is a directory, not a model file")
    with mistakes():
        network = load(options.model, threads=options.threads, backend=options.backend)
    prepared = _preparation(network, options.model)
    stream = _open_stream(options, prepared)
    with writing(options.out), open_atomically(options.out) as file:
        while True:
            try:
                counts, n_rows = _predict_chunks(stream, network, prepared, file, say)
                break
            except RetypedError:
                file.seek(0)
                file.truncate()
                with say.progress("detecting types", stream) as advance:
                    stream.resolve_types(advance)
    say.counts(counts)
    say("wrote", f"{options.out}: {n_rows:,} predictions of {prepared.target!r}", always=True)
    return 0


def _open_stream(options: argparse.Namespace, prepared: Preparation) -> Stream:
    kind = tables.kind_of(options.file)
    refuse_unsupported(options, options.file, kind)
    if kind == "csv":
        watch = [column.name for column in prepared.columns]
        return CsvStream(options.file, text=prepared.texts, lenient=True, watch=watch)
    if kind == "npz":
        features = options.features or prepared.features
        array, _ = tables.npz_arrays(options.file, features, None)
        return MatrixStream(kind, array, features=features)
    return MatrixStream(kind, tables.array_of(options.file, kind))


def _predict_chunks(
    stream: Stream, network: Network, prepared: Preparation, file: IO[bytes], say: Printer
) -> tuple[Counts, int]:
    """Write the predictions of all rows; return what the preparation counted, and the number of rows."""
    counts, n_rows = Counts(), 0
    file.write(predictions_text(prepared, [], None, head=True))
    with say.progress("predicting", stream) as advance:
        for table in stream.chunks(max(network.n_inputs, network.n_outputs), advance):
            X, found = prepared.inputs(table, network.dtype)
            counts.add(found)
            require_inputs(X, table)
            with mistakes():
                predicted = network.predict(X)
            file.write(predictions_text(prepared, predicted, None))
            n_rows += len(X)
    return counts.ordered([column.name for column in prepared.columns]), n_rows


def _preparation(network: Network, path: str) -> Preparation:
    """The preparation stored in a model file, checked against the network."""
    text = network.metadata.get("preparation")
    if text is None:
        raise UserError(f"{path!r} was not written by `bpfast train`: it does not contain a preparation")
    try:
        prepared = Preparation.from_json(text)
        if (prepared.n_inputs, prepared.n_outputs) != (network.n_inputs, network.n_outputs):
            raise ValueError(
                f"it has {prepared.n_inputs} inputs and {prepared.n_outputs} outputs, but the network has "
                f"{network.n_inputs} and {network.n_outputs}"
            )
    except ValueError as error:
        raise UserError(f"the preparation in {path!r} is invalid: {error}") from None
    return prepared


def predictions_text(
    prepared: Preparation, predicted: Any, row_ids: Array | None, *, head: bool = False
) -> bytes:
    """Format predictions as lines of CSV; `repr` keeps every bit of a number.

    Parameters
    ----------
    prepared : Preparation
    predicted : array (N, O)
        Outputs of the network.
    row_ids : array of int (N,) or None
        Numbers of the rows, written as the first column; None to leave them out.
    head : bool, default False
        Write the header instead.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    classes = prepared.classes if prepared.task == "classification" else ()
    if head:
        first = [] if row_ids is None else ["row"]
        writer.writerow([*first, "prediction", *(f"probability_{label}" for label in classes)])
    else:
        numbers = [[]] * len(predicted) if row_ids is None else [[row] for row in row_ids.tolist()]
        if classes:
            best = predicted.argmax(axis=1)
            for number, index, shares in zip(numbers, best.tolist(), predicted.tolist(), strict=True):
                writer.writerow([*number, classes[index], *map(repr, shares)])
        else:
            for number, value in zip(numbers, prepared.values(predicted).tolist(), strict=True):
                writer.writerow([*number, repr(value)])
    return text.getvalue().encode("utf-8")
