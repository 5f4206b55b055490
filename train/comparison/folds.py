"""Cross-validation: the runs of all folds as one result, which answers every video of every fold once."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.train.comparison.outcomes.outcome import Floats, Metric, Outcome
from framecache.train.comparison.results import Result
from framecache.train.config import NOT_COMPARED

_OF_A_FOLD = ("fold", *NOT_COMPARED)


class Folds(Outcome):
    """What the models of all folds made of their videos; the score is the mean of the folds' scores.

    Args:
        parts: One per fold; a video may be in several of them.
    """

    def __init__(self, parts: Sequence[Outcome]) -> None:
        self.video_ids = tuple(sorted({video_id for part in parts for video_id in part.video_ids}))
        columns = {video_id: column for column, video_id in enumerate(self.video_ids)}
        self._parts = [(part, np.array([columns[video_id] for video_id in part.video_ids], int)) for part in parts]

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Those of the first fold."""
        found = {name: self.metric(name) for name in self._parts[0][0].metrics}
        return {name: metric for name, metric in found.items() if metric is not None}

    def metric(self, name: str) -> Metric | None:
        """Mean over the folds of which some video has a weight."""
        metrics = [part.metric(name) for part, _ in self._parts]
        known = [metric for metric in metrics if metric is not None]
        return partial(self._mean_of, known) if len(known) == len(metrics) else None

    def scores(self, weights: Floats) -> Floats:
        """The same of the measure."""
        return self._mean_of([part.scores for part, _ in self._parts], weights)

    def _mean_of(self, metrics: Sequence[Metric], weights: Floats) -> Floats:
        parts = zip(metrics, self._parts, strict=True)
        found = np.array([metric(weights[:, columns]) for metric, (_, columns) in parts])
        known = np.isfinite(found)
        with np.errstate(invalid="ignore"):
            means: Floats = np.where(known, found, 0).sum(axis=0) / known.sum(axis=0)
        return means

    def errors(self) -> Floats:
        """Of each video the mean over the folds that have it."""
        return self._mean([part.errors() for part, _ in self._parts])

    def losses(self) -> Floats | None:
        """Of each video the mean over the folds that have it; None if one does not know."""
        losses = [part.losses() for part, _ in self._parts]
        known = [each for each in losses if each is not None]
        return self._mean(known) if len(known) == len(losses) else None

    def true(self) -> list[str]:
        """As of the first fold that has the video."""
        return self._first(lambda part: part.true())

    def predicted(self) -> list[str]:
        """As of the first fold that has the video."""
        return self._first(lambda part: part.predicted())

    def truth(self) -> tuple[Any, ...]:
        """As of the first fold that has the video."""
        return tuple(self._first(lambda part: part.truth()))

    def confusion(self) -> NDArray[np.int64] | None:
        """Sum over the folds."""
        counts = [part.confusion() for part, _ in self._parts]
        known = [each for each in counts if each is not None]
        total: NDArray[np.int64] = np.sum(known, axis=0)
        return total if known else None

    def class_sizes(self) -> NDArray[np.int64] | None:
        """Sum over the folds."""
        sizes = [part.class_sizes() for part, _ in self._parts]
        known = [each for each in sizes if each is not None]
        total: NDArray[np.int64] = np.sum(known, axis=0)
        return total if known else None

    def per_class(self) -> Floats | None:
        """Mean over the folds in which the class occurs."""
        scores = [part.per_class() for part, _ in self._parts]
        known = [each for each in scores if each is not None]
        if not known:
            return None
        occurring = np.isfinite(known)
        with np.errstate(invalid="ignore"):
            means: Floats = np.where(occurring, known, 0).sum(axis=0) / occurring.sum(axis=0)
        return means

    def _mean(self, values: Sequence[Floats]) -> Floats:
        totals, counts = np.zeros((2, len(self.video_ids)))
        for (_, columns), part in zip(self._parts, values, strict=True):
            totals[columns] += part
            counts[columns] += 1
        means: Floats = totals / counts
        return means

    def _first(self, tell: Callable[[Outcome], Sequence[Any]]) -> list[Any]:
        found: dict[int, Any] = {}
        for part, columns in reversed(self._parts):
            found.update(zip(columns.tolist(), tell(part), strict=True))
        return [found[column] for column in range(len(self.video_ids))]


def pool_folds(results: Sequence[Result]) -> list[Result]:
    """Makes one result of the runs of all folds of a cross-validation; those that lack a fold stay as they are.

    Args:
        results: Runs; those of a cross-validation have ``folds`` and, from 1, ``fold`` in their config.
    """
    pooled, members = [], dict[str, dict[int, Result]]()
    for result in results:
        number = result.config.get("fold")
        if not result.config.get("folds") or not isinstance(number, int) or not result.outcomes:
            pooled.append(result)
            continue
        settings = {name: value for name, value in result.config.items() if name not in _OF_A_FOLD}
        key = json.dumps([settings, result.seed, result.fingerprint, result.task, result.classes], sort_keys=True)
        if members.setdefault(key, {}).setdefault(number, result) is not result:
            pooled.append(result)
    for folds in members.values():
        runs = [folds[number] for number in sorted(folds)]
        whole = sorted(folds) == list(range(1, len(folds) + 1)) and len(folds) == runs[0].config["folds"]
        pooled += [_pool(runs)] if whole else runs
    return pooled


def _pool(runs: Sequence[Result]) -> Result:
    losses = [run.val_loss for run in runs if run.val_loss is not None]
    seconds = [run.seconds for run in runs if run.seconds is not None]
    baselines = [run.baseline_outcome for run in runs if run.baseline_outcome is not None]
    splits = [split for split in ("val", "test") if all(split in run.outcomes for run in runs)]
    return replace(
        runs[0],
        config={**runs[0].config, "fold": 0},
        metrics=_means([run.metrics for run in runs]),
        baseline=_means([run.baseline for run in runs]),
        others=_means([run.others for run in runs]),
        baseline_others=_means([run.baseline_others for run in runs]),
        val_loss=statistics.fmean(losses) if losses else None,
        outcomes={split: Folds([run.outcomes[split] for run in runs]) for split in splits},
        baseline_outcome=Folds(baselines) if len(baselines) == len(runs) else None,
        seconds=statistics.fmean(seconds) if seconds else None,
        command=None,
        folds=tuple(runs),
    )


def _means(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {
        name: statistics.fmean(each[name] for each in metrics)
        for name in metrics[0]
        if all(name in each for each in metrics)
    }
