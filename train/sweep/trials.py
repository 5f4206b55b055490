"""Trials of a sweep: runs that are to be trained, and how they ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from framecache.train.config import FitConfig

FINISHED, PRUNED, FAILED = "finished", "pruned", "failed"


@dataclass(frozen=True)
class Trial:
    """A run that is to be trained.

    Attributes:
        name: Of its folder, made of its values, so that the same file names it the same again.
        feature_set: As the file names it.
        values: One per axis.
        config: Settings of the run.
        configuration: Number of the values in the order in which they were drawn; 0 in a grid.
    """

    name: str
    feature_set: str
    values: Mapping[str, Any]
    config: FitConfig
    configuration: int = 0


@dataclass(frozen=True)
class Ended:
    """A trial that ended.

    Attributes:
        name: The trial's.
        state: finished, pruned or failed.
        values: One per axis.
        seed: The trial's.
        configuration: Number of its values, as drawn; 0 in a grid.
        value: The measure on val of the epoch that was kept; None if it failed.
        val_loss: The loss on val of that epoch.
        reason: Why it failed.
        seconds: In training.
        measures: Measure on val by epoch, where a pruner was asked.
    """

    name: str
    state: str
    values: Mapping[str, Any]
    seed: int
    configuration: int = 0
    value: float | None = None
    val_loss: float | None = None
    reason: str = ""
    seconds: float = 0.0
    measures: Mapping[int, float] = field(default_factory=dict, repr=False)
