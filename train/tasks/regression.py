"""A number per video: squared error, in units of the train split's standard deviation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError
from framecache.cache.manifest import Video
from framecache.cache.reader import FeatureSet
from framecache.train.config import FitConfig
from framecache.train.splits.splitting import LabeledVideos
from framecache.train.tasks.metrics import regression_metrics
from framecache.train.tasks.task import Task, Tensor

_NUM_STRATA = 5
_SHOWN = 3


class Regression(Task):
    """A number per video, learned in standard deviations of the train split and told in the label's own units.

    Args:
        mean: Mean of the train split.
        deviation: Its standard deviation.
    """

    name = "regression"
    measure = "mae"
    score = "mae"
    lower_is_better = True
    columns = ("predicted",)
    classes = ()

    def __init__(self, mean: float, deviation: float) -> None:
        self.rescale = (deviation, mean)

    @classmethod
    def read(cls, videos: Sequence[Video], features: FeatureSet, config: FitConfig) -> dict[str, Any]:
        """The label as a number.

        Raises:
            InputError: A label is missing, or is no finite number.
        """
        labels = {video.video_id: _number(video.label) for video in videos}
        wrong = [video for video in videos if not math.isfinite(labels[video.video_id])]
        if wrong:
            named = ", ".join(f"{video.label or ''!r} of {video.video_id!r}" for video in wrong[:_SHOWN])
            raise InputError(
                f"{config.manifest}: column {config.target!r} holds no number for {len(wrong)} of {len(videos)} videos "
                f"({named}{', …' * (len(wrong) > _SHOWN)}); expected one for each"
            )
        return labels

    @classmethod
    def strata(cls, labels: Mapping[str, Any]) -> dict[str, str]:
        """Which fifth of all labels it is in."""
        values = np.array(list(labels.values()))
        edges = np.quantile(values, np.arange(1, _NUM_STRATA) / _NUM_STRATA) if len(values) else values
        fifths = np.searchsorted(edges, values).tolist()
        return {video_id: str(fifth) for video_id, fifth in zip(labels, fifths, strict=True)}

    @classmethod
    def check(cls, labeled: LabeledVideos, where: str) -> tuple[str, ...]:
        """No classes, after the check that each split has different numbers."""
        for split, videos in labeled.splits.items():
            numbers = {np.float32(labeled.labels[video.video_id]) for video in videos}
            if len(numbers) == 1:
                raise InputError(
                    f"{where}: the {split} split has only the number {numbers.pop():g} (in 32 bits); expected videos "
                    "of at least two numbers"
                )
        return ()

    @classmethod
    def of(cls, labeled: LabeledVideos, config: FitConfig) -> Self:
        """Mean and standard deviation of the train split."""
        numbers = np.array([labeled.labels[video.video_id] for video in labeled.splits["train"]])
        return cls(float(numbers.mean()), float(numbers.std()))

    @property
    def num_outputs(self) -> int:
        """One."""
        return 1

    def targets(self, labels: Sequence[Any]) -> NDArray[Any]:
        """The numbers, ``(N, 1)`` float32."""
        return np.array(labels, np.float32)[:, None]

    def weights(self, targets: NDArray[Any], balanced: bool) -> NDArray[np.float32]:
        """1; numbers have no classes to balance."""
        return np.ones(1, np.float32)

    def losses(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Squared error, in squared standard deviations of the train split."""
        import tensorflow as tf

        return tf.reduce_sum(((logits - targets) / self.rescale[0]) ** 2 * weights, 1)

    def scores(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Absolute error."""
        import tensorflow as tf

        return tf.abs(logits - targets)[:, 0]

    def metrics(
        self, logits: NDArray[np.floating], targets: NDArray[Any], lengths: NDArray[np.int64] | None = None
    ) -> dict[str, float]:
        """As of :func:`~framecache.train.tasks.metrics.regression_metrics`, and ``loss``, as of :meth:`losses`."""
        found = regression_metrics(logits[:, 0], targets[:, 0])
        return {**found, "loss": (found["rmse"] / self.rescale[0]) ** 2}

    def per_class(self, logits: NDArray[np.floating], targets: NDArray[Any]) -> dict[str, dict[str, float]]:
        """Nothing."""
        return {}

    def rows(
        self, logits: NDArray[np.floating], targets: NDArray[Any], timestamps_ms: NDArray[np.float64] | None
    ) -> Iterator[Sequence[str]]:
        """The predicted number."""
        yield (f"{logits[0, 0]:.7g}",)

    def draw(self, folder: Path, logits: NDArray[np.floating], targets: NDArray[Any], title: str) -> None:
        """``scatter.png``: predicted numbers against true ones."""
        from framecache.train.tasks.plots import plot_scatter

        plot_scatter(folder / "scatter.png", targets[:, 0], logits[:, 0], title)


def _number(text: str | None) -> float:
    """The number; nan for what is none, or does not fit into 32 bits."""
    try:
        value = float(text or "")
    except ValueError:
        return math.nan
    return value if abs(value) <= float(np.finfo(np.float32).max) else math.nan
