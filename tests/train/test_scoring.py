"""Scores of every task, as they are and with videos drawn more than once or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from framecache.train.comparison.outcomes.classification import Classification, Labels
from framecache.train.comparison.outcomes.frames import Frames as FrameOutcome
from framecache.train.comparison.outcomes.multilabel import Multilabel
from framecache.train.comparison.outcomes.outcome import Outcome
from framecache.train.comparison.outcomes.regression import Regression
from framecache.train.predictions import Predictions
from framecache.train.tasks.frames import Frames
from framecache.train.tasks.metrics import classification_metrics, multilabel_metrics, regression_metrics

ONES = np.ones((1, 3))
CLASSES = ("a", "b")


def predictions(logits: Any, targets: Any, lengths: Any = None) -> Predictions:
    numbers = np.array(logits, np.float32)
    num_videos = len(numbers) if lengths is None else len(lengths)
    ids, split = np.array([f"v{number:02d}" for number in range(num_videos)]), np.array(["test"] * num_videos)
    return Predictions(ids, split, numbers, numbers, np.array(targets), None if lengths is None else np.array(lengths))


def classification() -> Outcome:
    return Classification(predictions([[2, 0], [2, 0], [0, 3]], [0, 1, 1]), CLASSES)


def frames() -> Outcome:
    logits = [[1, 0], [0, 1], [0, 1], [1, 0], [0, 1]]
    return FrameOutcome(predictions(logits, [0, 1, -1, 1, -1], [3, 1, 1]), CLASSES)


def regression() -> Outcome:
    return Regression(predictions([[1], [2], [3]], np.array([[1.5], [2], [5]], np.float32)), ())


@pytest.mark.parametrize(
    ("outcome", "score", "without_the_first", "errors", "true", "predicted"),
    [
        (classification(), 2 / 3, 1 / 2, [0, 1, 0], ["a", "b", "b"], ["a", "a", "b"]),
        (Labels(["z", "x", "y"], "abb", "aab", CLASSES), 2 / 3, 1, [1, 0, 0], list("bba"), list("aba")),
        (frames(), 2 / 3, 0, [0, 1, 1], ["a → b", "b", ""], ["a → b", "a", ""]),
        (regression(), 2.5 / 3, 1, [0.5, 0, 2], ["1.5", "2", "5"], ["1", "2", "3"]),
    ],
    ids=["classification", "labels", "frames", "regression"],
)
def test_scores_and_errors(
    outcome: Outcome, score: float, without_the_first: float, errors: Any, true: Any, predicted: Any
) -> None:
    weights = np.array([[1.0, 1, 1], [2, 2, 2], [0, 1, 1]])
    np.testing.assert_allclose(outcome.scores(weights), [score, score, without_the_first])
    np.testing.assert_allclose(outcome.errors(), errors)
    assert (outcome.true(), outcome.predicted()) == (true, predicted)


def test_losses_are_cross_entropies() -> None:
    losses = classification().losses()
    assert losses is not None
    np.testing.assert_allclose(losses, np.log1p(np.exp([-2, 2, -3])), rtol=1e-6)
    of_frames = frames().losses()
    assert of_frames is not None
    np.testing.assert_allclose(of_frames, [np.log1p(np.exp(-1)), np.log1p(np.exp(1)), 0], rtol=1e-6)


def test_confusions_and_recalls() -> None:
    confusion, recalls = classification().confusion(), classification().per_class()
    assert confusion is not None
    assert confusion.tolist() == [[1, 0], [1, 1]]
    assert recalls is not None
    assert recalls.tolist() == [1.0, 0.5]
    of_frames = frames().confusion()
    assert of_frames is not None
    assert of_frames.tolist() == [[1, 0], [1, 1]]


def weighted_average_precision(logits: Any, targets: Any, weights: Any) -> float:
    """By its definition: at each threshold that is a logit, the recall gained times the precision."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(logits.tolist()), reverse=True):
        hits, found = (weights * targets)[logits >= threshold].sum(), weights[logits >= threshold].sum()
        gained = hits / (weights * targets).sum() - recall
        total += gained * hits / found if gained else 0.0
        recall += gained
    return float(total)


# Means over the classes that occur of average_precision_score of scikit-learn 1.9.1, for the weights below.
MAP_OF_SCIKIT_LEARN = [0.365223668, 0.428113297, 0.333936052, 0.409926532, 0.383739150, 0.330292505]


def test_average_precision_is_the_one_of_its_definition_and_of_scikit_learn_under_any_weights() -> None:
    rng = np.random.default_rng(0)
    logits = rng.integers(-3, 4, size=(30, 4)) / 2  # with equal ones
    targets = rng.random((30, 4)) < [0.5, 0.1, 0.3, 0.0]  # the last class does not occur
    outcome = Multilabel(predictions(logits, targets), "abcd")
    weights = np.concatenate([np.ones((1, 30)), rng.integers(0, 3, size=(5, 30)).astype(float)])
    np.testing.assert_allclose(outcome.scores(weights), MAP_OF_SCIKIT_LEARN, rtol=1e-6)
    expected = [
        np.mean(
            [
                weighted_average_precision(logits[:, column], targets[:, column], row)
                for column in range(4)
                if (row * targets[:, column]).any()
            ]
        )
        for row in weights
    ]
    np.testing.assert_allclose(outcome.scores(weights), expected, rtol=1e-6)
    per_class = outcome.per_class()
    assert per_class is not None
    assert np.isnan(per_class).tolist() == [False, False, False, True]
    assert np.isnan(outcome.scores(np.zeros((1, 30)))).all()


def test_labels_are_told_with_commas() -> None:
    outcome = Multilabel(
        predictions([[1, 1], [-1, -1], [1, -1]], [[True, False], [False, False], [True, True]]), CLASSES
    )
    assert (outcome.true(), outcome.predicted()) == (["a", "", "a, b"], ["a, b", "", "a"])
    np.testing.assert_allclose(outcome.errors(), [0.5, 0, 0.5])
    assert outcome.class_sizes().tolist() == [2, 1]
    of_classes = classification().class_sizes()
    assert of_classes is not None
    assert of_classes.tolist() == [1, 2]


def test_runs_know_whether_the_same_is_true_of_their_videos() -> None:
    assert classification().truth() == Labels(["v0", "v1", "v2"], "abb", "bbb", CLASSES).truth()
    other = Regression(predictions([[1], [2], [3]], np.array([[1.50001], [2], [5]], np.float32)), ())
    assert other.true() == regression().true()
    assert other.truth() != regression().truth()


def test_every_metric_of_a_run_is_told_by_its_predictions_and_resampled_by_repeating_videos() -> None:
    """Against the tasks' own metrics, of the videos as they are and of a resample written out."""
    rng = np.random.default_rng(1)
    drawn = np.sort(rng.integers(12, size=12))
    weights = np.stack([np.ones(12), np.bincount(drawn, minlength=12)]).astype(float)
    lengths = rng.integers(1, 9, size=12)
    starts = np.cumsum(lengths) - lengths
    logits = rng.normal(size=(12, 4))
    targets = rng.integers(3, size=12)  # the last class is predicted only
    of_frames, classes = rng.normal(size=(lengths.sum(), 4)), rng.integers(-1, 3, size=lengths.sum())
    of_frames[np.arange(len(classes)), classes] += 1
    labels = rng.random((12, 4)) < 0.4
    numbers = rng.normal(size=(12, 1)).astype(np.float32)
    frames_drawn = np.concatenate([np.arange(starts[video], starts[video] + lengths[video]) for video in drawn])
    cases: list[tuple[Outcome, list[dict[str, float]]]] = [
        (
            Classification(predictions(logits, targets), "abcd"),
            [classification_metrics(logits[rows], targets[rows], 2) for rows in (np.arange(12), drawn)],
        ),
        (
            Multilabel(predictions(logits, labels), "abcd"),
            [multilabel_metrics(logits[rows], labels[rows]) for rows in (np.arange(12), drawn)],
        ),
        (
            Regression(predictions(logits[:, :1], numbers), ()),
            [
                regression_metrics(logits[rows, 0].astype(np.float32), numbers[rows, 0])
                for rows in (np.arange(12), drawn)
            ],
        ),
        (
            FrameOutcome(predictions(of_frames, classes, lengths), "abcd"),
            [
                Frames("abcd").metrics(of_frames[rows], classes[rows], lengths[videos])
                for rows, videos in ((np.arange(len(classes)), np.arange(12)), (frames_drawn, drawn))
            ],
        ),
    ]
    for outcome, expected in cases:
        for name in expected[0]:
            metric = outcome.metric(name)
            assert metric is not None, name
            np.testing.assert_allclose(metric(weights), [one[name] for one in expected], rtol=1e-5, err_msg=name)


def test_metrics_that_nothing_is_known_of_are_none() -> None:
    assert Labels(["x"], "a", "a", CLASSES).metric("top5") is None
    assert regression().metric("loss") is None
    assert classification().metric("top?") is None
    r2 = regression().metric("r2")
    assert r2 is not None
    assert np.isnan(r2(np.array([[0.0, 3, 0]]))).all()  # one number three times has no variance
