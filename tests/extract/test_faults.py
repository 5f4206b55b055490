"""Extractions that die, are interrupted, or meet a failing disk.

The CNN is one in NumPy; tests/soak does the same to TensorFlow's, many more times.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from framecache.cache import open_cache
from framecache.cache.fingerprint import digest_source
from framecache.extract import ExtractConfig, extract

from .kills import (
    LONG_PASS_SECONDS,
    NO_SEAL_MB,
    NUM_FRAMES,
    Extractions,
    error_line,
    extractions,
    interrupt,
    survive,
)
from .numpy_network import install


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Extractions]:
    with extractions(tmp_path_factory.mktemp("runs"), quick=True) as started:
        yield started


def test_killed_extractions_end_with_the_digests_of_one_never_killed(runs: Extractions) -> None:
    print(survive(runs, kills=6, seed=0))  # the loss is checked at each kill


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_seals_what_is_complete(number: signal.Signals, runs: Extractions) -> None:
    interrupt(runs, number)


def test_a_second_interrupt_ends_at_once(runs: Extractions) -> None:
    first_seal = [number for number, step in enumerate(runs.operations, 1) if step == "open"][2] + 1  # after two specs
    process = runs.start("impatient", first_seal, NO_SEAL_MB, action="hang", pass_seconds=LONG_PASS_SECONDS)
    runs.wait_for_frames("impatient", 5 * NUM_FRAMES)
    process.signal(signal.SIGINT)
    while not list(runs.folder.glob("impatient/*/.shard*")):
        time.sleep(0.01)  # until it hangs in the middle of a seal
    process.signal(signal.SIGINT)
    assert process.wait() == 130
    assert runs.assert_whole("impatient", {}) == {}
    assert runs.start("impatient").wait() == 1
    runs.assert_complete("impatient")


@pytest.mark.parametrize(("action", "at"), [("ENOSPC", 0.2), ("EIO", 0.5), ("EROFS", 0.8), ("ENOSPC", 0.95)])
def test_a_failing_disk_ends_the_run_in_one_line_and_the_next_goes_on(
    action: str, at: float, runs: Extractions
) -> None:
    cache = f"{action}-{at}"
    process = runs.start(cache, round(at * len(runs.operations)), action=action, lasting=True)
    assert process.wait() in (1, 2)
    assert os.strerror(getattr(errno, action)) in error_line(process.stderr)
    visible = runs.assert_whole(cache, {})
    assert runs.start(cache).wait() == 1
    assert runs.assert_whole(cache, visible) == runs.digests


def test_a_cache_that_vanishes_ends_the_run_in_one_line(runs: Extractions) -> None:
    process = runs.start("vanished", pass_seconds=LONG_PASS_SECONDS)
    runs.wait_for_frames("vanished", 5 * NUM_FRAMES)
    (runs.folder / "vanished").rename(runs.folder / "elsewhere")
    assert process.wait() in (1, 2)
    error_line(process.stderr)
    runs.assert_whole("elsewhere", {})
    assert runs.start("vanished").wait() == 1
    runs.assert_complete("vanished")


def test_a_second_extraction_says_who_holds_the_feature_set(runs: Extractions) -> None:
    first = runs.start("twice", pass_seconds=LONG_PASS_SECONDS)
    runs.wait_for_frames("twice", NUM_FRAMES)
    status, second = runs.run("twice")
    assert status == 2
    assert f"process {first.pid} on {os.uname().nodename}, since 20" in error_line(second.stderr)
    assert first.wait() == 1
    runs.assert_complete("twice")


def test_a_video_that_cannot_be_read_for_a_moment_fails_alone_and_is_tried_again(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(path: Path) -> str:
        if path.name == "two.mp4":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return digest_source(path)

    install(monkeypatch.setattr)
    config = ExtractConfig(cache=tmp_path / "features")
    with monkeypatch.context() as patch:
        patch.setattr("framecache.extract.plan.digest_source", unreadable)
        report = extract(clips, config)
    assert report.failed == {"a/two.mp4": "cannot be read: Input/output error"}
    assert (report.computed, len(report.failed)) == (2, 1)
    report = extract(clips, config)
    assert (report.computed, report.cached, report.failed) == (1, 2, {})
    assert len(open_cache(config.cache)["numpy.gap"]) == 3
