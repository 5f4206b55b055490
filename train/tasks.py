"""Tasks: what a model's outputs stand for, how far they are off, and how that is told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.manifest import Video
from framecache.train.data import class_weights
from framecache.train.metrics import classification_metrics

Tensor = Any


class Task(ABC):
    """One kind of question that videos are asked.

    Attributes:
        name: As ``--task`` has it.
        measure: The metric that is told first.
        classes: Names of the outputs.
        per_frame: Whether each frame has a target, not each video.
    """

    name: str
    measure: str
    per_frame: bool = False

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)

    @property
    def num_outputs(self) -> int:
        """Numbers that the model gives per video, or per frame."""
        return len(self.classes)

    @abstractmethod
    def targets(self, videos: Sequence[Video]) -> NDArray[Any]:
        """Targets of some videos, ``(N, …)``."""

    @abstractmethod
    def weights(self, targets: NDArray[Any], balanced: bool) -> NDArray[np.float32]:
        """Weight of each output in the loss, ``(num_outputs,)``; all 1 unless balanced by these targets."""

    @abstractmethod
    def losses(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Within a graph: the loss of each video of a batch, ``(B,)``."""

    @abstractmethod
    def scores(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Within a graph: what :attr:`measure` is the mean of, ``(B,)`` float32."""

    @abstractmethod
    def metrics(self, logits: NDArray[np.floating], targets: NDArray[Any]) -> dict[str, float]:
        """Metrics of a split, :attr:`measure` and ``loss`` among them."""


class Classification(Task):
    """One class per video: softmax and cross-entropy."""

    name = "classification"
    measure = "accuracy"

    def targets(self, videos: Sequence[Video]) -> NDArray[Any]:
        """Class of each, ``(N,)`` int64."""
        index = {label: number for number, label in enumerate(self.classes)}
        return np.array([index[video.label or ""] for video in videos], np.int64)

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

    def metrics(self, logits: NDArray[np.floating], targets: NDArray[Any]) -> dict[str, float]:
        """As of :func:`~framecache.train.metrics.classification_metrics`."""
        return classification_metrics(logits, targets)
