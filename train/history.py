"""What a training wrote down after each epoch: ``history.csv`` and TensorBoard's events."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from framecache.train.events import EventWriter
from framecache.train.runs import EVENTS_FOLDER


class HistoryWriter:
    """Writes each epoch's measures as they come, in place of what an interrupted training wrote.

    Args:
        folder: The run's; None to write nothing.
        before: Measures of the epochs that were trained before, by name; they are written anew.
    """

    def __init__(self, folder: Path | None, before: Mapping[str, Sequence[float]] | None = None) -> None:
        self._folder = folder
        self._before = before or {}
        self._stack = ExitStack()
        self._table: Any = None
        self._events: dict[str, EventWriter] = {}

    def __enter__(self) -> Self:
        if self._folder is not None:
            stream = (self._folder / "history.csv").open("w", newline="", encoding="utf-8", buffering=1)
            self._table = csv.writer(self._stack.enter_context(stream))
            shutil.rmtree(self._folder / EVENTS_FOLDER, ignore_errors=True)
            for split in ("train", "validation"):  # as Keras names them
                self._events[split] = EventWriter(self._folder / EVENTS_FOLDER / split)
                self._stack.callback(self._events[split].close)
            for epoch, values in enumerate(zip(*self._before.values(), strict=True), 1):
                self.write(epoch, dict(zip(self._before, values, strict=True)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def write(self, epoch: int, measures: Mapping[str, float]) -> None:
        """Writes the measures after an epoch, which is counted from 1; those of val begin with ``val_``."""
        if self._table is None:
            return
        if epoch == 1:
            self._table.writerow(["epoch", *measures])
        self._table.writerow([epoch, *measures.values()])
        for split, events in self._events.items():
            events.scalars(
                epoch,
                {
                    f"epoch_{name.removeprefix('val_')}": value
                    for name, value in measures.items()
                    if name.startswith("val_") == (split == "validation")
                },
            )
