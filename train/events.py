"""TensorBoard's files, written by TensorBoard's own writer: TensorFlow's takes some 20 times as long."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.summary import session_end_pb
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from framecache.train.config import NOT_COMPARED

_FLUSH_SECONDS = 5
_NO_HPARAMS = (*NOT_COMPARED, "top_k")  # what decides no number


class EventWriter:
    """Events of one of TensorBoard's runs.

    Args:
        folder: Where its file goes.
    """

    def __init__(self, folder: Path) -> None:
        self._writer = EventFileWriter(str(folder), flush_secs=_FLUSH_SECONDS)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one number per tag."""
        self.add(Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]), step)

    def add(self, summary: Any, step: int = 0) -> None:
        """Adds a summary as TensorBoard's plugins make it."""
        event = Event(wall_time=time.time(), step=step)
        event.summary.MergeFromString(summary.SerializeToString())  # it may be TensorFlow's class of that name
        self._writer.add_event(event)

    def close(self) -> None:
        """Writes what has not been written yet."""
        self._writer.close()


def write_hparams(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes a row of the HParams tab: settings and feature set, and the metrics on val and test.

    The columns need no file of the experiment: TensorBoard finds them in the rows of all runs, in whatever folders.

    Args:
        folder: Of the run's events.
        record: What ``run.json`` says of the run.
    """
    config = {name: value for name, value in record["config"].items() if name not in _NO_HPARAMS and value is not None}
    feature_set = str(record["feature_set"])
    metrics = {
        f"{split}/{name}": value
        for split, values in record["metrics"].items()
        for name, value in (values or {}).items()
        if isinstance(value, float)
    }
    now = time.time()
    events = EventWriter(folder)
    try:
        events.add(hparams_pb({"set": feature_set, **config}, start_time_secs=now - record["seconds"]["train"]))
        events.scalars(record["best_epoch"], metrics)
        events.add(session_end_pb(api_pb2.STATUS_SUCCESS, end_time_secs=now))
    finally:
        events.close()
