"""Figures of a comparison: what they draw, read from the axes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from framecache.train.comparison import cost_plots
from framecache.train.comparison.answer_plots import best_run, draw_numbers, draw_timelines
from framecache.train.comparison.compare import compare_runs
from framecache.train.comparison.comparison import Comparison
from framecache.train.comparison.cost_plots import draw_bytes
from framecache.train.comparison.outcomes.frames import Frames
from framecache.train.comparison.outcomes.regression import Regression
from framecache.train.comparison.plots import plots
from framecache.train.comparison.themes import LIGHT
from framecache.train.predictions import Predictions

from .fake_runs import write_run


def one_comparison(folder: Path) -> Comparison:
    (comparison,) = compare_runs([folder], folder).comparisons
    return comparison


def test_sets_have_bands_of_their_own_by_rising_bytes(tmp_path: Path) -> None:
    sizes = {"toy.gmp-2": 4_000_000, "toy.gap-1": 4_000_000, "toy.pca-3": 300_000}
    for name, size in sizes.items():
        for model in ("lstm", "gru"):
            write_run(tmp_path / f"{name}-{model}", feature_set=name, feature_bytes=size, model=model)
    comparison = one_comparison(tmp_path)
    (axes,) = draw_bytes(comparison, LIGHT).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["pca\n300.0 kB", "gap\n4.0 MB", "gmp\n4.0 MB"]
    points = {(round(x), y) for line in axes.lines for x, y in zip(*line.get_data(), strict=True)}
    columns = {"pca": 0, "gap": 1, "gmp": 2}
    assert points == {(columns[row.fields["set"]], row.test.mean) for row in comparison.rows if row.test}


def test_of_very_many_rows_only_each_sets_best_has_an_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_plots, "_MAX_BESIDE", 3)
    for units in (32, 64, 128, 256):
        write_run(tmp_path / f"{units}", units=units)
    comparison = one_comparison(tmp_path)
    (axes,) = draw_bytes(comparison, LIGHT).axes
    markers = [line.get_marker() for line in axes.lines]
    assert sorted(markers) == ["_", "_", "_", "o"]
    assert {x for line in axes.lines for x in line.get_xdata()} == {0}
    assert "only the best of each set" in plots(comparison)[0].caption


def of_task(folder: Path, task: str, measure: str, predictions: Predictions, score: float, classes: str = "") -> None:
    write_run(folder)
    predictions.write(folder / "logits.npz")
    path = folder / "run.json"
    metrics = {"val": {measure: score}}
    changes: Mapping[str, object] = {"task": task, "measure": measure, "classes": list(classes), "metrics": metrics}
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes, "baseline": metrics}))


def names(count: int) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    return np.array([f"v{number}" for number in range(count)]), np.array(["val"] * count)


def test_numbers_are_drawn_against_the_true_ones_beside_those_of_the_baseline(tmp_path: Path) -> None:
    true, model, baseline = (np.array(column, np.float32)[:, None] for column in ([1, 2, 4], [1, 3, 5], [0, 0, 3]))
    of_task(tmp_path / "run", "regression", "mae", Predictions(*names(3), model, baseline, true), 2 / 3)
    comparison = one_comparison(tmp_path)
    assert "numbers" in [plot.name for plot in plots(comparison)]
    run = best_run(comparison.rows[0], comparison.lower_is_better)
    outcome = run.outcomes["val"]
    assert isinstance(outcome, Regression)
    (axes,) = draw_numbers(run, outcome, LIGHT).axes
    drawn = [np.asarray(points.get_offsets()).tolist() for points in axes.collections]
    assert drawn == [[[1, 0], [2, 0], [4, 3]], [[1, 1], [2, 3], [4, 5]]]


def test_timelines_are_of_the_hardest_videos_first_and_of_the_easiest_last(tmp_path: Path) -> None:
    lengths = np.array([4, 4, 4, 4, 4, 4])
    true = np.tile([0, 0, 1, -1], 6)
    predicted = np.where(true == 1, 1, 0)
    for video, wrong in enumerate((0, 1, 2, 3, 1, 2)):  # of three labelled frames
        predicted[4 * video : 4 * video + wrong] ^= 1
    logits = np.eye(2, dtype=np.float32)[predicted]
    made = Predictions(*names(6), logits, 1 - logits, true, lengths)
    of_task(tmp_path / "run", "frames", "accuracy", made, 0.5, "ab")
    comparison = one_comparison(tmp_path)
    assert "timelines" in [plot.name for plot in plots(comparison)]
    run = best_run(comparison.rows[0], comparison.lower_is_better)
    outcome = run.outcomes["val"]
    assert isinstance(outcome, Frames)
    figure = draw_timelines(run, outcome, "ab", LIGHT)
    told = [axes.get_title(loc="left") for axes in figure.axes]
    assert told == ["v3: 100% wrong", "v2: 67% wrong", "v5: 67% wrong", "v0: 0% wrong"]
    for axes, video in zip(figure.axes, (3, 2, 5, 0), strict=True):
        rows = slice(4 * video, 4 * video + 4)
        image = np.asarray(axes.images[0].get_array()) - 1  # 0 is for no class
        np.testing.assert_array_equal(image, [true[rows], predicted[rows], 1 - predicted[rows]])
