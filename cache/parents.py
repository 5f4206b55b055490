"""What a derivation reads: rows of the parents' videos, sampled and concatenated, a few MB at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError, ShardError
from framecache.cache.fingerprint import FeatureDigest
from framecache.cache.ledger import LedgerRow
from framecache.cache.reader import FeatureSet
from framecache.cache.sampling import parse_sampling

Progress = Callable[[int, int], object]
_BLOCK_BYTES = 16 << 20  # of float32 rows at a time


class Parents:
    """The feature sets that another is derived from.

    Args:
        sets: At least one; features of the others are put behind those of the first.
        sample: Which frames are kept; None for all that there are.

    Raises:
        InputError: There is nothing to sample from.
    """

    def __init__(self, sets: Sequence[FeatureSet], sample: str | None = None) -> None:
        self.sets = sets
        sampling = parse_sampling(sample or "all")
        self._sampling = None if sampling.kind == "all" else sampling
        if self._sampling is not None and sets[0].spec.sampling != "all":
            raise InputError(
                f"--sample {sample}: expected a parent with all frames, found {sets[0].name} ({sets[0].spec.sampling})"
            )
        self.sampling = sets[0].spec.sampling if self._sampling is None else str(self._sampling)
        self.ledgers: list[dict[str, LedgerRow]] = [features.ledger() for features in sets]
        self._digests = [_stored_digests(*pair) for pair in zip(sets, self.ledgers, strict=True)]

    @property
    def fingerprints(self) -> list[str]:
        """Of all sets, in order."""
        return [features.fingerprint for features in self.sets]

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one frame's features before the first step."""
        if len(self.sets) == 1:
            return self.sets[0].feature_shape
        return (sum(math.prod(features.feature_shape) for features in self.sets),)

    def timestamps_ms(self, video_id: str) -> NDArray[np.float64]:
        """Times of the frames that are kept, ``(T,)``."""
        times, chosen = self.sets[0].timestamps_ms(video_id), self._chosen(video_id)
        return np.array(times if chosen is None else times[chosen])

    def length(self, video_id: str) -> int:
        """Number of frames that are kept."""
        chosen = self._chosen(video_id)
        return self.sets[0].length(video_id) if chosen is None else len(chosen)

    def why_not(self, video_id: str) -> str | None:
        """Why a video of the first set has no rows to concatenate; None if it has."""
        if len(self.sets) == 1:
            return None
        times, content = self.sets[0].timestamps_ms(video_id), self.ledgers[0][video_id].source_digest
        for features, ledger in zip(self.sets[1:], self.ledgers[1:], strict=True):
            if video_id not in features:
                return f"it has no features in {features.name}"
            if ledger[video_id].source_digest != content:
                return f"its features in {features.name} are those of another content"
            if not np.array_equal(features.timestamps_ms(video_id), times):
                return f"its frames in {features.name} are other ones"
        return None

    def blocks(self, video_id: str) -> Iterator[NDArray[np.floating]]:
        """The kept rows of a video, ``(n, *feature_shape)``; every stored byte is digested on the way.

        Raises:
            ShardError: The stored bytes are not the ones that were computed; the blocks so far are not to be used.
        """
        digests = [FeatureDigest() for _ in self.sets]
        chosen = self._chosen(video_id)
        step = max(1, _BLOCK_BYTES // (4 * math.prod(self.feature_shape)))
        sets = [features.read(video_id, step) for features in self.sets]
        for begin, blocks in zip(itertools.count(0, step), zip(*sets, strict=True), strict=False):
            for digest, block in zip(digests, blocks, strict=True):
                digest.update(*block)
            rows = [features for features, _ in blocks]
            if chosen is not None:
                kept = chosen[(chosen >= begin) & (chosen < begin + step)] - begin
                rows = [row[kept] for row in rows]
            if len(rows[0]):
                yield self._concatenate(rows)
        for features, digest, known in zip(self.sets, digests, self._digests, strict=True):
            if digest.hexdigest() != known(video_id):
                raise ShardError(
                    f"{features.name}: {video_id!r} is hurt; run framecache verify {features.name} --repair"
                )

    def read(self, video_ids: Sequence[str], progress: Progress | None = None) -> Iterator[NDArray[np.floating]]:
        """The kept rows of some videos, block by block."""
        total, done = sum(map(self.length, video_ids)), 0
        for video_id in video_ids:
            for rows in self.blocks(video_id):
                yield rows
                done += len(rows)
                if progress is not None:
                    progress(done, total)

    def _chosen(self, video_id: str) -> NDArray[np.int64] | None:
        if self._sampling is None:
            return None
        return np.array(self._sampling.select(self.sets[0].timestamps_ms(video_id).tolist()), np.int64)

    def _concatenate(self, rows: Sequence[NDArray[np.generic]]) -> NDArray[np.floating]:
        decoded = [features.decode(row) for features, row in zip(self.sets, rows, strict=True)]
        if len(decoded) == 1:
            return decoded[0]
        return np.concatenate([row.reshape(len(row), -1) for row in decoded], axis=1)


def _stored_digests(features: FeatureSet, ledger: Mapping[str, LedgerRow]) -> Callable[[str], str]:
    """The digest of what is stored for a video, under its own name or, of a duplicate, under another."""
    own, by_content = {}, {}
    for _, _, row in features.live_rows():
        own[row.video_id] = by_content[row.source_digest] = row.digest
    return lambda video_id: own.get(video_id) or by_content[ledger[video_id].source_digest]
