"""A video whose features come from another tool, as the import sees it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


class UnusableError(ValueError):
    """Why a video's features cannot be imported; the others go on."""


@dataclass(frozen=True)
class Content:
    """The features of one video, still to be read.

    Attributes:
        digest: Of all that they are made from.
        timestamps_ms: Of each frame, ``(T,)``.
        blocks: Reads the features in pieces ``(n, *feature_shape)``, in order; raises :class:`UnusableError`.
    """

    digest: str
    timestamps_ms: NDArray[np.float64]
    blocks: Callable[[], Iterator[NDArray[Any]]]


@dataclass(frozen=True)
class ImportedVideo:
    """One video.

    Attributes:
        video_id: Its name.
        source: Where its features are.
        stat: Signature of its files, to notice cheaply that they are unchanged; empty where there is none.
        load: Gives its content; raises :class:`UnusableError` if there is none.
        label: Its labels with semicolons between them, where the source has any.
    """

    video_id: str
    source: str
    stat: str
    load: Callable[[], Content]
    label: str | None = None


def regular_timestamps(num_frames: int, fps: float) -> NDArray[np.float64]:
    """Times in ms ``(num_frames,)`` of frames that follow each other evenly."""
    return np.arange(num_frames, dtype=np.float64) * (1000.0 / fps)


def check_timestamps(timestamps_ms: NDArray[Any], num_frames: int) -> NDArray[np.float64]:
    """Times of frames as they must be.

    Raises:
        UnusableError: There is not one finite time per frame.
    """
    if timestamps_ms.shape != (num_frames,):
        raise UnusableError(f"{num_frames} frames, but timestamps of shape {timestamps_ms.shape}")
    times = timestamps_ms.astype(np.float64)
    if not np.isfinite(times).all():
        raise UnusableError("a timestamp is no finite number")
    return times


def check_shape(shape: tuple[int, ...]) -> None:
    """Refuses what are not frames of features.

    Raises:
        UnusableError: The shape is neither ``(T, D)`` nor ``(T, h, w, C)``, or there is nothing in it.
    """
    if len(shape) not in (2, 4):
        raise UnusableError(f"its array has shape {shape}; expected (T, D) or (T, h, w, C)")
    if 0 in shape:
        raise UnusableError(f"its array has shape {shape}: there is nothing in it")


def most_common_shape(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of one frame's features that most videos have; of equally many the first."""
    return Counter(shapes).most_common(1)[0][0]


def refuse_other_shape(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Refuses features that do not fit the others.

    Raises:
        UnusableError: Naming both shapes.
    """
    if shape != expected:
        raise UnusableError(f"features of shape {shape} per frame; most others have {expected}")
