"""Limits on what one video may cost, so that a hostile one ends with a reason and the run goes on."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

try:
    import resource
except ImportError:  # not on Windows, where memory stays without a limit
    resource = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Limits:
    """What one video may cost; the reasons name the flags of ``framecache-extract`` that set these.

    Attributes:
        stall_seconds: Time without a decoded frame.
        max_megapixels: Size of a picture, in 1e6 pixels.
        max_frames: Decoded frames, kept by the sampling or not.
        decoder_gb: Memory of a decode process beyond what it starts with, in 1e9 bytes; where the system cannot limit
            it, as macOS, it has no limit.
        download_gb: Size of a remote video, in 1e9 bytes.
    """

    stall_seconds: float = 60.0
    max_megapixels: float = 64.0
    max_frames: int = 5_000_000
    decoder_gb: float = 4.0
    download_gb: float = 16.0

    @property
    def max_pixels(self) -> int:
        """``max_megapixels`` in pixels."""
        return int(self.max_megapixels * 1e6)

    @property
    def stalled(self) -> str:
        """The reason of a video that gives no frame."""
        return f"no frame for {self.stall_seconds:g} s (--stall-seconds)"

    def too_large(self, width: int, height: int) -> str:
        """The reason of a video with a picture of this size."""
        return f"a picture of {width}×{height} is larger than {self.max_megapixels:g} megapixels (--max-megapixels)"

    @property
    def too_many_frames(self) -> str:
        """The reason of a video without an end."""
        return f"more than {self.max_frames} frames (--max-frames)"

    @property
    def too_long(self) -> str:
        """The reason of a remote video of too many bytes."""
        return f"more than {self.download_gb:g} GB to transfer (--download-gb)"

    @property
    def out_of_memory(self) -> str:
        """The reason of a video whose decoder gets no more memory."""
        return f"decoding needs more than {self.decoder_gb:g} GB of memory (--decoder-gb)"


@cache
def _at_start() -> int:
    """Bytes of address space in use at the first call, with all modules loaded; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 0
    return pages * resource.getpagesize()


def limit_memory(gigabytes: float) -> None:
    """Lets this process take so many more bytes (1e9 each) than it had at the first call; no more where that works."""
    if resource is None or _at_start() == 0:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = _at_start() + int(gigabytes * 1e9)
    with suppress(ValueError, OSError):  # a system that refuses still decodes
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
