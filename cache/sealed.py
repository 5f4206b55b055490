"""The record of sealed shards, ``sealed.jsonl``: what should be there, so that a shard that vanished is missed.

Shards describe themselves, and are read without this file; deleted, it is written anew by the next writer. It
knows the videos of a shard that can no longer be read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from framecache.cache.journal import append_lines, read_lines
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
    return set(_sealed_lines(folder))


def sealed_videos(folder: Path, shard: str) -> tuple[str, ...]:
    """The videos that a shard was sealed with; none when it is not on record."""
    line = _sealed_lines(folder).get(shard)
    if line is None:
        return ()
    try:
        return tuple(str(video_id) for video_id in json.loads(line)["videos"])
    except (ValueError, RecursionError):
        return ()


def _sealed_lines(folder: Path) -> dict[str, bytes]:
    lines: dict[str, bytes] = {}
    whole, _ = read_lines(folder / SEALED_FILE)  # what damaged lines said is found in the shards
    for line in whole:
        if sealed := _SEALED.match(line):
            lines[sealed[1].decode()] = line
        elif gone := _GONE.match(line):
            lines.pop(gone[1].decode(), None)
    return lines
