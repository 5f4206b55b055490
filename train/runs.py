"""Runs: finished experiments on disk, and the features that they were trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framecache.cache.errors import InputError
from framecache.cache.reader import FeatureSet
from framecache.cache.shown import Shown
from framecache.cache.spec import Spec, require_same_spec
from framecache.cache.store import open_cache
from framecache.train.config import FitConfig
from framecache.train.sweep.search import DEFAULTS, typed

RUN_FILE = "run.json"
EVENTS_FOLDER = "tensorboard"


@dataclass(frozen=True, repr=False)
class Run(Shown):
    """A finished experiment: its folder and what its ``run.json`` says."""

    folder: Path
    record: Mapping[str, Any]

    def _line(self) -> str:
        from framecache.train.run_card import run_line

        return run_line(self)

    def _html(self) -> str:
        from framecache.train.run_card import run_card

        return run_card(self)

    def config(self) -> FitConfig:
        """The settings; those that did not exist yet when it was trained have their defaults.

        The number of threads is the one that it had.

        Raises:
            InputError: The ``run.json`` holds none, or some that are unknown or wrong.
        """
        where = self.folder / RUN_FILE
        stored, machine = self.record.get("config"), self.record.get("machine")
        if not isinstance(stored, dict):
            raise InputError(f"{where}: expected the settings of the run, found none; train it again")
        unknown = sorted(stored.keys() - DEFAULTS.keys())
        if unknown:
            raise InputError(f"{where}: its setting {unknown[0]!r} is unknown here; a newer framecache may know it")
        if isinstance(machine, dict) and "threads" in machine:
            stored = {**stored, "threads": machine["threads"]}
        try:
            return FitConfig(**{name: typed(name, value) for name, value in stored.items() if value is not None})
        except InputError as error:
            raise InputError(f"{where}: its settings are wrong ({error}); train it again") from error

    def open_features(self, cache: str | Path = "features") -> FeatureSet:
        """The feature set that this run was trained on.

        Args:
            cache: Folder of the cache to look into.

        Raises:
            InputError: The ``run.json`` holds no spec.
            FeatureSetNotFoundError: The cache holds no feature set of that kind.
            SpecMismatchError: It holds one, made under another spec; the message has the difference.
        """
        spec = Spec.from_dict(self.record.get("spec") or {}, str(self.folder / RUN_FILE))
        store = open_cache(cache)
        alike = [name for name in store.names() if name.rpartition("-")[0] == spec.short_name]
        features = store[spec.name if spec.name in alike else alike[0] if alike else spec.short_name]
        require_same_spec(spec, features.spec, f"{self.folder} and {features.name}")
        return features


def open_run(folder: str | Path) -> Run:
    """Opens a finished run.

    Raises:
        InputError: The folder holds none.

    Example:
        >>> run = open_run("runs/efficientnet-lite0.gap-lstm-seed0")  # doctest: +SKIP
        >>> run.open_features("features").video_ids  # doctest: +SKIP
    """
    path = Path(folder) / RUN_FILE
    if not path.is_file():
        raise InputError(f"{folder}: expected the folder of a run, found no {RUN_FILE} in it")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); train the run again") from error
    if not isinstance(record, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(record).__name__}; train the run again")
    return Run(Path(folder), record)
