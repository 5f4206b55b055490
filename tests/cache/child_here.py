"""Shards examined in the process of the test: for tests of what follows from what is found."""

from __future__ import annotations

from collections.abc import Iterator

from framecache.cache.verify_worker import examine


class ChildHere:
    """Takes the place of :class:`framecache.cache.child.Child` in ``verify``."""

    def __init__(self, module: str) -> None:
        self._answers: Iterator[bytes] = iter(())

    def send(self, message: bytes) -> None:
        self._answers = examine(message)

    def receive(self, timeout: float | None = None) -> bytes:
        return next(self._answers)

    def kill(self) -> None: ...

    def close(self) -> str:
        return "stopped"
