"""A cache of one's own, with what is derived in it and compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache import open_cache
from framecache.cache.cli import run
from framecache.cache.derive import DeriveConfig, derive
from framecache.cache.shard import read_shard
from framecache.train.__main__ import app
from framecache.train.fidelity.fidelity import FidelityConfig
from framecache.train.fidelity.reconstruction import Fidelity, measure_fidelity

from .conftest import Data, make_data

Rows = NDArray[np.float64]


class Workplace:
    """A cache of one's own with the set ``toy.gap``, and what is derived from it."""

    def __init__(self, folder: Path, feature_shape: tuple[int, ...] = (8,)) -> None:
        self.folder = folder
        self.data: Data = make_data(folder, feature_shape)
        self.store = open_cache(self.data.cache)
        self.parent = self.store[self.data.name]

    def ids(self, split: str) -> list[str]:
        return [video_id for video_id in self.parent.video_ids if f"/{split}" in video_id]

    def derive(self, name: str | None = None, **options: Any) -> str:
        config = DeriveConfig(cache=self.data.cache, manifest=self.data.manifest, **options)
        return derive(name or self.data.name, config).feature_set

    def measure(self, name: str) -> Fidelity:
        return measure_fidelity(open_cache(self.data.cache), self.store[name], self.ids("train"), self.ids("test"))

    def rows(self, split: str, name: str | None = None, every: int = 1) -> Rows:
        features = self.store[name or self.data.name]
        return np.concatenate([features[video_id][::every] for video_id in self.ids(split)]).astype(np.float64)

    def configure(self, **changes: Any) -> FidelityConfig:
        """The quickest of experiments."""
        base = FidelityConfig(manifest=self.data.manifest, cache=self.data.cache, runs=self.folder / "runs")
        return replace(base, model="mean", epochs=1, num_seeds=2, **changes)

    def command(self, *words: object) -> int:
        folders = {"--manifest": self.data.manifest, "--cache": self.data.cache, "--runs": self.folder / "runs"}
        flags = {**folders, "--model": "mean", "--epochs": 1, "--num-seeds": 1}
        defaults = [word for flag, value in flags.items() if flag not in words for word in (flag, value)]
        return run(app, ["fidelity", *map(str, [*defaults, *words])])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[read_shard(path).features.offset + 5] ^= 4
    path.write_bytes(content)
