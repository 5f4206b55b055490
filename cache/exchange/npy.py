"""Arrays of .npy and .npz files of anybody: no pickles, and never more in memory than some frames."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

ARRAY_SUFFIXES = frozenset({".npy", ".npz"})
_BLOCK_BYTES = 4 << 20
_MAX_WHOLE_BYTES = 1 << 30  # of an array that can only be read as a whole
_BROKEN = (
    ValueError,
    EOFError,
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    MemoryError,
)


class ArrayError(ValueError):
    """A file does not hold the array that is looked for, or it cannot be read."""


@dataclass(frozen=True)
class ArrayHeader:
    """What a file says of its array before the numbers themselves."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    by_columns: bool

    @property
    def num_bytes(self) -> int:
        """Of all numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def array_names(path: Path) -> list[str]:
    """The arrays of an .npz file.

    Raises:
        ArrayError: It is not one.
    """
    try:
        _require_file(path)
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except _BROKEN as error:
        raise ArrayError(f"no .npz file ({_plain(error)})") from error


def read_header(path: Path, name: str | None = None) -> ArrayHeader:
    """Shape and dtype of the array in an .npy file, or of one that an .npz file has under this name.

    Raises:
        ArrayError: There is none, it is none of numbers, or the file does not hold all of it.
    """
    with _opened(path, name) as (_, header):
        return header


def read_blocks(path: Path, name: str | None = None) -> Iterator[NDArray[Any]]:
    """The array in pieces ``(n, *shape[1:])`` of some MB, in order.

    Raises:
        ArrayError: As :func:`read_header`, or it cannot be read to its end.
    """
    with _opened(path, name) as (stream, header):
        if not header.shape or header.by_columns:
            yield _read_whole(stream, header)
            return
        frame = header.shape[1:]
        frame_bytes = max(1, math.prod(frame) * header.dtype.itemsize)
        step = max(1, _BLOCK_BYTES // frame_bytes)
        for begin in range(0, header.shape[0], step):
            count = min(step, header.shape[0] - begin)
            yield np.frombuffer(_read(stream, count * frame_bytes), header.dtype).reshape(count, *frame)


def read_array(path: Path, name: str | None = None, max_bytes: int = _MAX_WHOLE_BYTES) -> NDArray[Any]:
    """The array as a whole, unless it is larger than that.

    Raises:
        ArrayError: As :func:`read_blocks`, or it is larger.
    """
    with _opened(path, name) as (stream, header):
        return _read_whole(stream, header, max_bytes)


def _read_whole(stream: IO[bytes], header: ArrayHeader, max_bytes: int = _MAX_WHOLE_BYTES) -> NDArray[Any]:
    if header.num_bytes > max_bytes:
        how = ", in column order: save it in row order" if header.by_columns else ""
        raise ArrayError(f"{header.num_bytes} bytes, expected at most {max_bytes}{how}")
    flat = np.frombuffer(_read(stream, header.num_bytes), header.dtype)
    return flat.reshape(header.shape, order="F" if header.by_columns else "C")


def _read(stream: IO[bytes], count: int) -> bytes:
    content = stream.read(count)
    if len(content) < count:
        raise ArrayError("the file ends before its array does; it is cut off")
    return content


@contextmanager
def _opened(path: Path, name: str | None) -> Iterator[tuple[IO[bytes], ArrayHeader]]:
    """The stream behind the header, and the header."""
    try:
        size = _require_file(path)
        with path.open("rb") as file:
            if path.suffix.lower() != ".npz":
                header = _parse_header(file)
                _require_bytes(header, size - file.tell())
                yield file, header
                return
            with zipfile.ZipFile(file) as archive:
                if f"{name}.npy" not in archive.namelist():
                    held = ", ".join(item.removesuffix(".npy") for item in archive.namelist())
                    raise ArrayError(f"no array {name!r} in it, but {held or 'nothing'}")
                info = archive.getinfo(f"{name}.npy")
                with archive.open(info) as member:
                    header = _parse_header(member)
                    _require_bytes(header, info.file_size - member.tell())
                    yield member, header
    except ArrayError:
        raise
    except _BROKEN as error:
        raise ArrayError(f"cannot be read ({_plain(error)})") from error


def _parse_header(stream: IO[bytes]) -> ArrayHeader:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ArrayError(f"an .npy file of version {version[0]}.{version[1]}; expected one of numbers, 1.0 or 2.0")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(stream)
    if dtype.hasobject:
        raise ArrayError("it holds Python objects (a pickle), which could run any program; save plain numbers")
    if dtype.kind not in "fiu":
        raise ArrayError(f"it holds {dtype}; expected real numbers")
    if any(size < 0 for size in shape):
        raise ArrayError(f"its shape is {shape}")
    return ArrayHeader(tuple(map(int, shape)), dtype, bool(by_columns) and len(shape) > 1)


def _require_bytes(header: ArrayHeader, available: int) -> None:
    if header.num_bytes > available:
        raise ArrayError(f"its array of shape {header.shape} is cut off: {available} of {header.num_bytes} bytes")


def _require_file(path: Path) -> int:
    """The file's size; a pipe would be waited for without end."""
    status = path.stat()
    if not S_ISREG(status.st_mode):
        raise ArrayError("not a regular file")
    return status.st_size


def _plain(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
