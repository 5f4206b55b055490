"""Writing shards: a shard is visible only when whole, and a visible shard never changes."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from framecache.cache.durable import PARTIAL_SUFFIX, publish
from framecache.cache.fingerprint import FeatureDigest
from framecache.cache.ledger import last_number
from framecache.cache.manifest import is_plain_name
from framecache.cache.packing import Tables, pack_rows, write_shard
from framecache.cache.sealed import record_sealed
from framecache.cache.shard import VideoRow
from framecache.cache.spec import Spec

_IN_MEMORY_BYTES = 8 << 20  # of one unfinished video; beyond it, its features wait on disk
_COPY_BYTES = 1 << 20


class VideoBuffer:
    """The features of one video while they are computed; bounded memory for a video of any length."""

    def __init__(self, folder: Path) -> None:
        # Nameless on disk (O_TMPFILE) where the file system can: a killed process leaves nothing behind.
        self.features: IO[bytes] = tempfile.SpooledTemporaryFile(  # noqa: SIM115
            _IN_MEMORY_BYTES, prefix=".", suffix=PARTIAL_SUFFIX, dir=str(folder)
        )
        self.timestamps_ms: list[NDArray[np.float64]] = []
        self.num_frames = 0
        self.num_bytes = 0
        self.finite = True
        self._digest = FeatureDigest()

    def append(self, features: NDArray[np.floating], timestamps_ms: NDArray[np.float64]) -> None:
        """Adds frames in order: features ``(n, *feature_shape)`` in the stored dtype, timestamps ``(n,)``."""
        features = np.ascontiguousarray(features)
        self.features.write(features.data)
        self.timestamps_ms.append(timestamps_ms)
        self.num_frames += len(features)
        self.num_bytes += features.nbytes
        self.finite = self.finite and bool(np.isfinite(features).all())
        self._digest.update(features, timestamps_ms)

    def hexdigest(self) -> str:
        """Digest of all frames added so far."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Drops what was buffered."""
        self.features.close()


class ShardWriter:
    """Collects whole videos and seals them into shards of one feature set.

    As a context manager it seals what is complete on a normal exit and on Ctrl-C; any other exception seals
    nothing, since the caller can no longer vouch for it.

    Args:
        folder: The feature set's folder.
        spec: The feature set's spec.
        software: Versions and engine, recorded in each shard.
        seal_bytes: A shard is sealed when its features reach this size.
        seal_seconds: It is also sealed when its oldest video has waited so long.
        seal_on_interrupt: Whether Ctrl-C seals what is complete; not worth it for copies of what is stored already.
    """

    def __init__(
        self,
        folder: Path,
        spec: Spec,
        software: Mapping[str, str],
        seal_bytes: int,
        seal_seconds: float,
        seal_on_interrupt: bool = True,
    ) -> None:
        self.folder = folder
        self.spec = spec
        self._software = dict(software)
        self._seal_bytes = seal_bytes
        self._seal_seconds = seal_seconds
        self._seal_on_interrupt = seal_on_interrupt
        # One table, grown in one step: an interrupt never finds a row without its timestamps.
        self._videos: dict[str, tuple[VideoRow, list[NDArray[np.float64]]]] = {}
        self._spool: IO[bytes] | None = None
        self._waiting_since = 0.0
        self._last_shard = last_number(folder)  # nobody else writes as long as we do

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or (self._seal_on_interrupt and issubclass(kind, KeyboardInterrupt)):
                self.seal()
        finally:
            if self._spool is not None:
                self._spool.close()

    @property
    def last_shard(self) -> int:
        """Number of the feature set's newest shard or ledger line; 0 when there is none."""
        return self._last_shard

    def open_video(self) -> VideoBuffer:
        """A buffer for one video's features, to be handed to :meth:`add` or closed."""
        return VideoBuffer(self.folder)

    def add(self, buffer: VideoBuffer, row: VideoRow) -> None:
        """Takes a whole video; seals the shard when it has become large enough.

        Raises:
            ValueError: The row does not count the buffer's frames, there are none, its video waits already, or
                its name is a path that leads elsewhere.
            OSError: The disk refused.
        """
        if row.length != buffer.num_frames or not buffer.num_frames:
            buffer.close()
            raise ValueError(
                f"{row.video_id}: expected a row of 1 or more frames, found {row.length} of {buffer.num_frames}"
            )
        if not is_plain_name(row.video_id):
            buffer.close()
            raise ValueError(f"{row.video_id!r}: expected a relative name without '..' and NUL")
        if row.video_id in self._videos:
            buffer.close()
            raise ValueError(f"{row.video_id}: expected each video once per shard, found it twice")
        if self._spool is None:
            self._spool = tempfile.TemporaryFile(prefix=".", suffix=PARTIAL_SUFFIX, dir=self.folder)  # noqa: SIM115
            self._waiting_since = time.monotonic()
        self._spool.seek(0, os.SEEK_END)  # a seal that failed has left it elsewhere
        buffer.features.seek(0)
        while block := buffer.features.read(_COPY_BYTES):
            self._spool.write(block)
        buffer.close()
        self._videos[row.video_id] = (row, buffer.timestamps_ms)
        if self._spool.tell() >= self._seal_bytes:
            self.seal()

    def seal_if_due(self) -> None:
        """Seals when the oldest waiting video has waited ``seal_seconds``."""
        if self._videos and time.monotonic() - self._waiting_since >= self._seal_seconds:
            self.seal()

    def seal(self) -> None:
        """Makes everything added so far visible as one shard; does nothing when there is nothing.

        Raises:
            OSError: The disk refused; no shard became visible.
        """
        if self._spool is None or not self._videos:
            return
        rows = [row for row, _ in self._videos.values()]
        timestamps_ms = np.concatenate([times for _, pieces in self._videos.values() for times in pieces])
        self._spool.seek(0)
        features = iter(partial(self._spool.read, _COPY_BYTES), b"")
        self._last_shard += 1  # also when this fails: it may be visible all the same
        name = publish_shard(
            self.folder, self._last_shard, self.spec, self._software, pack_rows(rows), features, timestamps_ms
        )
        spool, self._spool, self._videos = self._spool, None, {}
        spool.close()
        record_sealed(self.folder, name, [row.video_id for row in rows])


def publish_shard(
    folder: Path,
    number: int,
    spec: Spec,
    software: Mapping[str, str],
    tables: Tables,
    features: Iterable[bytes | memoryview],
    timestamps_ms: NDArray[np.float64],
) -> str:
    """Writes a shard and makes it visible, for :func:`write_shard`'s arguments; gives its name.

    Raises:
        OSError: The disk refused; no shard became visible.
    """
    name = f"shard-{number:06d}-{secrets.token_hex(4)}.h5"
    path = folder / f".{name}{PARTIAL_SUFFIX}"
    try:
        write_shard(path, name, spec, software, tables, features, timestamps_ms)
        publish(path, folder / name)
    finally:
        path.unlink(missing_ok=True)
    return name
