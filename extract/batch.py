"""Batches: frames of one video or several, always the same number, for one forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from framecache.extract.decoder import Frames
from framecache.extract.scaler import Geometry


@dataclass
class Batch:
    """Frames of one forward pass.

    Attributes:
        frames: RGB ``(batch_size, height, width, 3)`` uint8, black beyond the first ``num_frames``.
        parts: Which clip's they are: clip, and timestamps in ms of its frames in the batch.
        num_frames: Frames so far.
    """

    frames: NDArray[np.uint8]
    parts: list[tuple[int, NDArray[np.float64]]] = field(default_factory=list)
    num_frames: int = 0


class Batcher:
    """Cuts the blocks of clips into batches across the clips' borders."""

    def __init__(self, batch_size: int, geometry: Geometry) -> None:
        self._shape = (batch_size, geometry.height, geometry.width, 3)
        self._batch = self._empty()

    def add(self, event: Frames) -> Iterator[Batch]:
        """Takes a block's frames, and gives each batch that they fill."""
        frames, timestamps_ms = event.block.frames, event.block.timestamps_ms
        while len(frames):
            batch = self._batch
            count = min(len(frames), len(batch.frames) - batch.num_frames)
            batch.frames[batch.num_frames : batch.num_frames + count] = frames[:count]
            batch.parts.append((event.clip, timestamps_ms[:count]))
            batch.num_frames += count
            frames, timestamps_ms = frames[count:], timestamps_ms[count:]
            if batch.num_frames == len(batch.frames):
                self._batch = self._empty()
                yield batch

    def rest(self) -> Iterator[Batch]:
        """The last batch, where it is not empty."""
        if self._batch.num_frames:
            yield self._batch
            self._batch = self._empty()

    def _empty(self) -> Batch:
        return Batch(np.zeros(self._shape, np.uint8))
