"""A number per video."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial

import numpy as np

from framecache.train.comparison.outcomes.outcome import Floats, Metric, Outcome, ratio_of
from framecache.train.predictions import Predictions


class Regression(Outcome):
    """A number per video."""

    measure = "mae"
    targets_kind = "f"
    lower_is_better = True

    def __init__(self, predictions: Predictions, classes: Sequence[str]) -> None:
        self.video_ids = tuple(predictions.video_id.tolist())
        self._true = predictions.targets[:, 0].astype(np.float64)
        self._predicted = predictions.logits[:, 0].astype(np.float64)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """``mae``, ``rmse`` and ``r2``."""
        return {"mae": partial(ratio_of, numerators=self.errors()), "rmse": self._rmse, "r2": self._r2}

    def numbers(self) -> tuple[Floats, Floats]:
        """True and predicted numbers, ``(N,)`` each."""
        return self._true, self._predicted

    def _rmse(self, weights: Floats) -> Floats:
        return np.sqrt(ratio_of(weights, self.errors() ** 2))

    def _r2(self, weights: Floats) -> Floats:
        """Not defined where all numbers of a resample are equal."""
        centred = self._true - self._true.mean()  # the digits that a variance needs
        variance = ratio_of(weights, centred**2) - ratio_of(weights, centred) ** 2
        with np.errstate(invalid="ignore", divide="ignore"):
            share = 1 - ratio_of(weights, self.errors() ** 2) / variance
        return np.where(variance > 1e-12 * centred.var(), share, np.nan)

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
