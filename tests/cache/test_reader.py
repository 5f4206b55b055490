"""Reading: what is read is what was stored, and the later word counts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framecache.cache import FeatureSet, InputError, ShardError, Spec, SpecMismatchError, VideoNotFoundError
from framecache.cache.fingerprint import FeatureDigest
from framecache.cache.ledger import LedgerRow, append_journal
from framecache.cache.manifest import is_plain_name
from framecache.cache.reader import list_shards
from framecache.cache.sealed import SEALED_FILE
from framecache.cache.shard import VideoRow, read_rows
from framecache.cache.store import Cache
from framecache.cache.writer import ShardWriter

from .conftest import reseal

MakeSpec = Callable[..., Spec]
FillSet = Callable[..., Path]
AddVideo = Callable[..., VideoRow]

MAPS = Path("/proc/self/maps")
needs_maps = pytest.mark.skipif(not MAPS.exists(), reason="the system does not list a process's maps")

VIDEO_IDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).filter(is_plain_name)
SHAPES = st.one_of(st.tuples(st.integers(1, 9)), st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5)))
LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=6)


def random_bits(lengths: list[int], spec: Spec, seed: int) -> list[np.ndarray]:
    """Features of any bits at all: also infinities and every kind of NaN."""
    rng = np.random.default_rng(seed)
    itemsize = np.dtype(spec.dtype).itemsize
    return [
        np.frombuffer(rng.bytes(length * int(np.prod(spec.feature_shape)) * itemsize), spec.dtype).reshape(
            length, *spec.feature_shape
        )
        for length in lengths
    ]


def ramp(num_frames: int, first: int = 0) -> np.ndarray:
    """Features ``(num_frames, 4)``, no two numbers equal."""
    return np.arange(first, first + 4 * num_frames, dtype=np.float16).reshape(-1, 4)


@pytest.fixture
def features(tmp_path: Path, spec: Spec, fill_set: FillSet) -> FeatureSet:
    """Three videos of 3, 2 and 5 frames in two shards."""
    fill_set(tmp_path, spec, {"v1": ramp(3), "v2": ramp(2, 100)})
    return FeatureSet(fill_set(tmp_path, spec, {"v3": ramp(5, 200)}), spec)


@settings(max_examples=25)
@given(data=st.data(), shape=SHAPES, dtype=st.sampled_from(["float16", "float32"]), seed=st.integers(0, 2**32 - 1))
def test_every_video_comes_back_bit_for_bit(
    data: st.DataObject,
    shape: tuple[int, ...],
    dtype: str,
    seed: int,
    make_spec: MakeSpec,
    add_video: AddVideo,
) -> None:
    lengths = data.draw(LENGTHS)
    video_ids = data.draw(st.lists(VIDEO_IDS, min_size=len(lengths), max_size=len(lengths), unique=True))
    num_bytes_per_shard = data.draw(st.integers(1, 2000))
    spec = make_spec(feature_shape=shape, dtype=dtype)
    videos = dict(zip(video_ids, random_bits(lengths, spec, seed), strict=True))
    with TemporaryDirectory() as cache_folder:
        folder = Cache(Path(cache_folder)).create(spec)
        with ShardWriter(folder, spec, {}, num_bytes_per_shard, 3600) as writer:
            rows = {video_id: add_video(writer, video_id, array) for video_id, array in videos.items()}
        features = Cache(Path(cache_folder))[spec.name]
        stored = [row for path in list_shards(folder) for row in read_rows(path)]
        assert features.video_ids == tuple(videos)
        assert features.num_frames == sum(lengths)
        assert stored == list(rows.values())
        for video_id, array in videos.items():
            assert features[video_id].dtype == array.dtype
            assert features[video_id].shape == array.shape
            assert features[video_id].tobytes() == array.tobytes()
            assert features.timestamps_ms(video_id).tolist() == [index * 40.0 for index in range(len(array))]
            digest = FeatureDigest()
            digest.update(features[video_id], features.timestamps_ms(video_id))
            assert digest.hexdigest() == rows[video_id].digest


def naive_batch(views: list[np.ndarray], max_len: int | None, shape: tuple[int, ...]) -> np.ndarray:
    cut = [view if max_len is None else view[:max_len] for view in views]
    longest = max((len(view) for view in cut), default=0)
    return np.stack([np.concatenate([view, np.zeros((longest - len(view), *shape), view.dtype)]) for view in cut])


@settings(max_examples=25)
@given(
    lengths=LENGTHS,
    picks=st.lists(st.integers(0, 5), min_size=1, max_size=8),
    max_len=st.none() | st.integers(1, 25),
    shape=SHAPES,
)
def test_a_batch_equals_naive_padding(
    lengths: list[int],
    picks: list[int],
    max_len: int | None,
    shape: tuple[int, ...],
    make_spec: MakeSpec,
    fill_set: FillSet,
) -> None:
    spec = make_spec(feature_shape=shape)
    rng = np.random.default_rng(0)
    videos = {f"v{i}": rng.random((length, *shape)).astype(np.float16) for i, length in enumerate(lengths)}
    with TemporaryDirectory() as cache_folder:
        features = FeatureSet(fill_set(Path(cache_folder), spec, videos), spec)
        video_ids = [f"v{pick % len(lengths)}" for pick in picks]
        batch, batch_lengths = features.batch(video_ids, max_len)
    expected = naive_batch([videos[video_id] for video_id in video_ids], max_len, shape)
    assert batch.dtype == np.float16
    assert batch_lengths.dtype == np.int64
    np.testing.assert_array_equal(batch, expected)
    assert batch_lengths.tolist() == [min(len(videos[v]), max_len or 10**9) for v in video_ids]


def test_a_batch_of_no_videos_is_empty(features: FeatureSet) -> None:
    batch, lengths = features.batch([])
    assert batch.shape == (0, 0, 4)
    assert lengths.shape == (0,)


def test_a_batch_is_a_copy_that_may_be_written(features: FeatureSet) -> None:
    batch, _ = features.batch(["v1"])
    batch[:] = -1
    np.testing.assert_array_equal(features["v1"], ramp(3))


@pytest.mark.parametrize("max_len", [0, -1])
def test_a_batch_of_no_frames_is_refused(max_len: int, features: FeatureSet) -> None:
    with pytest.raises(InputError, match=f"max_len: expected at least 1, found {max_len}"):
        features.batch(["v1"], max_len)


def test_a_feature_set_is_a_mapping(features: FeatureSet) -> None:
    assert isinstance(features, Mapping)
    assert len(features) == 3
    assert list(features) == ["v1", "v2", "v3"] == list(features.video_ids)
    assert "v1" in features
    assert "v4" not in features
    assert features.get("v4") is None
    np.testing.assert_array_equal(dict(features)["v3"], ramp(5, 200))


def test_a_feature_set_says_what_it_is(features: FeatureSet, spec: Spec) -> None:
    assert features.name == spec.name
    assert features.fingerprint == spec.fingerprint
    assert features.feature_shape == (4,)
    assert features.dtype == np.float16
    assert features.num_frames == 10
    assert features.last_shard == 2
    assert [features.length(video_id) for video_id in features] == [3, 2, 5]
    assert features.num_bytes == sum(path.stat().st_size for path in list_shards(features.folder))
    assert repr(features) == f"<FeatureSet {spec.name}: 3 videos, 10 frames × (4) float16>"


def test_a_feature_set_without_shards_is_empty(tmp_path: Path, spec: Spec) -> None:
    features = FeatureSet(Cache(tmp_path).create(spec), spec)
    assert (len(features), features.num_frames, features.num_bytes, features.last_shard) == (0, 0, 0, 0)
    assert features.ledger() == {}


@pytest.mark.parametrize("ask", [FeatureSet.__getitem__, FeatureSet.timestamps_ms, FeatureSet.length])
def test_a_missing_video_is_named_with_the_place_to_look(
    ask: Callable[[FeatureSet, str], object], features: FeatureSet
) -> None:
    with pytest.raises(VideoNotFoundError) as caught:
        ask(features, "v9")
    assert isinstance(caught.value, KeyError)
    assert str(caught.value) == (
        f"{features.name}: no features of video 'v9'; `framecache ledger {features.name}` says why"
    )


def test_a_batch_with_a_missing_video_is_refused(features: FeatureSet) -> None:
    with pytest.raises(VideoNotFoundError, match="no features of video 'v9'"):
        features.batch(["v1", "v9"])


@pytest.mark.parametrize("ask", [FeatureSet.__getitem__, FeatureSet.timestamps_ms])
def test_views_are_read_only(ask: Callable[[FeatureSet, str], np.ndarray], features: FeatureSet) -> None:
    view = ask(features, "v1")
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 7
    with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
        view.flags.writeable = True


@needs_maps
def test_views_are_mapped_and_not_copied(features: FeatureSet) -> None:
    assert np.shares_memory(features["v1"], features["v1"])
    assert type(features["v1"]) is np.ndarray
    assert str(list_shards(features.folder)[0]) in MAPS.read_text()


def test_a_view_outlives_its_shard(features: FeatureSet) -> None:
    view, times = features["v1"], features.timestamps_ms("v1")
    shutil.rmtree(features.folder)
    np.testing.assert_array_equal(view, ramp(3))
    np.testing.assert_array_equal(features["v2"], ramp(2, 100))
    assert times.tolist() == [0, 40, 80]


def test_a_view_outlives_its_feature_set(tmp_path: Path, spec: Spec, fill_set: FillSet) -> None:
    view = FeatureSet(fill_set(tmp_path, spec, {"v1": ramp(3)}), spec)["v1"]
    np.testing.assert_array_equal(view, ramp(3))


@needs_maps
def test_open_maps_are_bounded_and_views_in_use_stay_valid(
    tmp_path: Path, spec: Spec, fill_set: FillSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("framecache.cache.maps._MAX_OPEN_MAPS", 3)
    videos = {f"v{i}": ramp(2, 10 * i) for i in range(12)}
    features = FeatureSet(fill_set(tmp_path, spec, videos, seal_bytes=1), spec)
    kept = features["v0"]
    for video_id in features:
        assert features[video_id].sum() == videos[video_id].sum()
    maps = [line for line in MAPS.read_text().splitlines() if str(tmp_path) in line]
    assert len(maps) <= 3 + 1
    np.testing.assert_array_equal(kept, ramp(2))


@needs_maps
def test_opening_maps_nothing_and_sees_one_moment(
    features: FeatureSet, tmp_path: Path, spec: Spec, fill_set: FillSet
) -> None:
    assert str(tmp_path) not in MAPS.read_text()
    fill_set(tmp_path, spec, {"v4": ramp(1)})
    assert "v4" not in features
    assert "v4" in FeatureSet(features.folder, spec)


def test_a_later_shard_wins(features: FeatureSet, tmp_path: Path, spec: Spec, fill_set: FillSet) -> None:
    fill_set(tmp_path, spec, {"v1": ramp(6, 300)})
    again = FeatureSet(features.folder, spec)
    assert len(again) == 3
    np.testing.assert_array_equal(again["v1"], ramp(6, 300))
    assert again.length("v1") == 6
    assert again.num_frames == 6 + 2 + 5
    assert again.ledger()["v1"].frames_stored == 6


def test_later_means_the_number_and_not_the_spelling(tmp_path: Path, spec: Spec, fill_set: FillSet) -> None:
    folder = fill_set(tmp_path, spec, {"v1": ramp(1)})
    (folder / SEALED_FILE).unlink()
    reseal(list_shards(folder)[0].rename(folder / "shard-999999-ffffffff.h5"))
    fill_set(tmp_path, spec, {"v1": ramp(2)})
    assert list_shards(folder)[1].name.startswith("shard-1000000-")
    assert FeatureSet(folder, spec).length("v1") == 2


def test_two_shards_of_one_number_are_not_mixed_up(tmp_path: Path, spec: Spec, fill_set: FillSet) -> None:
    # Two machines that cannot see each other's files may both write shard 1.
    here = fill_set(tmp_path / "here", spec, {"v1": ramp(3)})
    there = fill_set(tmp_path / "there", spec, {"v2": ramp(5, 100)})
    shutil.copy(list_shards(there)[0], here)
    features = FeatureSet(here, spec)
    np.testing.assert_array_equal(features["v1"], ramp(3))
    np.testing.assert_array_equal(features["v2"], ramp(5, 100))


def test_what_is_not_a_sealed_shard_is_passed_over(features: FeatureSet, spec: Spec) -> None:
    name = list_shards(features.folder)[0].name
    for other in (f".{name}.partial", f"{name}.bak", "notes.h5", "shard.h5"):
        (features.folder / other).write_bytes(b"half a shard")
    assert len(FeatureSet(features.folder, spec)) == 3


def test_a_damaged_shard_is_refused_by_name(features: FeatureSet, spec: Spec) -> None:
    path = list_shards(features.folder)[1]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ShardError, match=f"{path}: not a whole, readable shard of format version 1"):
        FeatureSet(features.folder, spec)


def test_a_shard_of_another_spec_is_refused_with_the_difference(
    tmp_path: Path, make_spec: MakeSpec, fill_set: FillSet
) -> None:
    four, eight = make_spec(sampling="fps=4"), make_spec(sampling="fps=8")
    folder = fill_set(tmp_path, four, {"v1": ramp(1)})
    stray = list_shards(fill_set(tmp_path, eight, {"v2": ramp(1)}))[0]
    stray = stray.rename(folder / stray.name.replace("000001", "000002"))
    reseal(stray)
    with pytest.raises(SpecMismatchError) as caught:
        FeatureSet(folder, four)
    assert str(caught.value) == (
        f"{stray}: made under another spec (sampling: fps=4 → fps=8); "
        f"use the feature set {eight.name}, or extract again"
    )


def test_content_is_found_under_the_name_that_holds_it(features: FeatureSet) -> None:
    assert features.video_with_content("content of v2") == "v2"
    assert features.video_with_content("content of v9") is None
    assert features.video_with_content("") is None


def test_a_duplicate_has_the_features_of_its_content(features: FeatureSet, spec: Spec) -> None:
    row = LedgerRow("copy", "copy.mp4", "duplicate", "same content as v2", source_digest="content of v2")
    append_journal(features.folder, 2, [row])
    again = FeatureSet(features.folder, spec)
    np.testing.assert_array_equal(again["copy"], ramp(2, 100))
    assert again.timestamps_ms("copy").tolist() == [0, 40]
    assert len(again) == 4
    assert again.num_frames == 10  # counted once
    assert again.video_with_content("content of v2") == "v2"


def test_a_duplicate_whose_content_is_not_stored_has_no_features(features: FeatureSet, spec: Spec) -> None:
    row = LedgerRow("copy", "copy.mp4", "duplicate", "same content as v9", source_digest="content of v9")
    append_journal(features.folder, 2, [row])
    with pytest.raises(VideoNotFoundError, match="no features of video 'copy'"):
        FeatureSet(features.folder, spec)["copy"]


def test_a_duplicate_keeps_its_features_when_the_original_name_gets_other_content(
    tmp_path: Path, spec: Spec, fill_set: FillSet, add_video: AddVideo
) -> None:
    folder = fill_set(tmp_path, spec, {"v1": ramp(3)})
    append_journal(folder, 1, [LedgerRow("copy", "copy.mp4", "duplicate", source_digest="content of v1")])
    with ShardWriter(folder, spec, {}, 1 << 30, 3600) as writer:
        add_video(writer, "v1", ramp(2, 500), source_digest="new content")
    features = FeatureSet(folder, spec)
    np.testing.assert_array_equal(features["copy"], ramp(3))
    np.testing.assert_array_equal(features["v1"], ramp(2, 500))


def test_contents_without_a_digest_are_nobodys_duplicate(tmp_path: Path, spec: Spec, add_video: AddVideo) -> None:
    folder = Cache(tmp_path).create(spec)
    with ShardWriter(folder, spec, {}, 1 << 30, 3600) as writer:
        add_video(writer, "v1", ramp(3), source_digest="")
    append_journal(folder, 1, [LedgerRow("copy", "copy.mp4", "duplicate", source_digest="")])
    features = FeatureSet(folder, spec)
    assert features.video_with_content("") is None
    assert "copy" not in features


@needs_maps
@pytest.mark.parametrize("num_frames", [1, 2, 3, 5, 6])
def test_a_pass_reads_the_same_and_maps_nothing(num_frames: int, features: FeatureSet, tmp_path: Path) -> None:
    blocks = list(features.read("v3", num_frames))
    assert str(tmp_path) not in MAPS.read_text()
    assert [len(rows) for rows, _ in blocks[:-1]] == [num_frames] * (len(blocks) - 1)
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in blocks]), ramp(5, 200))
    assert np.concatenate([times for _, times in blocks]).tolist() == [0, 40, 80, 120, 160]


def test_a_pass_over_a_video_that_is_not_there_names_it(features: FeatureSet) -> None:
    with pytest.raises(VideoNotFoundError, match="no features of video 'v9'"):
        next(features.read("v9", 1))


@needs_maps
def test_open_maps_of_all_sets_together_are_bounded(
    tmp_path: Path, make_spec: MakeSpec, fill_set: FillSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("framecache.cache.maps._MAX_OPEN_MAPS", 4)
    specs = [make_spec(sampling=f"fps={fps}") for fps in (1, 2, 3)]
    videos = {f"v{i}": ramp(2, 10 * i) for i in range(3)}
    sets = [FeatureSet(fill_set(tmp_path, spec, videos, seal_bytes=1), spec) for spec in specs]
    for features in sets * 2:
        for video_id in features:
            np.testing.assert_array_equal(features[video_id], videos[video_id])
    assert len([line for line in MAPS.read_text().splitlines() if str(tmp_path) in line]) <= 4


@pytest.mark.parametrize("video_id", ["\ud800", "v1\0", "", "V1"])
def test_names_that_nothing_can_have_are_not_found(video_id: str, features: FeatureSet) -> None:
    assert video_id not in features
    assert features.get(video_id) is None
    assert 5 not in features
