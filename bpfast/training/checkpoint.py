"""Checkpoints: a training kept in a file as it goes, and taken up again to the same bits.

A checkpoint is a model file (`bpfast.files`), so that `bpfast.load` reads it, whose header has an entry
``training`` more:

- ``arguments``: what `fit` was asked for, and fingerprints of the data.
- ``epochs``, ``batch``: whole epochs of the run, and batches of the one under way.
- ``ended``: whether a callback has ended the run.
- ``optimizer``, ``optimizer_steps``, ``clock``: the rule, its steps, and the schedule's time.
- ``history``, ``callbacks``: the names of the columns; the states of the callbacks.
- ``arrays``: dtype and shape of each tensor beside the network's: ``optimizer.NAME/PARAMETER`` (the
  rule's state), ``history/COLUMN``, ``epoch/losses`` and ``epoch/counts`` (of the epoch under way),
  ``good/NAME`` (the network at its beginning), ``callbacks.I.NAME``.
"""

from __future__ import annotations

import glob
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Array
from ..engine.interface import OptimizerState
from ..specs.optimizers import Optimizer, optimizers
from ..specs.schedules import Clock
from ..specs.spec import flag, integer
from ..storage import model_file as files
from ..storage.atomic import require_place
from .callbacks import Callback, direction
from .epoch import Progress

if TYPE_CHECKING:
    from ..network import Network
    from .history import History


@dataclass
class Run:
    """A training as far as a checkpoint keeps it.

    Attributes
    ----------
    network, optimizer, history, callbacks
        Those of `fit`.
    arguments : dict
        What else decides the result; a run that goes on must have the same.
    good : array or None
        The network's flat vector before the epoch under way.
    ended : bool
        Whether a callback has ended it.
    """

    network: Network
    optimizer: Optimizer
    history: History
    callbacks: Sequence[Callback]
    arguments: dict[str, Any]
    good: Array | None = None
    ended: bool = False


class Checkpoint(Callback):
    """Keeps the training in a file, from which ``fit(..., resume=path)`` goes on to the same bits.

    The file is written whole or not at all: a training that is killed at any moment leaves the last
    one. `bpfast.load` reads it as a model too. Beside ``run.safetensors`` there are, if wanted,
    ``run.1.safetensors``, ``run.2.safetensors``, … (the ones before it) and ``run.best.safetensors``
    (a plain model with the weights of the best epoch). L-BFGS, whose memory is SciPy's, has no
    checkpoints.

    Parameters
    ----------
    path : path
    every : int, default 1
        Epochs from one checkpoint to the next; the end of the run has one as well.
    batches : int, optional
        Also after every so many batches of an epoch, for epochs that last long. Epochs are then made
        in parts, to the same bits.
    keep : int, default 1
        How many files: the last checkpoint, and those before it.
    best : bool, default False
        Keep the best epoch's network as well.
    monitor : str, optional
        What the best epoch is told by: a column of the history, by default ``val_loss``, or ``loss``
        where there is no validation.

    Examples
    --------
    >>> import bpfast as bp, numpy as np
    >>> X, y = np.random.default_rng(0).normal(size=(100, 4)), np.arange(100) % 3
    >>> net = bp.Network([bp.Dense(8, "relu"), bp.Dense(3)], n_inputs=4, loss="cross_entropy")
    >>> history = net.fit(X, y, epochs=3, callbacks=[bp.Checkpoint("run.safetensors")])
    >>> history = net.fit(X, y, epochs=5, resume="run.safetensors")  # two epochs more
    >>> len(history)
    5
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        every: int = 1,
        *,
        batches: int | None = None,
        keep: int = 1,
        best: bool = False,
        monitor: str | None = None,
    ) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"Checkpoint: path must be the name of a file; got {path!r}")
        if monitor is not None and not isinstance(monitor, str):
            raise TypeError(f"Checkpoint: monitor must be a column's name; got {monitor!r}")
        self.path = os.fspath(path)
        self.every = integer("Checkpoint", "every", every, at_least=1)
        self.batches = None if batches is None else integer("Checkpoint", "batches", batches, at_least=1)
        self.keep = integer("Checkpoint", "keep", keep, at_least=1)
        self.best = flag("Checkpoint", "best", best)
        self.monitor = monitor
        self.best_value, self.best_epoch = math.nan, -1
        self._best: tuple[dict[str, Any], Array] | None = None
        self._run: Run | None = None

    def place(self, which: int | str) -> str:
        """Where the checkpoint so many before the last is, or the best."""
        stem, ending = os.path.splitext(self.path)
        return self.path if which == 0 else f"{stem}.{which}{ending}"

    def begin(self, run: Run) -> None:
        """Keep this run from now on."""
        require_place(self.path)
        self._run = run

    def on_fit_begin(self, network: Network, history: History) -> None:
        if self._run is None or self._run.network is not network:
            raise ValueError("Checkpoint keeps the runs of Network.fit alone; pickle an estimator instead")
        if self.best and self.monitor is not None and self.monitor not in history:
            raise ValueError(
                f"Checkpoint monitors {self.monitor!r}, which this fit does not record "
                f"(recorded: {', '.join(history.columns)})"
            )
        self.best_value, self.best_epoch, self._best = math.nan, -1, None
        # What a killed process had begun to write.
        for which in (*range(self.keep), "best"):
            for left in glob.glob(f"{glob.escape(os.path.realpath(self.place(which)))}.*.tmp"):
                if re.fullmatch(r"\.[0-9a-f]{8}\.tmp", left[-13:]):
                    os.unlink(left)

    def on_fit_end(self, network: Network, history: History) -> None:
        self._run = self._best = None

    def state(self) -> dict[str, Any]:
        return {
            "file": os.path.basename(self.path),
            "monitor": self.monitor,
            "best_value": self.best_value,
            "best_epoch": self.best_epoch,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        best_epoch = integer("Checkpoint", "best_epoch", state["best_epoch"], at_least=-1)
        if state["monitor"] == self.monitor:
            self.best_value, self.best_epoch = float(state["best_value"]), best_epoch

    def look(self) -> None:
        """An epoch has ended; perhaps it is the best."""
        assert self._run is not None
        network, history = self._run.network, self._run.history
        if self.best:
            monitor = self.monitor or ("val_loss" if "val_loss" in history else "loss")
            value = history[monitor][-1]
            if math.isnan(self.best_value) or direction(monitor) * (self.best_value - value) > 0:
                self.best_value, self.best_epoch = value, len(history) - 1
                self._best = (files.describe(network), network._flat.copy())

    def after_epoch(self, last: bool) -> None:
        """Every callback has seen the end of an epoch, perhaps of the last one."""
        assert self._run is not None
        if last or len(self._run.history) % self.every == 0:
            self.write()

    def _write_best(self) -> None:
        """The best network's file, as the state tells of it."""
        if self._best is not None:
            assert self._run is not None
            header, flat = self._best
            views = self._run.network.program.views
            files.write(self.place("best"), header, views(flat) | views(flat, trained=False))
            self._best = None

    def write(self, progress: Progress | None = None) -> None:
        """Write a checkpoint, within an epoch if its progress is given; the ones before move on."""
        assert self._run is not None
        for callback in self._run.callbacks:
            if isinstance(callback, Checkpoint):
                callback._write_best()
        header, tensors = _record(self._run, progress)
        for age in range(self.keep - 1, 0, -1):
            if os.path.isfile(self.place(age - 1)):
                _move_on(self.place(age - 1), self.place(age))
        files.write(self.path, header, tensors)


def _move_on(path: str, older: str) -> None:
    """Give a file another name beside its own, which is never without a whole file."""
    if os.path.exists(older) and os.path.samefile(path, older):
        return  # A kill has left it so; to rename one name of a file to another does nothing.
    temporary = f"{os.path.realpath(older)}.{os.urandom(4).hex()}.tmp"
    try:
        os.link(path, temporary)
    except OSError:  # a file system without links
        shutil.copyfile(path, temporary)
    os.replace(temporary, older)


def _record(run: Run, progress: Progress | None) -> tuple[dict[str, Any], dict[str, Array]]:
    """The header and the tensors of a checkpoint."""
    network, state = run.network, run.network._state
    assert state is not None
    views = network.program.views
    arrays: dict[str, Array] = {}
    for name, values in zip(state.optimizer.state, state.arrays, strict=True):
        arrays |= {f"optimizer.{name}/{key}": view for key, view in views(values).items()}
    arrays |= {f"history/{name}": np.array(column) for name, column in run.history.columns.items()}
    if progress is not None:
        assert run.good is not None
        arrays |= {"epoch/losses": progress.losses, "epoch/counts": progress.counts}
        good = views(run.good) | views(run.good, trained=False)
        arrays |= {f"good/{key}": view for key, view in good.items()}
    kept = pack_states(run.callbacks, arrays)
    done = 0 if progress is None else progress.done
    training = {
        "arguments": run.arguments,
        "epochs": len(run.history),
        "batch": done,
        "ended": run.ended,
        "optimizer": state.optimizer.config(),
        "optimizer_steps": state.steps,
        "clock": _pack(asdict(state.clock), arrays, "clock"),
        "history": list(run.history.columns),
        "callbacks": kept,
        "arrays": {name: [files.dtype_name(array), list(array.shape)] for name, array in arrays.items()},
    }
    header = files.describe(network)
    header["steps"] += done
    return header | {"training": training}, {**network.parameters, **network.statistics, **arrays}


def pack_states(callbacks: Sequence[Callback], arrays: dict[str, Array]) -> list[dict[str, Any]]:
    """The states of those callbacks that have one, as JSON and arrays beside it."""
    kept = []
    for index, callback in enumerate(callbacks):
        name, state = type(callback).__name__, callback.state()
        if state:
            try:
                kept.append({"name": name, "state": _pack(state, arrays, f"callbacks.{index}")})
            except TypeError as error:
                raise TypeError(f"Checkpoint can't keep the state of {name}: {error}") from None
    return kept


def _pack(value: Any, arrays: dict[str, Array], name: str) -> Any:
    """A state as JSON; arrays go beside it."""
    if isinstance(value, np.ndarray):
        files.dtype_name(value)
        arrays[name] = np.array(value, order="C")
        return {"$array": name}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        if any(not isinstance(key, str) or key.startswith("$") for key in value):
            raise TypeError(f"the keys of a state must be texts that begin with no $; got {list(value)!r}")
        return {key: _pack(item, arrays, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_pack(item, arrays, f"{name}.{index}") for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"numbers, texts, arrays, lists and dicts of them are wanted; got {type(value).__name__}")


def unpack(value: Any, file: files.Stored, arrays: set[str]) -> Any:
    """A state from JSON; `arrays` are those that it may have, each of them once."""
    if isinstance(value, list):
        return [unpack(item, file, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"$array"}:
        arrays.remove(value["$array"])
        return file.read(value["$array"])
    if set(value) == {"$float"}:
        return float(value["$float"])
    return {key: unpack(item, file, arrays) for key, item in value.items()}


def require_like(file: files.Stored, key: str, like: Array) -> None:
    """Refuse a file whose tensor has not this array's dtype and shape."""
    if file.tensors.get(key) != (files.dtype_name(like), like.shape):
        raise files.UnfitError(
            f"{file.name!r} is damaged: {key} is not {like.dtype} of the shape {like.shape}"
        )


def optimizer_state(network: Network, file: files.Stored) -> OptimizerState | None:
    """The state of a checkpoint's optimizer for a network; None for a plain model."""
    training = file.header.get("training")
    if training is None:
        return None
    try:
        optimizer = optimizers.from_config(training["optimizer"])
        steps = integer("its header", "optimizer_steps", training["optimizer_steps"], at_least=0)
        clock = _clock(unpack(training["clock"], file, set()))
    except files.UNREADABLE as error:
        raise files.UnfitError(f"{file.name!r} can't be read: {error}") from None
    for name in optimizer.state:  # before any memory is made for it
        for key, view in network.parameters.items():
            require_like(file, f"optimizer.{name}/{key}", view)
    state = OptimizerState.initial(optimizer, network.program.size, network.dtype)
    state.steps, state.clock = steps, clock
    for name, values in zip(optimizer.state, state.arrays, strict=True):
        for key, view in network.program.views(values).items():
            view[...] = file.read(f"optimizer.{name}/{key}")
    return state


def _clock(values: Mapping[str, Any]) -> Clock:
    if set(values) != {entry.name for entry in fields(Clock)}:
        raise ValueError(f"its clock has {', '.join(values)}")
    numbers = {key: float(values[key]) for key in ("scale", "best")}
    counts = {key: integer("its clock", key, values[key], at_least=0) for key in ("epoch", "waited")}
    return Clock(**counts, **numbers)  # type: ignore[arg-type]
