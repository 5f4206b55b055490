"""Real extractions interrupted, and killed many times: ``make soak KILLS=500``."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.extract.kills import extractions, interrupt, survive


@pytest.mark.soak
def test_killed_and_interrupted_extractions_end_with_the_digests_of_one_never_killed(tmp_path: Path) -> None:
    with extractions(tmp_path) as runs:
        for number in (signal.SIGINT, signal.SIGTERM):
            interrupt(runs, number)
        toll = survive(runs, int(os.environ.get("KILLS", "500")), int(os.environ.get("SEED", "0")))
    print(toll)
