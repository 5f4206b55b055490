"""Decoding: every frame, at its time, the right way up."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from framecache.cache.sampling import parse_sampling
from framecache.extract.video import Clip, DecodeStats, Geometry, VideoError, decode

from .conftest import shades, write_video

SQUARE = Geometry(16, 16)


def decode_all(path: Path, geometry: Geometry = SQUARE, sample: str = "all", **options: object):
    stats = DecodeStats()
    blocks = list(decode(Clip(path, parse_sampling(sample), geometry, **options), stats))
    frames = np.concatenate([block.frames for block in blocks])
    return frames, np.concatenate([block.timestamps_ms for block in blocks]), stats


def levels(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    return frames.mean(axis=(1, 2, 3))


def test_every_frame_comes_once_in_order_with_its_time(tmp_path: Path) -> None:
    frames, times, stats = decode_all(write_video(tmp_path / "v.mp4", shades(37)))
    assert frames.shape == (37, 16, 16, 3)
    assert frames.dtype == np.uint8
    np.testing.assert_allclose(levels(frames), np.linspace(20, 230, 37).astype(np.uint8), atol=2)
    np.testing.assert_allclose(times, np.arange(37) * 100)
    assert (stats.frames_expected, stats.frames_decoded, stats.frames_kept) == (37, 37, 37)
    assert stats.warnings == []


def test_variable_frame_rate_keeps_the_containers_times(tmp_path: Path) -> None:
    given = [0, 10, 50, 500, 520, 1400]
    _, times, _ = decode_all(write_video(tmp_path / "v.mp4", shades(6), times_ms=given))
    np.testing.assert_allclose(times, given, atol=0.1)


def test_fps_sampling_follows_time_and_not_frame_count(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", shades(6), times_ms=[0, 10, 50, 500, 520, 1400])
    _, times, _ = decode_all(path, sample="fps=2")
    np.testing.assert_allclose(times, [0, 500, 1400], atol=0.1)


def test_num_sampling_takes_the_middles_of_equal_parts(tmp_path: Path) -> None:
    _, times, stats = decode_all(write_video(tmp_path / "v.mp4", shades(20)), sample="num=4")
    np.testing.assert_allclose(times, [200, 700, 1200, 1700])
    assert (stats.frames_decoded, stats.frames_kept) == (20, 4)


def test_start_and_end_cut_out_a_part_by_time(tmp_path: Path) -> None:
    _, times, _ = decode_all(write_video(tmp_path / "v.mp4", shades(20)), start=0.5, end=0.8)
    np.testing.assert_allclose(times, [500, 600, 700])


def test_a_part_beyond_the_end_is_a_failure_with_a_reason(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", shades(5))
    with pytest.raises(VideoError, match="between its start and end"):
        decode_all(path, start=60.0)


def four_corners(height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Two frames: red top left, green top right, blue bottom left, white bottom right."""
    frame = np.full((height, width, 3), 255, np.uint8)
    frame[: height // 2, : width // 2] = (255, 0, 0)
    frame[: height // 2, width // 2 :] = (0, 255, 0)
    frame[height // 2 :, : width // 2] = (0, 0, 255)
    return np.stack([frame, frame])


def corner_names(frame: NDArray[np.uint8]) -> str:
    """Colours of the corners, clockwise from the top left."""
    names = {(1, 0, 0): "r", (0, 1, 0): "g", (0, 0, 1): "b", (1, 1, 1): "w"}
    h, w = frame.shape[:2]
    places = [(h // 4, w // 4), (h // 4, 3 * w // 4), (3 * h // 4, 3 * w // 4), (3 * h // 4, w // 4)]
    return "".join(names[tuple(int(value) for value in frame[place] > 127)] for place in places)


def rotate_in_header(path: Path, clockwise: int) -> None:
    """Writes a rotation into the track header's matrix, as a phone held sideways does."""
    a, b, c, d = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[clockwise]
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version and flags, times and ids, reserved, layer and volume
    one = 1 << 16
    struct.pack_into(">9i", data, matrix, a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("clockwise", "corners"), [(0, "rgwb"), (90, "brgw"), (180, "wbrg"), (270, "gwbr")], ids=lambda value: str(value)
)
@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_display_rotation_is_applied(tmp_path: Path, clockwise: int, corners: str, fit: str) -> None:
    path = write_video(tmp_path / "v.mp4", four_corners())
    if clockwise:
        rotate_in_header(path, clockwise)
    frames, _, stats = decode_all(path, Geometry(16, 16, fit))
    assert corner_names(frames[0]) == corners
    assert stats.warnings == []


def test_rotation_by_a_right_angle_swaps_the_sides_of_an_oblong_input(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", four_corners())
    rotate_in_header(path, 90)
    frames, _, _ = decode_all(path, Geometry(20, 12))
    assert frames.shape == (2, 20, 12, 3)
    assert corner_names(frames[0]) == "brgw"


def stripes(height: int, width: int) -> NDArray[np.uint8]:
    """Black, with a white central square of half the height."""
    frames = np.zeros((2, height, width, 3), np.uint8)
    side = height // 2
    top, left = (height - side) // 2, (width - side) // 2
    frames[:, top : top + side, left : left + side] = 255
    return frames


def test_crop_takes_the_central_square_of_its_fraction(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", stripes(64, 128))
    frames, _, _ = decode_all(path, Geometry(16, 16, "crop", crop_fraction=0.5))
    assert frames.min() > 200


def test_stretch_keeps_the_whole_picture(tmp_path: Path) -> None:
    frames, _, _ = decode_all(write_video(tmp_path / "v.mp4", stripes(64, 128)))
    white = frames[0, :, :, 0] > 127
    assert white.sum(axis=0).max() == 8  # half of the rows
    assert white.sum(axis=1).max() == 4  # a quarter of the columns


def test_crop_is_square_on_the_screen_where_pixels_are_not(tmp_path: Path) -> None:
    # Pixels twice as wide as high: the central square of half the height is a quarter of the columns' count.
    frames = np.zeros((2, 64, 64, 3), np.uint8)
    frames[:, 16:48, 24:40] = 255
    path = write_video(tmp_path / "v.mp4", frames, pixel_aspect=Fraction(2, 1))
    cropped, _, _ = decode_all(path, Geometry(16, 16, "crop", crop_fraction=0.5))
    assert cropped.min() > 150


def test_a_gif_is_a_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.gif", shades(6), codec="gif", pixel_format="rgb8")
    frames, times, _ = decode_all(path)
    assert len(frames) == 6
    np.testing.assert_allclose(times, np.arange(6) * 100)
    assert (np.diff(levels(frames)) > 0).all()


def test_a_folder_of_images_is_a_video_in_natural_order(tmp_path: Path) -> None:
    for index, frame in enumerate(shades(12)):
        write_video(tmp_path / "images" / f"frame{index}.png", frame[None], codec="png", pixel_format="rgb24")
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    frames, times, stats = decode_all(tmp_path / "images")
    assert (np.diff(levels(frames)) > 0).all()
    np.testing.assert_allclose(times, np.arange(12) * 40)
    assert stats.frames_expected == 12


@pytest.mark.parametrize(
    ("codec", "suffix", "pixel_format"),
    [
        ("mjpeg", ".avi", "yuvj420p"),
        ("ffv1", ".mkv", "yuv420p10le"),
        ("libx264", ".mov", "yuv444p"),
        ("mpeg4", ".avi", "yuv420p"),
    ],
)
def test_other_codecs_and_pixel_formats_give_the_same_pictures(
    tmp_path: Path, codec: str, suffix: str, pixel_format: str
) -> None:
    path = write_video(tmp_path / f"v{suffix}", shades(9), codec=codec, pixel_format=pixel_format)
    frames, _, _ = decode_all(path)
    np.testing.assert_allclose(levels(frames), np.linspace(20, 230, 9).astype(np.uint8), atol=4)


def break_midway(path: Path) -> Path:
    """A copy of an MP4 whose later packets are noise."""
    data = bytearray(path.read_bytes())
    begin, end = (
        data.index(b"mdat") + 4,
        data.index(b"moov") if data.index(b"moov") > data.index(b"mdat") else len(data),
    )
    half = (begin + end) // 2
    data[half:end] = b"\xff" * (end - half)
    broken = path.with_name("broken.mp4")
    broken.write_bytes(data)
    return broken


def test_a_video_that_breaks_midway_fails_and_says_where(tmp_path: Path) -> None:
    path = break_midway(write_video(tmp_path / "v.mp4", shades(40, 96, 128)))
    with pytest.raises(VideoError, match=r"breaks after \d+ of 40 frames.*--keep-partial"):
        decode_all(path)


def test_keep_partial_keeps_what_came_before_the_break(tmp_path: Path) -> None:
    path = break_midway(write_video(tmp_path / "v.mp4", shades(40, 96, 128)))
    frames, _, stats = decode_all(path, keep_partial=True)
    assert 0 < len(frames) < 40
    assert any("kept in part" in warning for warning in stats.warnings)


def test_fewer_frames_than_promised_is_a_warning(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi", shades(8), codec="mjpeg", pixel_format="yuvj420p")
    data = bytearray(path.read_bytes())
    length = data.index(b"strh") + 8 + 32  # dwLength of the stream header
    assert struct.unpack_from("<I", data, length)[0] == 8
    struct.pack_into("<I", data, length, 12)
    path.write_bytes(data)
    frames, _, stats = decode_all(path)
    assert len(frames) == 8
    assert stats.warnings == ["8 of 12 promised frames decoded"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text.mp4", b"this is no video\n" * 50, "cannot be opened: Invalid data"),
        ("empty.mp4", b"", "the file is empty"),
    ],
)
def test_what_is_no_video_fails_with_a_reason(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError, match=reason):
        decode_all(tmp_path / name)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="no video stream"):
        decode_all(path)


def test_the_same_video_gives_the_same_pixels_again(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", four_corners())
    np.testing.assert_array_equal(decode_all(path)[0], decode_all(path)[0])
