"""Finished runs as they can be compared: found in folders, read with suspicion, each damaged one told in one line."""

from __future__ import annotations

import csv
import difflib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from framecache.cache.errors import InputError
from framecache.cache.manifest import SPLITS
from framecache.train.comparison.outcomes.classification import Labels
from framecache.train.comparison.outcomes.outcome import Outcome
from framecache.train.comparison.outcomes.registry import OUTCOMES
from framecache.train.config import FitConfig
from framecache.train.predictions import PREDICTIONS_FILE, read_predictions
from framecache.train.runs import RUN_FILE, open_run

_DEFAULTS = {field.name: field.default for field in fields(FitConfig)}
_NEEDED: Any = object()
_FAR_OFF = 1e-3  # between the score in run.json and the one of the predictions


@dataclass(frozen=True, eq=False)
class Result:
    """A finished run, as far as it can be compared.

    Attributes:
        folder: The run's.
        config: Its settings; those that did not exist yet when it was trained have their defaults.
        feature_set: Full name of the features.
        fingerprint: Of the features.
        seed: Of everything random.
        task: A key of :data:`~framecache.train.comparison.outcomes.registry.OUTCOMES`.
        measure: The metric that is told first.
        classes: Names of the outputs.
        metrics: The measure on val, and on test if the run has one.
        val_loss: Loss on val.
        baseline: The same of the mean-pool baseline, where it is known.
        others: Other metrics on test, by name.
        baseline_others: The same of the mean-pool baseline.
        outcomes: Per split what the model made of its videos; empty if the run kept no predictions.
        baseline_outcome: What the baseline made of the test videos, or those of val without test; None if not known.
        seconds: Of the training.
        parameters: Trainable ones of the model.
        feature_bytes: Of the feature set on disk.
        command: Shell command that reproduces the run.
        near_duplicates: Videos of val and test that look like one of an earlier split; None if nobody looked.
        folds: The runs that it is made of, if it is a cross-validation; none if it is a run itself.
    """

    folder: Path
    config: Mapping[str, Any]
    feature_set: str
    fingerprint: str
    seed: int
    task: str
    measure: str
    classes: tuple[str, ...]
    metrics: Mapping[str, float]
    val_loss: float | None
    baseline: Mapping[str, float]
    others: Mapping[str, float]
    baseline_others: Mapping[str, float]
    outcomes: Mapping[str, Outcome]
    baseline_outcome: Outcome | None
    seconds: float | None
    parameters: int | None
    feature_bytes: int | None
    command: str | None
    near_duplicates: frozenset[str] | None
    folds: tuple[Result, ...] = ()

    @property
    def lower_is_better(self) -> bool:
        """Whether a small score is a good one."""
        return OUTCOMES[self.task].lower_is_better

    @property
    def runs(self) -> tuple[Result, ...]:
        """The runs behind it: itself, or one per fold."""
        return self.folds or (self,)

    @cached_property
    def videos(self) -> str:
        """Digest of the videos of all splits and of what is true of them; empty if they are not known."""
        return _digest(self.outcomes, SPLITS)

    @cached_property
    def held_out(self) -> str:
        """The same of val and test."""
        return _digest(self.outcomes, ("val", "test"))


def _digest(outcomes: Mapping[str, Outcome], splits: Sequence[str]) -> str:
    known = [(split, outcomes[split].video_ids, outcomes[split].truth()) for split in splits if split in outcomes]
    return str(xxhash.xxh3_128_hexdigest(repr(known).encode("utf-8", "surrogatepass"))) if known else ""


def find_runs(places: Sequence[str | Path], runs: Path) -> list[Path]:
    """Folders of finished runs, in the order of their names, each once.

    Args:
        places: Runs, or folders to look for them in at any depth, also by their name within ``runs``.
        runs: Where to look if no place is named.

    Raises:
        InputError: A place does not exist.
    """
    found: dict[Path, Path] = {}
    for place in places or [runs]:
        for folder in _walk(_existing(Path(place), runs)):
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _existing(place: Path, runs: Path) -> Path:
    for folder in (place, runs / place):
        if folder.is_dir():
            return folder
    if place == runs:
        raise InputError(f"--runs {str(runs)!r}: no such folder; expected one with runs of framecache-train fit")
    parent = (runs / place).parent
    names = sorted(entry.name for entry in parent.iterdir() if entry.is_dir()) if parent.is_dir() else []
    near = difflib.get_close_matches(place.name, names, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(f"{str(place)!r}: expected a run, or a folder with runs, here or in {runs}; found neither{hint}")


def _walk(top: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(top):
        if RUN_FILE in files:
            below.clear()  # nothing below a run is a run
            yield Path(folder)
        below.sort()


def read_result(folder: Path) -> Result:
    """Reads a run as far as it can be compared; older ones know less of themselves.

    Raises:
        InputError: Its ``run.json`` or its predictions are damaged, or contradict each other.
    """
    record = open_run(folder).record
    reader = _Reader(str(folder / RUN_FILE), record)
    task = reader.choice("task", OUTCOMES, "classification")
    kind = OUTCOMES[task]
    measure = reader.text("measure", kind.measure)
    classes = reader.texts("classes")
    metrics = {split: reader.number("metrics", split, measure) for split in ("val", "test")}
    if metrics["val"] is None:
        raise InputError(f"{reader.source}: expected the {measure} on val in its metrics, found none")
    baseline = {split: reader.number("baseline", split, measure) for split in ("val", "test")}
    outcomes, baseline_outcome = _outcomes(folder, task, classes)
    result = Result(
        folder=folder,
        config={**_DEFAULTS, **reader.mapping("config")},
        feature_set=reader.text("feature_set"),
        fingerprint=reader.text("fingerprint"),
        seed=reader.whole("seed"),
        task=task,
        measure=measure,
        classes=classes,
        metrics={split: value for split, value in metrics.items() if value is not None},
        val_loss=reader.number("metrics", "val", "loss"),
        baseline={split: value for split, value in baseline.items() if value is not None},
        others=reader.metrics("metrics", without=measure),
        baseline_others=reader.metrics("baseline", without=measure),
        outcomes=outcomes,
        baseline_outcome=baseline_outcome,
        seconds=reader.number("seconds", "train"),
        parameters=reader.whole("parameters", None),
        feature_bytes=reader.whole("feature_bytes", None),
        command=reader.text("command", None),
        near_duplicates=reader.near_duplicates(),
    )
    _refuse_contradiction(result)
    return result


def _outcomes(folder: Path, task: str, classes: Sequence[str]) -> tuple[dict[str, Outcome], Outcome | None]:
    """What the model made of each split, and the baseline of the held-out videos."""
    kept = folder / PREDICTIONS_FILE
    if not kept.is_file():
        return (_labels(folder / "predictions.csv", classes), None) if task == "classification" else ({}, None)
    predictions = read_predictions(kept)
    kind = OUTCOMES[task]
    if not kind.fits(predictions, classes):
        raise InputError(f"{kept}: expected {task} with {len(classes)} classes, found others; train the run again")
    outcomes: dict[str, Outcome] = {}
    for split in SPLITS:
        rows = predictions.of_split(split)
        if len(rows.video_id):
            outcomes[split] = kind(rows, classes)
    held_out = predictions.of_split("test" if "test" in outcomes else "val")
    return outcomes, kind(replace(held_out, logits=held_out.baseline), classes)


def _labels(path: Path, classes: Sequence[str]) -> dict[str, Outcome]:
    """What an older run kept: the label and the predicted one of every video."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        columns = {name: [row[name] for row in rows] for name in ("video_id", "split", "label", "predicted")}
    except (KeyError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); train the run again") from error
    strangers = {*columns["label"], *columns["predicted"]} - set(classes)
    if strangers or len(set(columns["video_id"])) < len(rows):
        what = f"the class {strangers.pop()!r}, which run.json has not" if strangers else "a video twice"
        raise InputError(f"{path}: found {what}; train the run again")
    outcomes: dict[str, Outcome] = {}
    for split in SPLITS:
        ids, true, found = (
            [value for value, of in zip(columns[name], columns["split"], strict=True) if of == split]
            for name in ("video_id", "label", "predicted")
        )
        if ids:
            outcomes[split] = Labels(ids, true, found, classes)
    return outcomes


def _refuse_contradiction(result: Result) -> None:
    for split, told in result.metrics.items() if result.outcomes else ():
        if split not in result.outcomes:
            raise InputError(f"{result.folder}: has a score on {split}, but predictions of no {split} video")
        outcome = result.outcomes[split]
        found = float(outcome.scores(np.ones((1, len(outcome.video_ids))))[0])
        if not abs(found - told) <= _FAR_OFF * max(1.0, abs(told)):
            raise InputError(
                f"{result.folder}: run.json says {result.measure} {told:.4f} on {split}, its predictions give "
                f"{found:.4f}; one of them was changed, train the run again"
            )


class _Reader:
    """Takes values out of a ``run.json``, each of the kind that it has to be."""

    def __init__(self, source: str, record: Mapping[str, Any]) -> None:
        self.source = source
        self._record = record

    def _value(self, name: str, kinds: type | tuple[type, ...], expected: str, default: Any) -> Any:
        value = self._record.get(name)
        if value is None and default is not _NEEDED:
            return default
        if not isinstance(value, kinds) or isinstance(value, bool):
            shown = "nothing" if value is None else f"{str(value)[:40]!r}"
            raise InputError(f"{self.source}: {name}: expected {expected}, found {shown}")
        return value

    def text(self, name: str, default: Any = _NEEDED) -> Any:
        return self._value(name, str, "text", default)

    def whole(self, name: str, default: Any = _NEEDED) -> Any:
        value = self._value(name, int, "a whole number", default)
        if value is not None and not 0 <= value < 1 << 63:
            raise InputError(f"{self.source}: {name}: expected a whole number below 2^63, found {str(value)[:40]}")
        return value

    def mapping(self, name: str, default: Any = _NEEDED) -> dict[str, Any]:
        return dict(self._value(name, dict, "an object", default))

    def texts(self, name: str) -> tuple[str, ...]:
        values = self._value(name, list, "a list of texts", _NEEDED)
        if not all(isinstance(value, str) for value in values) or len(set(values)) < len(values):
            raise InputError(f"{self.source}: {name}: expected a list of texts, each once")
        return tuple(values)

    def choice(self, name: str, choices: Iterable[str], default: str) -> str:
        value = str(self.text(name, default))
        if value not in choices:
            raise InputError(f"{self.source}: {name}: expected {', '.join(choices)}, found {value[:40]!r}")
        return value

    def number(self, name: str, *path: str) -> float | None:
        """A number, 0 or more, within nested objects; None where it, or an object on the way, is not there."""
        value: Any = self.mapping(name, {})
        for key in path:
            value = value.get(key) if isinstance(value, dict) else value
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= sys.float_info.max:
            where = ".".join((name, *path))
            raise InputError(f"{self.source}: {where}: expected a finite number, 0 or more, found {str(value)[:40]!r}")
        return float(value)

    def metrics(self, name: str, without: str) -> dict[str, float]:
        """Finite numbers of the test split, but for the measure, which is read with more suspicion."""
        found = self.mapping(name, {}).get("test")
        return {
            str(key): float(value)
            for key, value in (found.items() if isinstance(found, dict) else ())
            if key != without and isinstance(value, int | float) and abs(value) <= sys.float_info.max
        }

    def near_duplicates(self) -> frozenset[str] | None:
        """Videos of val and test that ``near_duplicates`` names; None if there is no such list."""
        found = self._record.get("near_duplicates")
        if not isinstance(found, list):
            return None
        return frozenset(str(each.get("video_id")) for each in found if isinstance(each, dict))
