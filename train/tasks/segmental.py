"""Segmental metrics of frame labels: whether the right actions come in the right order, and overlap the true ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OVERLAPS = (10, 25, 50)  # percent of intersection over union, as in Lea et al. 2017
Classes = NDArray[np.int64]


def segmental_metrics(predicted: Classes, targets: Classes, lengths: NDArray[np.int64]) -> dict[str, float]:
    """Edit score and F1 at several overlaps (Lea et al., Temporal Convolutional Networks, CVPR 2017, sec. 4.1).

    A segment is a stretch of frames of one class. Frames without a true class are left out, and end a segment.

    Args:
        predicted: Classes of the frames of all videos, one video after the other, ``(F,)``.
        targets: True classes, ``(F,)``; -1 where there is none.
        lengths: Frames of each video, ``(N,)``.

    Returns:
        ``edit`` in [0, 1], the mean over the videos of 1 − the Levenshtein distance of predicted and true segments ÷
        the larger number of segments; and ``f1@10``, ``f1@25`` and ``f1@50`` in [0, 1], over the segments of all
        videos: a predicted one counts as right if the true segment of its class that it overlaps most does so by so
        many percent (intersection over union) and no earlier one took it, as in the evaluation of Farha and Gall,
        MS-TCN, CVPR 2019.
    """
    counts = count_segments(predicted, targets, lengths)
    known = counts.edits[np.isfinite(counts.edits)]
    scores = 2 * counts.right.sum(axis=0) / max(int(counts.sizes.sum()), 1)
    f1 = {f"f1@{overlap}": float(score) for overlap, score in zip(OVERLAPS, scores, strict=True)}
    return {"edit": float(known.mean()) if len(known) else 0.0, **f1}


@dataclass(frozen=True, eq=False)
class SegmentCounts:
    """What the segmental metrics of N videos are sums of.

    Attributes:
        edits: Edit score of each video, ``(N,)`` in [0, 1]; nan where no frame has a true class.
        right: Predicted segments that are right at each of the overlaps, ``(N, 3)``.
        sizes: Segments, predicted and true together, ``(N,)``.
    """

    edits: NDArray[np.float64]
    right: NDArray[np.int64]
    sizes: NDArray[np.int64]


def count_segments(predicted: Classes, targets: Classes, lengths: NDArray[np.int64]) -> SegmentCounts:
    """Counts video by video; arguments as of :func:`segmental_metrics`."""
    num_videos = len(lengths)
    counts = SegmentCounts(
        np.full(num_videos, np.nan), np.zeros((num_videos, len(OVERLAPS)), np.int64), np.zeros(num_videos, np.int64)
    )
    for video, (found, true) in enumerate(_segments_of(predicted, targets, lengths)):
        if len(true):
            counts.edits[video] = 1 - levenshtein(found[:, 0], true[:, 0]) / max(len(found), len(true))
            counts.right[video] = _num_right(found, true)
            counts.sizes[video] = len(found) + len(true)
    return counts


def segments(classes: Classes, known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Stretches of known frames of one class: class, first frame and the frame after the last, ``(S, 3)``."""
    told = np.where(known, classes, -1)
    begins = np.flatnonzero(np.diff(told, prepend=-2))
    ends = np.append(begins[1:], len(told))
    rows = np.stack([told[begins], begins, ends[: len(begins)]], axis=1)
    found: NDArray[np.int64] = rows[rows[:, 0] >= 0]
    return found


def levenshtein(one: Classes, other: Classes) -> int:
    """Fewest insertions, deletions and replacements that make one sequence the other, row by row of the table."""
    if len(one) > len(other):
        one, other = other, one
    places = np.arange(len(other) + 1)
    distances = places
    for number, item in enumerate(one, 1):
        replaced = distances[:-1] + (other != item)
        row = np.concatenate([[number], np.minimum(replaced, distances[1:] + 1)])
        distances = np.minimum.accumulate(row - places) + places  # insertions, one after the other
    return int(distances[-1])


def _segments_of(
    predicted: Classes, targets: Classes, lengths: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    cuts = np.cumsum(lengths)[:-1]
    for found, true in zip(np.split(predicted, cuts), np.split(targets, cuts), strict=True):
        yield segments(found, true >= 0), segments(true, true >= 0)


def _num_right(found: NDArray[np.int64], true: NDArray[np.int64]) -> NDArray[np.int64]:
    """Predicted segments that are right at each of the overlaps."""
    ends = np.minimum(found[:, 2, None], true[:, 2]) - np.maximum(found[:, 1, None], true[:, 1])
    spans = np.maximum(found[:, 2, None], true[:, 2]) - np.minimum(found[:, 1, None], true[:, 1])
    shares = np.where(found[:, 0, None] == true[:, 0], ends / spans, 0.0)
    best = shares.argmax(axis=1)
    share = shares[np.arange(len(found)), best]
    return np.array([len(np.unique(best[100 * share >= overlap])) for overlap in OVERLAPS], np.int64)
