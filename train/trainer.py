"""One training: an epoch is one call of a compiled graph; early stopping on val, the best weights kept."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tqdm import tqdm

from framecache.cache.errors import InputError
from framecache.train.adam import Adam
from framecache.train.checkpoint import Checkpoint, TrainingState, held_interrupts
from framecache.train.config import FitConfig
from framecache.train.feed import Batches, Feed
from framecache.train.history import HistoryWriter
from framecache.train.lstm import hoist
from framecache.train.tasks.task import Task

_MIN_DELTA = 0.005  # nats by which the loss on val must fall to count as better
OnEpoch = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class History:
    """How a training went.

    Attributes:
        measures: ``loss`` and the task's score, and on val both and its measure (``val_loss``, …): the values after
            each epoch.
        best_epoch: The epoch whose weights were kept, counted from 1.
        epoch_seconds: Wall time of each epoch; that of the first includes tracing and compiling the graphs.
        starts: Epochs that were the first of their process, counted from 1; several after interruptions.
    """

    measures: Mapping[str, Sequence[float]]
    best_epoch: int
    epoch_seconds: Sequence[float]
    starts: Sequence[int] = (1,)

    @property
    def num_epochs(self) -> int:
        """Epochs that were trained."""
        return len(self.measures["loss"])

    @property
    def compile_seconds(self) -> float:
        """What the first epoch of each process took beyond the median of the others: tracing and compiling."""
        firsts = [self.epoch_seconds[start - 1] for start in self.starts if start <= self.num_epochs]
        others = [seconds for epoch, seconds in enumerate(self.epoch_seconds, 1) if epoch not in self.starts]
        return sum(max(0.0, first - statistics.median(others)) for first in firsts) if others else 0.0

    @property
    def train_seconds(self) -> float:
        """What all epochs took beyond that."""
        return sum(self.epoch_seconds) - self.compile_seconds


class Trainer:
    """Trains a model on a feed, and computes its logits.

    Args:
        model: As :func:`~framecache.train.models.build_model` gives it.
        feed: All sequences.
        task: What the model is to tell.
    """

    def __init__(self, model: Any, feed: Feed, task: Task) -> None:
        if not tf.config.list_physical_devices("GPU"):  # where there is one, Keras uses cuDNN
            hoist(model)
        self.model = model
        self._feed = feed
        self._task = task
        self._weights = tf.Variable(tf.ones(task.num_outputs))
        self._optimizer = Adam()
        self._optimizer.build(model.trainable_variables)
        # As in Keras' own fit, nobody's code is rewritten for the graph, which would take seconds.
        self._epoch = tf.function(self._train_epoch, autograph=False, reduce_retracing=True)
        self._logits = tf.function(self._compute_logits, autograph=False, reduce_retracing=True)

    def begin(self, model: Any) -> None:
        """Starts afresh from the weights of another model of the same shape; the graphs stay.

        Its random state is taken over too, so that the numbers are those of a trainer of its own.
        """
        for mine, theirs in zip(self.model.variables, model.variables, strict=True):
            mine.assign(theirs)
        for variable in self._optimizer.variables:
            variable.assign(tf.zeros_like(variable.value))

    def train(
        self,
        train: NDArray[np.int64],
        val: NDArray[np.int64],
        config: FitConfig,
        folder: Path | None = None,
        progress: bool = False,
        on_epoch: OnEpoch | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> History:
        """Trains until the loss on val stops falling; the model ends with its best weights.

        Args:
            train: Positions of the feed's sequences to learn from.
            val: Positions of those that decide when to stop.
            config: Settings.
            folder: Where ``history.csv`` and TensorBoard's events go; None for nowhere.
            progress: Whether to show a progress bar, on a terminal.
            on_epoch: Called after each epoch, counted from 1, with its measures; may raise to end the training.
            checkpoint: Where it goes on from, if there is one, to the same numbers; and is saved to now and then.

        Raises:
            InputError: The loss is no longer a number.
            KeyboardInterrupt: After the epoch under way, which is saved if there is a checkpoint.
        """
        self._optimizer.learning_rate.assign(config.learning_rate)
        self._weights.assign(self._task.weights(self._feed.targets_of(train), config.class_weights))
        variables = [*self.model.variables, *self._optimizer.variables]
        state = (checkpoint and checkpoint.load(variables)) or TrainingState(best_weights=self._snapshot())
        state.starts.append(state.epoch + 1)
        measure = self._task.measure
        with (
            HistoryWriter(folder, state.measures) as history,
            tqdm(
                total=config.epochs,
                initial=state.epoch,
                unit="epoch",
                desc=self.model.name,
                disable=None if progress else True,
            ) as bar,
            held_interrupts() if checkpoint is not None else nullcontext(lambda: False) as is_interrupted,
        ):
            while state.epoch < min(config.epochs, state.best_epoch + config.patience):
                begin = time.perf_counter()
                epoch = state.epoch + 1
                found = self.run_epoch(train, config.seed, epoch) | self._on_val(val)
                if not np.isfinite([found["loss"], found["val_loss"]]).all():
                    raise InputError(
                        f"the loss is {found['loss']:g} (val {found['val_loss']:g}) after epoch {epoch}; training "
                        f"diverges at --learning-rate {config.learning_rate:g}: try a smaller one"
                    )
                for name, value in found.items():
                    state.measures.setdefault(name, []).append(value)
                if found["val_loss"] < state.best_loss - _MIN_DELTA:
                    state.best_loss, state.best_epoch = found["val_loss"], epoch
                    state.best_weights = self._snapshot()
                state.seconds.append(time.perf_counter() - begin)
                history.write(epoch, found)
                bar.set_postfix_str(f"loss {found['loss']:.3f}, val {measure} {found[f'val_{measure}']:.3f}")
                bar.update()
                if on_epoch is not None:
                    on_epoch(epoch, found)
                if checkpoint is not None:
                    checkpoint.save_if_due(state, variables, is_interrupted())
                if is_interrupted():
                    raise KeyboardInterrupt
        self.model.set_weights(state.best_weights)
        return History(state.measures, state.best_epoch, state.seconds, state.starts)

    def logits(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of some of the feed's videos, means over their sequences.

        Returns:
            ``(n, num_outputs)``; of a task with targets per frame ``(F, num_outputs)``, for all frames of the videos,
            one video after the other.
        """
        sums, counts = self._sums_per_frame(rows) if self._feed.per_frame else self._sums(rows)
        found: NDArray[np.float32] = np.divide(sums, counts[:, None], dtype=np.float32)
        return found

    def run_epoch(self, rows: NDArray[np.int64], seed: int, epoch: int) -> dict[str, float]:
        """One pass over some of the feed's videos, in an order that seed and epoch decide.

        Returns:
            ``loss`` and the task's score, means over them, each with the weights of its own step.
        """
        loss, score, count = 0.0, 0.0, 0
        for batches in self._feed.training(rows, seed, epoch):
            loss_of, score_of = self._epoch(batches)
            loss, score = loss + float(loss_of), score + float(score_of)
            count += int((batches.rows.numpy() >= 0).sum())
        return {"loss": loss / count, self._task.score: score / count}

    def _snapshot(self) -> list[Any]:
        """The weights as they are now; a variable is copied only when it changes, by TensorFlow itself."""
        return [tf.convert_to_tensor(variable.value) for variable in self.model.weights]

    def _on_val(self, val: NDArray[np.int64]) -> dict[str, float]:
        metrics = self._task.metrics(self.logits(val), self._feed.targets_of(val))
        return {f"val_{name}": metrics[name] for name in ("loss", self._task.score, self._task.measure)}

    def _scored(self, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Any]]:
        """Batch by batch: place of each sequence's video in ``rows`` (``n`` for an empty row), positions, logits."""
        place = np.full(len(self._feed.starts), len(rows))
        place[rows] = np.arange(len(rows))
        for batches in self._feed.evaluation(rows):
            row, positions = batches.rows.numpy().reshape(-1), batches.positions.numpy()
            yield place[row], positions.reshape(len(row), -1), self._logits(batches).numpy()

    def _sums(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Sums of logits ``(n, num_outputs)`` and counts ``(n,)`` over each video's sequences."""
        sums = np.zeros((len(rows) + 1, self._task.num_outputs), np.float32)
        counts = np.zeros(len(sums), np.int64)
        for place, _, logits in self._scored(rows):
            np.add.at(sums, place, logits)
            np.add.at(counts, place, 1)
        return sums[:-1], counts[:-1]

    def _sums_per_frame(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The same, ``(F, num_outputs)`` and ``(F,)``, of each frame of some videos."""
        ends = np.cumsum(self._feed.sequences.lengths[rows])
        starts = np.concatenate([[0], ends])
        sums = np.zeros((ends[-1] + 1, self._task.num_outputs), np.float32)
        counts = np.zeros(len(sums), np.int64)
        for place, positions, logits in self._scored(rows):
            is_frame = (positions >= 0) & (place < len(rows))[:, None]
            frames = np.where(is_frame, starts[place][:, None] + positions, ends[-1])
            np.add.at(sums, frames, logits)
            np.add.at(counts, frames, 1)
        return sums[:-1], counts[:-1]

    def _train_epoch(self, batches: Batches) -> tuple[Any, Any]:
        """Sums of the losses and of the scores."""
        read = self._feed.reader(batches)

        def step(number: Any, total: Any, score: Any) -> tuple[Any, Any, Any]:
            loss_of, score_of = self._train_step(*read(number))
            return number + 1, total + loss_of, score + score_of

        _, total, score = _while_below(tf.shape(batches.rows)[0], step, 0.0, 0.0)
        return total, score

    def _train_step(self, inputs: Mapping[str, Any], targets: Any, is_video: Any) -> tuple[Any, Any]:
        """Sums of the losses and scores of a batch; the step is by the mean of the losses over ``B``."""
        with tf.GradientTape() as tape:
            logits = self._told(inputs, training=True)
            loss = tf.reduce_sum(tf.where(is_video, self._task.losses(logits, targets, self._weights), 0.0))
            mean = loss / self._feed.batch_size + sum(self.model.losses)
        gradients = tape.gradient(mean, [variable.value for variable in self.model.trainable_variables])
        self._optimizer.apply(gradients)
        return loss, tf.reduce_sum(tf.where(is_video, self._task.scores(logits, targets), 0.0))

    def _told(self, inputs: Mapping[str, Any], training: bool) -> Any:
        """Within a graph: what the model makes of a batch, whose features may be standardised already."""
        if not self._feed.is_standardised:
            return self.model(inputs, training=training)
        layer = self.model.get_layer("standardise")
        layer.call = lambda features: features  # of this object only, and while it is traced
        try:
            return self.model(inputs, training=training)
        finally:
            del layer.call

    def _compute_logits(self, batches: Batches) -> Any:
        read, count = self._feed.reader(batches), tf.shape(batches.rows)[0]

        def step(number: Any, found: Any) -> tuple[Any, Any]:
            inputs, *_ = read(number)
            return number + 1, found.write(number, self._told(inputs, training=False))

        _, found = _while_below(count, step, tf.TensorArray(tf.float32, count))
        return found.concat()


def _while_below(count: Any, step: Callable[..., tuple[Any, ...]], *carried: Any) -> tuple[Any, ...]:
    """Within a graph: calls ``step(number, *carried)``, which gives the next of both, while number is below count."""
    found: tuple[Any, ...] = tf.while_loop(
        lambda number, *_: number < count, step, (0, *carried), maximum_iterations=count
    )
    return found
