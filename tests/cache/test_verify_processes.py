"""verify reads shards in processes of their own, which may crash or hang, and its command says what was found."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from framecache.cache import Spec
from framecache.cache.__main__ import app
from framecache.cache.cli import run
from framecache.cache.reader import list_shards
from framecache.cache.shard import read_shard
from framecache.cache.verify import verify

from .flips import flip

WORKER = """
import json, os, signal, time
from framecache.cache.child import serve
from framecache.cache.verify_worker import examine

def answer(request):
    if "shard-000001" in json.loads(request)["path"]:
        {act}
    yield from examine(request)

serve(answer)
"""


@pytest.mark.parametrize(
    ("act", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"reading it crashed \(Segmentation fault\); it is taken for hurt"),
        ("os.abort()", r"reading it crashed \(Aborted\); it is taken for hurt"),
        ("time.sleep(600)", "reading it gave no answer for 2 s; it is taken for hurt"),
    ],
    ids=["segfault", "abort", "hang"],
)
def test_a_shard_that_crashes_or_hangs_its_reader_is_hurt_and_the_others_are_examined(
    act: str,
    message: str,
    two_shards: tuple[Path, Path],
    folder: Path,
    spec: Spec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = f"odd_worker_{os.getpid()}_{time.monotonic_ns()}"  # another test's may be running beside this one
    (tmp_path / f"{worker}.py").write_text(WORKER.format(act=act))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("framecache.cache.verify._WORKER", worker)
    monkeypatch.setattr("framecache.cache.verify._SILENCE_SECONDS", 2.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)  # one child for both shards
    flip(two_shards[1], read_shard(two_shards[1]).features.offset)
    begin = time.monotonic()
    result = verify(folder, spec)
    assert time.monotonic() - begin < 30
    assert set(result.errors) == {path.name for path in two_shards}
    assert message.replace("\\", "") in result.errors[two_shards[0].name]
    assert sorted(result.hurt) == ["a", "b", "c"]
    assert processes_of(worker) == []


def test_a_shard_that_crashes_its_reader_once_is_examined_again(
    folder: Path, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "crashed"
    act = f"if not os.path.exists({str(mark)!r}): open({str(mark)!r}, 'w').close(); os.abort()"
    worker = f"odd_worker_{os.getpid()}_{time.monotonic_ns()}"
    (tmp_path / f"{worker}.py").write_text(WORKER.format(act=act))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("framecache.cache.verify._WORKER", worker)
    assert verify(folder, spec).ok
    assert mark.exists()


def processes_of(word: str) -> list[str]:
    """Command lines of the processes, of any user, that hold this word."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has just ended
            continue
    return [line for line in found if f"-m {word}" in line]


def test_the_command_says_ok_or_hurt(folder: Path, spec: Spec, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["verify", "--cache", str(folder.parent)]) == 0
    assert capsys.readouterr().out == f"{spec.name}: ok, 2 videos in 1 shards\n"
    (path,) = list_shards(folder)
    flip(path, read_shard(path).features.offset)
    assert run(app, ["verify", spec.short_name, "--cache", str(folder.parent), "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found == {
        "name": spec.name,
        "ok": False,
        "shards": 1,
        "videos": 2,
        "hurt": ["a"],
        "errors": {path.name: f"{path}: 1 of its 2 videos are hurt"},
        "repaired": False,
    }
