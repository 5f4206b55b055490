"""From a damaged shard back to the features that were computed first, at the price of the hurt videos only."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
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
from .numpy_network import install

COUNTS = {"a/one.mp4": 5, "a/two.mp4": 7, "b/three.mp4": 4, "b/four.mp4": 6, "b/five.mp4": 3}
ONE_SHARD, SMALL_SHARDS = 512.0, 1e-4  # in MB; one or two videos in each of the small ones


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, count in COUNTS.items():
        write_video(folder / name, shades(count))
    return folder


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CNN is one in NumPy, which starts at once."""
    install(monkeypatch.setattr)


@pytest.fixture(scope="module")
def extracted(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[float, Path]:
    """Caches of all videos, by the size of their shards in MB."""
    folder = tmp_path_factory.mktemp("extracted")
    caches = {shard_mb: folder / str(shard_mb) for shard_mb in (ONE_SHARD, SMALL_SHARDS)}
    with pytest.MonkeyPatch.context() as patch:
        install(patch.setattr)
        for shard_mb, cache in caches.items():
            assert extract(videos, ExtractConfig(cache=cache, batch_size=4, shard_mb=shard_mb)).computed == len(COUNTS)
    return caches


def digests(config: ExtractConfig) -> dict[str, str]:
    ledger = open_cache(config.cache)["numpy.gap"].ledger()
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
        (flip_a_bit_of("a/two.mp4"), ONE_SHARD),
        (flip_a_bit_of("a/one.mp4", "b/five.mp4"), SMALL_SHARDS),
        (lose_a_shard(lambda path: os.truncate(path, path.stat().st_size - 1)), SMALL_SHARDS),
        (lose_a_shard(os.unlink), SMALL_SHARDS),
    ],
    ids=["one-bit", "two-bits", "cut", "missing"],
)
def test_after_a_repair_exactly_the_hurt_videos_are_computed_again(
    damage: Callable[[Path], set[str]],
    shard_mb: float,
    videos: Path,
    network: None,
    extracted: Mapping[float, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache = shutil.copytree(extracted[shard_mb], tmp_path / "features")
    config = ExtractConfig(cache=cache, batch_size=4, shard_mb=shard_mb)
    before = digests(config)
    name = open_cache(config.cache)["numpy.gap"].name
    hurt = damage(config.cache / name)
    assert 0 < len(hurt) < len(COUNTS)

    words = ["verify", "numpy.gap", "--cache", str(config.cache)]
    assert run(app, [*words, "--repair", "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert (set(found["hurt"]), found["repaired"]) == (hurt, True)
    report = extract(videos, config)
    assert report.computed == len(hurt)
    assert report.cached == len(COUNTS) - len(hurt)
    assert report.failed == {}
    assert digests(config) == before
    assert run(app, words) == 0
    assert extract(videos, config).computed == 0
