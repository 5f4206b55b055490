"""From a damaged shard back to the features that were computed first, at the price of the hurt videos only."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from framecache.cache import open_cache
from framecache.cache.__main__ import app
from framecache.cache.cli import run
from framecache.cache.reader import list_shards
from framecache.cache.shard import read_shard
from framecache.extract.config import ExtractConfig
from framecache.extract.pipeline import extract

from .conftest import shades, write_video

COUNTS = {"a/one.mp4": 5, "a/two.mp4": 7, "b/three.mp4": 4, "b/four.mp4": 6, "b/five.mp4": 3}


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    for name, count in COUNTS.items():
        write_video(folder / name, shades(count))
    return folder


@pytest.fixture
def config(tiny_backbone: str, tmp_path: Path) -> ExtractConfig:
    return ExtractConfig(cache=tmp_path / "features", backbone=tiny_backbone, engine="tensorflow", batch_size=4)


def digests(config: ExtractConfig) -> dict[str, str]:
    ledger = open_cache(config.cache)["build.gap"].ledger()
    return {video_id: row.feature_digest for video_id, row in ledger.items()}


def flip_a_bit_of(*video_ids: str) -> Callable[[Path], set[str]]:
    def damage(folder: Path) -> set[str]:
        for path in list_shards(folder):
            info = read_shard(path)
            data = bytearray(path.read_bytes())
            for raw, start in zip(info.index["video_id"].tolist(), info.index["start"].tolist(), strict=True):
                if raw.decode() in video_ids:
                    frame_bytes = info.features.num_bytes // info.features.shape[0]
                    data[info.features.offset + start * frame_bytes + 3] ^= 1
            path.write_bytes(data)
        return set(video_ids)

    return damage


def lose_a_shard(how: Callable[[Path], None]) -> Callable[[Path], set[str]]:
    def damage(folder: Path) -> set[str]:
        path = list_shards(folder)[-1]
        videos = {raw.decode() for raw in read_shard(path).index["video_id"].tolist()}
        how(path)
        return videos

    return damage


@pytest.mark.parametrize(
    ("damage", "shard_mb"),
    [
        (flip_a_bit_of("a/two.mp4"), 512.0),  # all in one shard, or
        (flip_a_bit_of("a/one.mp4", "b/five.mp4"), 1e-4),  # one or two videos in each
        (lose_a_shard(lambda path: os.truncate(path, path.stat().st_size - 1)), 1e-4),
        (lose_a_shard(os.unlink), 1e-4),
    ],
    ids=["one-bit", "two-bits", "cut", "missing"],
)
def test_after_a_repair_exactly_the_hurt_videos_are_computed_again(
    damage: Callable[[Path], set[str]],
    shard_mb: float,
    videos: Path,
    config: ExtractConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = replace(config, shard_mb=shard_mb)
    assert extract(videos, first).computed == len(COUNTS)
    before = digests(config)
    name = open_cache(config.cache)["build.gap"].name
    hurt = damage(config.cache / name)
    assert 0 < len(hurt) < len(COUNTS)

    words = ["verify", "build.gap", "--cache", str(config.cache)]
    assert run(app, [*words, "--repair", "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert (set(found["hurt"]), found["repaired"]) == (hurt, True)
    report = extract(videos, first)
    assert report.computed == len(hurt)
    assert report.cached == len(COUNTS) - len(hurt)
    assert report.failed == {}
    assert digests(config) == before
    assert run(app, words) == 0
    assert extract(videos, first).computed == 0
