"""Batches: each video once per epoch, held in memory or read as they come, with exact losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from framecache.cache.store import open_cache
from framecache.train import trainer
from framecache.train.data import Sequences

from .conftest import Data


@pytest.fixture
def split(data: Data) -> Sequences:
    features = open_cache(data.cache)[data.name]
    return Sequences(features, features.video_ids[:10], np.arange(10) % 2, 64)


def rows_of(dataset: Any) -> list[tuple[bytes, int, int, float]]:
    """Per row its features, mask length, target and weight."""
    rows = []
    for inputs, targets, weights in dataset.as_numpy_iterator():
        assert inputs["features"].shape == (4, 9, 8)
        for features, mask, target, weight in zip(inputs["features"], inputs["mask"], targets, weights, strict=True):
            rows.append((features.tobytes(), int(mask.sum()), int(target), float(weight)))
    return rows


@pytest.mark.parametrize("resident_bytes", [1 << 30, 0], ids=["resident", "streamed"])
def test_an_epoch_holds_each_video_once_in_an_order_of_its_own(
    split: Sequences, resident_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_RESIDENT_BYTES", resident_bytes)
    expected = []
    for place, video_id in enumerate(split.video_ids):
        frames = split.sequence(video_id)
        padded = np.zeros((9, 8), np.float32)
        padded[: len(frames)] = frames
        expected.append((padded.tobytes(), len(frames), place % 2, pytest.approx(12 / 10)))
    assert [row for row in rows_of(trainer._batches(split, 4, 9)) if row[3]] == expected
    shuffled = trainer._batches(split, 4, 9, seed=0)
    first, second = ([row for row in rows_of(shuffled) if row[3]] for _ in range(2))
    assert sorted(first) == sorted(second) == sorted(row for row in rows_of(trainer._batches(split, 4, 9)) if row[3])
    assert first != second
    assert [row for row in rows_of(trainer._batches(split, 4, 9, seed=0)) if row[3]] == first


def test_empty_rows_fill_the_last_batch_and_weigh_nothing(split: Sequences) -> None:
    rows = rows_of(trainer._batches(split, 4, 9))
    assert len(rows) == 12
    assert [(length, weight) for _, length, _, weight in rows[10:]] == [(1, 0.0), (1, 0.0)]
    assert sum(weight for *_, weight in rows) == pytest.approx(12)


def test_class_weights_weigh_the_rows_of_their_class(split: Sequences) -> None:
    weights = {0: 3.0, 1: 0.5}
    rows = rows_of(trainer._batches(split, 4, 9, weights))[:10]
    assert [row[3] for row in rows] == pytest.approx([weights[row[2]] * 12 / 10 for row in rows])
