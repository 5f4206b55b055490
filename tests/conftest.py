"""Feature sets of given arrays, without videos and without a CNN."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import ArrayLike

from framecache.cache import Cache, Spec
from framecache.cache.shard import VideoRow
from framecache.cache.writer import ShardWriter

# A job in the background of a shell without job control is deaf to Ctrl-C, and so would be all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("framecache", deadline=None, max_examples=50)
settings.load_profile("framecache")

TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: with short ones at the end, processes that share the tests by files end together."""
    rooms = {"extract": 1, "cache": 2}
    items.sort(key=lambda item: rooms.get(item.path.relative_to(TESTS).parts[0], 0))


SPEC = Spec(
    backbone="efficientnet-lite0",
    weights="3fa9" * 16,
    tap="top_conv",
    default_tap=True,
    preprocessing={"height": 224, "width": 224, "interpolation": "bicubic"},
    sampling="all",
    reduction="gap",
    feature_shape=(4,),
)


@pytest.fixture(autouse=True)
def own_user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tests neither see nor leave anything in the user's cache folder; this is theirs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "framecache"


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., Spec]:
    """``make_spec(**changes)``: a spec of four channels, changed in some fields."""
    return lambda **changes: replace(SPEC, **changes)


@pytest.fixture(scope="session")
def spec() -> Spec:
    return SPEC


@pytest.fixture(scope="session")
def add_video() -> Callable[..., VideoRow]:
    return _add_video


def _add_video(writer: ShardWriter, video_id: str, features: ArrayLike, **row: Any) -> VideoRow:
    """Adds a video of 25 frames per second to a writer; ``row`` replaces fields of its row."""
    array = np.asarray(features, writer.spec.dtype)
    with closing(writer.open_video()) as buffer:
        buffer.append(array, np.arange(len(array)) * 40.0)
        whole = VideoRow(
            video_id=video_id,
            length=len(array),
            digest=buffer.hexdigest(),
            source=f"videos/{video_id}",
            source_digest=f"content of {video_id}",
            source_stat="1-2-3-4",
            frames_expected=len(array),
            frames_decoded=len(array),
            warnings=(),
        )
        whole = replace(whole, **row)
        writer.add(buffer, whole)
    return whole


@pytest.fixture(scope="session")
def fill_set() -> Callable[..., Path]:
    """``fill_set(cache_folder, spec, {video_id: array})``: writes one more shard, returns the set's folder."""

    def fill(cache_folder: Path, spec: Spec, videos: Mapping[str, ArrayLike], seal_bytes: int = 1 << 30) -> Path:
        folder = Cache(cache_folder).create(spec)
        with ShardWriter(folder, spec, {"engine": "test"}, seal_bytes, seal_seconds=3600) as writer:
            for video_id, features in videos.items():
                _add_video(writer, video_id, features)
        return folder

    return fill
