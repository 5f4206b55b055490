"""Features that other tools have computed are trained on as any others."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from framecache.cache import open_cache
from framecache.cache.exchange.import_config import ImportConfig
from framecache.cache.exchange.imports import import_features
from framecache.train.config import FitConfig
from framecache.train.splits.labels import label_videos


def test_imported_features_are_joined_to_the_manifest_of_their_videos(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["path,label,split,fps"]
    for split in ("train", "val", "test"):
        for number in range(4):
            name = f"{split}{number}"
            np.save(tmp_path / f"{name}_resnet.npy", rng.normal(size=(5, 8)).astype(np.float16))
            (tmp_path / f"{name}.mp4").write_bytes(name.encode())  # the video is there: another file than its features
            lines.append(f"{name}.mp4,{'up' if number % 2 else 'down'},{split},25")
    manifest = tmp_path / "videos.csv"
    manifest.write_text("\n".join(lines) + "\n")
    config = ImportConfig("resnet", tmp_path / "features", key=("resnet",), manifest=manifest)
    report = import_features([tmp_path], config)
    assert (report.imported, report.failed) == (12, {})
    labeled = label_videos(open_cache(tmp_path / "features")[report.feature_set], FitConfig(manifest=manifest))
    assert [len(labeled.splits[split]) for split in ("train", "val", "test")] == [4, 4, 4]
    assert labeled.classes == ("down", "up")
