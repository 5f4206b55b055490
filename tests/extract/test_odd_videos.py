"""Videos that are odd and go on: what was concealed, jumped back or promised too much is a warning."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from framecache.cache.sampling import Sampling
from framecache.extract.decoder import DecoderPool, Finished, Frames
from framecache.extract.video import Clip

from .conftest import shades, write_video
from .hostile_files import SQUARE, outcome


def noisy(path: Path, codec: str = "mpeg4") -> Path:
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 255, (48, 64, 3), np.uint8)
    return write_video(path, np.stack([np.roll(noise, 3 * shift, 1) for shift in range(12)]), codec=codec)


def test_errors_that_the_decoder_conceals_are_a_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(noisy(tmp_path / "v.avi").read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 2000, 100):
        data[place] ^= 0x10
    (tmp_path / "v.avi").write_bytes(data)
    count, reason, stats = outcome(tmp_path / "v.avi")
    assert (count, reason) == (12, None)
    assert any(warning.startswith("errors of FFmpeg: ") and "the first: " in warning for warning in stats.warnings)
    assert capfd.readouterr() == ("", "")


def test_nothing_that_a_worker_says_reaches_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = noisy(tmp_path / "v.avi")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with DecoderPool([Clip(path, Sampling(), SQUARE)], 1) as pool:
        events = iter(pool)
        assert isinstance(next(event for event in events if event), Frames)
        process = pool._workers[0]._process
        # Some decoders print, but none that is at hand: the worker's standard error must lead nowhere.
        if process is not None and Path("/proc/self/fd").exists():
            assert os.readlink(f"/proc/{process.pid}/fd/2") == os.devnull
        assert any(isinstance(event, Finished) for event in events)
    assert capfd.readouterr() == ("", "")


def test_timestamps_that_jump_back_are_a_warning_in_the_part_that_is_kept(tmp_path: Path) -> None:
    data = write_video(tmp_path / "v.ts", shades(10)).read_bytes()
    (tmp_path / "v.ts").write_bytes(data * 2)
    _, reason, stats = outcome(tmp_path / "v.ts")
    assert reason is None
    assert any("timestamps do not increase" in warning for warning in stats.warnings)
    assert outcome(tmp_path / "v.ts", end=0.5)[2].warnings == []


def test_a_part_promises_no_frames_beyond_its_end(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi", shades(8), codec="mjpeg", pixel_format="yuvj420p")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"strh") + 8 + 32, 12)  # dwLength of the stream header
    path.write_bytes(data)
    assert outcome(path, start=0.2)[2].warnings == ["8 of 12 promised frames decoded"]
    assert outcome(path, "num=3")[2].warnings == ["8 of 12 promised frames decoded"]
    assert outcome(path, end=0.5)[2].warnings == []
