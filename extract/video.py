"""Decoding: a video, GIF or folder of images → RGB frames of the CNN's size, with their timestamps.

Decoding and resizing are FFmpeg's (through PyAV): the crop is taken before the colour conversion and the
scaling, so that only pixels that the CNN sees are ever converted.
"""

from __future__ import annotations

import fractions
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.filter import Graph
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from framecache.cache.errors import FramecacheError
from framecache.cache.folders import image_files
from framecache.cache.sampling import Sampling

BLOCK_FRAMES = 16
IMAGE_FPS = 25.0  # of a folder of images, whose timestamps nobody knows
_SCALER_FLAGS = "accurate_rnd+full_chroma_int+bitexact"  # the same pixels on every CPU


class VideoError(FramecacheError, ValueError):
    """A video cannot be decoded; the message is the ledger's reason."""


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


@dataclass
class DecodeStats:
    """What was met while decoding; complete once all frames have been taken."""

    frames_expected: int | None = None
    frames_decoded: int = 0
    frames_kept: int = 0
    warnings: list[str] = field(default_factory=list)


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
    num_frames = sum(1 for _ in _pictures(clip, DecodeStats())) if clip.sampling.needs_count else None
    keep = clip.sampling.keeper(num_frames)
    scaler = _Scaler(clip.geometry)
    frames: list[NDArray[np.uint8]] = []
    times: list[float] = []
    for index, picture in enumerate(_pictures(clip, stats)):
        if not keep(index, picture.time_ms):
            continue
        frames.append(scaler(picture))
        times.append(picture.time_ms)
        stats.frames_kept += 1
        if len(frames) == BLOCK_FRAMES:
            yield Block(np.stack(frames), np.array(times))
            frames, times = [], []
    stats.warnings += scaler.warnings
    if frames:
        yield Block(np.stack(frames), np.array(times))
    if not stats.frames_kept:
        part = " between its start and end" if stats.frames_decoded else ""
        raise VideoError(f"no frame could be decoded{part}")


class _Picture(NamedTuple):
    """A decoded frame, its time in ms and the width of its pixels relative to their height."""

    time_ms: float
    frame: VideoFrame
    pixel_aspect: float


def _pictures(clip: Clip, stats: DecodeStats) -> Iterator[_Picture]:
    """Pictures of the clip's part in order; decoder's errors become the ledger's reasons."""
    source = _image_pictures if clip.path.is_dir() else _video_pictures
    start_ms = 0.0 if clip.start is None else clip.start * 1000
    end_ms = None if clip.end is None else clip.end * 1000
    last_ms, backward = -np.inf, 0
    try:
        for picture in source(clip.path, stats):
            stats.frames_decoded += 1
            backward += picture.time_ms <= last_ms
            last_ms = max(last_ms, picture.time_ms)
            if end_ms is not None and picture.time_ms >= end_ms:
                return
            if clip.start is None or picture.time_ms >= start_ms:
                yield picture
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = _reason(error, stats)
        if not (clip.keep_partial and stats.frames_decoded):
            raise VideoError(reason) from error
        stats.warnings.append(f"kept in part: {reason}")
    else:
        if stats.frames_expected is not None and stats.frames_decoded < stats.frames_expected:
            stats.warnings.append(f"{stats.frames_decoded} of {stats.frames_expected} promised frames decoded")
    if backward:
        stats.warnings.append(f"{backward} timestamps do not increase")


def _video_pictures(path: Path, stats: DecodeStats) -> Iterator[_Picture]:
    with av.open(str(path), metadata_errors="replace") as container:
        stream = _video_stream(container)
        stream.codec_context.thread_count = 1  # videos are decoded side by side instead
        stats.frames_expected = stream.frames or None
        aspect = float(stream.sample_aspect_ratio or 1)
        start: int | None = stream.start_time
        period_ms = 1000 / float(stream.average_rate or stream.guessed_rate or IMAGE_FPS)
        time_ms = -period_ms
        for frame in container.decode(stream):
            if frame.pts is None or frame.time_base is None:  # raw streams carry no time: count frames instead
                time_ms += period_ms
            else:
                start = frame.pts if start is None else start
                time_ms = float((frame.pts - start) * fractions.Fraction(frame.time_base) * 1000)
            yield _Picture(time_ms, frame, aspect)


def _image_pictures(folder: Path, stats: DecodeStats) -> Iterator[_Picture]:
    files = image_files(folder)
    stats.frames_expected = len(files)
    for index, file in enumerate(files):
        with av.open(str(file)) as container:
            frame = next(container.decode(_video_stream(container)), None)
            if frame is None:
                raise VideoError(f"image {file.name} holds no picture")
            yield _Picture(index * 1000 / IMAGE_FPS, frame, 1.0)


def _video_stream(container: InputContainer) -> VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise VideoError("no video stream")
    best: Any = container.streams.best("video")
    return best if best in streams else streams[0]


def _reason(error: Exception, stats: DecodeStats) -> str:
    if isinstance(error, VideoError):
        return str(error)
    text = getattr(error, "strerror", None) or str(error)
    if not stats.frames_decoded:
        return f"cannot be opened or decoded: {text}"
    of = f" of {stats.frames_expected}" if stats.frames_expected else ""
    return f"decoding breaks after {stats.frames_decoded}{of} frames: {text} (--retry-failed --keep-partial keeps them)"


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
