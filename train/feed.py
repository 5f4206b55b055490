"""Batches for the training graph, all of one shape: gathered on the device where the features fit, else read ahead."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from framecache.train.clips import Positions, evaluation_sequences, is_random, training_sequences
from framecache.train.data import Sequences

RESIDENT_BYTES = 1 << 30  # features up to this size are held on the device
_READ_AHEAD = 2  # batches
Tensor = Any
Taken = tuple[dict[str, Tensor], Tensor, Tensor]  # as Feed.take gives it


class Batches(NamedTuple):
    """Which frames make which batches, all of one shape.

    Attributes:
        rows: The video of each sequence, ``(num_batches, B)`` int64; −1 for an empty row.
        positions: Its frames, ``(num_batches, B, T)`` int32; −1 for padding, which is on the right. An empty row has
            a frame of some video, so that its numbers are finite.
    """

    rows: Tensor
    positions: Tensor


class Feed:
    """Sequences as batches of frame numbers, which become features within the graph.

    Features stay in their own dtype, half as large as float32, until the graph takes them.

    Args:
        sequences: Those of all splits, ``N`` videos of ``F`` frames together.
        targets: Target of each video, ``(N, …)``; or of each frame, one video after the other, ``(F, …)``.
        batch_size: Sequences of each batch, ``B``.
        per_frame: Whether targets are those of frames.
        resident_bytes: Features up to this size are held on the device; None for the limit of a process on its own.
        standardise: The layer that all models begin with, if they do: applied once to what is held, in float32, where
            that fits, so that no step has to.

    Attributes:
        is_standardised: Whether it was.
    """

    def __init__(
        self,
        sequences: Sequences,
        targets: NDArray[Any],
        batch_size: int,
        per_frame: bool = False,
        resident_bytes: int | None = None,
        standardise: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.sequences = sequences
        self.targets = targets
        self.batch_size = batch_size
        self.per_frame = per_frame
        self.starts = np.concatenate([[0], np.cumsum(sequences.lengths)])
        self._shape, self._dtype = sequences.feature_shape, sequences.dtype
        self._buckets = _bucket_lengths(sequences)
        self._tables: dict[bytes, _Table] = {}
        self._evaluations: dict[bytes, list[Batches]] = {}
        self._starts_on_device = tf.constant(self.starts)
        if per_frame:  # padding has no target
            targets = np.concatenate([targets, np.full_like(targets[:1], -1)])
        self._targets_on_device = tf.constant(targets)
        count = int(self.starts[-1]) * math.prod(self._shape)
        limit = RESIDENT_BYTES if resident_bytes is None else resident_bytes
        self.is_standardised = standardise is not None and count * np.dtype(np.float32).itemsize <= limit
        num_bytes = count * (np.dtype(np.float32) if self.is_standardised else self._dtype).itemsize
        self._held: Tensor | None = None
        if num_bytes <= limit:
            frames = [sequences.take(row) for row in range(len(sequences.lengths))]
            padding = np.zeros((1, *self._shape), self._dtype)
            self._held = tf.constant(np.concatenate([*frames, padding]))
            if standardise is not None and self.is_standardised:
                self._held = standardise(tf.cast(self._held, tf.float32))
        self.held_bytes = 0 if self._held is None else num_bytes

    def training(self, rows: NDArray[np.int64], seed: int, epoch: int) -> Iterator[Batches]:
        """An epoch over some videos, in an order that seed and epoch decide; per length that is padded to."""
        rng = np.random.default_rng([seed, epoch])
        clips = self.sequences.clips

        def make(length: int) -> list[Positions]:
            return training_sequences(length, clips, rng)

        table = self._table(rows, make) if is_random(clips) else self._kept_table(rows, make)
        return self._batches(table, rng.permutation(len(table.rows)))

    def evaluation(self, rows: NDArray[np.int64]) -> Sequence[Batches]:
        """All sequences whose scores count for some videos, in their order; per length that is padded to."""
        key = rows.tobytes()
        if key not in self._evaluations:
            self._evaluations[key] = self._evaluation(rows)
        return self._evaluations[key]

    def _evaluation(self, rows: NDArray[np.int64]) -> list[Batches]:
        def make(length: int) -> list[Positions]:
            return evaluation_sequences(length, self.sequences.clips, self.per_frame)

        table = self._table(rows, make)
        return list(self._batches(table, np.arange(len(table.rows))))

    def targets_of(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Targets of some videos, ``(n, …)``; or of all their frames, one video after the other."""
        if self.per_frame:
            rows = np.concatenate([np.arange(self.starts[row], self.starts[row + 1]) for row in rows])
        found: NDArray[Any] = self.targets[rows]
        return found

    def reader(self, batches: Batches) -> Callable[[Any], Taken]:
        """What gives the batches, called with their numbers 0, 1, … in this order; also within a graph."""
        if self._held is not None:
            return partial(self.take, batches)
        dataset = tf.data.Dataset.from_tensor_slices(tuple(batches))
        ahead = iter(dataset.map(self._read).prefetch(_READ_AHEAD))
        return lambda _: self.take(batches, next(ahead))

    def take(self, batches: Batches, batch: Any) -> Taken:
        """One of the batches as inputs of the model.

        Args:
            batches: The batches.
            batch: Its number; of features that are not held what was read of it.

        Returns:
            ``features (B, T, *feature_shape)`` float32, standardised if :attr:`is_standardised`; ``mask (B, T)`` bool;
            targets ``(B, …)``, of frames ``(B, T, …)``, -1 for padding; and which rows are videos, ``(B,)`` bool.
        """
        if self._held is None:
            rows, positions, features = batch
        else:
            rows, positions = batches.rows[batch], batches.positions[batch]
        mask = positions >= 0
        first = tf.gather(self._starts_on_device, tf.maximum(rows, 0))
        frames = tf.where(mask, first[:, None] + tf.cast(positions, tf.int64), self.starts[-1])
        if self._held is not None:
            features = tf.gather(self._held, frames)
        at = frames if self.per_frame else tf.maximum(rows, 0)
        inputs = {"features": tf.cast(features, tf.float32), "mask": mask}
        return inputs, tf.gather(self._targets_on_device, at), rows >= 0

    def _kept_table(self, rows: NDArray[np.int64], make: Callable[[int], list[Positions]]) -> _Table:
        key = rows.tobytes()
        if key not in self._tables:
            self._tables[key] = self._table(rows, make)
        return self._tables[key]

    def _table(self, rows: NDArray[np.int64], make: Callable[[int], list[Positions]]) -> _Table:
        made = [(row, positions) for row in rows.tolist() for positions in make(int(self.sequences.lengths[row]))]
        lengths = np.array([len(positions) for _, positions in made], np.int64)
        table = np.full((len(made), self._buckets[-1]), -1, np.int32)
        for place, (_, positions) in enumerate(made):
            table[place, : len(positions)] = positions
        return _Table(np.array([row for row, _ in made], np.int64), table, np.searchsorted(self._buckets, lengths))

    def _batches(self, table: _Table, order: NDArray[np.int64]) -> Iterator[Batches]:
        for bucket, seq_len in enumerate(self._buckets.tolist()):
            chosen = order[table.buckets[order] == bucket]
            if not len(chosen):
                continue
            shape = (-(-len(chosen) // self.batch_size), self.batch_size)
            rows = np.full(math.prod(shape), -1, table.rows.dtype)
            positions = np.full((len(rows), seq_len), -1, table.positions.dtype)
            rows[: len(chosen)], positions[: len(chosen)] = table.rows[chosen], table.positions[chosen, :seq_len]
            positions[len(chosen) :, 0] = 0  # the mean of no frame would not be a number
            yield Batches(tf.constant(rows.reshape(shape)), tf.constant(positions.reshape(*shape, seq_len)))

    def _read(self, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = tf.numpy_function(self._gather, [rows, positions], self._dtype)
        features.set_shape((*positions.shape, *self._shape))
        return rows, positions, features

    def _gather(self, rows: NDArray[np.int64], positions: NDArray[np.int32]) -> NDArray[np.floating]:
        features = np.zeros((*positions.shape, *self._shape), self._dtype)
        for place, row in enumerate(rows):
            at = positions[place][positions[place] >= 0]
            features[place, : len(at)] = self.sequences.take(max(int(row), 0), at)
        return features


@dataclass(frozen=True)
class _Table:
    """Sequences: the video of each ``(n,)``, its frames ``(n, T)`` with −1 for padding, and its bucket ``(n,)``."""

    rows: NDArray[np.int64]
    positions: NDArray[np.int32]
    buckets: NDArray[np.int64]


def _bucket_lengths(sequences: Sequences) -> NDArray[np.int64]:
    """Lengths that sequences are padded to, ascending: quantiles of those that occur, up to the longest."""
    clips = sequences.clips
    lengths = np.minimum(sequences.lengths, clips.max_len) if clips.max_len else sequences.lengths
    shares = np.arange(1, clips.buckets + 1) / clips.buckets
    return np.unique(np.quantile(lengths, shares, method="higher"))
