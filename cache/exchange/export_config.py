"""Options of ``framecache export``; apart, so that the command line need not wait for what exports."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from framecache.cache.errors import InputError
from framecache.cache.settings import RARE, accept_text, changed


@dataclass(frozen=True)
class ExportConfig:
    """What is exported, and how; each field is a flag of ``framecache export``.

    Attributes:
        format: npy (a file per video), tfrecord (SequenceExamples), parquet (a row per video) or safetensors.
        cache: Folder of the cache.
        manifest: CSV, JSONL or folder: only its videos.
        root: Folder that the manifest's paths start from; by default the manifest's own.
        split: With --manifest: only these splits, such as train val.
        shard_mb: Files of several videos are about this large, in millions of bytes.
    """

    format: Literal["npy", "tfrecord", "parquet", "safetensors"]
    cache: Path = Path("features")
    manifest: Path | None = None
    root: Path | None = field(default=None, metadata=RARE)
    split: tuple[Literal["train", "val", "test"], ...] = ()
    shard_mb: float = field(default=256.0, metadata=RARE)

    def __repr__(self) -> str:
        return changed(self)

    def __post_init__(self) -> None:
        accept_text(self)
        if not 0 < self.shard_mb < float("inf"):
            raise InputError(f"--shard-mb {self.shard_mb:g}: expected a positive number")
        for flag, given in {"split": self.split, "root": self.root}.items():
            if given and self.manifest is None:
                raise InputError(f"--{flag}: expected --manifest with it, which says what it is about")
