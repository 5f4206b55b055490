"""Any number of labels per video: a sigmoid for each, and binary cross-entropy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError
from framecache.cache.manifest import LABEL_SEPARATOR, Video
from framecache.cache.reader import FeatureSet
from framecache.train.config import FitConfig
from framecache.train.splits.splitting import LabeledVideos
from framecache.train.tasks.metrics import average_precision, multilabel_metrics, per_class_metrics
from framecache.train.tasks.task import Task, Tensor

_MAX_WEIGHT = 10.0  # of a true label: one among a thousand videos must not outweigh all of them
_SHOWN = 3


class Multilabel(Task):
    """Any number of labels per video, none included.

    Args:
        classes: Names of the labels.
    """

    name = "multilabel"
    measure = "map"
    score = "lrap"
    columns = ("predicted", "probability")

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)

    @classmethod
    def read(cls, videos: Sequence[Video], features: FeatureSet, config: FitConfig) -> dict[str, Any]:
        """Labels between semicolons; an empty field has none."""
        return {video.video_id: split_labels(video.label or "") for video in videos}

    @classmethod
    def strata(cls, labels: Mapping[str, Any]) -> dict[str, str]:
        """The rarest label of each, since it is the one that a split may lack."""
        return rarest(labels)

    @classmethod
    def check(cls, labeled: LabeledVideos, where: str) -> tuple[str, ...]:
        """The labels of the train split."""
        return known_classes(labeled, labeled.labels, where)

    @classmethod
    def of(cls, labeled: LabeledVideos, config: FitConfig) -> Self:
        """The labels of the train split."""
        return cls(labeled.classes)

    def targets(self, labels: Sequence[Any]) -> NDArray[Any]:
        """Which labels are true, ``(N, num_classes)`` bool."""
        return np.array([[name in names for name in self.classes] for names in labels], np.bool_)

    def weights(self, targets: NDArray[Any], balanced: bool) -> NDArray[np.float32]:
        """Weight of each label where it is true: if balanced, videos without ÷ videos with it, 10 at most."""
        if not balanced:
            return np.ones(len(self.classes), np.float32)
        true = targets.sum(axis=0)
        weights: NDArray[np.float32] = np.minimum((len(targets) - true) / np.maximum(true, 1), _MAX_WEIGHT)
        return weights.astype(np.float32)

    def losses(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Mean binary cross-entropy over the classes in nats, times the weight where a label is true."""
        import tensorflow as tf

        true = tf.cast(targets, tf.float32)
        return tf.reduce_mean(tf.nn.weighted_cross_entropy_with_logits(true, logits, weights), 1)

    def scores(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Precision at each true label of a video, by falling logit; their mean, 1 for a video without any."""
        import tensorflow as tf

        order = tf.argsort(logits, 1, "DESCENDING", stable=True)
        true = tf.gather(tf.cast(targets, tf.float32), order, batch_dims=1)
        precision = tf.cumsum(true, 1) / tf.range(1.0, len(self.classes) + 1.0)
        counts = tf.reduce_sum(true, 1)
        return tf.where(counts > 0, tf.reduce_sum(precision * true, 1) / tf.maximum(counts, 1.0), 1.0)

    def metrics(
        self, logits: NDArray[np.floating], targets: NDArray[Any], lengths: NDArray[np.int64] | None = None
    ) -> dict[str, float]:
        """As of :func:`~framecache.train.tasks.metrics.multilabel_metrics`."""
        return multilabel_metrics(logits, targets)

    def per_class(self, logits: NDArray[np.floating], targets: NDArray[Any]) -> dict[str, dict[str, float]]:
        """Precision, recall, F1, number of videos, and average precision of a label that some video has."""
        predicted = logits > 0
        counts = ((predicted & targets).sum(axis=0), predicted.sum(axis=0), targets.sum(axis=0))
        found = per_class_metrics(*counts, self.classes)
        for metrics, precision in zip(found.values(), average_precision(logits, targets).tolist(), strict=True):
            if metrics["support"]:
                metrics["average_precision"] = precision
        return found

    def rows(
        self, logits: NDArray[np.floating], targets: NDArray[Any], timestamps_ms: NDArray[np.float64] | None
    ) -> Iterator[Sequence[str]]:
        """The predicted labels and their probabilities, between semicolons."""
        probabilities = 1 / (1 + np.exp(-logits[0].astype(np.float64)))
        chosen = np.flatnonzero(logits[0] > 0).tolist()
        yield (
            LABEL_SEPARATOR.join(self.classes[number] for number in chosen),
            LABEL_SEPARATOR.join(f"{probabilities[number]:.4f}" for number in chosen),
        )

    def draw(self, folder: Path, logits: NDArray[np.floating], targets: NDArray[Any], title: str) -> None:
        """``per-class.png``: average precision of each label."""
        from framecache.train.tasks.plots import plot_per_class

        precisions = average_precision(logits, targets)
        plot_per_class(folder / "per-class.png", precisions, targets.sum(axis=0), self.classes, title)


def split_labels(text: str) -> tuple[str, ...]:
    """Labels between semicolons, each once, in the order of the alphabet."""
    return tuple(sorted({label.strip() for label in text.split(LABEL_SEPARATOR)} - {""}))


def rarest(labels: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Of each video the label that fewest videos have; empty for a video without any."""
    counts = Counter(label for names in labels.values() for label in set(names))
    return {
        video_id: min(names, key=lambda label: (counts[label], label), default="") for video_id, names in labels.items()
    }


def known_classes(labeled: LabeledVideos, labels: Mapping[str, Collection[str]], where: str) -> tuple[str, ...]:
    """Classes of the train split, where each video may have several.

    Raises:
        InputError: A split has no label at all, or val or test one that train has not.
    """
    present = {
        split: {label for video in videos for label in labels[video.video_id]}
        for split, videos in labeled.splits.items()
        if videos
    }
    for split, names in present.items():
        if not names:
            raise InputError(f"{where}: no video of the {split} split has a label; expected some")
        unknown = sorted(names - present["train"])
        if unknown:
            named = ", ".join(map(repr, unknown[:_SHOWN])) + ", …" * (len(unknown) > _SHOWN)
            raise InputError(f"{where}: label {named} is in the {split} split but not in train; nothing can learn it")
    return tuple(sorted(present["train"]))
