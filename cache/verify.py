"""Verification: what is read is what was computed, down to the bit; and repair of what is not."""

from __future__ import annotations

import json
import os
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from framecache.cache.child import Child
from framecache.cache.compact import copy_video
from framecache.cache.journal import fsync_folder
from framecache.cache.ledger import LedgerRow, append_journal
from framecache.cache.reader import FeatureSet, list_shards
from framecache.cache.sealed import record_gone, sealed_shards, sealed_videos
from framecache.cache.shard import SHARD_PATTERN
from framecache.cache.spec import Spec
from framecache.cache.writer import ShardWriter

HURT_FOLDER = "hurt"  # where repair moves damaged shards
_SILENCE_SECONDS = 120.0  # without a sign of life from a child that reads a few MB


@dataclass
class Verification:
    """What checking one feature set found.

    Attributes:
        name: The feature set.
        shards: Shards that were looked at.
        videos: Videos whose stored bytes were digested.
        hurt: ``video_id`` of those whose bytes are not the ones that were computed, or cannot be read.
        errors: What is wrong with each hurt or missing shard, by its name.
        repaired: Whether the hurt shards were moved aside.
    """

    name: str
    shards: int = 0
    videos: int = 0
    hurt: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    repaired: bool = False

    @property
    def ok(self) -> bool:
        """Whether every shard is whole and every video's bytes are the ones that were computed."""
        return not self.errors

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return {"name": self.name, "ok": self.ok, **{key: value for key, value in vars(self).items() if key != "name"}}


@dataclass(frozen=True)
class _Examined:
    """What a child found in one shard; ``error`` makes all of its videos hurt."""

    videos: Sequence[str]
    hurt: Sequence[str]
    error: str | None


def verify(folder: Path, spec: Spec, progress: Callable[[int], object] | None = None) -> Verification:
    """Digests all stored bytes of a feature set again, side by side in child processes, and compares.

    Args:
        folder: The feature set's folder; it may be written into meanwhile.
        spec: Its spec.
        progress: Called with the size in bytes of each shard that is done.
    """
    return _summarise(folder, spec, _examine_all(folder, spec, progress))


def repair(folder: Path, spec: Spec, progress: Callable[[int], object] | None = None) -> Verification:
    """Verifies, and moves hurt shards into the folder ``hurt``; the caller holds the lock.

    Videos of theirs that are whole are first copied into a new shard, so that the next extraction computes
    exactly the hurt ones.
    """
    examined = _examine_all(folder, spec, progress)
    result = _summarise(folder, spec, examined)
    if result.ok:
        return result
    features = FeatureSet(folder, spec, without=[name for name in result.errors if _unreadable(examined.get(name))])
    for info in features.shards:
        if info.path.name in result.errors:
            hurt = set(examined[info.path.name].hurt)
            with ShardWriter(folder, spec, info.software, 1 << 62, float("inf")) as writer:
                for other, place, row in features.live_rows():
                    if other is info and row.video_id not in hurt and _named(info, place) not in hurt:
                        copy_video(writer, info, place, row)
    aside = folder / HURT_FOLDER
    aside.mkdir(exist_ok=True)
    known = features.ledger()
    for name in result.errors:
        found = examined.get(name)
        hurt_videos = found.hurt if found and found.videos else sealed_videos(folder, name)
        _report_lost(folder, name, hurt_videos, known)
        record_gone(folder, [name], "hurt")
        if found is not None:
            os.replace(folder / name, aside / name)
    fsync_folder(aside)
    fsync_folder(folder)
    result.repaired = True
    return result


def _report_lost(folder: Path, shard: str, videos: Sequence[str], known: dict[str, LedgerRow]) -> None:
    """Rows in the shard's place, so that no older features of these videos come to light instead."""
    match = SHARD_PATTERN.fullmatch(shard)
    number = int(match[1]) if match else 0
    reason = "its stored features were damaged; run the extraction again"
    rows = [
        # Without a digest of the source: the next extraction tries it again without being told to.
        LedgerRow(video_id, known[video_id].source if video_id in known else "", "failed", reason=reason)
        for video_id in videos
    ]
    if rows:
        append_journal(folder, number, rows)


def _unreadable(found: _Examined | None) -> bool:
    return found is None or found.error is not None


def _named(info: Any, place: int) -> str:
    video_id: bytes = info.index["video_id"][place]
    return video_id.decode()


def _summarise(folder: Path, spec: Spec, examined: dict[str, _Examined]) -> Verification:
    result = Verification(spec.name, shards=len(examined))
    for name, found in examined.items():
        result.videos += len(found.videos)
        if found.error is not None:
            result.errors[name] = found.error
            result.hurt += found.videos or sealed_videos(folder, name)
        elif found.hurt:
            result.errors[name] = f"{folder / name}: {len(found.hurt)} of its {len(found.videos)} videos are hurt"
            result.hurt += found.hurt
    # Twice, since a compaction says that a shard goes before it does.
    for name in sorted(sealed_shards(folder)):
        if not (folder / name).exists() and name in sealed_shards(folder):
            videos = sealed_videos(folder, name)
            result.errors[name] = f"{folder / name}: the shard is missing, and with it {len(videos)} videos"
            result.hurt += videos
    result.hurt = list(dict.fromkeys(result.hurt))
    return result


def _examine_all(folder: Path, spec: Spec, progress: Callable[[int], object] | None) -> dict[str, _Examined]:
    """Every shard, those too that come while others are read; what a compaction has replaced meanwhile is left out."""
    examined: dict[str, _Examined] = {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    children = [Child("framecache.cache.verify_worker") for _ in range(cores)]
    idle: queue.SimpleQueue[Child] = queue.SimpleQueue()
    for child in children:
        idle.put(child)

    def examine(path: Path) -> _Examined:
        child = idle.get()
        try:
            size = path.stat().st_size if path.exists() else 0
            found = _ask(child, path, spec)
            if progress is not None:
                progress(size)
            return found
        finally:
            idle.put(child)

    with ThreadPoolExecutor(cores) as pool:
        try:
            while todo := [path for path in list_shards(folder) if path.name not in examined]:
                examined.update(zip((path.name for path in todo), pool.map(examine, todo), strict=True))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in children:
                child.kill()
                child.close()
    return {name: found for name, found in examined.items() if (folder / name).exists()}


def _ask(child: Child, path: Path, spec: Spec) -> _Examined:
    try:
        child.send(json.dumps({"path": str(path), "spec": spec.to_dict()}).encode())
        while True:
            answer = json.loads(child.receive(_SILENCE_SECONDS))
            if answer:
                return _Examined(**answer)
    except TimeoutError:
        child.close(grace_seconds=0)
        return _Examined([], [], f"{path}: reading it gave no answer for {_SILENCE_SECONDS:g} s; it is taken for hurt")
    except (EOFError, OSError):
        return _Examined([], [], f"{path}: reading it crashed ({child.close()}); it is taken for hurt")
