"""Settings of an experiment; each field is a flag of ``framecache-train fit`` and a key of its TOML file."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from pathlib import Path

from framecache.cache.errors import InputError
from framecache.cache.settings import RARE, accept_text, changed
from framecache.cache.sources import public_text

_MAX_NAME = 200
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10))}
TASK_NAMES = ("classification", "multilabel", "regression", "frames")
PLACES = ("manifest", "root", "cache", "runs", "name")  # fields that say where things are, not what they are
# Fields that make no other experiment: the videos that are left of a manifest are compared themselves.
NOT_COMPARED = (*PLACES, "threads", "duplicates", "near_duplicate", "missing")
CLIP_NAMES = ("spread", "crop", "windows")
MODEL_NAMES = ("lstm", "stacked-lstm", "bilstm", "gru", "attention-lstm", "mean")


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a sequence model.

    Attributes:
        model: lstm, stacked-lstm, bilstm, gru, attention-lstm, mean, or module:callable.
        units: Units of each recurrent layer (and direction).
        layers: Recurrent layers of stacked-lstm.
        dense: Units of a Dense layer before the recurrence; 0 for none. It has relu; grid features get 64 units.
        dropout: Share of the summary's values that training drops, in [0, 1).
        feature_dropout: Share of the features that is dropped in training, the same in all frames, in [0, 1).
        noise: Standard deviation of the Gaussian noise on standardised features in training.
    """

    model: str = "lstm"
    units: int = 128
    layers: int = field(default=2, metadata=RARE)
    dense: int = 0
    dropout: float = 0.5
    feature_dropout: float = field(default=0.0, metadata=RARE)
    noise: float = field(default=0.0, metadata=RARE)

    def __post_init__(self) -> None:
        if self.model not in MODEL_NAMES and ":" not in self.model:
            near = difflib.get_close_matches(self.model, MODEL_NAMES, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"--model {self.model!r}: expected {', '.join(MODEL_NAMES)} or module:callable{hint}")
        for flag, value, low in (("units", self.units, 1), ("layers", self.layers, 1), ("dense", self.dense, 0)):
            if value < low:
                raise InputError(f"--{flag} {value}: expected at least {low}")
        for flag, share in (("dropout", self.dropout), ("feature-dropout", self.feature_dropout)):
            if not 0 <= share < 1:
                raise InputError(f"--{flag} {share:g}: expected a share in [0, 1)")
        if not 0 <= self.noise < float("inf"):
            raise InputError(f"--noise {self.noise:g}: expected a standard deviation, 0 or more")


@dataclass(frozen=True)
class ClipConfig:
    """How a video becomes sequences.

    Attributes:
        max_len: Longest sequence, in frames; 0 for whole videos.
        clip: What is taken of a longer video: spread, crop or windows. These are: so many evenly spread frames; a
            stretch of it, anywhere in training and its middle otherwise; stretches all along it, whose scores are
            averaged.
        stride: Frames from one window to the next; 0 for half of max_len.
        jitter: Share of the distance between spread frames by which each may move in training, in [0, 0.5].
        reverse: Probability that a sequence runs backwards in training.
        buckets: How many lengths sequences are padded to, so that short ones need not be as long as the longest.
    """

    max_len: int = 32
    clip: str = "spread"
    stride: int = field(default=0, metadata=RARE)
    jitter: float = field(default=0.0, metadata=RARE)
    reverse: float = field(default=0.0, metadata=RARE)
    buckets: int = field(default=1, metadata=RARE)

    def __post_init__(self) -> None:
        if self.clip not in CLIP_NAMES:
            near = difflib.get_close_matches(self.clip, CLIP_NAMES, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"--clip {self.clip!r}: expected {', '.join(CLIP_NAMES)}{hint}")
        for flag, value, low in (
            ("max-len", self.max_len, 0),
            ("stride", self.stride, 0),
            ("buckets", self.buckets, 1),
        ):
            if value < low:
                raise InputError(f"--{flag} {value}: expected at least {low}")
        if self.clip != "spread" and not self.max_len:
            raise InputError(f"--clip {self.clip}: expected a --max-len of its stretches, found 0 for whole videos")
        if self.stride and self.clip != "windows":
            raise InputError(f"--stride {self.stride}: expected --clip windows, found {self.clip}")
        if self.stride > self.max_len:
            raise InputError(f"--stride {self.stride}: expected at most --max-len {self.max_len}, or frames are lost")
        if not 0 <= self.jitter <= 0.5:
            raise InputError(f"--jitter {self.jitter:g}: expected a share in [0, 0.5]")
        if self.jitter and (self.clip != "spread" or not self.max_len):
            raise InputError(
                f"--jitter {self.jitter:g}: expected --clip spread and a --max-len; it moves spread frames"
            )
        if not 0 <= self.reverse <= 1:
            raise InputError(f"--reverse {self.reverse:g}: expected a probability in [0, 1]")


@dataclass(frozen=True)
class SplitConfig:
    """Which videos train, which choose and which test, and what is made of those that should not be there.

    Attributes:
        folds: Parts of a cross-validation; 0 for the manifest's splits. They are of whole groups and alike in labels.
        fold: The part to test on, from 1; 0 for a run of each. Where the manifest names a test split, it is chosen on.
        duplicates: A content in two splits is an error, or drop. It is dropped out of the earlier split.
        near_duplicate: Videos of two splits are told of as near-duplicates from this cosine of their mean features on,
            which are standardised by the train split, in [0, 1); 0 for not looking.
        missing: A video that was never extracted is an error, or drop.
    """

    folds: int = 0
    fold: int = field(default=0, metadata=RARE)
    duplicates: str = "error"
    near_duplicate: float = field(default=0.95, metadata=RARE)
    missing: str = "error"

    def __post_init__(self) -> None:
        if self.folds < 0 or self.folds == 1:
            raise InputError(
                f"--folds {self.folds}: expected at least 3, or 2 where the manifest names a test split; 0 for none"
            )
        if self.fold and not self.folds:
            raise InputError(f"--fold {self.fold}: expected --folds, the number of parts, too")
        if not 0 <= self.fold <= self.folds:
            raise InputError(f"--fold {self.fold}: expected 1 to {self.folds}, or 0 for a run of each")
        for flag, choice in (("duplicates", self.duplicates), ("missing", self.missing)):
            if choice not in ("error", "drop"):
                raise InputError(f"--{flag} {choice!r}: expected error or drop")
        if not 0 <= self.near_duplicate < 1:
            raise InputError(
                f"--near-duplicate {self.near_duplicate:g}: expected a cosine in (0, 1), or 0 for not looking"
            )


@dataclass(frozen=True)
class TaskConfig:
    """What is to be told of the videos.

    Attributes:
        task: classification, multilabel, regression or frames (a class for each). A label is one class per video, any
            number of labels with semicolons between them or as a list in JSONL, a number, or, for frames, the path of
            a .csv with start, end and label, in seconds, or of a .txt with a line per frame; what has no label does
            not count.
        target: Column of the manifest that holds the labels.
        top_k: How many of the highest logits may hold the true class, for the accuracy of that name.
    """

    task: str = "classification"
    target: str = "label"
    top_k: int = field(default=5, metadata=RARE)

    def __post_init__(self) -> None:
        if self.task not in TASK_NAMES:
            near = difflib.get_close_matches(self.task, TASK_NAMES, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"--task {self.task!r}: expected {', '.join(TASK_NAMES)}{hint}")
        if self.top_k < 1:
            raise InputError(f"--top-k {self.top_k}: expected at least 1")
        if self.top_k != TaskConfig.top_k and self.task != "classification":
            raise InputError(f"--top-k {self.top_k}: expected --task classification, found {self.task}")


@dataclass(frozen=True)
class FitConfig(TaskConfig, SplitConfig, ClipConfig, ModelConfig):
    """An experiment: which videos, which model, and how it is trained.

    Attributes:
        manifest: Labels, splits and groups: CSV, JSONL, or a folder. It has a folder of each class.
        root: Folder that the manifest's paths start from; by default the manifest's own.
        cache: Folder of the cache.
        runs: Folder that gets a folder per run.
        name: The run's name; by default made of feature set, model and seed.
        epochs: Most passes over the train split.
        patience: Epochs without a better loss on val until training stops. The best weights are kept.
        batch_size: Videos per step.
        learning_rate: Step size of Adam.
        class_weights: Weigh classes inversely to their frequency. Of several labels, each where it is true.
        seed: Seed of everything random. That is initial weights, order, dropout and dealt splits.
        threads: Of TensorFlow; 0 for one for each core. With another number, sums may be rounded otherwise.
    """

    manifest: Path | None = None
    root: Path | None = field(default=None, metadata=RARE)
    cache: Path = Path("features")
    runs: Path = Path("runs")
    name: str | None = None
    epochs: int = 100
    patience: int = 15
    batch_size: int = 16
    learning_rate: float = 1e-3
    class_weights: bool = False
    seed: int = 0
    threads: int = field(default=0, metadata=RARE)

    def __repr__(self) -> str:
        return changed(self)

    def __post_init__(self) -> None:
        accept_text(self)
        ModelConfig.__post_init__(self)
        ClipConfig.__post_init__(self)
        SplitConfig.__post_init__(self)
        TaskConfig.__post_init__(self)
        self._refuse_what_the_task_cannot()
        whole = {"epochs": self.epochs, "patience": self.patience}
        for flag, value in {**whole, "batch-size": self.batch_size}.items():
            if value < 1:
                raise InputError(f"--{flag} {value}: expected at least 1")
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(f"--learning-rate {self.learning_rate:g}: expected a positive number")
        if not 0 <= self.seed < 1 << 32:
            raise InputError(f"--seed {self.seed}: expected 0 to {(1 << 32) - 1}")
        if self.threads < 0:
            raise InputError(f"--threads {self.threads}: expected at least 1, or 0 for one for each core")
        if self.name is not None and not _is_folder_name(self.name):
            raise InputError(
                f"--name {self.name[:_MAX_NAME]!r}: expected the plain name of a folder, without slashes or control "
                f"characters, with no dot at its ends and of {_MAX_NAME} bytes at most"
            )

    @property
    def manifest_name(self) -> str:
        """The manifest as messages and files name it: without the credentials of a URL."""
        return "the manifest" if self.manifest is None else public_text(self.manifest)

    def _refuse_what_the_task_cannot(self) -> None:
        if self.task == "regression" and self.class_weights:
            raise InputError("--class-weights: expected classes, found numbers, --task regression")
        if self.task == "frames" and self.model == "attention-lstm":
            raise InputError(
                "--model attention-lstm: expected an output for each frame, --task frames; it sums a video up"
            )
        if self.task == "frames" and self.clip == "spread" and self.max_len:
            raise InputError(
                f"--task frames: expected a sequence to hold each frame, found --clip spread, which thins a video out "
                f"to --max-len {self.max_len}; choose --clip windows or crop with a --max-len such as 256, or whole "
                "videos by --max-len 0"
            )


def _is_folder_name(name: str) -> bool:
    """Whether it names a folder right here, on any system."""
    return bool(
        name.isprintable()
        and 0 < len(os.fsencode(name)) <= _MAX_NAME
        and name == name.strip(". ")
        and not set(name) & set('/\\:*?"<>|')
        and name.partition(".")[0].upper() not in _RESERVED
    )
