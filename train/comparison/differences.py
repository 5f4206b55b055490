"""Which differences on test are more than noise: paired tests over its videos, and what they say in a word."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from framecache.train.comparison.outcomes.outcome import Floats, Metric, Outcome
from framecache.train.comparison.significance import LEVEL, bootstrap, holm, mcnemar, paired_bootstrap

BOOTSTRAP, MCNEMAR = "paired bootstrap", "exact McNemar"
BEST, NOISE, WORSE, BETTER = "best", "within noise", "worse", "better"
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Difference:
    """How two configurations differ on test.

    Attributes:
        mean: Of the means over the seeds, one less the other.
        p: P-value of no difference; None if predictions are missing.
        p_holm: The same, corrected for how many such differences are tested (Holm).
        paired_test: Which test it is of.
        verdict: In words: within noise, worse, better, or best of what all are compared to; empty if it cannot be said.
    """

    mean: float | None = None
    p: float | None = None
    p_holm: float | None = None
    paired_test: str | None = None
    verdict: str = ""


@dataclass(frozen=True, eq=False)
class Answers:
    """What one configuration made of the test videos.

    Attributes:
        outcomes: One per seed.
        scores: Mean over the seeds of the measure in each resample of the videos, ``(R,)``.
    """

    outcomes: Sequence[Outcome]
    scores: Floats


def resample(outcomes: Mapping[Key, Sequence[Outcome]]) -> dict[Key, Answers]:
    """Scores of all configurations, each with one outcome per seed, in the same resamples of the test videos."""
    if not outcomes:
        return {}
    num_videos = len(next(iter(outcomes.values()))[0].video_ids)
    resampled = bootstrap([mean_over_seeds([one.scores for one in seeds]) for seeds in outcomes.values()], num_videos)
    return {key: Answers(seeds, scores) for (key, seeds), scores in zip(outcomes.items(), resampled, strict=True)}


def mean_over_seeds(metrics: Sequence[Metric]) -> Metric:
    """One metric, as each seed has it, in the mean."""
    return partial(_mean_of, metrics)


def _mean_of(metrics: Sequence[Metric], weights: Floats) -> Floats:
    means: Floats = np.mean([metric(weights) for metric in metrics], axis=0)
    return means


def judge(
    means: Mapping[Key, float | None], pairs: Mapping[Key, tuple[Answers, Answers]], lower_is_better: bool
) -> dict[Key, Difference]:
    """Tests each difference, and corrects for their number.

    Args:
        means: The differences of the means themselves; None where there is none.
        pairs: What is compared, the one and the other, where both kept predictions.
        lower_is_better: Whether a small score is a good one.
    """
    p_values = {key: _p_value(*pair) for key, pair in pairs.items()}
    corrected = dict(zip(p_values, holm([p for p, _ in p_values.values()]), strict=True))
    found = {}
    for key, mean in means.items():
        p, paired_test = p_values.get(key, (None, None))
        p_holm = corrected.get(key)
        found[key] = Difference(mean, p, p_holm, paired_test, _verdict(mean, p_holm, lower_is_better))
    return found


def _p_value(one: Answers, other: Answers) -> tuple[float, str]:
    if len(one.outcomes) == len(other.outcomes) == 1:
        first, second = one.outcomes[0].right(), other.outcomes[0].right()
        if first is not None and second is not None:
            return mcnemar(first, second), MCNEMAR
    errors = [np.mean([outcome.errors() for outcome in each.outcomes], axis=0) for each in (one, other)]
    return paired_bootstrap(one.scores - other.scores, int((~np.isclose(*errors)).sum())), BOOTSTRAP


def _verdict(mean: float | None, p: float | None, lower_is_better: bool) -> str:
    if p is None or mean is None:
        return ""
    if p >= LEVEL:
        return NOISE
    return BETTER if (mean < 0) == lower_is_better else WORSE
