"""What each step of derive computes, and what 8 bits keep of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from framecache.cache import InputError, open_cache
from framecache.cache import parents as parents_module
from framecache.cache.derivation import read_derivation
from framecache.cache.derive import DeriveConfig, derive
from framecache.cache.fitting import Moments
from framecache.cache.reductions import random_matrix
from framecache.cache.sampling import parse_sampling
from framecache.cache.writer import ShardWriter

from .deriving import DIM, SPLITS, FillSet, MakeSpec, Workplace, arrays_of, write_manifest


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
