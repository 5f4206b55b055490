"""The Dense projection of a run, baked into a feature set; and training on 8 bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from framecache.cache import InputError, open_cache
from framecache.cache.derivation import read_derivation
from framecache.cache.derive import DeriveConfig, derive
from framecache.cache.projection import PROJECTION_FILE, write_projection
from framecache.cache.sampling import spread
from framecache.train.config import ClipConfig, FitConfig
from framecache.train.data import CachedSequences
from framecache.train.fit import fit
from framecache.train.runs import Run

from .conftest import Data, make_data, undrawn, untrained_baselines


@dataclass(frozen=True)
class Trained:
    """A set, and a run with a projection on it; its summary, a mean, is the quickest to train."""

    cache: Path
    name: str
    run: Run


@pytest.fixture(scope="module", params=["uint8", "grid"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp(request.param)
    data = make_data(folder, (2, 2, 3) if request.param == "grid" else (8,))
    name = data.name
    if request.param == "uint8":
        name = derive(name, DeriveConfig(cache=data.cache, dtype="uint8", manifest=data.manifest)).feature_set
    with undrawn(), untrained_baselines():
        return Trained(data.cache, name, fit(name, configure(data, folder, dense=5, epochs=2)))


@pytest.fixture
def fresh(tmp_path: Path) -> Data:
    return make_data(tmp_path)


def configure(data: Data, folder: Path, **changes: Any) -> FitConfig:
    return replace(FitConfig(manifest=data.manifest, cache=data.cache, runs=folder / "runs", model="mean"), **changes)


def fake_run(data: Data, folder: Path, seed: int = 0) -> Path:
    """The folder of a run with some projection of the vectors, trained on the train split."""
    folder.mkdir()
    features, rng = open_cache(data.cache)[data.name], np.random.default_rng(seed)
    train = [video_id for video_id in features if "/train" in video_id]
    kernel, bias = rng.normal(size=(8, 5)).astype(np.float32), np.zeros(5, np.float32)
    write_projection(folder, features, (np.zeros(8), np.ones(8)), kernel, bias, train)
    return folder


def test_the_baked_projection_is_the_layer_of_the_trained_model(trained: Trained) -> None:
    store = open_cache(trained.cache)
    report = derive(trained.name, DeriveConfig(cache=trained.cache, dense=trained.run.folder))
    assert ".dense=5-" in report.feature_set
    assert report.failed == {"up/broken.mp4": "no video stream"}
    features, parent = store[report.feature_set], store[trained.name]
    model = keras.saving.load_model(trained.run.folder / "model.keras", safe_mode=True)
    layer = keras.Model(model.inputs, model.get_layer("projection").output)
    videos = parent.video_ids
    batch, lengths = parent.batch(videos)
    mask = np.arange(batch.shape[1]) < lengths[:, None]
    expected = keras.ops.convert_to_numpy(layer({"features": batch.astype(np.float32), "mask": mask}))
    for row, video_id in enumerate(videos):
        assert features[video_id].dtype == np.float16
        live = expected[row, : lengths[row]]
        np.testing.assert_allclose(features[video_id].astype(np.float32), live, rtol=2e-3, atol=1e-4)
    assert expected.max() > 0.1
    derivation = read_derivation(features.folder, features.spec.lineage or {})
    assert set(derivation.fitted_on) == {video_id for video_id in videos if "/train" in video_id}


def test_a_run_is_refused_for_other_features_or_without_a_projection(fresh: Data, tmp_path: Path) -> None:
    run = fake_run(fresh, tmp_path / "run")
    other = derive(fresh.name, DeriveConfig(cache=fresh.cache, l2=True)).feature_set
    before = open_cache(fresh.cache).names()
    with pytest.raises(InputError, match=r"it was trained on features \w{8}, not on toy\.gap\.l2-"):
        derive(other, DeriveConfig(cache=fresh.cache, dense=run))
    path = run / PROJECTION_FILE
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match="cannot be read"):
        derive(fresh.name, DeriveConfig(cache=fresh.cache, dense=run))
    path.unlink()
    with pytest.raises(InputError, match=r"no projection\.npz in it; expected a run of fit --dense N"):
        derive(fresh.name, DeriveConfig(cache=fresh.cache, dense=run))
    assert open_cache(fresh.cache).names() == before


def test_two_runs_bake_two_sets(fresh: Data, tmp_path: Path) -> None:
    sets = []
    for seed in (0, 1):
        run = fake_run(fresh, tmp_path / f"run{seed}", seed)
        baked = DeriveConfig(cache=fresh.cache, dense=run, dtype="uint8", manifest=fresh.manifest)
        sets.append(derive(fresh.name, baked).feature_set)
    assert sets[0] != sets[1]
    fewer = tmp_path / "fewer.csv"  # the run may know more videos than this manifest does
    lines = [line for line in fresh.manifest.read_text().splitlines() if "train5" not in line]
    fewer.write_text("\n".join(lines))
    fewer_sets = {
        derive(
            fresh.name, DeriveConfig(cache=fresh.cache, dense=tmp_path / "run0", dtype="uint8", manifest=fewer)
        ).feature_set
        for _ in range(2)
    }
    assert fewer_sets == {sets[0]}


def test_a_run_that_saw_what_is_held_out_now_is_refused(fresh: Data, tmp_path: Path) -> None:
    run = fake_run(fresh, tmp_path / "run")
    text = fresh.manifest.read_text()
    for name in ("up/train3.mp4,up", "down/train2.mp4,down"):
        text = text.replace(f"{name},train,train-1", f"{name},test,alone")
    moved = tmp_path / "moved.csv"
    moved.write_text(text)
    with pytest.raises(InputError, match=r"was fitted on 2 videos that .* holds out"):
        derive(fresh.name, DeriveConfig(cache=fresh.cache, dense=run, manifest=moved))


def test_batches_of_8_bits_are_float_and_what_was_fitted_on_test_videos_is_not_trained_on(
    fresh: Data, tmp_path: Path
) -> None:
    steps = DeriveConfig(cache=fresh.cache, pca=4, whiten=True, dtype="uint8", manifest=fresh.manifest)
    name = derive(fresh.name, steps).feature_set
    features = open_cache(fresh.cache)[name]
    split = CachedSequences(features, features.video_ids[:3], ClipConfig(max_len=3))
    taken = split.take(0)
    assert taken.dtype == np.float32
    first = features[features.video_ids[0]]
    np.testing.assert_array_equal(taken, first[spread(len(first), 3)])

    swapped = tmp_path / "swapped.csv"
    text = fresh.manifest.read_text()
    swapped.write_text(text.replace(",train,", ",new,").replace(",test,", ",train,").replace(",new,", ",test,"))
    with pytest.raises(InputError, match=r"24 of its test videos \(.*\) are among those that it was fitted on"):
        fit(name, configure(fresh, tmp_path, manifest=swapped))
