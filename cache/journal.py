"""Append-only files of JSON lines: what was appended is durable, and a line that is torn or hurt is passed over.

Each line begins with a check sum of the rest of it: ``{"sum": "…", …}``.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from stat import S_ISREG

import xxhash

_LINE = re.compile(rb'\{"sum": "([0-9a-f]{16})", (.*\})')


def append_lines(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Adds a line per row and makes them durable.

    Raises:
        OSError: The disk refused; the last line may be torn. Or something else has the name: nothing is written
            through a link, into a pipe or a device.
    """
    lines = b"".join(_format(row) for row in rows)
    created = not path.exists()
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o666)
    if not S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with open(descriptor, "a+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        if size:
            stream.seek(size - 1)
            if stream.read(1) != b"\n":  # a writer died within its line: keep that line apart
                lines = b"\n" + lines
        stream.write(lines)
        stream.flush()
        os.fsync(stream.fileno())
    if created:
        fsync_folder(path.parent)


def read_lines(path: Path) -> Iterator[bytes]:
    """The JSON objects of the file, whole but not parsed; none when it is not there.

    What is no plain file (a pipe would be waited for without end) counts as not there.
    """
    if not path.is_file():
        return
    for line in path.read_bytes().split(b"\n"):
        match = _LINE.fullmatch(line)
        if match and xxhash.xxh3_64_hexdigest(match[2]).encode() == match[1]:
            yield b"{" + match[2]


def fsync_folder(folder: Path) -> None:
    """Makes creations, renames and removals in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _format(row: Mapping[str, object]) -> bytes:
    rest = json.dumps(row).encode()[1:]
    return b'{"sum": "%s", %s\n' % (xxhash.xxh3_64_hexdigest(rest).encode(), rest)
