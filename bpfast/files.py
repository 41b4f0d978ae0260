"""Model files: safetensors with the architecture as JSON in the header. Nothing loaded is executed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from .layers import layers
from .losses import CustomLoss, Loss, losses, resolve_loss
from .network import Network
from .program import compile_program
from .specs import integer

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1


def save(network: Network, path: str | os.PathLike[str]) -> None:
    """Write a network to a file: whole or not at all."""
    from safetensors.numpy import save as serialize

    header = {
        "format": FORMAT,
        "layers": [layer.config() for layer in network.layers],
        "n_inputs": network.n_inputs,
        "loss": network.loss_spec.config(),
        "dtype": str(network.dtype),
        "seed": network.seed,
        "epochs": network.epochs,
        "steps": network._steps,
        "learning_rate_scales": network._rates,
        "metadata": network.metadata,
    }
    tensors = {**network.parameters, **network.statistics}
    data = serialize(tensors, {"bpfast": json.dumps(header, allow_nan=False)})
    write_atomically(path, data)


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write beside the target, flush to disk, then take its name.

    A link is followed; what is no regular file (a pipe, a device) is written to as it is.
    """
    target = os.path.realpath(os.fspath(path))
    if os.path.isdir(target):
        raise IsADirectoryError(f"{os.fspath(path)!r} is a folder; the name of a file is wanted")
    if not os.path.isdir(os.path.dirname(target)):
        raise FileNotFoundError(f"there is no folder {os.path.dirname(target)!r}")
    if os.path.exists(target) and not os.path.isfile(target):
        with open(target, "wb") as special:
            special.write(data)
        return
    temporary = f"{target}.{os.urandom(4).hex()}.tmp"
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def load(
    path: str | os.PathLike[str] | Path,
    *,
    loss: Any = None,
    threads: int | None = None,
    backend: str | None = None,
) -> Network:
    """Read a network from a file that `Network.save` wrote.

    Parameters
    ----------
    path : path
    loss : Loss or callable, optional
        In place of the loss in the file; a model with a custom loss needs it.
    threads, backend
        As for `Network`.

    Raises
    ------
    ValueError
        If the file is not a model, is damaged, or was written by a newer version.
    """
    from safetensors import SafetensorError, safe_open

    name = os.fspath(path)
    if not os.path.isfile(name):
        raise FileNotFoundError(f"there is no model file {name!r}")
    try:
        with safe_open(name, framework="numpy") as file:
            metadata = file.metadata() or {}
            if "bpfast" not in metadata:
                raise _UnfitError(f"{name!r} is a safetensors file, but no bpfast model")
            # What the header promises is held against the file before any memory is made for it.
            header = _header(name, metadata["bpfast"])
            found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            _compare(name, header, found)
            tensors = {key: file.get_tensor(key) for key in found}
    except _UnfitError as error:
        raise ValueError(str(error)) from None
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ValueError(f"{name!r} is not a model file, or is damaged: {error}") from None
    network = _rebuild(name, header, loss, threads, backend)
    places = {**network.parameters, **network.statistics}
    for key, array in tensors.items():
        if array.dtype != network.dtype:
            raise ValueError(f"{name!r} is damaged: {key} is {array.dtype}, not {network.dtype}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name!r} holds a network that is broken: {key} is not finite")
        if key in network.statistics and key.endswith(".variance") and array.min() < 0:
            raise ValueError(f"{name!r} holds a network that is broken: {key} is below 0")
        places[key][...] = array
    return network


class _UnfitError(Exception):
    """A file whose header says that it can't be loaded, and why."""


def _header(name: str, text: str) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise _UnfitError(f"{name!r} can't be read: its header is not JSON") from None
    if not isinstance(header, dict) or not isinstance(header.get("format"), int):
        raise _UnfitError(f"{name!r} can't be read: its header has no format number")
    if header["format"] > FORMAT:
        raise _UnfitError(
            f"{name!r} can't be read: its format is {header['format']}, this version reads up to "
            f"{FORMAT}; update bpfast"
        )
    return header


def _compare(name: str, header: dict[str, Any], found: dict[str, tuple[int, ...]]) -> None:
    try:
        n_inputs = integer("its header", "n_inputs", header["n_inputs"], at_least=1)
        if not header["layers"]:
            raise ValueError("layers must be a list of at least one layer")
        program = compile_program([layers.from_config(config) for config in header["layers"]], n_inputs)
    except UNREADABLE as error:
        raise _UnfitError(f"{name!r} can't be read: {_spell(error)}") from None
    expected = {p.name: p.shape for p in program.parameters}
    if expected != found:
        raise _UnfitError(f"{name!r} is damaged: its header says {expected}, its tensors are {found}")


UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, IndexError)


def _spell(error: BaseException) -> str:
    return f"its header has no {error}" if isinstance(error, KeyError) else str(error)


def _rebuild(
    name: str, header: dict[str, Any], loss: Any, threads: int | None, backend: str | None
) -> Network:
    try:
        network = Network(
            [layers.from_config(config) for config in header["layers"]],
            n_inputs=header["n_inputs"],
            loss=_rebuild_loss(header["loss"]) if loss is None else resolve_loss(loss),
            dtype=header["dtype"],
            seed=header["seed"],
            threads=threads,
            backend=backend,
        )
        network._epochs = integer("its header", "epochs", header["epochs"], at_least=0)
        network._steps = integer("its header", "steps", header.get("steps", 0), at_least=0)
        network.scale_learning_rates(header.get("learning_rate_scales", {}))
        network.metadata = {str(k): str(v) for k, v in header["metadata"].items()}
    except UNREADABLE as error:
        raise ValueError(f"{name!r} can't be read: {_spell(error)}") from None
    return network


def _rebuild_loss(config: Any) -> Loss:
    if isinstance(config, dict) and config.get("name") == CustomLoss.name:
        raise ValueError("its loss is a Python function; pass loss= to load")
    return losses.from_config(config)


@contextlib.contextmanager
def open_atomically(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write part by part: it takes its name at the end, or leaves nothing behind.

    A link is followed; what is no regular file (a pipe, a device) is written to at the end.
    """
    target = os.path.realpath(os.fspath(path))
    if os.path.exists(target) and not os.path.isfile(target):
        with tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            with open(target, "wb") as special:
                shutil.copyfileobj(file, special)
        return
    temporary = f"{target}.{os.urandom(4).hex()}.tmp"
    try:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
