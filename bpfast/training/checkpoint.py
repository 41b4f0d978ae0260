"""Checkpoint: a callback that writes a training run to a file, from which it can be resumed exactly."""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .._state import BaseNetwork, NetworkState
from ..arrays import Array
from ..specs.monitor import direction, improves
from ..specs.optimizers import Optimizer
from ..specs.spec import flag, integer
from ..storage import model_file
from ..storage.atomic import require_place
from ..storage.checkpoint_file import pack
from .callbacks import Callback
from .epoch import Progress
from .history import History


@dataclass(eq=False)
class FitRun:
    """A training run, as a checkpoint stores it.

    Attributes
    ----------
    network, state, optimizer, history, callbacks
        Those of `fit`.
    arguments : dict
        Everything else that the result depends on; a resumed run must have the same.
    last_good : array or None
        Flat vector of the network before the current epoch.
    ended : bool
        Whether a callback has ended the run.
    """

    network: BaseNetwork
    state: NetworkState
    optimizer: Optimizer
    history: History
    callbacks: Sequence[Callback]
    arguments: dict[str, Any]
    last_good: Array | None = None
    ended: bool = False


class Checkpoint(Callback):
    """Write checkpoints of a training run, which ``fit(..., resume=path)`` continues exactly.

    The resumed run is bitwise identical to an uninterrupted one. Files are replaced atomically: a process
    killed at any moment leaves the previous checkpoint. `bpfast.load` reads a checkpoint as a model too.
    Next to ``run.safetensors``, earlier checkpoints are kept as ``run.1.safetensors``,
    ``run.2.safetensors``, …, and the best epoch as ``run.best.safetensors`` (a plain model), if requested.
    L-BFGS cannot be checkpointed, because SciPy holds its memory.

    Parameters
    ----------
    path : path
        File to write.
    every : int, default 1
        Number of epochs between checkpoints; one is also written at the end of the run.
    batches : int, optional
        Number of batches between checkpoints within an epoch, for long epochs; none by default. Results
        are bitwise identical with and without.
    keep : int, default 1
        Number of checkpoints to keep, the last one included.
    best : bool, default False
        Whether to keep the network of the best epoch as well.
    monitor : str, optional
        Column of the history that decides which epoch is best; by default ``val_loss``, or ``loss``
        without validation data.

    Attributes
    ----------
    best_value : float
        Best value of the monitored column; NaN before the first epoch.
    best_epoch : int
        Epoch of the best value, from 0 within the run; -1 before the first epoch.

    Examples
    --------
    >>> import bpfast as bp, numpy as np
    >>> X, y = np.random.default_rng(0).normal(size=(100, 4)), np.arange(100) % 3
    >>> net = bp.Network([bp.Dense(8, "relu"), bp.Dense(3)], n_inputs=4, loss="cross_entropy")
    >>> history = net.fit(X, y, epochs=3, callbacks=[bp.Checkpoint("run.safetensors")])
    >>> history = net.fit(X, y, epochs=5, resume="run.safetensors")  # two more epochs
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
            raise TypeError(f"Checkpoint: monitor must be the name of a column; got {monitor!r}")
        self.path = os.fspath(path)
        self.every = integer("Checkpoint", "every", every, at_least=1)
        self.batches = None if batches is None else integer("Checkpoint", "batches", batches, at_least=1)
        self.keep = integer("Checkpoint", "keep", keep, at_least=1)
        self.best = flag("Checkpoint", "best", best)
        self.monitor = monitor
        self.best_value, self.best_epoch = math.nan, -1
        self._best: tuple[dict[str, Any], Array] | None = None
        self._run: FitRun | None = None

    def place(self, which: int | str) -> str:
        """Return the path of a checkpoint: 0 for the last, n for the n-th before it, or "best"."""
        stem, ending = os.path.splitext(self.path)
        return self.path if which == 0 else f"{stem}.{which}{ending}"

    def begin(self, run: FitRun) -> None:
        """Attach to a run, before its first epoch."""
        require_place(self.path)
        self._run = run

    def on_fit_begin(self, network: Any, history: History) -> None:
        if self._run is None or self._run.network is not network:
            raise ValueError("Checkpoint supports Network.fit only; pickle an estimator instead")
        if self.best and self.monitor is not None and self.monitor not in history:
            raise ValueError(
                f"Checkpoint monitors {self.monitor!r}, which this fit does not record "
                f"(recorded: {', '.join(history.columns)})"
            )
        self.best_value, self.best_epoch, self._best = math.nan, -1, None
        # Remove what a killed process left half written.
        for which in (*range(self.keep), "best"):
            for name in glob.glob(f"{glob.escape(os.path.realpath(self.place(which)))}.*.tmp"):
                if re.fullmatch(r"\.[0-9a-f]{8}\.tmp", name[-13:]):
                    os.unlink(name)

    def on_fit_end(self, network: Any, history: History) -> None:
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

    def update_best(self) -> None:
        """Keep the network of the epoch that has just ended, if it is the best so far."""
        assert self._run is not None
        state, history = self._run.state, self._run.history
        if self.best:
            monitor = self.monitor or ("val_loss" if "val_loss" in history else "loss")
            value = history[monitor][-1]
            if improves(value, self.best_value, direction(monitor)):
                self.best_value, self.best_epoch = value, len(history) - 1
                self._best = (model_file.describe(state), state.flat.copy())

    def after_epoch(self, last: bool) -> None:
        """Write a checkpoint if one is due after this epoch."""
        assert self._run is not None
        if last or len(self._run.history) % self.every == 0:
            self.write()

    def _write_best(self) -> None:
        """Write the file of the best network, if it has changed."""
        if self._best is not None:
            assert self._run is not None
            header, flat = self._best
            views = self._run.state.program.views
            model_file.write(self.place("best"), header, views(flat) | views(flat, trained=False))
            self._best = None

    def write(self, progress: Progress | None = None) -> None:
        """Write a checkpoint, within an epoch if its progress is given; rename the earlier ones."""
        assert self._run is not None
        for callback in self._run.callbacks:
            if isinstance(callback, Checkpoint):
                callback._write_best()
        header, tensors = _record(self._run, progress)
        for age in range(self.keep - 1, 0, -1):
            if os.path.isfile(self.place(age - 1)):
                _rename(self.place(age - 1), self.place(age))
        model_file.write(self.path, header, tensors)


def _rename(path: str, older: str) -> None:
    """Give a file a second name, so that `path` exists at every moment."""
    if os.path.exists(older) and os.path.samefile(path, older):
        return  # Left so by a killed process; `os.replace` of two names of one file does nothing.
    temporary = f"{os.path.realpath(older)}.{os.urandom(4).hex()}.tmp"
    try:
        os.link(path, temporary)
    except OSError:  # a file system without links
        # Imported here, because few processes need it and `import bpfast` should be fast.
        import shutil

        shutil.copyfile(path, temporary)
    os.replace(temporary, older)


def _record(run: FitRun, progress: Progress | None) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the header and the tensors of a checkpoint."""
    state, optimizer_state = run.state, run.state.optimizer_state
    assert optimizer_state is not None
    views = state.program.views
    arrays: dict[str, Array] = {}
    for name, values in zip(optimizer_state.optimizer.state, optimizer_state.arrays, strict=True):
        arrays |= {f"optimizer.{name}/{key}": view for key, view in views(values).items()}
    arrays |= {f"history/{name}": np.array(column) for name, column in run.history.columns.items()}
    if progress is not None:
        assert run.last_good is not None
        arrays |= {"epoch/losses": progress.losses, "epoch/counts": progress.counts}
        good = views(run.last_good) | views(run.last_good, trained=False)
        arrays |= {f"good/{key}": view for key, view in good.items()}
    kept = pack_states(run.callbacks, arrays)
    done = 0 if progress is None else progress.done
    training = {
        "arguments": run.arguments,
        "epochs": len(run.history),
        "batch": done,
        "ended": run.ended,
        "optimizer": optimizer_state.optimizer.config(),
        "optimizer_steps": optimizer_state.steps,
        "clock": pack(asdict(optimizer_state.clock), arrays, "clock"),
        "history": list(run.history.columns),
        "callbacks": kept,
        "arrays": {name: [model_file.dtype_name(array), list(array.shape)] for name, array in arrays.items()},
    }
    header = model_file.describe(state)
    header["steps"] += done
    return header | {"training": training}, {**state.parameters, **state.statistics, **arrays}


def pack_states(callbacks: Sequence[Callback], arrays: dict[str, Array]) -> list[dict[str, Any]]:
    """Return the states of the callbacks that have one as JSON; their arrays are added to `arrays`."""
    kept = []
    for index, callback in enumerate(callbacks):
        name, state = type(callback).__name__, callback.state()
        if state:
            try:
                kept.append({"name": name, "state": pack(state, arrays, f"callbacks.{index}")})
            except TypeError as error:
                raise TypeError(f"Checkpoint cannot store the state of {name}: {error}") from None
    return kept
