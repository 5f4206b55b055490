"""A feature set as a ``tf.data.Dataset``. TensorFlow is loaded when one is asked for, and nowhere else in the cache."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError
from framecache.cache.exchange.labelled import labelled_videos
from framecache.cache.reader import FeatureSet


def epoch_rows(
    num_videos: int, seed: int | None, epoch: int, shard: tuple[int, int] = (0, 1), even: bool = False
) -> NDArray[np.int64]:
    """Which videos an epoch of one process reads, in order.

    Args:
        num_videos: Videos of all processes together.
        seed: Of the order; None for the order in which they are.
        epoch: Number of the epoch: each has an order of its own, and the same in all processes.
        shard: Which process this is, and of how many.
        even: Whether all processes get equally many videos, and the rest is left out of this epoch.
    """
    rows = np.arange(num_videos) if seed is None else np.random.default_rng([seed, epoch]).permutation(num_videos)
    index, count = shard
    mine = rows[index::count]
    return mine[: num_videos // count] if even else mine


def as_tf_dataset(
    features: FeatureSet,
    labels: Mapping[str, Any] | None,
    batch_size: int,
    ragged: bool,
    max_len: int | None,
    seed: int | None,
    shard: tuple[int, int],
    drop_remainder: bool,
    video_ids: Sequence[str] | None,
) -> Any:
    """See :meth:`framecache.cache.FeatureSet.as_tf_dataset`."""
    chosen, targets = labelled_videos(features, labels, video_ids)
    index, count = shard
    if batch_size < 1 or (max_len is not None and max_len < 1):
        raise InputError(f"batch_size and max_len: expected at least 1, found {batch_size} and {max_len}")
    if not 0 <= index < count:
        raise InputError(f"shard: expected (index, count) with 0 <= index < count, found {shard}")
    num_rows = len(epoch_rows(len(chosen), None, 0, shard, drop_remainder))
    num_batches = num_rows // batch_size if drop_remainder else -(-num_rows // batch_size)
    if not num_batches:
        raise InputError(f"shard {shard}: {num_rows} of {len(chosen)} videos fill no batch of {batch_size}")

    import tensorflow as tf

    epochs = itertools.count()
    static_batch = batch_size if drop_remainder else None

    def batches() -> Iterator[NDArray[np.int64]]:
        rows = epoch_rows(len(chosen), seed, next(epochs), shard, drop_remainder)
        for number in range(num_batches):
            yield rows[number * batch_size : (number + 1) * batch_size]

    def read(rows: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        return features.batch([chosen[row] for row in rows], max_len)

    def assemble(rows: Any) -> Any:
        padded, lengths = tf.numpy_function(read, [rows], [features.dtype, tf.int64])
        padded.set_shape((static_batch, None, *features.feature_shape))
        lengths.set_shape((static_batch,))
        if ragged:
            inputs = {"features": tf.RaggedTensor.from_tensor(padded, lengths)}
        else:
            if max_len is not None:
                padding = [[0, 0], [0, max_len - tf.shape(padded)[1]], *[[0, 0]] * len(features.feature_shape)]
                padded = tf.ensure_shape(tf.pad(padded, padding), (static_batch, max_len, *features.feature_shape))
            inputs = {"features": padded, "mask": tf.sequence_mask(lengths, tf.shape(padded)[1])}
            inputs["mask"].set_shape((static_batch, max_len))
        return inputs if targets is None else (inputs, tf.gather(targets, rows))

    signature = tf.TensorSpec((static_batch,), tf.int64)
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(num_batches)).map(assemble)
    if count > 1:  # or tf.distribute would share out this process's part once more
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        dataset = dataset.with_options(options)
    return dataset.prefetch(tf.data.AUTOTUNE)
