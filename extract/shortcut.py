"""Shortcuts through a video: where few frames are wanted, only those are decoded, and those that they build upon.

The file's packets are read without being decoded. They tell the time of each frame, hence which frames the sampling
keeps, and where the decoder can begin afresh. The result is that of decoding all of it; where a file does not promise
that, there is no shortcut, and where it breaks its promise on the way, all of it is decoded after all.
"""

from __future__ import annotations

import fractions
import itertools
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from framecache.cache.sampling import Sampling
from framecache.extract.ffmpeg import ErrorLog, open_video
from framecache.extract.limits import Limits

# Each packet of these is one frame, and a key frame needs nothing from before it.
_CODECS = ("h264", "hevc", "libdav1d", "mjpeg", "vp9")
_MAX_PACKETS = 1_000_000  # ten hours; what is known of them takes 200 MB
_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")


class DoubtError(Exception):
    """The file does not hold what its packets promised."""


class PacketInfo(NamedTuple):
    """A packet's presentation time in the stream's time base, and whether its frame is a key frame."""

    pts: int
    is_key: bool


class Found(NamedTuple):
    """A wanted frame, its time in ms, its number among all frames (from 1), and its pixels' width over height."""

    frame: VideoFrame
    time_ms: float
    number: int
    pixel_aspect: float


class Stretch(NamedTuple):
    """Packets to be decoded one after the other, from a key frame on, for the sake of some frames."""

    pts: Sequence[int]  # their presentation times, in the order of decoding
    wanted: frozenset[int]  # some of these


@dataclass(frozen=True)
class Shortcut:
    """What to decode of a video.

    Attributes:
        stretches: In order.
        frames_expected: As the container promises; None when it does not say.
        frames_passed: Frames up to the end of the clip's part, decoded or not: as many as decoding them all counts.
        pts: Presentation times of all of them in order, to know their frames again.
        start: Presentation time that counts as zero.
        time_base: Seconds per unit of presentation time.
    """

    stretches: Sequence[Stretch]
    frames_expected: int | None
    frames_passed: int
    pts: Sequence[int]
    start: int
    time_base: fractions.Fraction


def take_shortcut(
    path: Path, sampling: Sampling, start_ms: float, end_ms: float, limits: Limits
) -> Generator[Found | None, None, Shortcut | None]:
    """The frames that a sampling keeps, in order, and a None now and then; returns the shortcut, None if there is none.

    Args:
        path: A video file.
        sampling: Which frames of the part are wanted.
        start_ms: Time at which the part begins.
        end_ms: Time at which it ends, not included.
        limits: What the video may cost.

    Raises:
        DoubtError: The decoder gives other frames than the packets promised, or complains.
        Exception: Whatever decoding raises.
    """
    if sampling.kind == "all" and start_ms <= 0:
        return None
    with open_video(path, limits) as (container, stream):
        start, time_base, promised = stream.start_time, stream.time_base, stream.frames or None
        known = stream.codec_context.name in _CODECS and container.format.name in _CONTAINERS
        if not known or start is None or time_base is None:
            return None
        packets = yield from _read_packets(container, stream, min(limits.max_frames, _MAX_PACKETS))
        if packets is None or promised not in (None, len(packets)):
            return None
        shortcut = plan_shortcut(packets, start, time_base, sampling, start_ms, end_ms, promised)
        if shortcut is not None:
            yield from _decode(container, stream, shortcut)
        return shortcut


def _read_packets(
    container: InputContainer, stream: VideoStream, most: int
) -> Generator[None, None, list[PacketInfo] | None]:
    """Returns all packets, or None where one of them is odd; gives a None now and then."""
    found: list[PacketInfo] = []
    log, demuxed = ErrorLog(), container.demux(stream)
    while True:
        with log:
            some = list(itertools.islice(demuxed, 500))
        if log.num_errors or not some:
            return None if log.num_errors else found
        for packet in some:
            if not packet.size:
                continue  # the end, as decoders are told it
            if packet.pts is None or packet.is_corrupt or packet.is_discard or len(found) == most:
                return None
            found.append(PacketInfo(packet.pts, packet.is_keyframe))
        yield None


def plan_shortcut(
    packets: Sequence[PacketInfo],
    start: int,
    time_base: fractions.Fraction,
    sampling: Sampling,
    start_ms: float,
    end_ms: float,
    promised: int | None = None,
) -> Shortcut | None:
    """The shortcut to the frames that a sampling keeps; None where the packets do not promise one.

    Args:
        packets: All packets in the order of decoding.
        start: Presentation time that counts as zero.
        time_base: Seconds per unit of presentation time.
        sampling: Which frames of the part are wanted.
        start_ms: Time at which the part begins.
        end_ms: Time at which it ends, not included.
        promised: Frames that the container promises.
    """
    times = {pts: time_in_ms(pts, start, time_base) for pts, _ in packets}
    if not packets or not packets[0].is_key or len(times) != len(packets):
        return None
    ordered = sorted(times)
    if packets[0].pts != ordered[0]:
        return None
    part = [pts for pts in ordered if start_ms <= times[pts] < end_ms]
    chosen = {part[index] for index in sampling.select([times[pts] for pts in part])}
    if not chosen or len(chosen) == len(packets):
        return None
    beyond = bisect_right([times[pts] for pts in ordered], np.nextafter(end_ms, -np.inf))
    passed = min(beyond + 1, len(packets))  # decoding them all meets one beyond the end
    return Shortcut(list(_stretches(packets, chosen)), promised, passed, ordered, start, time_base)


def time_in_ms(pts: int, start: int, time_base: fractions.Fraction) -> float:
    """A frame's time since the start of the video."""
    return float((pts - start) * fractions.Fraction(time_base) * 1000)


def _stretches(packets: Sequence[PacketInfo], chosen: set[int]) -> Iterator[Stretch]:
    """From the last point where the decoder can begin afresh to the last chosen frame before the next such point."""
    begins = _fresh_starts(packets)
    for first, end in zip(begins, [*begins[1:], len(packets)], strict=True):
        numbers = [number for number in range(first, end) if packets[number].pts in chosen]
        if numbers:
            pts = [packet.pts for packet in packets[first : numbers[-1] + 1]]
            yield Stretch(pts, frozenset(chosen.intersection(pts)))


def _fresh_starts(packets: Sequence[PacketInfo]) -> list[int]:
    """Numbers of the key frames with all earlier packets shown before them, and all later ones after."""
    pts = np.array([packet.pts for packet in packets])
    latest_before = np.concatenate([[np.iinfo(np.int64).min], np.maximum.accumulate(pts)[:-1]])
    earliest_after = np.minimum.accumulate(pts[::-1])[::-1]
    fresh = (latest_before < pts) & (earliest_after == pts)
    return [number for number, packet in enumerate(packets) if packet.is_key and fresh[number]]


def _decode(container: InputContainer, stream: VideoStream, shortcut: Shortcut) -> Iterator[Found | None]:
    """The wanted frames in order, and a None for each packet."""
    aspect = float(stream.sample_aspect_ratio or 1)
    last = None
    for stretch in shortcut.stretches:
        missing = set(stretch.wanted)
        for frame in _decode_stretch(container, stream, stretch):
            if frame is not None and frame.pts in missing:
                # Of frames drained from the decoder PyAV does not say the time base.
                if frame.time_base not in (shortcut.time_base, None) or (last is not None and frame.pts <= last):
                    raise DoubtError
                missing.remove(frame.pts)
                last = frame.pts
                time_ms = time_in_ms(frame.pts, shortcut.start, shortcut.time_base)
                yield Found(frame, time_ms, bisect_right(shortcut.pts, frame.pts), aspect)
            yield None
        if missing:
            raise DoubtError


def _decode_stretch(container: InputContainer, stream: VideoStream, stretch: Stretch) -> Iterator[VideoFrame | None]:
    """All frames that come of a stretch, and a None for each packet."""
    context, log = stream.codec_context, ErrorLog()
    promised, known = iter(stretch.pts), set(stretch.pts)
    with log:
        container.seek(stretch.pts[0], stream=stream)
        packets = (packet for packet in container.demux(stream) if packet.size)
        packet = next((packet for packet in packets if packet.pts == stretch.pts[0]), None)
    while (expected := next(promised, None)) is not None:
        if packet is None or packet.pts != expected or log.num_errors:
            raise DoubtError
        with log:
            # Of H.264, frames that no other is built upon are passed over; in HEVC some may build upon those.
            skips = context.name == "h264" and packet.pts not in stretch.wanted
            context.skip_frame = "NONREF" if skips else "DEFAULT"
            frames = packet.decode()
            if expected == stretch.pts[-1]:
                frames += context.decode(None)
                context.flush_buffers()
            else:
                packet = next(packets, None)
        if log.num_errors or any(frame.is_corrupt or frame.pts not in known for frame in frames):
            raise DoubtError
        yield from frames
        yield None
