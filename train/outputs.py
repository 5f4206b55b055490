"""What a run shows of its predictions, task by task: ``predictions.csv``, figures, and metrics per class."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from framecache.cache.manifest import SPLITS
from framecache.train.experiment import Experiment, Trained

Logits = Mapping[str, NDArray[np.float32]]


def write_predictions(path: Path, experiment: Experiment, logits: Logits) -> None:
    """Writes what was predicted of each video of every split; of frame labels, a row per stretch of frames.

    Args:
        path: The CSV file.
        experiment: What was trained on.
        logits: Per split, as of :class:`~framecache.train.experiment.Trained`.
    """
    task, features = experiment.task, experiment.features
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["video_id", "split", "label", *task.columns])
        for split in SPLITS:
            if split not in logits:
                continue
            rows = experiment.rows[split]
            lengths = experiment.sequences.lengths[rows] if task.per_frame else np.ones(len(rows), np.int64)
            cuts = np.cumsum(lengths)[:-1]
            targets = np.split(experiment.feed.targets_of(rows), cuts)
            videos = zip(experiment.labeled.splits[split], np.split(logits[split], cuts), targets, strict=True)
            for video, outputs, target in videos:
                times = features.timestamps_ms(video.video_id) if task.per_frame else None
                for row in task.rows(outputs, target, times):
                    writer.writerow([video.video_id, split, video.label, *row])


def per_class(experiment: Experiment, logits: Logits) -> dict[str, dict[str, dict[str, float]]]:
    """Metrics per class of the split that is told of, under its name; empty where there are no classes."""
    split = _told_of(logits)
    found = experiment.task.per_class(logits[split], experiment.feed.targets_of(experiment.rows[split]))
    return {split: found} if found else {}


def write_figures(folder: Path, experiment: Experiment, trained: Trained) -> None:
    """Draws the learning curve, and what the model made of the split that is told of."""
    from framecache.train.plots import plot_learning_curve

    split, task = _told_of(trained.logits), experiment.task
    told = (experiment.metrics(trained.logits)[split] or {})[task.measure]
    targets = experiment.feed.targets_of(experiment.rows[split])
    task.draw(folder, trained.logits[split], targets, f"{folder.name}: {split} {task.measure} {told:.3f}")
    history = trained.history
    plot_learning_curve(folder / "learning-curve.png", history.measures, history.best_epoch, folder.name)


def _told_of(logits: Logits) -> str:
    return "test" if "test" in logits else "val"
