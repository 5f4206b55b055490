"""Real extractions killed many times: ``make soak KILLS=500``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.extract.kills import extractions, survive


@pytest.mark.soak
def test_killed_extractions_end_with_the_digests_of_one_never_killed(tmp_path: Path) -> None:
    with extractions(tmp_path) as runs:
        toll = survive(runs, int(os.environ.get("KILLS", "500")), int(os.environ.get("SEED", "0")))
    print(toll)
