"""Options of ``framecache import``; apart, so that the command line need not wait for what imports."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from framecache.cache.errors import InputError
from framecache.cache.settings import RARE, accept_text, changed

IMPORTED = "imported:"  # begins the backbone's name of an imported feature set


@dataclass(frozen=True)
class ImportConfig:
    """Where features of other tools come from; each field is a flag of ``framecache import``.

    Attributes:
        name: What the features are of, such as resnet50. Features of another CNN or setting need another.
        cache: Folder of the cache.
        key: Arrays to take, joined, such as rgb audio. KEY of <video>_KEY.npy, an array of .npz, a list of TFRecords.
        fps: Frames per second, where neither the files nor --manifest say it. Of TFRecords it is 1.
        manifest: CSV or JSONL that names the videos. By video_id or path; its columns fps and num_frames count too.
        root: Folder that the manifest's paths start from; by default the manifest's own.
        dtype: Stored dtype, by default as in the files. float16 if most have it, and of 8-bit TFRecords, else float32.
        seal_seconds: Imported videos become visible, and safe, at least so often.
        shard_mb: Shards are sealed at this size, in millions of bytes.
    """

    name: str
    cache: Path = Path("features")
    key: tuple[str, ...] = ()
    fps: float | None = None
    manifest: Path | None = None
    root: Path | None = field(default=None, metadata=RARE)
    dtype: Literal["float16", "float32"] | None = None
    seal_seconds: float = field(default=60.0, metadata=RARE)
    shard_mb: float = field(default=512.0, metadata=RARE)

    def __repr__(self) -> str:
        return changed(self)

    def __post_init__(self) -> None:
        accept_text(self)
        if not self.name.strip():
            raise InputError("--name: expected a name for what the features are of, such as resnet50")
        positive = {"fps": self.fps, "seal-seconds": self.seal_seconds, "shard-mb": self.shard_mb}
        for flag, value in positive.items():
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"--{flag} {value:g}: expected a positive number")
        if self.root is not None and self.manifest is None:
            raise InputError("--root: expected --manifest with it, since it is where the manifest's paths start from")
