"""Settings of an extraction, and the report of what it did."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from framecache.cache.errors import InputError
from framecache.cache.reductions import parse_reduction
from framecache.cache.sampling import parse_sampling
from framecache.cache.settings import RARE, accept_text, changed
from framecache.cache.shown import Shown, plural
from framecache.extract.backbones import DEFAULT_BACKBONE
from framecache.extract.engines import ENGINE_NAMES
from framecache.extract.limits import Limits


@dataclass(frozen=True)
class ExtractConfig:
    """Settings of an extraction; each field is a flag of ``framecache-extract`` and a key of its TOML file.

    Attributes:
        cache: Folder of the cache.
        root: Folder, or its URL, that a manifest's paths start from and may not leave. By default the manifest's own.
        backbone: The frozen CNN: efficientnet-lite0, a keras.applications name, a .keras file, module:callable.
        weights: A file of weights, or random; by default ImageNet's.
        preprocessing: For a CNN of one's own, the keras.applications module whose preprocess_input it wants.
        tap: Layers whose feature maps are taken; by default the last map.
        reduce: Reductions of the maps: gap, gmp, gap+gmp, gem or grid. Each makes a feature set of its own; with
            gap.random=256, a random projection follows.
        sample: Which frames: all, fps=N, every=N, num=N.
        dtype: Stored dtype.
        precision: Of the CNN's layers. mixed_float16 is quicker on a GPU, and gives other numbers.
        engine: What runs the CNN.
        batch_size: Frames per forward pass.
        workers: Decode processes; 0 for one per two cores.
        seal_seconds: Computed videos become visible, and safe, at least so often.
        shard_mb: Shards are sealed at this size, in millions of bytes.
        retry_failed: Try videos again that failed before.
        keep_partial: Keep the frames of videos that break midway, or come to a limit. One kept in part counts as done.
        stall_seconds: Videos that give no frame for so long are given up.
        max_megapixels: Videos with larger pictures, in millions of pixels, are refused.
        max_frames: Videos with more frames are given up, whichever frames are sampled.
        decoder_gb: Memory that a decode process may take, in billions of bytes.
        download_gb: Videos behind a URL that are larger, in billions of bytes, are refused.
    """

    cache: Path = Path("features")
    root: Path | None = field(default=None, metadata=RARE)
    backbone: str = DEFAULT_BACKBONE
    weights: str | None = None
    preprocessing: str | None = field(default=None, metadata=RARE)
    tap: tuple[str, ...] = ()
    reduce: tuple[str, ...] = ("gap",)
    sample: str = "all"
    dtype: Literal["float16", "float32"] = "float16"
    precision: Literal["float32", "mixed_float16"] = field(default="float32", metadata=RARE)
    engine: Literal["auto", "tensorflow", "litert"] = "auto"
    batch_size: int = 16
    workers: int = 0
    seal_seconds: float = field(default=60.0, metadata=RARE)
    shard_mb: float = field(default=512.0, metadata=RARE)
    retry_failed: bool = False
    keep_partial: bool = field(default=False, metadata=RARE)
    stall_seconds: float = field(default=Limits.stall_seconds, metadata=RARE)
    max_megapixels: float = field(default=Limits.max_megapixels, metadata=RARE)
    max_frames: int = field(default=Limits.max_frames, metadata=RARE)
    decoder_gb: float = field(default=Limits.decoder_gb, metadata=RARE)
    download_gb: float = field(default=Limits.download_gb, metadata=RARE)

    def __repr__(self) -> str:
        return changed(self)

    def __post_init__(self) -> None:
        accept_text(self)
        parse_sampling(self.sample)
        if not self.reduce:
            raise InputError("--reduce: expected at least one reduction, found none")
        for text in self.reduce:
            parse_reduction(text)
        if self.engine not in ENGINE_NAMES:
            raise InputError(f"--engine {self.engine!r}: expected one of {', '.join(ENGINE_NAMES)}")
        positive = {
            "batch-size": self.batch_size,
            "seal-seconds": self.seal_seconds,
            "shard-mb": self.shard_mb,
            "stall-seconds": self.stall_seconds,
            "max-megapixels": self.max_megapixels,
            "max-frames": self.max_frames,
            "decoder-gb": self.decoder_gb,
            "download-gb": self.download_gb,
        }
        for flag, value in positive.items():
            if not 0 < value < float("inf"):
                raise InputError(f"--{flag} {value:g}: expected a positive number")
        if self.workers < 0:
            raise InputError(f"--workers {self.workers}: expected 0 or more")

    @property
    def limits(self) -> Limits:
        """What one video may cost."""
        return Limits(self.stall_seconds, self.max_megapixels, self.max_frames, self.decoder_gb, self.download_gb)


@dataclass(repr=False)
class ExtractReport(Shown):
    """What a run did.

    Attributes:
        feature_sets: Names of the feature sets, in the order of taps and reductions.
        num_videos: Videos of the source.
        computed: Videos that went through the CNN. Each video counts once, as failed before computed before
            duplicate before cached.
        cached: Videos that every feature set had already.
        duplicates: Videos whose content is stored under another name.
        failed: Reason per ``video_id`` that has no features in some feature set.
        warnings: What was odd, per ``video_id`` that was computed all the same.
        num_frames: Frames that went through the CNN.
        num_bytes: Bytes of features written.
        seconds: Wall time of decoding, computing and writing, without start-up.
        start_seconds: Wall time before that: imports of TensorFlow, reading the ledger, building the engine.
        decode_wait_seconds: Of ``seconds``, spent waiting for frames.
        cnn_wait_seconds: Of ``seconds``, spent waiting for the CNN.
        write_seconds: Of ``seconds``, spent on digests and on the disk.
        bound_by: ``decode``, ``CNN`` or ``write``, whichever was waited for longest; empty when nothing was computed.
        saved_seconds: What each epoch of a later experiment would spend on these frames with the decoder and the CNN
            inside: ``seconds`` without ``write_seconds``.
        engine: What ran the CNN; empty when there was nothing to run.
        engine_note: Why that is not the engine that ``auto`` prefers; empty when it is.
        not_merged: Why the small shards of a feature set could not be merged, by its name.
    """

    feature_sets: list[str]
    num_videos: int
    computed: int = 0
    cached: int = 0
    duplicates: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)
    num_frames: int = 0
    num_bytes: int = 0
    seconds: float = 0.0
    start_seconds: float = 0.0
    decode_wait_seconds: float = 0.0
    cnn_wait_seconds: float = 0.0
    write_seconds: float = 0.0
    bound_by: str = ""
    saved_seconds: float = 0.0
    engine: str = ""
    engine_note: str = ""
    not_merged: dict[str, str] = field(default_factory=dict)

    def _line(self) -> str:
        frames = f"; {plural(self.num_frames, 'frame')} in {self.seconds:.1f} s" if self.num_frames else ""
        return f"{', '.join(self.feature_sets)}: {plural(self.num_videos, 'video')}: {self._counts()}{frames}"

    def _counts(self) -> str:
        copies = plural(self.duplicates, "duplicate")
        return f"{self.computed:,} computed, {self.cached:,} cached, {copies}, {len(self.failed):,} failed"

    def _html(self) -> str:
        from framecache.cache.cli import format_bytes
        from framecache.cache.html import card, facts, notes, reasons

        told: list[tuple[str, object]] = [
            ("feature sets", self.feature_sets),
            ("videos", f"{self.num_videos:,}: {self._counts()}"),
        ]
        if self.num_frames and self.seconds:
            waits = {"decode": self.decode_wait_seconds, "CNN": self.cnn_wait_seconds, "write": self.write_seconds}
            spent = self.start_seconds + self.seconds
            told += [
                ("frames", f"{self.num_frames:,}, {format_bytes(self.num_bytes)} of features written"),
                ("time", f"{self.seconds:.1f} s and {self.start_seconds:.1f} s of start-up"),
                ("speed", f"{self.num_frames / self.seconds:,.0f} frames/s, {self.engine}"),
                ("bound by", self.bound_by),
                ("waited for", ", ".join(f"{what} {seconds:.1f} s" for what, seconds in waits.items())),
            ]
            if self.saved_seconds:
                epochs = f"{spent / self.saved_seconds:.1f} epochs, each of which saves {self.saved_seconds:.1f} s"
                told.append(("pays off after", f"{epochs} of decoding and CNN"))
        return card(
            "extraction",
            facts(told),
            reasons("failed", self.failed),
            reasons("computed with warnings", self.warnings),
            reasons("shards not merged", self.not_merged),
            notes([f"the slower engine was taken: {self.engine_note}"] if self.engine_note else []),
        )

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        value: dict[str, Any] = json.loads(json.dumps(vars(self)))
        return value
