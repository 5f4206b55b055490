"""What made a run's features out of a CNN's: kept in the run's folder, so that new videos get the same without a cache.

Of a derived set the run keeps spec and arrays, and those of its parents, as a cache has them but for the shards.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.derivation import ARRAYS_FILE, Derivation, quantisation, read_derivation
from framecache.cache.errors import InputError
from framecache.cache.fingerprint import FINGERPRINT_CHARS
from framecache.cache.reader import FeatureSet
from framecache.cache.spec import Spec
from framecache.cache.store import SPEC_FILE, Cache, read_spec
from framecache.train.runs import RUN_FILE, Run

LINEAGE_FOLDER = "lineage"
_MAX_DEPTH = 32  # derivations of derivations; a forged run must not lead on for ever


def keep_lineage(folder: Path, features: FeatureSet) -> None:
    """Keeps in a run's folder what its features were derived by; nothing of an extracted set.

    What a cache no longer has, as a parent that was removed, is passed over: who predicts is told.

    Args:
        folder: The run's.
        features: What it is trained on.
    """
    if features.spec.lineage is None:
        return
    places = [features.folder.parent]
    todo = [(features.folder, features.spec)]
    while todo:
        source, spec = todo.pop()
        target = folder / LINEAGE_FOLDER / spec.name
        if target.exists():
            continue
        target.mkdir(parents=True)
        for name in (SPEC_FILE, ARRAYS_FILE) if spec.lineage is not None else (SPEC_FILE,):
            with suppress(FileNotFoundError):
                _link(source / name, target / name)
        found = (_find(places, fingerprint) for fingerprint in _parents(spec))
        todo += [one for one in found if one is not None]


@dataclass(frozen=True, eq=False)
class Lineage:
    """How a feature set comes from extracted ones.

    Attributes:
        spec: Of the feature set.
        parents: What it was derived from; none of an extracted set.
        derivation: Its steps; None of an extracted set.
    """

    spec: Spec
    parents: tuple[Lineage, ...] = ()
    derivation: Derivation | None = None

    def leaves(self, sampling: str = "all") -> Iterator[tuple[Spec, str]]:
        """The extracted sets at its ends, and which frames of each are wanted; one may come several times.

        Args:
            sampling: What a derivation from this set keeps of its frames.
        """
        wanted = self.spec.sampling if sampling == "all" else sampling
        if self.derivation is None:
            yield self.spec, wanted
        for parent in self.parents:
            yield from parent.leaves(wanted)

    def features(self, computed: Mapping[str, NDArray[np.floating]]) -> NDArray[np.floating]:
        """The features of some frames, as they are read from this set: every rounding of every stored dtype included.

        Args:
            computed: Per fingerprint of a leaf what the CNN gave, ``(n, *feature_shape)``.

        Raises:
            ValueError: A feature is not finite; the message names the dtype.
        """
        return _decoded(self._stored(computed), self)

    def _stored(self, computed: Mapping[str, NDArray[np.floating]]) -> NDArray[np.generic]:
        if self.derivation is None:
            with np.errstate(over="ignore"):
                stored: NDArray[np.generic] = computed[self.spec.fingerprint].astype(self.spec.dtype)
            _require_finite(stored, self.spec)
            return stored
        rows = [parent.features(computed) for parent in self.parents]
        joined = rows[0] if len(rows) == 1 else np.concatenate([row.reshape(len(row), -1) for row in rows], axis=1)
        applied = self.derivation.apply(joined)
        _require_finite(applied, self.spec)  # 8 bits would hide it
        stored = self.derivation.store(applied, self.spec.dtype)
        _require_finite(stored, self.spec)
        return stored


def read_lineage(run: Run, cache: Path) -> Lineage:
    """The lineage of a run's features: what the run kept, else what the cache has.

    Args:
        run: The run.
        cache: Folder of a cache, which need not exist.

    Raises:
        InputError: The ``run.json`` is not that of its features, or a part of the lineage is in neither.
        ShardError: Arrays are damaged.
    """
    where = str(run.folder / RUN_FILE)
    spec = Spec.from_dict(run.record.get("spec") or {}, where)
    if spec.fingerprint != run.record.get("fingerprint"):
        raise InputError(
            f"{where}: its spec has the fingerprint {spec.fingerprint[:FINGERPRINT_CHARS]}, not "
            f"{str(run.record.get('fingerprint'))[:FINGERPRINT_CHARS]} as it says; was it edited? Train the run again"
        )
    places = [run.folder / LINEAGE_FOLDER, cache]
    lineage = _read(spec, places, run, 0)
    _require_fitting(lineage, run)
    return lineage


def _read(spec: Spec, places: Sequence[Path], run: Run, depth: int) -> Lineage:
    if spec.lineage is None:
        return Lineage(spec)
    if depth == _MAX_DEPTH:
        raise InputError(f"{run.folder}: its features were derived more than {_MAX_DEPTH} times over")
    own = _find(places, spec.fingerprint)
    if own is None:
        raise _lost(spec.name, places, run)
    parents = []
    for fingerprint in _parents(spec):
        found = _find(places, fingerprint)
        if found is None:
            raise _lost(f"{fingerprint[:FINGERPRINT_CHARS]}, which {spec.name} was derived from,", places, run)
        parents.append(_read(found[1], places, run, depth + 1))
    return Lineage(spec, tuple(parents), read_derivation(own[0], spec.lineage))


def _lost(what: str, places: Sequence[Path], run: Run) -> InputError:
    return InputError(
        f"{run.folder}: feature set {what} is not in {' or '.join(map(str, places))}; name the cache that holds it "
        "with --cache, or train the run again"
    )


def _require_fitting(lineage: Lineage, run: Run) -> None:
    """One frame of zeros goes through, so that arrays of another shape are told of before any video is."""
    zeros = {spec.fingerprint: np.zeros((1, *spec.feature_shape), np.float32) for spec, _ in lineage.leaves()}
    try:
        found = lineage.features(zeros).shape[1:]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{run.folder}: the arrays of {lineage.spec.name} do not fit ({error})") from error
    if found != lineage.spec.feature_shape:
        raise InputError(f"{run.folder}: {lineage.spec.name} gives features {found}, not {lineage.spec.feature_shape}")


def _parents(spec: Spec) -> list[str]:
    found = (spec.lineage or {}).get("parents")
    return [str(fingerprint) for fingerprint in found] if isinstance(found, list) else []


def _find(places: Sequence[Path], fingerprint: str) -> tuple[Path, Spec] | None:
    """Folder and spec of the feature set of this fingerprint."""
    for place in places:
        for name in Cache(place).names() if place.is_dir() else ():
            if name.endswith(f"-{fingerprint[:FINGERPRINT_CHARS]}"):
                with suppress(InputError):  # another set's damaged spec is none of our business
                    spec = read_spec(place / name)
                    if spec.fingerprint == fingerprint:
                        return place / name, spec
    return None


def _link(source: Path, target: Path) -> None:
    """A second name for a file that is never written again; a copy where the file system has no such thing."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copyfile(source, target, follow_symlinks=False)


def _decoded(stored: NDArray[Any], lineage: Lineage) -> NDArray[np.floating]:
    if lineage.spec.dtype != "uint8" or lineage.derivation is None:
        return stored
    offset, scale = quantisation(lineage.derivation.arrays)
    found: NDArray[np.floating] = stored * scale + offset
    return found


def _require_finite(rows: NDArray[np.generic], spec: Spec) -> None:
    if not math.isfinite(float(np.abs(rows).max(initial=0))):
        raise ValueError(f"a feature is not finite in {spec.dtype}")
