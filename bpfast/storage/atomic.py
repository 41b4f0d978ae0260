"""Atomic writes: a file is replaced as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace a file by `data`; see `open_atomically`."""
    with open_atomically(path) as file:
        file.write(data)


@contextlib.contextmanager
def open_atomically(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a temporary file for writing, which replaces the target at the end.

    It is flushed to disk before it is renamed, and removed after an error. Symbolic links are followed.
    A pipe or device is written to at the end.

    Parameters
    ----------
    path : path
        File to replace or create.

    Raises
    ------
    IsADirectoryError
        If the path is a directory.
    FileNotFoundError
        If its directory does not exist.
    """
    require_place(path)
    if _is_special(path):
        # Imported here, because few processes need it and `import bpfast` should be fast.
        import shutil
        import tempfile

        with tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            with open(path, "wb") as special:
                shutil.copyfileobj(file, special)
        return
    target = os.path.realpath(os.fspath(path))
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
    _flush_directory(os.path.dirname(target))


def require_place(path: str | os.PathLike[str]) -> None:
    """Raise OSError for a path that is a directory, or whose directory does not exist."""
    target = os.path.realpath(os.fspath(path))
    if os.path.isdir(target):
        raise IsADirectoryError(f"{os.fspath(path)!r} is a directory; expected the name of a file")
    if not os.path.isdir(os.path.dirname(target)):
        raise FileNotFoundError(f"there is no directory {os.path.dirname(target)!r}")


def _is_special(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a pipe or a device, whose resolved name may not be a path (``/dev/stdout``)."""
    return os.path.exists(path) and not os.path.isfile(path)


def _flush_directory(directory: str) -> None:
    """Flush the new name to disk, if the system supports flushing directories."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
