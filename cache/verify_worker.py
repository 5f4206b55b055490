"""Examines shards in a process of its own: ``python -m framecache.cache.verify_worker FD``.

A file made to crash or hang libhdf5 then crashes or hangs this process, and is reported like any other damage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from framecache.cache.child import serve
from framecache.cache.errors import FramecacheError
from framecache.cache.shard import digest_stored, read_rows, read_shard
from framecache.cache.spec import Spec, require_same_spec


def examine(request: bytes) -> Iterator[bytes]:
    """Digests all of a shard's videos again.

    Args:
        request: JSON with the ``path`` and the ``spec`` that it should have.

    Yields:
        ``{}`` now and then, as a sign of life; at last the ``videos`` of its index, the ``hurt`` ones among them,
        and the ``error`` (or null) that makes all of it unusable.
    """
    asked = json.loads(request)
    path = Path(asked["path"])
    videos: list[str] = []
    hurt: list[str] = []
    error = None
    try:
        info = read_shard(path)
        require_same_spec(Spec.from_dict(asked["spec"]), info.spec, str(path))
        videos = [raw.decode() for raw in info.index["video_id"].tolist()]
        read_rows(path)
        for row, (video_id, expected) in enumerate(zip(videos, info.index["digest"].tolist(), strict=True)):
            for digest in digest_stored(info, row):
                if not digest:
                    yield b"{}"
                elif digest.encode() != expected:
                    hurt.append(video_id)
    except FramecacheError as found:
        error, hurt = str(found), videos
    yield json.dumps({"videos": videos, "hurt": hurt, "error": error}).encode()


if __name__ == "__main__":
    serve(examine)
