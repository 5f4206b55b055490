"""Which frames of a video make the sequences of an epoch, and of an evaluation.

Positions count the frames of a video that :func:`kept` leaves, so that a plain thinning costs nothing later.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from framecache.cache.sampling import spread
from framecache.train.config import ClipConfig

Positions = NDArray[np.int64]


def kept(length: int, config: ClipConfig) -> Positions | None:
    """The frames of a video that some sequence may need, ``(n,)``; None for all of them."""
    if not config.max_len or length <= config.max_len or config.clip != "spread" or config.jitter:
        return None
    return np.array(spread(length, config.max_len), np.int64)


def is_random(config: ClipConfig) -> bool:
    """Whether each epoch has sequences of its own."""
    return config.clip == "crop" or config.jitter > 0 or config.reverse > 0


def training_sequences(length: int, config: ClipConfig, rng: np.random.Generator) -> list[Positions]:
    """The sequences of one video in one epoch: one, or one per window.

    Args:
        length: Frames of the video, of those that :func:`kept` leaves.
        config: How a video becomes sequences.
        rng: Where chance comes from.

    Returns:
        Positions ``(t,)`` of each, ``1 <= t <= max_len``.
    """
    found = [np.arange(length)]
    if config.max_len and length > config.max_len:
        if config.clip == "crop":
            begin = int(rng.integers(length - config.max_len + 1))
            found = [np.arange(begin, begin + config.max_len)]
        elif config.clip == "windows":
            found = _windows(length, config)
        else:
            found = [_jittered(length, config, rng)]
    if config.reverse:
        found = [positions[::-1] if rng.random() < config.reverse else positions for positions in found]
    return found


def evaluation_sequences(length: int, config: ClipConfig, every_frame: bool = False) -> list[Positions]:
    """The sequences of one video whose scores are averaged; nothing is left to chance.

    Args:
        length: Frames of the video, of those that :func:`kept` leaves.
        config: How a video becomes sequences.
        every_frame: Whether each frame has to be in one of them, since each has a label; a crop will not do then.
    """
    if not config.max_len or length <= config.max_len:
        return [np.arange(length)]
    if config.clip == "windows" or every_frame:
        return _windows(length, config)
    if config.clip == "crop":
        begin = (length - config.max_len) // 2
        return [np.arange(begin, begin + config.max_len)]
    return [np.array(spread(length, config.max_len), np.int64)]


def _windows(length: int, config: ClipConfig) -> list[Positions]:
    """Stretches of ``max_len`` frames, ``stride`` apart; the last one ends with the video."""
    stride = config.stride or max(1, config.max_len // 2)
    last = length - config.max_len
    begins = [*range(0, last, stride), last]
    return [np.arange(begin, begin + config.max_len) for begin in begins]


def _jittered(length: int, config: ClipConfig, rng: np.random.Generator) -> Positions:
    """Evenly spread frames, each moved by up to ``jitter`` of the distance between them; they stay in order."""
    middles = np.arange(config.max_len) + 0.5
    moved = middles + rng.uniform(-config.jitter, config.jitter, config.max_len)
    found: Positions = (moved * length / config.max_len).astype(np.int64)
    return found
