"""Flips bits of a shard, one at a time, and counts what becomes of them."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from framecache.cache.child import Child
from framecache.cache.spec import Spec

Flip = tuple[int, int]  # byte of the file, bit
_HANG_SECONDS = 10.0


def flip(path: Path, byte: int, bit: int = 0) -> None:
    """Turns one bit of a file."""
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


def random_flips(path: Path, count: int, seed: int) -> list[Flip]:
    rng = random.Random(seed)
    size = path.stat().st_size
    return [(rng.randrange(size), rng.randrange(8)) for _ in range(count)]


def flip_bits(
    path: Path, spec: Spec, flips: Sequence[Flip], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[Flip]]:
    """The flips that were ``detected``, made the reader ``crash``, or changed ``nothing`` or ``something`` read."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    copy = folder / path.name
    ends: dict[str, list[Flip]] = {"detected": [], "crash": [], "nothing": [], "something": []}
    todo = list(flips)
    with closing(Child("flip_worker")) as child:
        while todo:
            request = {"path": str(path), "copy": str(copy), "spec": spec.to_dict(), "flips": todo}
            child.send(json.dumps(request).encode())
            try:
                while todo:
                    end = child.receive(_HANG_SECONDS).decode()
                    ends[end].append(todo.pop(0))
            except (EOFError, OSError):  # TimeoutError too
                child.close(grace_seconds=0)
                ends["crash"].append(todo.pop(0))
    assert sum(map(len, ends.values())) == len(flips)
    return ends


def told(ends: dict[str, list[Flip]]) -> str:
    return str(dict(Counter({end: len(flips) for end, flips in ends.items()})))
