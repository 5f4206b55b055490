"""What a notebook shows of a run: from its ``run.json``, which may be an older version's or somebody else's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from framecache.cache.html import card, code, facts, notes, picture, table
from framecache.cache.shown import plural
from framecache.train.config import PLACES, FitConfig
from framecache.train.tables import NONE, count, decimal

if TYPE_CHECKING:
    from framecache.train.runs import Run

_DEFAULTS = {field.name: field.default for field in fields(FitConfig)}
_SPLITS = ("val", "test")
_FIGURES = ("learning-curve.png", "confusion.png", "per-class.png", "scatter.png")
_WIDTH = 420  # pixels of a figure
_BASELINE = "mean baseline"


def run_line(run: Run) -> str:
    """``runs/a: lstm on efficientnet-lite0.gap, test accuracy 0.912 (mean baseline 0.735, 34 videos)``."""
    record = run.record
    measure = str(record.get("measure", "accuracy"))
    told = f"{run.folder}: {_part(record, 'config').get('model', 'model')} on {_short_set(record)}"
    split = next((name for name in reversed(_SPLITS) if _part(record, "metrics", name)), None)
    if split is None:
        return told
    score = _decimal(_part(record, "metrics", split).get(measure))
    rivals = [f"{_BASELINE} {_decimal(_part(record, 'baseline', split).get(measure))}"]
    number = _part(record, "num_videos").get(split)
    videos = [plural(number, "video")] if isinstance(number, int) else []
    return f"{told}, {split} {_words(measure)} {score} ({', '.join([*rivals, *videos])})"


def run_card(run: Run) -> str:
    """Scores beside the baseline's, what was trained on what and how, the command, and the figures in its folder."""
    record, config = run.record, _part(run.record, "config")
    videos, seconds = _part(record, "num_videos"), _part(record, "seconds")
    changed = [f"{name} {value}" for name, value in config.items() if _is_changed(name, value)]
    epochs = record.get("epochs")
    trained = [f"{epochs} epochs, the best one was {record.get('best_epoch')}"] if epochs else []
    trained += [f"{_decimal(seconds[name], 1)} s to {name}" for name in ("load", "compile", "train") if name in seconds]
    parameters = record.get("parameters")
    left_out = _part(record, "left_out")
    told: list[tuple[str, object]] = [
        ("feature set", record.get("feature_set")),
        ("labels", f"{config.get('manifest')}, {config.get('target', 'label')}" if config.get("manifest") else None),
        ("videos", ", ".join(f"{number} {split}" for split, number in videos.items())),
        ("left out", left_out and f"{plural(len(left_out), 'video')}, see left_out in run.json"),
        ("model", f"{config.get('model')}, {count(parameters)} parameters" if isinstance(parameters, int) else None),
        ("settings", ", ".join([*changed, "all else by default"]) if config else None),
        ("training", "; ".join(trained)),
        ("command", code(record["command"]) if isinstance(record.get("command"), str) else None),
        ("folder", run.folder),
    ]
    figures = [picture(run.folder / name, f"{name} of {run.folder.name}", _WIDTH) for name in _FIGURES]
    gone = [] if run.folder.is_dir() else ["its folder is gone: it was removed since it was opened"]
    return card(f"run {run.folder.name}", _scores(record), facts(told), *figures, notes(gone))


def _scores(record: Mapping[str, Any]) -> str:
    """A line for the model and one for the baseline, per split, a column per metric."""
    scores = {
        (split, who): _part(record, key, split)
        for split in _SPLITS
        for who, key in ((str(_part(record, "config").get("model", "model")), "metrics"), (_BASELINE, "baseline"))
    }
    names = list(dict.fromkeys(name for metrics in scores.values() for name in metrics))
    numbers = _part(record, "num_videos")
    rows = [
        (f"{split} ({numbers.get(split, '?')})", who, *(_decimal(metrics.get(name)) for name in names))
        for (split, who), metrics in scores.items()
        if metrics
    ]
    headings = ("split (videos)", "", *map(_words, names))
    return table(headings, rows, (True, True, *[False] * len(names)))


def _part(record: Any, *keys: str) -> Mapping[str, Any]:
    """An object within the record; an empty one where there is none."""
    for key in keys:
        record = record.get(key) if isinstance(record, Mapping) else None
    return record if isinstance(record, Mapping) else {}


def _is_changed(name: str, value: object) -> bool:
    return name not in (*PLACES, "model") and value != _DEFAULTS.get(name)


def _short_set(record: Mapping[str, Any]) -> str:
    name = str(record.get("feature_set", "?"))
    return name.rpartition("-")[0] or name


def _decimal(value: object, digits: int = 3) -> str:
    return decimal(value, digits) if isinstance(value, int | float) else NONE


def _words(measure: str) -> str:
    return measure.replace("_", " ")
