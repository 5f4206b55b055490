"""A trained run as what it is for: features in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError
from framecache.cache.quiet import quiet_stderr
from framecache.cache.spec import Spec
from framecache.train.clips import Positions, evaluation_sequences, kept
from framecache.train.config import ClipConfig
from framecache.train.inference import load_model
from framecache.train.runs import RUN_FILE, Run
from framecache.train.tasks.registry import TASKS

Floats = NDArray[np.float32]


class Scorer:
    """The model of a finished run.

    Attributes:
        task: Name of its task.
        classes: Names of its outputs; none of a regression.
        clips: How a video becomes sequences.
        per_frame: Whether it gives logits for each frame.
        feature_shape: Shape of one frame's features.

    Args:
        run: The run.
        batch_size: Sequences at a time.

    Raises:
        InputError: Its ``run.json`` does not say what it is.
    """

    def __init__(self, run: Run, batch_size: int = 16) -> None:
        config = run.config()
        classes = run.record.get("classes")
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise InputError(f"{run.folder / RUN_FILE}: expected the names of its classes, found none; train it again")
        self.task = config.task
        self.classes: tuple[str, ...] = tuple(classes)
        self.clips = ClipConfig(**{field.name: getattr(config, field.name) for field in fields(ClipConfig)})
        self.per_frame = TASKS[config.task].per_frame
        self.feature_shape = Spec.from_dict(run.record.get("spec") or {}, str(run.folder / RUN_FILE)).feature_shape
        self._run = run
        self._batch_size = batch_size

    @property
    def num_outputs(self) -> int:
        """Numbers per video, or per frame."""
        return len(self.classes) or 1

    @cached_property
    def model(self) -> Any:
        """The Keras model, loaded when it is first asked for.

        Raises:
            InputError: It cannot be loaded, or is not the one that ``run.json`` speaks of.
        """
        path = self._run.folder / "model.keras"
        try:
            model = load_model(self._run)
            found = {one.name: tuple(one.shape) for one in model.inputs} | {"logits": tuple(model.output.shape)}
        except Exception as error:  # Keras raises whatever the parts of a file make it raise
            reason = str(error).strip().partition("\n")[0]
            raise InputError(f"{path}: cannot be loaded ({reason}); train the run again") from error
        logits = (None, None, self.num_outputs) if self.per_frame else (None, self.num_outputs)
        wanted = {"features": (None, None, *self.feature_shape), "mask": (None, None), "logits": logits}
        if found != wanted:
            raise InputError(f"{path}: expected a model of {wanted}, found {found}; train the run again")
        return model

    @cached_property
    def _compute(self) -> Any:
        with quiet_stderr():
            import tensorflow as tf
        model = self.model
        signature = [
            tf.TensorSpec((self._batch_size, None, *self.feature_shape), tf.float32),
            tf.TensorSpec((self._batch_size, None), tf.bool),
        ]
        # One trace for all lengths.
        return tf.function(
            lambda features, mask: model({"features": features, "mask": mask}, training=False),
            input_signature=signature,
            autograph=False,
        )

    def kept(self, length: int) -> Positions | None:
        """Frames that count of a video of so many, ``(n,)``; None for all."""
        return kept(length, self.clips)

    def logits(self, videos: Sequence[NDArray[np.floating]]) -> list[Floats]:
        """Logits of videos, means over the sequences that the run's evaluation makes of them.

        Args:
            videos: Features ``(T, *feature_shape)`` of each, all of its frames or those that :meth:`kept` leaves.

        Returns:
            Of each ``(num_outputs,)``; of frame labels ``(T, num_outputs)``.
        """
        videos = [video if (chosen := self.kept(len(video))) is None else video[chosen] for video in videos]
        sequences = [
            (number, positions)
            for number, video in enumerate(videos)
            for positions in evaluation_sequences(len(video), self.clips, self.per_frame)
        ]
        # Alike in length, so that little of a batch is padding.
        sequences.sort(key=lambda sequence: len(sequence[1]))
        shapes = [(len(video), self.num_outputs) if self.per_frame else (self.num_outputs,) for video in videos]
        sums = [np.zeros(shape, np.float32) for shape in shapes]
        counts = [np.zeros(shape[:-1], np.float32) for shape in shapes]
        for begin in range(0, len(sequences), self._batch_size):
            batch = sequences[begin : begin + self._batch_size]
            for (number, positions), logits in zip(batch, self._run_batch(videos, batch), strict=False):
                if self.per_frame:
                    sums[number][positions] += logits[: len(positions)]
                    counts[number][positions] += 1
                else:
                    sums[number] += logits
                    counts[number] += 1
        return [np.divide(total, count[..., None], dtype=np.float32) for total, count in zip(sums, counts, strict=True)]

    def _run_batch(self, videos: Sequence[NDArray[np.floating]], batch: Sequence[tuple[int, Positions]]) -> Floats:
        longest = max(len(positions) for _, positions in batch)
        features = np.zeros((self._batch_size, longest, *self.feature_shape), np.float32)
        mask = np.zeros((self._batch_size, longest), np.bool_)
        mask[:, 0] = True  # the mean of no frame would not be a number
        for row, (number, positions) in enumerate(batch):
            features[row, : len(positions)] = videos[number][positions]
            mask[row, : len(positions)] = True
        found: Floats = self._compute(features, mask).numpy()
        return found
