"""Model files: safetensors with the architecture as JSON in the header. Nothing loaded is executed.

The metadata of the safetensors header has one entry, ``bpfast``: a JSON object of ``sha256``, ``format``
(the number of this description: 2), ``layers``, ``n_inputs``, ``loss``, ``dtype``, ``seed``, ``epochs``,
``steps``, ``learning_rate_scales``, ``metadata`` (texts kept with the model, such as the preparation of
the command line), and in a checkpoint ``training`` (see `bpfast.storage.checkpoint_file`).

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
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from .._state import BaseNetwork, NetworkState, state_of
from ..arrays import Array
from ..engine.program import Program
from .atomic import write_atomically

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


def save(state: NetworkState, path: str | os.PathLike[str]) -> None:
    """Write a network to a file: whole or not at all."""
    write(path, describe(state), {**state.parameters, **state.statistics})


def describe(state: NetworkState) -> dict[str, Any]:
    """The header of a network's file."""
    return {
        "format": FORMAT,
        "layers": [layer.config() for layer in state.layers],
        "n_inputs": state.program.n_inputs,
        "loss": state.loss.config(),
        "dtype": str(state.dtype),
        "seed": state.seed,
        "epochs": state.epochs,
        "steps": state.steps,
        "learning_rate_scales": state.lr_scales,
        "metadata": state.metadata,
    }


def write(path: str | os.PathLike[str], header: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
    """Write a header and tensors with their checksum."""
    text = json.dumps({"sha256": UNSIGNED, **header}, allow_nan=False)
    digests = {name: _digest(dtype_name(array), array) for name, array in tensors.items()}
    # One entry: several would come in an order of their own each time.
    metadata = {"bpfast": text.replace(UNSIGNED, checksum(text, digests), 1)}
    _require_short(text)
    data = serialize(dict(tensors), metadata)
    _require_header(_header_size(data))
    write_atomically(path, data)


def require_room(network: BaseNetwork) -> None:
    """Refuse, before it is trained, a network whose header would be too large for a file."""
    text = json.dumps(describe(state_of(network)))
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
        text = f"{name!r} is not a {what} file, or is damaged: {spell_error(error)}"
        raise refusal(text, name) from None


def refusal(text: str, name: str) -> ValueError:
    """What is said of a file: one line that can be printed, whatever of the file is in it."""
    longest = _LONGEST + len(repr(name))
    shown = " ".join(text[: 2 * longest].split())
    shown = "".join(character if character.isprintable() else "?" for character in shown)
    return ValueError(shown if len(shown) <= longest else f"{shown[:longest]} …")


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


def spell_error(error: BaseException) -> str:
    return f"its header has no {error}" if isinstance(error, KeyError) else str(error)
