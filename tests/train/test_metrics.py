"""Metrics: against values worked out by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    label_ranking_average_precision_score,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    precision_recall_fscore_support,
    r2_score,
    top_k_accuracy_score,
)

from framecache.train.metrics import (
    average_precision,
    classification_metrics,
    confusion_matrix,
    log_softmax,
    multilabel_metrics,
    per_class_metrics,
    regression_metrics,
)


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


def test_top_k_is_told_under_its_own_name() -> None:
    logits = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    metrics = classification_metrics(logits, np.array([1, 2]), top_k=2)
    assert metrics["top2"] == 0.5
    assert "top5" not in metrics


@st.composite
def several_labels(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Logits, some of them equal, and labels, one of them at least true."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    shape = (draw(st.integers(1, 30)), draw(st.integers(2, 8)))
    logits = rng.normal(scale=2, size=shape).round(draw(st.integers(0, 3)))
    targets = rng.random(shape) < draw(st.sampled_from([0.05, 0.3, 0.9]))
    targets[rng.integers(shape[0]), rng.integers(shape[1])] = True
    return logits, targets


@given(several_labels())
def test_multilabel_metrics_agree_with_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    logits, targets = case
    metrics = multilabel_metrics(logits, targets)
    occurring = targets.any(axis=0)
    probabilities = 1 / (1 + np.exp(-logits))
    assert metrics["map"] == pytest.approx(average_precision_score(targets[:, occurring], logits[:, occurring]))
    assert np.isnan(average_precision(logits, targets)).tolist() == (~occurring).tolist()
    scores = {"average": "macro", "zero_division": np.nan}  # nan leaves classes out that are neither true nor predicted
    assert metrics["macro_f1"] == pytest.approx(f1_score(targets, logits > 0, **scores))
    assert metrics["micro_f1"] == pytest.approx(f1_score(targets, logits > 0, average="micro"))
    assert metrics["loss"] == pytest.approx(log_loss(targets.ravel(), probabilities.ravel(), labels=[False, True]))


@given(st.integers(0, 10_000))
def test_the_ranking_of_labels_agrees_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, targets = rng.normal(size=(9, 5)), rng.random((9, 5)) < 0.4
    targets[0, 0] = True
    lrap = label_ranking_average_precision_score(targets, logits)
    assert multilabel_metrics(logits, targets)["lrap"] == pytest.approx(lrap)


@given(st.integers(0, 10_000), st.integers(2, 30))
def test_regression_metrics_agree_with_scikit_learn(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    predicted, targets = rng.normal(size=count), 50 + 10 * rng.normal(size=count)
    metrics = regression_metrics(predicted, targets)
    assert metrics["mae"] == pytest.approx(mean_absolute_error(targets, predicted))
    assert metrics["rmse"] == pytest.approx(mean_squared_error(targets, predicted) ** 0.5)
    assert metrics["r2"] == pytest.approx(r2_score(targets, predicted))


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 20))
def test_metrics_per_class_agree_with_scikit_learn(seed: int, num_classes: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    targets, predicted = rng.integers(0, num_classes, (2, count))
    counts = confusion_matrix(targets, predicted, num_classes)
    classes = [str(number) for number in range(num_classes)]
    found = per_class_metrics(counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1), classes)
    golden = precision_recall_fscore_support(targets, predicted, labels=range(num_classes), zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), golden, strict=True):
        assert [found[label][name] for label in classes] == pytest.approx(values.tolist())
