"""One class per video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from framecache.train.comparison.outcomes.outcome import (
    Floats,
    Metric,
    Outcome,
    macro_f1_of,
    ratio_of,
    recall_of,
    sums_by_class,
)
from framecache.train.predictions import Predictions
from framecache.train.tasks.metrics import confusion_matrix, log_softmax


class Labels(Outcome):
    """One label per video, of which only right or wrong is known (``predictions.csv``)."""

    measure = "accuracy"

    def __init__(self, video_ids: Sequence[str], true: Sequence[str], predicted: Sequence[str], classes: Sequence[str]):
        order = np.argsort(np.array(video_ids, np.str_), kind="stable")
        self.video_ids = tuple(video_ids[number] for number in order)
        self._true = [true[number] for number in order]
        self._predicted = [predicted[number] for number in order]
        self._classes = classes

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """``accuracy`` and ``macro_f1``."""
        return {"accuracy": partial(ratio_of, numerators=self.right().astype(float)), "macro_f1": self._macro_f1}

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
        return confusion_matrix(*self._numbers(), len(self._classes))

    def per_class(self) -> Floats:
        """Recall."""
        return recall_of(self.confusion())

    def _numbers(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """True and predicted classes, ``(N,)`` each."""
        index = {name: number for number, name in enumerate(self._classes)}
        true, found = (np.array([index[name] for name in names], int) for names in (self._true, self._predicted))
        return true, found

    def _macro_f1(self, weights: Floats) -> Floats:
        (true, found), right, num_classes = self._numbers(), self.right(), len(self._classes)
        hits = sums_by_class(weights[:, right], true[right], num_classes)
        sizes = sums_by_class(weights, true, num_classes) + sums_by_class(weights, found, num_classes)
        return macro_f1_of(hits, sizes)


class Classification(Labels):
    """One class per video, with logits."""

    def __init__(self, predictions: Predictions, classes: Sequence[str]) -> None:
        true, predicted = (
            [classes[index] for index in indices]
            for indices in (predictions.targets, predictions.logits.argmax(axis=1))
        )
        super().__init__(predictions.video_id.tolist(), true, predicted, classes)
        rows = np.arange(len(predictions.targets))
        own = predictions.logits[rows, predictions.targets]
        self._above = (predictions.logits > own[:, None]).sum(axis=1)
        self._losses: Floats = -log_softmax(predictions.logits)[rows, predictions.targets]

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Those of labels, and ``loss``; the ``top5`` of :meth:`metric` may be a ``top3`` or any other."""
        return {**super().metrics, "loss": partial(ratio_of, numerators=self._losses)}

    def metric(self, name: str) -> Metric | None:
        """One of them, or the share of the videos of which one of the k highest logits is that of the true class."""
        k = name.removeprefix("top")
        if k != name and k.isdecimal():
            return partial(ratio_of, numerators=(self._above < int(k)).astype(float))
        return super().metric(name)

    def losses(self) -> Floats:
        """Cross-entropy."""
        return self._losses
