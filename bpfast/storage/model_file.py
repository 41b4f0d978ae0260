"""Model files: safetensors with the architecture as JSON in the header. Nothing loaded is executed.

The metadata of the safetensors header has one entry, ``bpfast``: a JSON object with ``sha256``, ``format``
(the version of the format: 2), ``layers``, ``n_inputs``, ``loss``, ``dtype``, ``seed``, ``epochs``,
``steps``, ``learning_rate_scales``, ``metadata`` (strings stored with the model, such as how the command
line prepared the data), and in a checkpoint ``training`` (see `bpfast.storage.checkpoint_file`).

``sha256`` comes first. It is the SHA-256 of the JSON as UTF-8, with 64 zeros in place of the checksum,
followed, for each tensor in the order of the names, by the line ``name dtype shape``, such as
``0.W F32 [64, 10]``, and the SHA-256 of its bytes; see `checksum`. Format 1 has no checksum.

The tensors are the parameters and running statistics by their names in `Network`, and in a checkpoint
those that ``training`` lists.
"""

from __future__ import annotations

import contextlib
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
#: Data types that a file may hold, by their names in safetensors.
DTYPES = {"F32": np.dtype("f4"), "F64": np.dtype("f8"), "I64": np.dtype("i8"), "BOOL": np.dtype("?")}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
#: Maximum number of bytes of a header, of characters of its JSON outside of strings (which become objects
#: many times their size), and of tensors.
MAX_HEADER, MAX_STRUCTURE, MAX_TENSORS = 2**24, 2**21, 2**17
_TEXT = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
#: Maximum number of characters of an error message, besides the name of the file.
_LONGEST = 400
#: Placeholder of the checksum while it is computed.
UNSIGNED = "0" * 64
_SIGNED = re.compile(r'\{"sha256": "([0-9a-f]{64})", ')
#: Entries that a header may have.
_ENTRIES = {"sha256", "format", "layers", "n_inputs", "loss", "dtype", "seed", "epochs", "steps"}
_ENTRIES |= {"learning_rate_scales", "metadata", "training"}


def save(state: NetworkState, path: str | os.PathLike[str]) -> None:
    """Write a network to a file atomically; a `fit` in another thread first ends its epoch."""
    with state.lock:
        header, flat = describe(state), state.flat.copy()
    views = state.program.views
    write(path, header, views(flat) | views(flat, trained=False))


def describe(state: NetworkState) -> dict[str, Any]:
    """Return the header of a network's file."""
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
    """Write a header and tensors with their checksum, atomically."""
    text = json.dumps({"sha256": UNSIGNED, **header}, allow_nan=False)
    digests = {name: _digest(dtype_name(array), array) for name, array in tensors.items()}
    # A single entry, because safetensors writes several in random order.
    metadata = {"bpfast": text.replace(UNSIGNED, checksum(text, digests), 1)}
    _require_short(text)
    data = serialize(dict(tensors), metadata)
    _require_header(_header_size(data))
    write_atomically(path, data)


def require_room(network: BaseNetwork) -> None:
    """Raise ValueError if the header of a network would be too large; call it before training."""
    text = json.dumps(describe(state_of(network)))
    _require_short(text)
    _require_header(len(json.dumps(text)))


def _require_short(text: str) -> None:
    """Raise ValueError for JSON that is larger than any description of a network."""
    if len(text) > MAX_STRUCTURE and len(_TEXT.sub("", text)) > MAX_STRUCTURE:
        raise ValueError(f"its header has more than {MAX_STRUCTURE} characters outside of strings")


def _require_header(size: int) -> None:
    if size > MAX_HEADER:
        raise ValueError(f"its header has {size} bytes; the maximum is {MAX_HEADER}")


def _header_size(data: bytes) -> int:
    """Return the size of a safetensors header from the 8 bytes before it."""
    return int.from_bytes(data[:8], "little")


def dtype_name(array: Array) -> str:
    """Return the name of an array's dtype in a file."""
    if array.dtype not in _NAMES:
        raise TypeError(f"arrays in a file must be float32, float64, int64 or bool; got {array.dtype}")
    return _NAMES[array.dtype]


def sha256(data: Any) -> Any:
    """Return the SHA-256 object of bytes."""
    # Imported here, because OpenSSL takes long to load and `import bpfast` should be fast.
    import hashlib

    return hashlib.sha256(data)


def checksum(text: str, digests: Mapping[str, tuple[str, bytes]]) -> str:
    """Return the SHA-256 of a header and its tensors, in hexadecimal.

    Parameters
    ----------
    text : str
        JSON of the header, with `UNSIGNED` in place of the checksum.
    digests : mapping of str to (str, bytes)
        `_digest` of each tensor, by name.
    """
    total = sha256(text.encode("utf-8"))
    for name in sorted(digests):
        line, digest = digests[name]
        total.update(f"{name} {line}\n".encode())
        total.update(digest)
    return str(total.hexdigest())


def _digest(dtype: str, array: Array) -> tuple[str, bytes]:
    """Return a tensor's dtype and shape as text, and the SHA-256 of its bytes."""
    values = np.ascontiguousarray(array)
    return f"{dtype} {list(array.shape)}", sha256(values.reshape(-1).view(np.uint8).data).digest()


class Stored:
    """An open model file: its header has been checked, its tensors are read one at a time.

    Attributes
    ----------
    name : str
        Path, for messages.
    header : dict
        Parsed JSON of the header.
    tensors : dict of str to (dtype, shape)
        The tensors in the file, by name.
    """

    def __init__(self, name: str, file: Any) -> None:
        self.name = name
        self._file = file
        metadata = file.metadata() or {}
        if "bpfast" not in metadata:
            raise UnfitError(f"{name!r} is a safetensors file, but not a bpfast model")
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
            raise UnfitError(f"{name!r} has {len(keys)} tensors; the maximum is {MAX_TENSORS}")
        for key in keys:
            part = file.get_slice(key)
            self.tensors[key] = (part.get_dtype(), tuple(part.get_shape()))
            if self.tensors[key][0] not in DTYPES:
                raise UnfitError(
                    f"{name!r} is damaged: {key} has the unsupported type {self.tensors[key][0]}"
                )

    def read(self, key: str) -> Array:
        """Read a tensor."""
        array: Array = self._file.get_tensor(key)
        self._digests[key] = _digest(self.tensors[key][0], array)
        return array

    def verify(self) -> None:
        """Raise UnfitError unless the checksum matches the whole file."""
        for key in self.tensors:
            if key not in self._digests:
                self.read(key)
        if self._sha256 is not None and self._sha256 != checksum(self._text, self._digests):
            raise UnfitError(f"{self.name!r} is damaged: its content does not match its checksum")

    def compare(self, program: Program, dtype: np.dtype[Any]) -> None:
        """Raise UnfitError unless the tensors are those of the header; nothing is allocated before."""
        expected = {p.name: (_NAMES[dtype], p.shape) for p in program.parameters}
        training = self.header.get("training")
        if training is not None:
            arrays = {key: (kind, tuple(shape)) for key, (kind, shape) in training["arrays"].items()}
            if not expected.keys().isdisjoint(arrays):
                raise UnfitError(f"{self.name!r} is damaged: two of its tensors have the same name")
            expected |= arrays
        for key in [*expected, *self.tensors]:
            said, found = expected.get(key), self.tensors.get(key)
            if said is None or found is None or said[1] != found[1]:
                said_text = "no tensor" if said is None else f"shape {said[1]}"
                found_text = "there is none" if found is None else f"the tensor has {found[1]}"
                raise UnfitError(
                    f"{self.name!r} is damaged: its header has {said_text} for {key[:80]}, but {found_text}"
                )
            if said[0] != found[0]:
                raise UnfitError(
                    f"{self.name!r} is damaged: {key[:80]} is {DTYPES[found[0]]}, not "
                    f"{DTYPES.get(said[0], said[0])}"
                )


@contextlib.contextmanager
def stored(path: str | os.PathLike[str], what: str = "model") -> Iterator[Stored]:
    """Open a model file for reading; whatever is wrong with it raises a one-line ValueError.

    Parameters
    ----------
    path : path
    what : str, default "model"
        Kind of file, for messages.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a bpfast file or is damaged, also if the body raises `UnfitError`.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        folder = " (it is a directory)" if os.path.isdir(name) else ""
        raise FileNotFoundError(f"there is no {what} file {name!r}{folder}")
    try:
        with open(name, "rb") as start:
            beginning = start.read(9)
        if beginning[8:] != b"{":
            raise ValueError("it does not begin with a safetensors header")
        _require_header(_header_size(beginning))
        with safe_open(name, framework="numpy") as file:
            yield Stored(name, file)
    except UnfitError as error:
        reason = refusal(str(error), name)
        if error.advice:
            raise AdvisedError(str(refusal(f"{error}{error.advice}", name)), str(reason)) from None
        raise reason from None
    except (SafetensorError, OSError, *UNREADABLE) as error:
        text = f"{name!r} is not a {what} file, or is damaged: {describe_error(error)}"
        raise refusal(text, name) from None


class AdvisedError(ValueError):
    """A file does not fit; `reason` is the message without its advice, which is for Python."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def refusal(text: str, name: str) -> ValueError:
    """Return an error with a short printable one-line message, whatever the file contains."""
    longest = _LONGEST + len(repr(name))
    shown = " ".join(text[: 2 * longest].split())
    shown = "".join(character if character.isprintable() else "?" for character in shown)
    return ValueError(shown if len(shown) <= longest else f"{shown[:longest]} …")


class UnfitError(Exception):
    """A file cannot be loaded; the message says why, and `advice` what to do about it in Python."""

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


def _header(name: str, text: str) -> dict[str, Any]:
    try:
        _require_short(text)
    except ValueError as error:
        raise UnfitError(f"{name!r} cannot be read: {error}") from None
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise UnfitError(f"{name!r} cannot be read: its header is not JSON") from None
    if not isinstance(header, dict) or type(header.get("format")) is not int or header["format"] < 1:
        raise UnfitError(f"{name!r} cannot be read: its header has no format number")
    if header["format"] > FORMAT:
        raise UnfitError(
            f"{name!r} cannot be read: its format is {header['format']}, this version reads up to "
            f"{FORMAT}; update bpfast"
        )
    return header


#: Errors that malformed content raises.
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, IndexError)


def describe_error(error: BaseException) -> str:
    """Return the message of an error; a KeyError is about an entry of the header."""
    return f"its header has no {error}" if isinstance(error, KeyError) else str(error)
