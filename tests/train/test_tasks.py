"""Tasks: each reads its labels, refuses wrong ones, learns, and says so in its run."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from framecache.cache.errors import InputError
from framecache.cache.manifest import Video
from framecache.cache.store import open_cache
from framecache.train.config import ClipConfig, FitConfig
from framecache.train.data import CachedSequences
from framecache.train.feed import Feed
from framecache.train.fidelity.fidelity import FidelityConfig
from framecache.train.fit import Run, fit
from framecache.train.models import build_model
from framecache.train.predictions import read_predictions
from framecache.train.splits.labels import label_videos
from framecache.train.splits.splitting import LabeledVideos
from framecache.train.tasks.registry import TASKS, Classification, Frames, Multilabel, Regression, Task, make_task
from framecache.train.trainer import Trainer

from .conftest import Data

Row = dict[str, str]
RAMP = {"up": 1, "down": -1}


def attributes(row: Row, length: int) -> str:
    """Two labels, of which one needs the order of frames; those of a short video going down are none."""
    names = ["rising"] * (row["label"] == "up") + ["long"] * (length > 6)
    return ";".join(names)


def slope(row: Row, length: int) -> str:
    """Between 990 and 1010, by direction and length: a mean cannot tell it."""
    return f"{1000 + RAMP[row['label']] * (1 + length)}"


def halves(length: int) -> str:
    """First and second half, which no frame by itself tells since ramps go both ways; a middle frame has no label."""
    return "first\n" * (length // 2) + "\n" * (length % 2) + "second\n" * (length // 2)


@pytest.fixture(scope="module")
def labeled_data(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Data:
    """The toy videos with a column for each task."""
    folder = tmp_path_factory.mktemp("tasks")
    features = open_cache(data.cache)[data.name]
    (folder / "frames").mkdir()
    with data.manifest.open(newline="") as stream, (folder / "manifest.csv").open("w", newline="") as made:
        writer = csv.DictWriter(made, ["path", "label", "split", "group", "attributes", "slope", "actions"])
        writer.writeheader()
        for row in csv.DictReader(stream):
            length = features.length(row["path"])
            name = f"frames/{row['path'].replace('/', '-')}.txt"
            (folder / name).write_text(halves(length))
            writer.writerow(
                {**row, "attributes": attributes(row, length), "slope": slope(row, length), "actions": name}
            )
    return Data(data.cache, data.name, folder / "manifest.csv")


def configure(data: Data, runs: Path = Path("runs"), **changes: Any) -> FitConfig:
    base = FitConfig(
        manifest=data.manifest, cache=data.cache, runs=runs, units=8, epochs=25, learning_rate=0.02, dropout=0.0
    )
    return replace(base, **changes)


def read_csv(path: Path) -> list[Row]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def scores_of_saved_model(run: Run, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """What the saved model gives for the test videos in the order of ``logits.npz``, and what is there."""
    predictions = read_predictions(run.folder / "logits.npz").of_split("test")
    model = keras.saving.load_model(run.folder / "model.keras", safe_mode=True)
    batch, lengths = open_cache(data.cache)[data.name].batch(predictions.video_id.tolist())
    mask = np.arange(batch.shape[1]) < lengths[:, None]
    found = keras.ops.convert_to_numpy(model({"features": batch.astype(np.float32), "mask": mask}))
    return found[mask] if found.ndim == 3 else found, predictions.logits


def test_several_labels_are_learned_and_told(labeled_data: Data, tmp_path: Path) -> None:
    config = configure(labeled_data, tmp_path, task="multilabel", target="attributes", class_weights=True)
    run = fit("toy.gap", config)
    record = run.record
    assert (record["task"], record["measure"], record["classes"]) == ("multilabel", "map", ["long", "rising"])
    assert set(record["metrics"]["test"]) == {"map", "lrap", "macro_f1", "micro_f1", "loss"}
    assert record["metrics"]["test"]["map"] > 0.95
    assert record["baseline"]["test"]["map"] < 0.9
    assert set(record["per_class"]["test"]["rising"]) == {"precision", "recall", "f1", "support", "average_precision"}
    assert {"loss", "lrap", "val_loss", "val_lrap", "val_map"} < set(read_csv(run.folder / "history.csv")[0])
    rows = read_csv(run.folder / "predictions.csv")
    assert len(rows) == 40
    assert {row["label"] for row in rows} == {"", "long", "rising", "rising;long"}
    chosen = [row for row in rows if ";" in row["predicted"]]
    assert {row["predicted"] for row in chosen} == {"long;rising"}
    assert all(float(one) > 0.5 for row in chosen for one in row["probability"].split(";"))
    np.testing.assert_allclose(*scores_of_saved_model(run, labeled_data), atol=1e-4)
    assert {path.name for path in run.folder.glob("*.png")} == {"per-class.png", "learning-curve.png"}


def test_a_number_is_learned_and_told_in_its_own_units(labeled_data: Data, tmp_path: Path) -> None:
    run = fit("toy.gap", configure(labeled_data, tmp_path, task="regression", target="slope", epochs=40))
    record = run.record
    assert (record["task"], record["measure"], record["classes"]) == ("regression", "mae", [])
    assert set(record["metrics"]["test"]) == {"mae", "rmse", "r2", "loss"}
    assert record["metrics"]["test"]["mae"] < 3 < 5 < record["baseline"]["test"]["mae"]
    assert record["metrics"]["test"]["r2"] > 0.8
    assert record["metrics"]["test"]["loss"] < 0.5  # in standard deviations of the train split
    assert record["per_class"] == {}
    rows = [row for row in read_csv(run.folder / "predictions.csv") if row["split"] == "test"]
    errors = [abs(float(row["label"]) - float(row["predicted"])) for row in rows]
    assert np.mean(errors) == pytest.approx(record["metrics"]["test"]["mae"], rel=1e-3)
    np.testing.assert_allclose(*scores_of_saved_model(run, labeled_data), rtol=1e-5)
    assert {path.name for path in run.folder.glob("*.png")} == {"scatter.png", "learning-curve.png"}


def test_frames_are_learned_and_told_where_they_have_labels(labeled_data: Data, tmp_path: Path) -> None:
    config = configure(labeled_data, tmp_path, task="frames", target="actions", clip="crop", max_len=8)
    run = fit("toy.gap", config)
    record = run.record
    assert (record["task"], record["measure"], record["classes"]) == ("frames", "accuracy", ["first", "second"])
    assert set(record["metrics"]["test"]) == {"accuracy", "macro_f1", "loss", "edit", "f1@10", "f1@25", "f1@50"}
    assert record["metrics"]["test"]["accuracy"] > 0.9
    assert record["metrics"]["test"]["edit"] > 0.9
    assert record["baseline"]["test"]["accuracy"] < 0.7
    predictions = read_predictions(run.folder / "logits.npz")
    features = open_cache(labeled_data.cache)[labeled_data.name]
    assert predictions.lengths is not None
    assert predictions.lengths.tolist() == [features.length(name) for name in predictions.video_id]
    odd = int((predictions.lengths % 2).sum())
    assert (predictions.targets == -1).sum() == odd > 0
    support = sum(one["support"] for one in record["per_class"]["test"].values())
    assert support == (predictions.of_split("test").targets >= 0).sum()
    rows = read_csv(run.folder / "predictions.csv")
    times = [(row["start"], row["end"]) for row in rows if row["video_id"] == rows[0]["video_id"]]
    assert times[0][0] == "0"
    assert [start for start, _ in times[1:]] == [end for _, end in times[:-1]]
    assert float(times[-1][1]) == pytest.approx(predictions.lengths[0] * 0.1)
    assert {row["true"] for row in rows} == {"", "first", "second"}
    assert {path.name for path in run.folder.glob("*.png")} == {"confusion.png", "learning-curve.png"}


def test_a_class_may_be_in_another_column(labeled_data: Data, tmp_path: Path) -> None:
    features = open_cache(labeled_data.cache)[labeled_data.name]
    rows = read_csv(labeled_data.manifest)
    manifest = tmp_path / "m.csv"
    manifest.write_text(
        "\n".join(["path,split,side", *(f"{row['path']},{row['split']},{row['label']}" for row in rows)])
    )
    config = configure(labeled_data, manifest=manifest)
    assert label_videos(features, replace(config, target="side")).classes == ("down", "up")
    with pytest.raises(InputError, match=r"m.csv: no column 'sied', found path, split, side; did you mean 'side'\?"):
        label_videos(features, replace(config, target="sied"))
    with pytest.raises(InputError, match="have no label"):
        label_videos(features, config)
    with pytest.raises(InputError, match=r"--target 'side': .* is a folder"):
        label_videos(features, replace(config, target="side", manifest=tmp_path))


def labeled(task: type[Task], **splits: Any) -> LabeledVideos:
    """Labels as the task takes them, split up."""
    names = {split: [f"{split}{number}" for number in range(len(labels))] for split, labels in splits.items()}
    videos = {split: tuple(Video(name, Path(name), split=split) for name in names[split]) for split in splits}
    labels = {name: label for split in splits for name, label in zip(names[split], splits[split], strict=True)}
    found = LabeledVideos((), videos, {}, labels=labels)
    return replace(found, classes=task.check(found, "m.csv"))


@pytest.mark.parametrize(
    ("task", "splits", "message"),
    [
        (Multilabel, {"train": [("a",)], "val": [("b", "a")]}, "label 'b' is in the val split but not in train"),
        (Multilabel, {"train": [("a",)], "val": [()]}, "no video of the val split has a label"),
        (Regression, {"train": [1.0, 2.0], "val": [3.0, 3.0]}, "the val split has only the number 3"),
        (Regression, {"train": [1e9, 1e9 + 1], "val": [3.0, 4.0]}, r"the train split has only the number 1e\+09"),
    ],
)
def test_labels_that_cannot_be_learned_or_judged_are_refused(
    task: type[Task], splits: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        labeled(task, **splits)


def test_labels_of_several_are_read_once_each_and_none_is_allowed() -> None:
    videos = [Video("1", Path("1"), " b; a;;b "), Video("2", Path("2"), None)]
    labels = Multilabel.read(videos, None, FitConfig())  # type: ignore[arg-type]
    assert labels == {"1": ("a", "b"), "2": ()}


@pytest.mark.parametrize("label", [None, "tall", "nan", "1e39", "1,5"])
def test_what_is_no_number_is_named(label: str | None) -> None:
    videos = [Video("right", Path("right"), "-1.5e3"), Video("wrong", Path("wrong"), label)]
    config = FitConfig(task="regression", target="height", manifest=Path("m.csv"))
    with pytest.raises(
        InputError, match=r"m.csv: column 'height' holds no number for 1 of 2 videos \('.*' of 'wrong'\)"
    ):
        Regression.read(videos, None, config)  # type: ignore[arg-type]
    assert Regression.read(videos[:1], None, config) == {"right": -1500.0}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("../../outside.txt", "path '../../outside.txt' leads outside"),
        ("", "column 'actions' names no file with frame labels for 1 of 40 videos"),
        ("frames/gone.txt", "frames/gone.txt: no such file"),
        ("frames/up-train1.mp4.txt.pdf", "found '.pdf'"),
    ],
)
def test_frame_labels_are_files_within_the_manifests_root(
    labeled_data: Data, tmp_path: Path, wrong: str, message: str
) -> None:
    shutil.copytree(labeled_data.manifest.parent, tmp_path / "all")
    manifest = tmp_path / "all/manifest.csv"
    manifest.write_text(manifest.read_text().replace("frames/down-train0.mp4.txt", wrong))
    (tmp_path.parent / "outside.txt").write_text("a\n" * 9)
    features = open_cache(labeled_data.cache)[labeled_data.name]
    config = configure(labeled_data, task="frames", target="actions", max_len=0, manifest=manifest)
    with pytest.raises(InputError, match=message):
        label_videos(features, config)


def test_strata_are_rare_labels_and_fifths_of_numbers() -> None:
    labels = {"1": ("a", "b"), "2": ("a",), "3": ("a", "c"), "4": ("b",), "5": ()}
    assert Multilabel.strata(labels) == {"1": "b", "2": "a", "3": "c", "4": "b", "5": ""}
    numbers = {str(number): number**3 for number in range(10)}
    assert list(Regression.strata(numbers).values()) == ["0", "0", "1", "1", "2", "2", "3", "3", "4", "4"]
    assert Classification.strata({"1": "x", "2": None}) == {"1": "x", "2": ""}


def test_weights_raise_what_is_rare() -> None:
    several = Multilabel(["common", "rare", "rarest"])
    targets = np.zeros((100, 3), bool)
    targets[:50, 0] = targets[:20, 1] = targets[:1, 2] = True
    assert several.weights(targets, balanced=True).tolist() == [1.0, 4.0, 10.0]  # not 99
    assert several.weights(targets, balanced=False).tolist() == [1.0, 1.0, 1.0]
    frames = Frames(["a", "b"]).weights(np.array([0, 0, 0, 1, -1, -1]), balanced=True)
    assert frames.tolist() == pytest.approx([4 / 6, 4 / 2])


TASK_CASES: dict[str, Callable[[np.random.Generator], tuple[Task, np.ndarray, np.ndarray]]] = {
    "multilabel": lambda rng: (Multilabel("abc"), rng.normal(size=(6, 3)), rng.random((6, 3)) < 0.5),
    "regression": lambda rng: (Regression(3.0, 2.0), rng.normal(size=(6, 1)), rng.normal(size=(6, 1))),
    "classification": lambda rng: (Classification("abc"), rng.normal(size=(6, 3)), rng.integers(0, 3, 6)),
}


@pytest.mark.parametrize("name", TASK_CASES)
def test_what_training_tells_is_what_the_metrics_say(name: str) -> None:
    task, logits, targets = TASK_CASES[name](np.random.default_rng(0))
    logits = logits.astype(np.float32)
    targets = targets.astype(np.float32) if name == "regression" else targets
    metrics = task.metrics(logits, targets)
    losses = task.losses(tf.constant(logits), tf.constant(targets), tf.ones(task.num_outputs))
    assert float(tf.reduce_mean(losses)) == pytest.approx(metrics["loss"], rel=1e-5)
    scores = task.scores(tf.constant(logits), tf.constant(targets))
    assert float(tf.reduce_mean(scores)) == pytest.approx(metrics[task.score], rel=1e-5)
    assert {task.measure, task.score, "loss"} <= set(metrics)


def test_a_true_label_weighs_as_much_as_asked_for() -> None:
    logits, targets = tf.constant([[1.0, -2.0]]), tf.constant([[True, False]])
    loss = Multilabel("ab").losses(logits, targets, tf.constant([3.0, 7.0]))
    assert loss.numpy() == pytest.approx((3 * np.log1p(np.exp(-1)) + np.log1p(np.exp(-2))) / 2)


def test_frames_without_a_label_and_padding_weigh_nothing() -> None:
    task = Frames(["a", "b"])
    logits = np.random.default_rng(0).normal(size=(2, 4, 2)).astype(np.float32)
    targets = np.array([[0, 1, -1, -1], [-1, -1, -1, -1]])
    weights = np.array([1.0, 3.0], np.float32)
    logs = logits[0] - np.log(np.exp(logits[0]).sum(axis=1, keepdims=True))
    expected = [-(logs[0, 0] + 3 * logs[1, 1]) / 2, 0]
    assert task.losses(tf.constant(logits), tf.constant(targets), weights).numpy() == pytest.approx(expected, rel=1e-5)
    right = [(logits[0, 0, 0] > logits[0, 0, 1]) / 2 + (logits[0, 1, 1] > logits[0, 1, 0]) / 2, 0]
    assert task.scores(tf.constant(logits), tf.constant(targets)).numpy() == pytest.approx(right)
    metrics = task.metrics(logits[0], targets[0])
    assert metrics["loss"] == pytest.approx(-(logs[0, 0] + logs[1, 1]) / 2, rel=1e-5)
    assert "edit" not in metrics
    assert task.metrics(logits[0], targets[0], np.array([4]))["edit"] in (0.0, 0.5, 1.0)


def test_each_frame_is_told_by_all_windows_that_hold_it_and_padding_has_no_target(data: Data) -> None:
    features = open_cache(data.cache)[data.name]
    videos = CachedSequences(features, features.video_ids[:10], ClipConfig(max_len=5, clip="windows", stride=2))
    targets = np.arange(videos.lengths.sum()) % 2
    feed = Feed(videos, targets, 4, per_frame=True)
    model = build_model(FitConfig(model="mean"), (8,), 2, np.zeros(8), np.ones(8), per_frame=True)
    rows = np.array([7, 2, 4])
    frames = [videos.take(int(row)).astype(np.float32) for row in rows]
    alone = [model({"features": one[None], "mask": np.ones((1, len(one)), bool)})[0] for one in frames]
    found = Trainer(model, feed, Frames("ab")).logits(rows)
    np.testing.assert_allclose(found, np.concatenate(alone), atol=1e-5)
    for plan in feed.evaluation(rows):
        read = feed.reader(plan)
        for number in range(len(plan.rows)):
            inputs, batch_targets, _ = read(number)
            assert ((batch_targets.numpy() == -1) == ~inputs["mask"].numpy()).all()


def test_each_name_of_a_task_makes_it() -> None:
    assert {name: task.name for name, task in TASKS.items()} == {name: name for name in TASKS}
    task = make_task(FitConfig(top_k=1), LabeledVideos(("a", "b"), {}, {}))
    assert set(task.metrics(np.eye(2), np.array([0, 1]))) == {"accuracy", "top1", "macro_f1", "loss"}
    regression = make_task(FitConfig(task="regression"), labeled(Regression, train=[1.0, 3.0], val=[0.0, 1.0]))
    assert regression.rescale == (1.0, 2.0)
    assert regression.targets([1.0, 3.0]).tolist() == [[1.0], [3.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "multi-label"}, r"--task 'multi-label': expected .*; did you mean 'multilabel'\?"),
        ({"task": "regression", "class_weights": True}, "--class-weights: expected classes, found numbers"),
        ({"task": "frames", "max_len": 0, "model": "attention-lstm"}, "--model attention-lstm: expected an output for"),
        ({"task": "frames"}, "--clip spread, which thins a video out to --max-len 32; choose --clip windows"),
        ({"top_k": 0}, "--top-k 0: expected at least 1"),
        ({"top_k": 3, "task": "multilabel"}, "--top-k 3: expected --task classification, found multilabel"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_settings_that_a_task_cannot_have_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FitConfig(**change)


def test_feature_sets_are_compared_by_the_accuracy_of_classes_only() -> None:
    with pytest.raises(InputError, match="--task frames: expected classification"):
        FidelityConfig(task="frames", max_len=0)
