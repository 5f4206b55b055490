"""Compaction and removal: the same features before, during and after, whatever happens in between."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framecache.cache import Cache, FeatureSet, FeatureSetNotFoundError, LockedError, ShardError, Spec, open_cache
from framecache.cache.__main__ import app
from framecache.cache.cli import run
from framecache.cache.compact import compact
from framecache.cache.ledger import LedgerRow, append_journal
from framecache.cache.reader import list_shards
from framecache.cache.shard import VideoRow, read_shard
from framecache.cache.store import lock_for_writing
from framecache.cache.verify import repair, verify
from framecache.cache.writer import ShardWriter

FillSet = Callable[..., Path]
AddVideo = Callable[..., VideoRow]

LARGE = 1 << 30


def ramp(num_frames: int, first: float = 0) -> np.ndarray:
    return np.arange(first, first + 4 * num_frames, dtype=np.float16).reshape(-1, 4)


def contents(folder: Path, spec: Spec) -> dict[str, tuple[bytes, bytes]]:
    features = FeatureSet(folder, spec)
    return {name: (features[name].tobytes(), features.timestamps_ms(name).tobytes()) for name in features}


def rows(folder: Path, spec: Spec) -> dict[str, LedgerRow]:
    return FeatureSet(folder, spec).ledger()


@pytest.fixture
def folder(tmp_path: Path, spec: Spec, fill_set: FillSet, add_video: AddVideo) -> Path:
    """Three shards; ``a`` was computed again, ``copy`` and ``late`` are duplicates, ``bad`` failed, ``c`` does now."""
    folder = fill_set(tmp_path / "features", spec, {"a": ramp(3), "b": ramp(2, 100)})
    append_journal(folder, 1, [LedgerRow("copy", "copy.mp4", "duplicate", "same as b", source_digest="content of b")])
    append_journal(folder, 1, [LedgerRow("late", "late.mp4", "duplicate", "same as a", source_digest="content of a")])
    append_journal(folder, 1, [LedgerRow("bad", "bad.mp4", "failed", "no video stream")])
    fill_set(tmp_path / "features", spec, {"c": ramp(1, 200), "d": ramp(2, 300)})
    append_journal(folder, 2, [LedgerRow("c", "c.mp4", "failed", "changed and broken", source_digest="new")])
    with ShardWriter(folder, spec, {"engine": "test"}, LARGE, 3600) as writer:
        add_video(writer, "a", ramp(4, 400), source_digest="new content of a")
    return folder


def test_compaction_keeps_all_that_counts_and_drops_the_rest(folder: Path, spec: Spec) -> None:
    before, ledger, opened = contents(folder, spec), rows(folder, spec), FeatureSet(folder, spec)
    assert set(before) == {"a", "b", "d", "copy", "late"}
    assert compact(folder, spec, LARGE) == 3
    (path,) = list_shards(folder)
    assert read_shard(path).index["video_id"].tolist() == [b"late", b"b", b"d", b"a"]  # in the order of writing
    assert contents(folder, spec) == before
    after = rows(folder, spec)
    late = after.pop("late")
    assert (late.status, late.source, late.source_digest) == ("ok", "late.mp4", "content of a")
    assert after == {video_id: row for video_id, row in ledger.items() if video_id != "late"}
    assert verify(folder, spec).ok
    assert opened["d"].tobytes() == before["d"][0]  # mapped only now, from the new shard
    assert opened.ledger().keys() == ledger.keys()


def test_what_was_computed_anew_since_the_opening_is_refused_and_the_rest_still_read(
    folder: Path, spec: Spec, fill_set: FillSet
) -> None:
    opened = FeatureSet(folder, spec)
    fill_set(folder.parent, spec, {"d": ramp(5, 700)})
    compact(folder, spec, LARGE)
    np.testing.assert_array_equal(opened["b"], ramp(2, 100))  # found again; from now on it looks at the new shards
    for read in (opened.__getitem__, opened.length, opened.timestamps_ms):
        with pytest.raises(ShardError, match="'d' was computed anew, or removed, since the cache was opened"):
            read("d")
    np.testing.assert_array_equal(FeatureSet(folder, spec)["d"], ramp(5, 700))


def test_compaction_is_idempotent(folder: Path, spec: Spec) -> None:
    compact(folder, spec, LARGE)
    names = sorted(os.listdir(folder))
    assert compact(folder, spec, LARGE) == 0
    assert sorted(os.listdir(folder)) == names


def test_large_and_full_shards_stay(tmp_path: Path, spec: Spec, fill_set: FillSet) -> None:
    large = {f"v{number}": ramp(200, number) for number in range(10)}
    folder = fill_set(tmp_path, spec, large)
    (kept,) = list_shards(folder)
    for number in range(3):
        fill_set(tmp_path, spec, {f"w{number}": ramp(1, number)})
    assert compact(folder, spec, 20_000) == 3
    assert kept in list_shards(folder)
    assert len(list_shards(folder)) == 2
    assert compact(folder, spec, 20_000) == 0


def test_a_shard_is_large_at_most(tmp_path: Path, spec: Spec, fill_set: FillSet) -> None:
    for number in range(6):
        folder = fill_set(tmp_path, spec, {f"v{number}": ramp(100, number)})
    before = contents(folder, spec)
    assert compact(folder, spec, 15_000) == 6
    assert len(list_shards(folder)) > 0
    assert contents(folder, spec) == before


def test_a_shard_has_so_many_videos_at_most(
    folder: Path, spec: Spec, fill_set: FillSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("compact", "copying"):
        monkeypatch.setattr(f"framecache.cache.{name}.MOST_VIDEOS", 6)
    fill_set(folder.parent, spec, {name: ramp(2) for name in "lmno"})  # more than half as many: not small
    for name in "uvwxyz":
        fill_set(folder.parent, spec, {name: ramp(1)})
    before = contents(folder, spec)
    assert compact(folder, spec, LARGE) == 9
    assert [len(read_shard(path).index) for path in list_shards(folder)] == [4, 6, 4]
    assert contents(folder, spec) == before
    assert compact(folder, spec, LARGE) == 0


def test_shards_of_other_software_stay_apart(
    tmp_path: Path, spec: Spec, fill_set: FillSet, add_video: AddVideo
) -> None:
    folder = fill_set(tmp_path, spec, {"a": ramp(1)})
    fill_set(tmp_path, spec, {"b": ramp(1, 10)})
    for name in "cd":
        with ShardWriter(folder, spec, {"engine": "other"}, LARGE, 3600) as writer:
            add_video(writer, name, ramp(1, 20))
    compact(folder, spec, LARGE)
    features = FeatureSet(folder, spec)
    assert [dict(info.software) for info in features.shards] == [{"engine": "test"}, {"engine": "other"}]
    assert [len(info.index) for info in features.shards] == [2, 2]
    assert compact(folder, spec, LARGE) == 0


def test_few_small_shards_are_left_until_there_are_many(folder: Path, spec: Spec) -> None:
    assert compact(folder, spec, LARGE, min_shards=4) == 0
    assert compact(folder, spec, LARGE, min_shards=3) == 3


def test_hurt_features_are_never_copied(folder: Path, spec: Spec) -> None:
    path = list_shards(folder)[1]
    data = bytearray(path.read_bytes())
    data[read_shard(path).features.offset + 8] ^= 1  # of d
    path.write_bytes(data)
    before = contents(folder, spec)
    shards = list_shards(folder)
    with pytest.raises(ShardError, match="the features of 'd' are hurt; run framecache verify --repair"):
        compact(folder, spec, LARGE)
    assert list_shards(folder) == shards
    assert contents(folder, spec) == before


def test_what_follows_a_compaction_that_left_nothing_of_the_last_shard_counts(
    tmp_path: Path, spec: Spec, fill_set: FillSet
) -> None:
    fill_set(tmp_path, spec, {"a": ramp(1)})
    folder = fill_set(tmp_path, spec, {"b": ramp(1, 10)})
    append_journal(folder, 2, [LedgerRow("b", "b.mp4", "failed", "changed and broken")])
    compact(folder, spec, LARGE)
    fill_set(tmp_path, spec, {"b": ramp(2, 20)})
    assert FeatureSet(folder, spec).ledger()["b"].status == "ok"
    assert FeatureSet(folder, spec)["b"].tolist() == ramp(2, 20).tolist()


EVENT = st.one_of(
    st.tuples(
        st.just("seal"),
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=3, unique_by=lambda one: one[0]),
    ),
    st.tuples(st.just("fail"), st.integers(0, 4)),
    st.tuples(st.just("compact"), st.sampled_from([200, 3000, LARGE])),
)


@settings(max_examples=15)
@given(history=st.lists(EVENT, min_size=2, max_size=14))
def test_no_compaction_in_any_history_changes_what_is_read(
    history: list[tuple[str, Any]], spec: Spec, add_video: AddVideo
) -> None:
    """Videos get contents as an extraction gives them out: what is stored under another name is a duplicate."""
    with tempfile.TemporaryDirectory() as cache:
        folder = Cache(Path(cache)).create(spec)
        model: dict[str, int] = {}  # which content each video should have
        for number, (event, value) in enumerate(history):
            features = FeatureSet(folder, spec)
            if event == "seal":
                copies = []
                with ShardWriter(folder, spec, {"engine": str(number % 2)}, LARGE, 3600) as writer:
                    taken: dict[int, str] = {}
                    for video, content in value:
                        name, digest = f"v{video}", f"content {content}"
                        original = features.video_with_content(digest) or taken.get(content)
                        if original in (None, name):
                            add_video(writer, name, np.full((1 + content, 4), content), source_digest=digest)
                            taken[content] = name
                        else:
                            copies.append(LedgerRow(name, name, "duplicate", source_digest=digest))
                        model[name] = content
                append_journal(folder, FeatureSet(folder, spec).last_shard, copies)
            elif event == "fail":
                append_journal(folder, features.last_shard, [LedgerRow(f"v{value}", "", "failed", "broken")])
                model.pop(f"v{value}", None)
            else:
                before = contents(folder, spec)
                compact(folder, spec, value)
                assert contents(folder, spec) == before
            features = FeatureSet(folder, spec)
            assert {name: len(view) - 1 for name, view in features.items()} == model
            assert all((view == model[name]).all() for name, view in features.items())


class Killed(BaseException):
    """In the place of a kill -9: nothing may catch it and tidy up."""


class Killer:
    """Ends what runs at its ``at``-th operation on files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.count, self._at = 0, at
        for owner, name in (
            (os, "replace"),
            (os, "fsync"),
            (os, "unlink"),
            (os, "rmdir"),
            (Path, "unlink"),
            (os, "open"),
        ):
            self._wrap(monkeypatch, owner, name)

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def operation(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count >= self._at:  # the dead do nothing any more: no finally block either
                raise Killed
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, operation)


def killed_everywhere(
    act: Callable[[Path], object], start: Path, check: Callable[[Path, bool], None], tmp_path: Path
) -> int:
    """Acts on copies of the cache ``start``, killed at the first, second, … operation, and checks what is left."""
    at = 0
    while True:
        at += 1
        cache = Path(shutil.copytree(start, tmp_path / f"killed-{at}"))
        with pytest.MonkeyPatch.context() as patch:
            Killer(patch, at)
            try:
                act(cache)
            except Killed:
                done = False
            else:
                done = True
        check(cache, done)
        shutil.rmtree(cache)
        if done:
            return at


def test_a_compaction_killed_anywhere_changes_nothing_and_can_be_run_again(
    folder: Path, spec: Spec, tmp_path: Path
) -> None:
    before, ledger = contents(folder, spec), rows(folder, spec)

    def compact_set(cache: Path) -> None:
        with lock_for_writing(cache / spec.name):
            compact(cache / spec.name, spec, LARGE)

    def check(cache: Path, done: bool) -> None:
        assert contents(cache / spec.name, spec) == before
        compact_set(cache)
        assert contents(cache / spec.name, spec) == before
        assert rows(cache / spec.name, spec).keys() == ledger.keys()
        assert len(list_shards(cache / spec.name)) == 1
        assert not list((cache / spec.name).glob(".*"))

    assert killed_everywhere(compact_set, folder.parent, check, tmp_path) > 10


def test_a_removal_killed_anywhere_leaves_all_or_nothing(folder: Path, spec: Spec, tmp_path: Path) -> None:
    before = contents(folder, spec)
    seen = []

    def remove(cache: Path) -> None:
        open_cache(cache).remove(spec.name)

    def check(cache: Path, done: bool) -> None:
        if spec.name in open_cache(cache).names():
            seen.append("all")
            assert not done
            assert contents(cache / spec.name, spec) == before
        else:
            seen.append("nothing")
            assert open_cache(cache).names() == []
        with lock_for_writing(cache / spec.name):  # the next writer sweeps up
            pass
        assert not list(cache.glob(".removed-*"))

    assert killed_everywhere(remove, folder.parent, check, tmp_path) > 5
    assert set(seen) == {"all", "nothing"}


def test_a_repair_killed_anywhere_loses_no_whole_video_and_can_be_run_again(
    folder: Path, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from .test_repair import ChildHere, hurt_video

    monkeypatch.setattr("framecache.cache.verify.Child", ChildHere)
    before = contents(folder, spec)
    whole = {name: value for name, value in before.items() if name not in ("b", "copy")}
    hurt_video(list_shards(folder)[0], "b")

    def repair_set(cache: Path) -> None:
        with lock_for_writing(cache / spec.name):
            repair(cache / spec.name, spec)

    def check(cache: Path, done: bool) -> None:
        now = contents(cache / spec.name, spec)
        assert {name: now[name] for name in whole} == whole
        repair_set(cache)
        assert contents(cache / spec.name, spec) == whole
        assert rows(cache / spec.name, spec)["b"].status == "failed"

    assert killed_everywhere(repair_set, folder.parent, check, tmp_path) > 10


def test_open_features_outlive_the_removal_of_their_set(folder: Path, spec: Spec) -> None:
    cache = open_cache(folder.parent)
    features = cache[spec.name]
    view = features["b"]
    assert cache.remove(spec.short_name) == spec.name
    assert view.tolist() == ramp(2, 100).tolist()
    assert features["b"].tolist() == ramp(2, 100).tolist()  # mapped already
    assert not folder.exists()
    with pytest.raises(FeatureSetNotFoundError):
        cache[spec.name]
    with pytest.raises(FeatureSetNotFoundError, match="was removed"):
        features["d"]  # of a shard that was not mapped yet
    with pytest.raises(FeatureSetNotFoundError):
        cache.remove(spec.name)


def test_a_removal_that_another_writer_sweeps_up_meanwhile_is_one_all_the_same(
    folder: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.rmtree

    def swept_up(path: Path, **options: Any) -> None:
        real(path)
        real(path, **options)  # what we do comes too late

    monkeypatch.setattr(shutil, "rmtree", swept_up)
    assert open_cache(folder.parent).remove(spec.name) == spec.name


def test_a_set_that_is_written_into_is_not_removed(folder: Path, spec: Spec) -> None:
    with lock_for_writing(folder), pytest.raises(LockedError):
        open_cache(folder.parent).remove(spec.name)
    assert list(open_cache(folder.parent)) == [spec.name]


BUSY_WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from framecache.cache import open_cache
from framecache.cache.compact import compact
from framecache.cache.ledger import LedgerRow, append_journal
from framecache.cache.shard import VideoRow
from framecache.cache.store import lock_for_writing
from framecache.cache.writer import ShardWriter

features = open_cache(sys.argv[1])["efficientnet-lite0.gap"]
folder, spec, until = features.folder, features.spec, time.monotonic() + float(sys.argv[2])
number = 0
while time.monotonic() < until:
    with lock_for_writing(folder):
        with ShardWriter(folder, spec, {"engine": "test"}, 1 << 30, 3600) as writer:
            for name in (f"v{number}", "again"):
                frames = np.full((1 + number % 3, 4), number % 1000, np.float16)
                buffer = writer.open_video()
                buffer.append(frames, np.arange(float(len(frames))))
                row = VideoRow(name, len(frames), buffer.hexdigest(), "", f"{name} {number}", "", None, 1, ())
                writer.add(buffer, row)
        copy = LedgerRow(f"copy{number}", "", "duplicate", source_digest=f"v{number} {number}")
        append_journal(folder, writer.last_shard, [copy])
        print(number, flush=True)
        number += 1
        if number % 4 == 0:
            compact(folder, spec, 1 << 30)
"""


def test_readers_see_the_old_shards_or_the_new_while_a_writer_seals_and_compacts(
    tmp_path: Path, spec: Spec, fill_set: FillSet
) -> None:
    folder = fill_set(tmp_path, spec, {"first": ramp(2)})
    log = tmp_path / "sealed.txt"
    long_open = FeatureSet(folder, spec)
    openings = 0
    with log.open("w") as stream:
        writer = subprocess.Popen([sys.executable, "-c", BUSY_WRITER, str(tmp_path), "3"], stdout=stream)
    try:
        shards_seen = set()
        while writer.poll() is None:
            sealed = log.read_text().count("\n")
            features = FeatureSet(folder, spec)
            openings += sealed > 0
            shards_seen.update(info.path.name for info in features.shards)
            known = {f"{name}{number}" for number in range(sealed) for name in ("v", "copy")}
            assert known <= set(features)
            own = [name for name in features if not name.startswith("copy")]
            assert features.num_frames == sum(map(features.length, own))
            for name in own:
                try:
                    assert len(features[name]) > 0
                except ShardError:  # what was computed anew meanwhile is refused, and only that
                    assert name == "again"
            for name in list(features)[-4:] + [f"v{number}" for number in range(min(sealed, 3))]:
                number = int(name.strip("vcopy")) if name not in ("first", "again") else None
                if number is not None:
                    assert features[name].tolist() == np.full((1 + number % 3, 4), number % 1000).tolist()
    finally:
        writer.kill()
        writer.wait()
    assert writer.returncode == 0
    assert openings > 5
    assert len(shards_seen) > 4
    assert list_shards(folder)[0].name not in {info.path.name for info in long_open.shards}
    assert long_open["first"].tolist() == ramp(2).tolist()
    assert verify(folder, spec).ok


REMOVER = """
import sys
from framecache.cache import open_cache
from framecache.cache.__main__ import app
from framecache.cache.cli import run

sys.stdin.readline()
sys.exit(run(app, ["rm", sys.argv[2], "--yes", "--cache", sys.argv[1]]))
"""


def test_of_two_processes_that_remove_one_set_one_does_and_the_other_says_so(folder: Path, spec: Spec) -> None:
    command = [sys.executable, "-c", REMOVER, str(folder.parent), spec.name]
    pipe = subprocess.PIPE
    racers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    time.sleep(1)  # until both have imported
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    ends = [(racer.communicate(timeout=60), racer.returncode) for racer in racers]
    assert sorted(status for _, status in ends) == [0, 2]
    (loser,) = (err for (_, err), status in ends if status)
    assert loser.startswith("error: ")
    assert loser.count("\n") == 1
    assert sorted(path.name for path in folder.parent.iterdir()) == [".locks"]


def test_the_command_merges_small_shards(folder: Path, spec: Spec, capsys: pytest.CaptureFixture[str]) -> None:
    cache = ["--cache", str(folder.parent)]
    assert run(app, ["compact", *cache]) == 0
    assert capsys.readouterr().out == f"{spec.name}: 3 shards merged, 1 now\n"
    assert run(app, ["compact", spec.short_name, *cache]) == 0
    assert capsys.readouterr().out == f"{spec.name}: 0 shards merged, 1 now\n"
    for wrong in ("0", "-1", "nan", "inf"):
        assert run(app, ["compact", "--shard-mb", wrong, *cache]) == 2
        assert "expected a positive number" in capsys.readouterr().err
