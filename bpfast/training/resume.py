"""Taking a run up again: a checkpoint read, and held against the `fit` that is to go on with it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._state import NetworkState
from ..arrays import Array
from ..arrays.rows import rows_of
from ..engine.interface import Data, OptimizerState
from ..specs.spec import flag, integer
from ..storage.checkpoint_file import read_optimizer_state, require_like, unpack
from ..storage.load import adopt, fill
from ..storage.model_file import UNREADABLE, Stored, UnfitError, describe, refusal, stored
from .callbacks import Callback
from .checkpoint import Checkpoint, FitRun
from .epoch import Progress

#: Elements of X that a fingerprint looks at, at most, and rows.
_SAMPLE, _SAMPLE_ROWS = 2**22, 1024


@dataclass
class SavedRun:
    """A run read from a checkpoint, checked against the one that is to go on with it.

    Attributes
    ----------
    state : NetworkState
        The network of the file.
    optimizer_state : OptimizerState
    history : dict of str to list of float
    callbacks : list of (Callback, state)
    progress, last_good
        Of the epoch under way, if the checkpoint was written within one.
    ended : bool
    """

    state: NetworkState
    optimizer_state: OptimizerState
    history: dict[str, list[float]]
    callbacks: list[tuple[Callback, Any]]
    progress: Progress | None = None
    last_good: Array | None = None
    ended: bool = False
    name: str = ""

    def take(self, run: FitRun) -> None:
        """Set the network and its history to those of the file."""
        self.optimizer_state.optimizer = run.optimizer
        self.state.optimizer_state = self.optimizer_state
        run.state.restore(self.state.snapshot())
        run.history.columns.update({name: list(values) for name, values in self.history.items()})
        run.last_good, run.ended = self.last_good, self.ended

    def restore_callbacks(self) -> None:
        """The callbacks go on from their states."""
        for callback, state in self.callbacks:
            try:
                callback.restore(state)
            except UNREADABLE as error:
                what = f"{type(callback).__name__} does not take its state: {error}"
                raise refusal(f"{self.name!r} is damaged, or {what}", self.name) from error


def read_checkpoint(path: str | os.PathLike[str], run: FitRun, n_batches: int) -> SavedRun | None:
    """Read a checkpoint that a run is to go on with; None if the run is to begin with it.

    Raises
    ------
    ValueError
        If the file is no checkpoint, is damaged, or is of another run.
    """
    savers = [c for c in run.callbacks if isinstance(c, Checkpoint)]
    name = os.fspath(path)
    if not os.path.exists(name) and any(os.path.realpath(c.path) == os.path.realpath(name) for c in savers):
        return None
    with stored(path, "checkpoint") as file:
        if "training" not in file.header:
            raise UnfitError(f"{name!r} is a model, but no checkpoint to resume from; load it and fit")
        training = file.header["training"]
        _require_same(name, run, file.header)
        file.compare(run.state.program, run.state.dtype)
        counterpart = NetworkState(
            run.state.layers,
            n_inputs=run.state.program.n_inputs,
            loss=run.state.loss,
            dtype=run.state.dtype,
            seed=0,
            threads=1,
            backend="reference",
            initialize=False,
        )
        adopt(counterpart, file.header)
        complaint = fill(counterpart, file)
        optimizer_state = read_optimizer_state(counterpart, file)
        assert optimizer_state is not None
        recorded = training["history"]
        if sorted(recorded) != sorted(run.history.columns):
            raise ValueError(
                f"its run records {', '.join(recorded)}, this one {', '.join(run.history.columns)}"
            )
        history = {column: _column(file, column) for column in recorded}
        saved = SavedRun(
            counterpart,
            optimizer_state,
            {column: values.tolist() for column, values in history.items()},
            _match(run.callbacks, training["callbacks"], file),
            ended=flag("its header", "ended", training["ended"]),
            name=name,
        )
        done = integer("its header", "batch", training["batch"], at_least=0)
        if done:
            batches = file.tensors.get("epoch/losses", ("", ()))[1]
            if batches != (n_batches,) or not done < n_batches:
                raise ValueError(f"its epoch has batches of shape {batches}, this run {n_batches}")
            like = Progress.begin(n_batches)
            losses = _read_as(file, "epoch/losses", like.losses)
            counts = _read_as(file, "epoch/counts", like.counts)
            if not (np.isfinite(losses[:done]).all() and np.isfinite(counts).all() and counts.min() >= 0):
                raise ValueError("its epoch has batches whose loss or weight is not finite, or below 0")
            saved.progress = Progress(losses, counts, done)
            saved.last_good = counterpart.flat.copy()
            views = counterpart.program.views(saved.last_good) | counterpart.program.views(
                saved.last_good, trained=False
            )
            for key, view in views.items():
                view[...] = _read_as(file, f"good/{key}", view)
        if {len(values) for values in saved.history.values()} != {training["epochs"]}:
            raise ValueError(f"its history is not of {training['epochs']} epochs")
        file.verify()
        if complaint is not None:
            raise UnfitError(complaint)
    return saved


def _read_as(file: Stored, key: str, like: Array) -> Array:
    require_like(file, key, like)
    return file.read(key)


def _column(file: Stored, column: str) -> Array:
    values = file.read(f"history/{column}")
    if values.ndim != 1 or values.dtype != np.float64:
        raise ValueError(f"its history of {column} is {values.dtype} of shape {values.shape}")
    return values


def _require_same(name: str, run: FitRun, header: Mapping[str, Any]) -> None:
    """Refuse a file of another network, or of a run with other arguments."""
    ours = describe(run.state)
    for key in ("layers", "n_inputs", "loss", "dtype"):
        if header[key] != ours[key]:
            raise UnfitError(
                f"resume: {name!r} is of a network with {key} {_short(header[key], ours[key])}, this one has "
                f"{_short(ours[key], header[key])}"
            )
    theirs = header["training"]["arguments"]
    for key, value in run.arguments.items():
        if theirs[key] != value:
            if key in ("data", "validation"):
                what = f"other {'' if key == 'data' else 'validation '}data, or another split of them"
            else:
                what = f"{key} {_short(theirs[key], value)}; this fit has {key} {_short(value, theirs[key])}"
            raise UnfitError(
                f"resume: the run in {name!r} had {what}. Another run takes another file; bpfast.load takes "
                f"this one as a network, to go on with otherwise"
            )


def _short(value: Any, other: Any) -> str:
    """A configuration for a message: of long lists the first part that differs."""
    if isinstance(value, list) and isinstance(other, list):
        for index, (one, two) in enumerate(zip(value, other, strict=False)):
            if one != two:
                return f"[{index}] = {_short(one, two)}"
        return f"of {len(value)} elements"
    if isinstance(value, dict) and isinstance(other, dict) and value.get("name") == other.get("name"):
        differ = [f"{key}={_short(v, other.get(key))}" for key, v in value.items() if v != other.get(key)]
        return f"{value.get('name', '')}({', '.join(differ)})"
    if isinstance(value, dict):
        return str(value.get("name", value))[:80]
    return repr(value)[:80]


def _match(callbacks: Sequence[Callback], kept: Any, file: Stored) -> list[tuple[Callback, Any]]:
    """Each callback that has a state with that of the file's callback of its class, in order."""
    waiting = [callback for callback in callbacks if callback.state()]
    pairs = []
    arrays = {key for key in file.tensors if key.startswith("callbacks.")}
    for entry in kept:
        name = entry["name"]
        alike = [c for c in waiting if type(c).__name__ == name]
        if name == Checkpoint.__name__ and len(alike) + sum(e["name"] == name for e in kept) > 2:
            alike = [c for c in alike if c.state()["file"] == entry["state"]["file"]]
        found = alike[0] if alike else None
        if found is None and name != Checkpoint.__name__:
            raise UnfitError(f"resume: the run in {file.name!r} had a callback {name}, this fit has none")
        if found is not None:
            waiting.remove(found)
            pairs.append((found, unpack(entry["state"], file, arrays)))
    for callback in waiting:
        if not isinstance(callback, Checkpoint):
            raise UnfitError(
                f"resume: the run in {file.name!r} had no callback {type(callback).__name__}, this fit has "
                f"one; bpfast.load takes the file as a network, to go on with otherwise"
            )
    return pairs


def fingerprint(data: Data) -> str:
    """Something of the data by which other data are told: SHA-256 of shapes, y, weights and rows of X.

    These are the first and last row and others evenly between, 1,024 in all or fewer of long rows.
    """
    X, Y, weights = data.X, data.Y, data.weights
    columns = X.shape[1]
    total = hashlib.sha256(f"{len(X)} {columns} {Y.shape}".encode())
    for array in (Y, weights):
        if array is not None:
            total.update(np.ascontiguousarray(array).data)
    count = max(1, min(len(X), _SAMPLE_ROWS, _SAMPLE // columns))
    rows = np.unique(np.linspace(0, len(X) - 1, count).astype(np.int64))
    # A zero has no sign: sparse rows have lost it.
    source = rows_of(X)
    for some in np.array_split(rows, -(-len(rows) // 64)):
        total.update(np.ascontiguousarray(source.take(some) + 0).data)
        source.release(len(some))
    return total.hexdigest()
