"""How the videos of a split were answered, task by task: scores under any weights of the videos, errors, labels.

A new task is a new subclass of :class:`Outcome` and its entry in :data:`OUTCOMES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from itertools import groupby
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from framecache.train.predictions import Predictions
from framecache.train.tasks.metrics import confusion_matrix, log_softmax

Floats = NDArray[np.float64]


class Outcome(ABC):
    """What a model made of the N videos of one split.

    Attributes:
        measure: The metric that is told first, as ``run.json`` names it.
        lower_is_better: Whether a small score is a good one.
        targets_kind: Kind of the targets' dtype in :class:`~framecache.train.predictions.Predictions`.
        per_frame: Whether each frame has a target, not each video.
        video_ids: The videos.
    """

    measure: ClassVar[str]
    lower_is_better: ClassVar[bool] = False
    targets_kind: ClassVar[str] = "i"
    per_frame: ClassVar[bool] = False
    video_ids: tuple[str, ...]

    @classmethod
    def fits(cls, predictions: Predictions, classes: Sequence[str]) -> bool:
        """Whether predictions are of this task and of so many classes."""
        return (
            predictions.targets.dtype.kind == cls.targets_kind
            and (predictions.lengths is not None) == cls.per_frame
            and predictions.logits.shape[1] == (len(classes) or 1)
        )

    @abstractmethod
    def scores(self, weights: Floats) -> Floats:
        """The measure, were each video there so many times.

        Args:
            weights: ``(R, N)``, 0 or more; all ones give the score itself.

        Returns:
            ``(R,)``, nan where nothing that could be scored has a weight.
        """

    @abstractmethod
    def errors(self) -> Floats:
        """How wrong each video is, ``(N,)``: the share of its labels that is wrong, or the absolute error."""

    @abstractmethod
    def true(self) -> list[str]:
        """What is true of each video, in words."""

    @abstractmethod
    def predicted(self) -> list[str]:
        """What the model took each video for, in words."""

    def truth(self) -> tuple[Hashable, ...]:
        """What is true of each video: runs can be compared where it is the same."""
        return tuple(self.true())

    def right(self) -> NDArray[np.bool_] | None:
        """Whether each video is right, ``(N,)``; None where it can be partly right."""
        return None

    def losses(self) -> Floats | None:
        """Loss of each video, ``(N,)``, in nats."""
        return None

    def confusion(self) -> NDArray[np.int64] | None:
        """Counts ``(num_classes, num_classes)``, rows the true class; None where one true class is not one answer."""
        return None

    def per_class(self) -> Floats | None:
        """Score of each class, ``(num_classes,)``, nan for a class that does not occur: recall, or precision."""
        return None


class Labels(Outcome):
    """One label per video, of which only right or wrong is known (``predictions.csv``)."""

    measure = "accuracy"

    def __init__(self, video_ids: Sequence[str], true: Sequence[str], predicted: Sequence[str], classes: Sequence[str]):
        order = np.argsort(np.array(video_ids, np.str_), kind="stable")
        self.video_ids = tuple(video_ids[number] for number in order)
        self._true = [true[number] for number in order]
        self._predicted = [predicted[number] for number in order]
        self._classes = classes

    def scores(self, weights: Floats) -> Floats:
        """Accuracy."""
        return _ratio(weights, self.right().astype(float), np.ones(len(self.video_ids)))

    def errors(self) -> Floats:
        """1 where the label is wrong."""
        return (~self.right()).astype(np.float64)

    def true(self) -> list[str]:
        """The labels."""
        return self._true

    def predicted(self) -> list[str]:
        """The predicted labels."""
        return self._predicted

    def right(self) -> NDArray[np.bool_]:
        """Whether the label is the predicted one."""
        return np.array([true == found for true, found in zip(self._true, self._predicted, strict=True)], bool)

    def confusion(self) -> NDArray[np.int64]:
        """Counts of videos."""
        index = {name: number for number, name in enumerate(self._classes)}
        rows, columns = (np.array([index[name] for name in names], int) for names in (self._true, self._predicted))
        return confusion_matrix(rows, columns, len(self._classes))

    def per_class(self) -> Floats:
        """Recall."""
        return _recall(self.confusion())


class Classification(Labels):
    """One class per video, with logits."""

    def __init__(self, predictions: Predictions, classes: Sequence[str]) -> None:
        true, predicted = (
            [classes[index] for index in indices]
            for indices in (predictions.targets, predictions.logits.argmax(axis=1))
        )
        super().__init__(predictions.video_id.tolist(), true, predicted, classes)
        rows = np.arange(len(predictions.targets))
        self._losses: Floats = -log_softmax(predictions.logits)[rows, predictions.targets]

    def losses(self) -> Floats:
        """Cross-entropy."""
        return self._losses


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

    def scores(self, weights: Floats) -> Floats:
        """Share of the labelled frames that are right."""
        return _ratio(weights, self._right, self._sizes)

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
        return _recall(self.confusion())

    def _told(self, classes: NDArray[np.int64]) -> str:
        return " → ".join(self._classes[index] for index, _ in groupby(classes.tolist()))


class Multilabel(Outcome):
    """Several labels per video; those with a logit above 0 are predicted."""

    measure = "map"
    targets_kind = "b"

    def __init__(self, predictions: Predictions, classes: Sequence[str]) -> None:
        self.video_ids = tuple(predictions.video_id.tolist())
        self._classes = classes
        self._logits = predictions.logits.astype(np.float64)
        self._targets = predictions.targets.astype(bool)

    def scores(self, weights: Floats) -> Floats:
        """Mean over the classes that occur of the average precision."""
        precisions = self._average_precision(weights)
        occurring = np.isfinite(precisions)
        with np.errstate(invalid="ignore"):
            means: Floats = np.where(occurring, precisions, 0).sum(axis=1) / occurring.sum(axis=1)
        return means

    def errors(self) -> Floats:
        """Share of the labels that are wrong."""
        wrong: Floats = ((self._logits > 0) != self._targets).mean(axis=1)
        return wrong

    def losses(self) -> Floats:
        """Mean binary cross-entropy over the classes."""
        losses: Floats = np.logaddexp(0, np.where(self._targets, -self._logits, self._logits)).mean(axis=1)
        return losses

    def true(self) -> list[str]:
        """The labels, with commas."""
        return [self._told(row) for row in self._targets]

    def predicted(self) -> list[str]:
        """The predicted labels, with commas."""
        return [self._told(row > 0) for row in self._logits]

    def per_class(self) -> Floats:
        """Average precision."""
        precision: Floats = self._average_precision(np.ones((1, len(self.video_ids))))[0]
        return precision

    def _told(self, chosen: NDArray[np.bool_]) -> str:
        return ", ".join(self._classes[index] for index in np.flatnonzero(chosen).tolist())

    def _average_precision(self, weights: Floats) -> Floats:
        """Mean precision at the positives, by falling logit, equal logits at once; ``(R, num_classes)``."""
        found = np.full((len(weights), self._logits.shape[1]), np.nan)
        for column, (logits, targets) in enumerate(zip(self._logits.T, self._targets.T, strict=True)):
            order = np.argsort(-logits, kind="stable")
            last = np.flatnonzero(np.diff(logits[order], append=np.inf))  # of each run of equal logits
            positive = np.cumsum(weights[:, order] * targets[order], axis=1)[:, last]
            everything = np.cumsum(weights[:, order], axis=1)[:, last]
            gained = np.diff(positive, axis=1, prepend=0)
            with np.errstate(invalid="ignore", divide="ignore"):
                precision = np.where(everything > 0, positive / everything, 0)
                found[:, column] = (gained * precision).sum(axis=1) / positive[:, -1]
        return found


class Regression(Outcome):
    """A number per video."""

    measure = "mae"
    targets_kind = "f"
    lower_is_better = True

    def __init__(self, predictions: Predictions, classes: Sequence[str]) -> None:
        self.video_ids = tuple(predictions.video_id.tolist())
        self._true = predictions.targets[:, 0].astype(np.float64)
        self._predicted = predictions.logits[:, 0].astype(np.float64)

    def scores(self, weights: Floats) -> Floats:
        """Mean absolute error."""
        return _ratio(weights, self.errors(), np.ones(len(self.video_ids)))

    def errors(self) -> Floats:
        """Absolute errors, in the label's own units."""
        errors: Floats = np.abs(self._predicted - self._true)
        return errors

    def true(self) -> list[str]:
        """The numbers."""
        return [f"{number:.4g}" for number in self._true]

    def predicted(self) -> list[str]:
        """The predicted numbers."""
        return [f"{number:.4g}" for number in self._predicted]

    def truth(self) -> tuple[Hashable, ...]:
        """The numbers, all digits."""
        return tuple(self._true.tolist())


OUTCOMES: dict[str, type[Classification | Frames | Multilabel | Regression]] = {
    "classification": Classification,
    "multilabel": Multilabel,
    "regression": Regression,
    "frames": Frames,
}


def _ratio(weights: Floats, numerators: Floats, denominators: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        ratio: Floats = (weights @ numerators) / (weights @ denominators)
    return ratio


def _recall(counts: NDArray[np.int64]) -> Floats:
    with np.errstate(invalid="ignore"):
        recall: Floats = counts.diagonal() / counts.sum(axis=1)
    return recall
