"""Examines copies of a shard with one bit flipped; a process of its own, since libhdf5 may crash or hang on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from framecache.cache.child import serve
from framecache.cache.maps import map_extent
from framecache.cache.shard import read_rows, read_shard
from framecache.cache.verify_worker import examine


def examine_flips(request: bytes) -> Iterator[bytes]:
    """For each of the ``flips`` (byte, bit) of the shard ``path``: whether it was ``detected``, or else changed
    ``nothing`` or ``something`` that is read. The copies are written to ``copy``, under the same name."""
    asked = json.loads(request)
    copy, whole = Path(asked["copy"]), Path(asked["path"]).read_bytes()
    copy.write_bytes(whole)
    expected = read_everything(copy)
    question = json.dumps({"path": str(copy), "spec": asked["spec"]}).encode()
    for byte, bit in asked["flips"]:
        with flipped(copy, whole, byte, bit):
            *_, answer = examine(question)
            found = json.loads(answer)
            if found["error"] or found["hurt"]:
                yield b"detected"
            else:
                yield b"nothing" if read_everything(copy) == expected else b"something"


@contextmanager
def flipped(path: Path, whole: bytes, byte: int, bit: int) -> Iterator[None]:
    """The file, which holds ``whole``, with one bit flipped in place: a file written anew is slow on some disks."""
    with path.open("r+b", buffering=0) as file:
        file.seek(byte)
        file.write(bytes([whole[byte] ^ 1 << bit]))
        try:
            yield
        finally:
            file.seek(byte)
            file.write(whole[byte : byte + 1])


def read_everything(path: Path) -> tuple[object, ...]:
    info = read_shard(path)
    features, timestamps_ms = (map_extent(path, extent) for extent in (info.features, info.timestamps_ms))
    return (
        info.spec.to_dict(),
        dict(info.software),
        info.num_bytes,
        [(extent.shape, extent.dtype) for extent in (info.features, info.timestamps_ms)],
        info.index.dtype,
        info.index.tobytes(),
        features.tobytes(),
        timestamps_ms.tobytes(),
        read_rows(path),
    )


if __name__ == "__main__":
    serve(examine_flips)
