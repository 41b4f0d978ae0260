"""Resuming: a checkpoint is read and compared with the `fit` that continues it."""

from __future__ import annotations

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
from ..storage.load import read_counters, read_parameters
from ..storage.model_file import UNREADABLE, Stored, UnfitError, describe, refusal, sha256, stored
from .callbacks import Callback
from .checkpoint import Checkpoint, FitRun
from .epoch import Progress

#: Maximum number of elements and of rows of X that a fingerprint includes.
_SAMPLE, _SAMPLE_ROWS = 2**22, 1024

#: Advice for a checkpoint of another run.
_ANOTHER_FILE = ". Use another file for another run"


@dataclass(eq=False)
class SavedRun:
    """A run read from a checkpoint and compared with the run that continues it.

    Attributes
    ----------
    state : NetworkState
        Network in the file.
    optimizer_state : OptimizerState
        State of its optimizer.
    history : dict of str to list of float
        Columns of its history.
    callbacks : list of (Callback, state)
        Callbacks of the new run with their states in the file.
    progress : Progress or None
        Progress of the current epoch, if the checkpoint was written within one.
    last_good : array or None
        Flat vector of the network before that epoch.
    ended : bool
        Whether a callback had ended the run.
    name : str
        Path of the file, for messages.
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
        """Restore the network and its history."""
        self.optimizer_state.optimizer = run.optimizer
        self.state.optimizer_state = self.optimizer_state
        run.state.restore(self.state.snapshot())
        run.history.columns.update({name: list(values) for name, values in self.history.items()})
        run.last_good, run.ended = self.last_good, self.ended

    def restore_callbacks(self) -> None:
        """Restore the states of the callbacks."""
        for callback, state in self.callbacks:
            try:
                callback.restore(state)
            except UNREADABLE as error:
                what = f"{type(callback).__name__} cannot restore its state: {error}"
                raise refusal(f"{self.name!r} is damaged, or {what}", self.name) from error


def read_checkpoint(path: str | os.PathLike[str], run: FitRun, n_batches: int) -> SavedRun | None:
    """Read the checkpoint that a run continues from; return None if the run is to begin it.

    Parameters
    ----------
    path : path
    run : FitRun
        The run that is to continue.
    n_batches : int
        Its batches per epoch.

    Raises
    ------
    FileNotFoundError
        If there is no such file, and no `Checkpoint` among the callbacks will write it.
    ValueError
        If the file is not a checkpoint, is damaged, or belongs to another run.
    """
    savers = [c for c in run.callbacks if isinstance(c, Checkpoint)]
    name = os.fspath(path)
    if not os.path.exists(name) and any(os.path.realpath(c.path) == os.path.realpath(name) for c in savers):
        return None
    stateful = [callback for callback in run.callbacks if callback.state()]
    with stored(path, "checkpoint") as file:
        if "training" not in file.header:
            raise UnfitError(f"{name!r} is a model, not a checkpoint to resume", "; load it and call fit")
        _require_same(name, run, file.header)
        file.compare(run.state.program, run.state.dtype)
        saved, complaint = _read_run(file, run, stateful)
        done = integer("its header", "batch", file.header["training"]["batch"], at_least=0)
        if done:
            _read_progress(file, saved, done, n_batches)
        file.verify()
        if complaint is not None:
            raise UnfitError(complaint)
    return saved


def _read_run(file: Stored, run: FitRun, stateful: Sequence[Callback]) -> tuple[SavedRun, str | None]:
    """Read network, optimizer, history and callbacks; also return what is wrong with the network."""
    training = file.header["training"]
    state = NetworkState(
        run.state.layers,
        n_inputs=run.state.program.n_inputs,
        loss=run.state.loss,
        dtype=run.state.dtype,
        seed=0,
        threads=1,
        backend="reference",
        initialize=False,
    )
    read_counters(state, file.header)
    complaint = read_parameters(state, file)
    optimizer_state = read_optimizer_state(state, file)
    assert optimizer_state is not None
    saved = SavedRun(
        state,
        optimizer_state,
        _read_history(file, run),
        _match(stateful, training["callbacks"], file),
        ended=flag("its header", "ended", training["ended"]),
        name=file.name,
    )
    return saved, complaint


def _read_history(file: Stored, run: FitRun) -> dict[str, list[float]]:
    """Read the history, whose columns must be those of the run."""
    training = file.header["training"]
    recorded = training["history"]
    if sorted(recorded) != sorted(run.history.columns):
        raise ValueError(
            f"its run recorded {', '.join(recorded)}; this fit records {', '.join(run.history.columns)}"
        )
    history = {}
    for column in recorded:
        values = file.read(f"history/{column}")
        if values.ndim != 1 or values.dtype != np.float64:
            raise ValueError(f"its history column {column} has dtype {values.dtype} and shape {values.shape}")
        history[column] = values.tolist()
    if {len(values) for values in history.values()} != {training["epochs"]}:
        raise ValueError(f"its history does not have {training['epochs']} epochs")
    return history


def _read_progress(file: Stored, saved: SavedRun, done: int, n_batches: int) -> None:
    """Read the progress of the epoch within which the checkpoint was written, after `done` batches."""
    batches = file.tensors.get("epoch/losses", ("", ()))[1]
    if batches != (n_batches,) or not done < n_batches:
        raise ValueError(f"its epoch has losses of shape {batches}; this fit has {n_batches} batches")
    like = Progress.begin(n_batches)
    losses = _read_as(file, "epoch/losses", like.losses)
    counts = _read_as(file, "epoch/counts", like.counts)
    if not (np.isfinite(losses[:done]).all() and np.isfinite(counts).all() and counts.min() >= 0):
        raise ValueError("its epoch has batches whose loss or weight is not finite or is negative")
    saved.progress = Progress(losses, counts, done)
    saved.last_good = saved.state.flat.copy()
    program = saved.state.program
    views = program.views(saved.last_good) | program.views(saved.last_good, trained=False)
    for key, view in views.items():
        view[...] = _read_as(file, f"good/{key}", view)


def _read_as(file: Stored, key: str, like: Array) -> Array:
    """Read a tensor that must have the dtype and shape of an array."""
    require_like(file, key, like)
    return file.read(key)


def _require_same(name: str, run: FitRun, header: Mapping[str, Any]) -> None:
    """Raise UnfitError for a file of another network, or of a run with other arguments."""
    ours = describe(run.state)
    for key in ("layers", "n_inputs", "loss", "dtype"):
        if header[key] != ours[key]:
            raise UnfitError(
                f"resume: the network in {name!r} has {key} {_short(header[key], ours[key])}, this one has "
                f"{_short(ours[key], header[key])}",
                _ANOTHER_FILE,
            )
    theirs = header["training"]["arguments"]
    for key, value in run.arguments.items():
        if theirs[key] != value:
            if key in ("data", "validation"):
                what = f"different {'' if key == 'data' else 'validation '}data, or a different split"
            else:
                what = f"{key} {_short(theirs[key], value)}; this fit has {key} {_short(value, theirs[key])}"
            raise UnfitError(
                f"resume: the run in {name!r} had {what}",
                f"{_ANOTHER_FILE}, or train the network in this one further with bpfast.load",
            )


def _short(value: Any, other: Any) -> str:
    """Return a configuration for a message; of a list or an object, the part that differs."""
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


def _match(stateful: Sequence[Callback], kept: Any, file: Stored) -> list[tuple[Callback, Any]]:
    """Pair each callback that has a state with the file's state of the same class, in order."""
    waiting = list(stateful)
    pairs = []
    arrays = {key for key in file.tensors if key.startswith("callbacks.")}
    for entry in kept:
        name = entry["name"]
        alike = [c for c in waiting if type(c).__name__ == name]
        if name == Checkpoint.__name__ and len(alike) + sum(e["name"] == name for e in kept) > 2:
            alike = [c for c in alike if c.state()["file"] == entry["state"]["file"]]
        found = alike[0] if alike else None
        if found is None and name != Checkpoint.__name__:
            raise UnfitError(
                f"resume: the run in {file.name!r} had a callback {name}; this fit has none", _ANOTHER_FILE
            )
        if found is not None:
            waiting.remove(found)
            pairs.append((found, unpack(entry["state"], file, arrays)))
    for callback in waiting:
        if not isinstance(callback, Checkpoint):
            raise UnfitError(
                f"resume: the run in {file.name!r} had no callback {type(callback).__name__}; this fit has "
                f"one",
                ". To train the network in the file further, use bpfast.load",
            )
    return pairs


def fingerprint(data: Data) -> str:
    """Return a SHA-256 that identifies the data: of the shapes, y, the weights and a sample of X.

    The sample is at most 1,024 evenly spaced rows, including the first and the last; fewer of long rows.
    """
    X, Y, weights = data.X, data.Y, data.weights
    columns = X.shape[1]
    total = sha256(f"{len(X)} {columns} {Y.shape}".encode())
    for array in (Y, weights):
        if array is not None:
            total.update(np.ascontiguousarray(array).data)
    count = max(1, min(len(X), _SAMPLE_ROWS, _SAMPLE // columns))
    rows = np.unique(np.linspace(0, len(X) - 1, count).astype(np.int64))
    # Adding 0 removes the sign of -0, which sparse rows do not store.
    source = rows_of(X)
    for some in np.array_split(rows, -(-len(rows) // 64)):
        total.update(np.ascontiguousarray(source.take(some) + 0).data)
        source.release(len(some))
    return str(total.hexdigest())
