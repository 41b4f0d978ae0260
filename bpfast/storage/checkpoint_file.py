"""Checkpoint files: the header and tensors that a checkpoint adds to a model file.

A checkpoint is a model file (`bpfast.storage.model_file`), which `bpfast.load` reads too. Its header has
one more entry, ``training``:

- ``arguments``: the arguments of `fit`, and fingerprints of the data.
- ``epochs``, ``batch``: number of whole epochs of the run, and of batches of the current epoch.
- ``ended``: whether a callback has ended the run.
- ``optimizer``, ``optimizer_steps``, ``clock``: the optimizer, its steps, and the clock of its schedule.
- ``history``, ``callbacks``: names of the history's columns, and states of the callbacks.
- ``arrays``: dtype and shape of the tensors other than the network's: ``optimizer.NAME/PARAMETER`` (state of
  the optimizer), ``history/COLUMN``, ``epoch/losses`` and ``epoch/counts`` (of the current epoch),
  ``good/NAME`` (the network before the current epoch), ``callbacks.I.NAME``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from .._state import NetworkState
from ..arrays import Array
from ..engine.interface import OptimizerState
from ..specs.optimizers import optimizers
from ..specs.schedules import Clock
from ..specs.spec import integer
from .model_file import UNREADABLE, Stored, UnfitError, dtype_name


def pack(value: Any, arrays: dict[str, Array], name: str) -> Any:
    """Return a state as JSON; its arrays are added to `arrays` under names that begin with `name`."""
    if isinstance(value, np.ndarray):
        dtype_name(value)
        arrays[name] = np.array(value, order="C")
        return {"$array": name}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        if any(not isinstance(key, str) or key.startswith("$") for key in value):
            raise TypeError(f"keys of a state must be strings that do not begin with $; got {list(value)!r}")
        return {key: pack(item, arrays, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [pack(item, arrays, f"{name}.{index}") for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"a state must consist of numbers, strings, arrays, lists and dicts; got {type(value).__name__}"
    )


def unpack(value: Any, file: Stored, arrays: set[str]) -> Any:
    """Return a state from JSON; `arrays` are the names it may refer to, each at most once."""
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


def require_like(file: Stored, key: str, like: Array) -> None:
    """Raise UnfitError unless a tensor has the dtype and shape of an array."""
    if file.tensors.get(key) != (dtype_name(like), like.shape):
        raise UnfitError(
            f"{file.name!r} is damaged: {key} must have dtype {like.dtype} and shape {like.shape}"
        )


def read_optimizer_state(state: NetworkState, file: Stored) -> OptimizerState | None:
    """Read the state of a checkpoint's optimizer for a network; None for a plain model."""
    training = file.header.get("training")
    if training is None:
        return None
    try:
        optimizer = optimizers.from_config(training["optimizer"])
        steps = integer("its header", "optimizer_steps", training["optimizer_steps"], at_least=0)
        clock = _clock(unpack(training["clock"], file, set()))
    except UNREADABLE as error:
        raise UnfitError(f"{file.name!r} cannot be read: {error}") from None
    for name in optimizer.state:  # Checked before memory is allocated.
        for key, view in state.parameters.items():
            require_like(file, f"optimizer.{name}/{key}", view)
    optimizer_state = OptimizerState.initial(optimizer, state.program.size, state.dtype)
    optimizer_state.steps, optimizer_state.clock = steps, clock
    for name, values in zip(optimizer.state, optimizer_state.arrays, strict=True):
        for key, view in state.program.views(values).items():
            view[...] = file.read(f"optimizer.{name}/{key}")
    return optimizer_state


def _clock(values: Mapping[str, Any]) -> Clock:
    if set(values) != {entry.name for entry in fields(Clock)}:
        raise ValueError(f"its clock has the entries {', '.join(values)}")
    numbers = {key: float(values[key]) for key in ("scale", "best")}
    counts = {key: integer("its clock", key, values[key], at_least=0) for key in ("epoch", "waited")}
    return Clock(**counts, **numbers)  # type: ignore[arg-type]
