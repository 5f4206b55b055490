"""Sequences of a video: within its frames, in order, all of it where each frame counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framecache.cache.errors import InputError
from framecache.train.clips import evaluation_sequences, kept, training_sequences
from framecache.train.config import ClipConfig

LENGTHS = st.integers(1, 200)
MAX_LENS = st.integers(1, 60)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@st.composite
def clip_configs(draw: st.DrawFn) -> ClipConfig:
    max_len = draw(MAX_LENS)
    clip = draw(st.sampled_from(["spread", "crop", "windows"]))
    return ClipConfig(
        max_len=max_len,
        clip=clip,
        stride=draw(st.integers(0, max_len)) if clip == "windows" else 0,
        jitter=draw(st.sampled_from([0.0, 0.2, 0.5])) if clip == "spread" else 0.0,
    )


@given(LENGTHS, clip_configs(), st.integers(0, 99))
def test_every_sequence_is_within_the_video_in_order_and_no_longer_than_asked(
    length: int, config: ClipConfig, seed: int
) -> None:
    found = training_sequences(length, config, rng(seed))
    assert evaluation_sequences(length, config)
    for positions in [*found, *evaluation_sequences(length, config)]:
        assert len(positions) == min(length, config.max_len)
        assert positions[0] >= 0
        assert positions[-1] < length
        assert (np.diff(positions) >= 0).all()


@given(LENGTHS, clip_configs())
def test_where_each_frame_counts_none_is_left_out(length: int, config: ClipConfig) -> None:
    found = evaluation_sequences(length, config, every_frame=True)
    assert set(np.concatenate(found).tolist()) == set(range(length))


@given(LENGTHS, MAX_LENS, st.integers(1, 60))
def test_windows_cover_the_video_and_each_begins_where_none_did(length: int, max_len: int, stride: int) -> None:
    config = ClipConfig(max_len=max_len, clip="windows", stride=min(stride, max_len))
    found = training_sequences(length, config, rng())
    begins = [int(positions[0]) for positions in found]
    assert len(set(begins)) == len(begins)
    assert set(np.concatenate(found).tolist()) == set(range(length))


@given(st.integers(1, 200), MAX_LENS)
def test_without_jitter_a_plain_thinning_is_done_once(length: int, max_len: int) -> None:
    config = ClipConfig(max_len=max_len)
    first = kept(length, config)
    if length <= max_len:
        assert first is None
    else:
        assert first is not None
        assert len(first) == max_len
        assert training_sequences(len(first), config, rng())[0].tolist() == list(range(max_len))
        moved = evaluation_sequences(length, ClipConfig(max_len=max_len, jitter=0.5))
        assert moved[0].tolist() == first.tolist()  # no jitter in an evaluation


def test_jitter_moves_frames_by_at_most_its_share_of_their_distance() -> None:
    config = ClipConfig(max_len=10, jitter=0.25)
    middles = np.arange(10) * 100 + 50
    found = np.array([training_sequences(1000, config, rng(seed))[0] for seed in range(200)])
    assert (np.abs(found - middles) <= 25).all()
    assert (found.min(axis=0) < middles - 15).all()
    assert (found.max(axis=0) > middles + 15).all()


def test_time_runs_backwards_as_often_as_asked_and_never_in_an_evaluation() -> None:
    config = ClipConfig(reverse=0.3)
    backwards = [training_sequences(5, config, rng(seed))[0][0] == 4 for seed in range(400)]
    assert 0.2 < np.mean(backwards) < 0.4
    assert evaluation_sequences(5, config)[0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip": "crops"}, "expected spread, crop, windows; did you mean 'crop'"),
        ({"clip": "crop", "max_len": 0}, "expected a --max-len"),
        ({"stride": 4}, "expected --clip windows, found spread"),
        ({"clip": "windows", "stride": 33}, "at most --max-len 32"),
        ({"jitter": 0.6}, r"a share in \[0, 0.5\]"),
        ({"jitter": 0.5, "clip": "crop"}, "it moves spread frames"),
        ({"reverse": 1.5}, r"a probability in \[0, 1\]"),
        ({"max_len": -1}, "at least 0"),
        ({"buckets": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_be_are_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClipConfig(**settings)
