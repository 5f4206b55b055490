"""Compaction: many small shards become few large ones, while readers read on.

The new shards are published before the old ones go, and hold the same rows: of two shards with a row for one
video the later counts, so that a reader, or a kill, in between sees nothing twice and nothing missing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import numpy as np

from framecache.cache.durable import fsync_folder
from framecache.cache.errors import ShardError
from framecache.cache.maps import map_extent
from framecache.cache.reader import FeatureSet
from framecache.cache.sealed import record_gone
from framecache.cache.shard import ShardInfo, VideoRow
from framecache.cache.spec import Spec
from framecache.cache.writer import ShardWriter

_BLOCK_BYTES = 4 << 20


def compact(folder: Path, spec: Spec, shard_bytes: int, min_shards: int = 0) -> int:
    """Rewrites shards that are small, or hold rows that no longer count; the caller holds the lock.

    Shards that other software or another engine computed stay apart, since each shard records its own.

    Args:
        folder: The feature set's folder.
        spec: Its spec.
        shard_bytes: Size of a large shard; less than half of it is small.
        min_shards: With fewer small shards than this, nothing is looked at further.

    Returns:
        How many shards were replaced.

    Raises:
        ShardError: A shard is hurt; nothing was replaced.
        OSError: The disk refused; nothing was replaced.
    """
    features = FeatureSet(folder, spec)
    if sum(info.num_bytes < shard_bytes / 2 for info in features.shards) < min_shards:
        return 0
    live: dict[Path, list[tuple[int, VideoRow]]] = defaultdict(list)
    for info, place, row in features.live_rows():
        live[info.path].append((place, row))
    groups: dict[tuple[tuple[str, str], ...], list[ShardInfo]] = defaultdict(list)
    for info in features.shards:
        counted = sum(row.length for _, row in live[info.path])
        if info.num_bytes < shard_bytes / 2 or counted < info.features.shape[0] / 2:
            groups[tuple(sorted(info.software.items()))].append(info)
    replaced: list[ShardInfo] = []
    for group in groups.values():
        if len(group) == 1 and len(live[group[0].path]) == len(group[0].index):
            continue
        with ShardWriter(folder, spec, group[0].software, shard_bytes, math.inf, seal_on_interrupt=False) as writer:
            for info in group:
                for place, row in live[info.path]:
                    copy_video(writer, info, place, row)
        replaced += group
    remove_shards(folder, [info.path for info in replaced], "compacted")
    return len(replaced)


def copy_video(writer: ShardWriter, info: ShardInfo, place: int, row: VideoRow) -> None:
    """Adds a stored video to a writer; its features are digested on the way.

    Args:
        writer: Where it goes.
        info: The shard that it is in.
        place: Its row in that shard's index.
        row: What to write of it.

    Raises:
        ShardError: Its bytes are not the ones that were computed.
    """
    start = int(info.index["start"][place])
    features = map_extent(info.path, info.features)[start : start + row.length]
    timestamps_ms = map_extent(info.path, info.timestamps_ms)[start : start + row.length]
    step = max(1, _BLOCK_BYTES // max(1, features[:1].nbytes))
    with closing(writer.open_video()) as buffer:
        for begin in range(0, row.length, step):
            buffer.append(features[begin : begin + step], np.array(timestamps_ms[begin : begin + step]))
        if buffer.hexdigest() != row.digest:
            raise ShardError(f"{info.path}: the features of {row.video_id!r} are hurt; run framecache verify --repair")
        writer.add(buffer, row)


def remove_shards(folder: Path, shards: list[Path], why: str) -> None:
    """Removes shards that are no longer needed; first says so, so that nobody misses them."""
    if not shards:
        return
    record_gone(folder, [path.name for path in shards], why)
    for path in shards:
        path.unlink(missing_ok=True)
    fsync_folder(folder)
