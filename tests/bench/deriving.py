"""Deriving beside the bare arithmetic in RAM, and its memory beside its limit.

Ours is the whole of ``derive``: reading and digesting the parent, computing, digesting and writing what was derived,
syncing it to the disk. The peer has its rows in RAM and only multiplies.
"""

from __future__ import annotations

import gc
import itertools
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measure import Row
from numpy.typing import NDArray

from framecache.cache import FeatureSet, Spec, open_cache
from framecache.cache.derive import DeriveConfig, derive
from framecache.cache.shard import VideoRow
from framecache.cache.store import Cache
from framecache.cache.writer import ShardWriter

_DIM, _KEPT, _FRAMES = 1280, 256, 40
_LIMIT_MB = 2000.0
Rows = NDArray[Any]


def measure(scratch: Path) -> Iterator[Row]:
    """The rows of this section."""
    cache = scratch / "features"
    parent = _render(cache, num_videos=1000)
    manifest = scratch / "manifest.csv"
    names = "".join(f"{video_id},{video_id},train\n" for video_id in parent)
    manifest.write_text(f"path,video_id,split\n{names}", encoding="utf-8")
    rows = np.concatenate([parent[video_id] for video_id in parent])
    fitted = DeriveConfig(cache=cache, pca=_KEPT, manifest=manifest)
    seed = itertools.count()
    pairs: dict[str, tuple[Callable[[], object], Callable[[Rows], object]]] = {
        f"--random {_KEPT}": (
            lambda: derive("bench", DeriveConfig(cache=cache, random=_KEPT, seed=next(seed))),
            _project,
        ),
        f"--pca {_KEPT}, fitted and applied": (lambda: derive("bench", fitted), _fit_and_project),
        "--dtype uint8, fitted and applied": (
            lambda: derive("bench", DeriveConfig(cache=cache, dtype="uint8", manifest=manifest)),
            _quantise,
        ),
    }
    for name, (ours, theirs) in pairs.items():
        yield _versus(f"derive {name}, against NumPy on rows in RAM", ours, theirs, rows, cache, parent.name)
    del rows
    shutil.rmtree(cache)
    yield from _memory(scratch)


def _versus(
    name: str, ours: Callable[[], object], theirs: Callable[[Rows], object], rows: Rows, cache: Path, parent: str
) -> Row:
    """Frames per second in turns; what was derived is removed each time, since it would not be derived again."""
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for turn in range(4):
        for who, work in (("ours", ours), ("theirs", lambda: theirs(rows))):
            gc.collect()
            begin = time.perf_counter()
            work()
            if turn:  # the first warms up
                seconds[who].append(time.perf_counter() - begin)
            store = open_cache(cache)
            for derived in store.names():
                if derived != parent:
                    store.remove(derived)
    rates = {who: len(rows) / statistics.median(found) for who, found in seconds.items()}
    return Row(name, "frames/s", rates["ours"], rates["theirs"])


def _project(rows: Rows) -> Rows:
    matrix = np.random.default_rng(0).standard_normal((_DIM, _KEPT), np.float32)
    return (rows.astype(np.float32) @ matrix).astype(np.float16)


def _fit_and_project(rows: Rows) -> Rows:
    values = rows.astype(np.float64)
    mean = values.mean(axis=0)
    values -= mean
    _, vectors = np.linalg.eigh(values.T @ values)
    matrix = vectors[:, : -_KEPT - 1 : -1].astype(np.float32)
    return ((rows.astype(np.float32) - mean.astype(np.float32)) @ matrix).astype(np.float16)


def _quantise(rows: Rows) -> Rows:
    values = rows.astype(np.float32)
    low, high = values.min(axis=0), values.max(axis=0)
    return np.clip(np.rint((values - low) / ((high - low) / 255)), 0, 255).astype(np.uint8)


_PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, capture_output=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6)
"""


def _memory(scratch: Path) -> Iterator[Row]:
    """Peak memory of the command for parents of 1 and 3 GB, with equally many videos: each has a row in memory."""
    num_videos = 10**9 // (_FRAMES * _DIM * 2)
    peaks: dict[int, float] = {}
    for gigabytes in (1, 3):
        cache = scratch / f"{gigabytes}"
        _render(cache, num_videos, gigabytes * _FRAMES)
        command = [sys.executable, "-m", "framecache.cache", "derive", "bench", "--random", "64", "--cache", str(cache)]
        done = subprocess.run([sys.executable, "-c", _PEAK, *command], check=True, capture_output=True, text=True)
        peaks[gigabytes] = float(done.stdout)
        shutil.rmtree(cache)
    note = "resident set, pages of mapped files included"
    yield Row("derive --random 64 of 3 GB: peak memory, against the limit", "MB", peaks[3], _LIMIT_MB, 1.0, note)
    yield Row("derive --random 64: peak memory of 3 GB, against of 1 GB", "MB", peaks[3], peaks[1], 0.9, note)


def _render(cache: Path, num_videos: int, num_frames: int = _FRAMES) -> FeatureSet:
    """Videos of random features, as after a relu; each is a cut of the same noise, which is quick to make."""
    spec = Spec("bench", "0" * 64, "top", True, {}, "all", "gap", (_DIM,))
    folder, rng = Cache(cache).create(spec), np.random.default_rng(0)
    noise = np.maximum(rng.standard_normal((50 * _FRAMES, _DIM), np.float32), 0).astype(np.float16)
    with ShardWriter(folder, spec, {"engine": "bench"}, 512 * 10**6, 1e9) as writer:
        for number in range(num_videos):
            begin = int(rng.integers(len(noise) - num_frames))
            buffer = writer.open_video()
            buffer.append(noise[begin : begin + num_frames], np.arange(num_frames) * 40.0)
            name, digest = f"video-{number:06d}.mp4", f"{number:032x}"
            row = VideoRow(name, num_frames, buffer.hexdigest(), name, digest, "", num_frames, num_frames, ())
            writer.add(buffer, row)
    return FeatureSet(folder, spec)
