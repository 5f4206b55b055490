"""Small feature sets, and what makes check sums fit again after it was edited, as an attacker can."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from framecache.cache import FeatureSet, Spec
from framecache.cache.reader import list_shards
from framecache.cache.shard import Extent, index_digest, ledger_digest

from .deriving import Workplace

FillSet = Callable[..., Path]

VIDEOS = {name: np.arange(4 * length, dtype=np.float16).reshape(length, 4) for name, length in (("a", 3), ("b", 5))}
MORE = {"c": np.full((2, 4), 7), "d": np.full((3, 4), 8)}


def reseal(path: Path, name: str | None = None) -> None:
    """Gives a shard the name and the digests that fit what it holds now."""
    name = name or path.name
    with h5py.File(path, "r+") as file:
        extents = [Extent(0, file[key].shape, file[key].dtype) for key in ("features", "timestamps_ms")]
        index, ledger = file["index"][()], file["ledger"][()]
        file.attrs["shard"] = np.bytes_(name)
        file.attrs["index_digest"] = np.bytes_(index_digest(name, bytes(file.attrs["spec"]), *extents, index))
        file.attrs["ledger_digest"] = np.bytes_(ledger_digest(bytes(file.attrs["software"]), ledger))


@pytest.fixture
def folder(tmp_path: Path, spec: Spec, fill_set: FillSet) -> Path:
    """A feature set with one shard: ``a`` of 3 and ``b`` of 5 frames."""
    return fill_set(tmp_path / "features", spec, VIDEOS)


@pytest.fixture
def two_shards(folder: Path, spec: Spec, fill_set: FillSet) -> tuple[Path, Path]:
    """Another shard beside it, with ``c`` and ``d``."""
    first, second = list_shards(fill_set(folder.parent, spec, MORE))
    return first, second


@pytest.fixture(scope="session")
def whole_set(tmp_path_factory: pytest.TempPathFactory, spec: Spec, fill_set: Callable[..., Path]) -> Path:
    return fill_set(tmp_path_factory.mktemp("whole"), spec, {"v1": np.ones((3, 4)), "v2": np.full((2, 4), 2)})


@pytest.fixture
def shard(tmp_path: Path, whole_set: Path) -> Path:
    """A shard of two videos of 3 and 2 frames."""
    return list_shards(shutil.copytree(whole_set, tmp_path / "features" / whole_set.name))[0]


def read_all(path: Path, spec: Spec) -> None:
    """All that reading a feature set looks at."""
    features = FeatureSet(path.parent, spec)
    features.ledger()
    for video_id in features:
        features[video_id].sum()


@pytest.fixture
def place(tmp_path: Path, make_spec: Callable[..., Spec], fill_set: Callable[..., Path]) -> Workplace:
    """A cache with a feature set to derive from."""
    return Workplace(tmp_path, make_spec, fill_set)
