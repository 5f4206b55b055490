"""Reading beside its limits and its peers: an array in RAM, other files, a cold disk; and opening a million videos.

Batches are of shuffled videos of 20 to 60 frames × 1280 × float16, padded, from the page cache unless said otherwise.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
from measure import Row, Work, take_turns, versus
from numpy.typing import NDArray

from framecache.cache import FeatureSet, Spec, open_cache
from framecache.cache.fingerprint import FeatureDigest
from framecache.cache.packing import pack_rows, write_shard
from framecache.cache.sealed import record_sealed
from framecache.cache.shard import VideoRow
from framecache.cache.store import Cache
from framecache.cache.writer import ShardWriter

_VIDEOS, _FRAMES, _DIM, _BATCH = 2000, (20, 60), 1280, 32
_COUNTS = (1_000, 10_000, 100_000, 1_000_000)
_SHARD_VIDEOS = 2000  # a million videos in 500 shards
Batch = tuple[NDArray[np.float16], NDArray[np.int64]]
Gather = Callable[[Sequence[str]], Batch]


def measure(scratch: Path) -> Iterator[Row]:
    """The rows of this section."""
    yield from _opening(scratch / "counts")
    shutil.rmtree(scratch / "counts")
    features = _render(scratch / "features")
    yield _cold(features)  # before anybody maps it, since what is mapped stays in memory
    yield from _batches(features, scratch / "peers")
    yield _against_tfrecord(features, scratch / "videos.tfrecord")


def _batches(features: FeatureSet, folder: Path) -> Iterator[Row]:
    """Each peer finds a video by its name, and makes the same padded batch."""
    folder.mkdir()
    lengths = np.array([features.length(video_id) for video_id in features])
    begins = np.cumsum(lengths) - lengths
    spans = dict(zip(features, zip(begins.tolist(), lengths.tolist(), strict=True), strict=True))
    array = np.concatenate([features[video_id] for video_id in features])

    def rows_in(source: NDArray[np.float16] | h5py.Dataset) -> Callable[[str], NDArray[np.float16]]:
        def rows_of(video_id: str) -> NDArray[np.float16]:
            begin, length = spans[video_id]
            return source[begin : begin + length]

        return rows_of

    def load(video_id: str) -> NDArray[np.float16]:
        return np.load(files[video_id])

    files = {video_id: folder / f"{number}.npy" for number, video_id in enumerate(features)}
    for video_id, file in files.items():
        np.save(file, features[video_id])
    with h5py.File(folder / "gzip.h5", "w") as packed:
        packed.create_dataset("features", data=array, chunks=(_FRAMES[0], _DIM), compression="gzip", compression_opts=1)
    (shard,) = features.shards
    with h5py.File(shard.path) as plain, h5py.File(folder / "gzip.h5") as packed:
        peers: dict[str, tuple[Gather, float]] = {
            "one array in RAM": (_gather(rows_in(array)), 0.9),
            "h5py on the same file": (_gather(rows_in(plain["features"])), 1.8),
            "one .npy per video": (_gather(load), 7.0),
            "HDF5 in gzip-1 chunks": (_gather(rows_in(packed["features"])), 30.0),
        }
        for name, (theirs, target) in peers.items():
            _require_equal(features.batch, theirs, features.video_ids[:_BATCH])
            yield versus(
                f"batches, against {name}",
                "videos/s",
                _shuffled(features.video_ids, features.batch),
                _shuffled(features.video_ids, theirs),
                target,
            )


def _gather(rows_of: Callable[[str], NDArray[np.float16]]) -> Gather:
    """Batches of what is found by name, padded."""

    def gather(video_ids: Sequence[str]) -> Batch:
        found = [rows_of(video_id) for video_id in video_ids]
        counts = np.array([len(rows) for rows in found])
        batch = np.empty((len(found), counts.max(), *found[0].shape[1:]), np.float16)
        for row, rows in zip(batch, found, strict=True):
            row[: len(rows)] = rows
            row[len(rows) :] = 0
        return batch, counts

    return gather


def _shuffled(video_ids: Sequence[str], gather: Gather) -> Work:
    """One batch of random videos at a time."""
    chance, left = random.Random(0), list[str]()

    def work() -> float:
        if len(left) < _BATCH:
            left[:] = chance.sample(video_ids, len(video_ids))
        chosen, left[:_BATCH] = left[:_BATCH], []
        gather(chosen)
        return _BATCH

    return work


def _require_equal(ours: Gather, theirs: Gather, video_ids: Sequence[str]) -> None:
    for one, other in zip(ours(video_ids), theirs(video_ids), strict=True):
        np.testing.assert_array_equal(one, other)


def _against_tfrecord(features: FeatureSet, file: Path) -> Row:
    """Whole epochs: a record per video, shuffled within a buffer of an eighth, parsed and batched on all cores."""
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(file)) as writer:
        for video_id in features:
            writer.write(features[video_id].tobytes())

    def parse(record: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.io.decode_raw(record, tf.float16), [-1, _DIM])

    records = tf.data.TFRecordDataset(str(file)).shuffle(_VIDEOS // 8)
    padded = records.map(parse, tf.data.AUTOTUNE).padded_batch(_BATCH, [None, _DIM]).prefetch(tf.data.AUTOTUNE)

    def theirs() -> float:
        return sum(len(batch) for batch in padded)

    ours = _shuffled(features.video_ids, features.batch)
    return versus("batches, against TFRecord and tf.data", "videos/s", ours, theirs, None)


def _cold(features: FeatureSet) -> Row:
    """A scan of all videos and ``dd``, from the disk."""
    (shard,) = features.shards
    total, cached = shard.num_bytes, list[float]()

    def scan() -> None:
        again = FeatureSet(features.folder, features.spec)  # without maps, which would keep pages in memory
        for video_id in again:
            again[video_id].copy()

    def dd() -> None:
        subprocess.run(["dd", f"if={shard.path}", "of=/dev/null", "bs=4M"], check=True, capture_output=True)

    seconds: dict[str, list[float]] = {"ours": [], "dd": []}
    for _ in range(5):
        for name, work in (("ours", scan), ("dd", dd)):
            cached.append(_drop_from_memory(shard.path))
            begin = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - begin)
    rates = {name: total / 1e6 / statistics.median(found) for name, found in seconds.items()}
    note = f"{max(cached):.0%} of the file was in memory before; the host may hold more of it"
    return Row("cold: all videos in order, against dd", "MB/s", rates["ours"], rates["dd"], 0.9, note)


def _drop_from_memory(path: Path) -> float:
    """Drops a file from the page cache; gives the share of it that is still there."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        mapped = np.frombuffer(mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ), np.uint8)
    pages = np.zeros(-(-len(mapped) // mmap.PAGESIZE), np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(len(mapped)), pages.ctypes.data_as(ctypes.c_void_p)
    if libc.mincore(*arguments) != 0:
        raise OSError(ctypes.get_errno(), "mincore", str(path))
    return float((pages & 1).mean())


_OPEN = """
import json, resource, sys, time
from framecache.cache import open_cache
def resident(): return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
before, begin = resident(), time.perf_counter()
features = open_cache(sys.argv[1])["bench"]
seconds = time.perf_counter() - begin
print(json.dumps([seconds, resident() - before, resident(), peak() - before]))
"""


def _opening(folder: Path) -> Iterator[Row]:
    """What opening costs in a process of its own, and what the command costs as a whole."""
    for count in _COUNTS:
        _render_many(folder / str(count), count)
    found = {count: _open(folder / str(count)) for count in _COUNTS}
    seconds, growth, total, peak = found[_COUNTS[-1]]
    shards = _COUNTS[-1] // _SHARD_VIDEOS
    what = f"opening {_COUNTS[-1]:,} videos in {shards} shards"
    yield Row(f"{what}, against the limit", "s", seconds, 2.0, 1.0)
    note = f"the process: {total:.0f} MB"
    yield Row(f"{what}: growth of the process, at its peak, against the limit", "MB", peak, 300.0, 1.0, note)
    yield Row(f"{what}: growth of the process that stays", "MB", growth)
    for count in _COUNTS[1:]:
        per_video = {many: found[many][0] / many * 1e6 for many in (count, _COUNTS[0])}
        name = f"opening, per 1,000 videos: of {count:,}, against of {_COUNTS[0]:,}"
        yield Row(name, "ms", per_video[count], per_video[_COUNTS[0]], 0.9)
    command = [sys.executable, "-m", "framecache.cache", "ls", "--cache", str(folder / str(_COUNTS[-1]))]
    yield Row("framecache ls of them, against the limit", "s", _seconds(command), 1.0, 1.0)
    yield from _by_name(*(open_cache(folder / str(count))["bench"] for count in (_COUNTS[0], _COUNTS[-1])))


def _by_name(few: FeatureSet, many: FeatureSet) -> Iterator[Row]:
    """What a million videos cost per batch, and how much of that a dict and an array in RAM lose to caches too."""
    works = {"few": _sampled(few, few.batch), "many": _sampled(many, many.batch)}
    works |= {"dict, few": _sampled(few, _by_dict(few)), "dict, many": _sampled(many, _by_dict(many))}
    rates = take_turns(works)
    what, unit = f"batches of {_BATCH} by video_id: from {len(many):,}", "videos/s"
    against_few = rates["many"] / rates["few"], rates["dict, many"] / rates["dict, few"]
    yield Row(f"{what}, against from {len(few):,}", unit, rates["many"], rates["few"], 0.9)
    yield Row(f"{what}, share kept of the rate from {len(few):,}, against a dict's and array's", "", *against_few, 0.9)
    yield Row(f"{what}, against a dict and one array in RAM", unit, rates["many"], rates["dict, many"])


def _by_dict(features: FeatureSet) -> Gather:
    """The same batches by a dict of all names, from one array."""
    array = np.concatenate([features[video_id] for video_id in features])
    ends = np.cumsum([features.length(video_id) for video_id in features]).tolist()
    spans = {video_id: slice(begin, end) for video_id, begin, end in zip(features, [0, *ends], ends, strict=False)}
    return _gather(lambda video_id: array[spans[video_id]])


def _open(folder: Path) -> list[float]:
    """Seconds; growth of the process, its whole size, and growth at its peak, in MB. The median of five openings."""
    command = [sys.executable, "-c", _OPEN, str(folder)]
    outputs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(5)]
    return [statistics.median(figures) for figures in zip(*map(json.loads, outputs), strict=True)]


def _seconds(command: Sequence[str]) -> float:
    taken = []
    for _ in range(5):
        begin = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def _sampled(features: FeatureSet, gather: Gather, num_batches: int = 500) -> Work:
    """Batches of random videos, the same ones at each call."""
    chosen = random.Random(0).choices(features.video_ids, k=num_batches * _BATCH)
    video_ids = [video_id[:1] + video_id[1:] for video_id in chosen]  # copies, side by side in memory

    def work() -> float:
        for begin in range(0, len(video_ids), _BATCH):
            gather(video_ids[begin : begin + _BATCH])
        return len(video_ids)

    return work


def _spec(dim: int) -> Spec:
    return Spec("bench", "0" * 64, "top", True, {}, "all", "gap", (dim,))


def _row(number: int, length: int, digest: str) -> VideoRow:
    name = f"class-{number % 400:03d}/video-{number:07d}.mp4"
    return VideoRow(name, length, digest, f"videos/{name}", f"{number:032x}", "", length, length, ())


def _render(cache: Path) -> FeatureSet:
    """Videos of random features, in one shard."""
    spec, rng = _spec(_DIM), np.random.default_rng(0)
    folder = Cache(cache).create(spec)
    with ShardWriter(folder, spec, {"engine": "bench"}, 1 << 40, 1e9) as writer:
        for number, length in enumerate(rng.integers(_FRAMES[0], _FRAMES[1] + 1, _VIDEOS).tolist()):
            buffer = writer.open_video()
            frames = np.maximum(rng.standard_normal((length, _DIM), np.float32), 0)  # as after a relu
            buffer.append(frames.astype(np.float16), _times(length))
            writer.add(buffer, _row(number, length, buffer.hexdigest()))
    return FeatureSet(folder, spec)


def _render_many(cache: Path, count: int, dim: int = 4) -> None:
    """Very many videos of 1 to 3 frames with hardly any features, as the writer would seal them."""
    spec, rng = _spec(dim), np.random.default_rng(0)
    folder = Cache(cache).create(spec)
    for begin in range(0, count, _SHARD_VIDEOS):
        rows, blocks = [], []
        for number in range(begin, min(begin + _SHARD_VIDEOS, count)):
            features, digest = rng.random((1 + number % 3, dim), np.float32).astype(np.float16), FeatureDigest()
            digest.update(features, _times(len(features)))
            rows.append(_row(number, len(features), digest.hexdigest()))
            blocks.append(features)
        name = f"shard-{begin // _SHARD_VIDEOS + 1:06d}-{begin:08x}.h5"
        times = np.concatenate([_times(len(features)) for features in blocks])
        data = np.concatenate(blocks).tobytes()
        write_shard(folder / name, name, spec, {"engine": "bench"}, pack_rows(rows), [data], times)
        record_sealed(folder, name, [row.video_id for row in rows])


def _times(length: int) -> NDArray[np.float64]:
    return np.arange(length) * 40.0
