"""Batches: thinned, padded, masked; statistics of the train split alone."""

from __future__ import annotations

import numpy as np
import pytest

from framecache.cache.store import open_cache
from framecache.train.data import Sequences, channel_statistics, class_weights

from .conftest import Data


def sequences(data: Data, max_len: int = 64, prefix: str = "") -> Sequences:
    features = open_cache(data.cache)[data.name]
    names = tuple(name for name in features.video_ids if prefix in name)
    return Sequences(features, names, np.zeros(len(names), np.int64), max_len)


def test_a_batch_is_padded_on_the_right_and_masked(data: Data) -> None:
    split = sequences(data)
    batch, mask = split.batch([3, 0, 7], 12)
    assert batch.shape == (3, 12, 8)
    assert batch.dtype == np.float16
    for row, place in enumerate([3, 0, 7]):
        frames = split.features[split.video_ids[place]]
        np.testing.assert_array_equal(batch[row, : len(frames)], frames)
        assert not batch[row, len(frames) :].any()
        assert mask[row].tolist() == [True] * len(frames) + [False] * (12 - len(frames))


def test_a_longer_video_is_thinned_evenly(data: Data) -> None:
    whole, thinned = sequences(data), sequences(data, max_len=3)
    assert thinned.seq_len == 3
    longest = max(whole.video_ids, key=whole.features.length)
    assert whole.features.length(longest) == 9
    np.testing.assert_array_equal(thinned.sequence(longest), whole.features[longest][[1, 4, 7]])


@pytest.mark.parametrize("fixture", ["data", "grid_data"])
def test_statistics_are_those_of_all_frames_together(fixture: str, request: pytest.FixtureRequest) -> None:
    split = sequences(request.getfixturevalue(fixture), prefix="train")
    frames = np.concatenate([split.sequence(name) for name in split.video_ids]).astype(np.float64)
    flat = frames.reshape(-1, frames.shape[-1])
    mean, variance = channel_statistics(split, range(len(split)))
    np.testing.assert_allclose(mean, flat.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(variance, flat.var(axis=0), rtol=1e-12)


def test_a_feature_that_never_fires_gets_a_variance_it_can_be_divided_by(data: Data) -> None:
    class Constant(Sequences):
        def sequence(self, video_id: str) -> np.ndarray:
            frames = super().sequence(video_id).copy()
            frames[:, 2] = 0
            return frames

    split = sequences(data)
    _, variance = channel_statistics(Constant(split.features, split.video_ids, split.targets, 64), range(len(split)))
    assert variance[2] == pytest.approx(1e-4 * np.delete(variance, 2).sum() / 8)


def test_class_weights_make_rare_classes_count_as_much() -> None:
    targets = np.array([0] * 6 + [1] * 2)
    weights = class_weights(targets, 3)
    assert weights[:2] == pytest.approx([8 / 18, 8 / 6])
