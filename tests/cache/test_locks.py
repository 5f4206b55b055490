"""Locks: one writer at a time, whoever dies leaves nothing in the way, and whoever lives loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from framecache.cache import Cache, FeatureSet, InputError, LockedError, Spec
from framecache.cache.store import LOCKS_FOLDER, lock_for_writing

FillSet = Callable[..., Path]

WRITER = """
import sys
from pathlib import Path
import numpy as np
from framecache.cache import open_cache
from framecache.cache.store import lock_for_writing
from framecache.cache.writer import ShardWriter

folder = Path(sys.argv[1])
with lock_for_writing(folder):
    features = open_cache(folder.parent)[folder.name]
    writer = ShardWriter(folder, features.spec, {}, 1 << 30, 3600)
    buffer = writer.open_video()
    buffer.append(np.ones((2_000_000, 4), np.float16), np.zeros(2_000_000))  # beyond what is kept in memory
    (folder / ".shard-000009-00000000.h5.partial").write_bytes(b"half")
    print("writing", flush=True)
    sys.stdin.read()
"""


@contextmanager
def living_writer(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", WRITER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
            yield process
        finally:
            process.kill()


def test_temporary_files_of_a_living_writer_stay_and_those_of_a_dead_one_go(
    tmp_path: Path, spec: Spec, make_spec: Callable[..., Spec], fill_set: FillSet
) -> None:
    folder = fill_set(tmp_path, spec, {"a": np.ones((1, 4))})
    other = Cache(tmp_path).create(make_spec(reduction="gmp"))
    with living_writer(folder) as process:
        before = sorted(os.listdir(folder))
        assert ".shard-000009-00000000.h5.partial" in before
        for _ in range(2):
            with pytest.raises(LockedError, match=f"process {process.pid} on .*, since 20"), lock_for_writing(folder):
                pass
        with lock_for_writing(other):  # of another feature set beside it
            pass
        assert list(FeatureSet(folder, spec)) == ["a"]
        assert sorted(os.listdir(folder)) == before
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        with lock_for_writing(folder):
            assert not list(folder.glob(".*"))
    assert list(FeatureSet(folder, spec)) == ["a"]


RACER = """
import sys, time
import numpy as np
from pathlib import Path
from framecache.cache import Cache, LockedError, Spec
from framecache.cache.store import lock_for_writing
from framecache.cache.shard import VideoRow
from framecache.cache.writer import ShardWriter
import json

cache, spec, name = Cache(Path(sys.argv[1])), Spec.from_dict(json.loads(sys.argv[2])), sys.argv[3]
print("ready", flush=True)
sys.stdin.readline()
until = time.monotonic() + 60
while time.monotonic() < until:
    try:
        with lock_for_writing(cache.folder / spec.name):
            folder = cache.create(spec)
            with ShardWriter(folder, spec, {}, 1 << 30, 3600) as writer:
                buffer = writer.open_video()
                buffer.append(np.ones((2, 4), np.float16), np.zeros(2))
                writer.add(buffer, VideoRow(name, 2, buffer.hexdigest(), "", name, "", 2, 2, ()))
                time.sleep(0.1)
        print("sealed", flush=True)
        break
    except LockedError:
        print("locked", flush=True)
        time.sleep(0.02)
"""


def test_processes_that_race_for_a_new_set_write_one_after_the_other(tmp_path: Path, spec: Spec) -> None:
    cache, pipe = tmp_path / "not there yet", subprocess.PIPE
    words = [str(cache), json.dumps(spec.to_dict())]
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, *words, name], stdin=pipe, stdout=pipe, text=True)
        for name in "abc"
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    told = [racer.communicate(timeout=90)[0].split() for racer in racers]
    assert all(words[-1] == "sealed" for words in told)
    assert sum(words.count("locked") for words in told) > 0
    features = FeatureSet(cache / spec.name, spec)
    assert set(features) == {"a", "b", "c"}
    assert [info.number for info in features.shards] == [1, 2, 3]
    assert not list((cache / spec.name).glob(".*"))


def test_a_lock_in_a_cache_that_is_not_there_makes_no_feature_set(tmp_path: Path) -> None:
    with lock_for_writing(tmp_path / "deep" / "cache" / "set"):
        pass
    assert [path.name for path in (tmp_path / "deep" / "cache").iterdir()] == [LOCKS_FOLDER]
    assert Cache(tmp_path / "deep" / "cache").names() == []


@pytest.mark.parametrize("place", ["cache", f"cache/{LOCKS_FOLDER}"])
def test_a_file_where_a_folder_belongs_is_wrong_input(place: str, tmp_path: Path, spec: Spec) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).touch()
    with (
        pytest.raises(InputError, match=r"cache '.*cache': cannot be written"),
        lock_for_writing(tmp_path / "cache" / spec.name),
    ):
        pass
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / spec.name).touch()
    with pytest.raises(InputError, match="cannot be written"):
        Cache(tmp_path / "set").create(spec)


def test_a_holder_that_cannot_be_read_is_another_process(tmp_path: Path) -> None:
    with lock_for_writing(tmp_path / "set"):
        (tmp_path / LOCKS_FOLDER / "set.json").write_text("[")
        with pytest.raises(LockedError, match="another process is writing"), lock_for_writing(tmp_path / "set"):
            pass


def test_what_a_killed_removal_left_is_swept_up_by_the_next_writer(tmp_path: Path, spec: Spec) -> None:
    grave = tmp_path / ".removed-12345678"
    grave.mkdir()
    (grave / "shard-000001-00000000.h5").touch()
    begin = time.monotonic()
    with lock_for_writing(tmp_path / spec.name):
        assert not grave.exists()
    assert time.monotonic() - begin < 5
