"""Arrays in files: what a header says of one, and its rows, mapped, or read block after block.

NPY files, members of NPZ archives (stored or deflated) and idx files (MNIST's), the first and the last
plain or gzipped. No pickles, so nothing in a file is executed.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from ..arrays import Array

#: The numbers that an idx file may hold, by the third byte of its header; big-endian.
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP, ZIP, NPY = b"\x1f\x8b", b"PK\x03\x04", b"\x93NUM"
_BROKEN = (ValueError, OSError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class UserError(ValueError):
    """A mistake of the person at the command line: one line says all there is to say."""


@dataclass(frozen=True)
class ArrayFile:
    """An array in a file.

    Attributes
    ----------
    path : str
    form : str
        What the file is in messages: NPY, NPZ or idx.
    dtype : dtype
        As in the file, perhaps of the other byte order.
    shape : tuple of int
    offset : int
        The bytes before the first number, in the file or in what unpacking it gives.
    member : str or None
        The name within an NPZ archive.
    gzipped : bool
    fortran : bool
        Columns, not rows, lie together.
    """

    path: str
    form: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    member: str | None = None
    gzipped: bool = False
    fortran: bool = False

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    def whole(self) -> Array:
        """All of it: mapped where the file holds the numbers as they are, else read."""
        if self.member is None and not self.gzipped and self.nbytes:
            with self._complaining():
                found = os.path.getsize(self.path) - self.offset
                if found < self.nbytes or (self.form == "idx" and found > self.nbytes):
                    raise self._damaged(found)
                order: Any = "F" if self.fortran else "C"
                mapped: Any = np.memmap(
                    self.path, self.dtype, mode="r", offset=self.offset, shape=self.shape, order=order
                )
                return np.asarray(mapped)
        with self._complaining(), self._opened() as file:
            data = self._read(file, self.nbytes)
            self._require_end(file)
        return np.frombuffer(data, self.dtype).reshape(self.shape, order="F" if self.fortran else "C")

    def blocks(self, rows: int) -> Iterator[Array]:
        """Its rows in order, so many at a time, in this machine's byte order.

        Raises
        ------
        UserError
            Where the file ends early or is damaged: under way, since it is read under way.
        """
        native = self.dtype.newbyteorder("=")
        if self.fortran:
            array = self.whole()
            for start in range(0, len(self), rows):
                yield np.ascontiguousarray(array[start : start + rows], native)
            return
        row = self.nbytes // max(1, len(self))
        with self._complaining(), self._opened() as file:
            for start in range(0, len(self), rows):
                count = min(rows, len(self) - start)
                data = self._read(file, count * row, start * row)
                yield (
                    np.frombuffer(data, self.dtype).astype(native, copy=False).reshape(count, *self.shape[1:])
                )
            self._require_end(file)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        """The file behind its header."""
        with contextlib.ExitStack() as stack:
            file: Any
            if self.member is not None:
                archive = stack.enter_context(zipfile.ZipFile(self.path))
                file = stack.enter_context(archive.open(self.member))
            elif self.gzipped:
                file = stack.enter_context(gzip.open(self.path))
            else:
                file = stack.enter_context(open(self.path, "rb"))
            file.read(self.offset)
            yield file

    def _read(self, file: IO[bytes], size: int, before: int = 0) -> bytes:
        data = file.read(size)
        if len(data) < size:
            raise self._damaged(before + len(data))
        return data

    def _require_end(self, file: IO[bytes]) -> None:
        """Nothing follows in an idx file; in an archive the checksum is looked at behind the last byte."""
        rest = len(file.read(1))
        while rest and self.form == "idx":
            more = len(file.read(1 << 20))
            if not more:
                raise self._damaged(self.nbytes + rest)
            rest += more

    def _damaged(self, found: int) -> UserError:
        return UserError(
            f"{self.path!r} is damaged: its header tells of {self.nbytes:,} bytes, {found:,} follow"
        )

    @contextlib.contextmanager
    def _complaining(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except _BROKEN as error:
            raise _unreadable(self.path, self.form, error) from None


def _unreadable(path: str, form: str, error: BaseException) -> UserError:
    as_form = "" if form == "idx" else f" as {form}"
    return UserError(f"{path!r} can't be read{as_form}: {' '.join(str(error).split())}")


def _is_gzipped(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == GZIP


def npy_file(path: str) -> ArrayFile:
    """The array of an NPY file."""
    try:
        gzipped = _is_gzipped(path)
        with gzip.open(path) if gzipped else open(path, "rb") as file:
            return ArrayFile(path, "NPY", **_npy_header(file), gzipped=gzipped)
    except _BROKEN as error:
        raise _unreadable(path, "NPY", error) from None


def npz_files(path: str) -> dict[str, ArrayFile]:
    """The arrays of an NPZ archive by name, in its order."""
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.endswith(".npy"):
                    with archive.open(member) as file:
                        header = _npy_header(file)
                    found[member.removesuffix(".npy")] = ArrayFile(path, "NPZ", **header, member=member)
    except _BROKEN as error:
        raise _unreadable(path, "NPZ", error) from None
    return found


def _npy_header(file: Any) -> dict[str, Any]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"its version is {version}; 1 and 2 are known")
    # Objects are refused where they would be read: an archive may hold some beside what is wanted.
    return {"dtype": dtype, "shape": shape, "offset": file.tell(), "fortran": fortran and len(shape) > 1}


def idx_file(path: str) -> ArrayFile:
    """The array of an idx file."""
    try:
        gzipped = _is_gzipped(path)
        with gzip.open(path) if gzipped else open(path, "rb") as file:
            head = file.read(4)
            sizes = file.read(4 * head[3])
        dtype = np.dtype(IDX_TYPES[head[2]])
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, "idx", error) from None
    except (IndexError, KeyError):
        raise UserError(f"{path!r} is cut off in its header") from None
    shape = tuple(int(size) for size in np.frombuffer(sizes[: len(sizes) // 4 * 4], ">u4"))
    if not shape or len(sizes) != 4 * head[3]:
        raise UserError(f"{path!r} is cut off in its header")
    return ArrayFile(path, "idx", dtype, shape, 4 + len(sizes), gzipped=gzipped)
