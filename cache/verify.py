"""Verification: what is read is what was computed, down to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from framecache.cache.errors import FramecacheError
from framecache.cache.fingerprint import FeatureDigest
from framecache.cache.reader import list_shards
from framecache.cache.shard import ShardInfo, map_extent, read_rows, read_shard
from framecache.cache.spec import Spec, require_same_spec

_BLOCK_FRAMES = 1024


@dataclass
class Verification:
    """What checking one feature set found.

    Attributes:
        name: The feature set.
        shards: Shards that were looked at.
        videos: Videos whose stored bytes were digested.
        hurt: ``video_id`` of those whose bytes are not the ones that were computed.
        errors: Per shard that cannot be read at all (its videos cannot be named), the reason.
    """

    name: str
    shards: int = 0
    videos: int = 0
    hurt: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every shard is whole and every video's bytes are the ones that were computed."""
        return not self.hurt and not self.errors

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return {"name": self.name, "ok": self.ok, **{key: value for key, value in vars(self).items() if key != "name"}}


def verify(folder: Path, spec: Spec) -> Iterator[Verification]:
    """Digests all stored bytes of a feature set again, shard by shard, and compares.

    Args:
        folder: The feature set's folder.
        spec: Its spec.

    Yields:
        The same, growing, result after each shard; the last one is complete.
    """
    result = Verification(spec.name)
    yield result
    for path in list_shards(folder):
        result.shards += 1
        try:
            info = read_shard(path)
            require_same_spec(spec, info.spec, str(path))
            rows = read_rows(path)
        except FramecacheError as error:
            result.errors.append(str(error))
        else:
            result.videos += len(rows)
            for place, row in enumerate(rows):
                if _digest(info, place) != row.digest:
                    result.hurt.append(row.video_id)
        yield result


def _digest(info: ShardInfo, place: int) -> str:
    features, timestamps_ms = map_extent(info.path, info.features), map_extent(info.path, info.timestamps_ms)
    start, length = int(info.index["start"][place]), int(info.index["length"][place])
    digest = FeatureDigest()
    for begin in range(start, start + length, _BLOCK_FRAMES):
        end = min(begin + _BLOCK_FRAMES, start + length)
        digest.update(features[begin:end], timestamps_ms[begin:end])
    return digest.hexdigest()
