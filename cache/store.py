"""The cache: a folder of feature sets, each a folder with its spec, its shards and its ledger."""

from __future__ import annotations

import difflib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from framecache.cache.derivation import ARRAYS_FILE
from framecache.cache.durable import PARTIAL_SUFFIX, fsync_folder, publish
from framecache.cache.errors import FeatureSetNotFoundError, InputError, LockedError, ShardError
from framecache.cache.reader import FeatureSet, list_shards
from framecache.cache.sealed import record_sealed, sealed_shards
from framecache.cache.shard import read_shard
from framecache.cache.shown import Shown, plural
from framecache.cache.spec import Spec, require_same_spec

SPEC_FILE = "spec.json"
LOCKS_FOLDER = ".locks"  # beside the feature sets, so that a lock outlives the removal of what it guards
_REMOVED_PREFIX = ".removed-"
_MAX_SPEC_BYTES = 1 << 24


class Cache(Shown, Mapping[str, FeatureSet]):
    """The feature sets of one folder, by name.

    A name may leave out the fingerprint, or be any prefix that fits one set only. A link is no feature set: the
    cache may be somebody else's, and what is written or removed in it must be its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _line(self) -> str:
        return f"{self.folder}: {plural(len(self), 'feature set')}"

    def _html(self) -> str:
        from framecache.cache.cards import cache_card

        return cache_card(self)

    def __len__(self) -> int:
        return len(self.names())

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __getitem__(self, name: str) -> FeatureSet:
        """Opens a feature set.

        Raises:
            FeatureSetNotFoundError: No set fits the name, or several do.
            ShardError: A shard of it is damaged or missing.
        """
        folder = self.folder / self.resolve(name)
        return FeatureSet(folder, read_spec(folder))

    def names(self) -> list[str]:
        """Full names of the feature sets, sorted."""
        folders = (path.parent for path in self.folder.glob(f"*/{SPEC_FILE}"))
        return sorted(folder.name for folder in folders if not folder.name.startswith(".") and not folder.is_symlink())

    def resolve(self, name: str) -> str:
        """The full name that ``name`` means: itself, without its fingerprint, or an unambiguous prefix.

        Raises:
            FeatureSetNotFoundError: With the near names, or with all that fit.
        """
        names = self.names()
        if name in names:
            return name
        fits = [full for full in names if full.rpartition("-")[0] == name]
        fits = fits or [full for full in names if name and full.startswith(name)]
        if len(fits) == 1:
            return fits[0]
        if fits:
            raise FeatureSetNotFoundError(
                f"{name!r} fits several feature sets of {self.folder}: {', '.join(fits)}; name one of them in full"
            )
        near = difflib.get_close_matches(name, [*names, *(full.rpartition("-")[0] for full in names)], 3)
        has = f"did you mean {', '.join(near)}?" if near else f"it holds {', '.join(names) or 'none yet'}"
        raise FeatureSetNotFoundError(f"no feature set {name!r} in {self.folder}: {has}")

    def create(self, spec: Spec, arrays: bytes | None = None) -> Path:
        """The folder of the feature set of this spec, made empty if it is not there.

        Args:
            spec: Of the feature set.
            arrays: Of a derived set, the content of its ``arrays.npz``.

        Raises:
            InputError: The folder cannot be written, or is a link.
            SpecMismatchError: The folder is there and holds another feature set.
        """
        folder = self.folder / spec.name
        _refuse_links(folder)
        if not (folder / SPEC_FILE).exists():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                if arrays is not None:
                    _publish_bytes(folder / ARRAYS_FILE, arrays)
                # Last, since a folder with a spec is a feature set.
                _publish_bytes(folder / SPEC_FILE, (json.dumps(spec.to_dict(), indent=2) + "\n").encode())
                fsync_folder(self.folder)
            except OSError as error:
                raise _unwritable(self.folder, error) from error
        require_same_spec(spec, read_spec(folder), str(folder))
        return folder

    def remove(self, name: str) -> str:
        """Removes a feature set, at once for everybody who opens it later; gives its full name.

        Readers that have mapped its features keep them.

        Raises:
            FeatureSetNotFoundError: No set fits the name, or several do.
            LockedError: Another process writes into it.
            OSError: It cannot be removed.
        """
        full = self.resolve(name)
        with lock_for_writing(self.folder / full):
            grave = self.folder / f"{_REMOVED_PREFIX}{secrets.token_hex(4)}"
            try:
                os.replace(self.folder / full, grave)
            except FileNotFoundError:
                raise FeatureSetNotFoundError(f"no feature set {full!r} in {self.folder}: it was removed") from None
            fsync_folder(self.folder)
            with suppress(FileNotFoundError):  # whoever takes another lock meanwhile sweeps it up too
                shutil.rmtree(grave)
        return full


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
    if not os.path.isdir(path):  # unlike the Path's own, it takes any name, of whatever length
        raise InputError(f"cache {str(path)!r}: no such folder; run framecache-extract first, or name it with --cache")
    return Cache(path)


@contextmanager
def lock_for_writing(folder: Path) -> Iterator[None]:
    """Holds a feature set's folder, which need not exist yet, against other writers; readers never need a lock.

    The lock is the operating system's, so that it ends with its process however that ends. Whoever gets it
    removes what a dead writer has left behind.

    Raises:
        LockedError: Another process holds it; the message says which.
        InputError: The cache's folder cannot be written, or links lead out of it.
    """
    from filelock import FileLock, Timeout  # here, so that readers need not wait for it

    locks = folder.parent / LOCKS_FOLDER
    lock, holder = FileLock(locks / f"{folder.name}.lock"), locks / f"{folder.name}.json"
    _refuse_links(folder, locks, locks / f"{folder.name}.lock", holder)
    try:
        locks.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise LockedError(
            f"{folder}: {_describe_holder(holder)} is writing into this feature set; wait for it to end"
        ) from None
    except OSError as error:
        raise _unwritable(folder.parent, error) from error
    try:
        with suppress(OSError):  # only for the message above
            since = datetime.now().astimezone().isoformat(timespec="seconds")
            told = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
            partial = locks / f".{secrets.token_hex(4)}{PARTIAL_SUFFIX}"
            try:
                partial.write_text(told)
                os.replace(partial, holder)
            finally:
                partial.unlink(missing_ok=True)
        _clean(folder)
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


def _describe_holder(path: Path) -> str:
    if not path.is_file():  # also not there yet
        return "another process"
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _clean(folder: Path) -> None:
    """Nobody else writes now: temporary files are a dead writer's, and what it sealed last may not be on record."""
    for grave in folder.parent.glob(f"{_REMOVED_PREFIX}*"):
        shutil.rmtree(grave, ignore_errors=True)  # follows no link
    if not folder.is_dir():
        return
    for partial in folder.glob(f".*{PARTIAL_SUFFIX}"):
        if not partial.is_dir():
            partial.unlink(missing_ok=True)
    on_record = sealed_shards(folder)
    for path in list_shards(folder):
        if path.name not in on_record:
            with suppress(ShardError):  # a hurt or foreign one is for verify to report
                info = read_shard(path)
                if info.spec.name == folder.name:
                    record_sealed(folder, path.name, [raw.decode() for raw in info.index["video_id"].tolist()])


def _refuse_links(*paths: Path) -> None:
    for path in paths:
        if path.is_symlink():
            raise InputError(
                f"{path}: is a link; a cache holds its own files only, so remove it, or link the whole cache"
            )


def _publish_bytes(path: Path, content: bytes) -> None:
    partial = path.parent / f".{path.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}"
    partial.write_bytes(content)
    publish(partial, path)


def _unwritable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"cache {str(folder)!r}: cannot be written ({error.strerror or error}); mend it, or name another with --cache"
    )


def read_spec(folder: Path) -> Spec:
    """The spec of the feature set in this folder.

    Raises:
        InputError: Its ``spec.json`` is damaged, or is that of another folder.
    """
    path = folder / SPEC_FILE
    try:
        if not path.is_file():  # a pipe would be waited for without end
            raise FeatureSetNotFoundError(f"no feature set in {folder}: it holds no {SPEC_FILE}; was it removed?")
        if path.stat().st_size > _MAX_SPEC_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FeatureSetNotFoundError(f"no feature set in {folder}: it was removed just now") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); restore it, or delete it and extract again") from error
    spec = Spec.from_dict(values, str(path))
    if spec.name != folder.name:
        raise InputError(f"{path}: its spec is that of {spec.name}, not of this folder; was it edited or moved?")
    return spec
