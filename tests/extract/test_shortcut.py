"""Shortcuts: the very frames, times and counts that decoding everything gives, from fewer decoded packets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from framecache.cache.sampling import parse_sampling
from framecache.extract import shortcut, video
from framecache.extract.limits import Limits
from framecache.extract.shortcut import PacketInfo, Stretch, plan_shortcut
from framecache.extract.video import Clip, DecodeStats, Geometry, VideoError, decode

NUM_FRAMES = 60
CODECS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "h264": ("v.mp4", "libx264", "yuv420p", {"g": "12", "bf": "3", "x264-params": "scenecut=0"}),
    "h264-one-group": ("v.mp4", "libx264", "yuv420p", {"g": "250", "bf": "3", "b-pyramid": "normal"}),
    "h264-open-groups": ("v.mkv", "libx264", "yuv420p", {"g": "12", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}),
    "h264-intra": ("v.mov", "libx264", "yuv420p", {"g": "1"}),
    "h264-refresh": ("v.mp4", "libx264", "yuv420p", {"g": "12", "x264-params": "intra-refresh=1"}),
    "hevc": ("v.mp4", "libx265", "yuv420p", {"x265-params": "keyint=12:bframes=3:open-gop=0:log-level=none"}),
    "hevc-open-groups": ("v.mkv", "libx265", "yuv420p", {"x265-params": "keyint=12:bframes=3:log-level=none"}),
    "vp9": ("v.webm", "libvpx-vp9", "yuv420p", {"g": "12", "deadline": "realtime", "lag-in-frames": "16"}),
    "vp8": ("v.webm", "libvpx", "yuv420p", {"g": "12", "deadline": "realtime", "auto-alt-ref": "1"}),
    "av1": ("v.mkv", "libsvtav1", "yuv420p", {"g": "12", "preset": "12"}),
    "mjpeg": ("v.mkv", "mjpeg", "yuvj420p", {}),
    "mpeg4": ("v.mp4", "mpeg4", "yuv420p", {"g": "12", "bf": "2"}),
    "mpeg2": ("v.mpg", "mpeg2video", "yuv420p", {"g": "12", "bf": "2"}),
}
PARTS: list[tuple[str, dict[str, float]]] = [
    ("fps=2", {}),
    ("every=13", {}),
    ("num=3", {}),
    ("all", {"start": 1.1, "end": 1.6}),
    ("every=7", {"start": 0.9}),
    ("num=2", {"end": 1.0}),
    ("fps=1", {"start": 1.5, "end": 60.0}),
    ("all", {"start": 60.0}),
]


def write(path: Path, codec: str, pixel_format: str, options: dict[str, str], times: list[int] | None = None) -> Path:
    """Sixty frames of noise that moves, so that each frame differs; 30 per second unless at given times in ms."""
    base = np.random.default_rng(0).integers(0, 256, (64, 64 + 2 * NUM_FRAMES, 3), np.uint8)
    try:
        av.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"no encoder {codec}")
    with av.open(str(path), "w") as container:
        rate = 25 if codec == "mpeg2video" else 30
        stream: Any = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 64, pixel_format
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(NUM_FRAMES):
            picture = np.ascontiguousarray(base[:, 2 * index : 2 * index + 64])
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = (times[index], Fraction(1, 1000)) if times else (index, Fraction(1, rate))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def decoded_packets(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The times of all packets that a shortcut decodes."""
    found: list[int] = []
    decode_stretch = shortcut._decode_stretch

    def noted(container: Any, stream: Any, stretch: Stretch) -> Iterator[Any]:
        found.extend(stretch.pts)
        return decode_stretch(container, stream, stretch)

    monkeypatch.setattr(shortcut, "_decode_stretch", noted)
    return found


Outcome = tuple[NDArray[np.uint8] | str, list[float], dict[str, Any]]


def outcome(path: Path, sample: str, **part: Any) -> Outcome:
    stats = DecodeStats()
    try:
        blocks = list(decode(Clip(path, parse_sampling(sample), Geometry(16, 16), **part), stats))
    except VideoError as error:
        return str(error), [], asdict(stats)
    times = np.concatenate([block.timestamps_ms for block in blocks]).tolist()
    return np.concatenate([block.frames for block in blocks]), times, asdict(stats)


def plain_outcome(path: Path, sample: str, **part: Any) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video, "_shortcut_pictures", lambda *_: iter(()))
        return outcome(path, sample, **part)


def require_same(path: Path, sample: str, **part: Any) -> None:
    (plain, plain_times, plain_stats), (frames, times, stats) = (
        plain_outcome(path, sample, **part),
        outcome(path, sample, **part),
    )
    assert isinstance(plain, str) == isinstance(frames, str)
    np.testing.assert_array_equal(frames, plain)
    assert (times, stats) == (plain_times, plain_stats)


@pytest.mark.parametrize("codec", CODECS)
def test_a_shortcut_gives_what_decoding_everything_gives(tmp_path: Path, codec: str) -> None:
    name, *how = CODECS[codec]
    path = write(tmp_path / name, *how)
    for sample, part in PARTS:
        require_same(path, sample, **part)


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_so_it_does_with_uneven_times(tmp_path: Path, name: str) -> None:
    times = np.cumsum(np.random.default_rng(1).choice([7, 33, 34, 400], NUM_FRAMES)).tolist()
    path = write(tmp_path / name, *CODECS["h264"][1:], times)
    for sample, part in PARTS:
        require_same(path, sample, **part)


@pytest.mark.parametrize(
    ("codec", "sample", "part", "most"),
    [
        ("h264", "every=24", {}, 3),  # each the first of its group
        ("h264", "all", {"start": 1.3, "end": 1.4}, 12),
        ("h264-intra", "every=10", {}, 6),
        ("hevc", "num=1", {}, 12),
        ("vp9", "every=24", {}, 3),
        ("mjpeg", "fps=2", {}, 4),
    ],
)
def test_few_packets_are_decoded_for_few_frames(
    tmp_path: Path,
    decoded_packets: list[int],
    monkeypatch: pytest.MonkeyPatch,
    codec: str,
    sample: str,
    part: dict[str, float],
    most: int,
) -> None:
    name, *how = CODECS[codec]
    monkeypatch.setattr(video, "_pictures", lambda *_: pytest.fail("everything was decoded"))
    frames, _, stats = outcome(write(tmp_path / name, *how), sample, **part)
    assert not isinstance(frames, str)
    assert stats["frames_kept"] <= len(decoded_packets) <= most
    assert stats["frames_decoded"] >= len(decoded_packets)


def test_frames_that_none_is_built_upon_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, *how = CODECS["h264-one-group"]
    path = write(tmp_path / name, *how)
    steps = shortcut.take_shortcut(path, parse_sampling("num=1"), -np.inf, np.inf, Limits())
    seen: list[int] = []
    decode_stretch = shortcut._decode_stretch

    def noted(*arguments: Any) -> Iterator[Any]:
        for frame in decode_stretch(*arguments):
            seen.extend([] if frame is None else [frame.pts])
            yield frame

    monkeypatch.setattr(shortcut, "_decode_stretch", noted)
    assert sum(found is not None for found in steps) == 1
    assert len(seen) < 25  # of the 31 up to the middle


def test_decoding_everything_has_no_shortcut(tmp_path: Path, decoded_packets: list[int]) -> None:
    name, *how = CODECS["h264"]
    path = write(tmp_path / name, *how)
    for sample, part in (("all", {}), ("fps=60", {}), ("every=1", {"start": 0.0}), ("num=100", {})):
        require_same(path, sample, **part)
    assert decoded_packets == []


def test_damage_ends_as_it_does_when_everything_is_decoded(tmp_path: Path) -> None:
    name, *how = CODECS["h264"]
    whole = write(tmp_path / name, *how).read_bytes()
    rng, path, same = np.random.default_rng(0), tmp_path / "broken.mp4", 0
    for _ in range(60):
        data = bytearray(whole)
        place = int(rng.integers(0, len(data) - 40))
        data[place : place + 40] = rng.bytes(int(rng.integers(1, 40))).ljust(40, b"\0")
        path.write_bytes(data[: int(rng.integers(place, len(data)))] if rng.random() < 0.3 else data)
        for sample, part in (("fps=3", {}), ("all", {"start": 0.9, "end": 1.3})):
            plain, plain_times, plain_stats = plain_outcome(path, sample, **part)
            frames, times, stats = outcome(path, sample, **part)
            if isinstance(plain, str) or plain_stats["warnings"]:
                # What is damaged may lie where nobody looks; then all is as if it were whole.
                passed_over = not isinstance(frames, str) and not stats["warnings"]
                assert passed_over or str(frames) == str(plain)
                continue
            np.testing.assert_array_equal(frames, plain)
            assert (times, stats) == (plain_times, plain_stats)
            same += 1
    assert same > 20


def test_a_broken_promise_midway_decodes_everything_and_gives_each_frame_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, *how = CODECS["h264"]
    path = write(tmp_path / name, *how)
    decode_stretch, stretches = shortcut._decode_stretch, iter(range(100))

    def breaks(*arguments: Any) -> Iterator[Any]:
        yield from decode_stretch(*arguments)
        if next(stretches) == 2:
            raise shortcut.DoubtError

    monkeypatch.setattr(shortcut, "_decode_stretch", breaks)
    require_same(path, "every=5")
    assert next(stretches) == 3


def test_packets_that_lied_about_a_frame_given_already_are_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "v.mp4", *CODECS["h264"][1:])

    def lies(clip: Clip, stats: DecodeStats) -> Iterator[Any]:
        (picture,) = (picture for picture in video._pictures(clip, stats) if picture and picture.time_ms == 200)
        yield picture
        raise shortcut.DoubtError

    monkeypatch.setattr(video, "_shortcut_pictures", lies)
    frames, _, _ = outcome(path, "fps=2")
    assert "its packets promise a frame at 200 ms, which decoding does not give" in str(frames)


def packets(text: str) -> list[PacketInfo]:
    """``0* 3 1`` → packets in decoding order, key frames with a star."""
    return [PacketInfo(int(word.rstrip("*")), word.endswith("*")) for word in text.split()]


@pytest.mark.parametrize(
    ("text", "sample", "stretches"),
    [
        ("0* 1 2 3* 4 5", "every=3", [[0], [3]]),
        ("0* 1 2 3* 4 5", "every=2", [[0, 1, 2], [3, 4]]),
        ("0* 3 1 2 4* 7 5 6", "every=5", [[0], [4, 7, 5]]),
        ("0* 3* 1 2 6* 4 5", "every=4", [[0, 3, 1, 2, 6, 4]]),  # shown before the key frame they come after
        ("0* 1 2 3", "every=1", None),
        ("0 1 2* 3", "every=2", None),  # no key frame to begin with
        ("0* 2 2 3", "every=2", None),  # two frames at one time
        ("2* 0 1 3", "every=2", None),  # frames before the first key frame
        ("", "every=2", None),
    ],
)
def test_the_plan_begins_afresh_only_where_nothing_earlier_is_needed(
    text: str, sample: str, stretches: list[list[int]] | None
) -> None:
    plan = plan_shortcut(packets(text), 0, Fraction(1, 10), parse_sampling(sample), -np.inf, np.inf)
    assert (plan and [list(stretch.pts) for stretch in plan.stretches]) == stretches
