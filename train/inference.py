"""What a saved model costs at inference: its size, and the time of its forward pass."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from framecache.cache.quiet import quiet_stderr
from framecache.train.data import CachedSequences
from framecache.train.runs import Run

_TIMED_PASSES = 5


def load_model(run: Run) -> Any:
    """The model of a finished run; Keras raises what it likes where it cannot be loaded."""
    with quiet_stderr():
        import keras
    return keras.saving.load_model(run.folder / "model.keras", safe_mode=True)


def inference_ms(model: Any, sequences: CachedSequences, batch_size: int) -> float:
    """Milliseconds per video of the forward pass alone, over all sequences: the median of some passes after one."""
    from framecache.train.feed import Feed

    num_videos = len(sequences.video_ids)
    feed = Feed(sequences, np.zeros(num_videos, np.int64), batch_size)
    passes = []
    for _ in range(1 + _TIMED_PASSES):
        seconds = 0.0
        for batches in feed.evaluation(np.arange(num_videos)):
            read = feed.reader(batches)
            for number in range(len(batches.rows)):
                inputs, *_ = read(number)
                begin = time.perf_counter()
                model.predict_on_batch(inputs)
                seconds += time.perf_counter() - begin
        passes.append(1000 * seconds / num_videos)
    return statistics.median(passes[1:])
