"""A place to derive feature sets in, for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache import FeatureSet, Spec, open_cache
from framecache.cache.__main__ import app
from framecache.cache.cli import run
from framecache.cache.derivation import read_derivation
from framecache.cache.derive import DeriveConfig, DeriveReport, derive

MakeSpec = Callable[..., Spec]
FillSet = Callable[..., Path]
Arrays = dict[str, NDArray[Any]]
DIM = 12
SPLITS = {**{f"train{n}": "train" for n in range(8)}, "val0": "val", "test0": "test", "test1": "test"}


def make_videos(dim: int = DIM, seed: int = 0, dtype: str = "float32") -> Arrays:
    """Correlated features of videos of 5 to 14 frames; those of val and test are far from those of train."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dim, dim)) * np.linspace(3, 0.3, dim)[:, None]
    videos = {}
    for name, split in SPLITS.items():
        rows = rng.normal(size=(int(rng.integers(5, 15)), dim)) @ mixing + np.arange(dim)
        videos[name] = (rows if split == "train" else 50 - 9 * rows).astype(dtype)
    return videos


def write_manifest(path: Path, splits: Mapping[str, str]) -> Path:
    path.write_text("path,split\n" + "".join(f"{name},{split}\n" for name, split in splits.items()))
    return path


class Workplace:
    """A cache with the set ``efficientnet-lite0.gap`` of :func:`make_videos`, and a manifest."""

    def __init__(self, folder: Path, make_spec: MakeSpec, fill_set: FillSet) -> None:
        folder.mkdir(exist_ok=True)
        self.cache = folder / "features"
        self.make_spec, self.fill_set = make_spec, fill_set
        self.spec = make_spec(feature_shape=(DIM,), dtype="float32")
        self.videos = make_videos()
        self.folder = fill_set(self.cache, self.spec, self.videos)
        self.manifest = write_manifest(folder / "manifest.csv", SPLITS)

    @property
    def parent(self) -> FeatureSet:
        return self[self.spec.name]

    def __getitem__(self, name: str) -> FeatureSet:
        return open_cache(self.cache)[name]

    def rows(self, split: str) -> NDArray[Any]:
        return np.concatenate([self.videos[name] for name in self.videos if SPLITS[name] == split])

    def derive(self, name: str | None = None, fitted: bool = True, **options: Any) -> DeriveReport:
        if fitted:
            options.setdefault("manifest", self.manifest)
        return derive(name or self.spec.name, DeriveConfig(cache=self.cache, **options))

    def derived(self, name: str | None = None, fitted: bool = True, **options: Any) -> FeatureSet:
        return self[self.derive(name, fitted, **options).feature_set]

    def command(self, *words: object) -> int:
        return run(app, ["derive", *map(str, words), "--cache", str(self.cache)])

    def sets(self) -> list[str]:
        return sorted(path.name for path in self.cache.iterdir() if not path.name.startswith("."))


def arrays_of(features: FeatureSet) -> Mapping[str, NDArray[Any]]:
    return read_derivation(features.folder, features.spec.lineage or {}).arrays


def digests(features: FeatureSet) -> dict[str, str]:
    return {video_id: row.feature_digest for video_id, row in features.ledger().items()}
