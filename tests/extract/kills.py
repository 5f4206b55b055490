"""Real extractions, killed again and again until they are done; what they leave is compared with an undisturbed one."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framecache.cache import FeatureSet, open_cache
from framecache.cache.reader import list_shards
from framecache.cache.verify_worker import examine
from tests.faults import Fault, Launched, Launcher, operations

from .conftest import TINY_BACKBONE, shades, write_video

COMMAND = "framecache.extract.__main__:main"
QUICK_COMMAND = "numpy_network:main"
NUM_VIDEOS, NUM_FRAMES = 29, 12
BATCH_SIZE = 4
SHARD_VIDEOS = 7
SHARD_MB = SHARD_VIDEOS * NUM_FRAMES * 6 * 2 / 1e6  # six channels of float16
MOST_FRAMES_LOST = SHARD_VIDEOS * NUM_FRAMES  # all but one wait for the seal, and the last is being computed
NO_SEAL_MB = 512.0
LONG_PASS_SECONDS = 0.01
HOUR = 3600.0  # of --seal-seconds: shards are sealed by size alone, and the operations are the same in every run


@dataclass
class Toll:
    """What a number of kills has cost.

    Attributes:
        kills: Processes killed while they worked.
        finished: Extractions that came to their end in spite of them.
        frames_lost: Frames computed, and lost, per kill.
        seconds_lost: Time from the first frame lost to the kill, in seconds, per kill.
    """

    kills: int
    finished: int
    frames_lost: list[int]
    seconds_lost: list[float]

    def __str__(self) -> str:
        mean, worst = sum(self.seconds_lost) / len(self.seconds_lost), max(self.seconds_lost)
        return (
            f"{self.kills} kills survived, {self.finished} extractions completed; lost per kill: "
            f"{sum(self.frames_lost) / len(self.frames_lost):.0f} frames, {mean:.2f} s on average, at most "
            f"{max(self.frames_lost)} frames, {worst:.2f} s (sealed every {SHARD_VIDEOS} videos of {NUM_FRAMES} frames)"
        )


class Extractions:
    """One source, extracted into many caches by processes that may die.

    Args:
        launcher: Forks the processes.
        folder: Where the clips, the caches and the logs go.
        command: What the processes run.
    """

    def __init__(self, launcher: Launcher, folder: Path, command: str) -> None:
        self.launcher = launcher
        self._command = command
        self.folder = folder
        self.clips = folder / "clips"
        for index in range(NUM_VIDEOS):
            write_video(self.clips / f"{index:02d}.mp4", shades(NUM_FRAMES) ^ index)
        (self.clips / "broken.mp4").write_bytes(b"no video")
        (self.clips / "copy.mp4").write_bytes((self.clips / "07.mp4").read_bytes())
        for cache in ("first", "whole"):  # the first process of all is slower than the others
            begin = time.monotonic()
            status, ended = self.run(cache, self.fault(cache, trace=True))
            assert status == 1, ended.stderr  # one video is broken
            self.seconds = time.monotonic() - begin
        self.operations = operations(folder / "whole.trace")
        assert self.operations == operations(folder / "first.trace")
        self.digests = self.visible("whole")
        assert len(self.digests) == 2 * (NUM_VIDEOS + 1)

    def arguments(self, cache: str, shard_mb: float = SHARD_MB) -> list[str]:
        return [
            *(str(self.clips), "--cache", str(self.folder / cache), "--backbone", "tiny_backbone:build"),
            *("--reduce", "gap", "gmp", "--engine", "tensorflow", "--batch-size", str(BATCH_SIZE), "--workers", "1"),
            *("--seal-seconds", str(HOUR), "--shard-mb", str(shard_mb)),
        ]

    def fault(self, cache: str, at: int = 0, action: str = "kill", trace: bool = False, **more: Any) -> Fault:
        files = [str(self.folder / f"{cache}.{name}") for name in ("trace", "progress")]
        return Fault(str(self.folder / cache), at, action, trace=files[0] if trace else None, progress=files[1], **more)

    def run(self, cache: str, fault: Fault | None = None) -> tuple[int, Launched]:
        """A whole extraction: its exit status, and the process that has ended."""
        return self.launcher.run(self._command, self.arguments(cache), fault)

    def start(self, cache: str, at: int = 0, shard_mb: float = SHARD_MB, **fault: Any) -> Launched:
        (self.folder / f"{cache}.progress").write_text("")
        return self.launcher.start(self._command, self.arguments(cache, shard_mb), self.fault(cache, at, **fault))

    def wait_for_frames(self, cache: str, count: int) -> None:
        """Until so many frames have gone through the CNN of a process that was just started."""
        give_up = time.monotonic() + 60
        while len((self.folder / f"{cache}.progress").read_text().splitlines()) * BATCH_SIZE < count:
            assert time.monotonic() < give_up
            time.sleep(0.01)

    def sets(self, cache: str) -> list[FeatureSet]:
        path = self.folder / cache
        return list(open_cache(path).values()) if path.is_dir() else []

    def visible(self, cache: str) -> dict[str, str]:
        """Digest of each visible video of each feature set, all of them checked down to the bit."""
        digests = {}
        for features in self.sets(cache):
            for path in list_shards(features.folder):
                *_, found = examine(json.dumps({"path": str(path), "spec": features.spec.to_dict()}).encode())
                assert json.loads(found)["hurt"] == [], json.loads(found)["error"]
            for row in features.ledger().values():
                if row.status == "ok":
                    digests[f"{features.name} {row.video_id}"] = row.feature_digest
                elif row.video_id in features:  # a duplicate
                    digests[f"{features.name} {row.video_id}"] = row.status
        return digests

    def assert_whole(self, cache: str, before: dict[str, str]) -> dict[str, str]:
        """Nothing half, nothing wrong, and nothing gone that was there before; gives what is there now."""
        now = self.visible(cache)
        assert now.items() <= self.digests.items()
        assert before.items() <= now.items()
        return now

    def assert_complete(self, cache: str) -> None:
        visible = self.visible(cache)
        assert visible == self.digests, sorted(visible.items() ^ self.digests.items())
        for features in self.sets(cache):
            statuses = [row.status for row in features.ledger().values()]
            counts = [statuses.count(status) for status in ("ok", "duplicate", "failed")]
            assert counts == [NUM_VIDEOS, 1, 1], features.ledger()
            left = {path.name for path in features.folder.iterdir()} - {
                path.name for path in list_shards(features.folder)
            }
            assert left == {"spec.json", "sealed.jsonl", "ledger.jsonl"}

    def lost(self, cache: str, killed_at: float, stored_before: int) -> tuple[int, float]:
        """Frames that a killed process computed for nothing, and the seconds since the first of them."""
        lines = [line.split() for line in (self.folder / f"{cache}.progress").read_text().splitlines()]
        stored = min((features.num_frames for features in self.sets(cache)), default=0) - stored_before
        wasted = [(float(at), int(frames)) for at, frames in lines if int(frames) > stored]
        return (wasted[-1][1] - stored, killed_at - wasted[0][0]) if wasted else (0, 0.0)


@contextmanager
def extractions(folder: Path, quick: bool = False) -> Iterator[Extractions]:
    """Extractions whose start is done once, as far as can be, before the processes are forked.

    Args:
        folder: Where everything goes.
        quick: Whether the CNN is one in NumPy, which starts at once, and not one in TensorFlow.
    """
    code, logs = folder / "code", folder / "logs"
    code.mkdir()
    logs.mkdir()
    (code / "tiny_backbone.py").write_text(TINY_BACKBONE)
    modules = ["filelock", "framecache.extract.__main__", "framecache.extract.pipeline", "h5py"]
    modules += ["numpy_network"] if quick else ["tensorflow", "keras", "tiny_backbone"]
    with Launcher(logs, modules, [code, Path(__file__).parent]) as launcher:
        yield Extractions(launcher, folder, QUICK_COMMAND if quick else COMMAND)


def interrupt(runs: Extractions, number: signal.Signals) -> None:
    """Interrupts an extraction before its first seal, and completes it.

    Raises:
        AssertionError: What was complete is not sealed, or the end differs from an undisturbed extraction's.
    """
    cache = f"interrupted-{number}"
    process = runs.start(cache, shard_mb=NO_SEAL_MB, pass_seconds=LONG_PASS_SECONDS)
    runs.wait_for_frames(cache, 5 * NUM_FRAMES)
    process.signal(number)
    assert process.wait() == 130, process.stderr
    assert "interrupted" in error_line(process.stderr)
    sealed = runs.assert_whole(cache, {})
    assert 2 * 3 <= len(sealed) < len(runs.digests)  # two feature sets; the newest videos wait for their batch
    assert runs.start(cache).wait() == 1
    assert runs.assert_whole(cache, sealed) == runs.digests


def error_line(stderr: str) -> str:
    """The one line that a failing command says; TensorFlow's own chatter aside."""
    assert "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    return line


def survive(runs: Extractions, kills: int, seed: int) -> Toll:
    """Kills extractions at seeded moments and operations, each as often as it takes to complete.

    Raises:
        AssertionError: A kill has hurt something or lost more than was not sealed, or the end differs from an
            undisturbed extraction's.
    """
    chance = random.Random(seed)
    toll = Toll(0, 0, [], [])
    while toll.kills < kills:
        cache = f"cache-{seed}-{toll.finished}"
        visible: dict[str, str] = {}
        for _ in range(chance.randint(1, 6)):
            stored = min((features.num_frames for features in runs.sets(cache)), default=0)
            left = 1 - stored / (NUM_VIDEOS * NUM_FRAMES)
            at = round(chance.uniform(1, left * len(runs.operations))) if chance.random() < 0.5 else 0
            process = runs.start(cache, at)
            if not at:
                time.sleep(chance.uniform(0.1, 0.3 + 0.7 * left) * runs.seconds)
                process.signal(signal.SIGKILL)
            status = process.wait()
            assert status in (-signal.SIGKILL, 1), process.stderr
            if status == -signal.SIGKILL:  # else it was done already
                toll.kills += 1
                frames, seconds = runs.lost(cache, time.monotonic(), stored)
                assert frames <= MOST_FRAMES_LOST, f"a kill lost {frames} frames"
                toll.frames_lost.append(frames)
                toll.seconds_lost.append(seconds)
            visible = runs.assert_whole(cache, visible)
        process = runs.start(cache)
        assert process.wait() == 1, process.stderr
        runs.assert_complete(cache)
        shutil.rmtree(runs.folder / cache)
        toll.finished += 1
    return toll
