"""Near-duplicates: the same recording in two splits is told of, however all features look alike."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from framecache.cache.derive import DeriveConfig, derive
from framecache.cache.manifest import Video
from framecache.cache.store import open_cache
from framecache.train.config import FitConfig
from framecache.train.splits import leakage
from framecache.train.splits.labels import label_videos
from framecache.train.splits.leakage import NearDuplicate, mean_features, near_duplicates, told
from framecache.train.splits.splitting import LabeledVideos

from .conftest import Data, make_data

COUNTS = {"train": 60, "val": 20, "test": 20}


def made_of(rows: dict[str, NDArray[Any]]) -> Any:
    """Stands in for a feature set that holds these."""
    shape = next(iter(rows.values())).shape[1:]
    return SimpleNamespace(stored=rows.__getitem__, decode=lambda mean: mean, feature_shape=shape)


def labeled_as(counts: dict[str, int]) -> LabeledVideos:
    splits = {name: tuple(Video(f"{name}{n}", Path("x")) for n in range(count)) for name, count in counts.items()}
    return LabeledVideos((), splits, {})


@pytest.fixture
def rows() -> dict[str, NDArray[Any]]:
    """As after relu: positive, with a large mean that all videos have in common. test3 is train7 of another length."""
    rng = np.random.default_rng(0)
    common = rng.gamma(1.0, 3.0, 64)
    found = {}
    for name, count in COUNTS.items():
        for number in range(count):
            own = common + rng.normal(0, 0.3, 64)
            found[f"{name}{number}"] = np.abs(own + rng.normal(0, 0.2, (40, 64))).astype(np.float16)
    found["test3"] = found["train7"][4:]
    found["val5"] = found["train9"][::2]
    found["test6"] = (found["val8"] * np.float16(1.001)).astype(np.float16)
    return found


def test_recordings_in_two_splits_are_found_and_nothing_else(rows: dict[str, NDArray[Any]]) -> None:
    raw = np.stack([row.astype(np.float64).mean(axis=0) for row in rows.values()])
    raw /= np.linalg.norm(raw, axis=1, keepdims=True)
    assert (raw @ raw.T).min() > 0.95  # so that the threshold alone would tell of all
    found = near_duplicates(made_of(rows), labeled_as(COUNTS), 0.95)
    assert [(one.video_id, one.split, one.other_id, one.other_split) for one in found] == [
        ("test6", "test", "val8", "val"),
        ("test3", "test", "train7", "train"),
        ("val5", "val", "train9", "train"),
    ]
    cosines = [one.cosine for one in found]
    assert cosines == sorted(cosines, reverse=True)
    assert all(0.95 <= cosine <= 1 for cosine in cosines)


def test_the_nearest_of_each_video_are_told_whatever_the_size_of_blocks(
    rows: dict[str, NDArray[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    means = {name: row.astype(np.float64).mean(axis=0) for name, row in rows.items()}
    train = np.stack([mean for name, mean in means.items() if name.startswith("train")])
    unit = {name: (mean - train.mean(axis=0)) / train.std(axis=0) for name, mean in means.items()}
    unit = {name: vector / np.linalg.norm(vector) for name, vector in unit.items()}
    wanted = {}
    for name in unit:
        earlier = {"val": ("train",), "test": ("train", "val")}.get(name.rstrip("0123456789"), ())
        others = [other for other in unit if other.startswith(earlier)] if earlier else []
        cosines = {(name, other): float(unit[name] @ unit[other]) for other in others}
        nearest = sorted(cosines, key=cosines.__getitem__, reverse=True)[:10]
        wanted |= {pair: cosines[pair] for pair in nearest if cosines[pair] >= 0.02}
    for numbers in (1 << 22, 200):
        monkeypatch.setattr(leakage, "_BLOCK_NUMBERS", numbers)
        monkeypatch.setattr(leakage, "_CACHED_NUMBERS", numbers)
        found = near_duplicates(made_of(rows), labeled_as(COUNTS), 0.02)
        assert {(one.video_id, one.other_id): one.cosine for one in found} == pytest.approx(wanted, abs=1e-3)
    assert len(wanted) == 400


def test_only_train_says_what_is_usual(rows: dict[str, NDArray[Any]]) -> None:
    found = near_duplicates(made_of(rows), labeled_as({**COUNTS, "test": 0}), 0.1)
    for number in range(COUNTS["test"]):
        rows[f"test{number}"] = rows[f"test{number}"] + np.float16(100)
    more = near_duplicates(made_of(rows), labeled_as(COUNTS), 0.1)
    assert [one for one in more if one.split == "val"] == list(found)


def test_a_threshold_of_0_reads_nothing() -> None:
    assert near_duplicates(made_of({"x": np.zeros((1, 4))}), labeled_as(COUNTS), 0) == ()


def test_equal_videos_everywhere_make_no_endless_list() -> None:
    counts = {"train": 50, "val": 2, "test": 30}
    rng = np.random.default_rng(0)
    same = rng.random((3, 8)).astype(np.float32)
    rows = {f"{name}{n}": same for name, count in counts.items() for n in range(count)}
    rows["train0"] = rng.random((3, 8)).astype(np.float32)
    assert len(near_duplicates(made_of(rows), labeled_as(counts), 0.95)) == 32 * 10


def test_features_that_never_change_are_told_of_without_a_warning() -> None:
    counts = {"train": 1, "val": 1, "test": 0}
    constant = {name: np.zeros((2, 4), np.float16) for name in ("train0", "val0")}
    assert near_duplicates(made_of(constant), labeled_as(counts), 0.95) == ()


def test_the_mean_of_a_grid_is_over_frames_and_positions(grid_data: Data) -> None:
    features = open_cache(grid_data.cache)[grid_data.name]
    for video_id in features.video_ids[:3]:
        wanted = features[video_id].astype(np.float64).mean(axis=(0, 1, 2))
        np.testing.assert_allclose(mean_features(features, video_id), wanted, rtol=1e-5, atol=1e-6)


def test_halves_are_widened_as_numpy_does() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    widened = leakage._widen(halves)
    np.testing.assert_array_equal(widened.view(np.uint32), halves.astype(np.float32).view(np.uint32))


def test_8_bits_of_a_grid_are_decoded(tmp_path: Path) -> None:
    data = make_data(tmp_path, (2, 2, 3))
    derived = derive(data.name, DeriveConfig(cache=data.cache, manifest=data.manifest, dtype="uint8"))
    features = open_cache(data.cache)[derived.feature_set]
    video_id = features.video_ids[0]
    wanted = features[video_id].mean(axis=(0, 1, 2))
    np.testing.assert_allclose(mean_features(features, video_id), wanted, rtol=1e-4, atol=1e-5)


def test_a_toy_set_can_be_looked_through(data: Data) -> None:
    features = open_cache(data.cache)[data.name]
    labeled = label_videos(features, FitConfig(manifest=data.manifest))
    assert all(one.split != one.other_split for one in near_duplicates(features, labeled, 0.5))


def test_the_warning_counts_names_the_first_and_says_what_to_do() -> None:
    found = [NearDuplicate(f"t{n}", "test", f"v{n}", "val", 0.99) for n in range(5)]
    lines = told(found, 20)
    assert lines[0].startswith("warning: 5 of the 20 videos of val and test look like near-duplicates")
    assert "group" in lines[0]
    assert lines[1] == "  t0 (test) and v0 (val): cosine 0.990"
    assert lines[-1] == "  … and 2 more pairs"
    assert len(lines) == 5
    assert told([], 20) == []
