"""derive: what each step computes, what it may be fitted on, and that it is a feature set like any other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from framecache.cache import FeatureSet, InputError, ShardError, Spec, open_cache
from framecache.cache import parents as parents_module
from framecache.cache.__main__ import app
from framecache.cache.cli import run
from framecache.cache.derivation import ARRAYS_FILE, read_derivation
from framecache.cache.derive import DeriveConfig, DeriveReport, derive
from framecache.cache.fitting import Moments
from framecache.cache.ledger import LedgerRow, append_journal
from framecache.cache.manifest import read_manifest
from framecache.cache.reader import list_shards
from framecache.cache.reductions import random_matrix
from framecache.cache.sampling import parse_sampling
from framecache.cache.verify import verify
from framecache.cache.writer import ShardWriter

MakeSpec = Callable[..., Spec]
FillSet = Callable[..., Path]
Arrays = dict[str, NDArray[Any]]
DIM = 12
SPLITS = {**{f"train{n}": "train" for n in range(8)}, "val0": "val", "test0": "test", "test1": "test"}


def make_videos(dim: int = DIM, seed: int = 0, dtype: str = "float32") -> Arrays:
    """Correlated features of videos of 5 to 14 frames; those of val and test are far from those of train."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dim, dim)) * np.linspace(3, 0.3, dim)[:, None]
    videos = {}
    for name, split in SPLITS.items():
        rows = rng.normal(size=(int(rng.integers(5, 15)), dim)) @ mixing + np.arange(dim)
        videos[name] = (rows if split == "train" else 50 - 9 * rows).astype(dtype)
    return videos


def write_manifest(path: Path, splits: Mapping[str, str]) -> Path:
    path.write_text("path,split\n" + "".join(f"{name},{split}\n" for name, split in splits.items()))
    return path


class Workplace:
    """A cache with the set ``efficientnet-lite0.gap`` of :func:`make_videos`, and a manifest."""

    def __init__(self, folder: Path, make_spec: MakeSpec, fill_set: FillSet) -> None:
        folder.mkdir(exist_ok=True)
        self.cache = folder / "features"
        self.make_spec, self.fill_set = make_spec, fill_set
        self.spec = make_spec(feature_shape=(DIM,), dtype="float32")
        self.videos = make_videos()
        self.folder = fill_set(self.cache, self.spec, self.videos)
        self.manifest = write_manifest(folder / "manifest.csv", SPLITS)

    @property
    def parent(self) -> FeatureSet:
        return self[self.spec.name]

    def __getitem__(self, name: str) -> FeatureSet:
        return open_cache(self.cache)[name]

    def rows(self, split: str) -> NDArray[Any]:
        return np.concatenate([self.videos[name] for name in self.videos if SPLITS[name] == split])

    def derive(self, name: str | None = None, fitted: bool = True, **options: Any) -> DeriveReport:
        if fitted:
            options.setdefault("manifest", self.manifest)
        return derive(name or self.spec.name, DeriveConfig(cache=self.cache, **options))

    def derived(self, name: str | None = None, fitted: bool = True, **options: Any) -> FeatureSet:
        return self[self.derive(name, fitted, **options).feature_set]

    def command(self, *words: object) -> int:
        return run(app, ["derive", *map(str, words), "--cache", str(self.cache)])

    def sets(self) -> list[str]:
        return sorted(path.name for path in self.cache.iterdir() if not path.name.startswith("."))


@pytest.fixture
def place(tmp_path: Path, make_spec: MakeSpec, fill_set: FillSet) -> Workplace:
    return Workplace(tmp_path, make_spec, fill_set)


def arrays_of(features: FeatureSet) -> Mapping[str, NDArray[Any]]:
    return read_derivation(features.folder, features.spec.lineage or {}).arrays


def digests(features: FeatureSet) -> dict[str, str]:
    return {video_id: row.feature_digest for video_id, row in features.ledger().items()}


# Steps


@dataclass(frozen=True)
class Svd:
    """Singular value decomposition of centred rows: what a PCA is by its definition."""

    mean: NDArray[np.float64]
    scales: NDArray[np.float64]
    components: NDArray[np.float64]  # in rows
    num_rows: int

    @classmethod
    def of(cls, rows: NDArray[Any]) -> Svd:
        mean = rows.mean(axis=0, dtype=np.float64)
        _, scales, components = np.linalg.svd(rows - mean, full_matrices=False)
        return cls(mean, scales, components, len(rows))

    @property
    def explained(self) -> NDArray[np.float64]:
        """The share of the variance, by component."""
        return self.scales**2 / (self.scales**2).sum()

    @property
    def deviations(self) -> NDArray[np.float64]:
        """Of the unbiased covariance, by component."""
        return self.scales / np.sqrt(self.num_rows - 1)


@pytest.mark.parametrize("whiten", [False, True])
def test_pca_is_the_singular_value_decomposition_of_the_centred_train_rows(place: Workplace, whiten: bool) -> None:
    report = place.derive(pca=5, whiten=whiten)
    svd = Svd.of(place.rows("train"))
    assert report.explained_variance == pytest.approx(svd.explained[:5].sum(), rel=1e-6)
    assert (report.fitted_videos, report.derived, report.num_frames) == (8, 11, sum(map(len, place.videos.values())))
    features = place[report.feature_set]
    np.testing.assert_allclose(arrays_of(features)["0.explained"], svd.explained[:5], rtol=1e-6)
    components = svd.components[:5]
    signs = np.sign(components[np.arange(5), np.abs(components).argmax(axis=1)])
    for name, rows in place.videos.items():  # val and test are projected too
        projected = (rows - svd.mean) @ components.T * signs / (svd.deviations[:5] if whiten else 1)
        np.testing.assert_allclose(features[name], projected, rtol=2e-4, atol=2e-4)
        np.testing.assert_array_equal(features.timestamps_ms(name), np.arange(len(rows)) * 40.0)


def test_whitened_train_rows_have_unit_covariance(place: Workplace) -> None:
    features = place.derived(pca=DIM, whiten=True)
    rows = np.concatenate([features[name] for name in place.videos if SPLITS[name] == "train"])
    np.testing.assert_allclose(np.cov(rows.T), np.eye(DIM), atol=1e-3)


def test_many_small_blocks_give_what_one_does(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {"pca": 5, "whiten": True, "dtype": "uint8"}
    whole = place.derived(**steps)
    monkeypatch.setattr(parents_module, "_BLOCK_BYTES", 3 * DIM * 4)
    monkeypatch.setattr("framecache.cache.fitting._BLOCK_NUMBERS", 7 * DIM)
    other = Workplace(place.cache.parent / "other", place.make_spec, place.fill_set)
    pieces = other.derived(**steps)
    np.testing.assert_allclose(arrays_of(pieces)["0.matrix"], arrays_of(whole)["0.matrix"], rtol=1e-4, atol=1e-5)
    for name in place.videos:
        np.testing.assert_allclose(pieces[name], whole[name], atol=1.01 * 4 / 255)


def test_no_block_is_larger_than_its_limit(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parents_module, "_BLOCK_BYTES", 3 * DIM * 4)
    sizes = [len(rows) for rows in parents_module.Parents([place.parent]).blocks("train0")]
    assert sum(sizes) == len(place.videos["train0"])
    assert max(sizes) == 3


def test_a_large_mean_costs_no_precision() -> None:
    rows = np.random.default_rng(0).normal(size=(4000, 6)).astype(np.float32) * np.arange(1, 7, dtype=np.float32)
    far = (rows.astype(np.float64) + 30_000).astype(np.float32)
    moments = Moments(6)
    for begin in range(0, 4000, 37):
        moments.add(far[begin : begin + 37])
    found = moments.fit_pca(6, whiten=False)
    svd = Svd.of(far)
    np.testing.assert_allclose(found["explained"], svd.explained, rtol=1e-9)
    np.testing.assert_allclose(np.abs(found["matrix"].T @ svd.components.T), np.eye(6), atol=1e-5)


def test_random_projection_keeps_distances_within_the_bound(
    tmp_path: Path, make_spec: MakeSpec, fill_set: FillSet
) -> None:
    num, error = 60, 0.5
    dim = int(np.ceil(4 * np.log(num) / (error**2 / 2 - error**3 / 3)))  # Dasgupta and Gupta 2003
    rows = np.random.default_rng(1).normal(size=(num, 1000)).astype(np.float32)
    spec = make_spec(feature_shape=(1000,), dtype="float32")
    fill_set(tmp_path, spec, {"v": rows})
    report = derive(spec.name, DeriveConfig(cache=tmp_path, random=dim, seed=3))
    features = open_cache(tmp_path)[report.feature_set]
    assert f".gap.random={dim},seed=3-" in report.feature_set
    np.testing.assert_allclose(features["v"], rows @ random_matrix(1000, dim, 3), rtol=1e-3, atol=1e-4)
    pairs = np.triu_indices(num, 1)
    squares = [((points[pairs[0]] - points[pairs[1]]) ** 2).sum(axis=1) for points in (rows, features["v"])]
    ratios = squares[1] / squares[0]
    assert 1 - error < ratios.min() < ratios.max() < 1 + error


def test_l2_gives_frames_of_length_one_and_leaves_zero_alone(place: Workplace) -> None:
    place.fill_set(place.cache, place.spec, {"zero": np.zeros((2, DIM))})
    features = place.derived(fitted=False, l2=True)
    assert features.name.startswith("efficientnet-lite0.gap.l2-")
    for name, rows in place.videos.items():
        np.testing.assert_allclose(features[name], rows / np.linalg.norm(rows, axis=1, keepdims=True), rtol=1e-5)
    np.testing.assert_array_equal(features["zero"], 0)


@pytest.mark.parametrize("reduction", ["gap", "gmp", "gap+gmp", "gem", "gem=4"])
def test_pooling_a_grid_set(tmp_path: Path, make_spec: MakeSpec, fill_set: FillSet, reduction: str) -> None:
    maps = np.random.default_rng(0).uniform(0, 4, (6, 3, 2, 5)).astype(np.float32)
    spec = make_spec(reduction="grid", feature_shape=(3, 2, 5), dtype="float32")
    fill_set(tmp_path, spec, {"v": maps})
    features = open_cache(tmp_path)[
        derive(spec.name, DeriveConfig(cache=tmp_path, reduce=reduction, dtype="float16")).feature_set
    ]
    p = 4.0 if reduction == "gem=4" else 3.0
    gap, gmp = maps.mean(axis=(1, 2)), maps.max(axis=(1, 2))
    expected = {"gap": gap, "gmp": gmp, "gap+gmp": np.concatenate([gap, gmp], axis=1)}.get(
        reduction, (maps.astype(np.float64) ** p).mean(axis=(1, 2)) ** (1 / p)
    )
    assert features.spec.reduction == reduction
    assert features["v"].dtype == np.float16
    np.testing.assert_allclose(features["v"], expected, rtol=1e-3)


@pytest.mark.parametrize("sampling", ["fps=8", "every=4", "num=3", "num=32"])
def test_sampling_keeps_the_frames_that_extraction_would(place: Workplace, sampling: str) -> None:
    features = place.derived(fitted=False, sample=sampling)
    assert features.spec.sampling == sampling
    assert features.name.startswith(f"efficientnet-lite0.gap.{sampling}-")
    for name, rows in place.videos.items():
        kept = parse_sampling(sampling).select((np.arange(len(rows)) * 40.0).tolist())
        np.testing.assert_array_equal(features[name], rows[kept])
        np.testing.assert_array_equal(features.timestamps_ms(name), np.array(kept) * 40.0)


def test_sampling_across_blocks(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parents_module, "_BLOCK_BYTES", 3 * DIM * 4)
    features = place.derived(fitted=False, sample="every=4")
    for name, rows in place.videos.items():
        np.testing.assert_array_equal(features[name], rows[::4])


def test_concat_puts_features_behind_each_other_in_order(place: Workplace) -> None:
    other = place.make_spec(reduction="gmp", feature_shape=(2, 3), dtype="float32")
    videos = {name: np.arange(len(rows) * 6).reshape(-1, 2, 3) for name, rows in place.videos.items()}
    del videos["val0"]
    videos["train1"] = videos["train1"][:-1]
    place.fill_set(place.cache, other, videos)
    report = place.derive(fitted=False, concat=(other.name,))
    features = place[report.feature_set]
    assert features.feature_shape == (DIM + 6,)
    assert features.name.startswith("efficientnet-lite0.gap+gmp-")
    assert (features.spec.lineage or {})["parents"] == [place.spec.fingerprint, other.fingerprint]
    assert set(report.failed) == {"val0", "train1"}
    assert "no features in efficientnet-lite0.gmp" in report.failed["val0"]
    assert "other ones" in report.failed["train1"]
    np.testing.assert_array_equal(features["test0"][:, :DIM], place.videos["test0"])
    np.testing.assert_array_equal(features["test0"][:, DIM:], videos["test0"].reshape(-1, 6))
    fitted = place[place.derive(concat=(other.name,), pca=3).feature_set]
    assert read_derivation(fitted.folder, fitted.spec.lineage or {}).fitted_on == tuple(
        name for name, split in SPLITS.items() if split == "train" and name != "train1"
    )
    # What was missing is derived once it is there.
    place.fill_set(place.cache, other, {"val0": np.zeros((len(place.videos["val0"]), 2, 3))})
    again = place.derive(fitted=False, concat=(other.name,))
    assert (again.derived, again.cached, set(again.failed)) == (1, 9, {"train1"})


def test_concat_refuses_another_content_under_the_same_name(place: Workplace, add_video: Callable[..., object]) -> None:
    other = place.make_spec(reduction="gmp", feature_shape=(DIM,), dtype="float32")
    folder = place.fill_set(place.cache, other, {"train0": place.videos["train0"]})
    with ShardWriter(folder, other, {}, 1 << 30, 60) as writer:
        add_video(writer, "train1", place.videos["train1"], source_digest="new content")
    report = place.derive(fitted=False, concat=(other.name,))
    assert report.derived == 1
    assert "another content" in report.failed["train1"]


# 8 bits


def test_uint8_errs_by_half_a_step_within_the_range_and_clips_beyond(place: Workplace) -> None:
    features = place.derived(dtype="uint8")
    train = place.rows("train")
    low, high = train.min(axis=0), train.max(axis=0)
    half = (high - low) / 255 / 2
    for name, rows in place.videos.items():
        assert (np.abs(features[name] - np.clip(rows, low, high)) <= half * 1.001 + 1e-5).all()
    assert (place.rows("test") > high).any()


def test_uint8_is_stored_mapped_and_read_as_float(place: Workplace) -> None:
    features = place.derived(dtype="uint8")
    assert features.name.startswith("efficientnet-lite0.gap.uint8-")
    assert (features.dtype, features["test0"].dtype, features.stored("test0").dtype) == (
        np.float32,
        np.float32,
        np.uint8,
    )
    stored: Any = features.stored("test0")
    while stored.base is not None and not isinstance(stored, np.memmap):
        stored = stored.base
    assert "mmap" in type(stored).__name__
    batch, lengths = features.batch(["train0", "test0"], max_len=6)
    assert (batch.dtype, batch.shape[::2]) == (np.float32, (2, DIM))
    np.testing.assert_array_equal(batch[1, : lengths[1]], features["test0"][:6])
    assert not batch[0, lengths[0] :].any()
    assert sum(info.features.num_bytes for info in features.shards) * 4 == sum(
        info.features.num_bytes for info in place.parent.shards
    )


def test_whitened_8_bits_are_clipped_as_youtube_8m_does(place: Workplace) -> None:
    floats, bits = place.derived(pca=4, whiten=True), place.derived(pca=4, whiten=True, dtype="uint8")
    assert bits.name.startswith("efficientnet-lite0.gap.pca=4,white.uint8-")
    for name in place.videos:
        np.testing.assert_allclose(bits[name], np.clip(floats[name], -2, 2), atol=4 / 255 / 2 + 1e-4)
    assert np.abs(floats["test0"]).max() > 2
    assert max(np.abs(bits[name]).max() for name in bits) == pytest.approx(2)


def test_a_dimension_without_range_is_read_back(place: Workplace) -> None:
    spec = place.make_spec(reduction="gmp")
    videos = {"train0": np.full((4, 4), 7.0), "test0": np.full((2, 4), 60_000.0)}
    place.fill_set(place.cache, spec, videos)
    features = place.derived(spec.name, dtype="uint8")
    np.testing.assert_array_equal(features["train0"], 7)
    np.testing.assert_array_equal(features["test0"], 7)


def test_of_8_bits_another_set_is_derived_in_float16(place: Workplace) -> None:
    bits = place.derived(dtype="uint8")
    features = place.derived(bits.name, pca=3)
    assert features.spec.dtype == "float16"
    assert features.name.startswith("efficientnet-lite0.gap.pca=3-")
    assert (features.spec.lineage or {})["parents"] == [bits.fingerprint]
    decoded = np.concatenate([bits[name] for name in bits if SPLITS[name] == "train"])
    svd = Svd.of(decoded)
    projected = (bits["val0"] - svd.mean) @ svd.components[:3].T
    np.testing.assert_allclose(np.abs(features["val0"]), np.abs(projected), rtol=0.01, atol=0.1)


def test_overflow_of_the_stored_dtype_fails_its_video_once(place: Workplace) -> None:
    place.fill_set(place.cache, place.spec, {"huge": np.full((3, DIM), 1e6)})
    report = place.derive(fitted=False, dtype="float16")
    assert "not finite in float16" in report.failed["huge"]
    features = place[report.feature_set]
    assert "huge" not in features
    journal = (features.folder / "ledger.jsonl").read_bytes()
    again = place.derive(fitted=False, dtype="float16")
    assert (again.derived, again.num_frames, list(again.failed)) == (0, 0, ["huge"])
    assert (features.folder / "ledger.jsonl").read_bytes() == journal


def test_overflow_in_a_step_fails_its_video_and_is_never_fitted_on(
    tmp_path: Path, make_spec: MakeSpec, fill_set: FillSet
) -> None:
    spec = make_spec(reduction="grid", feature_shape=(1, 2, 3))
    fill_set(tmp_path / "features", spec, {"small": np.full((9, 1, 2, 3), 1.5), "huge": np.full((2, 1, 2, 3), 60_000)})
    manifest = write_manifest(tmp_path / "manifest.csv", {"small": "train", "huge": "train"})
    config = DeriveConfig(cache=tmp_path / "features", reduce="gem=20", dtype="float32")
    assert list(derive(spec.name, config).failed) == ["huge"]
    write_manifest(manifest, {"small": "train", "huge": "test"})
    bits = replace(config, dtype="uint8", manifest=manifest)
    assert list(derive(spec.name, bits).failed) == ["huge"]  # and not as 255
    write_manifest(manifest, {"small": "train", "huge": "train", "other": "test"})
    for steps in ({"pca": 2}, {"pca": 0, "l2": True, "dtype": "uint8"}):
        with pytest.raises(InputError, match="no finite number after reduce"):
            derive(spec.name, replace(bits, **{"dtype": "float16", **steps}))


# Train only


def test_lineage_says_what_was_done(place: Workplace) -> None:
    features = place.derived(pca=4, whiten=True, l2=True)
    spec = json.loads((features.folder / "spec.json").read_text())
    derivation = read_derivation(features.folder, spec["lineage"])
    assert spec["lineage"] == {
        "parents": [place.spec.fingerprint],
        "steps": [{"op": "pca", "dim": 4, "whiten": True}, {"op": "l2"}],
        "arrays": derivation.digest(),
        "fitted_on": spec["lineage"]["fitted_on"],
    }
    assert derivation.fitted_on == tuple(f"train{number}" for number in range(8))
    assert features.name.startswith("efficientnet-lite0.gap.pca=4,white.l2-")


def test_wild_values_outside_train_change_nothing(place: Workplace, tmp_path: Path) -> None:
    other = Workplace(tmp_path / "other", place.make_spec, place.fill_set)
    wild = {name: rows * 1e4 for name, rows in place.videos.items() if SPLITS[name] != "train"}
    place.fill_set(place.cache, place.spec, wild)
    for steps in ({"pca": 4}, {"dtype": "uint8"}):
        one, two = place.derived(**steps), other.derived(**steps)
        for name, array in arrays_of(one).items():
            np.testing.assert_array_equal(array, arrays_of(two)[name])


def test_a_train_copy_of_a_test_video_is_left_out(place: Workplace) -> None:
    copy = LedgerRow("copy", "videos/copy", "duplicate", "same as test0", source_digest="content of test0")
    append_journal(place.folder, 1, [copy])
    write_manifest(place.manifest, {**SPLITS, "copy": "train"})
    features = place.derived(pca=4)
    assert "copy" in features  # projected, not fitted on
    assert "copy" not in read_derivation(features.folder, features.spec.lineage or {}).fitted_on


def test_a_group_in_two_splits_is_refused(place: Workplace) -> None:
    place.manifest.write_text("path,split,group\ntrain0,train,g\ntest0,test,g\n")
    with pytest.raises(InputError, match=r"train0 \(train\) and test0 \(test\) have the same group 'g'"):
        place.derive(pca=2)


@pytest.mark.parametrize("fitted", [True, False], ids=["with the manifest", "without"])
def test_added_videos_get_the_same_matrix(place: Workplace, fitted: bool) -> None:
    first = place.derived(pca=4, dtype="uint8")
    arrays, before = dict(arrays_of(first)), digests(first)
    place.fill_set(place.cache, place.spec, {"train8": make_videos(seed=5)["train0"]})
    write_manifest(place.manifest, {**SPLITS, "train8": "train"})
    report = place.derive(fitted=fitted, pca=4, dtype="uint8")
    assert (report.feature_set, report.derived, report.cached) == (first.name, 1, 11)
    features = place[first.name]
    assert {name: digest for name, digest in digests(features).items() if name in before} == before
    for name, array in arrays_of(features).items():
        np.testing.assert_array_equal(array, arrays[name])


def test_a_fitted_video_that_moved_to_test_makes_another_set(place: Workplace) -> None:
    first = place.derived(pca=4)
    write_manifest(place.manifest, {**SPLITS, "train3": "test"})
    second = place.derived(pca=4)
    assert second.name != first.name
    assert "train3" not in read_derivation(second.folder, second.spec.lineage or {}).fitted_on
    assert place.derive(pca=4).feature_set == second.name
    with pytest.raises(InputError, match="fitted on different videos"):
        place.derive(fitted=False, pca=4)


def test_what_a_parent_was_fitted_on_must_not_be_held_out_later(place: Workplace) -> None:
    first = place.derived(pca=6)
    second = place.derived(first.name, l2=True)
    assert read_derivation(second.folder, second.spec.lineage or {}).fitted_on
    write_manifest(place.manifest, {**SPLITS, "train3": "test"})
    with pytest.raises(InputError, match=r"pca=6.l2.* was fitted on 1 videos .* holds out .*'train3'"):
        place.derive(second.name, pca=2)


# A feature set like any other


def test_the_second_time_nothing_is_computed(place: Workplace) -> None:
    first = place.derive(pca=4)
    again = place.derive(pca=4)
    assert (again.feature_set, again.derived, again.cached, again.num_frames) == (first.feature_set, 0, 11, 0)
    assert again.explained_variance == first.explained_variance


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_derivation_goes_on_to_the_same_digests(
    place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    steps = {"pca": 4, "whiten": True}
    whole = Workplace(tmp_path / "other", place.make_spec, place.fill_set).derived(**steps)
    add, seen = ShardWriter.add, []

    def stop_at_the_fifth(writer: ShardWriter, *arguments: Any) -> None:
        seen.append(1)
        if len(seen) == 5:
            raise error
        add(writer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "add", stop_at_the_fifth)
        with pytest.raises(error):
            place.derive(**steps, seal_seconds=1e-9)
    report = place.derive(**steps)
    assert report.feature_set == whole.name
    assert (report.derived, report.cached) == (7, 4)
    assert digests(place[report.feature_set]) == digests(whole)


def test_a_changed_video_is_derived_again(place: Workplace, add_video: Callable[..., object]) -> None:
    first = place.derived(fitted=False, random=4)
    with ShardWriter(place.folder, place.spec, {}, 1 << 30, 60) as writer:
        add_video(writer, "train2", np.ones((3, DIM)), source_digest="new content")
    report = place.derive(fitted=False, random=4)
    assert (report.feature_set, report.derived, report.cached) == (first.name, 1, 10)
    assert place[first.name].ledger()["train2"].source_digest == "new content"
    assert place[first.name]["train2"].shape == (3, 4)


def test_failed_and_duplicate_videos_are_taken_over(place: Workplace) -> None:
    failed = LedgerRow("bad", "videos/bad", "failed", "no frame could be decoded", ("cut short",), 9)
    copy = LedgerRow("copy", "videos/copy", "duplicate", "same as test0", source_digest="content of test0")
    append_journal(place.folder, 1, [failed, copy])
    report = place.derive(fitted=False, random=4)
    assert (report.num_videos, report.derived, report.cached, report.failed) == (13, 11, 1, {"bad": failed.reason})
    features = place[report.feature_set]
    known = place.parent.ledger()
    assert {name: row.status for name, row in features.ledger().items()} == {
        name: row.status for name, row in known.items()
    }
    assert features.ledger()["bad"] == failed
    np.testing.assert_array_equal(features["copy"], features["test0"])
    journal = (features.folder / "ledger.jsonl").read_bytes()
    assert place.derive(fitted=False, random=4).failed == {"bad": failed.reason}
    assert (features.folder / "ledger.jsonl").read_bytes() == journal


def test_a_copy_whose_original_has_changed_keeps_its_features(
    place: Workplace, add_video: Callable[..., object]
) -> None:
    copies = [
        LedgerRow(name, f"videos/{name}", "duplicate", "same as test0", source_digest="content of test0")
        for name in ("copy", "copy2")
    ]
    append_journal(place.folder, 1, copies)
    with ShardWriter(place.folder, place.spec, {}, 1 << 30, 60) as writer:
        add_video(writer, "test0", np.ones((3, DIM)), source_digest="new content")
    features = place.derived(fitted=False, dtype="float16")
    for name in ("copy", "copy2"):
        np.testing.assert_array_equal(features[name], place.videos["test0"].astype(np.float16))
    assert place.derive(fitted=False, dtype="float16").derived == 0


def test_a_copy_of_what_cannot_be_derived_has_failed_too(place: Workplace) -> None:
    place.fill_set(place.cache, place.spec, {"huge": np.full((3, DIM), 1e6)})
    copy = LedgerRow("copy", "videos/copy", "duplicate", "same as huge", source_digest="content of huge")
    append_journal(place.folder, 2, [copy])
    report = place.derive(fitted=False, dtype="float16")
    assert report.failed["copy"] == "same as huge, which failed"
    assert place.derive(fitted=False, dtype="float16").failed == report.failed


def test_progress_comes_to_its_total_in_every_pass(place: Workplace) -> None:
    seen: list[tuple[int, int]] = []
    derive(
        place.spec.name,
        DeriveConfig(cache=place.cache, manifest=place.manifest, pca=3),
        lambda done, total: seen.append((done, total)),
    )
    train, all_frames = len(place.rows("train")), sum(map(len, place.videos.values()))
    assert [total for done, total in seen if done == total] == [train, all_frames]
    assert {total for _, total in seen} == {train, all_frames}


def test_many_small_shards_are_compacted_at_the_end(place: Workplace) -> None:
    features = place.derived(fitted=False, random=3, seal_seconds=1e-9)
    assert len(list_shards(features.folder)) == 1
    assert len(features) == 11


def test_verify_finds_a_flipped_bit_in_the_arrays(place: Workplace) -> None:
    for steps in ({"pca": 4}, {"dtype": "uint8"}):
        features = place.derived(**steps)
        assert verify(features.folder, features.spec).ok
        path = features.folder / ARRAYS_FILE
        content = bytearray(path.read_bytes())
        name = "0.matrix" if "pca" in steps else "0.offset"
        place_of_array = bytes(content).index(np.ascontiguousarray(arrays_of(features)[name]).tobytes())
        content[place_of_array + 1] ^= 4
        path.write_bytes(content)
        result = verify(features.folder, features.spec)
        assert not result.ok
        assert ARRAYS_FILE in result.errors
        with pytest.raises(ShardError, match=ARRAYS_FILE):
            place.derive(**steps)
    for damaged in (content, content[:-200], b"", b"PK"):
        path.write_bytes(damaged)
        with pytest.raises(ShardError, match=ARRAYS_FILE):
            place[features.name]


# Refusals


def hurt(folder: Path) -> None:
    path = list_shards(folder)[0]
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # features end the file: this is of the last video
    path.write_bytes(content)


@pytest.mark.parametrize(
    "words", [["--l2"], ["--random", 3], ["--sample", "every=4"], ["--pca", 3, "--manifest", "manifest.csv"]]
)
def test_a_hurt_parent_is_refused_and_nothing_is_left(
    place: Workplace, words: list[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.manifest.parent)
    hurt(place.folder)
    assert place.command(place.spec.name, *words, "--seal-seconds", 1e-9) == 2
    out, err = capsys.readouterr()
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert "'test1' is hurt; run framecache verify" in err
    assert out == ""
    assert place.sets() == [place.spec.name]


WRONG: dict[str, tuple[list[object], str]] = {
    "nothing to do": ([], "at least one step"),
    "the parent's sampling": (["--sample", "all"], "at least one step"),
    "the parent's dtype": (["--dtype", "float32"], "at least one step"),
    "pca above the parent's": (["--pca", 13, "--manifest", "manifest.csv"], "expected 1 to 12 dimensions"),
    "random above the parent's": (["--random", 13], "expected 1 to 12 dimensions"),
    "negative": (["--pca", -1], "expected a number of dimensions"),
    "pca without manifest": (["--pca", 3], "--manifest: expected the manifest"),
    "uint8 without manifest": (["--dtype", "uint8"], "--manifest: expected the manifest"),
    "no such manifest": (["--pca", 3, "--manifest", "none.csv"], "no such manifest"),
    "manifest without train": (["--pca", 3, "--manifest", "test.csv"], "in its train split"),
    "manifest of others": (["--pca", 3, "--manifest", "others.csv"], "in its train split"),
    "too few rows": (["--pca", 12, "--manifest", "few.csv"], "needs more than 12 frames of the train split, found"),
    "gap of vectors": (["--reduce", "gap"], "expected a grid set (h, w, C), found (12,)"),
    "no pooling": (["--reduce", "grid"], "expected gap, gmp"),
    "unknown reduction": (["--reduce", "gapp"], "did you mean 'gap'"),
    "sampling": (["--sample", "fps=0"], "expected all, fps=N"),
    "whiten alone": (["--whiten", "--l2"], "expected --pca N with it"),
    "two projections": (["--pca", 3, "--random", 3], "expected one of them"),
    "no run": (["--dense", "runs/none"], "no projection.npz"),
    "dense and concat": (["--dense", "runs/none", "--concat", "efficientnet-lite0"], "expected no --concat"),
    "no such set": (["--concat", "nothing"], "no feature set 'nothing'"),
    "seed": (["--random", 3, "--seed", -1], "--seed"),
    "seconds": (["--l2", "--seal-seconds", 0], "expected a positive number"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_line_and_writes_nothing(
    place: Workplace, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.manifest.parent)
    write_manifest(Path("test.csv"), {"test0": "test", "val0": "val"})
    write_manifest(Path("others.csv"), {"another": "train"})
    write_manifest(Path("few.csv"), {"train0": "train"})
    place.fill_set(place.cache, place.make_spec(reduction="gmp"), {})
    before = place.sets()
    words, message = WRONG[case]
    if case == "too few rows":
        place.fill_set(place.cache, place.spec, {"train0": place.videos["train1"][:4]})
    assert place.command(place.spec.name, *words) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("derive:")]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert out == ""
    assert place.sets() == before


def test_sampling_a_sampled_set_is_refused(place: Workplace) -> None:
    sampled = place.derived(fitted=False, sample="every=2")
    with pytest.raises(InputError, match="expected a parent with all frames"):
        place.derive(sampled.name, fitted=False, sample="every=2")


def test_too_many_components_to_whiten(place: Workplace) -> None:
    flat = place.make_spec(reduction="gmp", dtype="float32")
    rng = np.random.default_rng(0)
    place.fill_set(place.cache, flat, {"train0": rng.normal(size=(40, 2)) @ rng.normal(size=(2, 4))})
    with pytest.raises(InputError, match="varies in 2 dimensions only"):
        place.derive(flat.name, pca=3, whiten=True)
    assert place.derive(flat.name, pca=3).explained_variance == pytest.approx(1)


def test_the_command_reports(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.command("efficientnet-lite0.gap", "--pca", 3, "--manifest", place.manifest) == 0
    name, counts, explained = capsys.readouterr().out.splitlines()
    assert name in place.sets()
    assert counts == "11 videos: 11 derived, 0 cached, 0 failed"
    assert explained.startswith("explained variance 0.")
    assert explained.endswith("fitted on 8 train videos")
    assert place.command(place.spec.name, "--pca", 3, "--manifest", place.manifest, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["feature_set"], report["derived"], report["cached"]) == (name, 0, 11)
    assert len(read_manifest(place.manifest)) == report["num_videos"]
