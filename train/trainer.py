"""One training: batches of one shape, early stopping on val, logits out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tqdm import tqdm

from framecache.train.config import FitConfig
from framecache.train.data import Sequences

_RESIDENT_BYTES = 1 << 30  # a split up to this size is held in memory, padded, and gathered by the graph
_MIN_DELTA = 0.005  # nats by which the loss on val must fall to count as better


@dataclass(frozen=True)
class History:
    """How a training went.

    Attributes:
        measures: Per measure (``loss``, ``accuracy``, ``val_loss``, ``val_accuracy``) its value after each epoch.
        best_epoch: The epoch whose weights were kept, counted from 1.
    """

    measures: Mapping[str, Sequence[float]]
    best_epoch: int

    @property
    def num_epochs(self) -> int:
        """Epochs that were trained."""
        return len(self.measures["loss"])


def _batches(
    sequences: Sequences,
    batch_size: int,
    seq_len: int,
    weights: Mapping[int, float] | None = None,
    seed: int | None = None,
) -> Any:
    """Batches of one shape, as a ``tf.data.Dataset`` of inputs, targets and weights.

    So that nothing is traced twice, empty rows of weight 0 fill the split up to whole batches. Keras divides a
    batch's weighted loss by the batch's size; the weights of the real rows make up for the empty ones, so that an
    epoch's loss is the mean over its videos.

    Args:
        sequences: What to batch, ``N`` videos.
        batch_size: Rows of each batch.
        seq_len: Length of each batch.
        weights: Weight per class; 1 for each if None.
        seed: Seed of the order of each epoch; None for the order as it is.
    """
    num_rows = -(-len(sequences) // batch_size) * batch_size
    empty = num_rows - len(sequences)
    targets = np.pad(sequences.targets, (0, empty))
    shares = np.array([(weights or {}).get(target, 1.0) for target in targets.tolist()], np.float32)
    shares *= np.where(np.arange(num_rows) < len(sequences), num_rows / len(sequences), 0).astype(np.float32)

    def gather(rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        real = rows < len(sequences)
        features, mask = sequences.batch(rows[real].tolist(), seq_len)
        spread_features = np.zeros((len(rows), *features.shape[1:]), np.float32)
        spread_mask = np.zeros((len(rows), seq_len), np.bool_)
        spread_features[real], spread_mask[real] = features, mask
        spread_mask[~real, 0] = True  # the mean of no frame at all would not be a number
        return spread_features, spread_mask

    shape = (seq_len, *sequences.features.feature_shape)
    resident = num_rows * math.prod(shape) * np.dtype(np.float32).itemsize <= _RESIDENT_BYTES
    held = [tf.constant(part) for part in gather(np.arange(num_rows))] if resident else []

    def take(rows: Any) -> Any:
        if resident:
            features, mask = (tf.gather(part, rows) for part in held)
        else:
            features, mask = tf.numpy_function(gather, [rows], (tf.float32, tf.bool))
            features.set_shape((batch_size, *shape))
            mask.set_shape((batch_size, seq_len))
        return {"features": features, "mask": mask}, tf.gather(targets, rows), tf.gather(shares, rows)

    rows = tf.data.Dataset.range(num_rows)
    if seed is not None:
        rows = rows.shuffle(num_rows, seed=seed, reshuffle_each_iteration=True)
    return rows.batch(batch_size, drop_remainder=True).map(take).prefetch(tf.data.AUTOTUNE)


class _Progress(keras.callbacks.Callback):  # type: ignore[misc]
    def __init__(self, name: str, epochs: int, shown: bool) -> None:
        super().__init__()
        self._bar = tqdm(total=epochs, unit="epoch", desc=name, disable=None if shown else True)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        self._bar.set_postfix_str(f"loss {logs.get('loss', 0):.3f}, val accuracy {logs.get('val_accuracy', 0):.3f}")
        self._bar.update()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self._bar.close()


def train_model(
    model: Any,
    train: Sequences,
    val: Sequences,
    seq_len: int,
    config: FitConfig,
    weights: dict[int, float] | None,
    folder: Path | None = None,
    progress: bool = False,
) -> History:
    """Trains until the loss on val stops falling; the model ends with its best weights.

    Args:
        model: As :func:`~framecache.train.models.build_model` gives it.
        train: Sequences to learn from.
        val: Sequences that decide when to stop.
        seq_len: Length that all batches are padded to.
        config: Settings.
        weights: Weight per class, or None.
        folder: Where ``history.csv`` and TensorBoard's events go; None for nowhere.
        progress: Whether to show a progress bar, on a terminal.
    """
    model.compile(
        optimizer=keras.optimizers.Adam(config.learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    stopping = keras.callbacks.EarlyStopping(
        "val_loss", min_delta=_MIN_DELTA, patience=config.patience, restore_best_weights=True
    )
    callbacks = [stopping, _Progress(model.name, config.epochs, progress)]
    if folder is not None:
        callbacks.append(keras.callbacks.CSVLogger(folder / "history.csv"))
        callbacks.append(keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False))
    history = model.fit(
        _batches(train, config.batch_size, seq_len, weights, config.seed),
        validation_data=_batches(val, config.batch_size, seq_len),
        epochs=config.epochs,
        callbacks=callbacks,
        shuffle=False,
        verbose=0,
    )
    return History(history.history, stopping.best_epoch + 1)


def predict_logits(model: Any, sequences: Sequences, seq_len: int, batch_size: int) -> NDArray[np.float32]:
    """Logits ``(N, num_classes)`` of all sequences, in their order, from batches of one shape."""
    logits: NDArray[np.float32] = model.predict(_batches(sequences, batch_size, seq_len), verbose=0)
    return logits[: len(sequences)]
