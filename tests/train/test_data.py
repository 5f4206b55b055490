"""Batches: thinned, padded, masked; statistics of the train split alone."""

from __future__ import annotations

import numpy as np
import pytest

from framecache.cache.store import open_cache
from framecache.train.config import ClipConfig
from framecache.train.data import CachedSequences, MeanSequences, channel_statistics, class_weights

from .conftest import Data


def sequences(data: Data, max_len: int = 64, prefix: str = "") -> CachedSequences:
    features = open_cache(data.cache)[data.name]
    names = tuple(name for name in features.video_ids if prefix in name)
    return CachedSequences(features, names, ClipConfig(max_len=max_len))


def test_frames_are_those_of_the_feature_set(data: Data) -> None:
    split = sequences(data)
    for row, name in enumerate(split.video_ids):
        np.testing.assert_array_equal(split.take(row), split.features[name])
    for positions in ([2, 3], [3, 2], [0, 0, 2], [1]):  # stretches and others
        np.testing.assert_array_equal(split.take(5, np.array(positions)), split.features[split.video_ids[5]][positions])


def test_a_longer_video_is_thinned_evenly(data: Data) -> None:
    whole, thinned = sequences(data), sequences(data, max_len=3)
    assert thinned.lengths.max() == 3
    row = int(whole.lengths.argmax())
    assert whole.lengths[row] == 9
    np.testing.assert_array_equal(thinned.take(row), whole.take(row)[[1, 4, 7]])
    np.testing.assert_array_equal(thinned.take(row, np.array([2, 0])), whole.take(row)[[7, 1]])


def test_the_mean_of_a_video_is_a_video_of_one_frame(data: Data) -> None:
    split = sequences(data, max_len=3)
    means = MeanSequences(split)
    assert means.lengths.tolist() == [1] * len(split.video_ids)
    np.testing.assert_allclose(means.take(4)[0], split.take(4).astype(np.float64).mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("fixture", ["data", "grid_data"])
def test_statistics_are_those_of_all_frames_together(fixture: str, request: pytest.FixtureRequest) -> None:
    split = sequences(request.getfixturevalue(fixture), prefix="train")
    frames = np.concatenate([split.take(row) for row in range(len(split.video_ids))]).astype(np.float64)
    flat = frames.reshape(-1, frames.shape[-1])
    mean, variance = channel_statistics(split, range(len(split.video_ids)))
    np.testing.assert_allclose(mean, flat.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(variance, flat.var(axis=0), rtol=1e-12)


def test_a_feature_that_never_fires_gets_a_variance_it_can_be_divided_by(data: Data) -> None:
    class Constant(CachedSequences):
        def take(self, row: int, positions: np.ndarray | None = None) -> np.ndarray:
            frames = super().take(row, positions).copy()
            frames[:, 2] = 0
            return frames

    split = sequences(data)
    _, variance = channel_statistics(
        Constant(split.features, split.video_ids, split.clips), range(len(split.video_ids))
    )
    assert variance[2] == pytest.approx(1e-4 * np.delete(variance, 2).sum() / 8)


def test_class_weights_make_rare_classes_count_as_much() -> None:
    targets = np.array([0] * 6 + [1] * 2)
    weights = class_weights(targets, 3)
    assert weights[:2] == pytest.approx([8 / 18, 8 / 6])
