"""What a saved model costs at inference: its size, and the time of its forward pass."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.quiet import quiet_stderr
from framecache.train.data import Sequences
from framecache.train.runs import Run

_TIMED_PASSES = 5


def load_model(run: Run) -> Any:
    """The model of a finished run; Keras raises what it likes where it cannot be loaded."""
    with quiet_stderr():
        import keras
    return keras.saving.load_model(run.folder / "model.keras", safe_mode=True)


def inference_ms(model: Any, sequences: Sequences, batch_size: int) -> float:
    """Milliseconds per video of the forward pass alone, over all sequences: the median of some passes after one."""
    num_videos, seq_len = len(sequences), sequences.seq_len
    passes = []
    for _ in range(1 + _TIMED_PASSES):
        seconds = 0.0
        for begin in range(0, num_videos, batch_size):
            rows = range(begin, min(begin + batch_size, num_videos))
            inputs = _padded(*sequences.batch(rows, seq_len), batch_size)
            start = time.perf_counter()
            model.predict_on_batch(inputs)
            seconds += time.perf_counter() - start
        passes.append(1000 * seconds / num_videos)
    return statistics.median(passes[1:])


def _padded(features: NDArray[np.floating], mask: NDArray[np.bool_], batch_size: int) -> dict[str, NDArray[Any]]:
    """A batch filled up with empty rows, so that all batches have one shape and nothing is traced twice."""
    empty = batch_size - len(features)
    features = np.pad(features.astype(np.float32), [(0, empty), *[(0, 0)] * (features.ndim - 1)])
    mask = np.pad(mask, [(0, empty), (0, 0)])
    mask[batch_size - empty :, 0] = True  # the mean of no frame at all would not be a number
    return {"features": features, "mask": mask}
