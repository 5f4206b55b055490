"""Settings of what serves a trained run: ``framecache-train predict`` and ``export``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from framecache.cache.errors import InputError
from framecache.cache.settings import accept_text

FORMATS = ("keras", "savedmodel", "litert")
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")


@dataclass(frozen=True)
class BackboneConfig:
    """Which CNN a run's features are of, where its name does not tell.

    Attributes:
        cache: Folder of the cache, which need not exist.
        backbone: The CNN, if it is one's own: its .keras file or module:callable; by default the run's, by its name.
        weights: Its file of weights, or random; by default ImageNet's.
    """

    cache: Path = Path("features")
    backbone: str | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        accept_text(self)


@dataclass(frozen=True)
class CnnConfig(BackboneConfig):
    """What runs the CNN on new videos.

    Attributes:
        engine: What runs the CNN.
        batch_size: Frames per forward pass.
        workers: Decode processes; 0 for one per two cores.
    """

    engine: Literal["auto", "tensorflow", "litert"] = "auto"
    batch_size: int = 16
    workers: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size}: expected at least 1")
        if self.workers < 0:
            raise InputError(f"--workers {self.workers}: expected 0 or more")


@dataclass(frozen=True)
class PredictConfig(CnnConfig):
    """How new videos are scored; each field is a flag of ``framecache-train predict``.

    Attributes:
        root: Folder that a manifest's paths start from; by default the manifest's own.
        top_k: Classes told of each video, the likeliest first.
        threshold: Of several labels, those of at least this probability are told.
        windows: Score stretches of so many seconds by themselves too; 0 for none.
        step: Seconds from one stretch to the next; 0 for as long as they are.
        timeline: Folder that gets a PNG of each video's scores over time.
    """

    root: Path | None = None
    top_k: int = 5
    threshold: float = 0.5
    windows: float = 0.0
    step: float = 0.0
    timeline: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_k < 1:
            raise InputError(f"--top-k {self.top_k}: expected at least 1")
        if not 0 <= self.threshold <= 1:
            raise InputError(f"--threshold {self.threshold:g}: expected a probability in [0, 1]")
        for flag, seconds in (("windows", self.windows), ("step", self.step)):
            if not 0 <= seconds < float("inf"):
                raise InputError(f"--{flag} {seconds:g}: expected seconds, 0 or more")
        if self.step and not self.windows:
            raise InputError(f"--step {self.step:g}: expected --windows SECONDS with it")


@dataclass(frozen=True)
class ExportConfig(BackboneConfig):
    """What is exported; each field is a flag of ``framecache-train export``.

    Attributes:
        formats: keras, savedmodel and litert; by default all, of which LiteRT may be left out where it does not
            convert.
        stream: One frame at a time, with the recurrent state as input and output, instead of whole videos.
        size: HEIGHTxWIDTH of the frames that come in, which the model scales itself; by default those of the CNN.
    """

    formats: tuple[str, ...] = ()
    stream: bool = False
    size: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown:
            raise InputError(f"--formats {unknown[0]}: expected {', '.join(FORMATS)}")
        if self.size is not None and not _SIZE.fullmatch(self.size):
            raise InputError(f"--size {self.size!r}: expected HEIGHTxWIDTH in pixels, such as 360x640")

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """Height and width that :attr:`size` names."""
        if self.size is None:
            return None
        height, width = map(int, self.size.split("x"))
        return height, width
