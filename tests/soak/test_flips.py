"""Flipped bits by the ten thousand: ``FLIPS=200000 SEED=7 make soak``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from framecache.cache import Spec
from framecache.cache.reader import list_shards

from ..cache.flips import flip_bits, random_flips, told  # noqa: TID252


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_any_flipped_bit_is_found_or_changes_nothing_that_is_read(
    tmp_path: Path,
    spec: Spec,
    fill_set: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    num_flips, seed = int(os.environ.get("FLIPS", "50000")), int(os.environ.get("SEED", "0"))
    rng = np.random.default_rng(seed)
    videos = {f"class-{number % 3}/video-{number}.mp4": rng.normal(size=(1 + number, 4)) for number in range(12)}
    (path,) = list_shards(fill_set(tmp_path, spec, videos))
    ends = flip_bits(path, spec, random_flips(path, num_flips, seed), tmp_path, monkeypatch)
    with capsys.disabled():
        print(f"\n{num_flips} flips of seed {seed}: {told(ends)}; crashes at {ends['crash'][:5]}")
    assert ends["something"] == []
