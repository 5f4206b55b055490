"""What is derived from cached features is what extraction would have computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framecache.cache import Cache, FeatureSet, open_cache
from framecache.cache.derive import DeriveConfig, derive
from framecache.extract.config import ExtractConfig
from framecache.extract.pipeline import extract

from .conftest import shades, write_video


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Two clips of 23 and 5 frames, one of uneven times, and what is no video."""
    folder = tmp_path / "clips"
    write_video(folder / "a/long.mp4", shades(23))
    write_video(folder / "a/short.mp4", shades(5))
    uneven = [0, 33, 67, 100, 300, 333, 900, 1000, 1001]
    write_video(folder / "b/uneven.mkv", shades(len(uneven)), times_ms=uneven)
    (folder / "b/broken.mp4").write_bytes(b"not a video")
    (folder / "b/copy.mp4").write_bytes((folder / "a/long.mp4").read_bytes())
    return folder


def statuses(features: FeatureSet) -> Mapping[str, str]:
    return {video_id: row.status for video_id, row in features.ledger().items()}


def set_of(cache: Cache, **fields: Any) -> FeatureSet:
    (name,) = (
        name
        for name in cache
        if all(getattr(cache[name].spec, key) == value for key, value in {"lineage": None, **fields}.items())
    )
    return cache[name]


def test_derived_features_are_the_extracted_ones(clips: Path, tiny_backbone: str, tmp_path: Path) -> None:
    config = ExtractConfig(
        cache=tmp_path / "features", backbone=tiny_backbone, engine="tensorflow", batch_size=8, workers=1
    )
    pools = ("gap", "gmp", "gap+gmp", "gem")
    extract(clips, replace(config, reduce=(*pools, "grid")))
    grid = set_of(open_cache(config.cache), reduction="grid", sampling="all")
    for sampling in ("fps=4", "every=4", "num=6"):
        extract(clips, replace(config, reduce=("gap",), sample=sampling))
        parent = set_of(open_cache(config.cache), reduction="gap", sampling="all")
        report = derive(parent.name, DeriveConfig(cache=config.cache, sample=sampling))
        cache = open_cache(config.cache)
        derived, direct = cache[report.feature_set], set_of(cache, reduction="gap", sampling=sampling)
        assert statuses(derived) == statuses(direct) == statuses(parent)
        assert set(derived) == {"a/long.mp4", "a/short.mp4", "b/uneven.mkv", "b/copy.mp4"}
        for video_id in direct:
            assert derived[video_id].tobytes() == direct[video_id].tobytes()
            np.testing.assert_array_equal(derived.timestamps_ms(video_id), direct.timestamps_ms(video_id))
            assert derived.ledger()[video_id].feature_digest == direct.ledger()[video_id].feature_digest
    for pool in pools:
        derived = open_cache(config.cache)[derive(grid.name, DeriveConfig(cache=config.cache, reduce=pool)).feature_set]
        direct = set_of(open_cache(config.cache), reduction=pool, sampling="all")
        assert derived.spec.short_name == direct.spec.short_name
        for video_id in direct:
            # The grid was rounded to float16 before it was pooled, the direct one after.
            np.testing.assert_allclose(derived[video_id], direct[video_id], rtol=4e-3, atol=2e-3)
