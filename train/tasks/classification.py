"""One class per video: softmax and cross-entropy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from framecache.cache.manifest import Video
from framecache.cache.reader import FeatureSet
from framecache.train.config import FitConfig
from framecache.train.data import class_weights
from framecache.train.splits.splitting import LabeledVideos, check_classes
from framecache.train.tasks.metrics import classification_metrics, confusion_matrix, log_softmax, per_class_metrics
from framecache.train.tasks.task import Task, Tensor


class Classification(Task):
    """One class per video.

    Args:
        classes: Names of the classes.
        top_k: How many of the highest logits may hold the true class, for the metric of that name.
    """

    name = "classification"
    measure = "accuracy"
    score = "accuracy"
    columns = ("predicted", "probability")

    def __init__(self, classes: Sequence[str], top_k: int = 5) -> None:
        self.classes = tuple(classes)
        self._top_k = top_k

    @classmethod
    def read(cls, videos: Sequence[Video], features: FeatureSet, config: FitConfig) -> dict[str, Any]:
        """The label as it is; one that is missing is told of by :meth:`check`."""
        return {video.video_id: video.label for video in videos}

    @classmethod
    def strata(cls, labels: Mapping[str, Any]) -> dict[str, str]:
        """The class."""
        return {video_id: label or "" for video_id, label in labels.items()}

    @classmethod
    def check(cls, labeled: LabeledVideos, where: str) -> tuple[str, ...]:
        """As of :func:`~framecache.train.splits.splitting.check_classes`."""
        return check_classes(labeled, where)

    @classmethod
    def of(cls, labeled: LabeledVideos, config: FitConfig) -> Self:
        """The classes of the train split."""
        return cls(labeled.classes, config.top_k)

    def targets(self, labels: Sequence[Any]) -> NDArray[Any]:
        """Class of each, ``(N,)`` int64."""
        index = {label: number for number, label in enumerate(self.classes)}
        return np.array([index[label] for label in labels], np.int64)

    def weights(self, targets: NDArray[Any], balanced: bool) -> NDArray[np.float32]:
        """Weight per class, inverse to its frequency if balanced."""
        return class_weights(targets, len(self.classes)) if balanced else np.ones(len(self.classes), np.float32)

    def losses(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Cross-entropy in nats, times the weight of the true class."""
        import tensorflow as tf

        return tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits) * tf.gather(weights, targets)

    def scores(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Whether the highest logit is that of the true class."""
        import tensorflow as tf

        return tf.cast(tf.argmax(logits, 1) == targets, tf.float32)

    def metrics(
        self, logits: NDArray[np.floating], targets: NDArray[Any], lengths: NDArray[np.int64] | None = None
    ) -> dict[str, float]:
        """As of :func:`~framecache.train.tasks.metrics.classification_metrics`."""
        return classification_metrics(logits, targets, self._top_k)

    def per_class(self, logits: NDArray[np.floating], targets: NDArray[Any]) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and number of videos."""
        return per_class_of_counts(confusion_matrix(targets, logits.argmax(axis=1), len(self.classes)), self.classes)

    def rows(
        self, logits: NDArray[np.floating], targets: NDArray[Any], timestamps_ms: NDArray[np.float64] | None
    ) -> Iterator[Sequence[str]]:
        """The predicted class, and its probability."""
        (probabilities,) = np.exp(log_softmax(logits))
        best = int(probabilities.argmax())
        yield self.classes[best], f"{probabilities[best]:.4f}"

    def draw(self, folder: Path, logits: NDArray[np.floating], targets: NDArray[Any], title: str) -> None:
        """``confusion.png``."""
        from framecache.train.plots import plot_confusion

        counts = confusion_matrix(targets, logits.argmax(axis=1), len(self.classes))
        plot_confusion(folder / "confusion.png", counts, self.classes, title)


def per_class_of_counts(counts: NDArray[np.int64], classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Per class what a confusion matrix ``(num_classes, num_classes)``, rows the true class, says of it."""
    return per_class_metrics(counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1), classes)
