"""``splits.csv``: the splits of a run as a manifest of its own, from which ``fit`` makes the same ones again."""

from __future__ import annotations

import csv
from pathlib import Path

from framecache.cache.manifest import COLUMNS, SPLITS, path_from
from framecache.train.config import FitConfig
from framecache.train.splits.splitting import LabeledVideos

SPLITS_FILE = "splits.csv"


def manifest_root(config: FitConfig) -> Path:
    """Folder that the paths of the manifest start from, to be named with ``--root`` beside a run's ``splits.csv``."""
    if config.manifest is None:
        raise ValueError("manifest_root: expected settings with a manifest")
    if config.manifest.is_dir():
        return config.manifest
    return config.manifest.parent if config.root is None else config.root


def write_splits(path: Path, labeled: LabeledVideos, root: Path, target: str = "label") -> None:
    """Writes a row per video that is in a split, split by split; each path relative to ``root``.

    Args:
        path: The CSV file.
        labeled: Videos with their splits.
        root: Folder that all paths are in, as :func:`manifest_root` gives it.
        target: Name of the column for the labels, so that the run's other settings fit this manifest too.
    """
    columns = {name: name for name in COLUMNS}
    if target not in columns:
        columns["label"] = target
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns.values())
        for split in SPLITS:
            for video in labeled.splits[split]:
                written = path_from(root, video.path)
                writer.writerow([written if name == "path" else getattr(video, name) for name in columns])
