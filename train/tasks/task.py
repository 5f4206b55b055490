"""What a task is: which labels it reads, what a model's outputs stand for, how far they are off, how that is told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from framecache.cache.manifest import Video
from framecache.cache.reader import FeatureSet
from framecache.train.config import FitConfig
from framecache.train.splits.splitting import LabeledVideos

Tensor = Any


class Task(ABC):
    """One kind of question that videos are asked.

    The class reads and checks labels, before and after the videos are split up; what it is asked of is an instance,
    made from the train split.

    Attributes:
        name: As ``--task`` has it.
        measure: The metric that is told first.
        score: The metric that is told of the train split while it is trained on; a mean over videos.
        lower_is_better: Whether a small measure is a good one.
        per_frame: Whether each frame has a target, not each video.
        columns: What ``predictions.csv`` has beside ``video_id``, ``split`` and ``label``.
        classes: Names of the outputs; none where they are no classes.
        rescale: Scale and offset from the model's last layer to the label's own units.
    """

    name: ClassVar[str]
    measure: ClassVar[str]
    score: ClassVar[str]
    lower_is_better: ClassVar[bool] = False
    per_frame: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]]
    classes: tuple[str, ...]
    rescale: tuple[float, float] = (1.0, 0.0)

    @classmethod
    @abstractmethod
    def read(cls, videos: Sequence[Video], features: FeatureSet, config: FitConfig) -> dict[str, Any]:
        """The label of each ``video_id`` as this task takes it.

        Raises:
            InputError: A label is missing, or is none for this task.
        """

    @classmethod
    @abstractmethod
    def strata(cls, labels: Mapping[str, Any]) -> dict[str, str]:
        """Stratum of each ``video_id``, of which each split should get its share."""

    @classmethod
    @abstractmethod
    def check(cls, labeled: LabeledVideos, where: str) -> tuple[str, ...]:
        """Classes of the train split, after the checks of what it, val and test have.

        Raises:
            InputError: A split cannot be learned from, or cannot judge.
        """

    @classmethod
    @abstractmethod
    def of(cls, labeled: LabeledVideos, config: FitConfig) -> Self:
        """The task that these videos set."""

    @property
    def num_outputs(self) -> int:
        """Numbers that the model gives per video, or per frame."""
        return len(self.classes)

    @abstractmethod
    def targets(self, labels: Sequence[Any]) -> NDArray[Any]:
        """Targets of videos with these labels, ``(N, …)``; of frames, one video after the other, ``(F, …)``."""

    @abstractmethod
    def weights(self, targets: NDArray[Any], balanced: bool) -> NDArray[np.float32]:
        """Weight of each output in the loss, ``(num_outputs,)``; all 1 unless balanced by these targets."""

    @abstractmethod
    def losses(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Within a graph: the loss of each video of a batch, ``(B,)``."""

    @abstractmethod
    def scores(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Within a graph: what :attr:`score` is the mean of, ``(B,)`` float32."""

    @abstractmethod
    def metrics(
        self, logits: NDArray[np.floating], targets: NDArray[Any], lengths: NDArray[np.int64] | None = None
    ) -> dict[str, float]:
        """Metrics of a split: :attr:`measure`, :attr:`score` and ``loss`` among them.

        Args:
            logits: ``(N, num_outputs)``, of frames ``(F, num_outputs)``.
            targets: As of :meth:`targets`.
            lengths: Frames of each video, ``(N,)``; without, metrics that take some time are left out.
        """

    @abstractmethod
    def per_class(self, logits: NDArray[np.floating], targets: NDArray[Any]) -> dict[str, dict[str, float]]:
        """Metrics of each class; empty where there are none."""

    @abstractmethod
    def rows(
        self, logits: NDArray[np.floating], targets: NDArray[Any], timestamps_ms: NDArray[np.float64] | None
    ) -> Iterator[Sequence[str]]:
        """What ``predictions.csv`` says of one video, in :attr:`columns`.

        Args:
            logits: ``(1, num_outputs)``, or those of its frames.
            targets: ``(1, …)``, or those of its frames.
            timestamps_ms: Of its frames, where these have targets.
        """

    @abstractmethod
    def draw(self, folder: Path, logits: NDArray[np.floating], targets: NDArray[Any], title: str) -> None:
        """Draws what the model made of a split, into a file of its own in ``folder``."""
