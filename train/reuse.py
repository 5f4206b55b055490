"""Runs that need not be made again: those of the same settings, features, labels and splits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import xxhash

from framecache.cache.errors import InputError
from framecache.cache.manifest import SPLITS
from framecache.cache.reader import FeatureSet
from framecache.cache.spec import diff_specs
from framecache.train.config import NOT_COMPARED, FitConfig
from framecache.train.experiment import GRID_DENSE
from framecache.train.runs import RUN_FILE, Run, open_run
from framecache.train.splits.labels import label_videos
from framecache.train.splits.split_file import SPLITS_FILE, manifest_root
from framecache.train.splits.splitting import LabeledVideos
from framecache.train.tasks.registry import Task, make_task
from framecache.train.unfinished import unfinished_identity, wanted_folder


def refuse_other_table(path: Path, config: FitConfig) -> None:
    """Refuses to write over a table of another experiment; other seeds are no other experiment.

    Raises:
        InputError: It is one, or no table at all.
    """
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["config"]
        changes = _changes(before, asdict(config), (*NOT_COMPARED, "seed", "num_seeds"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: is no table of framecache-train fidelity; choose another --name") from error
    if changes:
        raise InputError(f"{path}: is of other settings ({changes}); choose another --name, or remove {path.parent}")


def same_run(folder: Path, features: FeatureSet, wanted: FitConfig, labeled: LabeledVideos) -> Run | None:
    """The run of exactly these features, settings and labels; None if it is unfinished, so that fit goes on with it.

    Raises:
        InputError: It is another one, or none.
    """
    remedy = f"choose another --name, or remove {folder}"
    unfinished = unfinished_identity(folder)
    if unfinished is None and not (folder / RUN_FILE).is_file():
        raise InputError(f"{folder}: is no finished run; {remedy}")
    run = open_run(folder) if unfinished is None else Run(folder, unfinished)
    if run.record.get("fingerprint") != features.fingerprint:
        raise InputError(f"{folder}: is a run on other features than {features.name}; {remedy}")
    before = dict(run.record.get("config") or {})
    if not wanted.dense and len(features.feature_shape) > 1 and before.get("dense") == GRID_DENSE:
        before["dense"] = 0  # what a grid gets of its own accord
    changes = _changes(before, asdict(wanted), NOT_COMPARED)
    if changes:
        raise InputError(f"{folder}: is a run of other settings ({changes}); {remedy}")
    if run.record.get("labels") != labels_digest(labeled, make_task(wanted, labeled)):
        raise InputError(
            f"{folder}: is a run with other labels or splits than {wanted.manifest_name} has now; {remedy}"
        )
    return run if unfinished is None else None


def finished_run(features: FeatureSet, wanted: FitConfig) -> Run | None:
    """The finished run of these settings under the name that it would get; None where there is none."""
    folder = wanted_folder(wanted, features)
    if not (folder / RUN_FILE).is_file():
        return None
    labeled = label_videos(features, wanted)
    try:
        return same_run(folder, features, wanted, labeled)
    except InputError:
        if wanted.name is not None:
            raise
        return None


def refuse_other_labels(run: Run, features: FeatureSet, wanted: FitConfig) -> None:
    """Refuses to repeat a run from a manifest whose labels or splits are no longer those of the run.

    Args:
        run: The run.
        features: What it was trained on.
        wanted: Settings with the manifest as it would be read now.

    Raises:
        InputError: They are others.
    """
    then = run.config()
    now = replace(then, manifest=wanted.manifest, root=wanted.root, cache=wanted.cache)
    labeled = label_videos(features, now)
    if run.record.get("labels") == labels_digest(labeled, make_task(now, labeled)):
        return
    remedy = "train on these by fit SET, without --from"
    if not then.folds and (run.folder / SPLITS_FILE).is_file():
        remedy += f"; those of the run are in {run.folder / SPLITS_FILE}: --manifest, with --root {manifest_root(now)}"
    raise InputError(
        f"{run.folder}: was trained with other labels or splits than {now.manifest_name} has now; {remedy}"
    )


def labels_digest(labeled: LabeledVideos, task: Task) -> str:
    """Digest of videos, splits, classes and targets, in their order."""
    videos = [(split, video.video_id) for split in SPLITS for video in labeled.splits[split]]
    targets = task.targets([labeled.labels[video_id] for _, video_id in videos])
    content = json.dumps([videos, task.classes]).encode() + targets.tobytes()
    return str(xxhash.xxh3_128_hexdigest(content))


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], but: Sequence[str]) -> str:
    old, new = ({key: value for key, value in side.items() if key not in but} for side in (before, now))
    return "; ".join(diff_specs(old, new))
