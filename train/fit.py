"""An experiment: a cached feature set, a manifest's labels, a sequence model, and the mean-pool baseline beside it."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError
from framecache.cache.manifest import SPLITS
from framecache.cache.projection import write_projection
from framecache.cache.quiet import quiet_stderr
from framecache.cache.reader import FeatureSet
from framecache.cache.spec import folder_name
from framecache.cache.store import open_cache
from framecache.train.config import FitConfig
from framecache.train.data import Sequences, channel_statistics, class_weights
from framecache.train.labels import label_videos, refuse_fitted_on_held_out, refuse_hurt
from framecache.train.metrics import classification_metrics, confusion_matrix, log_softmax
from framecache.train.runs import RUN_FILE, Run
from framecache.train.splits import LabeledVideos

if TYPE_CHECKING:
    from framecache.train.feed import Feed
    from framecache.train.trainer import History

GRID_DENSE = 64  # units of the projection that a flattened grid gets unless another is asked for


def fit(feature_set: str, config: FitConfig, progress: bool = False) -> Run:
    """Trains a sequence model and the mean-pool baseline on a cached feature set, and writes the run.

    Args:
        feature_set: Its name, with or without fingerprint, or a prefix.
        config: Settings; ``manifest`` is needed.
        progress: Whether to show progress bars, on a terminal.

    Raises:
        InputError: A name, a label, a split or a setting is wrong, or features are hurt; nothing was written.
        ShardError: A shard is missing or cannot be read; nothing was written.
    """
    begin = time.perf_counter()
    features = open_cache(config.cache)[feature_set]
    labeled = label_videos(features, config)
    videos = [video for split in SPLITS for video in labeled.splits[split]]
    refuse_fitted_on_held_out(features, labeled)
    refuse_hurt(features, [video.video_id for video in videos])
    if len(features.feature_shape) > 1 and not config.dense and ":" not in config.model and config.model != "mean":
        config = replace(config, dense=GRID_DENSE)
    targets = np.array([target for split in SPLITS for target in labeled.targets(split)], np.int64)
    sequences = Sequences(features, tuple(video.video_id for video in videos), targets, config.max_len)
    statistics = channel_statistics(sequences, range(len(labeled.splits["train"])))
    loaded = time.perf_counter()

    experiment = _Experiment(config, labeled, sequences, statistics)
    model = experiment.build(config)  # a wrong --model ends here, before anything is written
    folder = _new_folder(config, features)
    try:
        record = _train(experiment, model, config, features, folder, (begin, loaded), progress)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # half a run would only be in the way of the next
        raise
    return Run(folder, record)


def _train(
    experiment: _Experiment,
    model: Any,
    config: FitConfig,
    features: FeatureSet,
    folder: Path,
    started: tuple[float, float],
    progress: bool,
) -> dict[str, Any]:
    """Trains model and baseline and fills the run's folder; gives what its ``run.json`` says."""
    begin, loaded = started
    labeled = experiment.labeled
    built = time.perf_counter()
    baseline_config = replace(config, model="mean", dense=0)
    baseline = experiment.train(experiment.build(baseline_config), baseline_config, None, progress)
    trained = experiment.train(model, config, folder, progress)
    record = {
        "config": _plain(asdict(config)),
        "feature_set": features.name,
        "fingerprint": features.fingerprint,
        "spec": features.spec.to_dict(),
        "seed": config.seed,
        "classes": list(labeled.classes),
        "num_videos": {split: len(rows) for split, rows in experiment.rows.items() if len(rows)},
        "left_out": dict(labeled.left_out),
        "epochs": trained.history.num_epochs,
        "best_epoch": trained.history.best_epoch,
        "metrics": experiment.metrics(trained.logits),
        "baseline": experiment.metrics(baseline.logits),
        "seconds": {
            "load": round(loaded - begin, 3),
            "compile": round(built - loaded + trained.history.compile_seconds, 3),
            "train": round(trained.history.train_seconds, 3),
            "baseline": round(baseline.seconds, 3),
        },
        "versions": {name: importlib.metadata.version(name) for name in ("framecache", "tensorflow", "keras", "numpy")},
    }
    model.save(folder / "model.keras")
    if config.dense and ":" not in config.model:  # so that derive --dense can bake it
        kernel, bias = model.get_layer("projection").get_weights()
        trained_on = [video.video_id for video in labeled.splits["train"]]
        write_projection(folder, features, experiment.statistics, kernel, bias, trained_on)
    _write_predictions(folder / "predictions.csv", labeled, trained.logits)
    _write_figures(folder, labeled, trained)
    # Last, so that a folder with a run.json is a finished run.
    (folder / RUN_FILE).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return record


@dataclass(frozen=True)
class _Experiment:
    """What a model and its baseline share: features, labels, and the batches made of both."""

    config: FitConfig
    labeled: LabeledVideos
    sequences: Sequences  # of all splits, one after the other
    statistics: tuple[NDArray[np.float64], NDArray[np.float64]]

    @cached_property
    def rows(self) -> dict[str, NDArray[np.int64]]:
        """Positions of each split's videos in :attr:`sequences`."""
        counts = [len(self.labeled.splits[split]) for split in SPLITS]
        return dict(zip(SPLITS, np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1]), strict=True))

    @cached_property
    def feed(self) -> Feed:
        """The batches; one length for all splits, so that each graph is traced once."""
        from framecache.train.feed import Feed

        return Feed(self.sequences, self.config.batch_size, self.sequences.seq_len)

    def build(self, config: FitConfig) -> Any:
        with quiet_stderr():
            import keras
            import tensorflow  # noqa: F401

        from framecache.train.models import build_model

        keras.utils.set_random_seed(config.seed)
        shape = self.sequences.features.feature_shape
        return build_model(config, shape, len(self.labeled.classes), *self.statistics)

    def train(self, model: Any, config: FitConfig, folder: Path | None, progress: bool) -> _Trained:
        """Trains a model; gives its history and its logits of every split."""
        import keras

        from framecache.train.trainer import Trainer

        begin = time.perf_counter()
        keras.utils.set_random_seed(config.seed)
        targets = self.sequences.targets[self.rows["train"]]
        weights = class_weights(targets, len(self.labeled.classes)) if config.class_weights else None
        trainer = Trainer(model, self.feed, weights)
        history = trainer.train(self.rows["train"], self.rows["val"], config, folder, progress)
        seconds = time.perf_counter() - begin
        logits = {split: trainer.logits(rows) for split, rows in self.rows.items() if len(rows)}
        return _Trained(history, logits, seconds)

    def metrics(self, logits: Mapping[str, NDArray[np.float32]]) -> dict[str, dict[str, float] | None]:
        return {
            split: classification_metrics(logits[split], self.sequences.targets[self.rows[split]])
            if split in logits
            else None
            for split in ("val", "test")
        }


@dataclass(frozen=True)
class _Trained:
    """How a training went, the logits of every split that has videos, and the seconds it took."""

    history: History
    logits: dict[str, NDArray[np.float32]]
    seconds: float


def _new_folder(config: FitConfig, features: FeatureSet) -> Path:
    """A folder of its own for the run; an older run is never written over."""
    if config.name is not None:
        folder = config.runs / config.name
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise InputError(f"--name {config.name!r}: {folder} exists already; choose another name") from None
        return folder
    config.runs.mkdir(parents=True, exist_ok=True)
    stem = f"{features.spec.short_name}-{folder_name(config.model)}-seed{config.seed}"
    number = 1
    while True:
        folder = config.runs / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _write_predictions(path: Path, labeled: LabeledVideos, logits: Mapping[str, NDArray[np.float32]]) -> None:
    """One row per video of every split: its label, the predicted one and that one's probability."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["video_id", "split", "label", "predicted", "probability"])
        for split in SPLITS:
            if split not in logits:
                continue
            probabilities = np.exp(log_softmax(logits[split]))
            for video, row in zip(labeled.splits[split], probabilities, strict=True):
                best = int(row.argmax())
                writer.writerow([video.video_id, split, video.label, labeled.classes[best], f"{row[best]:.4f}"])


def _write_figures(folder: Path, labeled: LabeledVideos, trained: _Trained) -> None:
    from framecache.train.plots import plot_confusion, plot_learning_curve

    split = "test" if "test" in trained.logits else "val"
    predicted = trained.logits[split].argmax(axis=1)
    counts = confusion_matrix(np.array(labeled.targets(split), np.int64), predicted, len(labeled.classes))
    share = counts.trace() / counts.sum()
    history = trained.history
    plot_confusion(folder / "confusion.png", counts, labeled.classes, f"{folder.name}: {split} accuracy {share:.3f}")
    plot_learning_curve(folder / "learning-curve.png", history.measures, history.best_epoch, folder.name)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
