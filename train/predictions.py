"""What a run's model and its baseline said of every video: ``logits.npz``, which later comparisons start from."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError
from framecache.cache.manifest import SPLITS

PREDICTIONS_FILE = "logits.npz"
_KINDS = {"video_id": "U", "split": "U", "logits": "f", "baseline": "f", "targets": "bfi", "lengths": "i"}
_UNREADABLE = (OSError, ValueError, EOFError, MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Outputs and targets of the videos of all splits, N videos of F frames in sum, K outputs.

    Attributes:
        video_id: ``(N,)`` str, each once.
        split: ``(N,)`` str, train, val or test.
        logits: Of the model, ``(N, K)`` float32; of frame labels ``(F, K)``, one video after the other; of a
            regression ``(N, 1)``, in the label's own units.
        baseline: The same of the mean-pool baseline.
        targets: Classes ``(N,)`` int64; of several labels ``(N, K)`` bool; of a regression ``(N, 1)`` float32; of
            frame labels ``(F,)`` int64, -1 where a frame has none.
        lengths: Frames of each video, ``(N,)`` int64; None without frame labels.

    Raises:
        InputError: Shapes or kinds do not fit together, a number is not finite, or a class is out of range.
    """

    video_id: NDArray[np.str_]
    split: NDArray[np.str_]
    logits: NDArray[np.float32]
    baseline: NDArray[np.float32]
    targets: NDArray[Any]
    lengths: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        for name, kinds in _KINDS.items():
            array = getattr(self, name)
            if array is not None and array.dtype.kind not in kinds:
                raise InputError(f"{name}: expected an array of kind {' or '.join(kinds)}, found {array.dtype}")
        num_videos = len(np.atleast_1d(self.video_id))
        self._expect_shape("video_id", (num_videos,))
        self._expect_shape("split", (num_videos,))
        if self.lengths is not None:
            self._expect_shape("lengths", (num_videos,))
            if (self.lengths < 0).any():
                raise InputError("lengths: expected 0 or more frames, found a negative number")
        num_rows = num_videos if self.lengths is None else int(self.lengths.sum())
        num_outputs = self.logits.shape[-1] if self.logits.ndim == 2 else 0
        if num_outputs < 1:
            raise InputError(f"logits: expected shape ({num_rows}, outputs), found {self.logits.shape}")
        self._expect_shape("logits", (num_rows, num_outputs))
        self._expect_shape("baseline", (num_rows, num_outputs))
        self._expect_shape("targets", (num_rows,) if self.targets.dtype.kind == "i" else (num_rows, num_outputs))
        self._expect_content(num_outputs)

    def _expect_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if getattr(self, name).shape != shape:
            raise InputError(f"{name}: expected shape {shape}, found {getattr(self, name).shape}")

    def _expect_content(self, num_outputs: int) -> None:
        if len(np.unique(self.video_id)) < len(self.video_id):
            raise InputError("video_id: expected each video once, found one twice")
        strangers = sorted(set(self.split.tolist()) - set(SPLITS))
        if strangers:
            raise InputError(f"split: expected {', '.join(SPLITS)}, found {strangers[0]!r}")
        for name in ("logits", "baseline", "targets"):
            if not np.isfinite(getattr(self, name)).all():
                raise InputError(f"{name}: expected finite numbers, found nan or infinity")
        if self.targets.dtype.kind == "i" and len(self.targets):
            low, high = (0 if self.lengths is None else -1), num_outputs - 1
            if self.targets.min() < low or self.targets.max() > high:
                raise InputError(f"targets: expected classes in [{low}, {high}], found others")

    def of_split(self, split: str) -> Self:
        """The videos of one split, in the order of their names, so that runs can be laid side by side."""
        chosen = np.flatnonzero(self.split == split)
        chosen = chosen[np.argsort(self.video_id[chosen], kind="stable")]
        if self.lengths is None:
            rows = chosen
        else:
            ends = np.cumsum(self.lengths)
            frames = [np.arange(ends[video] - self.lengths[video], ends[video]) for video in chosen]
            rows = np.concatenate([*frames, np.zeros(0, np.int64)])
        return replace(
            self,
            video_id=self.video_id[chosen],
            split=self.split[chosen],
            logits=self.logits[rows],
            baseline=self.baseline[rows],
            targets=self.targets[rows],
            lengths=None if self.lengths is None else self.lengths[chosen],
        )

    def write(self, path: Path) -> None:
        """Writes them as a ``.npz``, without pickle; the same predictions give the same bytes."""
        arrays = {name: getattr(self, name) for name in _KINDS if getattr(self, name) is not None}
        with path.open("wb") as stream:
            np.savez_compressed(stream, **arrays)


def read_predictions(path: str | Path) -> Predictions:
    """Reads a ``logits.npz`` of anybody: no pickle, and nothing that does not fit together.

    Raises:
        InputError: It is none, or is damaged.
    """
    try:
        with Path(path).open("rb") as stream:
            if not zipfile.is_zipfile(stream):  # np.load would take it for a pickle, and say so
                raise ValueError("no .npz archive")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in _KINDS if name in arrays}
    except _UNREADABLE as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{path}: cannot be read ({reason}); train the run again") from error
    missing = [name for name in _KINDS if name not in found and name != "lengths"]
    if missing:
        raise InputError(f"{path}: expected {', '.join(_KINDS)}, found no {', '.join(missing)}; train the run again")
    try:
        return Predictions(**found)
    except InputError as error:
        raise InputError(f"{path}: {error}; train the run again") from error
