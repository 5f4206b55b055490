"""Mutants of clips by the hundred: ``MUTANTS=2000 SEED=7 make soak``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ..extract.mutants import decode_mutants  # noqa: TID252


@pytest.mark.soak
def test_no_mutant_takes_the_decoder_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    num_mutants, seed = int(os.environ.get("MUTANTS", "300")), int(os.environ.get("SEED", "0"))
    ends = decode_mutants(tmp_path, num_mutants, seed, stall_seconds=20.0)
    with capsys.disabled():
        print(f"\n{num_mutants} mutants of seed {seed}: {dict(ends)}")
    assert {"warned", "failed"} <= ends.keys(), "the mutants are too tame"
