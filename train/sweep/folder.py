"""A sweep's folder: what was asked for, who is at it, and which of its trials are finished."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from filelock import FileLock, Timeout

from framecache.cache.durable import PARTIAL_SUFFIX, publish
from framecache.cache.errors import InputError, LockedError
from framecache.cache.manifest import SPLITS
from framecache.train.experiment import open_experiment
from framecache.train.runs import RUN_FILE, Run, open_run
from framecache.train.sweep.search import Sweep, require_extension

SWEEP_FILE = "sweep.json"
_LOCK_FILE = ".lock"
_NUMBERED = re.compile(r"(\d{4,}),.*\bseed=\d+")  # names of trials whose values were drawn


@dataclass(frozen=True)
class SweepData:
    """What a sweep's trials learn from.

    Attributes:
        names: Full name of each feature set.
        fingerprints: Their fingerprints.
        videos: Digest of labels and splits.
        measure: The metric on val that is searched for.
        lower_is_better: Whether a small one is a good one.
    """

    names: Mapping[str, str]
    fingerprints: Mapping[str, str]
    videos: str
    measure: str
    lower_is_better: bool


def open_data(sweep: Sweep) -> SweepData:
    """Checks features and labels of all feature sets, as a training would.

    Raises:
        InputError: A feature set or the manifest is missing, or they do not fit.
        ShardError: A shard is missing or cannot be read.
    """
    values = next(sweep.corners())
    config = sweep.trials(values, min(1, sweep.configurations))[0].config
    opened = {name: open_experiment(name, config) for name in sweep.sets}
    names = {name: experiment.features.name for name, experiment in opened.items()}
    for name, full in names.items():
        twin = next(other for other, its in names.items() if its == full)
        if twin != name:
            raise InputError(f"sets: {twin!r} and {name!r} are both {full}; expected each feature set once")
    first = opened[sweep.sets[0]]
    labels = [(split, video.video_id, video.label) for split in SPLITS for video in first.labeled.splits[split]]
    digest = xxhash.xxh3_128_hexdigest(repr(labels).encode("utf-8", "surrogatepass"))
    fingerprints = {name: experiment.features.fingerprint for name, experiment in opened.items()}
    return SweepData(names, fingerprints, digest[:16], first.task.measure, first.task.lower_is_better)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from the same sweep.

    Raises:
        LockedError: One is at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LockedError(f"{folder}: another process is at this sweep; wait for it to end") from None
    try:
        yield
    finally:
        lock.release()


def describe(sweep: Sweep, data: SweepData) -> dict[str, Any]:
    """What decides the trials and what they learn from, as plain JSON."""
    return {**sweep.describe(), "features": dict(data.names), "labels and splits": data.videos}


def refuse_other(sweep: Sweep, data: SweepData) -> bool:
    """Refuses a folder that holds something else; gives whether it holds this very sweep, with nothing added.

    Raises:
        InputError: It holds another sweep, with the difference, or no sweep.
    """
    folder, new = sweep.folder, describe(sweep, data)
    path = folder / SWEEP_FILE
    if not path.exists():
        if folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise InputError(f"{folder} exists already and holds no sweep; give the sweep another name = …")
        return False
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(old, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); give the sweep another name = …") from error
    require_extension(old, new, str(folder))
    for name, run in finished_runs(folder).items():
        found = run.record.get("fingerprint")
        if found not in data.fingerprints.values():
            raise InputError(
                f"{folder / name}: it was trained on features of another cache ({run.record.get('feature_set')}, "
                f"{str(found)[:8]}); give the sweep another name = …"
            )
    return bool(old == new)


def write_description(sweep: Sweep, data: SweepData) -> None:
    """Writes ``sweep.json``."""
    path = sweep.folder / SWEEP_FILE
    partial = path.with_name(f".{path.name}{PARTIAL_SUFFIX}")
    partial.write_text(json.dumps(describe(sweep, data), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    publish(partial, path)


def finished_runs(folder: Path) -> dict[str, Run]:
    """Finished runs of a folder, by their name."""
    found = {}
    for path in sorted(folder.glob(f"*/{RUN_FILE}")):
        try:
            found[path.parent.name] = open_run(path.parent)
        except InputError:
            continue  # a kill cut it off: the trial runs again
    return found


def configuration_of(name: str) -> int:
    """Number of a trial's configuration as its name has it; 0 if the name is not that of such a trial."""
    found = _NUMBERED.fullmatch(name)
    return int(found[1]) if found else 0


def remove_unfinished(folder: Path) -> None:
    """Removes the folder of a run, unless it is finished."""
    if folder.is_dir():
        try:
            open_run(folder)
        except InputError:
            shutil.rmtree(folder, ignore_errors=True)
