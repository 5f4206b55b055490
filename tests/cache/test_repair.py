"""repair moves hurt shards aside: what was whole in them stays, what was hurt is to be computed again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from framecache.cache import FeatureSet, InputError, Spec
from framecache.cache.__main__ import app
from framecache.cache.cli import run
from framecache.cache.ledger import LedgerRow, append_journal
from framecache.cache.reader import list_shards
from framecache.cache.shard import VideoRow, read_shard
from framecache.cache.verify import HURT_FOLDER, repair, verify
from framecache.cache.writer import ShardWriter

from .child_here import ChildHere

FillSet = Callable[..., Path]
AddVideo = Callable[..., VideoRow]


@pytest.fixture(autouse=True)
def examine_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framecache.cache.verify.Child", ChildHere)


def ramp(num_frames: int, first: float = 0) -> np.ndarray:
    return np.arange(first, first + 4 * num_frames, dtype=np.float16).reshape(-1, 4)


FIRST = {"a": ramp(3), "b": ramp(2, 100), "c": ramp(4, 200)}
SECOND = {"d": ramp(2, 300), "e": ramp(1, 400)}


@pytest.fixture
def folder(tmp_path: Path, spec: Spec, fill_set: FillSet) -> Path:
    """Two shards, of ``a b c`` and ``d e``."""
    fill_set(tmp_path / "features", spec, FIRST)
    return fill_set(tmp_path / "features", spec, SECOND)


def hurt_video(path: Path, *video_ids: str) -> None:
    """Flips the first bit of the features of each."""
    info = read_shard(path)
    data = bytearray(path.read_bytes())
    for row, raw in enumerate(info.index["video_id"].tolist()):
        if raw.decode() in video_ids:
            frame_bytes = info.features.num_bytes // info.features.shape[0]
            data[info.features.offset + int(info.index["start"][row]) * frame_bytes] ^= 1
    path.write_bytes(data)


def make_unreadable(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def contents(folder: Path, spec: Spec) -> dict[str, list[list[float]]]:
    return {video_id: view.tolist() for video_id, view in FeatureSet(folder, spec).items()}


def expected(**videos: np.ndarray) -> dict[str, list[list[float]]]:
    return {video_id: features.tolist() for video_id, features in videos.items()}


def test_a_whole_set_is_left_as_it_is(folder: Path, spec: Spec) -> None:
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    assert not repair(folder, spec).repaired
    assert sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir()) == before


def test_the_whole_videos_of_a_hurt_shard_stay_with_their_bytes_and_rows(folder: Path, spec: Spec) -> None:
    path = list_shards(folder)[0]
    before = FeatureSet(folder, spec)
    rows, times, software = before.ledger(), before.timestamps_ms("c").tolist(), before.shards[0].software
    hurt_video(path, "b")
    result = repair(folder, spec)
    assert (result.hurt, result.repaired, set(result.errors)) == (["b"], True, {path.name})
    after = FeatureSet(folder, spec)
    assert contents(folder, spec) == expected(a=FIRST["a"], c=FIRST["c"], **SECOND)
    assert after.timestamps_ms("c").tolist() == times
    assert {video_id: row for video_id, row in after.ledger().items() if video_id != "b"} == {
        video_id: row for video_id, row in rows.items() if video_id != "b"
    }
    assert all(info.software == software for info in after.shards)
    assert after.ledger()["b"].status == "failed"
    assert after.ledger()["b"].source == "videos/b"
    assert after.ledger()["b"].source_digest == ""  # so that the next extraction tries it unasked
    assert [moved.name for moved in (folder / HURT_FOLDER).iterdir()] == [path.name]
    assert verify(folder, spec).ok
    assert not repair(folder, spec).repaired


@pytest.mark.parametrize("damage", [make_unreadable, os.unlink], ids=["unreadable", "missing"])
def test_the_videos_of_a_lost_shard_are_known_from_the_record(
    damage: Callable[[Path], None], folder: Path, spec: Spec
) -> None:
    path = list_shards(folder)[0]
    damage(path)
    result = repair(folder, spec)
    assert result.hurt == ["a", "b", "c"]
    assert contents(folder, spec) == expected(**SECOND)
    statuses = {video_id: row.status for video_id, row in FeatureSet(folder, spec).ledger().items()}
    assert statuses == {**dict.fromkeys("abc", "failed"), **dict.fromkeys("de", "ok")}
    assert verify(folder, spec).ok


@pytest.mark.parametrize("damage", [make_unreadable, lambda path: hurt_video(path, "d", "e"), os.unlink])
def test_what_is_computed_after_the_newest_shard_was_lost_counts(
    damage: Callable[[Path], None], folder: Path, spec: Spec, fill_set: FillSet
) -> None:
    """The number of the lost shard is not given again: its successor comes after the ledger's lines about it."""
    damage(list_shards(folder)[1])
    repair(folder, spec)
    features = FeatureSet(folder, spec)
    append_journal(folder, features.last_shard, [LedgerRow("e", "e", "duplicate", source_digest="content of a")])
    fill_set(folder.parent, spec, {"d": SECOND["d"]})
    assert contents(folder, spec) == expected(**FIRST, d=SECOND["d"], e=FIRST["a"])


def test_no_older_features_of_a_hurt_video_come_to_light(folder: Path, spec: Spec, fill_set: FillSet) -> None:
    fill_set(folder.parent, spec, {"a": ramp(5, 500), "x": ramp(1, 600)})
    hurt_video(list_shards(folder)[2], "a")
    assert repair(folder, spec).hurt == ["a"]
    assert contents(folder, spec) == expected(b=FIRST["b"], c=FIRST["c"], **SECOND, x=ramp(1, 600))


def test_a_newer_row_in_a_whole_shard_stays(folder: Path, spec: Spec, fill_set: FillSet) -> None:
    fill_set(folder.parent, spec, {"a": ramp(5, 500)})
    append_journal(folder, 3, [LedgerRow("c", "c", "failed", "gone", source_digest="other")])
    hurt_video(list_shards(folder)[0], "a", "b", "c")
    result = repair(folder, spec)
    assert result.hurt == ["b"]
    assert contents(folder, spec) == expected(a=ramp(5, 500), **SECOND)
    assert FeatureSet(folder, spec).ledger()["c"].reason == "gone"


def test_a_duplicate_of_a_whole_original_keeps_its_features(folder: Path, spec: Spec, add_video: AddVideo) -> None:
    """Also where the original's name has other features by now, and a hurt row bears the duplicate's own name."""
    append_journal(folder, 2, [LedgerRow("b", "b", "duplicate", source_digest="content of a")])
    with ShardWriter(folder, spec, {}, 1 << 30, 3600) as writer:
        add_video(writer, "a", ramp(2, 700), source_digest="new content")
    hurt_video(list_shards(folder)[0], "b")  # what b was before it became a copy of what a was
    assert repair(folder, spec).hurt == []
    assert contents(folder, spec) == expected(a=ramp(2, 700), b=FIRST["a"], c=FIRST["c"], **SECOND)


def test_a_duplicate_of_a_hurt_original_has_no_features_until_it_is_computed_again(
    folder: Path, spec: Spec, fill_set: FillSet
) -> None:
    append_journal(folder, 2, [LedgerRow("copy", "copy", "duplicate", source_digest="content of a")])
    hurt_video(list_shards(folder)[0], "a")
    assert repair(folder, spec).hurt == ["a", "copy"]
    assert not {"a", "copy"} & FeatureSet(folder, spec).keys()
    fill_set(folder.parent, spec, {"a": FIRST["a"]})
    assert contents(folder, spec) == expected(**FIRST, **SECOND, copy=FIRST["a"])


def test_a_foreign_shard_is_moved_aside_and_costs_nothing(
    folder: Path, make_spec: Callable[..., Spec], spec: Spec, fill_set: FillSet
) -> None:
    (theirs,) = list_shards(fill_set(folder.parent, make_spec(sampling="fps=8"), {"a": ramp(3, 900)}))
    shutil.copy(theirs, folder / theirs.name.replace("000001", "000009"))
    shutil.copy(theirs, folder)
    assert run(app, ["verify", "--repair", spec.name, "--cache", str(folder.parent)]) == 1
    assert contents(folder, spec) == expected(**FIRST, **SECOND)
    assert set(FeatureSet(folder, spec).ledger()) == {*FIRST, *SECOND}


def test_a_link_in_the_place_of_the_folder_for_hurt_shards_is_refused(folder: Path, spec: Spec, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / HURT_FOLDER).symlink_to(elsewhere)
    hurt_video(list_shards(folder)[0], "a")
    with pytest.raises(InputError, match=f"{HURT_FOLDER}: is a link"):
        repair(folder, spec)
    assert list(elsewhere.iterdir()) == []


def test_a_link_in_the_place_of_a_shard_is_moved_and_what_it_leads_to_stays(
    folder: Path, spec: Spec, tmp_path: Path
) -> None:
    path = list_shards(folder)[0]
    kept = path.rename(tmp_path / path.name)
    path.symlink_to(kept)
    assert repair(folder, spec).hurt == ["a", "b", "c"]
    assert (folder / HURT_FOLDER / path.name).is_symlink()
    assert kept.is_file()
    assert contents(folder, spec) == expected(**SECOND)


def test_the_command_says_what_to_do_next(folder: Path, spec: Spec, capsys: pytest.CaptureFixture[str]) -> None:
    hurt_video(list_shards(folder)[0], "b")
    cache = ["--cache", str(folder.parent)]
    assert run(app, ["verify", *cache]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{spec.name}: HURT, 5 videos in 2 shards"
    assert lines[-2:] == ["hurt video: b", f"framecache verify {spec.name} --repair moves the hurt shards aside"]
    assert run(app, ["verify", "--repair", *cache]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == (
        "moved aside; run the same extraction again: it computes exactly these videos"
    )
    assert run(app, ["verify", "--repair", *cache]) == 0
