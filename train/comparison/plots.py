"""Figures of a comparison: which there are, what they show in words, and the learning curves."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from framecache.train.comparison.answer_plots import best_run, draw_bars, draw_numbers, draw_timelines, per_class_of
from framecache.train.comparison.comparison import Comparison, Row
from framecache.train.comparison.cost_plots import draw_bytes, draw_seconds, is_crowded, split_of
from framecache.train.comparison.outcomes.frames import Frames
from framecache.train.comparison.outcomes.regression import Regression
from framecache.train.comparison.themes import LIGHT, Theme, finish, new_figure, shorten, style

_CURVES = 6  # configurations with a colour of their own
_BARS = 3  # configurations per class, and the baseline


@dataclass(frozen=True)
class Plot:
    """A figure: the name of its file, what it shows, in words, and how to draw it."""

    name: str
    caption: str
    draw: Callable[[Theme], Figure]

    def save(self, target: Path | IO[bytes], theme: Theme = LIGHT) -> None:
        """Draws it as PNG."""
        with style(theme):
            self.draw(theme).savefig(target, format="png")


def plots(comparison: Comparison) -> list[Plot]:
    """The figures for which the runs have numbers."""
    measure, split, rows = comparison.measure, split_of(comparison), comparison.rows
    numbers = "numbers are those of the table, bars the 95 % interval, the dashed line the mean baseline"
    found = []
    if any(row.feature_bytes for row in rows):
        caption = (
            f"{split} {measure} of each feature set, a band per set, the fewest bytes first; {numbers}{_thinned(rows)}"
        )
        found.append(Plot("bytes", caption, lambda theme: draw_bytes(comparison, theme)))
    if any(row.seconds for row in rows):
        caption = f"{split} {measure} against seconds of one training; {numbers} of the best"
        found.append(Plot("seconds", caption, lambda theme: draw_seconds(comparison, theme)))
    curves = {row.number: _histories(row) for row in rows}
    if any(curves.values()):
        caption = (
            f"learning curves on val: the {_CURVES} best in colour, a thin line per seed and their mean, others grey"
        )
        found.append(Plot("curves", caption, lambda theme: _curves(comparison, curves, theme)))
    ranked = sorted(rows, key=lambda row: row.number)
    told = [row for row in ranked if per_class_of(row.results, split) is not None][:_BARS]
    if told and comparison.classes:
        counted = "frames" if comparison.task == "frames" else "videos"
        caption = f"{split} score of each class, mean over the seeds, the hardest first ({counted} of it in brackets)"
        found.append(Plot("classes", caption, lambda theme: draw_bars(comparison, told, theme)))
    return [*found, *_of_one_run(comparison, ranked[0], split)]


def _thinned(rows: Sequence[Row]) -> str:
    crowded = is_crowded([row for row in rows if row.feature_bytes])
    return "; of so many points only the best of each set on val is drawn in full, the others as dashes" * crowded


def _of_one_run(comparison: Comparison, row: Row, split: str) -> list[Plot]:
    """What the best run on val of the best row made of the videos, one by one."""
    run = best_run(row, comparison.lower_is_better)
    outcome = run.outcomes.get(split)
    whose = f"by the best run on val ({run.folder.name}, # {row.number})"
    if isinstance(outcome, Regression):
        caption = f"{split} videos: true numbers, and those predicted {whose} and by its mean baseline (hollow)"
        return [Plot("numbers", caption, lambda theme: draw_numbers(run, outcome, theme))]
    if isinstance(outcome, Frames):
        caption = (
            f"frames of the hardest {split} videos, and of the easiest at the bottom: true classes (blank: none is "
            f"known), and those predicted {whose} and by its baseline"
        )
        return [Plot("timelines", caption, lambda theme: draw_timelines(run, outcome, comparison.classes, theme))]
    return []


def _histories(row: Row) -> list[dict[str, list[float]]]:
    """What each run measured on val after each epoch; runs without it are passed over."""
    found = []
    for run in row.runs:
        try:
            with (run.folder / "history.csv").open(newline="", encoding="utf-8") as stream:
                lines = list(csv.DictReader(stream))
            curves = {
                name: [float(line[name]) for line in lines] for name in lines[0] if name and name.startswith("val_")
            }
        except (OSError, ValueError, TypeError, IndexError, csv.Error):
            continue
        if curves:
            found.append(curves)
    return found


def _curves(comparison: Comparison, curves: dict[int, list[dict[str, list[float]]]], theme: Theme) -> Figure:
    names = sorted({name for run in chain.from_iterable(curves.values()) for name in run})
    figure = new_figure(0.9 + 2.6 * len(names))
    rows = sorted(comparison.rows, key=lambda row: -row.number)  # the best on top
    for axes, name in zip(np.atleast_1d(figure.subplots(len(names), 1, sharex=True)), names, strict=True):
        for row in rows:
            lines = [run[name] for run in curves[row.number] if name in run]
            if not lines:
                continue
            ranked = row.number <= _CURVES
            colour = theme.palette[row.number - 1] if ranked else theme.grey
            for line in lines:
                axes.plot(range(1, len(line) + 1), line, color=colour, linewidth=0.6, alpha=0.5)
            shared = min(map(len, lines))
            means = np.mean([line[:shared] for line in lines], axis=0)
            axes.plot(range(1, shared + 1), means, color=colour, linewidth=2 if ranked else 1)
        axes.set(ylabel=name.replace("_", " "))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        finish(axes)
    figure.axes[-1].set(xlabel="epoch")
    handles = [
        Line2D(
            [], [], color=theme.palette[row.number - 1], linewidth=2, label=shorten(f"{row.number}  {row.label}", 44)
        )
        for row in reversed(rows)
        if row.number <= _CURVES and curves[row.number]
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=1, frameon=False, fontsize=10)
    return figure
