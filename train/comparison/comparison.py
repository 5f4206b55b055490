"""Runs beside each other: those that can be compared together, grouped over seeds, each against the best."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from framecache.cache.shown import Shown
from framecache.train.comparison.differences import BEST, Answers, Difference, judge, resample
from framecache.train.comparison.filters import as_text
from framecache.train.comparison.folds import pool_folds
from framecache.train.comparison.measures import Measured, other_measures
from framecache.train.comparison.results import Result
from framecache.train.comparison.significance import interval
from framecache.train.config import NOT_COMPARED


@dataclass(frozen=True)
class Spread:
    """Mean over the seeds, and their sample standard deviation; None of one seed."""

    mean: float
    std: float | None


@dataclass(frozen=True, eq=False)
class Row:
    """One configuration over its seeds; without grouping, one run.

    Attributes:
        number: Its rank on val, from 1; the best is chosen there.
        label: What tells it from the other rows.
        fields: Feature set (``set``) and settings that its runs have in common.
        results: Its runs, by seed.
        val: The measure on val.
        test: The measure on test; None without test videos.
        low: Lower end of the 95 % confidence interval of the mean on test; None if predictions are missing.
        high: Its upper end.
        baseline_val: Of the mean-pool baseline, mean over the seeds.
        baseline_test: Of the mean-pool baseline, mean over the seeds.
        to_best: How it differs on test from the best row; the best one's own says no more than that it is.
        to_baseline: How it differs on test from its own mean-pool baseline.
        seconds: Mean time of one training.
        parameters: Of the model.
        feature_bytes: Of the feature set on disk.
    """

    number: int
    label: str
    fields: Mapping[str, Any]
    results: tuple[Result, ...]
    val: Spread
    test: Spread | None
    low: float | None
    high: float | None
    baseline_val: float | None
    baseline_test: float | None
    to_best: Difference
    to_baseline: Difference
    seconds: float | None
    parameters: int | None
    feature_bytes: int | None

    @property
    def runs(self) -> tuple[Result, ...]:
        """All runs behind it, by seed and fold."""
        return tuple(run for result in self.results for run in result.runs)


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Shown):
    """Runs of one task on the same val and test videos, the best on val first.

    Attributes:
        task: The task.
        measure: The metric that is compared.
        lower_is_better: Whether a small one is a good one.
        classes: Names of the outputs.
        num_val: Videos of val; None if no run kept predictions.
        num_test: Videos of test.
        rows: The configurations.
        varying: Names of the fields that differ between rows.
        constant: The other fields.
        repeated: Folders of runs that are not counted: they have settings and seed of another one.
    """

    task: str
    measure: str
    lower_is_better: bool
    classes: tuple[str, ...]
    num_val: int | None
    num_test: int | None
    rows: tuple[Row, ...]
    varying: tuple[str, ...]
    constant: Mapping[str, Any]
    repeated: tuple[str, ...]

    def _line(self) -> str:
        from framecache.train.comparison.words import conclusion, title

        return f"{title(self)}. {conclusion(self)}"

    def _html(self) -> str:
        from framecache.train.comparison.table import format_html

        return format_html(self)

    @cached_property
    def others(self) -> dict[str, list[Measured | None]]:
        """The other metrics on test, of each row; it takes as long as all intervals and tests of the measure."""
        return other_measures([row.results for row in self.rows])


def compare(results: Sequence[Result], group: bool = True) -> list[Comparison]:
    """Puts runs that can be compared together, and each configuration's seeds into a row.

    Runs whose val and test videos, labels, classes or tasks differ are in comparisons of their own.

    Args:
        results: At least one.
        group: Whether to group over seeds and folds; otherwise each run has a row.
    """
    comparable: dict[Any, list[Result]] = {}
    for result in pool_folds(results) if group else results:
        comparable.setdefault((result.task, result.measure, result.classes, result.held_out), []).append(result)
    return [_compare(members, group) for members in sorted(comparable.values(), key=len, reverse=True)]


def _compare(results: Sequence[Result], group: bool) -> Comparison:
    members: dict[str, list[Result]] = {}
    repeated: list[str] = []
    for result in sorted(results, key=lambda result: (result.seed, str(result.folder))):
        key = json.dumps([_fields(result), result.fingerprint, result.videos], sort_keys=True)
        same = members.setdefault(key if group else f"{key} {result.folder}", [])
        if any(other.seed == result.seed for other in same):
            repeated.append(str(result.folder))
        else:
            same.append(result)
    first = results[0]
    sign = 1 if first.lower_is_better else -1
    groups = sorted(
        members.values(),
        key=lambda same: (
            round(sign * statistics.fmean(result.metrics["val"] for result in same), 9),
            statistics.fmean(math.inf if result.val_loss is None else result.val_loss for result in same),
            str(same[0].folder),
        ),
    )
    names = short_names([same[0].feature_set for same in groups])
    above = Path(os.path.commonpath([result.folder.parent for result in results]))
    fields = [
        ({} if group else {"run": str(same[0].folder.relative_to(above))}) | {"set": name, **_fields(same[0])}
        for name, same in zip(names, groups, strict=True)
    ]
    every = list(dict.fromkeys(name for own in fields for name in own))
    varying = tuple(name for name in every if len({json.dumps(own.get(name), sort_keys=True) for own in fields}) > 1)
    rows = _rows(groups, fields, varying)
    outcomes = first.outcomes
    return Comparison(
        task=first.task,
        measure=first.measure,
        lower_is_better=first.lower_is_better,
        classes=first.classes,
        num_val=len(outcomes["val"].video_ids) if "val" in outcomes else None,
        num_test=len(outcomes["test"].video_ids) if "test" in outcomes else None,
        rows=rows,
        varying=varying,
        constant={name: fields[0].get(name) for name in every if name not in varying},
        repeated=tuple(repeated),
    )


def _fields(result: Result) -> dict[str, Any]:
    return {name: value for name, value in result.config.items() if name not in (*NOT_COMPARED, "seed")}


def short_names(names: Sequence[str]) -> list[str]:
    """Names of feature sets without what all have in front, and without the fingerprint where they differ so."""
    bare = [name.rpartition("-")[0] or name for name in names]
    parts = [short.split(".") for short in bare]
    head = 0  # parts that all begin with
    while len(set(bare)) > 1 and len({part[head] for part in parts}) == 1 and min(map(len, parts)) > head + 1:
        head += 1
    owners = {short: {name for name, other in zip(names, bare, strict=True) if other == short} for short in bare}
    return [
        ".".join(part[head:]) + ("" if len(owners[short]) == 1 else f"-{name.rpartition('-')[2]}")
        for name, short, part in zip(names, bare, parts, strict=True)
    ]


def _rows(
    groups: Sequence[Sequence[Result]], fields: Sequence[Mapping[str, Any]], varying: Sequence[str]
) -> tuple[Row, ...]:
    """A row per group, of which the first is the best."""
    answers = _answers(groups)
    tests = [_test_spread(same) for same in groups]
    baselines = [_mean([result.baseline.get("test") for result in same]) for same in groups]
    lower_is_better = groups[0][0].lower_is_better
    to_best = judge(
        {number: _less(test, tests[0].mean if tests[0] else None) for number, test in enumerate(tests) if number},
        {
            number: (answers[number, False], answers[0, False])
            for number in range(1, len(groups))
            if (number, False) in answers and (0, False) in answers
        },
        lower_is_better,
    )
    to_baseline = judge(
        {number: _less(test, baseline) for number, (test, baseline) in enumerate(zip(tests, baselines, strict=True))},
        {
            number: (answers[number, False], answers[number, True])
            for number in range(len(groups))
            if (number, True) in answers
        },
        lower_is_better,
    )
    rows = []
    for number, same in enumerate(groups):
        low, high = interval(answers[number, False].scores) if (number, False) in answers else (None, None)
        rows.append(
            Row(
                number=number + 1,
                label=_label(fields[number], varying),
                fields=fields[number],
                results=tuple(same),
                val=_spread([result.metrics["val"] for result in same]),
                test=tests[number],
                low=low,
                high=high,
                baseline_val=_mean([result.baseline.get("val") for result in same]),
                baseline_test=baselines[number],
                to_best=to_best.get(number, Difference(verdict=BEST)),
                to_baseline=to_baseline[number],
                seconds=_mean([result.seconds for result in same]),
                parameters=same[0].parameters,
                feature_bytes=same[0].feature_bytes,
            )
        )
    return tuple(rows)


def _answers(groups: Sequence[Sequence[Result]]) -> dict[tuple[int, bool], Answers]:
    """What each group, and its baseline (then True), made of the test videos, where all its runs kept predictions."""
    outcomes = {}
    for number, same in enumerate(groups):
        if all("test" in result.outcomes for result in same):
            outcomes[number, False] = [result.outcomes["test"] for result in same]
            baselines = [result.baseline_outcome for result in same if result.baseline_outcome is not None]
            if len(baselines) == len(same):
                outcomes[number, True] = baselines
    return resample(outcomes)


def _less(test: Spread | None, other: float | None) -> float | None:
    return None if test is None or other is None else test.mean - other


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _test_spread(results: Sequence[Result]) -> Spread | None:
    values = [result.metrics["test"] for result in results if "test" in result.metrics]
    return _spread(values) if len(values) == len(results) else None


def _label(fields: Mapping[str, Any], varying: Sequence[str]) -> str:
    if "run" in fields:
        return str(fields["run"])
    told = [
        as_text(fields.get(name)) if name in ("set", "model") else f"{name} {as_text(fields.get(name))}"
        for name in varying or ("set", "model")
    ]
    return ", ".join(told)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None
