"""Runs that need not be made again: those of the same settings, features, labels and splits."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from framecache.cache.errors import InputError
from framecache.cache.reader import FeatureSet
from framecache.cache.spec import diff_specs
from framecache.train.config import FitConfig
from framecache.train.experiment import GRID_DENSE
from framecache.train.runs import RUN_FILE, Run, open_run
from framecache.train.splits import LabeledVideos

_NOT_COMPARED = ("manifest", "root", "cache", "runs", "name")  # where things are; what is in them is compared


def refuse_other_table(path: Path, config: FitConfig) -> None:
    """Refuses to write over a table of another experiment; other seeds are no other experiment.

    Raises:
        InputError: It is one, or no table at all.
    """
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["config"]
        changes = _changes(before, asdict(config), (*_NOT_COMPARED, "seed", "num_seeds"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: is no table of framecache-train fidelity; choose another --name") from error
    if changes:
        raise InputError(f"{path}: is of other settings ({changes}); choose another --name, or remove {path.parent}")


def same_run(folder: Path, features: FeatureSet, wanted: FitConfig, labeled: LabeledVideos) -> Run:
    """The finished run of exactly these features, settings and labels.

    Raises:
        InputError: It is another one, or none.
    """
    remedy = f"choose another --name, or remove {folder}"
    if not (folder / RUN_FILE).is_file():
        raise InputError(f"{folder}: is no finished run; {remedy}")
    run = open_run(folder)
    if run.record.get("fingerprint") != features.fingerprint:
        raise InputError(f"{folder}: is a run on other features than {features.name}; {remedy}")
    before = dict(run.record.get("config") or {})
    if not wanted.dense and len(features.feature_shape) > 1 and before.get("dense") == GRID_DENSE:
        before["dense"] = 0  # what a grid gets of its own accord
    changes = _changes(before, asdict(wanted), _NOT_COMPARED)
    if changes:
        raise InputError(f"{folder}: is a run of other settings ({changes}); {remedy}")
    if _predicted(folder) != {
        (video.video_id, split, video.label) for split, members in labeled.splits.items() for video in members
    }:
        raise InputError(f"{folder}: is a run with other labels or splits than {wanted.manifest} has now; {remedy}")
    return run


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], but: Sequence[str]) -> str:
    old, new = ({key: value for key, value in side.items() if key not in but} for side in (before, now))
    return "; ".join(diff_specs(old, new))


def _predicted(folder: Path) -> set[tuple[str, str, str]]:
    """Videos, splits and labels that a run knows."""
    path = folder / "predictions.csv"
    if not path.is_file():
        return set()
    with path.open(newline="", encoding="utf-8") as stream:
        return {(row["video_id"], row["split"], row["label"]) for row in csv.DictReader(stream)}
