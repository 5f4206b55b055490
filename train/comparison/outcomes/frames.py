"""A class per frame."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property, partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from framecache.train.comparison.outcomes.outcome import Floats, Metric, Outcome, macro_f1_of, ratio_of, recall_of
from framecache.train.predictions import Predictions
from framecache.train.tasks.metrics import confusion_matrix, log_softmax
from framecache.train.tasks.segmental import OVERLAPS, SegmentCounts, count_segments


class Frames(Outcome):
    """A class per frame; frames without one do not count."""

    measure = "accuracy"
    per_frame = True

    def __init__(self, predictions: Predictions, classes: Sequence[str]) -> None:
        if predictions.lengths is None:
            raise ValueError("expected predictions of frames")
        self.video_ids = tuple(predictions.video_id.tolist())
        self._classes = classes
        cuts = np.cumsum(predictions.lengths)[:-1]
        logs = log_softmax(predictions.logits) if len(predictions.logits) else predictions.logits.astype(np.float64)
        self._logs = np.split(logs, cuts)
        self._targets = np.split(predictions.targets, cuts)
        self._predicted = [rows.argmax(axis=1) for rows in self._logs]
        self._known = [targets >= 0 for targets in self._targets]
        triples = list(zip(self._targets, self._predicted, self._known, strict=True))
        self._right = np.array([(known & (true == found)).sum() for true, found, known in triples], float)
        self._sizes = np.array([known.sum() for known in self._known], float)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """``accuracy``, ``macro_f1`` and ``loss`` over the labelled frames, ``edit`` and ``f1@10``, ``25``, ``50``."""
        counts = self._segments
        known = np.isfinite(counts.edits)
        return {
            "accuracy": partial(ratio_of, numerators=self._right, denominators=self._sizes),
            "macro_f1": self._macro_f1,
            "loss": partial(ratio_of, numerators=self.losses() * self._sizes, denominators=self._sizes),
            "edit": partial(ratio_of, numerators=np.where(known, counts.edits, 0.0), denominators=known.astype(float)),
            **{
                f"f1@{overlap}": partial(ratio_of, numerators=2.0 * right, denominators=counts.sizes.astype(float))
                for overlap, right in zip(OVERLAPS, counts.right.T, strict=True)
            },
        }

    def scores(self, weights: Floats) -> Floats:
        """Accuracy, without counting segments."""
        return ratio_of(weights, self._right, self._sizes)

    def timelines(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """True and predicted classes of the frames of each video, ``(T,)`` each; -1 where none is known."""
        return list(zip(self._targets, self._predicted, strict=True))

    @cached_property
    def _segments(self) -> SegmentCounts:
        lengths = np.array([len(targets) for targets in self._targets], np.int64)
        predicted, targets = (
            np.concatenate([*parts, []]).astype(np.int64) for parts in (self._predicted, self._targets)
        )
        return count_segments(predicted, targets, lengths)

    @cached_property
    def _class_counts(self) -> tuple[Floats, Floats]:
        """Frames of each video and class that are right, and those that are true plus those predicted, ``(N, C)``."""
        hits, sizes = np.zeros((2, len(self._targets), len(self._classes)))
        for video, (targets, found) in enumerate(zip(self._targets, self._predicted, strict=True)):
            counts = confusion_matrix(targets[targets >= 0], found[targets >= 0], len(self._classes))
            hits[video], sizes[video] = counts.diagonal(), counts.sum(axis=0) + counts.sum(axis=1)
        return hits, sizes

    def _macro_f1(self, weights: Floats) -> Floats:
        hits, sizes = self._class_counts
        return macro_f1_of(weights @ hits, weights @ sizes)

    def errors(self) -> Floats:
        """Share of each video's labelled frames that are wrong."""
        return np.asarray(1.0 - self._right / np.maximum(self._sizes, 1), np.float64)

    def losses(self) -> Floats:
        """Mean cross-entropy of each video's labelled frames."""
        return np.array(
            [
                -logs[known, targets[known]].mean() if known.any() else 0.0
                for logs, targets, known in zip(self._logs, self._targets, self._known, strict=True)
            ]
        )

    def true(self) -> list[str]:
        """The classes in the order in which they come."""
        return [self._told(targets[known]) for targets, known in zip(self._targets, self._known, strict=True)]

    def predicted(self) -> list[str]:
        """The predicted classes in the order in which they come, over the labelled frames."""
        return [self._told(found[known]) for found, known in zip(self._predicted, self._known, strict=True)]

    def truth(self) -> tuple[Hashable, ...]:
        """Every frame's class."""
        return tuple(targets.tobytes() for targets in self._targets)

    def confusion(self) -> NDArray[np.int64]:
        """Counts of frames."""
        known = np.concatenate(self._known)
        true, found = (np.concatenate(parts)[known] for parts in (self._targets, self._predicted))
        return confusion_matrix(true, found, len(self._classes))

    def per_class(self) -> Floats:
        """Recall of frames."""
        return recall_of(self.confusion())

    def _told(self, classes: NDArray[np.int64]) -> str:
        return " → ".join(self._classes[index] for index, _ in groupby(classes.tolist()))
