"""Reading a feature set: memory-mapped, lazily opened, without h5py in the hot path."""

from __future__ import annotations

import math
import os
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from framecache.cache.derivation import quantisation, read_derivation
from framecache.cache.errors import FeatureSetNotFoundError, InputError, ShardError, VideoNotFoundError
from framecache.cache.ledger import LedgerRow, read_journal
from framecache.cache.sealed import sealed_shards
from framecache.cache.shard import (
    Extent,
    ShardInfo,
    VideoRow,
    digest_stored,
    map_extent,
    read_rows,
    read_shard,
    shard_number,
)
from framecache.cache.spec import Spec, require_same_spec

_MAX_OPEN_MAPS = 128
Place = tuple[int, int]  # which shard, which row of its index


@dataclass(frozen=True)
class _View:
    """The shards of one moment, and where the latest word on each video leads."""

    shards: list[ShardInfo]
    rows: dict[str, Place]
    by_content: dict[bytes, Place]

    def digest(self, place: Place) -> bytes:
        """Digest of the features at a place."""
        shard, row = place
        found: bytes = self.shards[shard].index["digest"][row]
        return found

    last_number: int  # of the newest shard or ledger line


class FeatureSet(Mapping[str, NDArray[Any]]):
    """The features of many videos under one spec, by ``video_id``.

    Opening reads the shards' indexes; features are mapped when they are asked for. It shows the videos of the
    moment of opening: later ones need another opening. A view of features stays valid for as long as it is
    referenced, and where shards were compacted since, the same features are found in the new ones.

    Args:
        folder: The feature set's folder.
        spec: Its spec; every shard must have been written under it.
        without: For repair: names of shards to pass over, hurt or missing ones. Damaged lines of the ledger are
            then passed over too.

    Raises:
        ShardError: A shard is damaged or missing.
        SpecMismatchError: A shard was written under another spec.
    """

    def __init__(self, folder: Path, spec: Spec, without: Collection[str] | None = None) -> None:
        self.folder = folder
        self.spec = spec
        self._without = None if without is None else frozenset(without)
        self._maps: OrderedDict[tuple[Path, str], NDArray[Any]] = OrderedDict()
        self._view = self._opened = _read_view(folder, spec, self._without)
        self._changed: set[str] = set()  # videos whose features are no longer those of the opening
        self._quantisation: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        if spec.dtype == "uint8":
            self._quantisation = quantisation(read_derivation(folder, spec.lineage or {}).arrays)

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self.feature_shape))
        return f"<FeatureSet {self.name}: {len(self)} videos, {self.num_frames} frames × ({shape}) {self.dtype}>"

    def __len__(self) -> int:
        return len(self._view.rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._view.rows)

    def __contains__(self, video_id: object) -> bool:
        return video_id in self._view.rows

    def __getitem__(self, video_id: str) -> NDArray[Any]:
        """Features of one video, ``(T, *feature_shape)``: a read-only memory-mapped view, or float32 of a uint8 set.

        Raises:
            VideoNotFoundError: No features are stored for it.
            ShardError: Its shard has vanished.
        """
        return self.decode(self.stored(video_id))

    def stored(self, video_id: str) -> NDArray[Any]:
        """As it is stored, a read-only memory-mapped view ``(T, *feature_shape)`` also of a uint8 set.

        Raises:
            VideoNotFoundError: No features are stored for it.
            ShardError: Its shard has vanished.
        """
        return self._rows_of(video_id, "features")

    def decode(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Some stored rows as features: the very same, or float32 of a uint8 set."""
        if self._quantisation is None:
            return rows
        offset, scale = self._quantisation
        return rows * scale + offset

    def timestamps_ms(self, video_id: str) -> NDArray[np.float64]:
        """Presentation time of each stored frame in its source, in milliseconds, ``(T,)``.

        Raises:
            VideoNotFoundError: No features are stored for it.
            ShardError: Its shard has vanished.
        """
        return self._rows_of(video_id, "timestamps_ms")

    def length(self, video_id: str) -> int:
        """Number of stored frames of one video, without touching its features."""
        info, row = self._locate(video_id)
        return int(info.index["length"][row])

    def is_intact(self, video_id: str) -> bool:
        """Whether the stored features and timestamps are, to the bit, the ones that were computed; reads them all.

        Raises:
            VideoNotFoundError: No features are stored for it.
            ShardError: Its shard cannot be read.
        """
        while True:
            info, row = self._locate(video_id)
            try:
                *_, digest = digest_stored(info, row)
            except ShardError:
                self._renew_if_gone(info)
                continue
            return bool(digest.encode() == info.index["digest"][row])

    def video_with_content(self, source_digest: str) -> str | None:
        """The ``video_id`` under which this content is stored, or None."""
        place = self._view.by_content.get(source_digest.encode())
        if place is None:
            return None
        shard, row = place
        video_id: bytes = self._view.shards[shard].index["video_id"][row]
        return video_id.decode()

    def batch(self, video_ids: Sequence[str], max_len: int | None = None) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Features of several videos, right-padded with zeros.

        Args:
            video_ids: ``B`` videos.
            max_len: Frames beyond this many are left out; by default none are.

        Returns:
            The batch ``(B, T, *feature_shape)`` in :attr:`dtype`, ``T`` the longest length in it, and the
            lengths ``(B,)``.

        Raises:
            VideoNotFoundError: One of the videos has no features here.
            InputError: ``max_len`` is below 1.
        """
        if max_len is not None and max_len < 1:
            raise InputError(f"max_len: expected at least 1, found {max_len}")
        views = [self.stored(video_id)[:max_len] for video_id in video_ids]
        lengths = np.array([len(view) for view in views], np.int64)
        batch = np.zeros((len(views), int(lengths.max(initial=0)), *self.feature_shape), self.dtype)
        for row, view in zip(batch, views, strict=True):
            row[: len(view)] = self.decode(view)
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
        return tuple(self._view.rows)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one frame's features."""
        return self.spec.feature_shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the features that are read: the stored dtype, or float32 of a uint8 set."""
        return np.dtype("float32" if self._quantisation is not None else self.spec.dtype)

    @cached_property
    def num_frames(self) -> int:
        """Frames of all videos together, as of the opening; duplicates count once."""
        shards = self._opened.shards
        return sum(int(shards[shard].index["length"][row]) for shard, row in set(self._opened.rows.values()))

    @property
    def num_bytes(self) -> int:
        """Size of the shards on disk, in bytes."""
        return sum(info.num_bytes for info in self._view.shards)

    @property
    def shards(self) -> tuple[ShardInfo, ...]:
        """Its shards, in the order of writing."""
        return tuple(self._view.shards)

    @property
    def last_shard(self) -> int:
        """Number of the newest shard or ledger line, which the next ones come after; 0 when there is none."""
        return self._view.last_number

    def ledger(self) -> dict[str, LedgerRow]:
        """The latest ledger row of every video that was ever asked for, by ``video_id``."""
        told: list[tuple[int, int, LedgerRow]] = []
        for info in self._view.shards:
            try:
                told += [(info.number, 0, LedgerRow.of_stored(row)) for row in read_rows(info.path)]
            except ShardError:
                self._renew_if_gone(info)
                return self.ledger()
        lines = read_journal(self.folder, lenient=self._without is not None)
        told += [(line.after_shard, 1, line.row) for line in lines]
        return {row.video_id: row for _, _, row in sorted(told, key=lambda item: item[:2])}

    def live_rows(self) -> list[tuple[ShardInfo, int, VideoRow]]:
        """What a copy of this set has to hold: each stored row that still counts, under a name that leads to it.

        A row whose own video was computed again since, and that duplicates still refer to, goes by the name of
        the first of them.
        """
        names: dict[Place, str] = {}
        for video_id, place in self._view.rows.items():
            shard, row = place
            own = self._view.shards[shard].index["video_id"][row] == video_id.encode()
            if own or place not in names:
                names[place] = video_id
        ledger = self.ledger()
        live = []
        for number, info in enumerate(self._view.shards):
            for row, stored in enumerate(read_rows(info.path)):
                name = names.get((number, row))
                if name is not None:
                    named = LedgerRow.of_stored(stored) if name == stored.video_id else ledger[name]
                    copy = replace(stored, video_id=name, source=named.source, source_stat=named.source_stat)
                    live.append((info, row, copy))
        return live

    def told_since(self, number: int) -> set[str]:
        """The videos of which a newer shard, or a ledger line, says something after that shard."""
        newer = [info.index["video_id"].tolist() for info in self._view.shards if info.number > number]
        told = {raw.decode() for ids in newer for raw in ids}
        lines = read_journal(self.folder, lenient=True)
        return told | {line.row.video_id for line in lines if line.after_shard >= number}

    def places(self) -> Iterator[tuple[str, ShardInfo, int]]:
        """Where each video's features are: its shard, and its row in the shard's index."""
        for video_id, (shard, row) in self._view.rows.items():
            yield video_id, self._view.shards[shard], row

    def _locate(self, video_id: str) -> tuple[ShardInfo, int]:
        if video_id in self._changed:
            raise ShardError(
                f"{self.name}: {video_id!r} was computed anew, or removed, since the cache was opened; open it again"
            )
        try:
            shard, row = self._view.rows[video_id]
        except KeyError:
            raise VideoNotFoundError(
                f"{self.name}: no features of video {video_id!r}; `framecache ledger {self.name}` says why"
            ) from None
        return self._view.shards[shard], row

    def _rows_of(self, video_id: str, name: Literal["features", "timestamps_ms"]) -> NDArray[Any]:
        while True:
            info, row = self._locate(video_id)
            try:
                mapped = self._map(info, name, getattr(info, name))
            except FileNotFoundError:
                self._renew_if_gone(info)
                continue
            start, length = int(info.index["start"][row]), int(info.index["length"][row])
            return mapped[start : start + length]

    def _renew_if_gone(self, info: ShardInfo) -> None:
        """Called when a shard cannot be read: looks for all videos in the shards that there are now.

        Raises:
            ShardError: The shard is there, and damaged.
        """
        if os.path.lexists(info.path):
            raise  # the error that the caller is handling
        before, now = self._view, _read_view(self.folder, self.spec, self._without)
        rows: dict[str, Place] = {}
        for video_id, place in before.rows.items():
            if video_id in now.rows and now.digest(now.rows[video_id]) == before.digest(place):
                rows[video_id] = now.rows[video_id]
            else:
                self._changed.add(video_id)
        self._view = replace(now, rows=rows)

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


def _read_view(folder: Path, spec: Spec, without: Collection[str] | None) -> _View:
    """Reads what there is at one moment, while a writer may be sealing, compacting and removing.

    Shards appear before those that they replace are removed, and their removal is on record before it happens.
    So a listing that is the same after all was read as it was before is a listing of one moment.
    """
    read: dict[Path, ShardInfo] = {}
    lenient, without = without is not None, frozenset(without or ())
    while True:
        listed = [path for path in list_shards(folder) if path.name not in without]
        try:
            for path in listed:
                if path not in read:
                    read[path] = read_shard(path)
        except ShardError:
            if os.path.lexists(path):
                raise
            continue
        journal = sorted(read_journal(folder, lenient=lenient), key=lambda line: line.after_shard)
        recorded = sealed_shards(folder)
        if listed == [path for path in list_shards(folder) if path.name not in without]:
            break
    missing = sorted((recorded & sealed_shards(folder)) - {path.name for path in listed} - set(without))
    if missing:
        raise ShardError(
            f"{folder}: {len(missing)} of its shards are missing ({', '.join(missing[:3])}); "
            "restore them, or run framecache verify --repair and extract again"
        )
    shards = [read[path] for path in listed]
    for info in shards:
        require_same_spec(spec, info.spec, str(info.path))

    places: dict[str, Place | bytes] = {}  # bytes: the content that a duplicate refers to
    by_content: dict[bytes, Place] = {}
    lines = deque(journal)

    def follow_lines(before: float) -> None:
        while lines and lines[0].after_shard < before:
            row = lines.popleft().row
            places.pop(row.video_id, None)
            if row.status == "duplicate":
                places[row.video_id] = row.source_digest.encode()

    for shard, info in enumerate(shards):
        follow_lines(info.number)
        here = [(shard, row) for row in range(len(info.index))]
        places.update(zip((raw.decode() for raw in info.index["video_id"].tolist()), here, strict=True))
        by_content.update(zip(info.index["source_digest"].tolist(), here, strict=True))
    follow_lines(math.inf)
    by_content.pop(b"", None)
    # Last, since the shard with the content may have been replaced by one that is newer than the line.
    resolved = ((video_id, by_content.get(to) if isinstance(to, bytes) else to) for video_id, to in places.items())
    rows = {video_id: place for video_id, place in resolved if place is not None}
    last_number = max([0, *(info.number for info in shards), *(line.after_shard for line in journal)])
    return _View(shards, rows, by_content, last_number)


def list_shards(folder: Path) -> list[Path]:
    """The visible shards of a feature set, in the order of writing.

    Raises:
        FeatureSetNotFoundError: The folder is not there.
    """
    try:
        found = [(number, path) for path in folder.iterdir() if (number := shard_number(path)) is not None]
    except FileNotFoundError:
        raise FeatureSetNotFoundError(f"no feature set in {folder}: it was removed") from None
    return [path for _, path in sorted(found)]
