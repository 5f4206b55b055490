"""Counts: what an opened feature set has, told without opening it as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from framecache.cache import Cache, FeatureSet, ShardError, Spec, SpecMismatchError
from framecache.cache.counts import Counts, count
from framecache.cache.ledger import LedgerRow, append_journal
from framecache.cache.reader import list_shards

FillSet = Callable[..., Path]


def frames(num_frames: int) -> np.ndarray:
    return np.zeros((num_frames, 4), np.float16)


def test_counts_are_those_of_the_opened_set_at_each_step(tmp_path: Path, spec: Spec, fill_set: FillSet) -> None:
    folder = Cache(tmp_path).create(spec)
    assert count(folder, spec) == Counts(0, 0, 0)
    fill_set(tmp_path, spec, {"a": frames(3), "b": frames(2)})
    fill_set(tmp_path, spec, {"c": frames(1)})
    num_bytes = sum(path.stat().st_size for path in list_shards(folder))
    assert count(folder, spec) == Counts.of(FeatureSet(folder, spec)) == Counts(3, 6, num_bytes)
    fill_set(tmp_path, spec, {"a": frames(5)})  # anew
    assert count(folder, spec) == Counts.of(FeatureSet(folder, spec))
    assert (count(folder, spec).num_videos, count(folder, spec).num_frames) == (3, 8)
    append_journal(folder, 3, [LedgerRow("copy", "copy.mp4", "duplicate", source_digest="content of b")])
    append_journal(folder, 3, [LedgerRow("c", "c.mp4", "failed", "changed and broken")])
    assert count(folder, spec) == Counts.of(FeatureSet(folder, spec))
    assert (count(folder, spec).num_videos, count(folder, spec).num_frames) == (3, 7)


def test_what_cannot_be_opened_is_not_counted(tmp_path: Path, spec: Spec, fill_set: FillSet) -> None:
    for name in "ab":
        folder = fill_set(tmp_path, spec, {name: frames(3)})
    first, second = list_shards(folder)
    with pytest.raises(SpecMismatchError):
        count(folder, replace(spec, sampling="every=2"))
    data = second.read_bytes()
    second.write_bytes(data.replace(b"content of b", b"content of c"))
    with pytest.raises(ShardError, match="not the ones that were written"):
        count(folder, spec)
    second.write_bytes(data)
    first.unlink()
    with pytest.raises(ShardError, match="1 of its shards are missing"):
        count(folder, spec)
