"""Examines shards in a process of its own: ``python -m framecache.cache.verify_worker FD``.

A file made to crash or hang libhdf5 then crashes or hangs this process, and is reported like any other damage.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from framecache.cache.child import serve
from framecache.cache.errors import FramecacheError
from framecache.cache.shard import digest_stored, read_rows, read_shard
from framecache.cache.spec import Spec, require_same_spec

_PULSE_SECONDS = 1.0


def examine(request: bytes) -> Iterator[bytes]:
    """Digests all of a shard's videos again.

    Args:
        request: JSON with the ``path`` and the ``spec`` that it should have.

    Yields:
        ``{}`` about once a second, as a sign of life; at last the ``videos`` of its index, the ``hurt`` ones among
        them, and the ``error`` (or null) that makes all of it unusable.
    """
    asked = json.loads(request)
    path = Path(asked["path"])
    videos: list[str] = []
    hurt: list[str] = []
    error = None
    try:
        info = read_shard(path, with_hdf5=True)
        require_same_spec(Spec.from_dict(asked["spec"]), info.spec, str(path))
        videos = [raw.decode() for raw in info.index["video_id"].tolist()]
        read_rows(path)
        told = time.monotonic()
        for row, (video_id, expected) in enumerate(zip(videos, info.index["digest"].tolist(), strict=True)):
            for digest in digest_stored(info, row):
                if digest and digest.encode() != expected:
                    hurt.append(video_id)
                if time.monotonic() - told >= _PULSE_SECONDS:
                    told = time.monotonic()
                    yield b"{}"
    except FramecacheError as found:
        error, hurt = str(found), videos
    yield json.dumps({"videos": videos, "hurt": hurt, "error": error}).encode()


if __name__ == "__main__":
    serve(examine)
