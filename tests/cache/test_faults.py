"""Kills and failing disks at every single operation: what is visible is whole, and the next run completes it."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from framecache.cache import FeatureSet
from framecache.cache.reader import list_shards
from framecache.cache.verify_worker import examine
from tests.faults import Fault, Launcher, operations

from .store_videos import ALL, COPY, FAILED, LENGTHS, SPEC

SEAL = ["open", "write", "close", "fsync", "replace", "fsync", "unlink", "append"]


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    folder = tmp_path_factory.mktemp("logs")
    with Launcher(folder, ["filelock", "h5py", "store_videos"], [Path(__file__).parent]) as started:
        yield started


def run(launcher: Launcher, cache: Path, **fault: object) -> tuple[int, str]:
    """Exit status and what was written on standard error."""
    status, ended = launcher.run("store_videos:main", [str(cache)], Fault(str(cache), **fault))
    return status, ended.stderr


@pytest.fixture(scope="module")
def steps(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The operations of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(launcher, folder / "features", trace=str(folder / "trace")) == (0, "")
    assert_complete(folder / "features")
    return operations(folder / "trace")


def contents(cache: Path) -> dict[str, list[list[float]]]:
    """All that is visible, each shard of it checked down to the bit."""
    folder = cache / SPEC.name
    if not (folder / "spec.json").exists():
        return {}
    for path in list_shards(folder):
        *_, found = examine(json.dumps({"path": str(path), "spec": SPEC.to_dict()}).encode())
        assert json.loads(found)["hurt"] == [], json.loads(found)["error"]
    features = FeatureSet(folder, SPEC)
    assert set(features.ledger()) <= ALL
    return {video_id: features[video_id].tolist() for video_id in features}


def expected(video_id: str) -> list[list[float]]:
    length = LENGTHS[video_id]
    return (np.arange(4.0 * length).reshape(length, 4) + int(video_id[1:]) * 100).tolist()


WHOLE = {**{video_id: expected(video_id) for video_id in LENGTHS}, COPY: expected("v1")}


def assert_nothing_half(cache: Path) -> None:
    found = contents(cache)
    assert found == {video_id: WHOLE[video_id] for video_id in found}


def assert_complete(cache: Path) -> None:
    assert contents(cache) == WHOLE
    ledger = FeatureSet(cache / SPEC.name, SPEC).ledger()
    assert {video_id: row.status for video_id, row in ledger.items() if row.status != "ok"} == {
        FAILED: "failed",
        COPY: "duplicate",
    }
    left = {path.name for path in (cache / SPEC.name).iterdir() if path not in list_shards(cache / SPEC.name)}
    assert left == {"spec.json", "sealed.jsonl", "ledger.jsonl"}


def test_every_step_of_sealing_is_among_the_operations(steps: list[str]) -> None:
    seal = [step for step, before in zip(steps, [None, *steps], strict=False) if step != before]
    assert any(seal[start : start + len(SEAL)] == SEAL for start in range(len(seal)))
    assert {"append-torn", "unlink", "mkdir"} < set(steps)


def test_a_kill_at_any_operation_leaves_whole_shards_and_a_run_that_can_go_on(
    launcher: Launcher, steps: list[str], tmp_path: Path
) -> None:
    for number in range(1, len(steps) + 1):
        cache = tmp_path / str(number)
        assert run(launcher, cache, at=number)[0] == -signal.SIGKILL, steps[number - 1]
        assert_nothing_half(cache)
        assert run(launcher, cache) == (0, "")
        assert_complete(cache)


def test_many_kills_in_a_row_lose_nothing_that_was_sealed(launcher: Launcher, steps: list[str], tmp_path: Path) -> None:
    chance = random.Random(3)
    for number in range(5):
        cache, before, status = tmp_path / str(number), set[str](), 1
        while status:
            status, _ = run(launcher, cache, at=chance.randint(1, len(steps)))
            now = set(contents(cache))
            assert before <= now
            before = now
        assert_complete(cache)


# Each case takes every sixth operation, so that all of them are met once.
@pytest.mark.parametrize("first", range(6))
def test_a_failing_disk_is_one_line_and_hides_nothing(
    first: int, launcher: Launcher, steps: list[str], tmp_path: Path
) -> None:
    action, lasting = ["ENOSPC", "EIO", "EROFS"][first % 3], first < 3
    for number in range(1 + first, len(steps) + 1, 6):
        cache = tmp_path / str(number)
        status, told = run(launcher, cache, at=number, action=action, lasting=lasting)
        if status == 0:  # what is only of use for a message may fail, or what was done before
            assert steps[number - 1] in ("mkdir", "unlink")
        else:
            assert status in (1, 2)
            (line,) = told.splitlines()
            assert line.startswith("error: ")
            assert os.strerror(getattr(errno, action)) in line
        assert_nothing_half(cache)
        assert run(launcher, cache) == (0, "")
        assert_complete(cache)


REAL_DISK = """
set -u
mount -t tmpfs -o size=16k none "$1"
python=$2
"$python" -m store_videos "$1/features"; echo "full: $?"
mount -o remount,size=1m "$1"
mount -o remount,ro "$1"
"$python" -m store_videos "$1/features"; echo "read-only: $?"
mount -o remount,rw "$1"
"$python" -m store_videos "$1/features"; echo "mended: $?"
cp -r "$1/features" "$3"
"""


def test_a_disk_that_is_really_full_and_one_that_is_really_read_only(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here (util-linux, on Linux only): nothing can be mounted")
    (tmp_path / "disk").mkdir()
    arguments = [str(tmp_path / "disk"), sys.executable, str(tmp_path / "copy")]
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", REAL_DISK, "sh", *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"this system lets nobody mount a file system: {done.stderr}")
    assert done.stdout.splitlines() == ["full: 1", "read-only: 2", "mended: 0"]
    full, read_only = done.stderr.splitlines()
    assert full.startswith("error: ")
    assert "No space left on device" in full
    assert read_only.startswith("error: cache ")
    assert "Read-only file system" in read_only
    assert_complete(tmp_path / "copy")
