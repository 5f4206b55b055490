"""An experiment: a cached feature set, a manifest's labels, a sequence model, and the mean-pool baseline beside it."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from framecache.cache.errors import InputError
from framecache.cache.manifest import SPLITS
from framecache.cache.projection import write_projection
from framecache.cache.reader import FeatureSet
from framecache.cache.spec import folder_name
from framecache.train.config import FitConfig
from framecache.train.experiment import Experiment, Scored, Trained, open_experiment
from framecache.train.outputs import per_class, write_figures, write_predictions
from framecache.train.predictions import PREDICTIONS_FILE, Predictions
from framecache.train.runs import RUN_FILE, Run

_PACKAGES = ("framecache", "tensorflow", "keras", "numpy")


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
    experiment = open_experiment(feature_set, config)
    config = experiment.settle(config)
    loaded = time.perf_counter()
    experiment.build(config)  # a wrong --model ends here, before anything is written
    built = time.perf_counter()
    folder = new_folder(config, experiment.features)
    try:
        baseline = experiment.baseline(config)
        trained = experiment.train(config, folder, progress)
        seconds = {"load": loaded - begin, "compile": built - loaded + trained.history.compile_seconds}
        return write_run(folder, experiment, config, trained, baseline, seconds)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # half a run would only be in the way of the next
        raise


def write_run(
    folder: Path,
    experiment: Experiment,
    config: FitConfig,
    trained: Trained,
    baseline: Scored,
    seconds: Mapping[str, float],
    figures: bool = True,
) -> Run:
    """Fills the folder of a run, its ``run.json`` last, so that a folder with one is a finished run.

    Args:
        folder: The run's; what the training wrote is in it already.
        experiment: What was trained on.
        config: The settings, as :meth:`~framecache.train.experiment.Experiment.settle` gives them.
        trained: The training, the last one of its model.
        baseline: That of the mean-pool baseline.
        seconds: What came before: ``load`` and ``compile``.
        figures: Whether to draw what the model made of the last split, and the learning curve.
    """
    features, labeled, task = experiment.features, experiment.labeled, experiment.task
    history = trained.history
    record = {
        "config": _plain(asdict(config)),
        "command": command_of(features.name, config),
        "feature_set": features.name,
        "fingerprint": features.fingerprint,
        "spec": features.spec.to_dict(),
        "feature_bytes": features.num_bytes,
        "seed": config.seed,
        "task": task.name,
        "measure": task.measure,
        "classes": list(task.classes),
        "num_videos": {split: len(rows) for split, rows in experiment.rows.items() if len(rows)},
        "left_out": dict(labeled.left_out),
        "parameters": trained.model.count_params(),
        "epochs": history.num_epochs,
        "best_epoch": history.best_epoch,
        "metrics": experiment.metrics(trained.logits),
        "per_class": per_class(experiment, trained.logits),
        "baseline": experiment.metrics(baseline.logits),
        "seconds": {
            name: round(value, 3)
            for name, value in {**seconds, "train": history.train_seconds, "baseline": baseline.seconds}.items()
        },
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    trained.model.save(folder / "model.keras")
    if config.dense and ":" not in config.model:  # so that derive --dense can bake it
        kernel, bias = trained.model.get_layer("projection").get_weights()
        trained_on = [video.video_id for video in labeled.splits["train"]]
        write_projection(folder, features, experiment.statistics, kernel, bias, trained_on)
    write_predictions(folder / "predictions.csv", experiment, trained.logits)
    _predictions(experiment, trained, baseline).write(folder / PREDICTIONS_FILE)
    if figures:
        write_figures(folder, experiment, trained)
    (folder / RUN_FILE).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Run(folder, record)


def command_of(feature_set: str, config: FitConfig) -> str:
    """The shell command that makes a run of these settings: those that are not the defaults, but for its name."""
    words = ["framecache-train", "fit", feature_set]
    for field in fields(config):
        value = getattr(config, field.name)
        if value == field.default or field.name == "name":
            continue
        flag = "--" + field.name.replace("_", "-")
        words += [flag] if value is True else [flag, str(value)]
    return shlex.join(words)


def new_folder(config: FitConfig, features: FeatureSet) -> Path:
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


def _predictions(experiment: Experiment, trained: Trained, baseline: Scored) -> Predictions:
    splits = [split for split in SPLITS if split in trained.logits]
    lengths = experiment.sequences.lengths if experiment.task.per_frame else None
    return Predictions(
        np.array(experiment.sequences.video_ids),
        np.repeat(splits, [len(experiment.rows[split]) for split in splits]),
        np.concatenate([trained.logits[split] for split in splits]),
        np.concatenate([baseline.logits[split] for split in splits]),
        experiment.targets,
        lengths,
    )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
