"""How much of its parent a derived feature set still holds: the parent's features, reconstructed from its own.

One definition for every step, linear or not: the affine map that fits the parent's frames best, in the sense of
least squares on the train split, is judged on the test split. For a PCA it is the PCA's own inverse.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import FramecacheError, InputError
from framecache.cache.parents import Parents
from framecache.cache.reader import FeatureSet
from framecache.cache.store import Cache, read_spec

_MAX_WIDTH = 8192  # numbers per frame; products of more take over half a GB
_BLOCK_NUMBERS = 4 << 20  # of rows that are multiplied at a time
_RIDGE = 1e-10  # of the mean variance: too little to matter, and enough where the rows do not vary in all directions
_SAME_NUMBERS = {"l2", "uint8"}  # steps after which each number still stands for the same one of the parent


@dataclass(frozen=True)
class Fidelity:
    """What is left of the parent's features, over the frames of the test split.

    Attributes:
        parents: Names of the sets that it was derived from; none of an extracted set.
        cosine: Mean cosine between a parent's frame ``x`` and its reconstruction ``x̂``, in [-1, 1].
        relative_error: ``‖x − x̂‖ / ‖x‖`` of all frames together.
        explained_variance: ``1 − Σ‖x − x̂‖² / Σ‖x − m‖²`` with ``m`` the parent's mean over the train split, at
            most 1; None where nothing varies.
        remark: Why a derived set has none of the three, or why they say little.
    """

    parents: tuple[str, ...] = ()
    cosine: float | None = None
    relative_error: float | None = None
    explained_variance: float | None = None
    remark: str = ""


def measure_fidelity(store: Cache, features: FeatureSet, train: Sequence[str], test: Sequence[str]) -> Fidelity:
    """Reconstructs the parent of a feature set and says how well; a video at a time is in memory.

    Args:
        store: The cache that holds its parents.
        features: The set.
        train: Videos that the reconstruction is fitted on.
        test: Videos that it is judged on.
    """
    if features.spec.lineage is None:
        return Fidelity()
    names = _parent_names(store, features)
    try:
        parents = _open_parents(store, features, names)
        _refuse_other_frames(features, parents, (*train, *test))
        return _reconstruct(features, parents, train, test)
    except FramecacheError as error:
        return Fidelity(tuple(names.values()), remark=str(error))


def _parent_names(store: Cache, features: FeatureSet) -> dict[str, str]:
    """Name of each parent by its fingerprint; one that is gone has the beginning of its fingerprint for a name."""
    fingerprints = (features.spec.lineage or {})["parents"]
    known: dict[str, str] = {}
    for name in store.names():
        with suppress(FramecacheError):  # another set's damaged spec is none of our business
            known[read_spec(store.folder / name).fingerprint] = name
    return {fingerprint: known.get(fingerprint, fingerprint[:8]) for fingerprint in fingerprints}


def _open_parents(store: Cache, features: FeatureSet, names: dict[str, str]) -> Parents:
    gone = [name for fingerprint, name in names.items() if name == fingerprint[:8]]
    if gone:
        raise InputError(f"its parent {' and '.join(gone)} is not in {store.folder} any more")
    sets = [store[names[fingerprint]] for fingerprint in (features.spec.lineage or {})["parents"]]
    sampling = features.spec.sampling
    parents = Parents(sets, None if sampling == sets[0].spec.sampling else sampling)
    for what, shape in (("its parent has", parents.feature_shape), ("it has", features.feature_shape)):
        if math.prod(shape) > _MAX_WIDTH:
            raise InputError(
                f"{what} {math.prod(shape)} numbers per frame, and over {_MAX_WIDTH} are not reconstructed"
            )
    return parents


def _refuse_other_frames(features: FeatureSet, parents: Parents, video_ids: Sequence[str]) -> None:
    """Refuses a parent that has other contents or frames by now: there would be nothing to compare."""
    own, theirs = features.ledger(), parents.ledgers[0]
    others = [
        video_id
        for video_id in video_ids
        if video_id not in parents.sets[0]
        or theirs[video_id].source_digest != own[video_id].source_digest
        or parents.why_not(video_id) is not None
        or not np.array_equal(parents.timestamps_ms(video_id), features.timestamps_ms(video_id))
    ]
    if others:
        raise InputError(
            f"{len(others)} of its videos ({others[0]!r}, …) are missing in its parent, or have other frames there; "
            "derive it again"
        )


def _reconstruct(features: FeatureSet, parents: Parents, train: Sequence[str], test: Sequence[str]) -> Fidelity:
    width, parent_width = math.prod(features.feature_shape), math.prod(parents.feature_shape)
    # Of all maps that fit equally well (there are many where frames are few), the one nearest to leaving as they are
    # the numbers that no step has mixed.
    same = {str(step["op"]) for step in (features.spec.lineage or {})["steps"]} <= _SAME_NUMBERS
    fit, mean, count = _LeastSquares(width, parent_width), np.zeros(parent_width), 0
    for rows, wanted in _pairs(features, parents, train):
        fit.add(rows, wanted - rows if same else wanted)
        mean, count = mean + wanted.sum(axis=0), count + len(wanted)
    affine, mean = fit.solve(), mean / count

    squares = error = spread = cosines = 0.0
    num_cosines = 0
    for rows, wanted in _pairs(features, parents, test):
        found = affine.apply(rows) + (rows if same else 0)
        squares += float(np.square(wanted).sum())
        error += float(np.square(wanted - found).sum())
        spread += float(np.square(wanted - mean).sum())
        norms = np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1)
        cosines += float((np.einsum("ij,ij->i", wanted, found)[norms > 0] / norms[norms > 0]).sum())
        num_cosines += int((norms > 0).sum())
    return Fidelity(
        parents=tuple(one.name for one in parents.sets),
        cosine=cosines / num_cosines if num_cosines else None,
        relative_error=math.sqrt(error / squares) if squares else None,
        explained_variance=1 - error / spread if spread else None,
        remark=""
        if same or count > width
        else f"reconstructed from {count} train frames only, for {width} numbers each",
    )


def _pairs(
    features: FeatureSet, parents: Parents, video_ids: Sequence[str]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Rows ``(n, D)`` of the set and ``(n, K)`` of its parent, of the same frames."""
    for video_id in video_ids:
        stored, begin = features.stored(video_id), 0
        for wanted in parents.blocks(video_id):
            rows = features.decode(stored[begin : begin + len(wanted)])
            begin += len(wanted)
            yield rows.reshape(len(rows), -1).astype(np.float64), wanted.reshape(len(rows), -1).astype(np.float64)


@dataclass(frozen=True)
class _Affine:
    input_mean: NDArray[np.float64]  # (D,)
    matrix: NDArray[np.float64]  # (D, K)
    target_mean: NDArray[np.float64]  # (K,)

    def apply(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows ``(n, D)`` to ``(n, K)``."""
        mapped: NDArray[np.float64] = (rows - self.input_mean) @ self.matrix + self.target_mean
        return mapped


class _LeastSquares:
    """The affine map of rows ``(n, D)`` to targets ``(n, K)``, from sums of products: memory for ``D² + DK`` numbers.

    As in :class:`framecache.cache.fitting.Moments`, sums are taken about the first rows' mean, so that a large mean
    costs no precision, and rows of short videos are gathered first.
    """

    def __init__(self, num_inputs: int, num_targets: int) -> None:
        self._waiting: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
        self._waiting_numbers = 0
        self._count = 0
        self._shifts = (np.zeros(num_inputs), np.zeros(num_targets))
        self._sums = (np.zeros(num_inputs), np.zeros(num_targets))
        self._squares = np.zeros((num_inputs, num_inputs))
        self._products = np.zeros((num_inputs, num_targets))

    def add(self, rows: NDArray[np.float64], targets: NDArray[np.float64]) -> None:
        """Takes some rows and their targets, which the caller must not change afterwards."""
        self._waiting.append((rows, targets))
        self._waiting_numbers += rows.size + targets.size
        if self._waiting_numbers >= _BLOCK_NUMBERS:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        rows, targets = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting, self._waiting_numbers = [], 0
        if not self._count:
            self._shifts = (rows.mean(axis=0), targets.mean(axis=0))
        rows, targets = rows - self._shifts[0], targets - self._shifts[1]
        self._count += len(rows)
        self._sums = (self._sums[0] + rows.sum(axis=0), self._sums[1] + targets.sum(axis=0))
        self._squares += rows.T @ rows
        self._products += rows.T @ targets

    def solve(self) -> _Affine:
        """The best map of all that was added, at least one row."""
        self._flush()
        inputs, targets = (total / self._count for total in self._sums)
        covariance = self._squares / self._count - np.outer(inputs, inputs)
        ridge = _RIDGE * float(np.trace(covariance)) / len(inputs)
        covariance[np.diag_indices_from(covariance)] += ridge if ridge > 0 else 1.0
        products = self._products / self._count - np.outer(inputs, targets)
        matrix = np.asarray(np.linalg.solve(covariance, products), np.float64)
        return _Affine(self._shifts[0] + inputs, matrix, self._shifts[1] + targets)
