"""The record of sealed shards, ``sealed.jsonl``: what should be there, so that a shard that vanished is missed.

Shards describe themselves, and are read without this file; deleted, it is written anew by the next writer. It
knows the videos of a shard that can no longer be read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from framecache.cache.journal import append_lines, checked_lines
from framecache.cache.shard import SHARD_PATTERN

SEALED_FILE = "sealed.jsonl"
# The beginning of a line is enough to know the shard; its names may be millions.
_SEALED = re.compile(rb'\{"sealed": "(' + SHARD_PATTERN.pattern.encode() + rb')", "videos": \[')
_GONE = re.compile(rb'\{"gone": "(' + SHARD_PATTERN.pattern.encode() + rb')"')


def record_sealed(folder: Path, shard: str, video_ids: Sequence[str]) -> None:
    """Adds a shard that has just become visible."""
    append_lines(folder / SEALED_FILE, [{"sealed": shard, "videos": list(video_ids)}])


def record_gone(folder: Path, shards: Iterable[str], why: str) -> None:
    """Adds that these shards are about to be taken away on purpose."""
    append_lines(folder / SEALED_FILE, [{"gone": shard, "why": why} for shard in shards])


def sealed_shards(folder: Path) -> set[str]:
    """Names of the shards that should be there."""
    shards: set[str] = set()
    for sealed, shard, _ in _lines(folder):
        if sealed:
            shards.add(shard)
        else:
            shards.discard(shard)
    return shards


def sealed_videos(folder: Path, shard: str) -> tuple[str, ...]:
    """The videos that a shard was sealed with; none when it is not on record."""
    videos = b""
    for sealed, name, line in _lines(folder):
        if name == shard:
            videos = line if sealed else b""
    try:
        return tuple(str(video_id) for video_id in json.loads(videos or b"{}").get("videos", ()))
    except (ValueError, RecursionError):
        return ()


def _lines(folder: Path) -> Iterator[tuple[bool, str, bytes]]:
    """Whether each line says that a shard was sealed, or that it is gone; which; and the line itself."""
    for line in checked_lines(folder / SEALED_FILE):
        if line is None:
            continue  # what it said is found in the shards
        sealed = _SEALED.match(line)
        about = sealed or _GONE.match(line)
        if about:
            yield sealed is not None, about[1].decode(), line
