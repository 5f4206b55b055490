"""Batches for training: features of a split, thinned, padded and masked, straight from the memory map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from framecache.cache.reader import FeatureSet
from framecache.cache.sampling import spread

_MIN_RELATIVE_VARIANCE = 1e-4  # of the mean variance: a feature that hardly ever fires must not explode


@dataclass(frozen=True)
class Sequences:
    """The sequences of one split.

    Attributes:
        features: The feature set.
        video_ids: Its videos in this split, ``N``.
        targets: Class of each, ``(N,)`` int64.
        max_len: Longest sequence; a longer video is thinned to so many evenly spread frames.
    """

    features: FeatureSet
    video_ids: tuple[str, ...]
    targets: NDArray[np.int64]
    max_len: int

    def __len__(self) -> int:
        return len(self.video_ids)

    @property
    def seq_len(self) -> int:
        """Length of the longest sequence after thinning."""
        return max(min(self.features.length(video_id), self.max_len) for video_id in self.video_ids)

    def sequence(self, video_id: str) -> NDArray[np.floating]:
        """Features of one video after thinning, ``(T, *feature_shape)``, in the dtype of the feature set."""
        view = self.features.stored(video_id)  # 8 bits are decoded of the frames that are used only
        return self.features.decode(view if len(view) <= self.max_len else view[spread(len(view), self.max_len)])

    def batch(self, rows: Sequence[int], seq_len: int) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
        """Some videos, right-padded with zeros to one length.

        Args:
            rows: Positions in :attr:`video_ids`, ``B``.
            seq_len: Length of the result, ``T``.

        Returns:
            Features ``(B, T, *feature_shape)`` in the dtype of the feature set, and the mask ``(B, T)``, true where
            there is a frame.
        """
        batch = np.zeros((len(rows), seq_len, *self.features.feature_shape), self.features.dtype)
        mask = np.zeros((len(rows), seq_len), np.bool_)
        for place, row in enumerate(rows):
            sequence = self.sequence(self.video_ids[row])
            batch[place, : len(sequence)] = sequence
            mask[place, : len(sequence)] = True
        return batch, mask


def channel_statistics(sequences: Sequences, rows: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance per channel over all frames (and positions) of some videos: those of the train split.

    Computed video by video in float64 and merged by Chan's formula (Chan, Golub, LeVeque 1979).

    Returns:
        Mean and variance ``(C,)``, the variance at least 1e-4 of its mean over channels.
    """
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for row in rows:
        frames = sequences.sequence(sequences.video_ids[row])
        values = frames.reshape(-1, frames.shape[-1]).astype(np.float64)
        values_mean = values.mean(axis=0)
        delta = values_mean - mean
        total = count + len(values)
        squares = squares + ((values - values_mean) ** 2).sum(axis=0) + delta**2 * count * len(values) / total
        mean = mean + delta * len(values) / total
        count = total
    variance = squares / count
    floor = _MIN_RELATIVE_VARIANCE * float(variance.mean())
    return mean, np.maximum(variance, floor if floor > 0 else 1.0)


def class_weights(targets: NDArray[np.int64], num_classes: int) -> NDArray[np.float32]:
    """Weight per class ``(num_classes,)``, inverse to its frequency, so that their mean over the videos is 1."""
    counts = np.bincount(targets, minlength=num_classes)
    return (len(targets) / (num_classes * np.maximum(counts, 1))).astype(np.float32)
