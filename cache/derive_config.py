"""What a derivation is asked for, and what it reports."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from framecache.cache.errors import InputError
from framecache.cache.settings import RARE, accept_text, changed
from framecache.cache.shown import Shown, plural


@dataclass(frozen=True)
class DeriveConfig:
    """Steps of a derivation, in the order in which they are applied; each field is a flag of ``framecache derive``.

    Attributes:
        cache: Folder of the cache.
        concat: Feature sets whose features are put behind those of the first.
        sample: Keep these frames only: fps=N, every=N, num=N, of a set that has all.
        reduce: Pool a grid set: gap, gmp, gap+gmp, gem, gem=P.
        pca: Principal components to keep, fitted on the train split of --manifest.
        whiten: Scale the components to unit variance.
        random: Dimensions of a Gaussian random projection.
        seed: Seed of the random projection.
        dense: Folder of a run whose trained Dense projection is applied.
        l2: Scale each frame's features to length 1.
        dtype: Stored dtype, by default the parent's. uint8 is fitted on the train split of --manifest.
        manifest: Labelled manifest or folder. Only its train split is ever fitted on.
        root: Folder that the manifest's paths start from; by default the manifest's own.
        seal_seconds: Derived videos become visible, and safe, at least so often.
        shard_mb: Shards are sealed at this size, in millions of bytes.
    """

    cache: Path = Path("features")
    concat: tuple[str, ...] = ()
    sample: str | None = None
    reduce: str | None = None
    pca: int = 0
    whiten: bool = False
    random: int = 0
    seed: int = 0
    dense: Path | None = None
    l2: bool = False
    dtype: Literal["float16", "float32", "uint8"] | None = None
    manifest: Path | None = None
    root: Path | None = field(default=None, metadata=RARE)
    seal_seconds: float = field(default=60.0, metadata=RARE)
    shard_mb: float = field(default=512.0, metadata=RARE)

    def __repr__(self) -> str:
        return changed(self)

    def __post_init__(self) -> None:
        accept_text(self)
        for flag, value in {"seal-seconds": self.seal_seconds, "shard-mb": self.shard_mb}.items():
            if not 0 < value < float("inf"):
                raise InputError(f"--{flag} {value:g}: expected a positive number")
        for flag, whole in {"pca": self.pca, "random": self.random}.items():
            if whole < 0:
                raise InputError(f"--{flag} {whole}: expected a number of dimensions")
        if not 0 <= self.seed < 1 << 32:
            raise InputError(f"--seed {self.seed}: expected 0 to {(1 << 32) - 1}")
        if self.whiten and not self.pca:
            raise InputError("--whiten: expected --pca N with it")
        if sum(map(bool, (self.pca, self.random, self.dense))) > 1:
            raise InputError("--pca, --random, --dense: expected one of them; derive again from the result for another")
        if self.dense and (self.concat or self.reduce):
            raise InputError("--dense: expected no --concat or --reduce, since the run was trained on one whole set")


@dataclass(repr=False)
class DeriveReport(Shown):
    """What a derivation did.

    Attributes:
        feature_set: Full name of the derived set.
        num_videos: Videos of the parent.
        derived: Videos that were computed now.
        cached: Videos that were there.
        failed: Reason per ``video_id`` without features here.
        num_frames: Frames that were computed.
        explained_variance: Share of the train split's variance that PCA keeps; None without PCA.
        fitted_videos: Videos that something was fitted on.
    """

    feature_set: str
    num_videos: int = 0
    derived: int = 0
    cached: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    num_frames: int = 0
    explained_variance: float | None = None
    fitted_videos: int = 0

    def _line(self) -> str:
        return f"{self.feature_set}: {plural(self.num_videos, 'video')}: {self._counts()}"

    def _counts(self) -> str:
        return f"{self.derived:,} derived, {self.cached:,} cached, {len(self.failed):,} failed"

    def _html(self) -> str:
        from framecache.cache.html import card, facts, reasons

        variance = self.explained_variance
        told = [
            ("videos", f"{self.num_videos:,}: {self._counts()}"),
            ("frames derived", f"{self.num_frames:,}"),
            ("fitted on", self.fitted_videos and plural(self.fitted_videos, "train video")),
            ("explained variance", None if variance is None else f"{variance:.4f}"),
        ]
        return card(f"derived {self.feature_set}", facts(told), reasons("failed", self.failed))

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        value: dict[str, Any] = json.loads(json.dumps(vars(self)))
        return value
