"""One training: an epoch is one call of a compiled graph; early stopping on val, the best weights kept."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tqdm import tqdm

from framecache.cache.errors import InputError
from framecache.train.config import FitConfig
from framecache.train.feed import Feed
from framecache.train.history import HistoryWriter
from framecache.train.lstm import hoist
from framecache.train.metrics import classification_metrics

_MIN_DELTA = 0.005  # nats by which the loss on val must fall to count as better
MEASURES = ("loss", "accuracy", "val_loss", "val_accuracy")


@dataclass(frozen=True)
class History:
    """How a training went.

    Attributes:
        measures: Per measure (``loss``, ``accuracy``, ``val_loss``, ``val_accuracy``) its value after each epoch.
        best_epoch: The epoch whose weights were kept, counted from 1.
        epoch_seconds: Wall time of each epoch; that of the first includes tracing and compiling the graphs.
    """

    measures: Mapping[str, Sequence[float]]
    best_epoch: int
    epoch_seconds: Sequence[float]

    @property
    def num_epochs(self) -> int:
        """Epochs that were trained."""
        return len(self.measures["loss"])

    @property
    def compile_seconds(self) -> float:
        """What the first epoch took beyond the median of the others: tracing and compiling."""
        first, *others = self.epoch_seconds
        return max(0.0, first - statistics.median(others)) if others else 0.0

    @property
    def train_seconds(self) -> float:
        """What all epochs took beyond that."""
        return sum(self.epoch_seconds) - self.compile_seconds


class Trainer:
    """Trains a model on a feed, and computes its logits.

    Args:
        model: As :func:`~framecache.train.models.build_model` gives it.
        feed: All sequences.
        weights: Weight per class ``(num_classes,)``; 1 for each if None.
    """

    def __init__(self, model: Any, feed: Feed, weights: NDArray[np.float32] | None = None) -> None:
        if not tf.config.list_physical_devices("GPU"):  # where there is one, Keras uses cuDNN
            hoist(model)
        self.model = model
        self._feed = feed
        self._weights = None if weights is None else tf.constant(weights, tf.float32)
        self._optimizer = keras.optimizers.Adam()
        self._optimizer.build(model.trainable_variables)
        self._epoch = tf.function(self._train_epoch)
        self._logits = tf.function(self._compute_logits)

    def train(
        self,
        train: NDArray[np.int64],
        val: NDArray[np.int64],
        config: FitConfig,
        folder: Path | None = None,
        progress: bool = False,
    ) -> History:
        """Trains until the loss on val stops falling; the model ends with its best weights.

        Args:
            train: Positions of the feed's sequences to learn from.
            val: Positions of those that decide when to stop.
            config: Settings.
            folder: Where ``history.csv`` and TensorBoard's events go; None for nowhere.
            progress: Whether to show a progress bar, on a terminal.

        Raises:
            InputError: The loss is no longer a number.
        """
        self._optimizer.learning_rate.assign(config.learning_rate)
        order = np.random.default_rng(config.seed)
        measures: dict[str, list[float]] = {name: [] for name in MEASURES}
        best_loss, best_epoch, best_weights = np.inf, 0, self.model.get_weights()
        seconds: list[float] = []
        with (
            HistoryWriter(folder) as history,
            tqdm(total=config.epochs, unit="epoch", desc=self.model.name, disable=None if progress else True) as bar,
        ):
            for epoch in range(1, config.epochs + 1):
                begin = time.perf_counter()
                found = self._epoch_and_val(order.permutation(train), val)
                seconds.append(time.perf_counter() - begin)
                if not np.isfinite([found["loss"], found["val_loss"]]).all():
                    raise InputError(
                        f"the loss is {found['loss']:g} (val {found['val_loss']:g}) after epoch {epoch}; training "
                        f"diverges at --learning-rate {config.learning_rate:g}: try a smaller one"
                    )
                for name, value in found.items():
                    measures[name].append(value)
                history.write(epoch, found)
                bar.set_postfix_str(f"loss {found['loss']:.3f}, val accuracy {found['val_accuracy']:.3f}")
                bar.update()
                if found["val_loss"] < best_loss - _MIN_DELTA:
                    best_loss, best_epoch, best_weights = found["val_loss"], epoch, self.model.get_weights()
                elif epoch >= best_epoch + config.patience:
                    break
        self.model.set_weights(best_weights)
        return History(measures, best_epoch, seconds)

    def logits(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits ``(n, num_classes)`` of some of the feed's sequences."""
        found: NDArray[np.float32] = self._logits(self._feed.batches(rows)).numpy()
        return found[: len(rows)]

    def run_epoch(self, rows: NDArray[np.int64]) -> dict[str, float]:
        """One pass over some of the feed's sequences, in this order.

        Returns:
            ``loss``, in nats, and ``accuracy``, means over them, each with the weights of its own step.
        """
        loss, hits = self._epoch(self._feed.batches(rows))
        return {"loss": float(loss) / len(rows), "accuracy": float(hits) / len(rows)}

    def _epoch_and_val(self, train: NDArray[np.int64], val: NDArray[np.int64]) -> dict[str, float]:
        found = self.run_epoch(train)
        on_val = classification_metrics(self.logits(val), self._feed.sequences.targets[val])
        return {**found, "val_loss": on_val["loss"], "val_accuracy": on_val["accuracy"]}

    def _train_epoch(self, batches: Any) -> tuple[Any, Any]:
        """Sum of the losses, and how many videos were told right."""
        total, hits = 0.0, 0.0
        for batch in self._feed.each(batches):
            loss, right = self._train_step(batch)
            total += loss
            hits += right
        return total, hits

    def _train_step(self, batch: Any) -> tuple[Any, Any]:
        """Sum of the losses of a batch, and how many of it were told right; the step is by their mean over ``B``."""
        inputs, targets, is_video = self._feed.take(batch)
        with tf.GradientTape() as tape:
            logits = self.model(inputs, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
            if self._weights is not None:
                losses *= tf.gather(self._weights, targets)
            loss = tf.reduce_sum(tf.where(is_video, losses, 0.0))
            mean = loss / self._feed.batch_size + sum(self.model.losses)
        gradients = tape.gradient(mean, [variable.value for variable in self.model.trainable_variables])
        self._optimizer.apply(gradients)
        right = is_video & (tf.argmax(logits, 1) == targets)
        return loss, tf.reduce_sum(tf.cast(right, tf.float32))

    def _compute_logits(self, batches: Any) -> Any:
        found = tf.TensorArray(tf.float32, 0, dynamic_size=True)
        for batch in self._feed.each(batches):
            inputs, *_ = self._feed.take(batch)
            found = found.write(found.size(), self.model(inputs, training=False))
        return found.concat()
