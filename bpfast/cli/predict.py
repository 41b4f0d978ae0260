"""`bpfast predict`: the rows of a file of any size through a model, into a CSV."""

from __future__ import annotations

import csv
import io
import os
from argparse import Namespace
from typing import IO, Any

from ..arrays import Array
from ..data import streams, tables
from ..data.preparation import Counts, Preparation, require_inputs
from ..data.streams import CsvStream, MatrixStream, Stream
from ..data.tables import UserError
from ..network import Network, load
from ..storage.atomic import open_atomically
from .console import Printer, mistakes, refuse_foreign, require_writable, writing


def predict(options: Namespace) -> int:
    """Predict the rows of a file with a model that `train` wrote; write a CSV."""
    say = Printer(options.quiet)
    require_writable([options.out], [options.model, options.file])
    if os.path.isdir(options.model):
        raise UserError(f"{options.model!r} is a directory; a model file is wanted")
    with mistakes():
        network = load(options.model, threads=options.threads, backend=options.backend)
    prepared = _preparation(network, options.model)
    stream = _stream(options, prepared)
    with writing(options.out), open_atomically(options.out) as file:
        while True:
            try:
                counts, rows = _predict_chunks(stream, network, prepared, file, say)
                break
            except streams.RetypedError:
                file.seek(0)
                file.truncate()
                with say.progress("looking through", stream) as moved:
                    stream.settle(moved)
    say.counts(counts)
    say("wrote", f"{options.out}: {rows:,} predictions of {prepared.target!r}", always=True)
    return 0


def _stream(options: Namespace, prepared: Preparation) -> Stream:
    kind = tables.kind_of(options.file)
    refuse_foreign(options, options.file, kind)
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
    """A pass over the rows: what preparing met with, and how many there were."""
    counts, rows = Counts(), 0
    file.write(predictions_text(prepared, [], None, head=True))
    with say.progress("predicting", stream) as moved:
        for table in stream.chunks(max(network.n_inputs, network.n_outputs), moved):
            X, met = prepared.inputs(table, network.dtype)
            counts.add(met)
            require_inputs(X, table)
            with mistakes():
                predicted = network.predict(X)
            file.write(predictions_text(prepared, predicted, None))
            rows += len(X)
    return counts.ordered([column.name for column in prepared.columns]), rows


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


def predictions_text(
    prepared: Preparation, predicted: Any, rows: Array | None, *, head: bool = False
) -> bytes:
    """CSV: a line a row, or the names above them; `repr` keeps every bit of a number."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    classes = prepared.classes if prepared.task == "classification" else ()
    if head:
        first = [] if rows is None else ["row"]
        writer.writerow([*first, "prediction", *(f"probability_{label}" for label in classes)])
    else:
        numbers = [[]] * len(predicted) if rows is None else [[row] for row in rows.tolist()]
        if classes:
            best = predicted.argmax(axis=1)
            for number, index, shares in zip(numbers, best.tolist(), predicted.tolist(), strict=True):
                writer.writerow([*number, classes[index], *map(repr, shares)])
        else:
            for number, value in zip(numbers, prepared.values(predicted).tolist(), strict=True):
                writer.writerow([*number, repr(value)])
    return text.getvalue().encode("utf-8")
