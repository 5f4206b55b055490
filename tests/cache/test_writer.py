"""Shards are visible only when whole, and hold what was added."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from stat import S_ISDIR
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

from framecache.cache import FeatureSet, Spec, open_cache
from framecache.cache.durable import publish
from framecache.cache.reader import list_shards
from framecache.cache.shard import VideoRow, read_shard
from framecache.cache.store import Cache
from framecache.cache.writer import ShardWriter, VideoBuffer

MakeSpec = Callable[..., Spec]
FillSet = Callable[..., Path]
AddVideo = Callable[..., VideoRow]

FRAME_BYTES = 8  # four channels of float16


@pytest.fixture
def folder(tmp_path: Path, spec: Spec) -> Path:
    return Cache(tmp_path).create(spec)


def writer_of(folder: Path, spec: Spec, seal_bytes: int = 1 << 30, seal_seconds: float = 3600) -> ShardWriter:
    return ShardWriter(folder, spec, {"engine": "test", "numpy": "2"}, seal_bytes, seal_seconds)


def frames(count: int, first: float = 0) -> np.ndarray:
    """Features ``(count, 4)``, all numbers different."""
    return np.arange(first, first + count * 4, dtype=np.float16).reshape(count, 4)


def videos_per_shard(folder: Path) -> list[list[str]]:
    return [[raw.decode() for raw in read_shard(path).index["video_id"]] for path in list_shards(folder)]


def read(folder: Path, spec: Spec) -> Mapping[str, np.ndarray]:
    return FeatureSet(folder, spec)


def test_features_are_one_contiguous_block_that_bare_h5py_reads(tmp_path: Path, spec: Spec, fill_set: FillSet) -> None:
    (path,) = list_shards(fill_set(tmp_path, spec, {"v1": frames(3), "v2": frames(2, 50)}))
    with h5py.File(path, "r") as file:
        features = file["features"]
        assert features.chunks is None
        assert features.compression is None
        assert features.maxshape == (5, 4)
        np.testing.assert_array_equal(features[()], np.concatenate([frames(3), frames(2, 50)]))
        np.testing.assert_array_equal(file["timestamps_ms"][()], [0, 40, 80, 0, 40])
        assert file["index"]["video_id"].tolist() == [b"v1", b"v2"]
        assert file["index"]["start"].tolist() == [0, 3]
        assert file["index"]["length"].tolist() == [3, 2]
        offset = features.id.get_offset()
    raw = path.read_bytes()[offset : offset + 5 * FRAME_BYTES]
    np.testing.assert_array_equal(np.frombuffer(raw, "<f2").reshape(5, 4)[3:], frames(2, 50))


def test_mapped_rows_are_aligned(tmp_path: Path, make_spec: MakeSpec, fill_set: FillSet) -> None:
    spec = make_spec(feature_shape=(3,))
    info = read_shard(list_shards(fill_set(tmp_path, spec, {"v": np.ones((7, 3))}))[0])
    assert info.features.offset % 64 == 0
    assert info.timestamps_ms.offset % 64 == 0


def test_a_shard_describes_itself_in_plain_types(tmp_path: Path, spec: Spec, fill_set: FillSet) -> None:
    (path,) = list_shards(fill_set(tmp_path, spec, {"v1": frames(3)}))
    with h5py.File(path, "r") as file:
        assert set(file) == {"features", "timestamps_ms", "index", "ledger"}
        assert file.attrs["format_version"] == 1
        assert Spec.from_dict(json.loads(bytes(file.attrs["spec"]))) == spec
        assert json.loads(bytes(file.attrs["software"])) == {"engine": "test"}
        for name in ("index", "ledger"):
            assert {file[name].dtype[field].kind for field in file[name].dtype.names} == {"S", "i"}
    assert path.read_bytes()[8] == 0  # the oldest superblock, which every HDF5 library reads


def test_only_shards_and_the_spec_are_left_in_the_folder(tmp_path: Path, spec: Spec, fill_set: FillSet) -> None:
    folder = fill_set(tmp_path, spec, {"v1": frames(3)})
    assert {path.name for path in folder.iterdir()} == {"spec.json", "sealed.jsonl", list_shards(folder)[0].name}


def test_a_row_says_all_that_was_said_of_the_video(folder: Path, spec: Spec, add_video: AddVideo) -> None:
    with writer_of(folder, spec) as writer:
        row = add_video(
            writer,
            "Größe/日本.mp4",
            frames(3),
            source="/data/Größe.mp4",
            frames_expected=None,
            frames_decoded=9,
            warnings=("two\nlines", "ü"),
        )
    ledger = FeatureSet(folder, spec).ledger()["Größe/日本.mp4"]
    assert ledger.source == row.source
    assert ledger.source_stat == row.source_stat
    assert ledger.source_digest == row.source_digest
    assert ledger.feature_digest == row.digest
    assert ledger.frames_expected is None
    assert (ledger.frames_decoded, ledger.frames_stored) == (9, 3)
    assert ledger.warnings == ("two\nlines", "ü")
    assert ledger.status == "ok"


def test_frames_come_in_pieces_of_any_layout(folder: Path, spec: Spec, add_video: AddVideo) -> None:
    whole = frames(12)
    with writer_of(folder, spec) as writer:
        row = add_video(writer, "whole", whole)
        buffer = writer.open_video()
        buffer.append(np.asfortranarray(whole[:5]), np.arange(5) * 40.0)
        buffer.append(whole[5:5], np.empty(0))
        buffer.append(np.repeat(whole[5:], 2, axis=0)[::2], np.arange(5, 12) * 40.0)
        assert (buffer.num_frames, buffer.num_bytes) == (12, whole.nbytes)
        assert buffer.hexdigest() == row.digest
        writer.add(buffer, VideoRow("pieces", 12, buffer.hexdigest(), "", "other content", "", None, 12, ()))
    features = FeatureSet(folder, spec)
    np.testing.assert_array_equal(features["pieces"], whole)
    np.testing.assert_array_equal(features.timestamps_ms("pieces"), features.timestamps_ms("whole"))


def test_frames_and_videos_larger_than_every_buffer_are_stored_whole(
    tmp_path: Path, make_spec: MakeSpec, fill_set: FillSet
) -> None:
    spec = make_spec(feature_shape=(1100, 1000), dtype="float32")  # 4.4 MB a frame, 13.2 MB the video
    large = np.arange(3 * 1_100_000, dtype=np.float32).reshape(3, 1100, 1000)
    folder = fill_set(tmp_path, spec, {"small": large[:1] + 1, "large": large})
    assert np.array_equal(read(folder, spec)["large"], large)


@pytest.mark.parametrize(("value", "finite"), [(65504, True), (np.inf, False), (np.nan, False)])
def test_a_buffer_notices_what_is_not_finite(tmp_path: Path, value: float, finite: bool) -> None:
    buffer = VideoBuffer(tmp_path)
    buffer.append(np.full((2, 4), value, np.float16), np.zeros(2))
    buffer.append(np.zeros((2, 4), np.float16), np.zeros(2))
    assert buffer.finite is finite
    buffer.close()


@pytest.mark.parametrize("error", [RuntimeError, ValueError, SystemExit, GeneratorExit])
def test_an_exception_seals_nothing_and_leaves_nothing(
    error: type[BaseException], folder: Path, spec: Spec, add_video: AddVideo
) -> None:
    def write() -> None:
        with writer_of(folder, spec) as writer:
            add_video(writer, "v1", frames(3))
            raise error

    with pytest.raises(error):
        write()
    assert [path.name for path in folder.iterdir()] == ["spec.json"]


def test_an_interrupt_seals_the_videos_that_are_complete(folder: Path, spec: Spec, add_video: AddVideo) -> None:
    unfinished = VideoBuffer(folder)

    def write() -> None:
        with writer_of(folder, spec) as writer:
            add_video(writer, "complete", frames(3))
            unfinished.append(frames(1), np.zeros(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    unfinished.close()
    assert videos_per_shard(folder) == [["complete"]]
    assert not list(folder.glob(".*"))


class InterruptedBuffer(VideoBuffer):
    """Ctrl-C comes while the writer takes its timestamps."""

    interrupted = False

    def __getattribute__(self, name: str) -> Any:
        if name == "timestamps_ms" and super().__getattribute__("interrupted"):
            raise KeyboardInterrupt
        return super().__getattribute__(name)


def test_an_interrupt_while_a_video_is_taken_leaves_the_others_readable(
    folder: Path, spec: Spec, add_video: AddVideo
) -> None:
    buffer = InterruptedBuffer(folder)
    buffer.append(frames(2, 50), np.zeros(2))
    buffer.interrupted = True

    def write() -> None:
        with writer_of(folder, spec) as writer:
            row = add_video(writer, "a", frames(3))
            writer.add(buffer, replace(row, video_id="b", length=2))

    with pytest.raises(KeyboardInterrupt):
        write()
    np.testing.assert_array_equal(read(folder, spec)["a"], frames(3))


@pytest.mark.parametrize("published", [False, True])
def test_an_interrupt_while_a_shard_is_sealed_loses_nothing(
    published: bool, folder: Path, spec: Spec, add_video: AddVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(partial: Path, path: Path) -> None:
        monkeypatch.undo()
        if published:
            publish(partial, path)
        raise KeyboardInterrupt

    def write() -> None:
        with writer_of(folder, spec) as writer:
            add_video(writer, "a", frames(3))
            monkeypatch.setattr("framecache.cache.writer.publish", interrupt)
            writer.seal()

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(read(folder, spec)) == ["a"]
    np.testing.assert_array_equal(read(folder, spec)["a"], frames(3))
    assert not list(folder.glob(".*"))


def test_shards_sealed_before_an_exception_stay(folder: Path, spec: Spec, add_video: AddVideo) -> None:
    def write() -> None:
        with writer_of(folder, spec) as writer:
            add_video(writer, "sealed", frames(3))
            writer.seal()
            add_video(writer, "lost", frames(3))
            raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError, match="of the caller"):
        write()
    assert videos_per_shard(folder) == [["sealed"]]


def test_nothing_to_seal_makes_no_shard(folder: Path, spec: Spec) -> None:
    with writer_of(folder, spec, seal_seconds=0) as writer:
        writer.seal()
        writer.seal_if_due()
    assert list_shards(folder) == []


def test_a_shard_is_sealed_when_it_is_large_enough(folder: Path, spec: Spec, add_video: AddVideo) -> None:
    with writer_of(folder, spec, seal_bytes=5 * FRAME_BYTES) as writer:
        add_video(writer, "a", frames(2))
        add_video(writer, "b", frames(2))
        assert videos_per_shard(folder) == []
        add_video(writer, "c", frames(1))
        assert videos_per_shard(folder) == [["a", "b", "c"]]
        add_video(writer, "d", frames(9))
        add_video(writer, "e", frames(1))
    assert videos_per_shard(folder) == [["a", "b", "c"], ["d"], ["e"]]


def test_a_shard_is_sealed_when_its_oldest_video_has_waited_long_enough(
    folder: Path, spec: Spec, add_video: AddVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("framecache.cache.writer.time", SimpleNamespace(monotonic=lambda: now[0]))
    with writer_of(folder, spec, seal_seconds=60) as writer:
        add_video(writer, "a", frames(1))
        now[0] += 50
        add_video(writer, "b", frames(1))
        writer.seal_if_due()
        assert videos_per_shard(folder) == []
        now[0] += 10
        writer.seal_if_due()
        assert videos_per_shard(folder) == [["a", "b"]]
        now[0] += 100
        add_video(writer, "c", frames(1))
        writer.seal_if_due()
        assert videos_per_shard(folder) == [["a", "b"]]


def test_a_new_shard_gets_the_next_number(tmp_path: Path, spec: Spec, fill_set: FillSet) -> None:
    fill_set(tmp_path, spec, {"a": frames(1)})
    folder = fill_set(tmp_path, spec, {"b": frames(1), "c": frames(1)}, seal_bytes=1)
    assert [path.name[:12] for path in list_shards(folder)] == ["shard-000001", "shard-000002", "shard-000003"]
    list_shards(folder)[0].unlink()
    assert writer_of(folder, spec).last_shard == 3


def test_a_failed_seal_leaves_nothing_visible_and_can_be_tried_again(
    folder: Path, spec: Spec, add_video: AddVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with writer_of(folder, spec) as writer:
        add_video(writer, "a", frames(3))
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", disk_full)
            with pytest.raises(OSError, match="No space left"):
                writer.seal()
        assert [path.name for path in folder.iterdir()] == ["spec.json"]
    np.testing.assert_array_equal(read(folder, spec)["a"], frames(3))


def test_videos_added_after_a_failed_seal_overwrite_nothing(
    folder: Path, spec: Spec, add_video: AddVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with writer_of(folder, spec) as writer:
        add_video(writer, "a", frames(3))
        with monkeypatch.context() as patch:
            patch.setattr("framecache.cache.writer.write_shard", disk_full)
            with pytest.raises(OSError, match="No space left"):
                writer.seal()
        add_video(writer, "b", frames(2, 50))
    np.testing.assert_array_equal(read(folder, spec)["a"], frames(3))
    np.testing.assert_array_equal(read(folder, spec)["b"], frames(2, 50))


@pytest.mark.parametrize(("num_frames", "length"), [(0, 0), (2, 3), (3, 2)])
def test_a_video_whose_row_does_not_fit_its_frames_never_hurts_the_others(
    num_frames: int, length: int, folder: Path, spec: Spec, add_video: AddVideo
) -> None:
    with writer_of(folder, spec) as writer:
        add_video(writer, "a", frames(3))
        with suppress(ValueError):
            add_video(writer, "odd", frames(num_frames, 100), length=length)
        add_video(writer, "b", frames(2, 50))
    features = FeatureSet(folder, spec)
    np.testing.assert_array_equal(features["a"], frames(3))
    np.testing.assert_array_equal(features["b"], frames(2, 50))


def test_a_file_is_synced_before_its_name_and_its_folder_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    rename, fsync = os.replace, os.fsync

    def record_fsync(descriptor: int) -> None:
        events.append("sync folder" if S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        fsync(descriptor)

    def record_replace(source: Any, target: Any) -> None:
        events.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    partial = tmp_path / ".a.partial"
    partial.write_text("whole")
    publish(partial, tmp_path / "a")
    assert events == ["sync file", "rename", "sync folder"]
    assert (tmp_path / "a").read_text() == "whole"
    assert not partial.exists()


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
import numpy as np
from framecache.cache import open_cache
from framecache.cache import writer as writing
from framecache.cache.shard import VideoRow

features = open_cache(sys.argv[1])["efficientnet-lite0.gap"]
with writing.ShardWriter(features.folder, features.spec, {}, 1 << 30, 3600) as writer:
    for name in "abc":
        buffer = writer.open_video()
        buffer.append(np.ones((3, 4), np.float16), np.arange(3.0))
        writer.add(buffer, VideoRow(name, 3, buffer.hexdigest(), "", name, "", 3, 3, ()))
        if name == "a":
            writer.seal()
    if sys.argv[2] == "sealing":
        writing.publish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        writer.seal()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["collecting", "sealing"])
def test_a_killed_writer_loses_only_what_was_not_sealed(moment: str, tmp_path: Path, folder: Path, spec: Spec) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(tmp_path), moment], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert videos_per_shard(folder) == [["a"]]
    assert list(open_cache(tmp_path)[spec.name]) == ["a"]
