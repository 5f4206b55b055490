"""Files that are no videos, or say more than they hold, and what decoding one gives."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from framecache.cache.sampling import parse_sampling
from framecache.extract.limits import Limits
from framecache.extract.video import Clip, DecodeStats, Geometry, VideoError, decode

SQUARE = Geometry(16, 16)


def outcome(path: Path, sample: str = "all", limits: Limits | None = None, **options: object):
    """Number of frames, reason (None if all is well) and stats of decoding in this process."""
    clip, stats = Clip(path, parse_sampling(sample), SQUARE, limits=limits or Limits(), **options), DecodeStats()
    count = 0
    try:
        for block in decode(clip, stats):
            count += len(block.frames)
    except VideoError as error:
        return count, str(error), stats
    return count, None, stats


def png(width: int, height: int, rows: int | None = None) -> bytes:
    """A PNG file of black pixels; all rows are there, or only so many."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    pixels = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(height if rows is None else rows))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels + packer.flush()) + chunk(b"IEND", b"")


def gif(width: int, height: int) -> bytes:
    """A GIF whose one picture claims this size."""
    size = struct.pack("<HH", width, height)
    return b"GIF89a" + size + b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0" + size + b"\0\x02\x02\x44\x01\0;"


def h264(width: int, height: int) -> bytes:
    """A raw H.264 stream whose sequence header claims this size (in whole macroblocks), and the start of a picture."""

    def golomb(number: int) -> str:
        digits = f"{number + 1:b}"
        return "0" * (len(digits) - 1) + digits

    def unit(head: int, bits: str) -> bytes:
        bits += "1"
        bits += "0" * (-len(bits) % 8)
        data = b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
        return b"\0\0\0\1" + bytes([head]) + data[1:].replace(b"\0\0", b"\0\0\3")

    ones = [0, 0, 2, 1]  # ids, frame numbers, order of pictures as decoded, reference frames
    sequence = f"{66:08b}{0:08b}{52:08b}" + "".join(map(golomb, ones)) + "0"
    sequence += golomb(width // 16 - 1) + golomb(height // 16 - 1) + "1" + "1" + "0" + "0"
    picture = golomb(0) + golomb(0) + "00" + golomb(0) + golomb(0) + golomb(0) + "000" + golomb(0) * 3 + "000"
    slice_ = golomb(0) + golomb(7) + golomb(0) + "0000" + golomb(0) + "00" + golomb(0) + "01" * 40
    return (unit(0x67, sequence) + unit(0x68, picture) + unit(0x65, slice_)) * 3
