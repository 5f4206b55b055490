"""Measuring side by side: contenders take turns within one run, so that what slows the machine slows them all."""

from __future__ import annotations

import gc
import importlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

Work = Callable[[], float]  # does some work once, gives its amount (frames, sequences, …)
_LOWER_IS_BETTER = ("s", "ms", "MB")


@dataclass(frozen=True)
class Row:
    """One line of the benchmark.

    Attributes:
        name: What is measured, against what.
        unit: Of both figures: a rate (``frames/s``, ``GB/s``) or a cost (``s``, ``ms``, ``MB``).
        ours: Our figure; None where it could not be measured.
        theirs: The peer's figure, or the limit.
        target: The ratio to reach; None for a figure that is only told.
        note: Why a row was skipped, or what else is to be known.
    """

    name: str
    unit: str
    ours: float | None = None
    theirs: float | None = None
    target: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better ours is, whatever the unit."""
        if self.ours is None or self.theirs is None:
            return None
        return self.theirs / self.ours if self.unit in _LOWER_IS_BETTER else self.ours / self.theirs


def take_turns(contenders: Mapping[str, Work], repeats: int = 5, min_seconds: float = 0.5) -> dict[str, float]:
    """Median amount of work per second of each contender.

    Each is called once to warm up, then in turns. A turn lasts at least ``min_seconds``.

    Args:
        contenders: What does some work once and gives its amount, by name.
        repeats: Turns of each.
        min_seconds: Length of a turn, reached by calling again.
    """
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for work in contenders.values():
        work()
    for _ in range(repeats):
        for name, work in contenders.items():
            gc.collect()
            amount, begin = 0.0, time.perf_counter()
            while (seconds := time.perf_counter() - begin) < min_seconds or not amount:
                amount += work()
            rates[name].append(amount / seconds)
    return {name: statistics.median(found) for name, found in rates.items()}


def versus(
    name: str, unit: str, ours: Work, theirs: Work, target: float | None, *, repeats: int = 5, min_seconds: float = 0.5
) -> Row:
    """A row of two rates, measured in turns."""
    rates = take_turns({"ours": ours, "theirs": theirs}, repeats, min_seconds)
    return Row(name, unit, rates["ours"], rates["theirs"], target)


def measure_section(section: str) -> list[Row]:
    """All rows of one section, a module beside this one; what it writes into its folder is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="framecache-bench-") as scratch:
        return list(importlib.import_module(section).measure(Path(scratch)))
