"""Batches: each video once, held on the device or read ahead, empty rows told apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from framecache.cache.store import open_cache
from framecache.train import feed
from framecache.train.data import Sequences
from framecache.train.feed import Feed

from .conftest import Data


@pytest.fixture
def sequences(data: Data) -> Sequences:
    features = open_cache(data.cache)[data.name]
    return Sequences(features, features.video_ids[:10], np.arange(10) % 2, 64)


def rows_of(batches: Feed, rows: list[int]) -> list[tuple[bytes, int, int, bool]]:
    """Per row its features, mask length, class, and whether it is a video."""
    found: list[tuple[bytes, int, int, bool]] = []
    for batch in batches.each(batches.batches(np.array(rows))):
        inputs, targets, is_video = batches.take(batch)
        features, mask = inputs["features"].numpy(), inputs["mask"].numpy()
        assert features.shape == (4, 9, 8)
        assert features.dtype == np.float32
        for place in range(4):
            real = bool(is_video[place])
            found.append((features[place].tobytes(), int(mask[place].sum()), int(targets[place]), real))
    return found


@pytest.mark.parametrize("resident_bytes", [1 << 30, 0], ids=["resident", "read ahead"])
def test_batches_hold_the_videos_asked_for_in_their_order(
    sequences: Sequences, resident_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_RESIDENT_BYTES", resident_bytes)
    expected = []
    order = [7, 2, 9, 0, 3]
    for row in order:
        frames = sequences.sequence(sequences.video_ids[row])
        padded = np.zeros((9, 8), np.float32)
        padded[: len(frames)] = frames
        expected.append((padded.tobytes(), len(frames), row % 2, True))
    found = rows_of(Feed(sequences, 4, 9), order)
    assert found[:5] == expected
    assert [real for *_, real in found[5:]] == [False] * 3
    assert all(length > 0 for _, length, *_ in found), "the mean of no frame would not be a number"


def test_what_is_held_is_not_read_again(sequences: Sequences, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Feed(sequences, 4, 9)

    def refuse(*_: Any) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(Sequences, "batch", refuse)
    assert len(rows_of(held, [1, 2])) == 4
