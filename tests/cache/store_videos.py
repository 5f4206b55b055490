"""A command that stores computed features as an extraction does, without videos and without a CNN."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import numpy as np

from framecache.cache import Cache, FeatureSet, Spec
from framecache.cache.cli import OK, make_app, run
from framecache.cache.compact import compact
from framecache.cache.ledger import LedgerRow, append_journal
from framecache.cache.shard import VideoRow
from framecache.cache.store import lock_for_writing
from framecache.cache.writer import ShardWriter

SPEC = Spec("net", "3fa9" * 16, "top", True, {}, "all", "gap", (4,))
LENGTHS = {f"v{index}": index + 2 for index in range(3)}
FAILED, COPY = "broken", "copy-of-v1"
ALL = {*LENGTHS, FAILED, COPY}
app = make_app("store-videos", "Store features.")


@app.default
def store(cache: Path) -> int:
    with lock_for_writing(cache / SPEC.name):
        folder = Cache(cache).create(SPEC)
        done = FeatureSet(folder, SPEC)
        ledger = done.ledger()
        with ShardWriter(folder, SPEC, {"engine": "test"}, seal_bytes=64, seal_seconds=3600) as writer:
            for place, (video_id, length) in enumerate(LENGTHS.items()):
                if video_id not in done:
                    add(writer, video_id, length)
                if place == 1 and FAILED not in ledger:
                    append_journal(folder, writer.last_shard, [LedgerRow(FAILED, FAILED, "failed", "no video stream")])
        if COPY not in ledger:
            row = LedgerRow(COPY, COPY, "duplicate", "same content as v1", source_digest="content of v1")
            append_journal(folder, writer.last_shard, [row])
        compact(folder, SPEC, shard_bytes=1 << 20, min_shards=2)
    return OK


def add(writer: ShardWriter, video_id: str, length: int) -> None:
    features = np.arange(4 * length, dtype=np.float16).reshape(length, 4) + int(video_id[1:]) * 100
    with closing(writer.open_video()) as buffer:
        buffer.append(features, np.arange(length) * 40.0)
        digest, content = buffer.hexdigest(), f"content of {video_id}"
        writer.add(buffer, VideoRow(video_id, length, digest, video_id, content, "1-2-3-4", length, length, ()))


def main() -> int:
    return run(app)


if __name__ == "__main__":
    sys.exit(main())
