"""verify finds any flipped bit and names the video it hurts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from framecache.cache.__main__ import app
from framecache.cache.cli import run
from framecache.cache.reader import list_shards
from framecache.cache.shard import read_shard
from framecache.cache.spec import Spec
from framecache.cache.verify import Verification, verify

VIDEOS = {name: np.arange(4 * length, dtype=np.float16).reshape(length, 4) for name, length in (("a", 3), ("b", 5))}


@pytest.fixture
def folder(tmp_path: Path, spec: Spec, fill_set: Callable[..., object]) -> Path:
    fill_set(tmp_path, spec, VIDEOS)
    return tmp_path / spec.name


def complete(folder: Path, spec: Spec) -> Verification:
    return verify(folder, spec)


def test_untouched_features_are_ok(folder: Path, spec: Spec) -> None:
    result = complete(folder, spec)
    assert result.ok
    assert (result.shards, result.videos) == (len(list_shards(folder)), 2)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_hurts_the_video_it_is_in(folder: Path, spec: Spec, data: st.DataObject) -> None:
    (path,) = list_shards(folder)
    info = read_shard(path)
    name = data.draw(st.sampled_from(["features", "timestamps_ms"]))
    extent = getattr(info, name)
    frame_bytes = int(np.prod(extent.shape[1:])) * extent.dtype.itemsize
    byte = data.draw(st.integers(0, extent.shape[0] * frame_bytes - 1))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[extent.offset + byte] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(flipped)
    try:
        assert complete(folder, spec).hurt == ["a" if byte // frame_bytes < 3 else "b"]
    finally:
        path.write_bytes(whole)


def test_a_shard_that_cannot_be_read_is_an_error_with_its_path(folder: Path, spec: Spec) -> None:
    (path,) = list_shards(folder)
    path.write_bytes(path.read_bytes()[:-9])
    result = complete(folder, spec)
    assert not result.ok
    assert str(path) in result.errors[path.name]
    assert result.hurt == ["a", "b"]


def test_the_command_says_ok_or_hurt(folder: Path, spec: Spec, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["verify", "--cache", str(folder.parent)]) == 0
    assert capsys.readouterr().out == f"{spec.name}: ok, 2 videos in 1 shards\n"
    (path,) = list_shards(folder)
    data = bytearray(path.read_bytes())
    data[read_shard(path).features.offset] ^= 1
    path.write_bytes(data)
    assert run(app, ["verify", spec.short_name, "--cache", str(folder.parent), "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["shards"], found["hurt"]) == (False, 1, ["a"])
