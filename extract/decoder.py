"""Decode workers: one process each, so that a crash in a decoder costs one video and not the run.

Workers (:mod:`framecache.extract.decode_worker`) are plain subprocesses instead of ``multiprocessing`` ones, so
that a user's script needs no ``__main__`` guard.
"""

from __future__ import annotations

import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from framecache.extract.video import Block, Clip, DecodeStats

_GRACE_SECONDS = 2.0


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


Event = Frames | Finished


class DecoderPool:
    """Decodes clips side by side, ahead of their consumer by a bounded number of blocks.

    Args:
        clips: What to decode.
        num_workers: Worker processes.

    Iterating gives the blocks of each clip in order, those of different clips interleaved. Every clip ends
    with one :class:`Finished`.
    """

    def __init__(self, clips: Sequence[Clip], num_workers: int) -> None:
        self._clips = clips
        self._pending = iter(range(len(clips)))
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._events: queue.Queue[Event] = queue.Queue(maxsize=2 * num_workers + 2)
        self._workers = [_Worker() for _ in range(min(num_workers, len(clips)))]
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
        for thread in self._threads:
            thread.join()
        for worker in self._workers:
            worker.close()

    def __iter__(self) -> Iterator[Event]:
        ended = 0
        while ended < len(self._clips):
            event = self._events.get()
            ended += isinstance(event, Finished)
            yield event

    def _serve(self, worker: _Worker) -> None:
        """Runs in a thread per worker: feeds it clips and passes on what it answers."""
        while not self._stopped.is_set():
            with self._lock:
                clip = next(self._pending, None)
            if clip is None:
                worker.close()
                return
            for event in worker.decode(clip, self._clips[clip]):
                self._put(event)

    def _put(self, event: Event) -> None:
        while not self._stopped.is_set():
            try:
                self._events.put(event, timeout=0.1)
            except queue.Full:
                continue
            return


class _Worker:
    """One worker process, started when first needed and again after a crash."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._killed = False
        self._lock = threading.Lock()

    def decode(self, number: int, clip: Clip) -> Iterator[Event]:
        stats = DecodeStats()
        try:
            connection = self._connect()
            connection.send(clip)
            while True:
                answer = connection.recv()
                if isinstance(answer, Block):
                    stats.frames_kept += len(answer.frames)
                    yield Frames(number, answer)
                else:
                    stats, reason = answer
                    yield Finished(number, stats, reason)
                    return
        except Exception:  # whatever it was, the clip must come to its end
            stats.frames_decoded = stats.frames_kept
            yield Finished(number, stats, f"the decoder crashed ({self.close()})")

    def kill(self) -> None:
        """Ends the process for good, from any thread; whoever waits for its answer sees a crash."""
        with self._lock:
            self._killed = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> str:
        """Ends the process, frees what it held, and says how it ended."""
        with self._lock:
            process, self._process = self._process, None
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if process is None:
            return "stopped"
        try:
            status = process.wait(_GRACE_SECONDS)  # without its connection it ends by itself
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        return signal.strsignal(-status) or f"signal {-status}" if status < 0 else f"exit status {status}"

    def _connect(self) -> Connection:
        with self._lock:
            if self._killed:
                raise EOFError
            if self._connection is None:
                ours, theirs = socket.socketpair()
                with theirs:
                    self._process = subprocess.Popen(  # noqa: S603
                        [sys.executable, "-P", "-m", "framecache.extract.decode_worker", str(theirs.fileno())],
                        pass_fds=[theirs.fileno()],
                        stdin=subprocess.DEVNULL,
                    )
                self._connection = Connection(ours.detach())
            return self._connection
