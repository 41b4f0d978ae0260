"""Model files: safetensors with the architecture as JSON in the header. Nothing loaded is executed.

The metadata of the safetensors header has one entry, ``bpfast``: a JSON object of ``sha256``, ``format``
(the number of this description: 2), ``layers``, ``n_inputs``, ``loss``, ``dtype``, ``seed``, ``epochs``,
``steps``, ``learning_rate_scales``, ``metadata`` (texts kept with the model, such as the preparation of
the command line), and in a checkpoint ``training`` (see `bpfast.checkpoint`).

``sha256`` comes first. It is that of the JSON's UTF-8, with 64 zeros in its own place, and, for each tensor
in the order of the names, of the line ``name dtype shape``, as in ``0.W F32 [64, 10]``, and the SHA-256
of its bytes; see `checksum`. Format 1 had none.

The tensors are the parameters and running statistics by their names in `Network`, and in a checkpoint
those that ``training`` lists.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Array, checks
from ..backends import resolve_backend
from ..engine.program import MAX_OPS, Program, compile_program
from ..network import Network
from ..specs.layers import layers
from ..specs.losses import CustomLoss, Loss, losses, resolve_loss
from ..specs.spec import integer, number
from .atomic import write_atomically

if TYPE_CHECKING:
    from pathlib import Path


FORMAT = 2
#: The tensors that a file may hold, by their names in safetensors.
DTYPES = {"F32": np.dtype("f4"), "F64": np.dtype("f8"), "I64": np.dtype("i8"), "BOOL": np.dtype("?")}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
#: Bytes of a header, at most; of its JSON outside of texts, which becomes objects many times its size;
#: tensors.
MAX_HEADER, MAX_STRUCTURE, MAX_TENSORS = 2**24, 2**21, 2**17
_TEXT = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
#: Characters of what is said of a file, beside its name.
_LONGEST = 400
#: What the checksum's place holds while it is taken.
UNSIGNED = "0" * 64
_SIGNED = re.compile(r'\{"sha256": "([0-9a-f]{64})", ')
#: What a header may have.
_ENTRIES = {"sha256", "format", "layers", "n_inputs", "loss", "dtype", "seed", "epochs", "steps"}
_ENTRIES |= {"learning_rate_scales", "metadata", "training"}


def save(network: Network, path: str | os.PathLike[str]) -> None:
    """Write a network to a file: whole or not at all."""
    write(path, describe(network), {**network.parameters, **network.statistics})


def describe(network: Network) -> dict[str, Any]:
    """The header of a network's file."""
    return {
        "format": FORMAT,
        "layers": [layer.config() for layer in network.layers],
        "n_inputs": network.n_inputs,
        "loss": network.loss_spec.config(),
        "dtype": str(network.dtype),
        "seed": network.seed,
        "epochs": network.epochs,
        "steps": network._steps,
        "learning_rate_scales": network._lr_scales,
        "metadata": network.metadata,
    }


def write(path: str | os.PathLike[str], header: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
    """Write a header and tensors with their checksum."""
    from safetensors.numpy import save as serialize

    text = json.dumps({"sha256": UNSIGNED, **header}, allow_nan=False)
    digests = {name: _digest(dtype_name(array), array) for name, array in tensors.items()}
    # One entry: several would come in an order of their own each time.
    metadata = {"bpfast": text.replace(UNSIGNED, checksum(text, digests), 1)}
    _require_short(text)
    data = serialize(dict(tensors), metadata)
    _require_header(_header_size(data))
    write_atomically(path, data)


def require_room(network: Network) -> None:
    """Refuse, before it is trained, a network whose header no file could have."""
    text = json.dumps(describe(network))
    _require_short(text)
    _require_header(len(json.dumps(text)))


def _require_short(text: str) -> None:
    """Refuse JSON that is much more than the description of a network."""
    if len(text) > MAX_STRUCTURE and len(_TEXT.sub("", text)) > MAX_STRUCTURE:
        raise ValueError(f"its header has more than {MAX_STRUCTURE} characters outside of texts")


def _require_header(size: int) -> None:
    if size > MAX_HEADER:
        raise ValueError(f"its header has {size} bytes; {MAX_HEADER} are the most")


def _header_size(data: bytes) -> int:
    """The bytes of a safetensors header, by the 8 bytes before it."""
    return int.from_bytes(data[:8], "little")


def dtype_name(array: Array) -> str:
    """What a tensor's dtype is called in a file."""
    if array.dtype not in _NAMES:
        raise TypeError(f"float32, float64, int64 or bool is wanted in a file; got {array.dtype}")
    return _NAMES[array.dtype]


def checksum(text: str, digests: Mapping[str, tuple[str, bytes]]) -> str:
    """The SHA-256 of a header's text and, by name, what `_digest` says of the tensors, in hexadecimal.

    The text has `UNSIGNED` in the checksum's place.
    """
    total = hashlib.sha256(text.encode("utf-8"))
    for name in sorted(digests):
        line, digest = digests[name]
        total.update(f"{name} {line}\n".encode())
        total.update(digest)
    return total.hexdigest()


def _digest(dtype: str, array: Array) -> tuple[str, bytes]:
    """A tensor's dtype and shape as text, and the SHA-256 of its bytes."""
    values = np.ascontiguousarray(array)
    return f"{dtype} {list(array.shape)}", hashlib.sha256(values.reshape(-1).view(np.uint8).data).digest()


class Stored:
    """A file that is being read: its header is checked, its tensors are read one by one.

    Attributes
    ----------
    name : str
        The path, for messages.
    header : dict
    tensors : dict of str to (dtype, shape)
        What the file holds.
    """

    def __init__(self, name: str, file: Any) -> None:
        self.name = name
        self._file = file
        metadata = file.metadata() or {}
        if "bpfast" not in metadata:
            raise UnfitError(f"{name!r} is a safetensors file, but no bpfast model")
        self.header = _header(name, metadata["bpfast"])
        strange = sorted((set(self.header) - _ENTRIES) | (set(metadata) - {"bpfast"}))
        if strange:
            raise UnfitError(f"{name!r} is damaged: its header has an entry {strange[0][:40]!r}")
        self._sha256 = None
        if self.header["format"] > 1 or "sha256" in self.header:
            signed = _SIGNED.match(metadata["bpfast"])
            if signed is None:
                raise UnfitError(f"{name!r} is damaged: its header does not begin with a checksum")
            self._sha256 = signed[1]
            self._text = metadata["bpfast"].replace(signed[1], UNSIGNED, 1)
        self._digests: dict[str, tuple[str, bytes]] = {}
        self.tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
        keys = file.keys()
        if len(keys) > MAX_TENSORS:
            raise UnfitError(f"{name!r} has {len(keys)} tensors; {MAX_TENSORS} are the most")
        for key in keys:
            part = file.get_slice(key)
            self.tensors[key] = (part.get_dtype(), tuple(part.get_shape()))
            if self.tensors[key][0] not in DTYPES:
                raise UnfitError(f"{name!r} is damaged: {key} is of the type {self.tensors[key][0]}")

    def read(self, key: str) -> Array:
        """A tensor."""
        array: Array = self._file.get_tensor(key)
        self._digests[key] = _digest(self.tensors[key][0], array)
        return array

    def verify(self) -> None:
        """Hold all that the file has against its checksum."""
        for key in self.tensors:
            if key not in self._digests:
                self.read(key)
        if self._sha256 is not None and self._sha256 != checksum(self._text, self._digests):
            raise UnfitError(f"{self.name!r} is damaged: its content does not have its checksum")

    def compare(self, program: Program, dtype: np.dtype[Any]) -> None:
        """Hold what the header promises against the tensors, before any memory is made for it."""
        expected = {p.name: (_NAMES[dtype], p.shape) for p in program.parameters}
        training = self.header.get("training")
        if training is not None:
            arrays = {key: (kind, tuple(shape)) for key, (kind, shape) in training["arrays"].items()}
            if not expected.keys().isdisjoint(arrays):
                raise UnfitError(f"{self.name!r} is damaged: two of its tensors have one name")
            expected |= arrays
        for key in [*expected, *self.tensors]:
            said, found = expected.get(key), self.tensors.get(key)
            if said is None or found is None or said[1] != found[1]:
                said_text = "none" if said is None else f"{said[1]}"
                raise UnfitError(
                    f"{self.name!r} is damaged: its header says {said_text} for {key[:80]}, its tensors are "
                    f"{'without it' if found is None else f'{found[1]}'}"
                )
            if said[0] != found[0]:
                raise UnfitError(
                    f"{self.name!r} is damaged: {key[:80]} is {DTYPES[found[0]]}, not "
                    f"{DTYPES.get(said[0], said[0])}"
                )


@contextlib.contextmanager
def stored(path: str | os.PathLike[str], what: str = "model") -> Iterator[Stored]:
    """Open a file for reading; whatever is wrong with it becomes a ValueError of one line."""
    from safetensors import SafetensorError, safe_open

    name = os.fspath(path)
    if not os.path.isfile(name):
        folder = " (it is a folder)" if os.path.isdir(name) else ""
        raise FileNotFoundError(f"there is no {what} file {name!r}{folder}")
    try:
        with open(name, "rb") as start:
            size = _header_size(start.read(8))
        _require_header(size)
        with safe_open(name, framework="numpy") as file:
            yield Stored(name, file)
    except UnfitError as error:
        raise refusal(str(error), name) from None
    except (SafetensorError, OSError, *UNREADABLE) as error:
        text = f"{name!r} is not a {what} file, or is damaged: {_spell(error)}"
        raise refusal(text, name) from None


def refusal(text: str, name: str) -> ValueError:
    """What is said of a file: one line that can be printed, whatever of the file is in it."""
    longest = _LONGEST + len(repr(name))
    shown = " ".join(text[: 2 * longest].split())
    shown = "".join(character if character.isprintable() else "?" for character in shown)
    return ValueError(shown if len(shown) <= longest else f"{shown[:longest]} …")


def load(
    path: str | os.PathLike[str] | Path,
    *,
    loss: Any = None,
    threads: int | None = None,
    backend: str | None = None,
) -> Network:
    """Read a network from a file that `Network.save` or a `Checkpoint` wrote.

    From a checkpoint the optimizer's state comes too: `fit` goes on with it, from a whole epoch on to the
    same bits. (`fit` with ``resume`` also goes on within an epoch, with history and callbacks.) The network
    of a model that `bpfast train` wrote takes prepared rows; raw ones go through `bpfast predict`.

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
        If the file is not a model, is damaged (its SHA-256 tells), or was written by a newer version.
    """
    from ..training.checkpoint import optimizer_state

    given = None if loss is None else resolve_loss(loss)
    threads, backend = checks.threads(threads), resolve_backend(backend)
    with stored(path) as file:
        network = _rebuild(file, given, threads, backend)
        complaint = fill(network, file)
        state = optimizer_state(network, file)
        file.verify()
        if complaint is not None:
            raise UnfitError(complaint)
        network._state = state
    return network


class UnfitError(Exception):
    """A file that can't be loaded, and why."""


def _header(name: str, text: str) -> dict[str, Any]:
    try:
        _require_short(text)
    except ValueError as error:
        raise UnfitError(f"{name!r} can't be read: {error}") from None
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise UnfitError(f"{name!r} can't be read: its header is not JSON") from None
    if not isinstance(header, dict) or type(header.get("format")) is not int or header["format"] < 1:
        raise UnfitError(f"{name!r} can't be read: its header has no format number")
    if header["format"] > FORMAT:
        raise UnfitError(
            f"{name!r} can't be read: its format is {header['format']}, this version reads up to "
            f"{FORMAT}; update bpfast"
        )
    return header


UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, IndexError)


def _spell(error: BaseException) -> str:
    return f"its header has no {error}" if isinstance(error, KeyError) else str(error)


def _rebuild(file: Stored, loss: Loss | None, threads: int | None, backend: str | None) -> Network:
    """The network of a header, its parameters 0."""
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
        network = Network.blank(
            specs,
            n_inputs=n_inputs,
            loss=_rebuild_loss(header["loss"]) if loss is None else loss,
            dtype=header["dtype"],
            seed=header["seed"],
            threads=threads,
            backend=backend,
        )
        adopt(network, header)
    except UNREADABLE as error:
        raise UnfitError(f"{file.name!r} can't be read: {_spell(error)}") from None
    return network


def _require_few(configs: Any) -> None:
    """Refuse more layers than a network may have before they become objects."""
    waiting, count = [configs], 0
    while waiting:
        within = waiting.pop()
        count += len(within)
        if count > MAX_OPS:
            raise ValueError(f"it has more than {MAX_OPS} layers")
        inner = [config.get("layers") for config in within if isinstance(config, dict)]
        waiting += [value for value in inner if isinstance(value, list)]


def adopt(network: Network, header: Mapping[str, Any]) -> None:
    """Give a network what a header says beside its architecture."""
    network.seed = integer("its header", "seed", header["seed"], at_least=0)
    network._epochs = integer("its header", "epochs", header["epochs"], at_least=0)
    network._steps = integer("its header", "steps", header.get("steps", 0), at_least=0)
    rates = {}
    for key, scale in header.get("learning_rate_scales", {}).items():
        if key not in network.parameters:
            raise ValueError(f"its header scales the learning rate of {key!r}, which is no parameter")
        rates[key] = number("its header", f"learning_rate_scales[{key!r}]", scale, at_least=0)
    network._lr_scales = {key: rate for key, rate in rates.items() if rate != 1}
    network.metadata = {str(k): str(v) for k, v in header["metadata"].items()}


def fill(network: Network, file: Stored) -> str | None:
    """Read a network's parameters and statistics into their places; returns what is wrong with them."""
    complaint = None
    for key, place in {**network.parameters, **network.statistics}.items():
        place[...] = file.read(key)
        if not np.isfinite(place).all():
            complaint = complaint or f"{key} is not finite"
        elif key in network.statistics and key.endswith(".variance") and place.min() < 0:
            complaint = complaint or f"{key} is below 0"
    return None if complaint is None else f"{file.name!r} holds a network that is broken: {complaint}"


def _rebuild_loss(config: Any) -> Loss:
    if isinstance(config, dict) and config.get("name") == CustomLoss.name:
        raise ValueError("its loss is a Python function; pass loss= to load")
    return losses.from_config(config)
