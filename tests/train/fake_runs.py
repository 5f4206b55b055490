"""Finished runs without a training: folders as ``framecache-train fit`` leaves them, with made-up outputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from framecache.train.config import FitConfig
from framecache.train.predictions import Predictions, read_predictions
from framecache.train.tasks.metrics import classification_metrics

CLASSES = ("down", "still", "up")
COUNTS = {"train": 12, "val": 9, "test": 30}


def write_run(
    folder: Path,
    *,
    skill: float = 2.0,
    val_skill: float | None = None,
    seed: int = 0,
    feature_set: str = "toy.gap-00000001",
    classes: Sequence[str] = CLASSES,
    counts: dict[str, int] | None = None,
    feature_bytes: int = 4096,
    prefix: str = "v",
    record: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """Writes a run on videos ``<split>/<prefix><number>``, of which the last ones are the hardest.

    Args:
        folder: Where.
        skill: How far the true class's logit is above the others; 0 for guessing.
        val_skill: The same on val.
        seed: Of the training, and of the noise.
        feature_set: Full name.
        classes: Names of the classes.
        counts: Videos per split.
        feature_bytes: Of the feature set.
        prefix: Of the videos' names.
        record: What to change in ``run.json``.
        settings: Of the config.
    """
    val_skill = skill if val_skill is None else val_skill
    rng = np.random.default_rng([seed, *map(ord, folder.name)])
    counts = counts or COUNTS
    split = np.repeat(list(counts), list(counts.values()))
    ids = np.array([f"{name}/{prefix}{number:03d}" for name in counts for number in range(counts[name])])
    targets = np.concatenate([np.arange(number) % len(classes) for number in counts.values()])
    ease = np.concatenate([np.linspace(1.5, 0.2, number) for number in counts.values()])
    truth = np.eye(len(classes))[targets] * ease[:, None]
    strength = np.where(split == "val", val_skill, skill)[:, None]
    logits, baseline = (
        (truth * strength * share + rng.normal(size=truth.shape)).astype(np.float32) for share in (1, 0.5)
    )
    config = asdict(FitConfig(seed=seed, **{"epochs": 12, **settings}))
    metrics, baseline_metrics = (
        {
            name: classification_metrics(outputs[split == name], targets[split == name]) if name in counts else None
            for name in ("val", "test")
        }
        for outputs in (logits, baseline)
    )
    folder.mkdir(parents=True)
    Predictions(ids, split, logits, baseline, targets.astype(np.int64)).write(folder / "logits.npz")
    epochs = range(1, 13)
    curve = [1 / (1 + skill * epoch / 6) + 0.05 * rng.random() for epoch in epochs]
    lines = [
        f"{epoch},{loss:.4f},{1 - loss:.4f},{loss + 0.1:.4f},{0.9 - loss:.4f}"
        for epoch, loss in zip(epochs, curve, strict=True)
    ]
    (folder / "history.csv").write_text("\n".join(["epoch,loss,accuracy,val_loss,val_accuracy", *lines]) + "\n")
    told = {
        "config": {name: str(value) if isinstance(value, Path) else value for name, value in config.items()},
        "command": f"framecache-train fit {feature_set} --manifest 'my videos.csv' --seed {seed}",
        "feature_set": feature_set,
        "fingerprint": feature_set.rpartition("-")[2] * 8,
        "feature_bytes": feature_bytes,
        "seed": seed,
        "task": "classification",
        "measure": "accuracy",
        "classes": list(classes),
        "num_videos": counts,
        "parameters": 100 * config["units"],
        "metrics": metrics,
        "baseline": baseline_metrics,
        "seconds": {"load": 0.1, "compile": 0.2, "train": round(0.01 * config["units"] + rng.random(), 3)},
    }
    (folder / "run.json").write_text(json.dumps({**told, **(record or {})}))
    return folder


def make_old(folder: Path) -> Path:
    """Makes of a run what an older version left: ``predictions.csv``, and less in ``run.json``."""
    path = folder / "run.json"
    record = json.loads(path.read_text())
    predictions = read_predictions(folder / "logits.npz")
    rows = ["video_id,split,label,predicted,probability"]
    for video_id, split, target, logits in zip(
        predictions.video_id, predictions.split, predictions.targets, predictions.logits, strict=True
    ):
        rows.append(f"{video_id},{split},{record['classes'][target]},{record['classes'][logits.argmax()]},0.5")
    (folder / "predictions.csv").write_text("\n".join(rows) + "\n")
    (folder / "logits.npz").unlink()
    for name in ("task", "measure", "parameters", "feature_bytes", "command"):
        del record[name]
    for name in ("clip", "stride", "jitter", "noise"):
        del record["config"][name]
    path.write_text(json.dumps(record))
    return folder
