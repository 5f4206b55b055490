"""Compaction: many small shards become few large ones, while readers read on.

The new shards are published before the old ones go, and hold the same rows: of two shards with a row for one
video the later counts, so that a reader, or a kill, in between sees nothing twice and nothing missing.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from framecache.cache.copying import MOST_VIDEOS, StoredVideos, copy_videos
from framecache.cache.durable import fsync_folder
from framecache.cache.reader import FeatureSet
from framecache.cache.sealed import record_gone
from framecache.cache.shard import ShardInfo
from framecache.cache.spec import Spec


def compact(folder: Path, spec: Spec, shard_bytes: int, min_shards: int = 0) -> int:
    """Rewrites shards that are small, or hold rows that no longer count; the caller holds the lock.

    Shards that other software or another engine computed stay apart, since each shard records its own.

    Args:
        folder: The feature set's folder.
        spec: Its spec.
        shard_bytes: Size of a large shard; less than half of it is small, if there are not very many videos in it.
        min_shards: With fewer small shards than this, nothing is looked at further.

    Returns:
        How many shards were replaced.

    Raises:
        ShardError: A shard is hurt; nothing was replaced.
        OSError: The disk refused; nothing was replaced.
    """
    features = FeatureSet(folder, spec)
    if sum(_is_small(info, shard_bytes) for info in features.shards) < min_shards:
        return 0
    groups: dict[tuple[tuple[str, str], ...], list[StoredVideos]] = defaultdict(list)
    for info, rows, named in features.live():
        live = StoredVideos(info, rows, named)
        if _is_small(info, shard_bytes) or live.lengths.sum() < info.features.shape[0] / 2:
            groups[tuple(sorted(info.software.items()))].append(live)
    replaced: list[Path] = []
    for group in groups.values():
        if len(group) == 1 and len(group[0].rows) == len(group[0].info.index):
            continue
        copy_videos(folder, spec, group, shard_bytes)
        replaced += [live.info.path for live in group]
    remove_shards(folder, replaced, "compacted")
    return len(replaced)


def _is_small(info: ShardInfo, shard_bytes: int) -> bool:
    return info.num_bytes < shard_bytes / 2 and len(info.index) < MOST_VIDEOS / 2


def remove_shards(folder: Path, shards: list[Path], why: str) -> None:
    """Removes shards that are no longer needed; first says so, so that nobody misses them."""
    if not shards:
        return
    record_gone(folder, [path.name for path in shards], why)
    for path in shards:
        path.unlink(missing_ok=True)
    fsync_folder(folder)
