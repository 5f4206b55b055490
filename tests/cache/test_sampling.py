"""Which frames are kept: counts, spacing, and rules that survive their text."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framecache.cache import InputError
from framecache.cache.sampling import Sampling, parse_sampling, spread

FPS = st.floats(0.1, 240)
# Variable frame rates: anything from slow motion to a paused screen recording.
VFR_TIMES_MS = st.tuples(st.floats(-1e4, 1e6), st.lists(st.floats(0.5, 5000), max_size=80)).map(
    lambda drawn: [drawn[0] + sum(drawn[1][:count]) for count in range(len(drawn[1]) + 1)]
)


def constant_rate(num_frames: int, fps: float) -> list[float]:
    return [index * 1000 / fps for index in range(num_frames)]


@pytest.mark.parametrize(
    ("num_frames", "count", "indices"),
    [
        (0, 3, []),
        (1, 3, [0]),
        (3, 3, [0, 1, 2]),
        (4, 1, [2]),
        (5, 1, [2]),
        (4, 3, [0, 2, 3]),
        (6, 3, [1, 3, 5]),
        (10, 3, [1, 5, 8]),
        (9, 3, [1, 4, 7]),
        (100, 4, [12, 37, 62, 87]),
    ],
)
def test_num_keeps_the_middles_of_equal_parts(num_frames: int, count: int, indices: list[int]) -> None:
    assert spread(num_frames, count) == indices


@given(num_frames=st.integers(0, 2000), count=st.integers(1, 300))
def test_num_keeps_that_many_frames_strictly_increasing_and_within_the_video(num_frames: int, count: int) -> None:
    indices = spread(num_frames, count)
    assert len(indices) == min(count, num_frames)
    assert all(a < b for a, b in pairwise(indices))
    assert all(0 <= index < num_frames for index in indices)


@given(count=st.integers(1, 300), more=st.integers(1, 2000))
def test_num_is_even_and_symmetric(count: int, more: int) -> None:
    num_frames = count + more
    indices = spread(num_frames, count)
    for part, index in enumerate(indices):
        middle = (part + 0.5) * num_frames / count
        assert index <= middle + 1e-9 * num_frames < index + 1 + 2e-9 * num_frames
        assert num_frames - 1 <= index + indices[-1 - part] <= num_frames
    gaps = [b - a for a, b in pairwise(indices)]
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


@given(times_ms=VFR_TIMES_MS, count=st.integers(1, 100))
def test_num_selects_by_index_alone(times_ms: list[float], count: int) -> None:
    assert Sampling("num", count).select(times_ms) == spread(len(times_ms), count)


@given(times_ms=VFR_TIMES_MS)
def test_all_keeps_every_frame(times_ms: list[float]) -> None:
    assert Sampling().select(times_ms) == list(range(len(times_ms)))


@given(num_frames=st.integers(0, 300), step=st.integers(1, 400))
def test_every_keeps_multiples(num_frames: int, step: int) -> None:
    assert Sampling("every", step).select(constant_rate(num_frames, 25)) == list(range(0, num_frames, step))


@pytest.mark.parametrize(
    ("source_fps", "fps", "indices"),
    [
        (25, 5, [0, 5, 10, 15, 20]),
        (30, 10, [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]),
        (15, 7.5, [0, 2, 4, 6, 8, 10, 12, 14]),
        (25, 10, [0, 3, 5, 8, 10, 13, 15, 18, 20, 23]),
        (24, 30, list(range(24))),
        (2, 0.5, [0]),
    ],
)
def test_fps_keeps_the_first_frame_at_or_after_each_tick(source_fps: float, fps: float, indices: list[int]) -> None:
    assert Sampling("fps", fps).select(constant_rate(int(source_fps), source_fps)) == indices


@given(times_ms=VFR_TIMES_MS, fps=FPS)
def test_fps_keeps_the_first_frame_and_never_one_twice(times_ms: list[float], fps: float) -> None:
    indices = Sampling("fps", fps).select(times_ms)
    assert indices[0] == 0
    assert all(a < b for a, b in pairwise(indices))


@given(times_ms=VFR_TIMES_MS, fps=FPS)
def test_fps_never_keeps_more_than_fps_and_one_per_second(times_ms: list[float], fps: float) -> None:
    kept_ms = [times_ms[index] for index in Sampling("fps", fps).select(times_ms)]
    for begin in kept_ms:
        within = [time for time in kept_ms if begin <= time < begin + 1000]
        assert len(within) <= math.ceil(fps) + 1


@given(times_ms=VFR_TIMES_MS, fps=FPS)
def test_fps_leaves_out_no_frame_that_starts_a_new_tick(times_ms: list[float], fps: float) -> None:
    kept = set(Sampling("fps", fps).select(times_ms))
    last = times_ms[0]
    for index, time in enumerate(times_ms):
        if index in kept:
            last = time
        else:
            assert time - last < 1000 / fps


@given(times_ms=VFR_TIMES_MS, fps=st.sampled_from([1, 4, 7.5, 8, 25]), shift=st.integers(-(10**6), 10**6))
def test_fps_counts_from_the_first_frame_wherever_the_clock_starts(
    times_ms: list[float], fps: float, shift: int
) -> None:
    whole = [float(round(time)) for time in times_ms]
    assert Sampling("fps", fps).select([time + shift for time in whole]) == Sampling("fps", fps).select(whole)


@given(
    num_frames=st.integers(1, 200),
    source_fps=st.sampled_from([10, 12.5, 15, 24000 / 1001, 24, 25, 30000 / 1001, 30, 60]),
)
def test_fps_of_the_video_itself_keeps_every_frame(num_frames: int, source_fps: float) -> None:
    assert Sampling("fps", source_fps).select(constant_rate(num_frames, source_fps)) == list(range(num_frames))


@pytest.mark.parametrize(("source_fps", "fps"), [(30000 / 1001, 30), (24000 / 1001, 24), (30, 30), (15, 15), (60, 60)])
def test_fps_keeps_every_frame_of_a_video_no_faster_whose_times_are_whole_milliseconds(
    source_fps: float, fps: float
) -> None:
    times_ms = [float(round(time)) for time in constant_rate(90, source_fps)]  # as Matroska and WebM store them
    assert Sampling("fps", fps).select(times_ms) == list(range(90))


@pytest.mark.parametrize("text", ["all", "fps=8", "every=4", "num=32"])
def test_a_video_without_frames_keeps_none(text: str) -> None:
    assert parse_sampling(text).select([]) == []


@pytest.mark.parametrize("text", ["all", "fps=2", "every=4", "num=3"])
def test_one_rule_serves_many_videos(text: str) -> None:
    sampling, times_ms = parse_sampling(text), constant_rate(50, 25)
    assert sampling.select(times_ms) == sampling.select(times_ms)


def test_only_num_needs_the_number_of_frames() -> None:
    assert [parse_sampling(text).needs_count for text in ("all", "fps=8", "every=4", "num=32")] == [False] * 3 + [True]
    with pytest.raises(ValueError, match="num_frames: needed for num= sampling, found None"):
        Sampling("num", 3).keeper()


@pytest.mark.parametrize(
    ("text", "sampling"),
    [
        ("all", Sampling()),
        ("fps=8", Sampling("fps", 8)),
        ("fps=29.97", Sampling("fps", 29.97)),
        ("fps=0.5", Sampling("fps", 0.5)),
        ("every=4", Sampling("every", 4)),
        ("num=32", Sampling("num", 32)),
    ],
)
def test_a_rule_reads_as_it_is_written(text: str, sampling: Sampling) -> None:
    assert parse_sampling(text) == sampling
    assert parse_sampling(f" {text} ") == sampling
    assert str(sampling) == text


@given(kind=st.sampled_from(["every", "num"]), value=st.integers(1, 999_999))
def test_rules_of_whole_numbers_survive_their_text(kind: str, value: int) -> None:
    assert parse_sampling(str(parse_sampling(f"{kind}={value}"))) == Sampling(kind, value)  # type: ignore[arg-type]


@given(fps=st.floats(1e-3, 999_999))
def test_rates_survive_their_text(fps: float) -> None:
    # The text goes into the fingerprint: one text for two rates would be stale features reused.
    sampling = parse_sampling(f"fps={fps!r}")
    assert parse_sampling(str(sampling)) == sampling


@pytest.mark.parametrize(
    "text",
    [
        *("", "=", "al", "ALL", "all=1", "8", "fps8", "rate=8", "fps=8,num=2"),
        *("fps", "fps=", "fps=0", "fps=-1", "fps=nan", "fps=inf", "fps=x", "fps=1e6"),
        *("every=0", "every=1.5", "every=-2", "num=0", "num=2.5", "num=1e6"),
    ],
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--sample .*: expected all, fps=N, every=N or num=N with a positive N"):
        parse_sampling(text)
