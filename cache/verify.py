"""Verification: what is read is what was computed, down to the bit; and repair of what is not."""

from __future__ import annotations

import json
import os
import queue
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from framecache.cache.child import Child
from framecache.cache.copying import StoredVideos, copy_videos
from framecache.cache.derivation import ARRAYS_FILE, read_derivation
from framecache.cache.durable import fsync_folder
from framecache.cache.errors import InputError, ShardError
from framecache.cache.journal import drop_damaged_lines, read_lines
from framecache.cache.ledger import LEDGER_FILE, LedgerRow, append_journal, last_number
from framecache.cache.reader import FeatureSet, list_shards
from framecache.cache.sealed import record_gone, sealed_shards, sealed_videos
from framecache.cache.shard import SHARD_PATTERN, ShardInfo, shard_number
from framecache.cache.shown import Shown, plural
from framecache.cache.spec import Spec

HURT_FOLDER = "hurt"  # where repair moves damaged shards
_WORKER = "framecache.cache.verify_worker"
_SHOWN = 5  # hurt videos, in a notebook
_SILENCE_SECONDS = 120.0  # without a sign of life from a child that reads a few MB


@dataclass(repr=False)
class Verification(Shown):
    """What checking one feature set found.

    Attributes:
        name: The feature set.
        shards: Shards that were looked at.
        videos: Videos whose stored bytes were digested.
        hurt: ``video_id`` of those whose bytes are not the ones that were computed, or cannot be read. A row that no
            longer counts hurts nobody: its video was computed again since, or its file has become a duplicate.
        errors: What is wrong with each hurt or missing shard, by its name.
        repaired: Whether the hurt shards were moved aside.
    """

    name: str
    shards: int = 0
    videos: int = 0
    hurt: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    repaired: bool = False

    def _line(self) -> str:
        state = "ok" if self.ok else f"{plural(len(self.hurt), 'video')} hurt"
        return f"{self.name}: {state}, {plural(self.videos, 'video')} in {plural(self.shards, 'shard')}"

    def _html(self) -> str:
        from framecache.cache.html import card, notes, reasons

        told = ["hurt shards were moved aside"] if self.repaired else []
        if self.hurt:
            more = f" and {len(self.hurt) - _SHOWN:,} more" if len(self.hurt) > _SHOWN else ""
            told.append(f"hurt: {', '.join(self.hurt[:_SHOWN])}{more}")
        return card(self._line(), reasons("shard", self.errors), notes(told))

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
    if result.ok or ARRAYS_FILE in result.errors:
        return result
    aside = folder / HURT_FOLDER
    if aside.is_symlink():
        raise InputError(f"{aside}: is a link, expected a folder of the cache; remove it")
    aside.mkdir(exist_ok=True)
    drop_damaged_lines(folder / LEDGER_FILE, aside / LEDGER_FILE)
    features = _without_unreadable(folder, spec, examined, result.errors)
    for info, rows, named in features.live():
        if info.path.name in result.errors:
            whole = [row for row in rows.tolist() if not _is_hurt(examined, info, row)]
            copy_videos(folder, spec, [StoredVideos(info, np.array(whole, np.int64), named)], 1 << 62)
    _report_lost(folder, result, features.ledger())
    for name in result.errors.keys() - {LEDGER_FILE}:
        record_gone(folder, [name], "hurt")
        if os.path.lexists(folder / name):
            os.replace(folder / name, aside / name)
    fsync_folder(aside)
    fsync_folder(folder)
    result.repaired = True
    return result


def _report_lost(folder: Path, result: Verification, known: dict[str, LedgerRow]) -> None:
    """Rows in the lost ones' place, so that no older features of these videos come to light instead."""
    reason = "its stored features were damaged; run the extraction again"
    rows = [
        # Without a digest of the source: the next extraction tries it again without being told to.
        LedgerRow(video_id, known[video_id].source if video_id in known else "", "failed", reason=reason)
        for video_id in result.hurt
        if video_id not in known or known[video_id].status != "duplicate"  # these wait for their content
    ]
    if rows:
        append_journal(folder, last_number(folder), rows)


def _without_unreadable(
    folder: Path, spec: Spec, examined: Mapping[str, _Examined], errors: Collection[str]
) -> FeatureSet:
    """The feature set without missing shards and without those that only a child process may look at."""
    readable = {name for name, found in examined.items() if found.error is None}
    return FeatureSet(folder, spec, without=[name for name in errors if name not in readable])


def _is_hurt(examined: Mapping[str, _Examined], info: ShardInfo, place: int) -> bool:
    found = examined.get(info.path.name)
    return found is not None and info.index["video_id"][place].decode() in found.hurt


def _summarise(folder: Path, spec: Spec, examined: Mapping[str, _Examined]) -> Verification:
    result = Verification(spec.name, shards=len(examined), videos=sum(len(found.videos) for found in examined.values()))
    for name, found in examined.items():
        if found.error is not None:
            result.errors[name] = found.error
        elif found.hurt:
            result.errors[name] = f"{folder / name}: {len(found.hurt)} of its {len(found.videos)} videos are hurt"
    _, damaged = read_lines(folder / LEDGER_FILE)
    if damaged:
        result.errors[LEDGER_FILE] = (
            f"{folder / LEDGER_FILE}: {len(damaged)} lines are damaged, the first is {damaged[0]}"
        )
    if spec.lineage is not None:
        try:
            read_derivation(folder, spec.lineage)
        except ShardError as error:  # nothing of the set can be trusted, or repaired, without them
            result.errors = {ARRAYS_FILE: str(error)}
            result.hurt = [video_id for found in examined.values() for video_id in found.videos]
            return result
    # Twice, since a compaction says that a shard goes before it does.
    for name in sorted(sealed_shards(folder)):
        if not os.path.lexists(folder / name) and name in sealed_shards(folder):
            count = len(sealed_videos(folder, name))
            result.errors[name] = f"{folder / name}: the shard is missing, and with it {count} videos"
    if result.errors:
        result.hurt = _hurt_videos(folder, spec, examined, result.errors)
    return result


def _hurt_videos(folder: Path, spec: Spec, examined: Mapping[str, _Examined], errors: Collection[str]) -> list[str]:
    """The videos whose latest features are in one of the shards with errors, and are not whole."""
    features = _without_unreadable(folder, spec, examined, errors)
    readable = {info.path.name for info in features.shards}
    hurt = [video_id for video_id, info, row in features.places() if _is_hurt(examined, info, row)]
    lost_shards = [name for name in errors if SHARD_PATTERN.fullmatch(name) and name not in readable]
    if lost_shards:  # a duplicate of what was in them leads nowhere now
        ledger = features.ledger()
        hurt += [name for name, row in ledger.items() if row.status == "duplicate" and name not in features]
    for name in lost_shards:
        told = features.told_since(shard_number(folder / name) or 0)
        found = examined.get(name)
        lost = found.videos if found and found.videos else sealed_videos(folder, name)
        hurt += [video_id for video_id in lost if video_id not in told]
    return list(dict.fromkeys(hurt))


def file_size(path: Path) -> int:
    """Size in bytes; 0 of a shard that has just been compacted away."""
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _examine_all(folder: Path, spec: Spec, progress: Callable[[int], object] | None) -> dict[str, _Examined]:
    """Every shard, those too that come while others are read; what a compaction has replaced meanwhile is left out."""
    examined: dict[str, _Examined] = {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    children = [Child(_WORKER) for _ in range(cores)]
    idle: queue.SimpleQueue[Child] = queue.SimpleQueue()
    for child in children:
        idle.put(child)

    def examine(path: Path) -> _Examined:
        child = idle.get()
        try:
            size = file_size(path)
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
    return {name: found for name, found in examined.items() if os.path.lexists(folder / name)}


def _ask(child: Child, path: Path, spec: Spec) -> _Examined:
    """Examines a shard; twice, before a crash or a silence is taken for the shard's fault."""
    found = _ask_once(child, path, spec)
    return found if found.error is None or found.videos else _ask_once(child, path, spec)


def _ask_once(child: Child, path: Path, spec: Spec) -> _Examined:
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
