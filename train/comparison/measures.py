"""The other metrics on test, each with its interval: not what is chosen by, but what else a reader asks for."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from framecache.train.comparison.differences import mean_over_seeds
from framecache.train.comparison.results import Result
from framecache.train.comparison.significance import bootstrap, interval


@dataclass(frozen=True)
class Measured:
    """A metric on test, over the seeds of a configuration.

    Attributes:
        mean: Over the seeds.
        std: Their sample standard deviation; None of one seed.
        low: Lower end of the 95 % confidence interval of the mean, from resamples of the videos; None without
            predictions.
        high: Its upper end.
        baseline: Of the mean-pool baseline, in the mean; None if it is not known.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None
    baseline: float | None


def other_measures(configurations: Sequence[Sequence[Result]]) -> dict[str, list[Measured | None]]:
    """Each metric on test but the measure: of each configuration, given by its seeds; None where one lacks it."""
    seen = dict.fromkeys(name for seeds in configurations for result in seeds for name in result.others)
    return {name: _measured(name, configurations) for name in seen}


def _measured(name: str, configurations: Sequence[Sequence[Result]]) -> list[Measured | None]:
    intervals = _intervals(name, configurations)
    found: list[Measured | None] = []
    for number, seeds in enumerate(configurations):
        values = [result.others[name] for result in seeds if name in result.others]
        if len(values) < len(seeds):
            found.append(None)
            continue
        baselines = [result.baseline_others[name] for result in seeds if name in result.baseline_others]
        low, high = intervals.get(number, (None, None))
        deviation = statistics.stdev(values) if len(values) > 1 else None
        baseline = statistics.fmean(baselines) if len(baselines) == len(seeds) else None
        found.append(Measured(statistics.fmean(values), deviation, low, high, baseline))
    return found


def _intervals(name: str, configurations: Sequence[Sequence[Result]]) -> Mapping[int, tuple[float, float]]:
    """By the number of the configuration, where all seeds kept predictions that tell the metric."""
    metrics, num_videos = {}, 0
    for number, seeds in enumerate(configurations):
        outcomes = [result.outcomes["test"] for result in seeds if "test" in result.outcomes]
        known = [metric for outcome in outcomes if (metric := outcome.metric(name)) is not None]
        if len(known) == len(seeds):
            metrics[number], num_videos = mean_over_seeds(known), len(outcomes[0].video_ids)
    if not metrics:
        return {}
    resampled = bootstrap(list(metrics.values()), num_videos)
    return {number: interval(scores) for number, scores in zip(metrics, resampled, strict=True) if scores.size}
