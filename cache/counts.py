"""How much a feature set holds, told without keeping the names of millions of videos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from framecache.cache.ledger import LEDGER_FILE
from framecache.cache.reader import FeatureSet
from framecache.cache.shard import ShardInfo
from framecache.cache.spec import Spec
from framecache.cache.view import read_moment


@dataclass(frozen=True)
class Counts:
    """Sizes of a feature set.

    Attributes:
        num_videos: Videos with features.
        num_frames: Frames of all of them together; duplicates count once.
        num_bytes: Size of the shards on disk.
    """

    num_videos: int
    num_frames: int
    num_bytes: int

    @classmethod
    def of(cls, features: FeatureSet) -> Counts:
        """Of a feature set that is open."""
        return cls(len(features), features.num_frames, features.num_bytes)


def count(folder: Path, spec: Spec) -> Counts:
    """Opens a feature set no further than its counts need.

    Every shard is read and checked as ever. Where each row is of another video, and the ledger has no lines, all
    rows count; otherwise it is opened as a whole.

    Raises:
        ShardError: A shard is damaged or missing.
        SpecMismatchError: A shard was written under another spec.
    """
    # Opening tells also whether the arrays are there that uint8 is read with.
    if spec.dtype == "uint8" or (folder / LEDGER_FILE).exists():
        return Counts.of(FeatureSet(folder, spec))
    sizes, lines = read_moment(folder, spec, None, _size)
    hashes = np.sort(np.concatenate([np.empty(0, np.uint64), *(hashes for *_, hashes in sizes)]))
    if lines or (hashes[1:] == hashes[:-1]).any():
        return Counts.of(FeatureSet(folder, spec))
    return Counts(len(hashes), sum(frames for frames, *_ in sizes), sum(num_bytes for _, num_bytes, _ in sizes))


def _size(info: ShardInfo) -> tuple[int, int, NDArray[np.uint64]]:
    return info.features.shape[0], info.num_bytes, info.name_hashes
