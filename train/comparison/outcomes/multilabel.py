"""Several labels per video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from framecache.train.comparison.outcomes.outcome import Floats, Metric, Outcome, macro_f1_of, ratio_of
from framecache.train.predictions import Predictions
from framecache.train.tasks.metrics import ranking_precision


class Multilabel(Outcome):
    """Several labels per video; those with a logit above 0 are predicted."""

    measure = "map"
    targets_kind = "b"

    def __init__(self, predictions: Predictions, classes: Sequence[str]) -> None:
        self.video_ids = tuple(predictions.video_id.tolist())
        self._classes = classes
        self._logits = predictions.logits.astype(np.float64)
        self._targets = predictions.targets.astype(bool)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """``map``, ``lrap``, ``macro_f1``, ``micro_f1`` and ``loss``."""
        hits = ((self._logits > 0) & self._targets).sum(axis=1).astype(float)
        sizes = ((self._logits > 0).sum(axis=1) + self._targets.sum(axis=1)).astype(float)
        return {
            "map": self._mean_average_precision,
            "lrap": partial(ratio_of, numerators=ranking_precision(self._logits, self._targets)),
            "macro_f1": self._macro_f1,
            "micro_f1": partial(ratio_of, numerators=2 * hits, denominators=sizes),
            "loss": partial(ratio_of, numerators=self.losses()),
        }

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

    def class_sizes(self) -> NDArray[np.int64]:
        """Videos with each label."""
        sizes: NDArray[np.int64] = self._targets.sum(axis=0)
        return sizes

    def per_class(self) -> Floats:
        """Average precision."""
        precision: Floats = self._average_precision(np.ones((1, len(self.video_ids))))[0]
        return precision

    def _told(self, chosen: NDArray[np.bool_]) -> str:
        return ", ".join(self._classes[index] for index in np.flatnonzero(chosen).tolist())

    def _mean_average_precision(self, weights: Floats) -> Floats:
        """Mean over the classes that occur."""
        precisions = self._average_precision(weights)
        occurring = np.isfinite(precisions)
        with np.errstate(invalid="ignore"):
            means: Floats = np.where(occurring, precisions, 0).sum(axis=1) / occurring.sum(axis=1)
        return means

    def _macro_f1(self, weights: Floats) -> Floats:
        predicted = self._logits > 0
        sizes = predicted.astype(float) + self._targets
        return macro_f1_of(weights @ (predicted & self._targets).astype(float), weights @ sizes)

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
