"""What models made of the videos: scores of each class, numbers against numbers, frames along time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from framecache.train.comparison.comparison import Comparison, Row
from framecache.train.comparison.cost_plots import split_of
from framecache.train.comparison.outcomes.frames import Frames
from framecache.train.comparison.outcomes.outcome import Floats, Outcome
from framecache.train.comparison.outcomes.regression import Regression
from framecache.train.comparison.results import Result
from framecache.train.comparison.themes import Theme, finish, new_figure, shorten

_MAX_CLASSES = 40
_HARDEST, _EASIEST = 3, 1  # videos whose frames are shown
_CLASS_SCORES = {"multilabel": "average precision", "frames": "recall of frames"}


def draw_bars(comparison: Comparison, rows: Sequence[Row], theme: Theme) -> Figure:
    """Score per class of the best configurations and of the best one's baseline."""
    split = split_of(comparison)
    bars: list[tuple[str, Any, str]] = [
        (shorten(f"{row.number}  {row.label}", 44), per_class_of(row.results, split), theme.palette[number])
        for number, row in enumerate(rows)
    ]
    baselines = [result.baseline_outcome for result in rows[0].results if result.baseline_outcome is not None]
    baseline = _mean_per_class(baselines)
    if baseline is not None:
        bars.append((f"mean baseline of {rows[0].number}", baseline, theme.grey))
    order = np.argsort(np.nan_to_num(bars[0][1], nan=np.inf), kind="stable")[:_MAX_CLASSES]
    step = 0.8 / len(bars)
    figure = new_figure(1.6 + len(order) * (0.16 + 0.1 * len(bars)))
    axes = figure.add_subplot()
    for number, (label, scores, colour) in enumerate(bars):
        places = np.arange(len(order)) + (number - (len(bars) - 1) / 2) * step
        axes.barh(places, np.nan_to_num(scores[order]), height=step * 0.9, color=colour, label=label)
    sizes = next(result.outcomes[split].class_sizes() for result in rows[0].results if split in result.outcomes)
    names = [shorten(comparison.classes[number]) + ("" if sizes is None else f" ({sizes[number]})") for number in order]
    axes.set_yticks(range(len(order)), names)
    axes.set_ylim(len(order) - 0.4, -0.6)  # the first on top
    axes.set_xlim(0, 1)
    axes.set(xlabel=f"{split} {_CLASS_SCORES.get(comparison.task, 'recall')}")
    finish(axes)
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize=10)
    return figure


def per_class_of(results: Sequence[Result], split: str) -> Floats | None:
    """Mean score of each class over the runs that kept predictions, nan for a class that does not occur."""
    return _mean_per_class([result.outcomes[split] for result in results if split in result.outcomes])


def _mean_per_class(outcomes: Sequence[Outcome]) -> Floats | None:
    scores = [outcome.per_class() for outcome in outcomes]
    known = [score for score in scores if score is not None]
    return np.mean(known, axis=0, dtype=np.float64) if known else None


def best_run(row: Row, lower_is_better: bool) -> Result:
    """The one of its runs, over seeds and folds, that is best on val."""
    sign = 1 if lower_is_better else -1
    return min(row.runs, key=lambda run: sign * run.metrics["val"])


def draw_numbers(run: Result, outcome: Regression, theme: Theme) -> Figure:
    """Predicted against true numbers of one run, its baseline's lighter, and the line where they are equal."""
    figure = new_figure(5.2)
    axes = figure.add_subplot()
    if isinstance(run.baseline_outcome, Regression):
        axes.scatter(*run.baseline_outcome.numbers(), s=22, facecolors="none", edgecolors=theme.grey, linewidths=0.9)
        axes.collections[-1].set_label("mean baseline")
    true, predicted = outcome.numbers()
    axes.scatter(true, predicted, s=24, color=theme.palette[0], alpha=0.8, edgecolors="none", label="the best run")
    axes.axline((float(true.mean()), float(true.mean())), slope=1, color=theme.ink, linestyle=":", label="equal")
    axes.set(xlabel="true", ylabel="predicted")
    finish(axes)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return figure


def draw_timelines(run: Result, outcome: Frames, classes: Sequence[str], theme: Theme) -> Figure:
    """True classes of the hardest and the easiest videos of a run along their frames, and what was predicted."""
    order = np.argsort(-outcome.errors(), kind="stable").tolist()
    shown = order if len(order) <= _HARDEST + _EASIEST else [*order[:_HARDEST], *order[-_EASIEST:]]
    baseline = run.baseline_outcome.timelines() if isinstance(run.baseline_outcome, Frames) else None
    colours = ListedColormap([theme.paper, *(_colour(number, len(classes)) for number in range(len(classes)))])
    told = sorted({int(name) for video in shown for line in outcome.timelines()[video] for name in line} - {-1})
    figure = new_figure(0.7 + 0.95 * len(shown) + 0.17 * (len(told) + 1) / 2)
    for axes, video in zip(np.atleast_1d(figure.subplots(len(shown), 1)), shown, strict=True):
        lines = [*outcome.timelines()[video], *([] if baseline is None else [baseline[video][1]])]
        image = np.stack(lines) + 1
        axes.imshow(image, colours, aspect="auto", interpolation="nearest", vmin=0, vmax=len(classes))
        axes.set_yticks(range(len(lines)), ["true", "model", "baseline"][: len(lines)], fontsize=9)
        axes.set_yticks(np.arange(1, len(lines)) - 0.5, minor=True)
        axes.grid(which="minor", axis="y", color=theme.paper, linewidth=2)
        axes.tick_params(which="both", length=0)
        wrong = outcome.errors()[video]
        axes.set_title(f"{shorten(outcome.video_ids[video], 44)}: {wrong:.0%} wrong", fontsize=9, loc="left")
        for side in axes.spines.values():
            side.set_visible(False)
    figure.axes[-1].set(xlabel="frame")
    patches = [Patch(color=_colour(name, len(classes)), label=shorten(classes[name])) for name in told]
    figure.legend(handles=patches, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _colour(number: int, count: int) -> Any:
    """Hues all around the circle, neighbours of two brightnesses."""
    import matplotlib as mpl

    if count <= 10:
        return mpl.colormaps["tab10"](number)
    return mpl.colormaps["hsv"](number / count) if number % 2 else mpl.colormaps["twilight"](number / count)
