"""Broken copies of rendered clips, and what must hold whatever is broken in them."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from framecache.cache.sampling import Sampling
from framecache.extract.decoder import DecoderPool, Frames
from framecache.extract.limits import Limits
from framecache.extract.video import Clip, Geometry

from .conftest import write_video

_FORMATS = {  # suffix: codec and pixel format
    ".mp4": ("libx264", "yuv420p"),
    ".ts": ("libx264", "yuv420p"),
    ".mkv": ("mpeg4", "yuv420p"),
    ".nut": ("ffv1", "yuv420p"),
    ".gif": ("gif", "rgb8"),
    ".avi": ("mjpeg", "yuvj420p"),
    ".webm": ("libvpx-vp9", "yuv420p"),
}
_EXTREMES = [b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\x01", b"\xff\xff\xff\x7f"]
_HEADER_BYTES = 512
GEOMETRY = Geometry(12, 20)


def render_clips(folder: Path) -> list[Path]:
    """A moving picture in every container and codec that this build of FFmpeg can write."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (48, 64, 3), np.uint8)
    frames = np.stack([np.roll(noise, 2 * shift, axis=1) for shift in range(24)])
    return [
        write_video(folder / f"clip{suffix}", frames, codec=codec, pixel_format=pixel_format)
        for suffix, (codec, pixel_format) in _FORMATS.items()
        if codec in av.codecs_available
    ]


def _flip_bits(data: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(0, len(data), rng.integers(1, 20)):
        data[place] ^= 1 << int(rng.integers(8))


def _overwrite(data: bytearray, rng: np.random.Generator) -> None:
    begin = int(rng.integers(len(data)))
    length = min(int(rng.integers(1, 200)), len(data) - begin)
    data[begin : begin + length] = rng.bytes(length) if rng.random() < 0.5 else bytes([int(rng.integers(256))]) * length


def _truncate(data: bytearray, rng: np.random.Generator) -> None:
    del data[int(rng.integers(len(data))) :]


def _repeat(data: bytearray, rng: np.random.Generator) -> None:
    begin, end = sorted(int(place) for place in rng.integers(0, len(data) + 1, 2))
    data[end:end] = data[begin:end]


def _set_extreme(data: bytearray, rng: np.random.Generator) -> None:
    """A field of the header, where an MP4 has it at the end too, becomes as large or small as it gets."""
    place = int(rng.integers(min(_HEADER_BYTES, len(data))))
    place = place if rng.random() < 0.5 else len(data) - 1 - place
    value = _EXTREMES[int(rng.integers(len(_EXTREMES)))]
    data[place : place + len(value)] = value


_MUTATIONS: list[Callable[[bytearray, np.random.Generator], None]] = [
    _flip_bits,
    _overwrite,
    _truncate,
    _repeat,
    _set_extreme,
]


def mutate(original: bytes, rng: np.random.Generator) -> bytes:
    """A copy with one to three things broken."""
    data = bytearray(original)
    for _ in range(int(rng.integers(1, 4))):
        if data:
            _MUTATIONS[int(rng.integers(len(_MUTATIONS)))](data, rng)
    return bytes(data)


def decode_mutants(folder: Path, num_mutants: int, seed: int, stall_seconds: float) -> Counter[str]:
    """Decodes mutants through a pool of two workers and checks what must hold for each of them.

    Returns:
        How many ended ``ok``, ``warned``, ``failed``, ``crashed`` or ``stalled``.
    """
    rng = np.random.default_rng(seed)
    originals = [(path.suffix, path.read_bytes()) for path in render_clips(folder)]
    clips = []
    for number in range(num_mutants):
        suffix, original = originals[number % len(originals)]
        path = folder / f"mutant{number}{suffix}"
        path.write_bytes(mutate(original, rng))
        limits = Limits(stall_seconds=stall_seconds, max_megapixels=1.0, max_frames=2000, decoder_gb=1.0)
        clips.append(Clip(path, Sampling(), GEOMETRY, keep_partial=number % 2 == 1, limits=limits))

    delivered, ends, processes = Counter[int](), dict[int, str](), set[int]()
    begin = time.monotonic()
    with DecoderPool(clips, 2) as pool:
        for event in pool:
            processes |= {worker._process.pid for worker in pool._workers if worker._process is not None}
            if event is None:
                continue
            assert event.clip not in ends, "a clip goes on after its end"
            if isinstance(event, Frames):
                frames, times = event.block.frames, event.block.timestamps_ms
                assert frames.dtype == np.uint8
                assert frames.shape == (len(times), GEOMETRY.height, GEOMETRY.width, 3)
                assert times.dtype == np.float64
                assert np.isfinite(times).all()
                delivered[event.clip] += len(frames)
                continue
            stats, reason = event.stats, event.reason
            if reason is None:
                assert stats.frames_kept == delivered[event.clip] > 0
            words = " ".join([reason or "", *stats.warnings])
            if "crashed" in words:
                ends[event.clip] = "crashed"
            elif "--stall-seconds" in words:
                ends[event.clip] = "stalled"
            else:
                ends[event.clip] = "failed" if reason else "warned" if stats.warnings else "ok"
            assert reason is None or reason.isprintable()
    assert len(ends) == num_mutants
    assert time.monotonic() - begin < 10 + num_mutants * 0.5 + 2 * stall_seconds * Counter(ends.values())["stalled"]
    for process in processes:
        assert not os.path.exists(f"/proc/{process}"), "a worker outlives its pool"
    return Counter(ends.values())
