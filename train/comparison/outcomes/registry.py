"""The tasks that runs can be compared by."""

from __future__ import annotations

from framecache.train.comparison.outcomes.classification import Classification
from framecache.train.comparison.outcomes.frames import Frames
from framecache.train.comparison.outcomes.multilabel import Multilabel
from framecache.train.comparison.outcomes.regression import Regression

OUTCOMES: dict[str, type[Classification | Frames | Multilabel | Regression]] = {
    "classification": Classification,
    "multilabel": Multilabel,
    "regression": Regression,
    "frames": Frames,
}
