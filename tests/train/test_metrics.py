"""Metrics: against values worked out by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, log_loss, top_k_accuracy_score

from framecache.train.metrics import classification_metrics, confusion_matrix, log_softmax


def test_metrics_of_a_case_worked_out_by_hand() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]))
    metrics = classification_metrics(logits, np.array([0, 1, 1, 2]))
    assert metrics["accuracy"] == 0.75
    assert metrics["top5"] == 1.0
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert metrics["loss"] == pytest.approx(-np.log([0.7, 0.8, 0.3, 0.6]).mean())


@given(st.integers(0, 10_000), st.integers(6, 12), st.integers(2, 40))
def test_metrics_agree_with_scikit_learn(seed: int, num_classes: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=3, size=(count, num_classes))
    targets = rng.integers(0, num_classes, count)
    metrics = classification_metrics(logits, targets)
    labels = np.arange(num_classes)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(targets, logits.argmax(1)))
    assert metrics["top5"] == pytest.approx(top_k_accuracy_score(targets, logits, k=5, labels=labels))
    assert metrics["macro_f1"] == pytest.approx(f1_score(targets, logits.argmax(1), average="macro"))
    assert metrics["loss"] == pytest.approx(log_loss(targets, np.exp(log_softmax(logits)), labels=labels), abs=1e-9)


def test_a_hopeless_logit_gives_a_finite_loss() -> None:
    assert classification_metrics(np.array([[0.0, 5000.0]]), np.array([0]))["loss"] == 5000.0


def test_confusion_has_the_true_class_in_rows() -> None:
    counts = confusion_matrix(np.array([0, 0, 1]), np.array([1, 1, 1]), 3)
    assert counts.tolist() == [[0, 2, 0], [0, 1, 0], [0, 0, 0]]
