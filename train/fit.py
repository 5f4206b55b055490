"""An experiment: a cached feature set, a manifest's labels, a sequence model, and the mean-pool baseline beside it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from framecache.cache.durable import PARTIAL_SUFFIX
from framecache.cache.errors import FramecacheError
from framecache.cache.manifest import SPLITS
from framecache.cache.projection import write_projection
from framecache.cache.sources import public_text
from framecache.cache.store import open_cache
from framecache.train.checkpoint import CHECKPOINT_FILE, Checkpoint
from framecache.train.config import FitConfig
from framecache.train.experiment import Experiment, Scored, Trained, open_experiment
from framecache.train.lineage import keep_lineage
from framecache.train.machine import describe_machine, use_threads
from framecache.train.outputs import per_class, write_figures, write_predictions
from framecache.train.predictions import PREDICTIONS_FILE, Predictions
from framecache.train.reuse import finished_run, labels_digest
from framecache.train.runs import EVENTS_FOLDER, RUN_FILE, Run
from framecache.train.splits.leakage import NearDuplicate
from framecache.train.splits.split_file import SPLITS_FILE, manifest_root, write_splits
from framecache.train.unfinished import CHECKPOINT_FOLDER, claimed_folder

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
    near = experiment.near_duplicates(config.near_duplicate)
    loaded = time.perf_counter()
    use_threads(config.threads)
    experiment.build(config)  # a wrong --model ends here, before anything is written
    built = time.perf_counter()
    identity = _resolved(experiment, config)
    with claimed_folder(config, experiment.features, identity) as folder:
        checkpoint = Checkpoint(folder / CHECKPOINT_FOLDER / CHECKPOINT_FILE, _tell if progress else lambda line: None)
        try:
            baseline = experiment.baseline(config)
            trained = experiment.train(config, folder, progress, checkpoint=checkpoint)
            seconds = {"load": loaded - begin, "compile": built - loaded + trained.history.compile_seconds}
            run = write_run(folder, experiment, config, trained, baseline, seconds, near)
        except BaseException as error:
            if isinstance(error, FramecacheError) or not checkpoint.path.exists():
                shutil.rmtree(folder, ignore_errors=True)  # there is nothing to go on from
            raise
        shutil.rmtree(folder / CHECKPOINT_FOLDER)
    return run


def fit_folds(feature_set: str, config: FitConfig, progress: bool = False) -> list[Run]:
    """Makes a run of each fold of a cross-validation; those that are there already are not made again.

    Args:
        feature_set: Its name, with or without fingerprint, or a prefix.
        config: Settings, with ``folds`` and without ``fold``; runs are named after ``name`` and their fold.
        progress: Whether to show progress bars, on a terminal.

    Raises:
        InputError: As of :func:`fit`.
        ShardError: As of :func:`fit`.
    """
    features = open_cache(config.cache)[feature_set]
    runs = []
    for fold in range(1, config.folds + 1):
        own = replace(config, fold=fold, name=None if config.name is None else f"{config.name}-fold{fold}")
        found = finished_run(features, own)
        if found is not None and progress:
            _tell(f"{found.folder} is finished")
        runs.append(found or fit(features.name, own, progress))
    return runs


def write_run(
    folder: Path,
    experiment: Experiment,
    config: FitConfig,
    trained: Trained,
    baseline: Scored,
    seconds: Mapping[str, float],
    near: Sequence[NearDuplicate] | None,
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
        near: Near-duplicates in two splits; None if nobody has looked for them.
        figures: Whether to draw what the model made of the last split, and the learning curve.
    """
    from framecache.train.events import write_hparams

    features, labeled, task = experiment.features, experiment.labeled, experiment.task
    history = trained.history
    record = {
        **_resolved(experiment, config),
        "command": command_of(features.name, config),
        "spec": features.spec.to_dict(),
        "feature_bytes": features.num_bytes,
        "seed": config.seed,
        "task": task.name,
        "measure": task.measure,
        "classes": list(task.classes),
        "num_videos": {split: len(rows) for split, rows in experiment.rows.items() if len(rows)},
        "left_out": dict(labeled.left_out),
        "near_duplicates": None if near is None else [asdict(each) for each in near],
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
    }
    write_splits(folder / SPLITS_FILE, labeled, manifest_root(config), config.target)
    trained.model.save(folder / "model.keras")
    keep_lineage(folder, features)
    if config.dense and ":" not in config.model:  # so that derive --dense can bake it
        kernel, bias = trained.model.get_layer("projection").get_weights()
        trained_on = [video.video_id for video in labeled.splits["train"]]
        write_projection(folder, features, experiment.statistics, kernel, bias, trained_on)
    write_predictions(folder / "predictions.csv", experiment, trained.logits)
    _predictions(experiment, trained, baseline).write(folder / PREDICTIONS_FILE)
    if figures:
        write_figures(folder, experiment, trained)
    write_hparams(folder / EVENTS_FOLDER, record)
    partial = folder / f".{RUN_FILE}{PARTIAL_SUFFIX}"
    partial.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, folder / RUN_FILE)
    return Run(folder, record)


def command_of(feature_set: str, config: FitConfig) -> str:
    """The shell command that makes a run of these settings: those that are not the defaults, but for its name."""
    words = ["framecache-train", "fit", feature_set]
    for field in fields(config):
        value = getattr(config, field.name)
        if value == field.default or field.name == "name":
            continue
        flag = "--" + field.name.replace("_", "-")
        text = public_text(value) if isinstance(value, Path) else str(value)
        words += [flag] if value is True else [flag, text]
    return shlex.join(words)


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


def _resolved(experiment: Experiment, config: FitConfig) -> dict[str, Any]:
    """What decides the numbers of a run, for ``run.json``."""
    return {
        "config": _plain(asdict(config)),
        "feature_set": experiment.features.name,
        "fingerprint": experiment.features.fingerprint,
        "labels": labels_digest(experiment.labeled, experiment.task),
        "machine": describe_machine(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: public_text(value) if isinstance(value, Path) else value for name, value in values.items()}
