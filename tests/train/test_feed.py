"""Batches: each video once, held on the device or read ahead, empty rows told apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from framecache.cache.store import open_cache
from framecache.train import feed
from framecache.train.config import ClipConfig
from framecache.train.data import CachedSequences
from framecache.train.feed import Feed

from .conftest import Data

TARGETS = np.arange(10) % 2


def sequences(data: Data, **clips: Any) -> CachedSequences:
    features = open_cache(data.cache)[data.name]
    return CachedSequences(features, features.video_ids[:10], ClipConfig(**clips))


def taken(batches: Feed, rows: list[int]) -> list[tuple[bytes, int, int, bool]]:
    """Per sequence that is evaluated its features, mask length, class, and whether it is a video."""
    found: list[tuple[bytes, int, int, bool]] = []
    for plan in batches.evaluation(np.array(rows)):
        read = batches.reader(plan)
        for number in range(len(plan.rows)):
            inputs, targets, is_video = read(number)
            features, mask = inputs["features"].numpy(), inputs["mask"].numpy()
            assert features.shape == (4, batches.sequences.lengths.max(), 8)
            assert features.dtype == np.float32
            for place in range(4):
                real = bool(is_video[place])
                found.append((features[place].tobytes(), int(mask[place].sum()), int(targets[place]), real))
    return found


def order_of(batches: Feed, rows: list[int], seed: int, epoch: int) -> list[tuple[int, ...]]:
    """Video and frames of each sequence of an epoch, in its order."""
    found = []
    for plan in batches.training(np.array(rows), seed, epoch):
        positions = plan.positions.numpy().reshape(-1, plan.positions.shape[-1])
        for row, at in zip(plan.rows.numpy().reshape(-1), positions, strict=True):
            if row >= 0:
                found.append((int(row), *at[at >= 0].tolist()))
    return found


@pytest.mark.parametrize("resident_bytes", [1 << 30, 0], ids=["resident", "read ahead"])
def test_batches_hold_the_videos_asked_for_in_their_order(
    data: Data, resident_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "RESIDENT_BYTES", resident_bytes)
    videos = sequences(data)
    expected = []
    order = [7, 2, 9, 0, 3]
    for row in order:
        frames = videos.features[videos.video_ids[row]]
        padded = np.zeros((videos.lengths.max(), 8), np.float32)
        padded[: len(frames)] = frames
        expected.append((padded.tobytes(), len(frames), row % 2, True))
    found = taken(Feed(videos, TARGETS, 4), order)
    assert found[:5] == expected
    assert [real for *_, real in found[5:]] == [False] * 3
    assert all(length > 0 for _, length, *_ in found), "the mean of no frame would not be a number"


def test_what_is_held_is_not_read_again(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Feed(sequences(data), TARGETS, 4)

    def refuse(*_: Any) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(CachedSequences, "take", refuse)
    assert len(taken(held, [1, 2])) == 4


def test_an_epoch_has_each_video_once_in_an_order_that_seed_and_epoch_decide(data: Data) -> None:
    batches = Feed(sequences(data), TARGETS, 4)
    rows = [1, 2, 3, 5, 7, 8]
    first = order_of(batches, rows, seed=0, epoch=1)
    assert sorted(row for row, *_ in first) == rows
    assert order_of(batches, rows, 0, 1) == first
    assert order_of(batches, rows, 0, 2) != first != order_of(batches, rows, 1, 1)


def test_each_epoch_has_crops_of_its_own_and_an_evaluation_the_middle(data: Data) -> None:
    videos = sequences(data, max_len=3, clip="crop")
    batches = Feed(videos, TARGETS, 4)
    epochs = [{row: at for row, *at in order_of(batches, [0, 1, 2], 0, epoch)} for epoch in range(1, 30)]
    for row in range(3):
        last = int(videos.lengths[row]) - 3
        assert {at[0] for at in (epoch[row] for epoch in epochs)} == set(range(last + 1))
        assert all(at == [at[0], at[0] + 1, at[0] + 2] for at in (epoch[row] for epoch in epochs))
    plan = batches.evaluation(np.array([0, 1]))[0]
    assert plan.positions.numpy()[0, :2, 0].tolist() == [(int(videos.lengths[row]) - 3) // 2 for row in (0, 1)]


def test_buckets_pad_to_several_lengths_and_lose_no_video(data: Data) -> None:
    videos = sequences(data, max_len=0, buckets=3)
    batches = Feed(videos, TARGETS, 2)
    plans = list(batches.training(np.arange(10), 0, 1))
    padded_to = [plan.positions.shape[-1] for plan in plans]
    assert padded_to == sorted(set(padded_to))
    assert len(padded_to) > 1
    assert padded_to[-1] == videos.lengths.max()
    found = order_of(batches, list(range(10)), 0, 1)
    assert sorted((row, len(at)) for row, *at in found) == [(row, int(videos.lengths[row])) for row in range(10)]


def test_targets_of_frames_come_with_their_frames(data: Data) -> None:
    videos = sequences(data, max_len=4, clip="windows", stride=2)
    numbered = np.arange(videos.lengths.sum())
    batches = Feed(videos, numbered, 4, per_frame=True)
    for plan in batches.training(np.array([3, 6]), 0, 1):
        inputs, targets, _ = batches.take(plan, 0)
        rows, positions = plan.rows.numpy()[0], plan.positions.numpy()[0]
        for place, row in enumerate(rows):
            if row >= 0:
                assert targets[place].numpy().tolist() == (batches.starts[row] + positions[place]).tolist()
                frames = videos.take(int(row), positions[place].astype(np.int64))
                np.testing.assert_array_equal(inputs["features"][place], frames.astype(np.float32))
