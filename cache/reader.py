"""Reading a feature set: memory-mapped, lazily opened, without h5py in the hot path."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError, VideoNotFoundError
from framecache.cache.ledger import JournalLine, LedgerRow, read_journal
from framecache.cache.shard import Extent, ShardInfo, map_extent, read_rows, read_shard, shard_number
from framecache.cache.spec import Spec, require_same_spec

_MAX_OPEN_MAPS = 128


class FeatureSet(Mapping[str, NDArray[Any]]):
    """The features of many videos under one spec, by ``video_id``.

    Opening reads the shards' indexes; features are mapped when they are asked for. A view stays valid for as
    long as it is referenced, also when its shard is replaced or deleted meanwhile.

    Args:
        folder: The feature set's folder.
        spec: Its spec; every shard must have been written under it.

    Raises:
        ShardError: A shard is damaged.
        SpecMismatchError: A shard was written under another spec.
    """

    def __init__(self, folder: Path, spec: Spec) -> None:
        self.folder = folder
        self.spec = spec
        self._shards: list[ShardInfo] = []
        self._rows: dict[str, tuple[int, int]] = {}  # video_id → (shard, row in its index)
        self._maps: OrderedDict[tuple[Path, str], NDArray[Any]] = OrderedDict()
        self._by_content: dict[bytes, tuple[int, int]] = {}
        journal = sorted(read_journal(folder), key=lambda line: line.after_shard)
        for path in list_shards(folder):
            journal = self._follow_journal(journal, shard_number(path) or 0)
            info = read_shard(path)
            require_same_spec(spec, info.spec, str(path))
            shard = len(self._shards)
            self._shards.append(info)
            ids = info.index["video_id"].tolist()
            places = [(shard, row) for row in range(len(ids))]
            self._rows.update(zip((raw.decode() for raw in ids), places, strict=True))
            digests = info.index["source_digest"].tolist()
            self._by_content.update((digest, place) for digest, place in zip(digests, places, strict=True) if digest)
        self._follow_journal(journal, None)

    def _follow_journal(self, journal: list[JournalLine], before: int | None) -> list[JournalLine]:
        """Applies the lines written before shard number ``before``; returns the others."""
        for done, line in enumerate(journal):
            if before is not None and line.after_shard >= before:
                return journal[done:]
            duplicate = line.row.status == "duplicate"
            place = self._by_content.get(line.row.source_digest.encode()) if duplicate else None
            if place is None:
                self._rows.pop(line.row.video_id, None)
            else:
                self._rows[line.row.video_id] = place
        return []

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self.feature_shape))
        return f"<FeatureSet {self.name}: {len(self)} videos, {self.num_frames} frames × ({shape}) {self.dtype}>"

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __contains__(self, video_id: object) -> bool:
        return video_id in self._rows

    def __getitem__(self, video_id: str) -> NDArray[Any]:
        """Features of one video, a read-only memory-mapped view ``(T, *feature_shape)``.

        Raises:
            VideoNotFoundError: No features are stored for it.
        """
        info, row = self._locate(video_id)
        start, length = int(info.index["start"][row]), int(info.index["length"][row])
        return self._map(info, "features", info.features)[start : start + length]

    def timestamps_ms(self, video_id: str) -> NDArray[np.float64]:
        """Presentation time of each stored frame in its source, in milliseconds, ``(T,)``.

        Raises:
            VideoNotFoundError: No features are stored for it.
        """
        info, row = self._locate(video_id)
        start, length = int(info.index["start"][row]), int(info.index["length"][row])
        return self._map(info, "timestamps_ms", info.timestamps_ms)[start : start + length]

    def length(self, video_id: str) -> int:
        """Number of stored frames of one video, without touching its features."""
        info, row = self._locate(video_id)
        return int(info.index["length"][row])

    def video_with_content(self, source_digest: str) -> str | None:
        """The ``video_id`` under which this content is stored, or None."""
        place = self._by_content.get(source_digest.encode())
        if place is None:
            return None
        shard, row = place
        video_id: bytes = self._shards[shard].index["video_id"][row]
        return video_id.decode()

    def batch(self, video_ids: Sequence[str], max_len: int | None = None) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Features of several videos, right-padded with zeros.

        Args:
            video_ids: ``B`` videos.
            max_len: Frames beyond this many are left out; by default none are.

        Returns:
            The batch ``(B, T, *feature_shape)`` in the stored dtype, ``T`` the longest length in it, and the
            lengths ``(B,)``.

        Raises:
            VideoNotFoundError: One of the videos has no features here.
            InputError: ``max_len`` is below 1.
        """
        if max_len is not None and max_len < 1:
            raise InputError(f"max_len: expected at least 1, found {max_len}")
        views = [self[video_id][:max_len] for video_id in video_ids]
        lengths = np.array([len(view) for view in views], np.int64)
        batch = np.zeros((len(views), int(lengths.max(initial=0)), *self.feature_shape), self.dtype)
        for row, view in zip(batch, views, strict=True):
            row[: len(view)] = view
        return batch, lengths

    @property
    def name(self) -> str:
        """Full name, with the first characters of the fingerprint."""
        return self.spec.name

    @property
    def fingerprint(self) -> str:
        """Hash of the spec, 64 hexadecimal characters."""
        return self.spec.fingerprint

    @property
    def video_ids(self) -> tuple[str, ...]:
        """All videos with features, in the order in which they were stored."""
        return tuple(self._rows)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one frame's features."""
        return self.spec.feature_shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored dtype."""
        return np.dtype(self.spec.dtype)

    @cached_property
    def num_frames(self) -> int:
        """Frames of all videos together; duplicates count once."""
        return sum(int(self._shards[shard].index["length"][row]) for shard, row in set(self._rows.values()))

    @property
    def num_bytes(self) -> int:
        """Size of the shards on disk, in bytes."""
        return sum(info.path.stat().st_size for info in self._shards)

    @property
    def last_shard(self) -> int:
        """Number of the newest shard; 0 when there is none."""
        return max((info.number for info in self._shards), default=0)

    def ledger(self) -> dict[str, LedgerRow]:
        """The latest ledger row of every video that was ever asked for, by ``video_id``."""
        rows: dict[str, LedgerRow] = {}
        told: list[tuple[int, int, LedgerRow]] = [
            (info.number, 0, LedgerRow.of_stored(row)) for info in self._shards for row in read_rows(info.path)
        ]
        told += [(line.after_shard, 1, line.row) for line in read_journal(self.folder)]
        for _, _, row in sorted(told, key=lambda item: item[:2]):
            rows[row.video_id] = row
        return rows

    def _locate(self, video_id: str) -> tuple[ShardInfo, int]:
        try:
            shard, row = self._rows[video_id]
        except KeyError:
            raise VideoNotFoundError(
                f"{self.name}: no features of video {video_id!r}; `framecache ledger {self.name}` says why"
            ) from None
        return self._shards[shard], row

    def _map(self, info: ShardInfo, name: str, extent: Extent) -> NDArray[Any]:
        key = (info.path, name)
        mapped = self._maps.get(key)
        if mapped is None:
            mapped = map_extent(info.path, extent)
            self._maps[key] = mapped
            if len(self._maps) > _MAX_OPEN_MAPS:  # views in use keep their own map alive
                self._maps.popitem(last=False)
        else:
            self._maps.move_to_end(key)
        return mapped


def list_shards(folder: Path) -> list[Path]:
    """The visible shards of a feature set, in the order of writing."""
    found = [(number, path) for path in folder.iterdir() if (number := shard_number(path)) is not None]
    return [path for _, path in sorted(found)]
