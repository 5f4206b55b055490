"""Runs on disk, and the features that they belong to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from framecache.cache import FeatureSetNotFoundError, InputError, Spec, SpecMismatchError
from framecache.train import open_run


@pytest.fixture
def run_folder(tmp_path: Path, spec: Spec) -> Path:
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"feature_set": spec.name, "spec": spec.to_dict()}))
    return folder


def test_a_run_opens_the_features_it_was_trained_on(
    run_folder: Path, tmp_path: Path, spec: Spec, make_spec: Callable[..., Spec], fill_set: Callable[..., Path]
) -> None:
    fill_set(tmp_path, spec, {"v1": np.ones((3, 4))})
    fill_set(tmp_path, make_spec(dtype="float32"), {"v1": np.zeros((3, 4))})
    features = open_run(run_folder).open_features(tmp_path)
    assert features.spec == spec
    np.testing.assert_array_equal(features["v1"], np.ones((3, 4)))


def test_features_of_another_spec_are_refused_with_the_difference(
    run_folder: Path, tmp_path: Path, make_spec: Callable[..., Spec], fill_set: Callable[..., Path]
) -> None:
    fill_set(tmp_path, make_spec(weights="77c0" * 16, dtype="float32"), {"v1": np.ones((3, 4))})
    with pytest.raises(SpecMismatchError, match=r"dtype: float16 → float32; weights: 3fa9… → 77c0…"):
        open_run(run_folder).open_features(tmp_path)


def test_a_cache_without_such_features_is_refused(
    run_folder: Path, tmp_path: Path, make_spec: Callable[..., Spec], fill_set: Callable[..., Path]
) -> None:
    fill_set(tmp_path, make_spec(backbone="ResNet50"), {"v1": np.ones((3, 4))})
    with pytest.raises(FeatureSetNotFoundError):
        open_run(run_folder).open_features(tmp_path)


@pytest.mark.parametrize("text", [None, "{", "[]", "[" * 100_000])
def test_a_folder_that_holds_no_run_is_refused(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match="run"):
        open_run(tmp_path)


def test_a_run_without_a_spec_opens_no_features(run_folder: Path, tmp_path: Path) -> None:
    (run_folder / "run.json").write_text("{}")
    with pytest.raises(InputError, match="not a spec"):
        open_run(run_folder).open_features(tmp_path)
