"""The decode worker's process: clips in, blocks of frames out (see :mod:`framecache.extract.decoder`).

It answers a clip with messages of JSON: first an empty one, then how far it is, at least once a second while frames
come, and at last the end. One that names timestamps is followed by the pixels of as many frames.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict

from framecache.cache.child import serve
from framecache.extract.ffmpeg import VideoError
from framecache.extract.limits import limit_memory
from framecache.extract.video import Clip, DecodeStats, decode_with_pulse


def answer(message: bytes) -> Iterator[bytes]:
    """The messages that answer a clip."""
    yield b"{}"
    clip = Clip.from_json(message)
    limit_memory(clip.limits.decoder_gb)
    stats = DecodeStats()
    reason = None
    try:
        for block in decode_with_pulse(clip, stats):
            times = None if block is None else block.timestamps_ms.tolist()
            yield json.dumps({"stats": asdict(stats), "timestamps_ms": times}).encode()
            if block is not None:
                yield block.frames.tobytes()
    except VideoError as error:
        reason = str(error)
    except Exception as error:  # a surprise costs this clip and no other
        reason = f"cannot be decoded: {type(error).__name__}"
    yield json.dumps({"stats": asdict(stats), "ended": True, "reason": reason}).encode()


def _main() -> None:
    # Some decoders write to the terminal whatever one asks of them; the reasons go through the socket.
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    serve(answer)


if __name__ == "__main__":
    _main()
