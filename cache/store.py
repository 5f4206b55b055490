"""The cache: a folder of feature sets, each a folder with its spec, its shards and its ledger."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from framecache.cache.errors import FeatureSetNotFoundError, InputError, LockedError
from framecache.cache.reader import FeatureSet
from framecache.cache.spec import Spec, require_same_spec
from framecache.cache.writer import publish

SPEC_FILE = "spec.json"
LOCK_FILE = ".lock"


class Cache(Mapping[str, FeatureSet]):
    """The feature sets of one folder, by name.

    A name may leave out the fingerprint, or be any prefix that fits one set only.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"<Cache {self.folder}: {len(self)} feature sets>"

    def __len__(self) -> int:
        return len(self.names())

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __getitem__(self, name: str) -> FeatureSet:
        """Opens a feature set.

        Raises:
            FeatureSetNotFoundError: No set fits the name, or several do.
            ShardError: A shard of it is damaged.
        """
        folder = self.folder / self.resolve(name)
        return FeatureSet(folder, read_spec(folder))

    def names(self) -> list[str]:
        """Full names of the feature sets, sorted."""
        return sorted(path.parent.name for path in self.folder.glob(f"*/{SPEC_FILE}"))

    def resolve(self, name: str) -> str:
        """The full name that ``name`` means: itself, without its fingerprint, or an unambiguous prefix.

        Raises:
            FeatureSetNotFoundError: With the near names, or with all that fit.
        """
        names = self.names()
        if name in names:
            return name
        fits = [full for full in names if full.rpartition("-")[0] == name]
        fits = fits or [full for full in names if full.startswith(name)]
        if len(fits) == 1:
            return fits[0]
        if fits:
            raise FeatureSetNotFoundError(
                f"{name!r} fits several feature sets of {self.folder}: {', '.join(fits)}; name one of them in full"
            )
        near = difflib.get_close_matches(name, [*names, *(full.rpartition("-")[0] for full in names)], 3)
        has = f"did you mean {', '.join(near)}?" if near else f"it holds {', '.join(names) or 'none yet'}"
        raise FeatureSetNotFoundError(f"no feature set {name!r} in {self.folder}: {has}")

    def create(self, spec: Spec) -> Path:
        """The folder of the feature set of this spec, made empty if it is not there."""
        folder = self.folder / spec.name
        if not (folder / SPEC_FILE).exists():
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f".{SPEC_FILE}.partial"
            partial.write_text(json.dumps(spec.to_dict(), indent=2) + "\n", encoding="utf-8")
            publish(partial, folder / SPEC_FILE)
        require_same_spec(spec, read_spec(folder), str(folder))
        return folder


def open_cache(folder: str | Path = "features") -> Cache:
    """Opens the cache in ``folder``.

    Raises:
        InputError: The folder does not exist.

    Example:
        >>> features = open_cache("features")["efficientnet-lite0.gap"]  # doctest: +SKIP
        >>> features["Step_1/clip.mp4"].shape  # doctest: +SKIP
        (213, 1280)
    """
    path = Path(folder)
    if not path.is_dir():
        raise InputError(f"cache {str(path)!r}: no such folder; run framecache-extract first, or name it with --cache")
    return Cache(path)


@contextmanager
def lock_for_writing(folder: Path) -> Iterator[None]:
    """Holds a feature set's folder against other writers; readers never need a lock.

    The lock is the operating system's, so that it ends with its process however that ends.

    Raises:
        LockedError: Another process holds it.
    """
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LockedError(f"{folder}: another process is writing into this feature set; wait for it to end") from None
    try:
        for partial in folder.glob(".*.partial"):  # nobody else writes now, so that its writer is dead
            partial.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def read_spec(folder: Path) -> Spec:
    """The spec of the feature set in this folder.

    Raises:
        InputError: Its ``spec.json`` is damaged, or is that of another folder.
    """
    path = folder / SPEC_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); delete the feature set or restore the file") from error
    spec = Spec.from_dict(values, str(path))
    if spec.name != folder.name:
        raise InputError(f"{path}: its spec is that of {spec.name}, not of this folder; was it edited or moved?")
    return spec
