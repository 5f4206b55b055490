"""Decode workers: all clips come through, and a crash costs one of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from framecache.cache.sampling import Sampling
from framecache.extract import decoder
from framecache.extract.decoder import DecoderPool, Finished, Frames
from framecache.extract.video import Clip, Geometry

from .conftest import shades, write_video


def make_clips(folder: Path, counts: list[int]) -> list[Clip]:
    return [
        Clip(write_video(folder / f"{index}.mp4", shades(count)), Sampling(), Geometry(16, 16))
        for index, count in enumerate(counts)
    ]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_every_clip_comes_whole_in_order_and_ends_once(tmp_path: Path, num_workers: int) -> None:
    counts = [3, 40, 1, 17, 16]
    times: dict[int, list[float]] = {index: [] for index in range(len(counts))}
    ended = []
    with DecoderPool(make_clips(tmp_path, counts), num_workers) as pool:
        for event in pool:
            if isinstance(event, Frames):
                assert event.clip not in ended
                times[event.clip] += event.block.timestamps_ms.tolist()
            elif isinstance(event, Finished):
                assert event.reason is None
                assert event.stats.frames_kept == counts[event.clip]
                ended.append(event.clip)
    assert sorted(ended) == list(range(len(counts)))
    for index, count in enumerate(counts):
        np.testing.assert_allclose(times[index], np.arange(count) * 100)


def test_a_broken_clip_does_not_stop_the_others(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, [3, 3, 3])
    clips[1].path.write_bytes(b"no video")
    with DecoderPool(clips, 1) as pool:
        reasons = {event.clip: event.reason for event in pool if isinstance(event, Finished)}
    assert reasons[0] is None
    assert reasons[2] is None
    assert "cannot be opened" in str(reasons[1])


def test_a_crash_of_the_decoder_costs_one_clip(tmp_path: Path) -> None:
    # Frames of 2 MB do not fit into the socket's buffer: the worker is still busy when it is killed.
    clips = [Clip(clip.path, clip.sampling, Geometry(800, 800)) for clip in make_clips(tmp_path, [60, 3])]
    reasons: dict[int, str | None] = {}
    with DecoderPool(clips, 1) as pool:
        for event in pool:
            if isinstance(event, Finished):
                reasons[event.clip] = event.reason
            elif isinstance(event, Frames) and event.clip == 0 and 0 not in reasons:
                process = pool._workers[0]._process
                if process is not None:
                    process.kill()
    assert reasons[1] is None
    assert re.fullmatch(
        r"decoding breaks after \d+ of 60 frames: the decoder crashed \(Killed\); .*--keep-partial keeps them",
        str(reasons[0]),
    )


@pytest.mark.parametrize(
    ("code", "why"),
    [("raise SystemExit(3)", "exit status 3"), ("import time; time.sleep(1e6)", "no answer for 0.3 s")],
    ids=["ends", "hangs"],
)
def test_a_worker_that_does_not_start_is_tried_twice_and_not_blamed_on_the_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, why: str
) -> None:
    starts = tmp_path / "starts"
    (tmp_path / "no_worker.py").write_text(f"print('once', file=open({str(starts)!r}, 'a'))\n{code}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    if "no answer" in why:
        monkeypatch.setattr(decoder, "_START_SECONDS", 0.3)
    with DecoderPool(make_clips(tmp_path, [3]), 1, "no_worker") as pool:
        (reason,) = [event.reason for event in pool if isinstance(event, Finished)]
    assert str(reason).startswith(f"the decode process did not start: {why}")
    if "no answer" not in why:  # else it may not even have come so far
        assert starts.read_text().split() == ["once", "once"]


def test_leaving_early_ends_the_workers(tmp_path: Path) -> None:
    with DecoderPool(make_clips(tmp_path, [40, 40]), 2) as pool:
        next(iter(pool))
        processes = [worker._process for worker in pool._workers]
    for process in processes:
        assert process is not None
        assert process.wait(timeout=5) != 0


def test_a_worker_does_not_load_tensorflow() -> None:
    code = "import framecache.extract.decode_worker, sys; print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
