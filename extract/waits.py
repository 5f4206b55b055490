"""What a run is bound by: where the thread that leads it spends its time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Cause = Literal["decode", "CNN", "write"]


class Waits:
    """Seconds spent waiting for frames (``decode``), for features (``CNN``) and for the disk (``write``).

    Decoding and the CNN go on side by side ahead of that thread, so that it waits for the slower one only.
    """

    def __init__(self) -> None:
        self.seconds: dict[Cause, float] = {"decode": 0.0, "CNN": 0.0, "write": 0.0}

    @contextmanager
    def on(self, cause: Cause) -> Iterator[None]:
        """Counts what happens inside; not to be nested."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[cause] += time.perf_counter() - begin

    @property
    def bound(self) -> Cause:
        """What was waited for longest."""
        return max(self.seconds, key=self.seconds.__getitem__)
