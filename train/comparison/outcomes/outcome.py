"""How the videos of a split were answered, whatever the task; each has a subclass in a file of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from framecache.train.predictions import Predictions

Floats = NDArray[np.float64]
Metric = Callable[[Floats], Floats]


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

    @property
    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]:
        """Each metric that the predictions tell, as ``run.json`` names it, were each video there so many times.

        A metric takes weights ``(R, N)``, 0 or more, and gives ``(R,)``, nan where nothing that could be scored has a
        weight; weights of 1 give what ``run.json`` says.
        """

    def metric(self, name: str) -> Metric | None:
        """One of them; None where the predictions do not tell it."""
        return self.metrics.get(name)

    def scores(self, weights: Floats) -> Floats:
        """The measure under weights ``(R, N)``, ``(R,)``."""
        return self.metrics[self.measure](weights)

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

    def class_sizes(self) -> NDArray[np.int64] | None:
        """How often each class is true, ``(num_classes,)``; None where there are none."""
        counts = self.confusion()
        return None if counts is None else counts.sum(axis=1)

    def per_class(self) -> Floats | None:
        """Score of each class, ``(num_classes,)``, nan for a class that does not occur: recall, or precision."""
        return None


def ratio_of(weights: Floats, numerators: Floats, denominators: Floats | None = None) -> Floats:
    """Sums over the videos under weights ``(R, N)``, divided; of no denominators, the mean."""
    if denominators is None:
        denominators = np.ones(weights.shape[1])
    with np.errstate(invalid="ignore"):
        ratio: Floats = (weights @ numerators) / (weights @ denominators)
    return ratio


def recall_of(counts: NDArray[np.int64]) -> Floats:
    """Recall of each class of a confusion matrix, nan for a class that does not occur."""
    with np.errstate(invalid="ignore"):
        recall: Floats = counts.diagonal() / counts.sum(axis=1)
    return recall


def macro_f1_of(hits: Floats, sizes: Floats) -> Floats:
    """Mean of F1 over the classes that occur, ``(R,)``.

    Args:
        hits: How often each class was predicted rightly, ``(R, num_classes)``.
        sizes: How often it is true and how often it was predicted, summed.
    """
    occurring = sizes > 0
    with np.errstate(invalid="ignore"):
        means: Floats = (2 * hits / np.where(occurring, sizes, 1)).sum(axis=1) / occurring.sum(axis=1)
    return means


def sums_by_class(weights: Floats, classes: NDArray[np.int64], num_classes: int) -> Floats:
    """Sums of weights ``(R, N)`` over the videos of each class, ``(R, num_classes)``.

    Much quicker than a product with a matrix of zeros and ones, most of which are zeros.
    """
    sums = np.zeros((len(weights), num_classes))
    order = np.argsort(classes, kind="stable")
    present, begins = np.unique(classes[order], return_index=True)
    if len(present):
        sums[:, present] = np.add.reduceat(weights[:, order], begins, axis=1)
    return sums
