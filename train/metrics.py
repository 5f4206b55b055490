"""Metrics of single-label classification, from logits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logarithms of the probabilities ``(N, num_classes)`` that logits ``(N, num_classes)`` stand for."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    logs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def confusion_matrix(targets: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Counts ``(num_classes, num_classes)``, rows the true class and columns the predicted one."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (targets, predicted), 1)
    return counts


def classification_metrics(logits: NDArray[np.floating], targets: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy, top-5 accuracy, macro F1 and cross-entropy.

    Args:
        logits: ``(N, num_classes)``.
        targets: True classes ``(N,)``.

    Returns:
        ``accuracy`` and ``top5`` in [0, 1] (``top5`` counts the five highest logits; 1 with five classes or
        fewer), ``macro_f1`` in [0, 1], the unweighted mean of F1 = 2TP / (2TP + FP + FN) over the classes that
        occur in targets or predictions, and ``loss``, the mean cross-entropy in nats.
    """
    num_classes = logits.shape[1]
    rows = np.arange(len(targets))
    predicted = logits.argmax(axis=1)
    above = (logits > logits[rows, targets][:, None]).sum(axis=1)
    counts = confusion_matrix(targets, predicted, num_classes)
    hits, size = counts.diagonal(), counts.sum(axis=0) + counts.sum(axis=1)  # size = 2TP + FP + FN
    return {
        "accuracy": float((predicted == targets).mean()),
        "top5": float((above < 5).mean()),
        "macro_f1": float((2 * hits[size > 0] / size[size > 0]).mean()),
        "loss": float(-log_softmax(logits)[rows, targets].mean()),
    }
