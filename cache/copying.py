"""Copies of stored videos, a whole shard at a time and without a Python object for each: of millions quick too."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import ShardError
from framecache.cache.fingerprint import digest_features
from framecache.cache.ledger import LedgerRow, last_number
from framecache.cache.maps import map_extent
from framecache.cache.packing import Tables, pack_table
from framecache.cache.sealed import record_sealed
from framecache.cache.shard import INDEX_FIELDS, LEDGER_FIELDS, ShardInfo, read_tables
from framecache.cache.spec import Spec
from framecache.cache.writer import publish_shard

MOST_VIDEOS = 1 << 18  # of one shard, since its tables are packed in memory


@dataclass(frozen=True)
class StoredVideos:
    """Some videos of one shard.

    Attributes:
        info: The shard.
        rows: Of its index, ascending.
        named: Of those that go by another name now, the ledger's row on it.
    """

    info: ShardInfo
    rows: NDArray[np.int64]
    named: Mapping[int, LedgerRow]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Frames of each."""
        lengths: NDArray[np.int64] = self.info.index["length"][self.rows]
        return lengths


def copy_videos(folder: Path, spec: Spec, pieces: Sequence[StoredVideos], shard_bytes: int) -> None:
    """Writes videos into new shards, which are visible at once; the caller holds the lock.

    Args:
        folder: The feature set's folder.
        spec: Its spec.
        pieces: The videos, in order, computed by the same software.
        shard_bytes: A shard ends when its features reach this size.

    Raises:
        ShardError: Features are not the ones that were computed, or a ledger is hurt.
        OSError: The disk refused.
    """
    for number, shard in enumerate(_divide(pieces, shard_bytes), last_number(folder) + 1):
        index, ledger = _pack(shard)
        times = np.concatenate([_mapped(piece, "timestamps_ms")[span] for piece in shard for span in _spans(piece)])
        features = _checked_features(shard, times)
        name = publish_shard(folder, number, spec, shard[0].info.software, (index, ledger), features, times)
        record_sealed(folder, name, [raw.decode() for raw in index["video_id"].tolist()])


def _divide(pieces: Sequence[StoredVideos], shard_bytes: int) -> Iterator[list[StoredVideos]]:
    """The videos of each new shard."""
    shard: list[StoredVideos] = []
    num_bytes = num_videos = 0
    for piece in pieces:
        frame_bytes = math.prod(piece.info.features.shape[1:]) * piece.info.features.dtype.itemsize
        while len(piece.rows):
            sizes = np.cumsum(piece.lengths) * frame_bytes
            reaches_it = int(np.searchsorted(sizes, shard_bytes - num_bytes))
            count = min(reaches_it + 1, MOST_VIDEOS - num_videos, len(sizes))
            shard.append(replace(piece, rows=piece.rows[:count]))
            piece = replace(piece, rows=piece.rows[count:])
            num_bytes, num_videos = num_bytes + int(sizes[count - 1]), num_videos + count
            if num_bytes >= shard_bytes or num_videos == MOST_VIDEOS:
                yield shard
                shard, num_bytes, num_videos = [], 0, 0
    if shard:
        yield shard


def _pack(shard: Sequence[StoredVideos]) -> Tables:
    """The tables of a new shard."""
    columns = [_columns(piece) for piece in shard]
    joined = {field: np.concatenate([found[field] for found in columns]) for field in columns[0]}
    joined["start"] = np.cumsum(joined["length"]) - joined["length"]
    index, ledger = ({field: joined[field] for field in fields} for fields in (INDEX_FIELDS, LEDGER_FIELDS))
    return pack_table(index), pack_table(ledger)


def _columns(piece: StoredVideos) -> dict[str, NDArray[Any]]:
    """What is told of some videos, under the names that they go by."""
    _, ledger = read_tables(piece.info.path)
    tables = piece.info.index[piece.rows], ledger[piece.rows]
    columns = {field: table[field] for table in tables for field in table.dtype.names or ()}
    if piece.named:
        chosen = [row in piece.named for row in piece.rows.tolist()]
        rows = [piece.named[row] for row in piece.rows[chosen].tolist()]
        for field in ("video_id", "source", "source_stat"):
            texts = np.array([getattr(row, field).encode() for row in rows], np.bytes_)
            columns[field] = columns[field].astype(np.promote_types(columns[field].dtype, texts.dtype))
            columns[field][chosen] = texts
    return columns


def _spans(piece: StoredVideos) -> list[slice]:
    """The frames of videos that lie side by side, together."""
    starts = piece.info.index["start"][piece.rows]
    ends = starts + piece.lengths
    apart = starts[1:] != ends[:-1]
    begins, stops = starts[np.append(True, apart)], ends[np.append(apart, True)]
    return [slice(begin, stop) for begin, stop in zip(begins.tolist(), stops.tolist(), strict=True)]


def _checked_features(shard: Sequence[StoredVideos], timestamps_ms: NDArray[np.float64]) -> Iterator[memoryview]:
    """The bytes of a new shard's features, each video's behind those that it is next to.

    Raises:
        ShardError: These or the timestamps are not the ones that were computed.
    """
    told, at = timestamps_ms.data.cast("B"), 0
    for piece in shard:
        frames = _mapped(piece, "features")
        stored, frame_bytes = frames.data.cast("B"), frames[:1].nbytes
        index = piece.info.index[piece.rows]
        videos = zip(index["start"].tolist(), index["length"].tolist(), index["digest"].tolist(), strict=True)
        for number, (start, length, expected) in enumerate(videos):
            features = stored[start * frame_bytes : (start + length) * frame_bytes]
            if digest_features(features, told[at * 8 : (at + length) * 8]).encode() != expected:
                name = index["video_id"][number].decode()
                raise ShardError(
                    f"{piece.info.path}: the features of {name!r} are hurt; run framecache verify --repair"
                )
            at += length
        for span in _spans(piece):
            yield stored[span.start * frame_bytes : span.stop * frame_bytes]


def _mapped(piece: StoredVideos, name: str) -> NDArray[Any]:
    return map_extent(piece.info.path, getattr(piece.info, name))
