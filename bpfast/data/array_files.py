"""Arrays in files: read the header, then map the array, read it whole, or read its rows in blocks.

Supported are NPY files, members of NPZ archives (stored or deflated) and IDX files (the format of MNIST);
NPY and IDX files may be gzipped. Pickles are not loaded, so nothing in a file is executed.
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

#: Data types of IDX files by the third byte of the header; all are big-endian.
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP, ZIP, NPY = b"\x1f\x8b", b"PK\x03\x04", b"\x93NUM"
_BROKEN = (ValueError, OSError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class UserError(ValueError):
    """Invalid input from the user, which the command line reports as one line without a traceback."""


@dataclass(frozen=True)
class ArrayFile:
    """An array in a file.

    Attributes
    ----------
    path : str
    form : {"NPY", "NPZ", "IDX"}
        Format of the file.
    dtype : dtype
        Data type as stored; its byte order may not be the native one.
    shape : tuple of int
    offset : int
        Number of bytes before the first value, after decompression.
    member : str or None
        Name of the member of an NPZ archive.
    gzipped : bool
        Whether the file is gzipped.
    fortran : bool
        Whether the values are in column-major order.
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
        """Size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def whole(self) -> Array:
        """The whole array, memory-mapped if the file is not compressed, otherwise read."""
        if self.member is None and not self.gzipped and self.nbytes:
            with self._read_errors():
                found = os.path.getsize(self.path) - self.offset
                if found < self.nbytes or (self.form == "IDX" and found > self.nbytes):
                    raise self._damaged(found)
                order: Any = "F" if self.fortran else "C"
                mapped: Any = np.memmap(
                    self.path, self.dtype, mode="r", offset=self.offset, shape=self.shape, order=order
                )
                return np.asarray(mapped)
        with self._read_errors(), self._opened() as file:
            data = self._read(file, self.nbytes)
            self._require_end(file)
        return np.frombuffer(data, self.dtype).reshape(self.shape, order="F" if self.fortran else "C")

    def blocks(self, rows: int) -> Iterator[Array]:
        """Iterate over blocks of rows in native byte order.

        Parameters
        ----------
        rows : int
            Number of rows per block; the last block may have fewer.

        Raises
        ------
        UserError
            During the iteration, if the file ends early or is damaged.
        """
        native = self.dtype.newbyteorder("=")
        if self.fortran:
            array = self.whole()
            for start in range(0, len(self), rows):
                yield np.ascontiguousarray(array[start : start + rows], native)
            return
        row = self.nbytes // max(1, len(self))
        with self._read_errors(), self._opened() as file:
            for start in range(0, len(self), rows):
                count = min(rows, len(self) - start)
                data = self._read(file, count * row, start * row)
                yield (
                    np.frombuffer(data, self.dtype).astype(native, copy=False).reshape(count, *self.shape[1:])
                )
            self._require_end(file)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        """The open file, positioned after its header."""
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
        """Check that an IDX file ends here; in an archive, reading past the end verifies the checksum."""
        rest = len(file.read(1))
        while rest and self.form == "IDX":
            more = len(file.read(1 << 20))
            if not more:
                raise self._damaged(self.nbytes + rest)
            rest += more

    def _damaged(self, found: int) -> UserError:
        return UserError(
            f"{self.path!r} is damaged: its header announces {self.nbytes:,} bytes of data; got {found:,}"
        )

    @contextlib.contextmanager
    def _read_errors(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except _BROKEN as error:
            raise _unreadable(self.path, self.form, error) from None


def _unreadable(path: str, form: str, error: BaseException) -> UserError:
    return UserError(f"cannot read {path!r} as {form}: {' '.join(str(error).split())}")


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
    """The arrays of an NPZ archive by name, in the order of the archive."""
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
        raise ValueError(f"version {version} of the format is not supported")
    # Arrays of objects are rejected only when they are used: an archive may contain others.
    return {"dtype": dtype, "shape": shape, "offset": file.tell(), "fortran": fortran and len(shape) > 1}


def idx_file(path: str) -> ArrayFile:
    """The array of an IDX file."""
    try:
        gzipped = _is_gzipped(path)
        with gzip.open(path) if gzipped else open(path, "rb") as file:
            head = file.read(4)
            sizes = file.read(4 * head[3])
        dtype = np.dtype(IDX_TYPES[head[2]])
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, "IDX", error) from None
    except (IndexError, KeyError):
        raise UserError(f"{path!r} is damaged: its header is incomplete") from None
    shape = tuple(int(size) for size in np.frombuffer(sizes[: len(sizes) // 4 * 4], ">u4"))
    if not shape or len(sizes) != 4 * head[3]:
        raise UserError(f"{path!r} is damaged: its header is incomplete")
    return ArrayFile(path, "IDX", dtype, shape, 4 + len(sizes), gzipped=gzipped)
