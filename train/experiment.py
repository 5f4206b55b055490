"""What trainings share: features and labels, loaded and checked once; graphs, traced once; the mean-pool baseline."""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.manifest import SPLITS
from framecache.cache.quiet import quiet_stderr
from framecache.cache.reader import FeatureSet
from framecache.cache.store import open_cache
from framecache.train.config import ClipConfig, FitConfig, ModelConfig
from framecache.train.data import CachedSequences, MeanSequences, Sequences, channel_statistics
from framecache.train.splits.labels import label_videos, refuse_fitted_on_held_out, refuse_hurt
from framecache.train.splits.leakage import NearDuplicate, near_duplicates
from framecache.train.splits.splitting import LabeledVideos
from framecache.train.tasks.registry import Task, make_task

if TYPE_CHECKING:
    from pathlib import Path

    from framecache.train.checkpoint import Checkpoint
    from framecache.train.feed import Feed
    from framecache.train.trainer import History, OnEpoch, Trainer

GRID_DENSE = 64  # units of the projection that a flattened grid gets unless another is asked for
_OF_THE_GRAPH = ("batch_size", *(field.name for field in fields(ModelConfig)))
_KEPT_TRAINERS = 16  # graphs with their weights; beyond it the one not used for longest goes


@dataclass(frozen=True)
class Scored:
    """What a model told: the logits of every split, and how long its training took."""

    logits: Mapping[str, NDArray[np.float32]]
    seconds: float


@dataclass(frozen=True)
class Trained(Scored):
    """A training: its model too, until the next training takes it, and how it went."""

    model: Any
    history: History


def graph_key(config: FitConfig) -> tuple[Any, ...]:
    """What two trainings on the same videos have in common if the second can use the graphs of the first."""
    return tuple(getattr(config, name) for name in _OF_THE_GRAPH)


@dataclass(frozen=True)
class Experiment:
    """Labelled videos of a feature set, as any number of trainings take them.

    Attributes:
        features: The feature set.
        labeled: Its videos, split up.
        task: What is to be told of them.
        sequences: Those of all splits, one after the other.
        batch_size: Sequences per step.
        statistics: Mean and variance per channel of the train split, ``(C,)``.
        resident_bytes: Features up to this size are held in memory; None for the limit of a process on its own.
    """

    features: FeatureSet
    labeled: LabeledVideos
    task: Task
    sequences: CachedSequences
    batch_size: int
    statistics: tuple[NDArray[np.float64], NDArray[np.float64]]
    resident_bytes: int | None = None

    @cached_property
    def rows(self) -> dict[str, NDArray[np.int64]]:
        """Positions of each split's videos in :attr:`sequences`."""
        counts = [len(self.labeled.splits[split]) for split in SPLITS]
        return dict(zip(SPLITS, np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1]), strict=True))

    @cached_property
    def targets(self) -> NDArray[Any]:
        """Targets of :attr:`sequences`."""
        videos = [video for split in SPLITS for video in self.labeled.splits[split]]
        return self.task.targets([self.labeled.labels[video.video_id] for video in videos])

    @cached_property
    def feed(self) -> Feed:
        """The batches of all trainings."""
        return self._feed_of(self.sequences)

    @cached_property
    def _trainers(self) -> OrderedDict[tuple[Any, ...], Trainer]:
        return OrderedDict()

    @cached_property
    def _baselines(self) -> dict[tuple[int, bool], Scored]:
        return {}

    @cached_property
    def _near_duplicates(self) -> dict[float, tuple[NearDuplicate, ...]]:
        return {}

    @cached_property
    def _mean_feed(self) -> Feed:
        return self.feed if self.task.per_frame else self._feed_of(MeanSequences(self.sequences))

    def settle(self, config: FitConfig) -> FitConfig:
        """The settings with what the features decide: a grid that is flattened gets a projection."""
        if (
            len(self.features.feature_shape) > 1
            and not config.dense
            and ":" not in config.model
            and config.model != "mean"
        ):
            return replace(config, dense=GRID_DENSE)
        return config

    def build(self, config: FitConfig) -> Any:
        """A model with fresh weights, those of the seed."""
        with quiet_stderr():
            import keras  # noqa: F401
            import tensorflow  # noqa: F401

        from framecache.train.models import build_model

        _set_seed(config)
        task, shape = self.task, self.features.feature_shape
        return build_model(config, shape, task.num_outputs, *self.statistics, task.per_frame, task.rescale)

    def train(
        self,
        config: FitConfig,
        folder: Path | None = None,
        progress: bool = False,
        on_epoch: OnEpoch | None = None,
        checkpoint: Checkpoint | None = None,
        feed: Feed | None = None,
    ) -> Trained:
        """Trains a model; where only numbers differ from an earlier training, its graphs are used again.

        Args:
            config: Settings, as :meth:`settle` gives them.
            folder: Where the history goes while it comes; None for nowhere.
            progress: Whether to show a progress bar, on a terminal.
            on_epoch: Called after each epoch with its measures; may raise to end the training.
            checkpoint: Where an interrupted training goes on from; None for none.
            feed: Its batches; None for those of the sequences.

        Raises:
            InputError: The loss is no longer a number.
        """
        trainer = self._trainer(config, feed or self.feed)
        begin = time.perf_counter()
        _set_seed(config)
        train, val = self.rows["train"], self.rows["val"]
        history = trainer.train(train, val, config, folder, progress, on_epoch, checkpoint)
        seconds = time.perf_counter() - begin
        logits = {split: trainer.logits(rows) for split, rows in self.rows.items() if len(rows)}
        return Trained(logits, seconds, trainer.model, history)

    def baseline(self, config: FitConfig) -> Scored:
        """The mean of all frames and a linear model, trained with the default settings; once per seed.

        Of frame labels, a linear model of each frame by itself.
        """
        key = (config.seed, config.class_weights)
        if key not in self._baselines:
            settings = FitConfig(model="mean", seed=config.seed, class_weights=config.class_weights)
            trained = self.train(settings, feed=self._mean_feed)
            self._baselines[key] = Scored(trained.logits, trained.seconds)
        return self._baselines[key]

    def near_duplicates(self, threshold: float) -> tuple[NearDuplicate, ...] | None:
        """Near-duplicates in two splits, which are looked for once; None for a threshold of 0: nobody looks."""
        if threshold and threshold not in self._near_duplicates:
            self._near_duplicates[threshold] = near_duplicates(self.features, self.labeled, threshold)
        return self._near_duplicates.get(threshold)

    def metrics(self, logits: Mapping[str, NDArray[np.float32]]) -> dict[str, dict[str, float] | None]:
        """Metrics on val and test; None for a split without videos."""
        return {split: self._metrics(split, logits[split]) if split in logits else None for split in ("val", "test")}

    def _metrics(self, split: str, logits: NDArray[np.float32]) -> dict[str, float]:
        rows = self.rows[split]
        return self.task.metrics(logits, self.feed.targets_of(rows), self.sequences.lengths[rows])

    def _feed_of(self, sequences: Sequences) -> Feed:
        from framecache.train.feed import Feed
        from framecache.train.models import standardisation

        standardise = standardisation(*self.statistics)
        return Feed(sequences, self.targets, self.batch_size, self.task.per_frame, self.resident_bytes, standardise)

    def _trainer(self, config: FitConfig, feed: Feed) -> Trainer:
        from framecache.train.trainer import Trainer

        model = self.build(config)
        key = (feed is self.feed, *graph_key(config))
        if key in self._trainers:
            self._trainers[key].begin(model)
            self._trainers.move_to_end(key)
        else:
            self._trainers[key] = Trainer(model, feed, self.task)
            while len(self._trainers) > _KEPT_TRAINERS:
                self._trainers.popitem(last=False)
        return self._trainers[key]


def _set_seed(config: FitConfig) -> None:
    """Seeds everything random: our own models draw the seeds of their layers from Python's generator.

    A user's may draw from any. TensorFlow's has a price: with it, TensorFlow forgets how to run the graphs that it has.
    """
    random.seed(config.seed)
    if ":" in config.model:
        import keras

        keras.utils.set_random_seed(config.seed)


def open_experiment(feature_set: str, config: FitConfig) -> Experiment:
    """Loads features and labels of a feature set, after all checks.

    Args:
        feature_set: Its name, with or without fingerprint, or a prefix.
        config: Settings; ``manifest`` is needed.

    Raises:
        InputError: A name, a label, a split or a setting is wrong, or features are hurt.
        ShardError: A shard is missing or cannot be read.
    """
    features = open_cache(config.cache)[feature_set]
    labeled = label_videos(features, config)
    video_ids = tuple(video.video_id for split in SPLITS for video in labeled.splits[split])
    refuse_fitted_on_held_out(features, labeled)
    refuse_hurt(features, video_ids)
    clips = ClipConfig(**{field.name: getattr(config, field.name) for field in fields(ClipConfig)})
    sequences = CachedSequences(features, video_ids, clips)
    statistics = channel_statistics(sequences, range(len(labeled.splits["train"])))
    return Experiment(features, labeled, make_task(config, labeled), sequences, config.batch_size, statistics)
