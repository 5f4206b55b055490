"""Files of JSON lines that only grow: what was appended is durable, a torn line is passed over, a hurt one found.

Each line begins with a check sum of the rest of it: ``{"sum": "…", …}``.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from stat import S_ISREG
from typing import IO

import xxhash

from framecache.cache.durable import PARTIAL_SUFFIX, fsync_folder, publish
from framecache.cache.errors import ShardError

_MAX_BYTES = 1 << 30
_TAIL_BYTES = 1 << 16
_READ_BYTES = 1 << 20  # at once, since a line may name thousands of videos
_HEAD = re.compile(rb'\{"sum": "([0-9a-f]{16})", ')


def append_lines(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Adds a line per row and makes them durable.

    Raises:
        OSError: The disk refused; the last line may be torn. Or something else has the name: nothing is written
            through a link, into a pipe or a device.
    """
    lines = b"".join(_sum_up(json.dumps(row).encode()[1:]) for row in rows)
    created = not path.exists()
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o666)
    if not S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with open(descriptor, "a+b") as stream:
        _end_last_line(stream)
        stream.write(lines)
        stream.flush()
        os.fsync(stream.fileno())
    if created:
        fsync_folder(path.parent)


def _end_last_line(stream: IO[bytes]) -> None:
    """Cuts off a line within which its writer died; one that only lacks its end gets it."""
    size = begin = stream.seek(0, os.SEEK_END)
    tail = b""
    while begin and b"\n" not in tail:
        count = min(begin, _TAIL_BYTES)
        begin -= count
        stream.seek(begin)
        tail = stream.read(count) + tail
    last = tail.rpartition(b"\n")[2]
    if _checked(last) is not None:
        stream.write(b"\n")
    elif last:
        stream.truncate(size - len(last))


def read_lines(path: Path) -> tuple[list[bytes], list[int]]:
    """The JSON objects of the file, not parsed, and the numbers (from 1) of lines that are damaged.

    Raises:
        ShardError: The file is larger than any journal.
    """
    found: list[bytes] = []
    damaged: list[int] = []
    for number, line in enumerate(checked_lines(path), 1):
        if line is None:
            damaged.append(number)
        else:
            found.append(line)
    return found, damaged


def checked_lines(path: Path) -> Iterator[bytes | None]:
    """The JSON object of each line, not parsed, and None for one that is damaged.

    A last line without an end is no damage: it is torn, or just being written, and passed over. What is no plain
    file (a pipe would be waited for without end) counts as not there.

    Raises:
        ShardError: The file is larger than any journal.
    """
    if not path.is_file():
        return
    if path.stat().st_size > _MAX_BYTES:
        raise ShardError(f"{path}: {path.stat().st_size} bytes are more than a journal can have; was it exchanged?")
    with path.open("rb", buffering=_READ_BYTES) as stream:
        for line in stream:
            rest = _checked(line.removesuffix(b"\n"))
            if rest is not None or line.endswith(b"\n"):
                yield rest


def _checked(line: bytes) -> bytes | None:
    head = _HEAD.match(line)
    if head is None or not line.endswith(b"}"):
        return None
    rest = line[head.end() :]
    return b"{" + rest if xxhash.xxh3_64_hexdigest(rest).encode() == head[1] else None


def drop_damaged_lines(path: Path, aside: Path) -> None:
    """Rewrites the file without its damaged lines; a copy of it as it was is kept under ``aside``."""
    kept, damaged = read_lines(path)
    if not damaged:
        return
    shutil.copyfile(path, aside)
    partial = path.parent / f".{path.name}{PARTIAL_SUFFIX}"
    partial.write_bytes(b"".join(_sum_up(line[1:]) for line in kept))
    publish(partial, path)


def _sum_up(rest: bytes) -> bytes:
    return b'{"sum": "%s", %s\n' % (xxhash.xxh3_64_hexdigest(rest).encode(), rest)
