"""One training: exact losses whatever the batches, weights per class, divergence told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from framecache.cache.errors import InputError
from framecache.cache.store import open_cache
from framecache.train.config import ClipConfig, FitConfig
from framecache.train.data import CachedSequences
from framecache.train.feed import Feed
from framecache.train.models import build_model
from framecache.train.tasks.registry import Classification
from framecache.train.trainer import Trainer

from .conftest import Data

TRAIN, VAL = np.arange(7), np.arange(7, 10)
TARGETS = np.arange(10) % 2
TASK = Classification(["down", "up"])


@pytest.fixture
def sequences(data: Data) -> CachedSequences:
    features = open_cache(data.cache)[data.name]
    return CachedSequences(features, features.video_ids[:10], ClipConfig(max_len=64))


def padded(sequences: CachedSequences) -> tuple[np.ndarray, np.ndarray]:
    features, mask = np.zeros((10, 9, 8), np.float32), np.zeros((10, 9), np.bool_)
    for row in range(10):
        frames = sequences.take(row)
        features[row, : len(frames)], mask[row, : len(frames)] = frames, True
    return features, mask


def new_model(**settings: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    return build_model(FitConfig(dropout=0.0, **settings), (8,), 2, np.zeros(8), np.ones(8))


def cross_entropies(model: keras.Model, sequences: CachedSequences) -> np.ndarray:
    features, mask = padded(sequences)
    logits = np.asarray(model({"features": features.astype(np.float32), "mask": mask}), np.float64)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -logs[np.arange(10), TARGETS]


@pytest.mark.parametrize("balanced", [False, True])
def test_an_epochs_losses_are_means_over_its_videos_and_empty_rows_weigh_nothing(
    sequences: CachedSequences, balanced: bool
) -> None:
    model = new_model(model="mean")
    losses = cross_entropies(model, sequences)
    weighed = losses * (np.array([7 / 8, 7 / 6]) if balanced else np.ones(2))[TARGETS]
    trainer = Trainer(model, Feed(sequences, TARGETS, 4), TASK)
    history = trainer.train(TRAIN, VAL, FitConfig(epochs=1, learning_rate=1e-12, class_weights=balanced))
    assert history.measures["loss"] == pytest.approx([weighed[TRAIN].mean()], rel=1e-5)
    assert history.measures["val_loss"] == pytest.approx([losses[VAL].mean()], rel=1e-5)


def test_one_step_moves_the_weights_as_keras_would(sequences: CachedSequences) -> None:
    ours, theirs = new_model(units=4), new_model(units=4)
    Trainer(ours, Feed(sequences, TARGETS, 7), TASK).train(TRAIN, VAL, FitConfig(epochs=1, learning_rate=0.01))
    features, mask = padded(sequences)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    theirs.compile(keras.optimizers.Adam(0.01), loss, run_eagerly=True)
    theirs.fit({"features": features[:7], "mask": mask[:7]}, TARGETS[:7], batch_size=7, shuffle=False, verbose=0)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_order_does_not(sequences: CachedSequences) -> None:
    def trained(trainer: Trainer, seed: int) -> list[bytes]:
        trainer.train(TRAIN, VAL, FitConfig(epochs=3, seed=seed))
        return [weight.tobytes() for weight in trainer.model.get_weights()]

    one, other = (Trainer(new_model(units=4), Feed(sequences, TARGETS, 4), TASK) for _ in range(2))
    first = trained(one, 1)
    assert trained(other, 1) == first
    other.begin(new_model(units=4))
    assert trained(other, 2) != first


def test_the_best_weights_are_kept_and_training_stops_when_patience_ends(sequences: CachedSequences) -> None:
    model = new_model(model="mean")
    trainer = Trainer(model, Feed(sequences, TARGETS, 4), TASK)
    history = trainer.train(TRAIN, VAL, FitConfig(epochs=50, patience=3, learning_rate=2.0))
    losses = history.measures["val_loss"]
    assert history.num_epochs == history.best_epoch + 3 < 50
    assert losses[history.best_epoch - 1] == pytest.approx(cross_entropies(model, sequences)[VAL].mean(), rel=1e-5)


def test_a_loss_that_is_no_number_is_told_with_its_epoch(sequences: CachedSequences, tmp_path: Path) -> None:
    trainer = Trainer(new_model(model="mean", dense=4), Feed(sequences, TARGETS, 4), TASK)
    with pytest.raises(InputError, match=re.escape("diverges at --learning-rate 1e+38")):
        trainer.train(TRAIN, VAL, FitConfig(epochs=5, learning_rate=1e38), tmp_path)


def test_a_second_training_by_the_same_graphs_has_the_numbers_of_a_trainer_of_its_own(
    sequences: CachedSequences,
) -> None:
    first, second = FitConfig(epochs=2, learning_rate=0.05, seed=3), FitConfig(epochs=3, seed=4, class_weights=True)
    settings = {"units": 4, "feature_dropout": 0.3, "noise": 0.1}

    def fresh() -> Trainer:
        return Trainer(new_model(**settings), Feed(sequences, TARGETS, 4), TASK)

    alone, shared = fresh(), fresh()
    expected = alone.train(TRAIN, VAL, second)
    shared.train(TRAIN, VAL, first)
    shared.begin(new_model(**settings))
    assert shared.train(TRAIN, VAL, second).measures == expected.measures
    for one, other in zip(alone.model.get_weights(), shared.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
