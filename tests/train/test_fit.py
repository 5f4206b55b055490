"""fit: a run on disk that says what was done, and learns what it should."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import keras
import numpy as np
import pytest

from framecache.cache.cli import run as run_command
from framecache.cache.errors import InputError
from framecache.train.__main__ import app
from framecache.train.config import FitConfig
from framecache.train.fit import Run, fit

from .conftest import Data


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


pytestmark = pytest.mark.usefixtures("undrawn_runs", "shared_graphs")

RUN_FILES = {
    "run.json",
    "model.keras",
    "history.csv",
    "predictions.csv",
    "splits.csv",
    "logits.npz",
    "confusion.png",
    "learning-curve.png",
}


def configure(data: Data, runs: Path, **changes: Any) -> FitConfig:
    base = FitConfig(
        manifest=data.manifest, cache=data.cache, runs=runs, units=8, epochs=25, learning_rate=0.02, dropout=0.0
    )
    return replace(base, **changes)


@pytest.fixture(scope="module")
def run(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fit("toy.gap", configure(data, tmp_path_factory.mktemp("runs")))


def test_the_lstm_learns_the_order_and_the_mean_baseline_cannot(run: Run) -> None:
    assert run.record["metrics"]["test"]["accuracy"] == 1.0
    assert run.record["baseline"]["test"]["accuracy"] < 0.9


def test_a_run_holds_all_its_files(run: Run) -> None:
    assert {path.name for path in run.folder.iterdir()} == {*RUN_FILES, "tensorboard"}
    assert list(run.folder.glob("tensorboard/*/events.out.tfevents.*"))
    for name in ("confusion.png", "learning-curve.png"):
        assert (run.folder / name).read_bytes().startswith(b"\x89PNG")


def test_run_json_says_what_was_done(run: Run, data: Data) -> None:
    record = json.loads((run.folder / "run.json").read_text())
    assert record == run.record
    assert record["feature_set"] == data.name
    assert record["fingerprint"].startswith(data.name.rpartition("-")[2])
    assert record["seed"] == 0
    assert record["config"]["units"] == 8
    assert record["config"]["manifest"] == str(data.manifest)
    assert record["classes"] == ["down", "up"]
    assert record["num_videos"] == {"train": 24, "val": 8, "test": 8}
    for metrics in (record["metrics"], record["baseline"]):
        assert set(metrics) == {"val", "test"}
        assert set(metrics["test"]) == {"accuracy", "top5", "macro_f1", "loss"}
    assert set(record["seconds"]) == {"load", "compile", "train", "baseline"}
    assert record["versions"]["keras"] == keras.__version__


def test_history_has_a_row_per_epoch(run: Run) -> None:
    rows = read_csv(run.folder / "history.csv")
    assert len(rows) == run.record["epochs"]
    assert {"epoch", "loss", "accuracy", "val_loss", "val_accuracy"} <= set(rows[0])


def test_predictions_and_the_saved_model_agree_with_the_metrics(run: Run, data: Data) -> None:
    from framecache.cache.store import open_cache

    rows = [row for row in read_csv(run.folder / "predictions.csv") if row["split"] == "test"]
    assert len(rows) == 8
    accuracy = np.mean([row["label"] == row["predicted"] for row in rows])
    assert accuracy == run.record["metrics"]["test"]["accuracy"]
    model = keras.saving.load_model(run.folder / "model.keras", safe_mode=True)
    features = open_cache(data.cache)[data.name]
    batch, lengths = features.batch([row["video_id"] for row in rows])
    mask = np.arange(batch.shape[1]) < lengths[:, None]
    logits = keras.ops.convert_to_numpy(model({"features": batch.astype(np.float32), "mask": mask}))
    assert [run.record["classes"][best] for best in logits.argmax(axis=1)] == [row["predicted"] for row in rows]


def test_the_kept_weights_are_those_of_the_best_epoch(run: Run) -> None:
    losses = [float(row["val_loss"]) for row in read_csv(run.folder / "history.csv")]
    kept = losses[run.record["best_epoch"] - 1]
    assert kept < min(losses) + 0.005  # less counts as no better
    # The same loss, computed from the kept weights: the mean over the videos, though the batch was filled up.
    assert run.record["metrics"]["val"]["loss"] == pytest.approx(kept, rel=1e-3)


@pytest.mark.usefixtures("no_baselines")
def test_training_stops_when_val_no_longer_improves(data: Data, tmp_path: Path) -> None:
    stopped = fit("toy.gap", configure(data, tmp_path, learning_rate=1e-9, patience=2))
    assert stopped.record["epochs"] < 25


def test_a_seed_repeats_its_numbers_beside_the_older_run(data: Data, tmp_path: Path) -> None:
    config = configure(data, tmp_path, epochs=2, dropout=0.5)
    first, again = fit("toy.gap", config), fit("toy.gap", config)
    assert [run.folder.name for run in (first, again)] == ["toy.gap-lstm-seed0", "toy.gap-lstm-seed0-2"]
    assert first.record["metrics"] == again.record["metrics"]
    assert first.record["baseline"] == again.record["baseline"]
    assert (first.folder / "history.csv").read_text() == (again.folder / "history.csv").read_text()
    other = fit("toy.gap", replace(config, seed=1, name="mine"))
    assert other.record["metrics"] != first.record["metrics"]
    with pytest.raises(InputError, match="exists already"):
        fit("toy.gap", replace(config, name="mine"))


@pytest.mark.usefixtures("no_baselines")
def test_a_grid_gets_a_dense_projection_of_its_own_accord(grid_data: Data, tmp_path: Path) -> None:
    run = fit("toy.grid", configure(grid_data, tmp_path, epochs=1))
    assert run.record["config"]["dense"] == 64
    model = keras.saving.load_model(run.folder / "model.keras")
    assert model.get_layer("projection").get_weights()[0].shape == (12, 64)


@pytest.mark.usefixtures("no_baselines")
def test_videos_without_features_are_left_out_and_named(data: Data, tmp_path: Path) -> None:
    manifest = tmp_path / "more.csv"
    manifest.write_text(data.manifest.read_text() + "up/broken.mp4,up,train,x\nup/new.mp4,up,train,y\n")
    run = fit("toy.gap", configure(data, tmp_path / "runs", manifest=manifest, epochs=1, missing="drop"))
    assert run.record["left_out"] == {"up/broken.mp4": "no video stream", "up/new.mp4": "never extracted"}


@pytest.mark.usefixtures("no_baselines")
def test_labels_may_come_from_class_folders(data: Data, tmp_path: Path) -> None:
    for line in data.manifest.read_text().splitlines()[1:]:
        path = tmp_path / "videos" / line.split(",")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line.split(",")[0])  # what the feature set's digest of it says
    config = configure(data, tmp_path / "runs", manifest=tmp_path / "videos", epochs=1)
    run = fit("toy.gap", config)
    assert run.record["classes"] == ["down", "up"]
    assert sum(run.record["num_videos"].values()) == 40
    (tmp_path / "videos/up/train1.mp4").write_text("another video under this name")
    with pytest.raises(InputError, match=r"'up/train1.mp4' in toy.gap-\w+ are those of another content"):
        fit("toy.gap", config)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["elsewhere/x.mp4,up,train,a"], "none of its 1 videos is in toy.gap.*extract this manifest first"),
        (["up/train1.mp4,up,training,a"], "split 'training', expected one of train, val, test; did you mean 'train'"),
    ],
    ids=["shares-nothing", "split"],
)
def test_a_manifest_that_does_not_fit_writes_no_run(data: Data, tmp_path: Path, rows: list[str], message: str) -> None:
    manifest = tmp_path / "wrong.csv"
    manifest.write_text("\n".join(["path,label,split,group", *rows]))
    with pytest.raises(InputError, match=message):
        fit("toy.gap", configure(data, tmp_path / "runs", manifest=manifest))
    assert not (tmp_path / "runs").exists()


def test_a_run_that_does_not_finish_leaves_no_folder(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("framecache.train.trainer.Trainer.train", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit("toy.gap", configure(data, tmp_path, name="mine"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_baselines")
def test_no_file_of_a_run_holds_the_credentials_of_its_manifests_url(data: Data, tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    files.pipe_file("/reader:s3cret@bucket/manifest.csv", data.manifest.read_bytes())
    manifest = Path("memory://reader:s3cret@bucket/manifest.csv")
    made = fit("toy.gap", configure(data, tmp_path, manifest=manifest, root=data.manifest.parent, epochs=1))
    files.rm("/reader:s3cret@bucket", recursive=True)
    holding = [path.name for path in made.folder.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert not holding
    assert "--manifest memory://bucket/manifest.csv" in made.record["command"]
    assert made.record["config"]["manifest"] == "memory://bucket/manifest.csv"


@pytest.mark.usefixtures("no_baselines")
def test_a_manifest_whose_paths_start_elsewhere_needs_root(data: Data, tmp_path: Path) -> None:
    manifest = tmp_path / "absolute.csv"
    rows = data.manifest.read_text().splitlines()
    manifest.write_text("\n".join(["video_id," + rows[0]] + [f"{row.split(',')[0]},/data/{row}" for row in rows[1:]]))
    config = configure(data, tmp_path / "runs", manifest=manifest, epochs=1)
    with pytest.raises(InputError, match=r"leads outside .* --root"):
        fit("toy.gap", config)
    assert fit("toy.gap", replace(config, root=Path("/"))).record["num_videos"]["train"] == 24


def test_a_wrong_model_of_ones_own_writes_no_run(data: Data, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be imported"):
        fit("toy.gap", configure(data, tmp_path / "runs", model="nowhere:build"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "--epochs 0: expected at least 1"),
        ({"learning_rate": 0.0}, "--learning-rate 0: expected a positive number"),
        ({"dropout": 1.0}, "--dropout 1: expected a share"),
        ({"seed": -1}, "--seed -1: expected 0 to 4294967295"),
        ({"name": "a/b"}, "--name 'a/b': expected the plain name of a folder"),
        ({"units": 0}, "--units 0: expected at least 1"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_setting_out_of_range_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FitConfig(**change)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../up", "/abs", "a/b", "a\\b", ".hidden", "nul\0", "line\n", "dot.", "x" * 300, "CON", "nul.txt"],
    ids=repr,
)
def test_a_name_that_is_no_folders_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"--name .*: expected the plain name of a folder"):
        FitConfig(name=name)


@pytest.mark.parametrize("name", ["mine", "seed 3", "größe", "．．／up", "v1.2"])
def test_a_name_that_only_looks_like_a_path_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / FitConfig(name=name).name
    folder.mkdir()
    assert folder.resolve().parent == tmp_path.resolve()


@pytest.fixture
def damaged(data: Data, tmp_path: Path) -> Data:
    """A copy of the data, to be damaged."""
    shutil.copytree(data.cache, tmp_path / "features")
    return replace(data, cache=tmp_path / "features")


def hurt_a_bit(path: Path) -> None:
    from framecache.cache.shard import read_shard

    content = bytearray(path.read_bytes())
    content[read_shard(path).features.offset + 5] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            hurt_a_bit,
            "the stored features of 1 of 40 videos are hurt ('down/train0.mp4'); run framecache verify toy.gap-",
        ),
        (lambda path: os.truncate(path, path.stat().st_size - 2000), "not a whole, readable shard"),
        (os.unlink, "1 of its shards are missing"),
    ],
    ids=["bit", "cut", "missing"],
)
def test_a_hurt_feature_set_is_refused_in_one_line_before_anything_is_written(
    damage: Callable[[Path], None], message: str, damaged: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = damaged.cache.glob("*/shard-*.h5")
    damage(path)
    words = ["fit", "toy.gap", "--manifest", damaged.manifest, "--cache", damaged.cache, "--runs", tmp_path / "runs"]
    assert run_command(app, [str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "--repair" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_many_hurt_videos_are_counted_and_the_first_named(damaged: Data, tmp_path: Path) -> None:
    from framecache.cache.shard import read_shard

    (path,) = damaged.cache.glob("*/shard-*.h5")
    extent = read_shard(path).features
    content = bytearray(path.read_bytes())
    content[extent.offset : extent.offset + extent.num_bytes] = bytes(extent.num_bytes)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"40 of 40 videos are hurt \('\S+', '\S+', '\S+', …\); run"):
        fit("toy.gap", configure(damaged, tmp_path / "runs"))


@pytest.mark.usefixtures("no_baselines")
def test_hurt_videos_that_are_not_asked_for_stand_in_nobodys_way(damaged: Data, tmp_path: Path) -> None:
    (path,) = damaged.cache.glob("*/shard-*.h5")
    hurt_a_bit(path)
    lines = damaged.manifest.read_text().splitlines(keepends=True)
    manifest = tmp_path / "fewer.csv"
    manifest.write_text("".join(line for line in lines if not line.startswith("down/train0.mp4")))
    record = fit("toy.gap", configure(damaged, tmp_path / "runs", manifest=manifest, epochs=1)).record
    assert record["num_videos"]["train"] == 23
