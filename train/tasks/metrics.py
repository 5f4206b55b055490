"""Metrics from logits: of one class, of several, and of a number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def log_softmax(logits: NDArray[np.floating]) -> Floats:
    """Logarithms of the probabilities ``(N, num_classes)`` that logits ``(N, num_classes)`` stand for."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    logs: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def confusion_matrix(targets: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Counts ``(num_classes, num_classes)``, rows the true class and columns the predicted one."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (targets, predicted), 1)
    return counts


def classification_metrics(
    logits: NDArray[np.floating], targets: NDArray[np.int64], top_k: int = 5
) -> dict[str, float]:
    """Accuracy, top-k accuracy, macro F1 and cross-entropy.

    Args:
        logits: ``(N, num_classes)``.
        targets: True classes ``(N,)``.
        top_k: How many of the highest logits may hold the true class.

    Returns:
        ``accuracy`` and ``top5`` (of another ``top_k``: ``top3``, …) in [0, 1], 1 with so many classes or fewer;
        ``macro_f1`` in [0, 1], the unweighted mean of F1 = 2TP / (2TP + FP + FN) over the classes that occur in
        targets or predictions; and ``loss``, the mean cross-entropy in nats.
    """
    rows = np.arange(len(targets))
    predicted = logits.argmax(axis=1)
    above = (logits > logits[rows, targets][:, None]).sum(axis=1)
    counts = confusion_matrix(targets, predicted, logits.shape[1])
    return {
        "accuracy": float((predicted == targets).mean()),
        f"top{top_k}": float((above < top_k).mean()),
        "macro_f1": _macro_f1(counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1)),
        "loss": float(-log_softmax(logits)[rows, targets].mean()),
    }


def multilabel_metrics(logits: NDArray[np.floating], targets: NDArray[np.bool_]) -> dict[str, float]:
    """Mean average precision, ranking of the labels within each video, F1 and binary cross-entropy.

    Args:
        logits: ``(N, num_classes)``; a label with a logit above 0, a probability above 0.5, is predicted.
        targets: Which labels are true, ``(N, num_classes)``; one of them at least.

    Returns:
        ``map`` in [0, 1], the mean over the classes with a true label of the average precision; ``lrap`` in [0, 1],
        label ranking average precision (Tsoumakas, Katakis, Vlahavas 2010, sec. 34.3.2); ``macro_f1`` over the classes
        that occur in targets or predictions and ``micro_f1`` over all labels, in [0, 1]; and ``loss``, the mean
        binary cross-entropy of videos and classes, in nats.
    """
    predicted = logits > 0
    hits, found, true = (predicted & targets).sum(axis=0), predicted.sum(axis=0), targets.sum(axis=0)
    signed = np.where(targets, -logits, logits).astype(np.float64)
    return {
        "map": float(np.nanmean(average_precision(logits, targets))),
        "lrap": float(ranking_precision(logits, targets).mean()),
        "macro_f1": _macro_f1(hits, found, true),
        "micro_f1": float(2 * hits.sum() / (found.sum() + true.sum())),
        "loss": float(np.logaddexp(0, signed).mean()),
    }


def average_precision(logits: NDArray[np.floating], targets: NDArray[np.bool_]) -> Floats:
    """Average precision per class: the sum over falling thresholds of the recall gained times the precision there.

    Args:
        logits: ``(N, num_classes)``; videos of equal logits are taken at once.
        targets: Which labels are true, ``(N, num_classes)``.

    Returns:
        ``(num_classes,)`` in [0, 1]; nan for a class without a true label.
    """
    precisions = np.full(logits.shape[1], np.nan)
    for column in np.flatnonzero(targets.any(axis=0)):
        order = np.argsort(-logits[:, column], kind="stable")
        last = np.flatnonzero(np.diff(logits[order, column], append=np.inf))  # of each run of equal logits
        hits = np.cumsum(targets[order, column])[last]
        precisions[column] = np.diff(hits, prepend=0) @ (hits / (last + 1)) / hits[-1]
    return precisions


def ranking_precision(logits: NDArray[np.floating], targets: NDArray[np.bool_]) -> Floats:
    """Of each video the mean precision at each of its labels, by falling logit; 1 for a video without any; ``(N,)``."""
    order = np.argsort(-logits, axis=1, kind="stable")
    true = np.take_along_axis(targets, order, axis=1)
    precision = true.cumsum(axis=1) / np.arange(1, true.shape[1] + 1)
    counts = true.sum(axis=1)
    found: Floats = np.where(counts, (precision * true).sum(axis=1) / np.maximum(counts, 1), 1.0)
    return found


def regression_metrics(predicted: NDArray[np.floating], targets: NDArray[np.floating]) -> dict[str, float]:
    """``mae`` and ``rmse`` in the label's own units, and ``r2``, at most 1: the share of the variance explained.

    Args:
        predicted: ``(N,)``.
        targets: ``(N,)``, not all of them equal.
    """
    true = targets.astype(np.float64)
    errors = predicted.astype(np.float64) - true
    return {
        "mae": float(np.abs(errors).mean()),
        "rmse": float(np.sqrt((errors**2).mean())),
        "r2": float(1 - (errors**2).sum() / ((true - true.mean()) ** 2).sum()),
    }


def per_class_metrics(
    hits: NDArray[np.int64], found: NDArray[np.int64], true: NDArray[np.int64], classes: Sequence[str]
) -> dict[str, dict[str, float]]:
    """What a model made of each class.

    Args:
        hits: How often it was predicted rightly, ``(num_classes,)``.
        found: How often it was predicted, ``(num_classes,)``.
        true: How often it is true, ``(num_classes,)``.
        classes: Names.

    Returns:
        Per class ``precision``, ``recall`` and ``f1`` in [0, 1], 0 where nothing was predicted or is true, and
        ``support``, how often it is true.
    """
    precision, recall = hits / np.maximum(found, 1), hits / np.maximum(true, 1)
    f1 = 2 * hits / np.maximum(found + true, 1)
    columns = zip(classes, precision.tolist(), recall.tolist(), f1.tolist(), true.tolist(), strict=True)
    return {name: dict(zip(("precision", "recall", "f1", "support"), row, strict=True)) for name, *row in columns}


def _macro_f1(hits: NDArray[np.int64], found: NDArray[np.int64], true: NDArray[np.int64]) -> float:
    size = found + true  # = 2TP + FP + FN
    return float((2 * hits[size > 0] / size[size > 0]).mean())
