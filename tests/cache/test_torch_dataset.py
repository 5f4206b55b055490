"""A feature set for PyTorch's DataLoader, whose workers get its name and open it themselves."""

from __future__ import annotations

import doctest
import importlib.util
import multiprocessing
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framecache.cache import FeatureSet, InputError, Spec, VideoNotFoundError, open_cache
from framecache.cache.exchange.torch_dataset import pad_samples
from framecache.cache.ledger import LedgerRow, append_journal

RNG = np.random.default_rng(0)
VIDEOS = {"down/a.mp4": RNG.normal(size=(5, 8)), "up/b.mp4": RNG.normal(size=(3, 8)), "z": RNG.normal(size=(700, 8))}
LABELS = {"up/b.mp4": 1, "down/a.mp4": 0}


@pytest.fixture(scope="module")
def features(
    tmp_path_factory: pytest.TempPathFactory, make_spec: Callable[..., Spec], fill_set: Callable[..., Path]
) -> FeatureSet:
    """The feature set that the examples in FeatureSet's docstrings are about."""
    folder = fill_set(tmp_path_factory.mktemp("features"), make_spec(feature_shape=(8,)), VIDEOS)
    append_journal(folder, 1, [LedgerRow("up/broken.mp4", "up/broken.mp4", "failed", "no video stream")])
    return open_cache(folder.parent)[folder.name]


def run_example(method: Any, features: FeatureSet) -> int:
    """Runs the example in a docstring; gives how many of its lines failed."""
    (test,) = doctest.DocTestFinder().find(method, method.__name__, globs={"features": features})
    result = doctest.DocTestRunner(verbose=False).run(test)
    assert result.attempted > 0
    return result.failed


@pytest.mark.parametrize("name", ["batch", "to_pandas", "to_arrow"])
def test_the_examples_in_the_docstrings_run(features: FeatureSet, name: str) -> None:
    assert run_example(getattr(FeatureSet, name), features) == 0


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="NOT TESTED with PyTorch itself, which is not installed (200 MB): pip install torch, and run this again",
)
def test_the_example_runs_with_pytorch(features: FeatureSet) -> None:
    assert run_example(FeatureSet.as_torch_dataset, features) == 0


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of Python 3.12 on, of forks beside threads
def test_worker_processes_read_the_same_as_this_one(features: FeatureSet, method: str) -> None:
    dataset = features.as_torch_dataset(LABELS)
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map(dataset.__getitem__, range(len(dataset)), chunksize=1)
    assert [(sample["video_id"], sample["label"]) for sample in found] == [("up/b.mp4", 1), ("down/a.mp4", 0)]
    for sample in found:
        np.testing.assert_array_equal(sample["features"], features[sample["video_id"]])


def test_no_features_are_pickled_and_another_folder_of_work_is_no_trouble(
    features: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(features.folder.parents[1])
    dataset = open_cache(features.folder.parent.name)[features.name].as_torch_dataset(max_len=2)
    content = pickle.dumps(dataset)
    assert len(content) < 1000 < features.num_bytes
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(content)
    assert len(again) == 3
    np.testing.assert_array_equal(again[2]["features"], features["z"][:2])


def test_samples_are_copies_and_batches_are_padded_with_their_lengths(features: FeatureSet) -> None:
    dataset = features.as_torch_dataset(LABELS)
    samples = [dataset[0], dataset[1]]
    samples[0]["features"] += 1  # also of a memory map that nobody may write into
    batch = pad_samples(samples)
    assert (batch["features"].shape, batch["features"].dtype) == ((2, 5, 8), np.float16)
    assert (batch["lengths"].tolist(), batch["label"].tolist(), batch["video_id"]) == ([3, 5], [1, 0], list(LABELS))
    np.testing.assert_array_equal(batch["features"][0, :3], features["up/b.mp4"] + np.float16(1))
    assert not batch["features"][0, 3:].any()
    assert "label" not in pad_samples([features.as_torch_dataset()[0]])


def test_wrong_videos_and_labels_are_refused(features: FeatureSet) -> None:
    with pytest.raises(VideoNotFoundError, match=r"no features of 1 videos \('x'\)"):
        features.as_torch_dataset({"x": 1})
    with pytest.raises(VideoNotFoundError, match=r"labels: none for 1 videos \('z'\)"):
        features.as_torch_dataset(LABELS, video_ids=["z"])
    for labels, message in (({"z": "up"}, "give each class a number"), ({}, "at least one video")):
        with pytest.raises(InputError, match=message):
            features.as_torch_dataset(labels)
    with pytest.raises(InputError, match="one shape"):
        features.as_torch_dataset({"z": [1, 2], "up/b.mp4": [1]})
    with pytest.raises(InputError, match="max_len"):
        features.as_torch_dataset(max_len=0)


@pytest.mark.parametrize(
    ("module", "call", "hint"),
    [
        ("pandas", lambda features: features.to_pandas(), r"'framecache\[pandas\]'"),
        ("pyarrow", lambda features: features.to_arrow(), r"'framecache\[parquet\]'"),
        ("torch", lambda features: features.as_torch_dataset().collate([]), "'torch'"),
    ],
)
def test_a_missing_package_is_named(
    features: FeatureSet, monkeypatch: pytest.MonkeyPatch, module: str, call: Any, hint: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"needs {module}, which is not installed; pip install {hint}"):
        call(features)


def test_the_ledger_is_a_frame_with_a_row_per_video(features: FeatureSet) -> None:
    frame, table = features.to_pandas(), features.to_arrow()
    ledger = features.ledger()
    assert (
        frame["video_id"].tolist() == table["video_id"].to_pylist() == ["down/a.mp4", "up/b.mp4", "up/broken.mp4", "z"]
    )
    for row in (*frame.to_dict("records"), *table.to_pylist()):
        told = ledger[row["video_id"]].to_json()
        missing = told["frames_expected"] is None
        assert {name: None if missing and name == "frames_expected" else row[name] for name in told} == told
    assert frame["frames_expected"].isna().tolist() == [False, False, True, False]
