"""Loading: networks are built from model files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._state import NetworkState
from ..arrays.threads import check_threads
from ..backends import resolve_backend
from ..engine.program import MAX_OPS, compile_program
from ..specs.layers import layers
from ..specs.losses import CustomLoss, Loss, losses, resolve_loss
from ..specs.spec import integer, number
from .checkpoint_file import read_optimizer_state
from .model_file import UNREADABLE, Stored, UnfitError, describe_error, stored


def load_state(
    path: str | os.PathLike[str], *, loss: Any = None, threads: int | None = None, backend: str | None = None
) -> NetworkState:
    """Read a network, and the optimizer's state if the file is a checkpoint; see `bpfast.load`."""
    given = None if loss is None else resolve_loss(loss)
    threads, backend = check_threads(threads), resolve_backend(backend)
    with stored(path) as file:
        state = _rebuild(file, given, threads, backend)
        complaint = read_parameters(state, file)
        optimizer_state = read_optimizer_state(state, file)
        file.verify()
        if complaint is not None:
            raise UnfitError(complaint)
        state.optimizer_state = optimizer_state
    return state


def _rebuild(file: Stored, loss: Loss | None, threads: int | None, backend: str | None) -> NetworkState:
    """Build the network that a header describes, with parameters 0."""
    header = file.header
    try:
        n_inputs = integer("its header", "n_inputs", header["n_inputs"], at_least=1)
        _require_few(header["layers"])
        specs = [layers.from_config(config) for config in header["layers"]]
        if not specs:
            raise ValueError("layers must be a list of at least one layer")
        program = compile_program(specs, n_inputs)
        if header["dtype"] not in ("float32", "float64"):
            raise ValueError(f"dtype must be 'float32' or 'float64'; got {header['dtype']!r}")
        file.compare(program, np.dtype(header["dtype"]))
        state = NetworkState(
            specs,
            n_inputs=n_inputs,
            loss=_rebuild_loss(header["loss"]) if loss is None else loss,
            dtype=header["dtype"],
            seed=header["seed"],
            threads=threads,
            backend=backend,
            initialize=False,
        )
        read_counters(state, header)
    except UNREADABLE as error:
        raise UnfitError(f"{file.name!r} cannot be read: {describe_error(error)}") from None
    return state


def _require_few(configs: Any) -> None:
    """Raise ValueError for more layers than a network may have, before they are built."""
    waiting, count = [configs], 0
    while waiting:
        within = waiting.pop()
        count += len(within)
        if count > MAX_OPS:
            raise ValueError(f"it has more than {MAX_OPS} layers")
        inner = [config.get("layers") for config in within if isinstance(config, dict)]
        waiting += [value for value in inner if isinstance(value, list)]


def read_counters(state: NetworkState, header: Mapping[str, Any]) -> None:
    """Set seed, counters, learning rate scales and metadata from a header."""
    state.seed = integer("its header", "seed", header["seed"], at_least=0)
    state.epochs = integer("its header", "epochs", header["epochs"], at_least=0)
    state.steps = integer("its header", "steps", header.get("steps", 0), at_least=0)
    lr_scales = {}
    for key, scale in header.get("learning_rate_scales", {}).items():
        if key not in state.parameters:
            raise ValueError(f"its header scales the learning rate of {key!r}, which is not a parameter")
        lr_scales[key] = number("its header", f"learning_rate_scales[{key!r}]", scale, at_least=0)
    state.lr_scales = {key: scale for key, scale in lr_scales.items() if scale != 1}
    state.metadata = {str(k): str(v) for k, v in header["metadata"].items()}


def read_parameters(state: NetworkState, file: Stored) -> str | None:
    """Read a network's parameters and statistics; return what is wrong with them, or None."""
    complaint = None
    for key, view in {**state.parameters, **state.statistics}.items():
        view[...] = file.read(key)
        if not np.isfinite(view).all():
            complaint = complaint or f"{key} contains NaN or infinity"
        elif key in state.statistics and key.endswith(".variance") and view.min() < 0:
            complaint = complaint or f"{key} contains a negative value"
    return None if complaint is None else f"{file.name!r} holds a network with invalid values: {complaint}"


def _rebuild_loss(config: Any) -> Loss:
    if isinstance(config, dict) and config.get("name") == CustomLoss.name:
        raise ValueError("its loss is a Python function; pass loss= to load")
    return losses.from_config(config)
