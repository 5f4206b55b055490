"""Metrics: against values worked out by hand, against their definitions, and against scikit-learn's values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framecache.train.tasks.metrics import (
    average_precision,
    classification_metrics,
    confusion_matrix,
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


def f1(true: np.ndarray, predicted: np.ndarray) -> float:
    """Of one class, by its definition; nan where it is neither true nor predicted."""
    hits = sum(t and p for t, p in zip(true, predicted, strict=True))
    return 2 * hits / (sum(true) + sum(predicted)) if any(true) or any(predicted) else math.nan


@given(st.integers(0, 10_000), st.integers(6, 12), st.integers(2, 40))
def test_metrics_are_those_of_their_definitions(seed: int, num_classes: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=3, size=(count, num_classes))
    targets = rng.integers(0, num_classes, count)
    metrics = classification_metrics(logits, targets)
    ranking = [sorted(range(num_classes), key=lambda label: -row[label]) for row in logits]
    first = np.array([labels[0] for labels in ranking])
    assert metrics["accuracy"] == pytest.approx(np.mean(first == targets))
    assert metrics["top5"] == pytest.approx(np.mean([t in r[:5] for t, r in zip(targets, ranking, strict=True)]))
    of_classes = [f1(targets == label, first == label) for label in range(num_classes)]
    assert metrics["macro_f1"] == pytest.approx(np.nanmean(of_classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert metrics["loss"] == pytest.approx(-np.mean(np.log(probabilities[np.arange(count), targets])))


def test_metrics_are_those_of_scikit_learn() -> None:
    """Values of scikit-learn 1.9.1; the last class is predicted and not true."""
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(scale=3, size=(40, 7)), rng.integers(0, 6, 40)
    expected = {"accuracy": 0.175, "top5": 0.825, "macro_f1": 0.16260564831993404, "loss": 4.388703663853111}
    assert classification_metrics(logits, targets) == pytest.approx(expected)
    counts = confusion_matrix(targets, logits.argmax(axis=1), 7)
    found = per_class_metrics(counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1), "abcdefg")
    columns = {
        "precision": [1 / 4, 1 / 3, 2 / 7, 0, 0, 2 / 5, 0],
        "recall": [2 / 7, 1 / 6, 2 / 7, 0, 0, 1 / 3, 0],
        "f1": [4 / 15, 2 / 9, 2 / 7, 0, 0, 4 / 11, 0],
        "support": [7, 6, 7, 9, 5, 6, 0],
    }
    for name, values in columns.items():
        assert [found[label][name] for label in "abcdefg"] == pytest.approx(values)


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


def ranked_precision(logits: np.ndarray, targets: np.ndarray) -> float:
    """The sum over falling thresholds of the recall gained times the precision there."""
    total, before = 0.0, 0
    for threshold in sorted(set(logits.tolist()), reverse=True):
        hits, found = int(targets[logits >= threshold].sum()), int((logits >= threshold).sum())
        total += (hits - before) / int(targets.sum()) * hits / found
        before = hits
    return total


@given(several_labels())
def test_multilabel_metrics_are_those_of_their_definitions(case: tuple[np.ndarray, np.ndarray]) -> None:
    logits, targets = case
    metrics = multilabel_metrics(logits, targets)
    columns = range(targets.shape[1])
    occurring = [column for column in columns if targets[:, column].any()]
    expected = [ranked_precision(logits[:, column], targets[:, column]) for column in occurring]
    assert metrics["map"] == pytest.approx(np.mean(expected))
    assert np.flatnonzero(~np.isnan(average_precision(logits, targets))).tolist() == occurring
    of_classes = [f1(targets[:, column], logits[:, column] > 0) for column in columns]
    assert metrics["macro_f1"] == pytest.approx(np.nanmean(of_classes))
    assert metrics["micro_f1"] == pytest.approx(f1(targets.ravel(), logits.ravel() > 0))
    probabilities = 1 / (1 + np.exp(-logits))
    assert metrics["loss"] == pytest.approx(-np.log(np.where(targets, probabilities, 1 - probabilities)).mean())


@given(st.integers(0, 10_000))
def test_the_ranking_of_labels_is_that_of_its_definition(seed: int) -> None:
    """For each true label of a video, the share of true ones among those ranked no lower."""
    rng = np.random.default_rng(seed)
    logits, targets = rng.normal(size=(9, 5)), rng.random((9, 5)) < 0.4
    targets[0, 0] = True
    of_videos = [
        np.mean([true[row >= row[label]].mean() for label in np.flatnonzero(true)]) if true.any() else 1.0
        for row, true in zip(logits, targets, strict=True)
    ]
    assert multilabel_metrics(logits, targets)["lrap"] == pytest.approx(np.mean(of_videos))


def test_multilabel_metrics_are_those_of_scikit_learn() -> None:
    """Values of scikit-learn 1.9.1; many logits are equal, and two classes do not occur."""
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(scale=2, size=(30, 5)).round(0), rng.random((30, 5)) < [0.4, 0.2, 0.05, 0.6, 0.0]
    assert targets.any(axis=0).tolist() == [True, True, False, True, False]
    expected = {
        "map": 0.40919124311572824,
        "macro_f1": 0.2033333333333333,
        "micro_f1": 0.24489795918367346,
        "loss": 1.1622117066024262,
    }
    metrics = multilabel_metrics(logits, targets)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)


@given(st.integers(0, 10_000), st.integers(2, 30))
def test_regression_metrics_are_those_of_their_definitions(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    predicted, targets = rng.normal(size=count), 50 + 10 * rng.normal(size=count)
    metrics = regression_metrics(predicted, targets)
    assert metrics["mae"] == pytest.approx(sum(abs(predicted - targets)) / count)
    assert metrics["rmse"] == pytest.approx(math.sqrt(sum((predicted - targets) ** 2) / count))
    assert metrics["r2"] == pytest.approx(1 - metrics["rmse"] ** 2 / np.var(targets))


def test_regression_metrics_are_those_of_scikit_learn() -> None:
    """Values of scikit-learn 1.9.1."""
    rng = np.random.default_rng(0)
    predicted, targets = rng.normal(size=30) + 50, 50 + 10 * rng.normal(size=30)
    expected = {"mae": 8.504368369756362, "rmse": 10.084644871146388, "r2": -0.159578135199838}
    assert regression_metrics(predicted, targets) == pytest.approx(expected)


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 20))
def test_metrics_per_class_are_those_of_their_definitions(seed: int, num_classes: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    targets, predicted = rng.integers(0, num_classes, (2, count))
    counts = confusion_matrix(targets, predicted, num_classes)
    classes = [str(number) for number in range(num_classes)]
    metrics = per_class_metrics(counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1), classes)
    for label, found in enumerate(metrics.values()):
        hits = np.sum((targets == label) & (predicted == label))
        assert found["precision"] == pytest.approx(hits / max(1, np.sum(predicted == label)))
        assert found["recall"] == pytest.approx(hits / max(1, np.sum(targets == label)))
        assert found["f1"] == pytest.approx(np.nan_to_num(f1(targets == label, predicted == label)))
        assert found["support"] == np.sum(targets == label)
