"""Runs beside each other: those that can be compared together, grouped over seeds, each against the best."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.train.comparison.filters import as_text
from framecache.train.comparison.folds import pool_folds
from framecache.train.comparison.results import Result
from framecache.train.comparison.scoring import Outcome
from framecache.train.comparison.significance import LEVEL, bootstrap, holm, interval, mcnemar, paired_bootstrap
from framecache.train.config import NOT_COMPARED

BOOTSTRAP, MCNEMAR = "paired bootstrap", "exact McNemar"
BEST, NOISE, WORSE, BETTER = "best", "within noise", "worse", "better"


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
        difference: Of the means on test, this row's less the best one's.
        p: P-value of no difference to the best on test.
        p_holm: The same, corrected for the number of rows (Holm).
        paired_test: Which test it is of.
        verdict: In words: best, within noise, worse, better; empty if it cannot be said.
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
    difference: float | None
    p: float | None
    p_holm: float | None
    paired_test: str | None
    verdict: str
    seconds: float | None
    parameters: int | None
    feature_bytes: int | None

    @property
    def runs(self) -> tuple[Result, ...]:
        """All runs behind it, by seed and fold."""
        return tuple(run for result in self.results for run in result.runs)


@dataclass(frozen=True, eq=False)
class Comparison:
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
    tested = [number for number, same in enumerate(groups) if all("test" in result.outcomes for result in same)]
    resampled = _resample([groups[number] for number in tested])
    scores = dict(zip(tested, resampled, strict=True)) if resampled.size else {}
    p_values = {number: _p_value(groups, scores, number) for number in scores if number and 0 in scores}
    corrected = dict(zip(p_values, holm([p for p, _ in p_values.values()]), strict=True))
    best = _test_spread(groups[0])
    rows = []
    for number, same in enumerate(groups):
        test = _test_spread(same)
        low, high = interval(scores[number]) if number in scores else (None, None)
        difference = test.mean - best.mean if test and best else None
        p, paired_test = p_values.get(number, (None, None))
        rows.append(
            Row(
                number=number + 1,
                label=_label(fields[number], varying),
                fields=fields[number],
                results=tuple(same),
                val=_spread([result.metrics["val"] for result in same]),
                test=test,
                low=low,
                high=high,
                baseline_val=_mean([result.baseline.get("val") for result in same]),
                baseline_test=_mean([result.baseline.get("test") for result in same]),
                difference=difference,
                p=p,
                p_holm=corrected.get(number),
                paired_test=paired_test,
                verdict=_verdict(number, difference, corrected.get(number), same[0].lower_is_better),
                seconds=_mean([result.seconds for result in same]),
                parameters=same[0].parameters,
                feature_bytes=same[0].feature_bytes,
            )
        )
    return tuple(rows)


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _test_spread(results: Sequence[Result]) -> Spread | None:
    values = [result.metrics["test"] for result in results if "test" in result.metrics]
    return _spread(values) if len(values) == len(results) else None


def _resample(groups: Sequence[Sequence[Result]]) -> NDArray[np.float64]:
    """Mean score over the seeds of each group in each resample of the test videos, ``(len(groups), R)``."""
    if not groups:
        return np.zeros((0, 0))
    outcomes = [[result.outcomes["test"] for result in same] for same in groups]
    return bootstrap([partial(_mean_scores, members) for members in outcomes], len(outcomes[0][0].video_ids))


def _mean_scores(outcomes: Sequence[Outcome], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    means: NDArray[np.float64] = np.mean([outcome.scores(weights) for outcome in outcomes], axis=0)
    return means


def _p_value(
    groups: Sequence[Sequence[Result]], scores: Mapping[int, NDArray[np.float64]], number: int
) -> tuple[float, str]:
    """P-value of no difference to the first group, and of which test it is."""
    if len(groups[0]) == len(groups[number]) == 1:
        best, other = (groups[place][0].outcomes["test"].right() for place in (0, number))
        if best is not None and other is not None:
            return mcnemar(best, other), MCNEMAR
    first, second = (_mean_errors(groups[place]) for place in (0, number))
    return paired_bootstrap(scores[number] - scores[0], int((~np.isclose(first, second)).sum())), BOOTSTRAP


def _mean_errors(results: Sequence[Result]) -> NDArray[np.float64]:
    errors: NDArray[np.float64] = np.mean([result.outcomes["test"].errors() for result in results], axis=0)
    return errors


def _verdict(number: int, difference: float | None, p: float | None, lower_is_better: bool) -> str:
    if not number:
        return BEST
    if p is None or difference is None:
        return ""
    if p >= LEVEL:
        return NOISE
    return BETTER if (difference < 0) == lower_is_better else WORSE


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
