"""Checkpoints in files: what a model file's header and tensors have beside the network's own.

A checkpoint is a model file (`bpfast.storage.model_file`), which `bpfast.load` reads too, with one more
entry in its header, ``training``:

- ``arguments``: the arguments of `fit`, and fingerprints of the data.
- ``epochs``, ``batch``: whole epochs of the run, and batches of the current one.
- ``ended``: whether a callback has ended the run.
- ``optimizer``, ``optimizer_steps``, ``clock``: the rule, its steps, and the schedule's time.
- ``history``, ``callbacks``: the names of the columns; the states of the callbacks.
- ``arrays``: dtype and shape of each tensor beside the network's: ``optimizer.NAME/PARAMETER`` (the
  rule's state), ``history/COLUMN``, ``epoch/losses`` and ``epoch/counts`` (of the current epoch),
  ``good/NAME`` (the network at its beginning), ``callbacks.I.NAME``.
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
    """A state as JSON; arrays go beside it."""
    if isinstance(value, np.ndarray):
        dtype_name(value)
        arrays[name] = np.array(value, order="C")
        return {"$array": name}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        if any(not isinstance(key, str) or key.startswith("$") for key in value):
            raise TypeError(f"the keys of a state must be texts that begin with no $; got {list(value)!r}")
        return {key: pack(item, arrays, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [pack(item, arrays, f"{name}.{index}") for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"numbers, texts, arrays, lists and dicts of them are wanted; got {type(value).__name__}")


def unpack(value: Any, file: Stored, arrays: set[str]) -> Any:
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


def require_like(file: Stored, key: str, like: Array) -> None:
    """Refuse a file whose tensor has not this array's dtype and shape."""
    if file.tensors.get(key) != (dtype_name(like), like.shape):
        raise UnfitError(f"{file.name!r} is damaged: {key} is not {like.dtype} of the shape {like.shape}")


def read_optimizer_state(state: NetworkState, file: Stored) -> OptimizerState | None:
    """The state of a checkpoint's optimizer for a network; None for a plain model."""
    training = file.header.get("training")
    if training is None:
        return None
    try:
        optimizer = optimizers.from_config(training["optimizer"])
        steps = integer("its header", "optimizer_steps", training["optimizer_steps"], at_least=0)
        clock = _clock(unpack(training["clock"], file, set()))
    except UNREADABLE as error:
        raise UnfitError(f"{file.name!r} can't be read: {error}") from None
    for name in optimizer.state:  # before any memory is made for it
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
        raise ValueError(f"its clock has {', '.join(values)}")
    numbers = {key: float(values[key]) for key in ("scale", "best")}
    counts = {key: integer("its clock", key, values[key], at_least=0) for key in ("epoch", "waited")}
    return Clock(**counts, **numbers)  # type: ignore[arg-type]
