"""Sampling: which frames of a video go through the CNN."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from framecache.cache.errors import InputError

Keep = Callable[[int, float], bool]
_SLACK_MS = 1.0  # containers such as Matroska round times to milliseconds; no frame may miss its tick for that


@dataclass(frozen=True)
class Sampling:
    """A rule that keeps some of a video's frames, in order.

    ``all`` keeps every frame. ``every=N`` keeps frames 0, N, 2N, … ``fps=N`` keeps, by timestamp, the first
    frame at or after each tick of 1/N seconds from the first frame (a millisecond early counts as on time), and
    never one frame twice: a video of fewer frames per second keeps them all. ``num=N`` keeps N evenly spread
    frames, the middle ones of N equal parts (as TSN does in testing, arXiv:1608.00859); a shorter video keeps
    all of its frames.

    Attributes:
        kind: The rule.
        value: Its N; 0 for ``all``.
    """

    kind: Literal["all", "fps", "every", "num"] = "all"
    value: float = 0

    def __str__(self) -> str:
        return "all" if self.kind == "all" else f"{self.kind}={self.value}".removesuffix(".0")

    @property
    def needs_count(self) -> bool:
        """Whether the number of frames must be known before the first can be kept."""
        return self.kind == "num"

    def keeper(self, num_frames: int | None = None) -> Keep:
        """A stateful predicate, to be called once per frame in order with its index and timestamp in ms.

        Args:
            num_frames: Number of frames of the video; needed where :attr:`needs_count`.
        """
        if self.kind == "fps":
            return _FpsKeeper(self.value)
        if self.kind == "every":
            return lambda index, _: index % int(self.value) == 0
        if self.kind == "num":
            if num_frames is None:
                raise ValueError("num_frames: needed for num= sampling, found None")
            chosen = spread(num_frames, int(self.value))
            return lambda index, _: _contains(chosen, index)
        return lambda _, __: True

    def select(self, timestamps_ms: Sequence[float]) -> list[int]:
        """Indices of the frames that are kept of a whole video with these timestamps."""
        keep = self.keeper(len(timestamps_ms))
        return [index for index, time_ms in enumerate(timestamps_ms) if keep(index, time_ms)]


class _FpsKeeper:
    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._slack = min(0.5, _SLACK_MS * fps / 1000)
        self._first_ms: float | None = None
        self._last_tick = -1

    def __call__(self, _: int, timestamp_ms: float) -> bool:
        if self._first_ms is None:
            self._first_ms = timestamp_ms
        tick = int((timestamp_ms - self._first_ms) * self._fps / 1000 + self._slack)
        if tick <= self._last_tick:
            return False
        self._last_tick = tick
        return True


def spread(num_frames: int, count: int) -> list[int]:
    """Middles of ``count`` equal parts of ``range(num_frames)``; all of it when it is not longer."""
    if num_frames <= count:
        return list(range(num_frames))
    return [(2 * part + 1) * num_frames // (2 * count) for part in range(count)]


def parse_sampling(text: str) -> Sampling:
    """Reads ``all``, ``fps=N``, ``every=N`` or ``num=N``.

    Raises:
        InputError: It is none of these, or N is not a positive number (an integer for ``every`` and ``num``).
    """
    kind, equals, number = text.strip().partition("=")
    if kind == "all" and not equals:
        return Sampling()
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    whole = kind in ("every", "num")
    if kind not in ("fps", "every", "num") or not 0 < value < 1e6 or (whole and value != int(value)):
        raise InputError(f"--sample {text!r}: expected all, fps=N, every=N or num=N with a positive N")
    return Sampling(kind, value)  # type: ignore[arg-type]


def _contains(ordered: Sequence[int], value: int) -> bool:
    place = bisect_left(ordered, value)
    return place < len(ordered) and ordered[place] == value
