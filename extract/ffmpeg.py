"""FFmpeg on a leash: it reads the one file that it is given, refuses large pictures, and its complaints are kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from framecache.cache.errors import FramecacheError
from framecache.extract.limits import Limits

# Formats that make FFmpeg open other files, hosts or devices, or run a script. They are refused by name; for
# those that nobody thought of, no protocol is allowed either, and videos are read through a file object.
_LEADS_ELSEWHERE = {
    "avisynth": "an AviSynth script",
    "concat": "an ffconcat script",
    "dash": "a DASH manifest",
    "hls": "an HLS playlist",
    "image2": "a pattern of image files",
    "imf": "an IMF composition",
    "lavfi": "a filter graph",
    "rtsp": "a network stream",
    "sdp": "an SDP description of network streams",
    "vapoursynth": "a VapourSynth script",
    "vobsub": "an index of subtitles",
    "webm_dash_manifest": "a DASH manifest",
}
_TEXT_ART = {"adf", "bin", "idf", "tty", "xbin"}  # any text file would be a film of its letters
_ALLOWED = ",".join(sorted(av.formats_available - _LEADS_ELSEWHERE.keys() - _TEXT_ART))
_TOO_LARGE = re.compile(r"Picture size (\d+)x(\d+) exceeds specified max pixel count")
_SHOWN_LETTERS = 160


class VideoError(FramecacheError, ValueError):
    """A video cannot be decoded; the message is the ledger's reason."""


class ErrorLog:
    """FFmpeg's error messages while it is entered, again and again; how many, and the first.

    Attributes:
        num_errors: Messages so far, refusals apart.
        first: The first of them, fit to be shown.
        too_large: Width and height of a picture that the decoder refused for its size.
        refused: Name of a format that was refused.
    """

    def __init__(self) -> None:
        self.num_errors = 0
        self.first = ""
        self.too_large: tuple[int, int] | None = None
        self.refused: str | None = None

    def __enter__(self) -> Self:
        self._before = av.logging.get_level(), av.logging.get_skip_repeated()
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)
        self._capture = av.logging.Capture()
        self._lines = self._capture.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._capture.__exit__(None, None, None)
        level, skip_repeated = self._before
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skip_repeated)
        for level, name, text in self._lines:
            if level <= av.logging.ERROR:
                self._take(name, text)

    def _take(self, name: str, text: str) -> None:
        if match := _TOO_LARGE.search(text):
            self.too_large = int(match[1]), int(match[2])
        elif text.startswith("Format not on whitelist"):
            self.refused = name
        elif text.startswith("Not detecting m3u8/hls"):
            self.refused = "hls"
        else:
            self.num_errors += 1
            self.first = self.first or "".join(map(_shown, text.strip()[:_SHOWN_LETTERS]))


def _shown(letter: str) -> str:
    return letter if letter.isprintable() else " "


@contextmanager
def open_video(path: Path, limits: Limits) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a video file and its best video stream.

    Raises:
        VideoError: It is no video, or its pictures are too large.
        OSError: The file cannot be read.
    """
    if not path.is_file():
        raise VideoError("not a regular file" if path.exists() else "no such file")
    # Through a file object FFmpeg takes no part of the name for a protocol or a pattern.
    with path.open("rb", buffering=0) as file:
        if not file.read(1):
            raise VideoError("the file is empty")
        file.seek(0)
        options = {"format_whitelist": _ALLOWED, "protocol_whitelist": ""}
        with _open(file, None, options, limits) as opened:
            yield opened


@contextmanager
def open_image(path: Path, limits: Limits) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens an image file as a video of one frame; raises as :func:`open_video` does."""
    if not path.is_file():
        raise VideoError("not a regular file" if path.exists() else "no such file")
    options = {"format_whitelist": "image2", "protocol_whitelist": "file", "pattern_type": "none"}
    with _open(str(path), "image2", options, limits) as opened:
        yield opened


@contextmanager
def _open(
    file: Any, demuxer: str | None, options: dict[str, str], limits: Limits
) -> Iterator[tuple[InputContainer, VideoStream]]:
    max_pixels = {"max_pixels": str(limits.max_pixels)}
    log = ErrorLog()
    try:
        with log:
            container = av.open(file, "r", demuxer, options=options | max_pixels, metadata_errors="replace")
    except MemoryError as error:
        raise VideoError(limits.out_of_memory) from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(limits.too_large(*log.too_large) if log.too_large else _why_not_opened(error, log)) from error
    with container:
        stream = _video_stream(container)
        context = stream.codec_context
        if context is None:
            raise VideoError("FFmpeg has no decoder for its video stream")
        if context.width * context.height > limits.max_pixels:
            raise VideoError(limits.too_large(context.width, context.height))
        context.options = max_pixels  # for what the header does not say, and sizes that change midway
        context.thread_count = 1  # videos are decoded side by side instead
        yield container, stream


def _why_not_opened(error: Exception, log: ErrorLog) -> str:
    if log.refused in _LEADS_ELSEWHERE:
        return f"it is {_LEADS_ELSEWHERE[log.refused]}, which leads to other files; give those that it names instead"
    if log.refused:
        return "it is a text, not a video"
    text = getattr(error, "strerror", None) or str(error)
    return f"cannot be opened: {text}{f' ({log.first})' if log.first else ''}"


def _video_stream(container: InputContainer) -> VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise VideoError("no video stream")
    best: Any = container.streams.best("video")
    return best if best in streams else streams[0]


def decoded(
    container: InputContainer, stream: VideoStream, log: ErrorLog, limits: Limits
) -> Iterator[tuple[Packet[VideoStream], list[VideoFrame]]]:
    """The stream's packets with the frames that each brings to light; FFmpeg's complaints go into ``log``."""
    packets = container.demux(stream)
    while True:
        try:
            with log:
                packet = next(packets, None)
                frames = packet.decode() if packet is not None else []
        except (av.FFmpegError, ValueError) as error:
            if log.too_large:
                raise VideoError(limits.too_large(*log.too_large)) from error
            raise
        if log.too_large:  # some decoders pass over what they refuse
            raise VideoError(limits.too_large(*log.too_large))
        if packet is None:
            return
        yield packet, frames
