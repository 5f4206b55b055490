"""Decoding: a video, GIF or folder of images → RGB frames of the CNN's size, with their timestamps.

Decoding and resizing are FFmpeg's (through PyAV). Frames that the sampling passes over are never converted, and where
the file allows it not even decoded.
"""

from __future__ import annotations

import fractions
import json
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
from numpy.typing import NDArray

from framecache.cache.folders import image_files
from framecache.cache.manifest import printable
from framecache.cache.sampling import Sampling, parse_sampling
from framecache.cache.sources import Source, Url
from framecache.extract.ffmpeg import ErrorLog, VideoError, decoded, open_image, open_video
from framecache.extract.limits import Limits
from framecache.extract.scaler import Geometry, Picture, Scaler
from framecache.extract.shortcut import take_shortcut

BLOCK_FRAMES = 16
IMAGE_FPS = 25.0  # of a folder of images, whose timestamps nobody knows
_PULSE_SECONDS = 1.0
_BREAKS = (av.FFmpegError, OSError, ValueError, MemoryError)  # what FFmpeg's errors may come as


@dataclass(frozen=True)
class Clip:
    """What to decode: a file or folder of images, a part of it in seconds, and the frames to keep.

    A URL is for :class:`framecache.extract.decoder.DecoderPool`, which transfers it; what decodes sees files only.
    """

    path: Source
    sampling: Sampling
    geometry: Geometry
    start: float | None = None
    end: float | None = None
    keep_partial: bool = False
    limits: Limits = field(default_factory=Limits)

    @property
    def file(self) -> Path:
        """Its path on this machine.

        Raises:
            TypeError: It has none yet.
        """
        if isinstance(self.path, Url):
            raise TypeError(f"{self.path}: expected a file, found a URL; DecoderPool transfers it first")
        return self.path

    def to_json(self) -> bytes:
        """All of it as JSON; a path of bytes that are no text stays what it is."""
        return json.dumps(asdict(self) | {"path": str(self.file), "sampling": str(self.sampling)}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """The clip that :meth:`to_json` wrote down."""
        plain: dict[str, Any] = json.loads(text)
        nested = {
            "path": Path(plain["path"]),
            "sampling": parse_sampling(plain["sampling"]),
            "geometry": Geometry(**plain["geometry"]),
            "limits": Limits(**plain["limits"]),
        }
        return cls(**plain | nested)


@dataclass
class DecodeStats:
    """What was met while decoding; complete once all frames have been taken."""

    frames_expected: int | None = None
    frames_decoded: int = 0
    frames_kept: int = 0
    warnings: list[str] = field(default_factory=list)

    def broken(self, reason: str, keep_partial: bool) -> str | None:
        """Where and why decoding broke, or None, with a warning, if the frames kept so far are kept for good."""
        if keep_partial and self.frames_kept:
            self.warnings.append(f"kept in part: {reason}")
            return None
        if not self.frames_decoded:
            return reason
        of = f" of {self.frames_expected}" if self.frames_expected else ""
        hint = "; --retry-failed --keep-partial keeps them" if self.frames_kept else ""
        return f"decoding breaks after {self.frames_decoded}{of} frames: {reason}{hint}"


@dataclass(frozen=True)
class Block:
    """Some consecutive kept frames: RGB ``(n, height, width, 3)`` uint8 and their times ``(n,)`` in ms."""

    frames: NDArray[np.uint8]
    timestamps_ms: NDArray[np.float64]


def decode(clip: Clip, stats: DecodeStats) -> Iterator[Block]:
    """Decodes a clip in blocks of at most :data:`BLOCK_FRAMES` frames, display rotation applied.

    Args:
        clip: What to decode.
        stats: Filled along the way, also when decoding breaks.

    Raises:
        VideoError: Nothing can be decoded, or decoding breaks midway and the clip is not ``keep_partial``.
    """
    return (block for block in decode_with_pulse(clip, stats) if block is not None)


def decode_with_pulse(clip: Clip, stats: DecodeStats) -> Iterator[Block | None]:
    """As :func:`decode`; a None about once a second says that frames are decoded although no block is full yet."""
    pulse = _Pulse(min(_PULSE_SECONDS, clip.limits.stall_seconds / 4))
    scaler = Scaler(clip.geometry)
    frames: list[NDArray[np.uint8]] = []
    times: list[float] = []
    reason = None
    try:
        for picture in _kept_pictures(clip, stats):
            if picture is not None:
                frames.append(scaler(picture))
                times.append(picture.time_ms)
                stats.frames_kept += 1
            if len(frames) == BLOCK_FRAMES:
                yield Block(np.stack(frames), np.array(times))
                frames, times = [], []
            elif pulse.is_due():
                yield None
    except Exception as error:  # whatever it was, the frames that came before may be wanted
        reason = stats.broken(_reason(error, stats, clip.limits), clip.keep_partial)
    stats.warnings += scaler.warnings
    if frames:
        yield Block(np.stack(frames), np.array(times))
    if reason is not None:
        raise VideoError(reason)
    if not stats.frames_kept:
        part = " between its start and end" if stats.frames_decoded else ""
        raise VideoError(f"no frame could be decoded{part}")


def _kept_pictures(clip: Clip, stats: DecodeStats) -> Iterator[Picture | None]:
    """The pictures that the sampling keeps, in order; None for others, and now and then."""
    taken: list[float] = []
    try:
        for picture in _shortcut_pictures(clip, stats):
            yield picture
            if picture is not None:
                taken.append(picture.time_ms)
        if taken:
            return
    except Exception:
        # Decoding all of it is what says why, or does better.
        stats.frames_expected, stats.frames_decoded = None, 0
    num_frames = (yield from _count(clip, stats)) if clip.sampling.needs_count else None
    keep, index = clip.sampling.keeper(num_frames), 0
    again = iter(taken)
    for picture in _pictures(clip, stats):
        kept = picture is not None and keep(index, picture.time_ms)
        index += picture is not None
        before = next(again, None) if kept else None
        if picture is not None and before not in (None, picture.time_ms):
            raise VideoError(f"its packets promise a frame at {before:.0f} ms, which decoding does not give")
        yield picture if kept and before is None else None


def _shortcut_pictures(clip: Clip, stats: DecodeStats) -> Iterator[Picture | None]:
    """As :func:`_kept_pictures`, by a shortcut; no picture at all where there is none."""
    if clip.file.is_dir():
        return
    start_ms = -np.inf if clip.start is None else clip.start * 1000
    end_ms = np.inf if clip.end is None else clip.end * 1000
    steps = take_shortcut(clip.file, clip.sampling, start_ms, end_ms, clip.limits)
    while True:
        try:
            found = next(steps)
        except StopIteration as end:
            shortcut = end.value
            break
        if found is not None:
            stats.frames_decoded = found.number
        yield found and Picture(found.time_ms, found.frame, found.pixel_aspect)
    if shortcut is not None:
        stats.frames_expected, stats.frames_decoded = shortcut.frames_expected, shortcut.frames_passed


def _count(clip: Clip, stats: DecodeStats) -> Generator[None, None, int]:
    """A first pass that only counts the frames of the clip's part; gives a None for each."""
    count = 0
    try:
        for picture in _pictures(clip, stats):
            count += picture is not None
            yield None
    except Exception as error:
        if not (clip.keep_partial and count):
            raise VideoError(str(stats.broken(_reason(error, stats, clip.limits), False))) from error
    stats.frames_decoded, stats.warnings = 0, []
    return count


class _Pulse:
    """Due every so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def is_due(self) -> bool:
        now = time.monotonic()
        due = now - self._last >= self._seconds
        if due:
            self._last = now
        return due


def _pictures(clip: Clip, stats: DecodeStats) -> Iterator[Picture | None]:
    """The clip's pictures in order, None for those that lie before its start; what is odd becomes a warning."""
    source = _image_pictures if clip.file.is_dir() else _video_pictures
    start_ms = -np.inf if clip.start is None else clip.start * 1000
    end_ms = np.inf if clip.end is None else clip.end * 1000
    last_ms, backward, damaged = -np.inf, 0, 0
    log = ErrorLog()
    try:
        for picture in source(clip.file, stats, log, clip.limits):
            if stats.frames_decoded == clip.limits.max_frames:
                raise VideoError(clip.limits.too_many_frames)
            stats.frames_decoded += 1
            if picture.time_ms >= end_ms:
                break
            if picture.time_ms < start_ms:
                yield None
                continue
            backward += picture.time_ms <= last_ms
            last_ms = max(last_ms, picture.time_ms)
            damaged += picture.frame.is_corrupt
            yield picture
        else:
            if stats.frames_expected is not None and stats.frames_decoded < stats.frames_expected:
                stats.warnings.append(f"{stats.frames_decoded} of {stats.frames_expected} promised frames decoded")
    finally:
        if backward:
            stats.warnings.append(f"{backward} timestamps do not increase")
        if damaged:
            stats.warnings.append(f"damaged frames: {damaged}")
        if log.num_errors:
            stats.warnings.append(f"errors of FFmpeg: {log.num_errors}, the first: {log.first}")


def _video_pictures(path: Path, stats: DecodeStats, log: ErrorLog, limits: Limits) -> Iterator[Picture]:
    with open_video(path, limits) as (container, stream):
        stats.frames_expected = stream.frames or None
        aspect = float(stream.sample_aspect_ratio or 1)
        start: int | None = stream.start_time
        period_ms = 1000 / float(stream.average_rate or stream.guessed_rate or IMAGE_FPS)
        time_ms = -period_ms
        for packet, frames in decoded(container, stream, log, limits):
            if packet.is_discard and stats.frames_expected:  # cut away by the container's edit list
                stats.frames_expected -= 1
            for frame in frames:
                if frame.pts is None or frame.time_base is None:  # raw streams carry no time: count frames instead
                    time_ms += period_ms
                else:
                    start = frame.pts if start is None else start
                    time_ms = float((frame.pts - start) * fractions.Fraction(frame.time_base) * 1000)
                yield Picture(time_ms, frame, aspect)


def _image_pictures(folder: Path, stats: DecodeStats, log: ErrorLog, limits: Limits) -> Iterator[Picture]:
    files = image_files(folder)
    if not files:
        raise VideoError("a folder without images")
    stats.frames_expected = len(files)
    for index, file in enumerate(files):
        try:
            with open_image(file, limits) as (container, stream):
                frame = next((frames[0] for _, frames in decoded(container, stream, log, limits) if frames), None)
                if frame is None:
                    raise VideoError("it holds no picture")
                yield Picture(index * 1000 / IMAGE_FPS, frame, 1.0)
        except _BREAKS as error:
            raise VideoError(f"image {printable(file.name)}: {_reason(error, stats, limits)}") from error


def _reason(error: Exception, stats: DecodeStats, limits: Limits) -> str:
    if isinstance(error, VideoError):
        return str(error)
    if isinstance(error, MemoryError):
        return limits.out_of_memory
    text = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if stats.frames_decoded else f"cannot be decoded: {text}"
