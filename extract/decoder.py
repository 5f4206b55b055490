"""Decode workers: one process each, so that a crash in a decoder costs one video and not the run.

What a worker (:mod:`framecache.extract.decode_worker`) says is checked: it decodes files that nobody vouches for.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import numpy as np

from framecache.cache.child import Child
from framecache.cache.sources import Url
from framecache.extract.remote import Downloads, Fetched
from framecache.extract.video import Block, Clip, DecodeStats

_START_SECONDS = 60.0  # for a worker to load its libraries from a slow disk
_TICK_SECONDS = 0.5


@dataclass(frozen=True)
class Frames:
    """A block of frames of clip number ``clip``."""

    clip: int
    block: Block


@dataclass(frozen=True)
class Finished:
    """Clip number ``clip`` came to its end, or broke for the ``reason`` given."""

    clip: int
    stats: DecodeStats
    reason: str | None = None
    fetched: Fetched | None = None  # if it is remote and was transferred


Event = Frames | Finished


class DecoderPool:
    """Decodes clips side by side, ahead of their consumer by a bounded number of blocks.

    Args:
        clips: What to decode.
        num_workers: Worker processes.
        module: What they run.

    Remote clips are transferred first, ahead of the workers; several parts of one source are transferred once.
    Iterating gives the blocks of each clip in order, those of different clips interleaved. Every clip ends
    with one :class:`Finished`. A None about every half a second lets the consumer do other things while no
    worker has anything to give.
    """

    def __init__(
        self, clips: Sequence[Clip], num_workers: int, module: str = "framecache.extract.decode_worker"
    ) -> None:
        self._clips = clips
        self._pending = iter(_together(clips))
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._events: queue.Queue[Event] = queue.Queue(maxsize=2 * num_workers + 2)
        self._workers = [Child(module) for _ in range(min(num_workers, len(clips)))]
        urls = [clips[number].path for number in _together(clips)]
        remote = [url for url in urls if isinstance(url, Url)]
        self._downloads = Downloads(remote, len(self._workers), clips[0].limits) if remote else None
        self._threads = [threading.Thread(target=self._serve, args=[worker], daemon=True) for worker in self._workers]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        for worker in self._workers:
            worker.kill()
        if self._downloads is not None:
            self._downloads.stop()
        for thread in self._threads:
            thread.join()
        for worker in self._workers:
            worker.close()
        if self._downloads is not None:
            self._downloads.__exit__(kind, error, trace)

    def __iter__(self) -> Iterator[Event | None]:
        ended = 0
        while ended < len(self._clips):
            try:
                event = self._events.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                yield None
                continue
            ended += isinstance(event, Finished)
            yield event

    def _serve(self, worker: Child) -> None:
        """Runs in a thread per worker: feeds it clips and passes on what it answers."""
        while not self._stopped.is_set():
            with self._lock:
                clip = next(self._pending, None)
            if clip is None:
                worker.close()
                return
            for event in self._decode(worker, clip):
                self._put(event)

    def _decode(self, worker: Child, number: int) -> Iterator[Event]:
        """The events of one clip, which is transferred first if it is remote."""
        clip = self._clips[number]
        if self._downloads is None or not isinstance(clip.path, Url):
            yield from _decode(worker, number, clip)
            return
        try:
            fetched = self._downloads.get(clip.path)
            for event in _decode(worker, number, replace(clip, path=fetched.path)):
                yield replace(event, fetched=fetched) if isinstance(event, Finished) else event
        except Exception as error:  # whatever it was, the clip must come to its end
            reason = error.strerror if isinstance(error, OSError) else type(error).__name__
            yield Finished(number, DecodeStats(), f"cannot be read: {reason}")
        finally:
            self._downloads.release(clip.path)

    def _put(self, event: Event) -> None:
        while not self._stopped.is_set():
            try:
                self._events.put(event, timeout=0.1)
            except queue.Full:
                continue
            return


def _together(clips: Sequence[Clip]) -> list[int]:
    """Numbers of the clips in their order, but those of one remote source after the first of them."""
    first: dict[Url, int] = {}
    places = [
        first.setdefault(clip.path, number) if isinstance(clip.path, Url) else number
        for number, clip in enumerate(clips)
    ]
    return sorted(range(len(clips)), key=places.__getitem__)


class _NoWorkerError(Exception):
    """No decode process can be had; no fault of the clip."""


def _hand_over(worker: Child, clip: Clip) -> None:
    """Sends a clip and waits for the first message, which no clip can prevent.

    Once more if it does not come: the worker may have died since the last clip, or the disk was slow.

    Raises:
        _NoWorkerError: A fresh worker did not answer either.
    """
    why = ""
    for _ in range(2):
        try:
            worker.send(clip.to_json())
            worker.receive(_START_SECONDS)
            return
        except TimeoutError:
            worker.close(grace_seconds=0)
            why = f"no answer for {_START_SECONDS:g} s"
        except (EOFError, OSError) as error:
            why = ", ".join(filter(None, [worker.close(), str(error)]))
    raise _NoWorkerError(f"the decode process did not start: {why}")


def _decode(worker: Child, number: int, clip: Clip) -> Iterator[Event]:
    """The events of one clip; whatever the worker does, the last of them is its end."""
    stats, delivered = DecodeStats(), 0
    try:
        _hand_over(worker, clip)
        while True:
            answer: dict[str, Any] = json.loads(worker.receive(clip.limits.stall_seconds))
            stats = DecodeStats(**answer["stats"])
            if answer.get("ended"):
                if answer["reason"] is None and stats.frames_kept != delivered:
                    raise ValueError(f"{stats.frames_kept} frames announced, {delivered} delivered")
                yield Finished(number, stats, answer["reason"])
                return
            if answer["timestamps_ms"]:
                block = _block(answer["timestamps_ms"], worker.receive(clip.limits.stall_seconds), clip)
                delivered += len(block.frames)
                yield Frames(number, block)
    except _NoWorkerError as error:
        reason = str(error)
    except TimeoutError:
        worker.close(grace_seconds=0)
        reason = clip.limits.stalled
    except Exception:  # whatever it was, the clip must come to its end
        reason = f"the decoder crashed ({worker.close()})"
    stats.frames_kept = delivered
    yield Finished(number, stats, stats.broken(reason, clip.keep_partial))


def _block(timestamps_ms: list[float], pixels: bytes, clip: Clip) -> Block:
    """A worker's block, without a copy of its pixels; ValueError if they are not of the clip's size."""
    shape = (len(timestamps_ms), clip.geometry.height, clip.geometry.width, 3)
    return Block(np.frombuffer(pixels, np.uint8).reshape(shape), np.array(timestamps_ms, np.float64))
