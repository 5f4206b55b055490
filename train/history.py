"""What a training wrote down after each epoch: ``history.csv`` and TensorBoard's events."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import tensorflow as tf


class HistoryWriter:
    """Writes each epoch's measures as they come.

    Args:
        folder: The run's; None to write nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._table: Any = None
        self._events: dict[str, Any] = {}

    def __enter__(self) -> Self:
        if self._folder is not None:
            stream = (self._folder / "history.csv").open("w", newline="", encoding="utf-8", buffering=1)
            self._table = csv.writer(self._stack.enter_context(stream))
            for split in ("train", "validation"):  # as Keras names them
                self._events[split] = tf.summary.create_file_writer(str(self._folder / "tensorboard" / split))
                self._stack.callback(self._events[split].close)
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
        for name, value in measures.items():
            split = "validation" if name.startswith("val_") else "train"
            with self._events[split].as_default(epoch):
                tf.summary.scalar(f"epoch_{name.removeprefix('val_')}", value)
