"""Sequences of features, straight from the memory map, and statistics of those that are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from framecache.cache.reader import FeatureSet
from framecache.train.clips import Positions, kept
from framecache.train.config import ClipConfig

_MIN_RELATIVE_VARIANCE = 1e-4  # of the mean variance: a feature that hardly ever fires must not explode


class Sequences(Protocol):
    """What :class:`~framecache.train.feed.Feed` makes batches of: ``N`` videos of some frames each."""

    @property
    def clips(self) -> ClipConfig:
        """How a video becomes sequences."""

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one frame's features."""

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """In which they are given."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Frames of each video, ``(N,)``."""

    def take(self, row: int, positions: Positions | None = None) -> NDArray[np.floating]:
        """Features ``(t, *feature_shape)`` of a video at some positions ``(t,)``; of all its frames if None."""


@dataclass(frozen=True)
class CachedSequences:
    """Videos of a feature set.

    Attributes:
        features: The feature set.
        video_ids: Its videos that are wanted, ``N``.
        clips: How a video becomes sequences; frames that none of them needs do not count as the video's.
    """

    features: FeatureSet
    video_ids: tuple[str, ...]
    clips: ClipConfig

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one frame's features."""
        return self.features.feature_shape

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """That of the feature set, as it is read."""
        return self.features.dtype

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Frames of each video, ``(N,)``."""
        stored = [self.features.length(video_id) for video_id in self.video_ids]
        return np.array([length if (at := self.kept(length)) is None else len(at) for length in stored], np.int64)

    def kept(self, length: int) -> Positions | None:
        """Frames that count of a video of so many, ``(n,)``; None for all."""
        return kept(length, self.clips)

    def take(self, row: int, positions: Positions | None = None) -> NDArray[np.floating]:
        """Features ``(t, *feature_shape)`` of a video at some positions ``(t,)``; of all its frames if None."""
        stored = self.features.stored(self.video_ids[row])  # 8 bits are decoded of the frames that are used only
        at = self.kept(len(stored))
        if positions is not None:
            at = positions if at is None else at[positions]
        if at is None:
            return self.features.decode(stored)
        if (np.diff(at) == 1).all():  # a stretch is read through
            return self.features.decode(stored[at[0] : at[-1] + 1])
        return self.features.decode(stored[at])


class MeanSequences:
    """The mean frame of each video, as a video of one frame: what the mean-pool baseline is trained on.

    Means ``(N, *feature_shape)`` are float32, over the frames that count.
    """

    clips = ClipConfig(max_len=1)

    def __init__(self, sequences: Sequences) -> None:
        self.feature_shape = sequences.feature_shape
        self.dtype: np.dtype[np.floating] = np.dtype(np.float32)
        self.lengths = np.ones(len(sequences.lengths), np.int64)
        self._means = np.stack(
            [sequences.take(row).mean(axis=0, dtype=np.float32) for row in range(len(sequences.lengths))]
        )

    def take(self, row: int, positions: Positions | None = None) -> NDArray[np.floating]:
        """The mean ``(1, *feature_shape)`` of a video."""
        return self._means[row : row + 1]


def channel_statistics(sequences: Sequences, rows: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance per channel over all frames (and positions) of some videos: those of the train split.

    Computed video by video in float64 and merged by Chan's formula (Chan, Golub, LeVeque 1979).

    Returns:
        Mean and variance ``(C,)``, the variance at least 1e-4 of its mean over channels.
    """
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for row in rows:
        frames = sequences.take(row)
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
