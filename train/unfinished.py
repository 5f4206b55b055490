"""Folders of runs: a new one for each, or that of the same run whose process ended before it did."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from framecache.cache.durable import PARTIAL_SUFFIX
from framecache.cache.errors import InputError
from framecache.cache.reader import FeatureSet
from framecache.cache.spec import folder_name
from framecache.train.config import FitConfig
from framecache.train.runs import RUN_FILE

CHECKPOINT_FOLDER = "checkpoint"  # within the run's, until it is finished
_IDENTITY_FILE = "identity.json"
_LOCK_FILE = "lock"


@contextmanager
def claimed_folder(config: FitConfig, features: FeatureSet, identity: Mapping[str, Any]) -> Iterator[Path]:
    """Holds the folder of the same run if it is unfinished and no process trains it; else a new one.

    An older run is never written over.

    Args:
        config: Settings of the run.
        features: What it is trained on.
        identity: All that decides its numbers, as plain JSON.

    Yields:
        The folder, with a folder ``checkpoint`` in it.

    Raises:
        InputError: The name that was asked for is that of a finished run, of another one, or of one being trained.
    """
    for folder in _places(config, features):
        checkpoint = folder / CHECKPOINT_FOLDER
        is_new = _make(folder)
        if is_new:
            checkpoint.mkdir()
        elif unfinished_identity(folder) != identity:
            continue
        with suppress(Timeout), FileLock(checkpoint / _LOCK_FILE).acquire(timeout=0):
            if is_new or unfinished_identity(folder) == identity:
                partial = checkpoint / f".{_IDENTITY_FILE}{PARTIAL_SUFFIX}"
                partial.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
                os.replace(partial, checkpoint / _IDENTITY_FILE)
                yield folder
                return
            shutil.rmtree(checkpoint, ignore_errors=True)  # of a run that ended meanwhile: the lock made it again
    raise _in_the_way(config)


def wanted_folder(config: FitConfig, features: FeatureSet) -> Path:
    """The first place where the run may be."""
    return next(_places(config, features))


def unfinished_identity(folder: Path) -> dict[str, Any] | None:
    """What decides the numbers of an unfinished run; None where there is none."""
    if (folder / RUN_FILE).exists():
        return None
    try:
        found = json.loads((folder / CHECKPOINT_FOLDER / _IDENTITY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _places(config: FitConfig, features: FeatureSet) -> Iterator[Path]:
    """Where the run may be: in the folder of its name, or else in the first one that will do of any number."""
    if config.name is not None:
        yield config.runs / config.name
        return
    fold = f"-fold{config.fold}" if config.fold else ""
    stem = f"{features.spec.short_name}-{folder_name(config.model)}-seed{config.seed}{fold}"
    yield config.runs / stem
    for number in count(2):
        yield config.runs / f"{stem}-{number}"


def _make(folder: Path) -> bool:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir()
        return True
    return False


def _in_the_way(config: FitConfig) -> InputError:
    folder = config.runs / str(config.name)
    if unfinished_identity(folder) is not None:
        return InputError(
            f"--name {config.name!r}: {folder} is an unfinished run of other settings, features or labels, or another "
            "process trains it; choose another name"
        )
    return InputError(f"--name {config.name!r}: {folder} exists already; choose another name")
