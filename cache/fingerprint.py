"""Digests: of specs (the fingerprint), of stored features and of source files.

Digests find accidents (a flipped bit, another file under an old name); they are no signature against
somebody who forges both the data and the digest.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from stat import S_ISREG

import numpy as np
import xxhash
from numpy.typing import NDArray

from framecache.cache.sources import Source, Url, read_url, stat_url

FINGERPRINT_CHARS = 8  # as shown in names; the whole hash is 64 characters
_READ_BYTES = 1 << 20


def canonical_json(value: Mapping[str, object]) -> str:
    """JSON with one spelling for equal values: keys sorted, no spaces, ASCII only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(spec: Mapping[str, object]) -> str:
    """SHA-256 of the spec's canonical JSON, as 64 hexadecimal characters."""
    return hashlib.sha256(canonical_json(spec).encode()).hexdigest()


def digest_parts(*parts: bytes | memoryview) -> str:
    """XXH3-128 of several byte strings, each with its length, as 32 hexadecimal characters."""
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return str(digest.hexdigest())


class FeatureDigest:
    """Digest of one video's features, fed in pieces as they are computed.

    XXH3-128 over the bytes of the little-endian, C-ordered array ``(T, *feature_shape)``, followed by
    those of its float64 timestamps, so that neither can change unseen.
    """

    def __init__(self) -> None:
        self._features = xxhash.xxh3_128()
        self._timestamps = xxhash.xxh3_128()

    def update(self, features: NDArray[np.generic], timestamps_ms: NDArray[np.float64]) -> None:
        """Adds frames: features ``(n, *feature_shape)`` and timestamps ``(n,)``."""
        self._features.update(np.ascontiguousarray(features).data)
        self._timestamps.update(np.ascontiguousarray(timestamps_ms, np.float64).data)

    def hexdigest(self) -> str:
        """32 hexadecimal characters."""
        joined = self._features.digest() + self._timestamps.digest()
        return str(xxhash.xxh3_128_hexdigest(joined))


def digest_features(features: memoryview, timestamps_ms: memoryview) -> str:
    """As :class:`FeatureDigest`, of the bytes of all of a video's features and timestamps at once."""
    joined = xxhash.xxh3_128_digest(features) + xxhash.xxh3_128_digest(timestamps_ms)
    return str(xxhash.xxh3_128_hexdigest(joined))


def digest_source(path: Source) -> str:
    """Content digest of a video file, or of a folder of images (names and contents), 32 hex characters.

    A URL is read as a whole, and has the digest of a file of the same content.

    Raises:
        OSError: The file cannot be read.
    """
    if isinstance(path, Url):
        return _digest(read_url(path, stat_url(path).num_bytes)).hex()
    if path.is_dir():
        folder = xxhash.xxh3_128()
        for file in sorted(path.iterdir()):
            if file.is_file():
                folder.update(os.fsencode(file.name) + b"\0" + _digest_file(file))
        return str(folder.hexdigest())
    return _digest_file(path).hex()


def stat_source(path: Source) -> str:
    """Signature that changes whenever the file may have: size, mtime, ctime and inode.

    As git does for its index, an unchanged signature spares reading the content again. The ctime cannot
    be set back, so that a copy with a forged mtime is still noticed. A folder has the digest of its files'.
    A URL has what its server says of the version: ETag, time of change, size; empty where that tells nothing.

    Raises:
        OSError: The file cannot be read.
    """
    if isinstance(path, Url):
        return stat_url(path).signature
    if path.is_dir():
        signatures = [f"{file.name}:{_stat_file(file)}" for file in sorted(path.iterdir()) if file.is_file()]
        return str(xxhash.xxh3_128_hexdigest(os.fsencode("\n".join(signatures))))
    return _stat_file(path)


def _stat_file(path: Path) -> str:
    stat = path.stat()
    if not S_ISREG(stat.st_mode):  # opening a FIFO would wait for ever
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ctime_ns}-{stat.st_ino}"


def _digest_file(path: Path) -> bytes:
    with path.open("rb") as stream:
        return _digest(iter(lambda: stream.read(_READ_BYTES), b""))


def _digest(blocks: Iterable[bytes]) -> bytes:
    digest = xxhash.xxh3_128()
    for block in blocks:
        digest.update(block)
    return bytes(digest.digest())
