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
from framecache.train.config import FitConfig
from framecache.train.data import Sequences
from framecache.train.feed import Feed
from framecache.train.models import build_model
from framecache.train.trainer import Trainer

from .conftest import Data

TRAIN, VAL = np.arange(7), np.arange(7, 10)


@pytest.fixture
def sequences(data: Data) -> Sequences:
    features = open_cache(data.cache)[data.name]
    return Sequences(features, features.video_ids[:10], np.arange(10) % 2, 64)


def new_model(**settings: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    return build_model(FitConfig(dropout=0.0, **settings), (8,), 2, np.zeros(8), np.ones(8))


def cross_entropies(model: keras.Model, sequences: Sequences) -> np.ndarray:
    features, mask = sequences.batch(range(10), 9)
    logits = np.asarray(model({"features": features.astype(np.float32), "mask": mask}), np.float64)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -logs[np.arange(10), sequences.targets]


@pytest.mark.parametrize("weights", [None, [3.0, 0.5]])
def test_an_epochs_losses_are_means_over_its_videos_and_empty_rows_weigh_nothing(
    sequences: Sequences, weights: list[float] | None
) -> None:
    model = new_model(model="mean")
    losses = cross_entropies(model, sequences)
    weighed = losses * (np.ones(10) if weights is None else np.array(weights)[sequences.targets])
    trainer = Trainer(model, Feed(sequences, 4, 9), None if weights is None else np.array(weights, np.float32))
    history = trainer.train(TRAIN, VAL, FitConfig(epochs=1, learning_rate=1e-12))
    assert history.measures["loss"] == pytest.approx([weighed[TRAIN].mean()], rel=1e-5)
    assert history.measures["val_loss"] == pytest.approx([losses[VAL].mean()], rel=1e-5)


def test_one_step_moves_the_weights_as_keras_would(sequences: Sequences) -> None:
    ours, theirs = new_model(units=4), new_model(units=4)
    Trainer(ours, Feed(sequences, 7, 9)).train(TRAIN, VAL, FitConfig(epochs=1, learning_rate=0.01))
    features, mask = sequences.batch(range(7), 9)
    theirs.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    theirs.fit({"features": features, "mask": mask}, sequences.targets[:7], batch_size=7, shuffle=False, verbose=0)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_order_does_not(sequences: Sequences) -> None:
    def trained(seed: int) -> list[bytes]:
        model = new_model(units=4)
        Trainer(model, Feed(sequences, 4, 9)).train(TRAIN, VAL, FitConfig(epochs=3, seed=seed))
        return [weight.tobytes() for weight in model.get_weights()]

    first = trained(1)
    assert trained(1) == first
    assert trained(2) != first


def test_the_best_weights_are_kept_and_training_stops_when_patience_ends(sequences: Sequences) -> None:
    model = new_model(model="mean")
    trainer = Trainer(model, Feed(sequences, 4, 9))
    history = trainer.train(TRAIN, VAL, FitConfig(epochs=50, patience=3, learning_rate=2.0))
    losses = history.measures["val_loss"]
    assert history.num_epochs == history.best_epoch + 3 < 50
    assert losses[history.best_epoch - 1] == pytest.approx(cross_entropies(model, sequences)[VAL].mean(), rel=1e-5)


def test_a_loss_that_is_no_number_is_told_with_its_epoch(sequences: Sequences, tmp_path: Path) -> None:
    trainer = Trainer(new_model(model="mean", dense=4), Feed(sequences, 4, 9))
    with pytest.raises(InputError, match=re.escape("diverges at --learning-rate 1e+38")):
        trainer.train(TRAIN, VAL, FitConfig(epochs=5, learning_rate=1e38), tmp_path)
