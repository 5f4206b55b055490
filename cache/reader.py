"""Reading a feature set: memory-mapped, lazily opened, without h5py in the hot path."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from framecache.cache.derivation import quantisation, read_derivation
from framecache.cache.errors import InputError, ShardError, VideoNotFoundError
from framecache.cache.ledger import LedgerRow, read_journal
from framecache.cache.maps import OpenMaps
from framecache.cache.shard import ShardInfo, VideoRow, digest_stored, read_rows, read_stored
from framecache.cache.shown import Shown, plural
from framecache.cache.spec import Spec
from framecache.cache.view import View, list_shards, read_view

if TYPE_CHECKING:
    from framecache.cache.exchange.torch_dataset import TorchDataset

__all__ = ["FeatureSet", "list_shards"]


class FeatureSet(Shown, Mapping[str, NDArray[Any]]):
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
        self._maps = OpenMaps()
        self._view = self._opened = read_view(folder, spec, self._without)
        self._changed: set[str] = set()  # videos whose features are no longer those of the opening
        self._quantisation: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        if spec.dtype == "uint8":
            self._quantisation = quantisation(read_derivation(folder, spec.lineage or {}).arrays)

    def _line(self) -> str:
        shape = ", ".join(map(str, self.feature_shape))
        counts = f"{plural(len(self), 'video')}, {plural(self.num_frames, 'frame')}"
        return f"{self.name}: {counts} × ({shape}) {self.dtype}"

    def _html(self) -> str:
        from framecache.cache.cards import set_card

        return set_card(self)

    def __len__(self) -> int:
        return len(self._view)

    def __iter__(self) -> Iterator[str]:
        return self._view.video_ids()

    def __contains__(self, video_id: object) -> bool:
        return isinstance(video_id, str) and self._view.find([video_id]) != [-1]

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
        return self._rows_of([video_id], "features")[0]

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
        return self._rows_of([video_id], "timestamps_ms")[0]

    def length(self, video_id: str) -> int:
        """Number of stored frames of one video, without touching its features."""
        view, (row,) = self._locate([video_id])
        length: int = view.spans[3 * row + 2]
        return length

    def read(self, video_id: str, num_frames: int) -> Iterator[tuple[NDArray[Any], NDArray[np.float64]]]:
        """Reads one video as it is stored, and its timestamps, so many frames at a time.

        For passes over more than fits into memory: nothing stays mapped.

        Raises:
            VideoNotFoundError: No features are stored for it.
            ShardError: Its shard cannot be read.
        """
        while True:
            view, (number,) = self._locate([video_id])
            shard, row = view.place(number)
            blocks = read_stored(view.shards[shard], row, num_frames)
            try:
                first = next(blocks)
            except ShardError:
                self._renew_if_gone(view.shards[shard])
                continue
            yield first
            yield from blocks
            return

    def is_intact(self, video_id: str) -> bool:
        """Whether the stored features and timestamps are, to the bit, the ones that were computed; reads them all.

        Raises:
            VideoNotFoundError: No features are stored for it.
            ShardError: Its shard cannot be read.
        """
        while True:
            view, (number,) = self._locate([video_id])
            shard, row = view.place(number)
            info = view.shards[shard]
            try:
                *_, digest = digest_stored(info, row)
            except ShardError:
                self._renew_if_gone(info)
                continue
            return bool(digest.encode() == info.index["digest"][row])

    def video_with_content(self, source_digest: str) -> str | None:
        """The ``video_id`` under which this content is stored, or None."""
        (found,) = self._view.find_content([source_digest])
        if found < 0:
            return None
        shard, row = self._view.place(found)
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

        Example:
            >>> batch, lengths = features.batch(["down/a.mp4", "up/b.mp4"], max_len=64)
            >>> batch.shape, batch.dtype, lengths.tolist()
            ((2, 5, 8), dtype('float16'), [5, 3])
        """
        if max_len is not None and max_len < 1:
            raise InputError(f"max_len: expected at least 1, found {max_len}")
        views = self._rows_of(video_ids, "features", max_len)
        lengths = [len(view) for view in views]
        # Not np.zeros, since each byte is written once here: what is not copied is padding.
        batch = np.empty((len(views), max(lengths, default=0), *self.feature_shape), self.dtype)
        for row, view, length in zip(batch, views, lengths, strict=True):
            row[:length] = view if self._quantisation is None else self.decode(view)
            row[length:] = 0
        return batch, np.array(lengths, np.int64)

    def as_tf_dataset(
        self,
        labels: Mapping[str, Any] | None = None,
        batch_size: int = 32,
        *,
        ragged: bool = False,
        max_len: int | None = None,
        seed: int | None = None,
        shard: tuple[int, int] = (0, 1),
        drop_remainder: bool = False,
        video_ids: Sequence[str] | None = None,
    ) -> Any:
        """Batches for TensorFlow and Keras, read ahead; each pass over them is an epoch.

        Args:
            labels: Target of each video, a number or an array of one shape; None for batches without targets.
            batch_size: Videos of each batch, ``B``.
            ragged: Whether features are a ragged tensor instead of padded.
            max_len: Frames beyond this many are left out, and all batches padded to it; by default each batch is
                padded to its longest video.
            seed: Of a new order in each epoch; None for the order in which the videos are.
            shard: Which process this is and of how many, where several train on parts of the same epoch.
            drop_remainder: Whether videos that fill no batch are left out of an epoch. All processes then have equally
                many batches, and all batches one shape.
            video_ids: Videos, in order; by default those of ``labels``, or all.

        Returns:
            A ``tf.data.Dataset`` of ``inputs``, or with labels of ``(inputs, targets)``, targets ``(B, …)``. Inputs
            are ``features (B, T, *feature_shape)`` in :attr:`dtype`, right-padded with zeros, and ``mask (B, T)``
            bool, which says what is a frame; where ragged, features alone.

        Raises:
            VideoNotFoundError: One of the videos has no features here, or no label.
            InputError: Labels are no numbers, there is not one batch, or a number is out of range.

        Example:
            >>> labels = {"up/b.mp4": 1, "down/a.mp4": 0}
            >>> dataset = features.as_tf_dataset(labels, batch_size=2, max_len=16)
            >>> for inputs, targets in dataset:
            ...     print(inputs["features"].shape, inputs["mask"].shape, targets.numpy())
            (2, 16, 8) (2, 16) [1 0]
        """
        from framecache.cache.exchange.tf_dataset import as_tf_dataset

        return as_tf_dataset(self, labels, batch_size, ragged, max_len, seed, shard, drop_remainder, video_ids)

    def as_torch_dataset(
        self,
        labels: Mapping[str, Any] | None = None,
        *,
        max_len: int | None = None,
        video_ids: Sequence[str] | None = None,
    ) -> TorchDataset:
        """Videos by number, for PyTorch's ``DataLoader`` with any number of workers, forked or spawned.

        Args:
            labels: Target of each video, a number or an array of one shape; None for none.
            max_len: Frames beyond this many are left out; by default none are.
            video_ids: Videos, in order; by default those of ``labels``, or all.

        Raises:
            VideoNotFoundError: One of the videos has no features here, or no label.
            InputError: There is no video, labels are no numbers, or ``max_len`` is below 1.

        Example:
            >>> from torch.utils.data import DataLoader
            >>> dataset = features.as_torch_dataset({"up/b.mp4": 1, "down/a.mp4": 0})
            >>> for batch in DataLoader(dataset, batch_size=2, collate_fn=dataset.collate):
            ...     print(batch["features"].shape, batch["lengths"], batch["label"])
            torch.Size([2, 5, 8]) tensor([3, 5]) tensor([1, 0])
        """
        from framecache.cache.exchange.torch_dataset import TorchDataset

        return TorchDataset(self, labels, video_ids, max_len)

    def to_pandas(self) -> Any:
        """The ledger as a pandas ``DataFrame``, a row per video that was ever asked for.

        Raises:
            InputError: pandas is not installed.

        Example:
            >>> frame = features.to_pandas()
            >>> frame.loc[frame.status == "failed", ["video_id", "reason"]].values.tolist()
            [['up/broken.mp4', 'no video stream']]
        """
        from framecache.cache.exchange.tables import ledger_to_pandas

        return ledger_to_pandas(self)

    def to_arrow(self) -> Any:
        """The ledger as a pyarrow ``Table``, a row per video that was ever asked for.

        Raises:
            InputError: pyarrow is not installed.

        Example:
            >>> table = features.to_arrow()
            >>> table.select(["video_id", "status", "frames_stored"]).slice(0, 1).to_pylist()
            [{'video_id': 'down/a.mp4', 'status': 'ok', 'frames_stored': 5}]
        """
        from framecache.cache.exchange.tables import ledger_to_arrow

        return ledger_to_arrow(self)

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
        return tuple(self._view.video_ids())

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one frame's features."""
        return self.spec.feature_shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the features that are read: the stored dtype, or float32 of a uint8 set."""
        return np.dtype("float32" if self._quantisation is not None else self.spec.dtype)

    @property
    def num_frames(self) -> int:
        """Frames of all videos together, as of the opening; duplicates count once."""
        return self._opened.num_frames

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

    def statuses(self) -> Counter[str]:
        """How many videos the ledger has of each status, without reading the rest of it."""
        return self._view.statuses()

    def live(self) -> Iterator[tuple[ShardInfo, NDArray[np.int64], Mapping[int, LedgerRow]]]:
        """What a copy of this set has to hold: of each shard the rows that still count.

        A row whose own video was computed again since, and that duplicates still refer to, goes by the name of
        the first of them: the mapping has the ledger's row on it.
        """
        for info, (rows, named) in zip(self._view.shards, self._view.live(), strict=True):
            yield info, rows, named

    def live_rows(self) -> list[tuple[ShardInfo, int, VideoRow]]:
        """As :meth:`live`, each row with all that is told of it, under the name that it goes by."""
        found = []
        for info, rows, named in self.live():
            stored = read_rows(info.path) if len(rows) else []
            for row in rows.tolist():
                copy, other = stored[row], named.get(row)
                if other is not None:
                    copy = replace(copy, video_id=other.video_id, source=other.source, source_stat=other.source_stat)
                found.append((info, row, copy))
        return found

    def told_since(self, number: int) -> set[str]:
        """The videos of which a newer shard, or a ledger line, says something after that shard."""
        newer = [info.index["video_id"].tolist() for info in self._view.shards if info.number > number]
        told = {raw.decode() for ids in newer for raw in ids}
        lines = read_journal(self.folder, lenient=True)
        return told | {line.row.video_id for line in lines if line.after_shard >= number}

    def places(self) -> Iterator[tuple[str, ShardInfo, int]]:
        """Where each video's features are: its shard, and its row in the shard's index."""
        for video_id, (shard, row) in self._view.places():
            yield video_id, self._view.shards[shard], row

    def _locate(self, video_ids: Sequence[str]) -> tuple[View, list[int]]:
        """The view to look in, and the numbers of the videos' rows there."""
        view = self._view
        rows = view.find(video_ids)
        if self._changed or -1 in rows:
            for video_id, row in zip(video_ids, rows, strict=True):
                if video_id in self._changed:
                    raise ShardError(
                        f"{self.name}: {video_id!r} was computed anew, or removed, since the cache was opened; "
                        "open it again"
                    )
                if row < 0:
                    raise VideoNotFoundError(
                        f"{self.name}: no features of video {video_id!r}; `framecache ledger {self.name}` says why"
                    )
        return view, rows

    def _rows_of(
        self, video_ids: Sequence[str], name: Literal["features", "timestamps_ms"], max_len: int | None = None
    ) -> list[NDArray[Any]]:
        """Views of some videos' rows in an array, at most so many of each."""
        while True:
            view, rows = self._locate(video_ids)
            spans, files, opened, found = view.spans, view.files, self._maps.opened[name], []
            try:
                for row in rows:
                    place = 3 * row
                    shard, start, length = spans[place], spans[place + 1], spans[place + 2]
                    mapped = opened.get(files[shard])
                    if mapped is None:
                        mapped = self._maps.get(files[shard], name, view.shards[shard])
                    found.append(mapped[start : start + (length if max_len is None else min(length, max_len))])
            except FileNotFoundError:
                self._renew_if_gone(view.shards[shard])
                continue
            return found

    def _renew_if_gone(self, info: ShardInfo) -> None:
        """Called when a shard cannot be read: looks for all videos in the shards that there are now.

        Raises:
            ShardError: The shard is there, and damaged.
        """
        if os.path.lexists(info.path):
            raise  # the error that the caller is handling
        now = read_view(self.folder, self.spec, self._without)
        self._changed.update(now.narrow_to(self._view))
        self._view = now
