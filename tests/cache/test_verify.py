"""verify finds any flipped bit, any cut and any swap, and names the videos that they hurt."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from framecache.cache import FeatureSet, ShardError, Spec
from framecache.cache.ledger import LedgerRow, append_journal
from framecache.cache.reader import list_shards
from framecache.cache.sealed import SEALED_FILE
from framecache.cache.shard import Extent, read_shard
from framecache.cache.verify import Verification, verify
from framecache.cache.verify_worker import examine
from framecache.cache.writer import ShardWriter

from .child_here import ChildHere
from .conftest import reseal
from .flips import flip, flip_bits, random_flips

FillSet = Callable[..., Path]


@pytest.fixture(autouse=True)
def examine_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framecache.cache.verify.Child", ChildHere)


def examined(path: Path, spec: Spec) -> dict[str, object]:
    """What verify's child would say, without the child."""
    *_, answer = examine(json.dumps({"path": str(path), "spec": spec.to_dict()}).encode())
    found: dict[str, object] = json.loads(answer)
    return found


def test_untouched_features_are_ok(folder: Path, spec: Spec) -> None:
    sizes: list[int] = []
    assert verify(folder, spec, sizes.append) == Verification(spec.name, shards=1, videos=2)
    assert sizes == [path.stat().st_size for path in list_shards(folder)]


def test_an_empty_set_is_ok(tmp_path: Path, spec: Spec, fill_set: FillSet) -> None:
    assert verify(fill_set(tmp_path, spec, {}), spec).ok


@pytest.mark.parametrize("array", ["features", "timestamps_ms"])
def test_a_flipped_bit_of_the_data_hurts_the_video_it_is_in(array: str, folder: Path, spec: Spec) -> None:
    (path,) = list_shards(folder)
    extent: Extent = getattr(read_shard(path), array)
    frame_bytes = extent.num_bytes // 8
    for byte in range(extent.num_bytes):
        flip(path, extent.offset + byte, byte % 8)
        found = examined(path, spec)
        flip(path, extent.offset + byte, byte % 8)
        assert (found["hurt"], found["error"]) == (["a"] if byte // frame_bytes < 3 else ["b"], None)


def test_any_flipped_bit_is_found_or_changes_nothing_that_is_read(
    tmp_path: Path, spec: Spec, fill_set: FillSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    videos = {f"class/{'long-' * number}video.mp4": rng.normal(size=(3 + number, 4)) for number in range(6)}
    (path,) = list_shards(fill_set(tmp_path, spec, videos))
    ends = flip_bits(path, spec, random_flips(path, 300, seed=0), tmp_path, monkeypatch)  # make soak flips more
    assert ends["something"] == []
    assert len(ends["detected"]) > 75
    assert len(ends["nothing"]) > 15  # padding; otherwise the comparison above would prove little


def test_a_shard_cut_at_any_length_is_found(tmp_path: Path, folder: Path, spec: Spec) -> None:
    (path,) = list_shards(folder)
    whole = path.read_bytes()
    unnoticed = []
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        found = examined(path, spec)
        if not found["error"]:
            unnoticed.append(length)
        with pytest.raises(ShardError):  # the cheap check at opening suffices
            FeatureSet(folder, spec)
    assert unnoticed == []


def test_a_shard_that_cannot_be_read_is_an_error_with_its_path(folder: Path, spec: Spec) -> None:
    (path,) = list_shards(folder)
    path.write_bytes(path.read_bytes()[:-9])
    result = verify(folder, spec)
    assert not result.ok
    assert str(path) in result.errors[path.name]
    assert result.hurt == ["a", "b"]


def test_a_missing_shard_is_named_with_its_videos(two_shards: tuple[Path, Path], folder: Path, spec: Spec) -> None:
    two_shards[0].unlink()
    result = verify(folder, spec)
    assert result.errors == {two_shards[0].name: f"{two_shards[0]}: the shard is missing, and with it 2 videos"}
    assert result.hurt == ["a", "b"]
    with pytest.raises(ShardError, match=r"1 of its shards are missing .*verify --repair and extract again"):
        FeatureSet(folder, spec)


def test_without_its_record_a_set_is_read_as_before(two_shards: tuple[Path, Path], folder: Path, spec: Spec) -> None:
    (folder / SEALED_FILE).unlink()
    assert verify(folder, spec).ok
    assert set(FeatureSet(folder, spec)) == {"a", "b", "c", "d"}


def test_a_swapped_pair_hurts_both(two_shards: tuple[Path, Path], folder: Path, spec: Spec) -> None:
    first, second = two_shards
    first.rename(folder / "aside")
    second.rename(first)
    (folder / "aside").rename(second)
    result = verify(folder, spec)
    assert sorted(result.hurt) == ["a", "b", "c", "d"]
    assert f"sealed as {second.name}; was it renamed or copied?" in result.errors[first.name]
    with pytest.raises(ShardError, match="renamed or copied"):
        FeatureSet(folder, spec)


def test_swapped_contents_of_another_set_hurt_both(
    tmp_path: Path, folder: Path, make_spec: Callable[..., Spec], fill_set: FillSet, spec: Spec
) -> None:
    """Two shards of two feature sets exchange places, and get names that fit."""
    other = make_spec(reduction="gmp")
    (ours,), (theirs,) = list_shards(folder), list_shards(fill_set(folder.parent, other, {"a": np.ones((3, 4))}))
    kept = ours.read_bytes()
    shutil.copy(theirs, ours)
    theirs.write_bytes(kept)
    for path in (ours, theirs):
        reseal(path)
    result = verify(folder, spec)
    assert result.hurt == ["a", "b"]
    assert "made under another spec (reduction: gap → gmp)" in result.errors[ours.name]
    assert verify(theirs.parent, other).hurt == ["a"]


def test_a_renamed_shard_is_both_missing_and_misnamed(folder: Path, spec: Spec) -> None:
    (path,) = list_shards(folder)
    renamed = path.rename(folder / "shard-000009-00000000.h5")
    result = verify(folder, spec)
    assert set(result.errors) == {path.name, renamed.name}
    assert result.hurt == ["a", "b"]


def test_a_copy_of_a_shard_hurts_no_video(folder: Path, spec: Spec) -> None:
    (path,) = list_shards(folder)
    copy = Path(shutil.copy(path, folder / "shard-000009-00000000.h5"))
    result = verify(folder, spec)
    assert (set(result.errors), result.hurt) == ({copy.name}, [])


def test_a_shard_of_another_set_hurts_none_of_ours(
    folder: Path, spec: Spec, make_spec: Callable[..., Spec], fill_set: FillSet
) -> None:
    foreign = make_spec(sampling="fps=8")
    (theirs,) = list_shards(fill_set(folder.parent, foreign, {"a": np.ones((3, 4)), "x": np.ones((3, 4))}))
    shutil.copy(theirs, folder / theirs.name)
    result = verify(folder, spec)
    assert set(result.errors) == {theirs.name}
    assert "sampling: all → fps=8" in result.errors[theirs.name]
    assert result.hurt == []


def test_a_shard_of_the_same_set_from_another_cache_is_taken_in(
    tmp_path: Path, folder: Path, spec: Spec, fill_set: FillSet
) -> None:
    (theirs,) = list_shards(fill_set(tmp_path / "other", spec, {"x": np.ones((3, 4))}))
    shutil.copy(theirs, folder)
    assert verify(folder, spec).ok
    assert set(FeatureSet(folder, spec)) == {"a", "b", "x"}


def test_what_was_computed_again_since_hurts_nobody(folder: Path, spec: Spec, fill_set: FillSet) -> None:
    first = list_shards(folder)[0]
    fill_set(folder.parent, spec, {"a": np.ones((2, 4))})
    append_journal(folder, 2, [LedgerRow("b", "b.mp4", "duplicate", source_digest="content of a")])
    for damage in (lambda: flip(first, read_shard(first).features.offset), lambda: os.truncate(first, 1000)):
        damage()
        result = verify(folder, spec)
        assert set(result.errors) == {first.name}
        assert result.hurt == []


def test_a_hurt_original_that_only_a_duplicate_uses_hurts_the_duplicate(
    folder: Path, spec: Spec, add_video: Callable[..., object]
) -> None:
    (path,) = list_shards(folder)
    append_journal(folder, 1, [LedgerRow("copy", "copy.mp4", "duplicate", source_digest="content of a")])
    with ShardWriter(folder, spec, {}, 1 << 30, 3600) as writer:
        add_video(writer, "a", np.ones((2, 4)), source_digest="new content")
    flip(path, read_shard(path).features.offset)
    assert verify(folder, spec).hurt == ["copy"]


def test_a_shard_that_is_no_file_is_hurt(folder: Path, spec: Spec) -> None:
    pipe, link, place = (folder / f"shard-00000{number}-00000000.h5" for number in (7, 8, 9))
    os.mkfifo(pipe)
    link.symlink_to(folder / "nowhere")
    place.mkdir()
    result = verify(folder, spec)
    assert set(result.errors) == {pipe.name, link.name, place.name}
    assert all("not a file" in error for error in result.errors.values())


def test_a_shard_of_many_short_videos_gives_signs_of_life(
    tmp_path: Path, spec: Spec, fill_set: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("framecache.cache.verify_worker._PULSE_SECONDS", 0.0)
    (path,) = list_shards(fill_set(tmp_path, spec, {f"v{number}": np.ones((1, 4)) for number in range(50)}))
    *pulses, last = examine(json.dumps({"path": str(path), "spec": spec.to_dict()}).encode())
    assert pulses == [b"{}"] * 50
    assert json.loads(last)["error"] is None
