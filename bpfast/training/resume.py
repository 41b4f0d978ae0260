"""Taking a run up again: a checkpoint read, and held against the `fit` that is to go on with it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Array
from ..arrays.mapped import mapped_rows
from ..arrays.sparse import Features, dense, take
from ..engine.interface import OptimizerState
from ..specs.spec import flag, integer
from ..storage import model_file as files
from .callbacks import Callback
from .checkpoint import Checkpoint, Run, optimizer_state, require_like, unpack
from .epoch import Progress

if TYPE_CHECKING:
    from ..network import Network


#: Elements of X that a fingerprint looks at, at most, and rows.
_SAMPLE, _SAMPLE_ROWS = 2**22, 1024


@dataclass
class Saved:
    """A run read from a checkpoint, checked against the one that is to go on with it.

    Attributes
    ----------
    network : Network
        That of the file.
    state : OptimizerState
    history : dict of str to list of float
    callbacks : list of (Callback, state)
    progress, good
        Of the epoch under way, if the checkpoint was written within one.
    ended : bool
    """

    network: Network
    state: OptimizerState
    history: dict[str, list[float]]
    callbacks: list[tuple[Callback, Any]]
    progress: Progress | None = None
    good: Array | None = None
    ended: bool = False
    name: str = ""
    before: dict[str, Any] = field(default_factory=dict)

    def take(self, run: Run) -> None:
        """The network and its history become those of the file."""
        network = run.network
        taken = ("seed", "_epochs", "_steps", "_lr_scales", "metadata")
        self.before = {name: getattr(network, name) for name in (*taken, "_state")}
        self.before["flat"] = network._flat.copy()
        np.copyto(network._flat, self.network._flat)
        network.__dict__.update({name: getattr(self.network, name) for name in taken})
        network._state = self.state
        self.state.optimizer = run.optimizer
        run.history.columns.update({name: list(values) for name, values in self.history.items()})
        run.good, run.ended = self.good, self.ended

    def restore(self) -> None:
        """The callbacks go on from their states."""
        for callback, state in self.callbacks:
            try:
                callback.restore(state)
            except files.UNREADABLE as error:
                what = f"{type(callback).__name__} does not take its state: {error}"
                raise files.refusal(f"{self.name!r} is damaged, or {what}", self.name) from error

    def give_back(self, network: Network) -> None:
        """The network becomes what it was before `take`."""
        np.copyto(network._flat, self.before.pop("flat"))
        network.__dict__.update(self.before)


def read(path: str | os.PathLike[str], run: Run, n_batches: int) -> Saved | None:
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
    with files.stored(path, "checkpoint") as file:
        if "training" not in file.header:
            raise files.UnfitError(f"{name!r} is a model, but no checkpoint to resume from; load it and fit")
        training = file.header["training"]
        _require_same(name, run, file.header)
        file.compare(run.network.program, run.network.dtype)
        twin = run.network.blank(
            run.network.layers,
            n_inputs=run.network.n_inputs,
            loss=run.network.loss_spec,
            dtype=run.network.dtype,
            seed=0,
            threads=1,
            backend="reference",
        )
        files.adopt(twin, file.header)
        complaint = files.fill(twin, file)
        state = optimizer_state(twin, file)
        assert state is not None
        recorded = training["history"]
        if sorted(recorded) != sorted(run.history.columns):
            raise ValueError(
                f"its run records {', '.join(recorded)}, this one {', '.join(run.history.columns)}"
            )
        history = {column: _column(file, column) for column in recorded}
        saved = Saved(
            twin,
            state,
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
            saved.good = twin._flat.copy()
            views = twin.program.views(saved.good) | twin.program.views(saved.good, trained=False)
            for key, view in views.items():
                view[...] = _read_as(file, f"good/{key}", view)
        if {len(values) for values in saved.history.values()} != {training["epochs"]}:
            raise ValueError(f"its history is not of {training['epochs']} epochs")
        file.verify()
        if complaint is not None:
            raise files.UnfitError(complaint)
    return saved


def _read_as(file: files.Stored, key: str, like: Array) -> Array:
    require_like(file, key, like)
    return file.read(key)


def _column(file: files.Stored, column: str) -> Array:
    values = file.read(f"history/{column}")
    if values.ndim != 1 or values.dtype != np.float64:
        raise ValueError(f"its history of {column} is {values.dtype} of shape {values.shape}")
    return values


def _require_same(name: str, run: Run, header: Mapping[str, Any]) -> None:
    """Refuse a file of another network, or of a run with other arguments."""
    ours = files.describe(run.network)
    for key in ("layers", "n_inputs", "loss", "dtype"):
        if header[key] != ours[key]:
            raise files.UnfitError(
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
            raise files.UnfitError(
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


def _match(callbacks: Sequence[Callback], kept: Any, file: files.Stored) -> list[tuple[Callback, Any]]:
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
            raise files.UnfitError(
                f"resume: the run in {file.name!r} had a callback {name}, this fit has none"
            )
        if found is not None:
            waiting.remove(found)
            pairs.append((found, unpack(entry["state"], file, arrays)))
    for callback in waiting:
        if not isinstance(callback, Checkpoint):
            raise files.UnfitError(
                f"resume: the run in {file.name!r} had no callback {type(callback).__name__}, this fit has "
                f"one; bpfast.load takes the file as a network, to go on with otherwise"
            )
    return pairs


def fingerprint(X: Features, Y: Array, weights: Array | None) -> str:
    """Something of the data by which other data are told: SHA-256 of shapes, y, weights and rows of X.

    These are the first and last row and others evenly between, 1,024 in all or fewer of long rows.
    """
    columns = X.shape[1]
    total = hashlib.sha256(f"{len(X)} {columns} {Y.shape}".encode())
    for array in (Y, weights):
        if array is not None:
            total.update(np.ascontiguousarray(array).data)
    count = max(1, min(len(X), _SAMPLE_ROWS, _SAMPLE // columns))
    rows = np.unique(np.linspace(0, len(X) - 1, count).astype(np.int64))
    # A zero has no sign: sparse rows have lost it.
    mapped = mapped_rows(X)
    for some in np.array_split(rows, -(-len(rows) // 64)):
        total.update(np.ascontiguousarray(dense(take(X, some)) + 0).data)
        if mapped is not None:
            mapped.release(len(some))
    return total.hexdigest()
