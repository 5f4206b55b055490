"""A class per frame: softmax and cross-entropy, with frames left out that have no label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError
from framecache.cache.manifest import Video, resolve_within
from framecache.cache.reader import FeatureSet
from framecache.train.config import FitConfig
from framecache.train.data import class_weights
from framecache.train.splits.split_file import manifest_root
from framecache.train.splits.splitting import LabeledVideos
from framecache.train.tasks.classification import per_class_of_counts
from framecache.train.tasks.frame_labels import read_frame_labels
from framecache.train.tasks.metrics import classification_metrics, confusion_matrix
from framecache.train.tasks.multilabel import known_classes, rarest
from framecache.train.tasks.segmental import segmental_metrics
from framecache.train.tasks.task import Task, Tensor

_SHOWN = 3


class Frames(Task):
    """A class per frame.

    Args:
        classes: Names of the classes.
    """

    name = "frames"
    measure = "accuracy"
    score = "accuracy"
    per_frame = True
    columns = ("start", "end", "true", "predicted")

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)

    @classmethod
    def read(cls, videos: Sequence[Video], features: FeatureSet, config: FitConfig) -> dict[str, Any]:
        """The :class:`~framecache.train.tasks.frame_labels.FrameLabels` of the file that the label names."""
        without = [video.video_id for video in videos if video.label is None]
        if without:
            named = ", ".join(map(repr, without[:_SHOWN])) + ", …" * (len(without) > _SHOWN)
            raise InputError(
                f"{config.manifest}: column {config.target!r} names no file with frame labels for {len(without)} of "
                f"{len(videos)} videos ({named}); expected one for each"
            )
        root, every_frame = manifest_root(config), features.spec.sampling == "all"
        return {
            video.video_id: read_frame_labels(
                resolve_within(root, video.label or "", f"{config.manifest}, {video.video_id}"),
                features.timestamps_ms(video.video_id),
                every_frame,
            )
            for video in videos
        }

    @classmethod
    def strata(cls, labels: Mapping[str, Any]) -> dict[str, str]:
        """The class of each that fewest videos have, since it is the one that a split may lack."""
        return rarest({video_id: frames.names for video_id, frames in labels.items()})

    @classmethod
    def check(cls, labeled: LabeledVideos, where: str) -> tuple[str, ...]:
        """Classes of the train split's frames, two at least."""
        names = {video_id: frames.names for video_id, frames in labeled.labels.items()}
        classes = known_classes(labeled, names, where)
        if len(classes) < 2:
            raise InputError(
                f"{where}: all labelled frames of the train split are {classes[0]!r}; expected two classes"
            )
        return classes

    @classmethod
    def of(cls, labeled: LabeledVideos, config: FitConfig) -> Self:
        """The classes of the train split."""
        return cls(labeled.classes)

    def targets(self, labels: Sequence[Any]) -> NDArray[Any]:
        """Class of each frame, one video after the other, ``(F,)`` int64; -1 for none."""
        index = {name: number for number, name in enumerate(self.classes)}
        return np.concatenate([frames.as_classes(index) for frames in labels])

    def weights(self, targets: NDArray[Any], balanced: bool) -> NDArray[np.float32]:
        """Weight per class, inverse to its number of frames if balanced."""
        known = targets[targets >= 0]
        return class_weights(known, len(self.classes)) if balanced else np.ones(len(self.classes), np.float32)

    def losses(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Mean cross-entropy of a sequence's labelled frames in nats, each times the weight of its class."""
        import tensorflow as tf

        classes = tf.maximum(targets, 0)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits) * tf.gather(weights, classes)
        return _mean_of_labeled(losses, targets)

    def scores(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Share of a sequence's labelled frames whose highest logit is that of the true class."""
        import tensorflow as tf

        return _mean_of_labeled(tf.cast(tf.argmax(logits, 2) == targets, tf.float32), targets)

    def metrics(
        self, logits: NDArray[np.floating], targets: NDArray[Any], lengths: NDArray[np.int64] | None = None
    ) -> dict[str, float]:
        """``accuracy``, ``macro_f1`` and ``loss`` over the labelled frames; with lengths, the segmental ones too.

        The latter are those of :func:`~framecache.train.tasks.segmental.segmental_metrics`.
        """
        known = targets >= 0
        of_frames = classification_metrics(logits[known], targets[known])
        found = {name: of_frames[name] for name in ("accuracy", "macro_f1", "loss")}
        if lengths is None:
            return found
        return {**found, **segmental_metrics(logits.argmax(axis=1), targets, lengths)}

    def per_class(self, logits: NDArray[np.floating], targets: NDArray[Any]) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and number of labelled frames."""
        return per_class_of_counts(self._confusion(logits, targets), self.classes)

    def rows(
        self, logits: NDArray[np.floating], targets: NDArray[Any], timestamps_ms: NDArray[np.float64] | None
    ) -> Iterator[Sequence[str]]:
        """A row per stretch of frames of one true and one predicted class, from ``start`` to ``end``, in seconds."""
        if timestamps_ms is None:
            raise ValueError("rows: expected the frames' timestamps")
        predicted = logits.argmax(axis=1)
        begins = np.flatnonzero(np.diff(targets, prepend=-2) | np.diff(predicted, prepend=-2))
        last = 2 * timestamps_ms[-1] - timestamps_ms[-2] if len(timestamps_ms) > 1 else timestamps_ms[-1]
        ends = np.append(timestamps_ms[begins[1:]], last)
        for begin, end_ms in zip(begins.tolist(), ends.tolist(), strict=True):
            true = self.classes[targets[begin]] if targets[begin] >= 0 else ""
            seconds = (f"{milliseconds / 1000:.6g}" for milliseconds in (timestamps_ms[begin], end_ms))
            yield *seconds, true, self.classes[predicted[begin]]

    def draw(self, folder: Path, logits: NDArray[np.floating], targets: NDArray[Any], title: str) -> None:
        """``confusion.png``, of labelled frames."""
        from framecache.train.plots import plot_confusion

        plot_confusion(folder / "confusion.png", self._confusion(logits, targets), self.classes, title)

    def _confusion(self, logits: NDArray[np.floating], targets: NDArray[Any]) -> NDArray[np.int64]:
        known = targets >= 0
        return confusion_matrix(targets[known], logits[known].argmax(axis=1), len(self.classes))


def _mean_of_labeled(values: Tensor, targets: Tensor) -> Tensor:
    """Mean of values ``(B, T)`` over the frames with a target, ``(B,)``; 0 where no frame has one."""
    import tensorflow as tf

    known = targets >= 0
    count = tf.reduce_sum(tf.cast(known, tf.float32), 1)
    return tf.reduce_sum(tf.where(known, values, 0.0), 1) / tf.maximum(count, 1.0)
