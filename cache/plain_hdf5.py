"""Reads where the data of a shard lie without libhdf5, in a tenth of its time.

Only the one form that libhdf5 gives to what :func:`framecache.cache.shard.write_shard` asks of it is understood:
superblock 0, one group of four contiguous datasets, a handful of attributes. Whatever is different, hurt or forged
is :class:`NotPlainError`, and libhdf5 then says what it is. So nothing is accepted here that is not checked afterwards
like anything libhdf5 gives. The form is that of the "HDF5 File Format Specification Version 2.0", whose sections the
functions name.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

_SUPERBLOCK = b"\x89HDF\r\n\x1a\n" + bytes.fromhex("00000000 00080800 04001000 00000000")
_SUPERBLOCK_BYTES = 96
_NOWHERE = (1 << 64) - 1
_HEAD_BYTES = 4096  # most of what is looked at
_MOST_BYTES = 1 << 20  # of one object header
_NIL, _DATASPACE, _DATATYPE, _FILL_VALUE, _LAYOUT, _ATTRIBUTE, _CONTINUATION, _SYMBOL_TABLE = (
    *(0x00, 0x01, 0x03, 0x05, 0x08, 0x0C, 0x10, 0x11),
)
_CONSTANT = 0x01  # the only flag of a message that libhdf5 sets in such a file
_SCALAR = b"\x01" + bytes(7)  # dataspace of an attribute
_NUMBERS = {  # datatype messages
    np.dtype(name): bytes.fromhex(message)
    for name, message in (
        ("float16", "11200f00 02000000 00001000 0a05000a 0f000000"),
        ("float32", "11201f00 04000000 00002000 17080017 7f000000"),
        ("float64", "11203f00 08000000 00004000 340b0034 ff030000"),
        ("uint8", "10000000 01000000 00000800"),
        ("int64", "10080000 08000000 00004000"),
    )
}
Take = Callable[[int, int], bytes]  # offset and number of bytes; all of them or an error


class NotPlainError(ValueError):
    """A file of another form, or a damaged one."""


@dataclass(frozen=True)
class Extent:
    """Where a dataset's bytes lie in the file."""

    offset: int  # bytes from the start of the file
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def num_bytes(self) -> int:
        """How many bytes there are."""
        return self.dtype.itemsize * math.prod(self.shape)


def read_layout(descriptor: int, names: Collection[str]) -> tuple[dict[str, Extent], dict[str, bytes | int]]:
    """Finds the datasets and attributes of an open file.

    Args:
        descriptor: The file.
        names: What its datasets are called; it must have these and no others.

    Returns:
        The datasets' extents, within the file, and the attributes: whole numbers, or texts without trailing NULs.

    Raises:
        NotPlainError: The file is not of the one form.
        OSError: It cannot be read.
    """
    size = os.fstat(descriptor).st_size
    head = os.pread(descriptor, _HEAD_BYTES, 0)

    def take(offset: int, count: int) -> bytes:
        _require(0 <= offset <= size - count and count <= _MOST_BYTES)
        if offset + count <= len(head):
            return head[offset : offset + count]
        found = os.pread(descriptor, count, offset)
        _require(len(found) == count)
        return found

    try:
        root, tree, heap = _read_superblock(take, size)
        attributes: dict[str, bytes | int] = {}
        tables = 0
        for kind, data in _messages(take, root):
            if kind == _ATTRIBUTE:
                name, value = _read_attribute(data)
                _require(name not in attributes)
                attributes[name] = value
            else:
                _require(kind == _SYMBOL_TABLE and struct.unpack("<2Q", data) == (tree, heap))
                tables += 1
        headers = _read_group(take, tree, heap, len(names))
        _require(tables == 1 and set(headers) == set(names))
        extents = {name: _read_dataset(take, header) for name, header in headers.items()}
    except (struct.error, IndexError, TypeError, ValueError) as error:  # shorter than it says, or no text, or no dtype
        raise NotPlainError(str(error)) from error
    _require(all(extent.offset + extent.num_bytes <= size for extent in extents.values()))
    return extents, attributes


def _require(as_written: bool) -> None:
    if not as_written:
        raise NotPlainError("not of the form that framecache writes")


def _read_superblock(take: Take, size: int) -> tuple[int, int, int]:
    """Addresses of the root group's header, B-tree and heap (II.A, III.C)."""
    block = take(0, _SUPERBLOCK_BYTES)
    base, free, end, driver, name, root, cached, _, tree, heap = struct.unpack("<6Q2I2Q", block[24:])
    _require(block[:24] == _SUPERBLOCK and (base, free, end, driver) == (0, _NOWHERE, size, _NOWHERE))
    _require((name, cached) == (0, 1))
    return root, tree, heap


def _messages(take: Take, address: int) -> Iterator[tuple[int, bytes]]:
    """Kind and data of each message of an object header, version 1 (IV.A.1.a)."""
    version, left, links, size = struct.unpack("<BxHII", take(address, 12))
    _require((version, links) == (1, 1))
    chunks = [(address + 16, size)]
    while chunks:
        chunk = take(*chunks.pop())
        place = 0
        while place < len(chunk):
            kind, size, flags = struct.unpack_from("<HHB", chunk, place)
            data = chunk[place + 8 : place + 8 + size]
            place += 8 + size
            left -= 1  # also ends a chunk that continues in itself
            _require(left >= 0 and len(data) == size and flags in (0, _CONSTANT))
            if kind == _CONTINUATION:
                chunks.append(struct.unpack("<2Q", data))
            elif kind != _NIL:
                yield kind, data
    _require(left == 0)


def _read_group(take: Take, tree: int, heap: int, count: int) -> dict[str, int]:
    """Names in a group of one node, and the addresses of their object headers (III.A.1, III.B, III.D)."""
    signature, kind, level, used, left, right, _, node = struct.unpack("<4sBBH4Q", take(tree, 40))
    _require((signature, kind, level, used, left, right) == (b"TREE", 0, 0, 1, _NOWHERE, _NOWHERE))
    signature, length, _, segment = struct.unpack("<4s4x3Q", take(heap, 32))
    _require(signature == b"HEAP" and length <= _HEAD_BYTES)
    texts = take(segment, length)
    signature, version, used = struct.unpack("<4sBxH", take(node, 8))
    _require((signature, version, used) == (b"SNOD", 1, count))
    headers: dict[str, int] = {}
    for place in range(count):
        name, header, cached = struct.unpack("<QQI", take(node + 8 + 40 * place, 20))
        _require(cached == 0)  # 2 is a soft link
        headers[texts[name : texts.index(b"\0", name)].decode()] = header
    return headers


def _read_dataset(take: Take, header: int) -> Extent:
    """A contiguous dataset (IV.A.2.b, IV.A.2.d, IV.A.2.i)."""
    found = list(_messages(take, header))
    messages = dict(found)
    _require(len(found) == len(messages) == 4 and messages.keys() == {_DATASPACE, _DATATYPE, _FILL_VALUE, _LAYOUT})
    space, layout = messages[_DATASPACE], messages[_LAYOUT]
    version, rank, flags = struct.unpack_from("<3B", space)
    shape = struct.unpack_from(f"<{rank}Q", space, 8)
    _require((version, flags) == (1, 1) and rank > 0 and shape == struct.unpack_from(f"<{rank}Q", space, 8 + 8 * rank))
    version, kind, offset, num_bytes = struct.unpack_from("<2B2Q", layout)
    extent = Extent(offset, shape, _dtype(messages[_DATATYPE]))
    _require((version, kind) == (3, 1) and extent.num_bytes == num_bytes)
    return extent


def _read_attribute(data: bytes) -> tuple[str, bytes | int]:
    """An attribute of one text, or of one whole number (IV.A.2.m, version 1)."""
    version, name_bytes, type_bytes, space_bytes = struct.unpack_from("<Bx3H", data)
    begin = 8 + _padded(name_bytes)
    kind, rest = data[begin : begin + type_bytes], data[begin + _padded(type_bytes) :]
    _require(version == 1 and rest[:space_bytes] == _SCALAR)
    dtype, value = _dtype(kind), rest[_padded(space_bytes) :]
    name = data[8 : 8 + name_bytes].removesuffix(b"\0").decode()
    value = value[: dtype.itemsize]
    _require(len(value) == dtype.itemsize and dtype.kind in "Si")
    return name, value.rstrip(b"\0") if dtype.kind == "S" else int.from_bytes(value, "little", signed=True)


@lru_cache(maxsize=256)
def _dtype(message: bytes) -> np.dtype[Any]:
    """The dtype of a datatype message (IV.A.2.d), if libhdf5 would write that dtype in just this way."""
    kind = message[0] & 0x0F
    if kind == 6:
        dtype = np.dtype(list(_members(message)))
    elif kind == 3:
        dtype = _member_dtype(message, 0)
    else:
        dtype = next((one for one, number in _NUMBERS.items() if message.startswith(number)), np.dtype("V"))
    _require(dtype.itemsize > 0)
    written = _message(dtype)
    _require(message.startswith(written) and len(message) - len(written) < 8)
    return dtype


def _message(dtype: np.dtype[Any]) -> bytes:
    """What libhdf5 writes of a number, a text padded with NULs, or a row of such."""
    if dtype.fields is None:
        return struct.pack("<2B2xI", 0x13, 1, dtype.itemsize) if dtype.kind == "S" else _NUMBERS[dtype]
    written = struct.pack("<BHxI", 0x16, len(dtype.fields), dtype.itemsize)
    for name, (member, offset, *_) in dtype.fields.items():
        text = name.encode()
        written += text.ljust(_padded(len(text) + 1), b"\0") + struct.pack("<I28x", offset) + _message(member)
    return written


def _members(message: bytes) -> Iterator[tuple[str, np.dtype[Any]]]:
    place = 8
    for _ in range(int.from_bytes(message[1:3], "little")):
        name = message[place : message.index(b"\0", place)].decode()
        place += _padded(len(name) + 1) + 32  # byte offset and dimensions, none
        dtype = _member_dtype(message, place)
        place += 8 if dtype.kind == "S" else 12
        yield name, dtype


def _member_dtype(message: bytes, place: int) -> np.dtype[Any]:
    size = int.from_bytes(message[place + 4 : place + 8], "little")
    return np.dtype(f"S{size}") if message[place] & 0x0F == 3 and size < 1 << 31 else np.dtype("int64")


def _padded(count: int) -> int:
    return count + -count % 8
