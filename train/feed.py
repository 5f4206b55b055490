"""Batches for the training graph, all of one shape: gathered on the device where the features fit, else read ahead."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from framecache.train.data import Sequences

_RESIDENT_BYTES = 1 << 30  # features up to this size, padded, are held on the device
_READ_AHEAD = 2  # batches
Tensor = Any


class Feed:
    """Sequences as batches of row numbers, which become features within the graph.

    Nothing is traced twice, since the last batch is filled up with empty rows; and features stay in their own dtype,
    half as large as float32, until the graph takes them.

    Args:
        sequences: Those of all splits, ``N``.
        batch_size: Rows of each batch, ``B``.
        seq_len: Length of each batch, ``T``.
    """

    def __init__(self, sequences: Sequences, batch_size: int, seq_len: int) -> None:
        self.sequences = sequences
        self.batch_size = batch_size
        self.seq_len = seq_len
        self._shape = sequences.features.feature_shape
        self._dtype = sequences.features.dtype
        self._targets = tf.constant(sequences.targets)
        num_bytes = len(sequences) * seq_len * math.prod(self._shape) * self._dtype.itemsize
        self._held: tuple[Tensor, Tensor] | None = None
        if num_bytes <= _RESIDENT_BYTES:
            features, mask = sequences.batch(range(len(sequences)), seq_len)
            self._held = tf.constant(features), tf.constant(mask)

    def batches(self, rows: NDArray[np.int64]) -> Tensor:
        """Row numbers, batch by batch.

        Args:
            rows: Positions in :attr:`sequences`, in the order in which they are wanted, ``(n,)``.

        Returns:
            ``(ceil(n / B), B)`` row numbers, −1 for an empty row.
        """
        return tf.constant(
            np.pad(rows, (0, -len(rows) % self.batch_size), constant_values=-1).reshape(-1, self.batch_size)
        )

    def each(self, batches: Tensor) -> Any:
        """Within a graph: what to iterate over and to :meth:`take`, the batches or what is read ahead of them."""
        if self._held is not None:
            return batches
        # Over an iterator, since a loop over the dataset itself would run within it, on one thread.
        return iter(tf.data.Dataset.from_tensor_slices(batches).map(self._read).prefetch(_READ_AHEAD))

    def take(self, batch: Any) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Within a graph: a batch as inputs of the model.

        Returns:
            ``features (B, T, *feature_shape)`` float32 and ``mask (B, T)`` bool; classes ``(B,)`` int64; and which rows
            are videos, ``(B,)`` bool. An empty row has the features of some video, so that its numbers are finite.
        """
        if self._held is not None:
            rows = batch
            features, mask = (tf.gather(held, tf.maximum(rows, 0)) for held in self._held)
        else:
            rows, features, mask = batch
        inputs = {"features": tf.cast(features, tf.float32), "mask": mask}
        return inputs, tf.gather(self._targets, tf.maximum(rows, 0)), rows >= 0

    def _read(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, mask = tf.numpy_function(self._gather, [tf.maximum(rows, 0)], (self._dtype, tf.bool))
        features.set_shape((self.batch_size, self.seq_len, *self._shape))
        mask.set_shape((self.batch_size, self.seq_len))
        return rows, features, mask

    def _gather(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
        return self.sequences.batch(rows.tolist(), self.seq_len)
