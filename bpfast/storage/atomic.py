"""TODO"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write beside the target, flush to disk, then take its name; see `open_atomically`."""
    with open_atomically(path) as file:
        file.write(data)


@contextlib.contextmanager
def open_atomically(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write part by part: it takes its name at the end, or leaves nothing behind.

    A link is followed; what is no regular file (a pipe, a device) is written to at the end.
    """
    require_place(path)
    if _is_special(path):
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
    _flush_folder(os.path.dirname(target))


def require_place(path: str | os.PathLike[str]) -> None:
    """Refuse a path that is a folder, or in none."""
    target = os.path.realpath(os.fspath(path))
    if os.path.isdir(target):
        raise IsADirectoryError(f"{os.fspath(path)!r} is a folder; the name of a file is wanted")
    if not os.path.isdir(os.path.dirname(target)):
        raise FileNotFoundError(f"there is no folder {os.path.dirname(target)!r}")


def _is_special(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a pipe or a device; what a link to it (``/dev/stdout``) names may be no path."""
    return os.path.exists(path) and not os.path.isfile(path)


def _flush_folder(folder: str) -> None:
    """Have the new name on disk too; not every system lets folders be flushed."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
