"""Fitting the arrays of a derivation: in one pass, and on the train split only."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.derivation import Derivation, Step, read_derivation, step_shape
from framecache.cache.errors import InputError
from framecache.cache.folders import scan_folder
from framecache.cache.manifest import Video, read_manifest
from framecache.cache.parents import Parents, Progress
from framecache.cache.projection import Projection
from framecache.cache.reductions import random_matrix

_MAX_PCA_INPUT = 8192  # dimensions; eigenvectors of more take over 2 GB
_LEVELS = 255  # of 8 bits
_BLOCK_NUMBERS = 4 << 20  # of rows that are multiplied at a time
_SHOWN = 3


@dataclass(frozen=True)
class TrainSplit:
    """What may be fitted on, and what must not have been.

    Attributes:
        manifest: Where it was read from.
        video_ids: Videos of the train split, in order, without those whose content is in val or test too.
        held_out: All others of the manifest that are in val or test, or copies of such videos.
    """

    manifest: Path
    video_ids: tuple[str, ...]
    held_out: frozenset[str]

    def refuse_held_out(self, fitted_on: Collection[str], what: str) -> None:
        """Refuses arrays that have seen what must not be seen.

        Raises:
            InputError: Some of these videos are held out.
        """
        seen = [video_id for video_id in fitted_on if video_id in self.held_out]
        if seen:
            raise InputError(
                f"{what} was fitted on {len(seen)} videos that {self.manifest} holds out for val or test "
                f"({', '.join(map(repr, seen[:_SHOWN]))}{', …' * (len(seen) > _SHOWN)}); fit it on this train split"
            )


def read_train_split(parents: Parents, manifest: Path, root: Path | None) -> TrainSplit:
    """The train split of a manifest.

    Raises:
        InputError: The manifest is wrong, two splits share a group, or no video is in the train split.
    """
    videos = scan_folder(manifest) if manifest.is_dir() else read_manifest(manifest, root)
    groups: dict[str, Video] = {}
    contents: dict[str, list[Video]] = defaultdict(list)
    for video in videos:
        other = groups.setdefault(video.group, video) if video.group else video
        if other.split != video.split:
            raise InputError(
                f"{manifest}: {other.video_id} ({other.split}) and {video.video_id} ({video.split}) have the same "
                f"group {video.group!r}; put them into one split"
            )
        if video.split in ("val", "test"):
            contents[_content(video, parents)].append(video)
    held_out = {
        video.video_id for video in videos if any(video.overlaps(other) for other in contents[_content(video, parents)])
    }
    train = tuple(video.video_id for video in videos if video.split == "train" and video.video_id not in held_out)
    if not any(video_id in parents.sets[0] for video_id in train):
        raise InputError(
            f"{manifest}: none of its {len(videos)} videos is in its train split and in {parents.sets[0].name}; "
            "nothing may be fitted on other videos"
        )
    return TrainSplit(manifest, train, frozenset(held_out))


def _content(video: Video, parents: Parents) -> str:
    """What the video's file holds, whichever part of it is meant."""
    row = parents.ledgers[0].get(video.video_id)
    return (row.source_digest.partition("#")[0] if row else "") or str(video.path)


def inherited_videos(parents: Parents) -> tuple[str, ...]:
    """Videos that the parents themselves were fitted on, and theirs before them."""
    found: dict[str, None] = {}
    for features in parents.sets:
        if features.spec.lineage is not None:
            found |= dict.fromkeys(read_derivation(features.folder, features.spec.lineage).fitted_on)
    return tuple(found)


def needs_fitting(steps: Sequence[Step]) -> bool:
    """Whether a step's arrays depend on features, and not only on a seed or a run."""
    return any(step["op"] == "pca" or (step["op"] == "uint8" and step["clip"] is None) for step in steps)


def fit_derivation(
    parents: Parents,
    steps: Sequence[Step],
    split: TrainSplit | None,
    projection: Projection | None,
    inherited: Sequence[str],
    progress: Progress | None = None,
) -> Derivation:
    """Makes the arrays of all steps, with one pass over the train split for each that is fitted.

    Args:
        parents: What to read.
        steps: The steps.
        split: What may be read; needed where :func:`needs_fitting`.
        projection: Of the run, for a ``dense`` step.
        inherited: Videos that the parents and the run were fitted on.
        progress: Called with the frames done and the frames in all, of each pass.

    Raises:
        InputError: There is nothing to fit on, or too little of it.
        ShardError: Features are hurt.
    """
    train: tuple[str, ...] = ()
    if needs_fitting(steps):
        if split is None:
            raise InputError(
                "--manifest: expected the manifest whose train split PCA or uint8 is fitted on; found none"
            )
        present = [video_id for video_id in split.video_ids if video_id in parents.sets[0]]
        train = tuple(video_id for video_id in present if parents.why_not(video_id) is None)
        if not train:
            raise InputError(f"{split.manifest}: no video of its train split has the same frames in all parents")
    derivation = Derivation(steps, fitted_on=tuple(dict.fromkeys((*inherited, *train))))
    for number, step in enumerate(steps):
        arrays: Mapping[str, NDArray[Any]] = {}
        if step["op"] == "random":
            arrays = {"matrix": random_matrix(_length_before(parents, steps, number), step["dim"], step["seed"])}
        elif step["op"] == "dense" and projection is not None:
            arrays = projection.arrays
        elif step["op"] == "pca":
            arrays = _fit_pca(parents, derivation, number, train, progress)
        elif step["op"] == "uint8":
            arrays = _fit_range(parents, derivation, number, train, progress)
        named = {f"{number}.{key}": array for key, array in arrays.items()}
        derivation = replace(derivation, arrays={**derivation.arrays, **named})
    return derivation


def _length_before(parents: Parents, steps: Sequence[Step], number: int) -> int:
    shape = parents.feature_shape
    for step in steps[:number]:
        shape = step_shape(step, shape)
    return math.prod(shape)


def _applied(
    parents: Parents, derivation: Derivation, number: int, train: Sequence[str], progress: Progress | None
) -> Iterator[NDArray[np.float32]]:
    """Rows of the train split after the steps before this one."""
    for rows in parents.read(train, progress):
        applied = derivation.apply(rows, number)
        if not np.isfinite(applied).all():
            steps = ", ".join(str(step["op"]) for step in derivation.steps[:number])
            raise InputError(f"derive: a feature of the train split is no finite number after {steps}")
        yield applied


def _fit_pca(
    parents: Parents, derivation: Derivation, number: int, train: Sequence[str], progress: Progress | None
) -> dict[str, NDArray[Any]]:
    step, length = derivation.steps[number], _length_before(parents, derivation.steps, number)
    if length > _MAX_PCA_INPUT:
        raise InputError(
            f"--pca {step['dim']}: the covariance of {length} dimensions takes {length**2 * 8 / 1e9:.1f} GB; "
            "pool a grid with --reduce gap, or project it with --random first"
        )
    moments = Moments(length)
    for rows in _applied(parents, derivation, number, train, progress):
        moments.add(rows.reshape(len(rows), -1))
    return moments.fit_pca(step["dim"], step["whiten"])


def _fit_range(
    parents: Parents, derivation: Derivation, number: int, train: Sequence[str], progress: Progress | None
) -> dict[str, NDArray[np.float32]]:
    clip = derivation.steps[number]["clip"]
    if clip is not None:
        edge = np.full(_length_before(parents, derivation.steps, number), clip, np.float32)
        return fit_quantisation(-edge, edge)
    low, high = np.float32(np.inf), np.float32(-np.inf)
    for rows in _applied(parents, derivation, number, train, progress):
        low, high = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
    return fit_quantisation(np.asarray(low), np.asarray(high))


def fit_quantisation(low: NDArray[np.float32], high: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """The affine map of ``[low, high]`` onto 0 … 255, per dimension; its error is at most half a step within.

    A dimension that does not vary has a step too small to matter: it is read back as it was, whatever is stored.
    """
    scale = np.maximum((high.astype(np.float64) - low) / _LEVELS, np.finfo(np.float32).tiny)
    return {"offset": low.astype(np.float32), "scale": scale.astype(np.float32)}


class Moments:
    """Mean and covariance of rows ``(n, D)``, in one pass and in float64; memory for ``D²`` numbers.

    Sums are taken about the mean of the first rows, so that a large mean costs no precision. Rows of short videos
    are gathered first, since a product of few rows costs as much as its ``D²`` sums.
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self._waiting: list[NDArray[np.float32]] = []
        self._waiting_numbers = 0
        self._shift = np.zeros(dim)
        self._sum = np.zeros(dim)
        self._products = np.zeros((dim, dim))

    def add(self, rows: NDArray[np.float32]) -> None:
        """Takes some rows ``(n, D)``, which the caller must not change afterwards."""
        self._waiting.append(rows)
        self._waiting_numbers += rows.size
        if self._waiting_numbers >= _BLOCK_NUMBERS:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        values = np.concatenate(self._waiting, dtype=np.float64)
        self._waiting, self._waiting_numbers = [], 0
        if not self.count:
            self._shift = values.mean(axis=0)
        values -= self._shift
        self.count += len(values)
        self._sum += values.sum(axis=0)
        self._products += values.T @ values

    def fit_pca(self, dim: int, whiten: bool) -> dict[str, NDArray[Any]]:
        """Principal components: ``mean (D,)``, ``matrix (D, dim)``, ``explained (dim,)`` share of the variance.

        As scikit-learn's ``PCA``: unbiased covariance, whitening to unit variance. Each component's largest weight
        is positive.

        Raises:
            InputError: There are too few rows, or they vary in too few directions, for so many components.
        """
        self._flush()
        if self.count <= dim:
            raise InputError(f"--pca {dim}: needs more than {dim} frames of the train split, found {self.count}")
        mean = self._sum / self.count
        covariance = (self._products - self.count * np.outer(mean, mean)) / (self.count - 1)
        total = float(np.trace(covariance))
        variances, vectors = np.linalg.eigh(covariance)
        variances, vectors = np.maximum(variances[::-1], 0), vectors[:, ::-1][:, :dim]
        # What is below is rounding of the rows themselves, and would be blown up to unit variance.
        rank = int((variances > total * np.finfo(np.float32).eps / len(mean)).sum())
        variances = variances[:dim]
        if whiten and rank < dim:
            raise InputError(f"--pca {dim} --whiten: the train split varies in {rank} dimensions only; ask for those")
        largest = np.abs(vectors).argmax(axis=0)
        vectors = vectors * np.sign(vectors[largest, np.arange(dim)])
        if whiten:
            vectors = vectors / np.sqrt(variances)
        return {
            "mean": (self._shift + mean).astype(np.float32),
            "matrix": np.ascontiguousarray(vectors, np.float32),
            "explained": variances / total if total else variances,
        }
