"""What a run says of a video, in the words of its task: classes and probabilities, labels, a number, segments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.train.tasks.metrics import log_softmax
from framecache.train.tasks.segmental import segments

COLUMNS = ("video_id", "source", "status", "reason", "start", "end", "rank", "label", "score")


@dataclass(frozen=True)
class Question:
    """How logits are told.

    Attributes:
        task: Name of the task.
        classes: Names of the outputs; none of a regression.
        top_k: Of classification, so many of the likeliest classes are told.
        threshold: Of several labels, those of at least this probability are told.
    """

    task: str
    classes: tuple[str, ...]
    top_k: int = 5
    threshold: float = 0.5

    def scores(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probabilities ``(N, num_outputs)`` that logits ``(N, num_outputs)`` stand for; numbers as they are."""
        if self.task == "regression":
            return logits.astype(np.float64)
        if self.task == "multilabel":
            found: NDArray[np.float64] = np.exp(-np.logaddexp(0, -logits.astype(np.float64)))
            return found
        return np.exp(log_softmax(logits))

    def told(self, logits: NDArray[np.floating]) -> list[tuple[str, float]]:
        """Labels of one video (or window), the likeliest first, and their probabilities; a number has no label."""
        (scores,) = self.scores(logits[None])
        if self.task == "regression":
            return [("", float(scores[0]))]
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] >= self.threshold] if self.task == "multilabel" else order[: self.top_k]
        return [(self.classes[number], float(scores[number])) for number in order.tolist()]

    def segments(
        self, logits: NDArray[np.floating], timestamps_ms: NDArray[np.float64]
    ) -> list[tuple[float, float, str, float]]:
        """Stretches of frames of one class: start and end in seconds, the class, and its mean probability there.

        Args:
            logits: Of each frame, ``(T, num_classes)``.
            timestamps_ms: Of each frame, ``(T,)``.
        """
        scores, ends = self.scores(logits), frame_ends(timestamps_ms)
        classes = scores.argmax(axis=1)
        return [
            (
                float(timestamps_ms[begin] / 1000),
                float(ends[end - 1] / 1000),
                self.classes[number],
                float(scores[begin:end, number].mean()),
            )
            for number, begin, end in segments(classes, np.ones(len(classes), np.bool_)).tolist()
        ]


@dataclass(frozen=True, eq=False)
class Answer:
    """What a run says of one video.

    Attributes:
        video_id: Its name.
        source: Its path.
        reason: Why nothing can be said; empty if something is.
        is_cached: Whether its features came from the cache.
        num_frames: Frames of it in the run's feature set; those of the sequences only, where others were not needed.
        logits: ``(num_outputs,)``; of frame labels ``(T, num_outputs)``.
        timestamps_ms: Of its frames, ``(T,)``.
        windows: Start, end in seconds and logits of each stretch that was scored by itself.
        warnings: What was odd.
    """

    video_id: str
    source: str
    reason: str = ""
    is_cached: bool = False
    num_frames: int = 0
    logits: NDArray[np.float32] | None = None
    timestamps_ms: NDArray[np.float64] | None = None
    windows: Sequence[tuple[float, float, NDArray[np.float32]]] = ()
    warnings: Sequence[str] = ()

    def to_json(self, question: Question) -> dict[str, Any]:
        """One line of JSON; ``scores`` of a video, or ``segments`` of frame labels, and ``windows`` if any."""
        head = {"video_id": self.video_id, "source": self.source}
        if self.logits is None or self.timestamps_ms is None:
            return {**head, "status": "failed", "reason": self.reason}
        line = {**head, "status": "ok", "cached": self.is_cached, "num_frames": self.num_frames}
        if self.warnings:
            line["warnings"] = list(self.warnings)
        if question.task == "frames":
            found = question.segments(self.logits, self.timestamps_ms)
            line["segments"] = [
                {"start": start, "end": end, "label": label, "score": score} for start, end, label, score in found
            ]
        else:
            line["scores"] = _scores(question.told(self.logits))
        if self.windows:
            line["windows"] = [
                {"start": start, "end": end, "scores": _scores(question.told(logits))}
                for start, end, logits in self.windows
            ]
        return line

    def rows(self, question: Question) -> Iterator[tuple[str, ...]]:
        """Rows of CSV, in :data:`COLUMNS`: one per label that is told; a row with a start is of a part of the video."""
        head = (self.video_id, self.source)
        if self.logits is None or self.timestamps_ms is None:
            yield (*head, "failed", self.reason, "", "", "", "", "")
            return
        if question.task == "frames":
            for start, end, label, score in question.segments(self.logits, self.timestamps_ms):
                yield (*head, "ok", "", f"{start:.6g}", f"{end:.6g}", "1", label, f"{score:.6g}")
            return
        for span, logits in [(("", ""), self.logits), *(_span(window) for window in self.windows)]:
            told = question.told(logits)
            for rank, (label, score) in enumerate(told, 1):
                yield (*head, "ok", "", *span, str(rank), label, f"{score:.6g}")
            if not told:  # no label is an answer too
                yield (*head, "ok", "", *span, "", "", "")


def frame_ends(timestamps_ms: NDArray[np.float64]) -> NDArray[np.float64]:
    """When each frame gives way to the next, ``(T,)`` in ms; the last is shown as long as the one before it."""
    if len(timestamps_ms) < 2:
        return timestamps_ms.copy()
    return np.append(timestamps_ms[1:], 2 * timestamps_ms[-1] - timestamps_ms[-2])


def _scores(told: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"label": label, "score": score} if label else {"score": score} for label, score in told]


def _span(window: tuple[float, float, NDArray[np.float32]]) -> tuple[tuple[str, str], NDArray[np.float32]]:
    start, end, logits = window
    return (f"{start:.6g}", f"{end:.6g}"), logits
