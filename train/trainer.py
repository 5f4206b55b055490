"""One training: batches of one shape, early stopping on val, logits out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from framecache.train.config import FitConfig
from framecache.train.data import Sequences

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


class _Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of one shape: the last one is filled up with rows of weight 0, so that nothing is traced twice.

    Keras divides a batch's weighted loss by the batch's size; the weights of real rows make up for the others,
    so that an epoch's loss is the mean over its videos.

    Args:
        sequences: What to batch.
        batch_size: Rows of each batch.
        seq_len: Length of each batch.
        weights: Weight per class; None where the batches are not trained on.
        rng: Order of each epoch; None for the order as it is.
    """

    def __init__(
        self,
        sequences: Sequences,
        batch_size: int,
        seq_len: int,
        weights: dict[int, float] | None = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__()
        self._sequences = sequences
        self._batch_size = batch_size
        self._seq_len = seq_len
        self._weights = weights or {}
        self._rng = rng
        self._order = np.arange(len(sequences))
        self.on_epoch_end()

    def __len__(self) -> int:
        return -(-len(self._order) // self._batch_size)

    def __getitem__(self, index: int) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64], NDArray[np.float32]]:
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        features, mask = self._sequences.batch(rows.tolist(), self._seq_len)
        targets = self._sequences.targets[rows]
        share = len(self) * self._batch_size / len(self._order)
        weights = np.array([share * self._weights.get(target, 1.0) for target in targets.tolist()], np.float32)
        missing = self._batch_size - len(rows)
        features = np.pad(features, [(0, missing)] + [(0, 0)] * (features.ndim - 1))
        mask = np.pad(mask, [(0, missing), (0, 0)])
        mask[len(rows) :, 0] = True  # the mean of no frame at all would not be a number
        return (
            {"features": features, "mask": mask},
            np.pad(targets, (0, missing)),
            np.pad(weights, (0, missing)),
        )

    def on_epoch_end(self) -> None:
        if self._rng is not None:
            self._rng.shuffle(self._order)


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
        _Batches(train, config.batch_size, seq_len, weights, np.random.default_rng(config.seed)),
        validation_data=_Batches(val, config.batch_size, seq_len),
        epochs=config.epochs,
        callbacks=callbacks,
        shuffle=False,
        verbose=0,
    )
    return History(history.history, stopping.best_epoch + 1)


def predict_logits(model: Any, sequences: Sequences, seq_len: int, batch_size: int) -> NDArray[np.float32]:
    """Logits ``(N, num_classes)`` of all sequences, in their order, from batches of one shape."""
    batches = _Batches(sequences, batch_size, seq_len)
    logits: NDArray[np.float32] = model.predict(batches, verbose=0)
    return logits[: len(sequences)]
