"""Decoding: a video, GIF or folder of images → RGB frames of the CNN's size, with their timestamps.

Decoding and resizing are FFmpeg's (through PyAV): the crop is taken before the colour conversion and the
scaling, so that only pixels that the CNN sees are ever converted.
"""

from __future__ import annotations

import fractions
import json
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

import av
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from framecache.cache.folders import image_files
from framecache.cache.manifest import printable
from framecache.cache.sampling import Sampling, parse_sampling
from framecache.extract.ffmpeg import ErrorLog, VideoError, decoded, open_image, open_video
from framecache.extract.limits import Limits

BLOCK_FRAMES = 16
IMAGE_FPS = 25.0  # of a folder of images, whose timestamps nobody knows
_SCALER_FLAGS = "accurate_rnd+full_chroma_int+bitexact"  # the same pixels on every CPU
_PULSE_SECONDS = 1.0
_BREAKS = (av.FFmpegError, OSError, ValueError, MemoryError)  # what FFmpeg's errors may come as


@dataclass(frozen=True)
class Geometry:
    """How a displayed picture becomes the CNN's input.

    Attributes:
        height: Rows of the input.
        width: Columns of the input.
        fit: ``stretch`` the whole picture, or ``crop`` the central square first.
        crop_fraction: Side of that square relative to the picture's shorter side, in (0, 1].
        interpolation: swscale's name of the resampling: ``bicubic``, ``bilinear``, …
    """

    height: int
    width: int
    fit: str = "stretch"
    crop_fraction: float = 1.0
    interpolation: str = "bilinear"


@dataclass(frozen=True)
class Clip:
    """What to decode: a file or folder of images, a part of it in seconds, and the frames to keep."""

    path: Path
    sampling: Sampling
    geometry: Geometry
    start: float | None = None
    end: float | None = None
    keep_partial: bool = False
    limits: Limits = field(default_factory=Limits)

    def to_json(self) -> bytes:
        """All of it as JSON; a path of bytes that are no text stays what it is."""
        return json.dumps(asdict(self) | {"path": str(self.path), "sampling": str(self.sampling)}).encode()

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
    num_frames = (yield from _count(clip, stats, pulse)) if clip.sampling.needs_count else None
    keep = clip.sampling.keeper(num_frames)
    scaler = _Scaler(clip.geometry)
    frames: list[NDArray[np.uint8]] = []
    times: list[float] = []
    index, reason = 0, None
    try:
        for picture in _pictures(clip, stats):
            if picture is not None:
                if keep(index, picture.time_ms):
                    frames.append(scaler(picture))
                    times.append(picture.time_ms)
                    stats.frames_kept += 1
                index += 1
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


def _count(clip: Clip, stats: DecodeStats, pulse: _Pulse) -> Generator[None, None, int]:
    """A first pass that only counts the frames of the clip's part; gives a None when the pulse is due."""
    count = 0
    try:
        for picture in _pictures(clip, stats):
            count += picture is not None
            if pulse.is_due():
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


class _Picture(NamedTuple):
    """A decoded frame, its time in ms and the width of its pixels relative to their height."""

    time_ms: float
    frame: VideoFrame
    pixel_aspect: float


def _pictures(clip: Clip, stats: DecodeStats) -> Iterator[_Picture | None]:
    """The clip's pictures in order, None for those that lie before its start; what is odd becomes a warning."""
    source = _image_pictures if clip.path.is_dir() else _video_pictures
    start_ms = -np.inf if clip.start is None else clip.start * 1000
    end_ms = np.inf if clip.end is None else clip.end * 1000
    last_ms, backward, damaged = -np.inf, 0, 0
    log = ErrorLog()
    try:
        for picture in source(clip.path, stats, log, clip.limits):
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


def _video_pictures(path: Path, stats: DecodeStats, log: ErrorLog, limits: Limits) -> Iterator[_Picture]:
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
                yield _Picture(time_ms, frame, aspect)


def _image_pictures(folder: Path, stats: DecodeStats, log: ErrorLog, limits: Limits) -> Iterator[_Picture]:
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
                yield _Picture(index * 1000 / IMAGE_FPS, frame, 1.0)
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


class _Scaler:
    """Crops, scales, rotates and converts frames; rebuilt whenever the picture's format changes midway."""

    def __init__(self, geometry: Geometry) -> None:
        self.warnings: list[str] = []
        self._geometry = geometry
        self._format: tuple[object, ...] = ()
        self._graph = Graph()

    def __call__(self, picture: _Picture) -> NDArray[np.uint8]:
        """The picture as RGB ``(height, width, 3)`` uint8."""
        frame = picture.frame
        rotation = int(frame.rotation)
        layout = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, rotation)
        if layout != self._format:
            if self._format and layout[:2] != self._format[:2]:
                self.warnings.append(f"picture size changes to {frame.width}×{frame.height}")
            self._format = layout
            self._graph = self._build(frame, rotation, picture.pixel_aspect)
        self._graph.vpush(frame)
        rgb: NDArray[Any] = self._graph.vpull().to_ndarray()
        return rgb

    def _build(self, frame: VideoFrame, rotation: int, aspect: float) -> Graph:
        geometry = self._geometry
        sideways = rotation % 180 == 90
        # The picture is turned last, when it is small; until then height and width are those of the file.
        height, width = (geometry.width, geometry.height) if sideways else (geometry.height, geometry.width)
        filters: list[tuple[str, str]] = []
        if geometry.fit == "crop":
            side = geometry.crop_fraction * min(frame.width * aspect, frame.height)
            filters.append(("crop", f"{max(1, round(side / aspect))}:{max(1, round(side))}"))
        filters.append(("scale", f"{width}:{height}:flags={geometry.interpolation}+{_SCALER_FLAGS}"))
        filters.append(("format", "rgb24"))
        filters += _turns(rotation)
        if rotation % 90:
            self.warnings.append(f"rotation by {rotation}° is not a right angle and is not applied")
        graph = Graph()
        graph.threads = 1  # videos are decoded side by side instead
        chain = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_TIME_BASE)]
        chain += [graph.add(name, arguments) for name, arguments in filters]
        chain.append(graph.add("buffersink"))
        for one, other in pairwise(chain):
            one.link_to(other)
        graph.configure()
        return graph


_TIME_BASE = fractions.Fraction(1, 1000)


def _turns(rotation: int) -> list[tuple[str, str]]:
    """FFmpeg filters that undo a display matrix's counter-clockwise rotation in degrees."""
    return {
        90: [("transpose", "cclock")],
        180: [("hflip", ""), ("vflip", "")],
        270: [("transpose", "clock")],
    }.get(rotation % 360, [])
