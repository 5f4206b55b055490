"""How far a difference between runs can be trusted: the bootstrap over videos, McNemar's test, Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_RESAMPLES = 10_000
LEVEL = 0.05  # below which a p-value counts as a difference
_SEED = 0
_CHUNK = 1 << 18  # numbers of a matrix of weights that is made at once: 2 MB, for the processor's cache


def bootstrap(
    scores: Sequence[Callable[[Floats], Floats]], num_videos: int, num_resamples: int = NUM_RESAMPLES
) -> Floats:
    """Scores of the same resamples of the videos, drawn with replacement (Efron, 1979), always the same ones.

    Args:
        scores: Each gives ``(R,)`` scores of weights ``(R, num_videos)``.
        num_videos: Videos to draw from.
        num_resamples: R.

    Returns:
        ``(len(scores), R)``; resamples of which one of the scores is not defined are left out.
    """
    rng = np.random.default_rng(_SEED)
    rows = max(1, _CHUNK // num_videos)
    parts = []
    for begin in range(0, num_resamples, rows):
        size = min(rows, num_resamples - begin)
        drawn = rng.integers(num_videos, size=(size, num_videos)) + np.arange(size)[:, None] * num_videos
        counts = np.bincount(drawn.ravel(), minlength=size * num_videos)
        weights = counts.reshape(size, num_videos).astype(np.float64)
        parts.append(np.stack([score(weights) for score in scores]))
    resampled = np.concatenate(parts, axis=1)
    return resampled[:, np.isfinite(resampled).all(axis=0)]


def interval(resampled: Floats) -> tuple[float, float]:
    """The 95 % confidence interval: the percentiles 2.5 and 97.5 of the resampled scores ``(R,)``."""
    low, high = np.quantile(resampled, (LEVEL / 2, 1 - LEVEL / 2))
    return float(low), float(high)


def paired_bootstrap(differences: Floats, num_differing: int) -> float:
    """Two-sided p-value of no difference between two runs.

    Twice the share of the resamples in which the difference is not on the side of most, counting the sample itself as
    one more (Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 4.2); and never below what an
    exact test could show of so few videos, the two ends of all ways to swap the two runs' answers to each.

    Args:
        differences: Of the scores in each resample, ``(R,)``.
        num_differing: Videos that are not equally wrong in both.
    """
    rarer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, max(2 * (1 + rarer) / (1 + differences.size), 2.0 ** (1 - num_differing)))


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Two-sided p-value of McNemar's exact test: the videos that only one of two runs has right, as tosses of a coin.

    Args:
        first: Whether one run has each video right, ``(N,)``.
        second: Whether the other has.
    """
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    tosses, rarer = only_first + only_second, min(only_first, only_second)
    term = total = 1  # binomial coefficients, from (tosses over 0) on
    for number in range(1, rarer + 1):
        term = term * (tosses - number + 1) // number
        total += term
    return min(1.0, float(2 * total / (1 << tosses)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm, 1979): below a level, at most so often is any of them so by chance."""
    corrected = [math.nan] * len(p_values)
    highest = 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[number]))
        corrected[number] = highest
    return corrected
