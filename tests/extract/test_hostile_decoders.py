"""Decoders that crash, hang or eat: each ends with its reason, and the other videos go on."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from framecache.cache import open_cache
from framecache.cache.sampling import Sampling, parse_sampling
from framecache.cache.writer import ShardWriter
from framecache.extract import limits, pipeline
from framecache.extract.config import ExtractConfig
from framecache.extract.decoder import DecoderPool, Finished, Frames
from framecache.extract.limits import Limits
from framecache.extract.pipeline import extract
from framecache.extract.video import Clip, DecodeStats

from .conftest import shades, write_video
from .hostile_files import SQUARE, png
from .mutants import decode_mutants

WORKER = """
import json, os, signal, sys, time
from framecache.cache.child import serve
from framecache.extract import decode_worker

def answer(message):
    name = os.path.basename(json.loads(message)["path"])
    for number, part in enumerate(decode_worker.answer(message)):
        if number == (3 if "late" in name else 1):
            if "hang" in name:
                time.sleep(1e6)
            if "segfault" in name:
                os.kill(os.getpid(), signal.SIGSEGV)
            if "babble" in name:
                part = b"no JSON"
            if "eat" in name:
                bytearray(sys.maxsize)
        if "short" in name and number == 2:
            part = part[:-3]
        if "lossy" in name and number in (1, 2):
            continue
        if "slow" in name and number < 6:
            time.sleep(0.4)
        yield part
    if "leave" in name:
        os._exit(0)

serve(answer)
"""


@pytest.fixture
def hostile_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module for workers that do to a clip what its name says."""
    folder = tmp_path / "workers"
    folder.mkdir()
    (folder / "hostile_worker.py").write_text(WORKER)
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    return "hostile_worker"


STALL_SECONDS = 1.5


def decode_hostile(folder: Path, names: list[str], module: str, keep_partial: bool = False) -> dict[str, Finished]:
    # The others may take their time on a busy machine.
    limits = [Limits(STALL_SECONDS) if "hang" in name or "slow" in name else Limits() for name in names]
    clips = [
        Clip(write_video(folder / f"{name}.mp4", shades(40)), Sampling(), SQUARE, None, None, keep_partial, limit)
        for name, limit in zip(names, limits, strict=True)
    ]
    counts = dict.fromkeys(names, 0)
    ends: dict[str, Finished] = {}
    with DecoderPool(clips, 1, module) as pool:
        for event in pool:
            if isinstance(event, Frames):
                counts[names[event.clip]] += len(event.block.frames)
            elif isinstance(event, Finished):
                assert names[event.clip] not in ends
                ends[names[event.clip]] = event
    for name, end in ends.items():
        assert end.stats.frames_kept == counts[name]
    return ends


def test_whatever_a_decoder_does_the_next_clip_goes_on(tmp_path: Path, hostile_worker: str) -> None:
    reasons = {
        "segfault": "the decoder crashed (Segmentation fault)",
        "good": None,
        "hang": "no frame for 1.5 s (--stall-seconds)",
        "late-segfault": "decoding breaks after 16 of 40 frames: the decoder crashed (Segmentation fault); "
        "--retry-failed --keep-partial keeps them",
        "slow": None,  # longer than that in all, but never without a frame for long
        "leave": None,
        "after": None,  # whose worker has gone before it came
        "babble": "the decoder crashed (exit status 0)",
        "lossy": "decoding breaks after 40 of 40 frames: the decoder crashed (exit status 0); "
        "--retry-failed --keep-partial keeps them",
        "short": "decoding breaks after 16 of 40 frames: the decoder crashed (exit status 0)",
    }
    ends = decode_hostile(tmp_path, list(reasons), hostile_worker)
    # A worker that is told to go may be too slow for it on a busy machine, and is killed.
    told_to_go = {"babble", "lossy", "short"}
    found = {
        name: str(end.reason).replace("(Killed)", "(exit status 0)") if name in told_to_go else end.reason
        for name, end in ends.items()
    }
    assert found == reasons


def test_what_came_before_a_crash_is_kept_when_that_is_wanted(tmp_path: Path, hostile_worker: str) -> None:
    ends = decode_hostile(tmp_path, ["late-segfault", "late-hang", "segfault"], hostile_worker, keep_partial=True)
    assert ends["late-segfault"].stats.warnings == ["kept in part: the decoder crashed (Segmentation fault)"]
    assert ends["late-hang"].stats.warnings == ["kept in part: no frame for 1.5 s (--stall-seconds)"]
    assert [ends[name].reason for name in ends] == [None, None, "the decoder crashed (Segmentation fault)"]
    assert ends["late-hang"].stats.frames_kept == 16


def test_the_consumer_gets_turns_while_nothing_is_decoded(tmp_path: Path, hostile_worker: str) -> None:
    clip = Clip(
        write_video(tmp_path / "hang.mp4", shades(3)), Sampling(), SQUARE, limits=Limits(stall_seconds=STALL_SECONDS)
    )
    with DecoderPool([clip], 1, hostile_worker) as pool:
        events = list(pool)
    assert events.count(None) >= 2
    assert isinstance(events[-1], Finished)


def test_the_consumers_own_slowness_is_no_stall(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", shades(200))
    with DecoderPool([Clip(path, Sampling(), SQUARE, limits=Limits(STALL_SECONDS))], 1) as pool:
        for event in pool:
            if isinstance(event, Frames):
                time.sleep(1.5 * STALL_SECONDS if event.block.timestamps_ms[0] == 0 else 0)
            elif event is not None:
                assert event.reason is None


def test_frames_that_are_not_kept_are_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from framecache.extract import video

    everything = write_video(tmp_path / "v.avi", shades(30), codec="mpeg4")
    shortcut = write_video(tmp_path / "v.mp4", shades(30))  # key frames at 0, 4, …
    monkeypatch.setattr(video, "_PULSE_SECONDS", 0.0)
    for path, sample, beats in (
        (everything, "every=1000", 29),
        (everything, "num=1", 30 + 29),
        (shortcut, "every=7", 3 + 3 + 2 + 1 + 0),  # frames 7, 14, 21 and 28 behind their key frames
    ):
        clip = Clip(path, parse_sampling(sample), SQUARE)
        assert list(video.decode_with_pulse(clip, DecodeStats())).count(None) >= beats


def test_a_run_survives_its_decoders_and_accounts_for_every_video(
    tmp_path: Path, tiny_backbone: str, hostile_worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealings, turns = [], []

    class Watched(DecoderPool):
        def __iter__(self):
            for event in super().__iter__():
                before = len(sealings)
                yield event
                if event is None:
                    turns.append(len(sealings) > before)

    seal_if_due = ShardWriter.seal_if_due
    monkeypatch.setattr(ShardWriter, "seal_if_due", lambda self: (sealings.append(self), seal_if_due(self)))
    monkeypatch.setattr(pipeline, "DecoderPool", partial(Watched, module=hostile_worker))
    folder = tmp_path / "videos"
    names = ["good", "late-segfault", "hang", "eat", "last"]
    for number, name in enumerate(names):
        write_video(folder / f"{name}.mp4", shades(20 + number))
    config = ExtractConfig(
        tmp_path / "features", backbone=tiny_backbone, engine="tensorflow", stall_seconds=STALL_SECONDS
    )
    report = extract(folder, config)
    rows = open_cache(config.cache)["build.gap"].ledger()
    assert {name: rows[f"{name}.mp4"].status for name in names} == {
        "good": "ok",
        "late-segfault": "failed",
        "hang": "failed",
        "eat": "failed",
        "last": "ok",
    }
    assert (report.num_videos, report.computed, len(report.failed)) == (5, 2, 3)
    assert len(turns) > 0
    assert all(turns), "nothing would be sealed while a decoder is slow"
    assert (rows["late-segfault.mp4"].frames_decoded, rows["late-segfault.mp4"].frames_expected) == (16, 21)
    report = extract(folder, replace(config, retry_failed=True, keep_partial=True))
    assert report.failed.keys() == {"hang.mp4", "eat.mp4"}
    features = open_cache(config.cache)["build.gap"]
    assert len(features["late-segfault.mp4"]) == 16
    assert features.ledger()["late-segfault.mp4"].warnings == (
        "kept in part: the decoder crashed (Segmentation fault)",
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is limited on Linux only")
def test_a_decoder_gets_no_more_memory_than_allowed(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.mp4"
    bomb.write_bytes(png(6000, 6000))
    good = write_video(tmp_path / "good.mp4", shades(5))
    clips = [Clip(path, Sampling(), SQUARE, limits=Limits(decoder_gb=0.1)) for path in (good, bomb, good)]
    with DecoderPool(clips, 1) as pool:
        reasons = {event.clip: event.reason for event in pool if isinstance(event, Finished)}
    assert reasons == {0: None, 1: "decoding needs more than 0.1 GB of memory (--decoder-gb)", 2: None}
    with DecoderPool([Clip(bomb, Sampling(), SQUARE)], 1) as pool:
        assert [event.reason for event in pool if isinstance(event, Finished)] == [None]


def test_a_system_that_limits_no_memory_does_not_end_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(*arguments: object) -> None:
        asked.append(arguments)
        raise ValueError("current limit exceeds maximum limit")

    endless = sys.maxsize  # as on macOS, where it is not -1
    system = SimpleNamespace(
        RLIMIT_AS=5, RLIM_INFINITY=endless, getrlimit=lambda _: (endless, endless), setrlimit=refuse
    )
    monkeypatch.setattr(limits, "resource", system)
    monkeypatch.setattr(limits, "_at_start", lambda: 0)
    limits.limit_memory(1.0)
    assert asked == []
    monkeypatch.setattr(limits, "_at_start", lambda: 5)
    limits.limit_memory(1.0)
    assert asked == [(5, (1_000_000_005, endless))]


def test_a_few_mutants(tmp_path: Path) -> None:
    """The soak test in short."""
    ends = decode_mutants(tmp_path, 24, seed=3, stall_seconds=10.0)
    assert {"warned", "failed"} <= ends.keys()
