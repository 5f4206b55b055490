"""The experiments of one process that trains many: each feature set is loaded once, and held within limits."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import fields, replace
from typing import Any

from framecache.train.config import FitConfig, ModelConfig
from framecache.train.experiment import Experiment, open_experiment
from framecache.train.splits.labels import label_videos

_KEPT = 8  # experiments; beyond it the one not used for longest goes
_OF_THE_TRAINING = {
    *(field.name for field in fields(ModelConfig)),
    *("runs", "name", "seed", "threads", "epochs", "patience", "learning_rate", "class_weights"),
}


def data_key(feature_set: str, config: FitConfig) -> tuple[Any, ...]:
    """What decides the sequences and targets of a training, beside the seed where it deals out the splits."""
    return (feature_set, *(getattr(config, field.name) for field in fields(FitConfig) if _is_of_the_data(field.name)))


def _is_of_the_data(name: str) -> bool:
    return name not in _OF_THE_TRAINING


class Pool:
    """Experiments that were opened, used again where the videos and what is made of them are the same.

    Args:
        resident_bytes: Features that are held in memory, of all experiments together; the others are read from the
            memory map, which processes share.
    """

    def __init__(self, resident_bytes: int) -> None:
        self._resident_bytes = resident_bytes
        self._opened: OrderedDict[tuple[Any, ...], list[Experiment]] = OrderedDict()
        self._of_seed: dict[tuple[Any, ...], Experiment] = {}

    def open(self, feature_set: str, config: FitConfig) -> Experiment:
        """As :func:`~framecache.train.experiment.open_experiment`, whose errors it raises."""
        key = data_key(feature_set, config)
        if (key, config.seed) not in self._of_seed:
            self._of_seed[key, config.seed] = self._same_splits(key, config) or self._load(key, config)
        self._opened.move_to_end(key)
        return self._of_seed[key, config.seed]

    def _same_splits(self, key: tuple[Any, ...], config: FitConfig) -> Experiment | None:
        """One that was opened with another seed, if that made no difference."""
        for experiment in self._opened.get(key, []):
            if label_videos(experiment.features, config).splits == experiment.labeled.splits:
                return experiment
        return None

    def _load(self, key: tuple[Any, ...], config: FitConfig) -> Experiment:
        while sum(map(len, self._opened.values())) >= _KEPT:
            oldest, _ = self._opened.popitem(last=False)
            self._of_seed = {of: experiment for of, experiment in self._of_seed.items() if of[0] != oldest}
        held = sum(experiment.feed.held_bytes for opened in self._opened.values() for experiment in opened)
        experiment = replace(open_experiment(key[0], config), resident_bytes=max(0, self._resident_bytes - held))
        self._opened.setdefault(key, []).append(experiment)
        return experiment
