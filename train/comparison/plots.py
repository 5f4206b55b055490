"""Figures of a comparison, for light and for dark pages, in colours that the colour-blind can tell apart."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, compress
from pathlib import Path
from typing import IO, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from framecache.cache.cli import format_bytes
from framecache.train.comparison.comparison import Comparison, Row
from framecache.train.comparison.filters import as_text
from framecache.train.comparison.outcomes.outcome import Outcome
from framecache.train.plots import place_labels

_WIDTH = 5.6  # inches: its letters can still be read when a phone shows it 360 pixels wide
_DPI = 160
_MARKERS = "osD^vP"
_CURVES = 6  # configurations with a colour of their own
_BARS = 3  # configurations per class, and the baseline
_MAX_CLASSES = 40
_MAX_NAME = 26  # characters
_MAX_NUMBERED = 40  # points; more numbers would hide them, then only
_NUMBERED = 10  # of the best have one


@dataclass(frozen=True)
class Theme:
    """Colours of a page: background, ink, faint lines, grey data, and what tells data apart (after Okabe & Ito)."""

    paper: str
    ink: str
    faint: str
    grey: str
    palette: tuple[str, ...]


LIGHT = Theme(
    "#ffffff", "#1f2328", "#c9d1d9", "#9aa4ae", ("#0072b2", "#d55e00", "#009e73", "#b4508f", "#b07a00", "#3f9bd0")
)
DARK = Theme(
    "#161b22", "#e6edf3", "#3d444d", "#768390", ("#4aa3e8", "#ff8a4c", "#2ec49a", "#e59ac6", "#f0c14b", "#9ad8ff")
)


@dataclass(frozen=True)
class Plot:
    """A figure: the name of its file, what it shows, in words, and how to draw it."""

    name: str
    caption: str
    draw: Callable[[Theme], Figure]

    def save(self, target: Path | IO[bytes], theme: Theme = LIGHT) -> None:
        """Draws it as PNG."""
        with _style(theme):
            self.draw(theme).savefig(target, format="png")


def plots(comparison: Comparison) -> list[Plot]:
    """The figures for which the runs have numbers."""
    measure, split = comparison.measure, _split(comparison)
    rows = comparison.rows
    found = []
    if any(row.feature_bytes for row in rows):
        caption = f"{split} {measure} against bytes of features; numbers are those of the table, bars the 95 % interval"
        found.append(Plot("bytes", caption, lambda theme: _scatter(comparison, theme, "feature_bytes")))
    if any(row.seconds for row in rows):
        caption = f"{split} {measure} against seconds of one training; numbers are those of the table"
        found.append(Plot("seconds", caption, lambda theme: _scatter(comparison, theme, "seconds")))
    curves = {row.number: _histories(row) for row in rows}
    if any(curves.values()):
        caption = (
            f"learning curves on val: the {_CURVES} best in colour, a thin line per seed and their mean, others grey"
        )
        found.append(Plot("curves", caption, lambda theme: _curves(comparison, curves, theme)))
    best = [row for row in sorted(rows, key=lambda row: row.number) if _per_class(row.results, split) is not None]
    if best and comparison.classes:
        caption = f"{split} score of each class, mean over the seeds, the hardest first"
        found.append(Plot("classes", caption, lambda theme: _bars(comparison, best[:_BARS], theme)))
    return found


@contextmanager
def _style(theme: Theme) -> Iterator[None]:
    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), theme.ink)
    papers = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"), theme.paper)
    edges = dict.fromkeys(("axes.edgecolor", "grid.color", "legend.edgecolor"), theme.faint)
    plain = {"text.parse_math": False, "axes.unicode_minus": False}  # names are names, whatever dollar signs they have
    with mpl.rc_context({**colours, **papers, **edges, **plain, "font.size": 11}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the page has the names as text
        yield


def _split(comparison: Comparison) -> str:
    return "test" if any(row.test for row in comparison.rows) else "val"


def _figure(height: float) -> Figure:
    return Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")


def _finish(axes: Axes) -> None:
    axes.grid(linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _scatter(comparison: Comparison, theme: Theme, cost: str) -> Figure:
    """Score against a cost, colour and marker by the two settings that say most."""
    rows = [row for row in comparison.rows if getattr(row, cost)]
    colour_by, marker_by = _told_apart(rows, comparison.varying)
    figure = _figure(4.4)
    axes = figure.add_subplot()
    places = _apart([float(getattr(row, cost)) for row in rows])
    scores = [row.test.mean if row.test else row.val.mean for row in rows]
    colours = [theme.palette[_index(row, rows, colour_by, len(theme.palette))] for row in rows]
    for row, place, score, colour in zip(rows, places, scores, colours, strict=True):
        marker = _MARKERS[_index(row, rows, marker_by, len(_MARKERS))]
        if row.low is not None and row.high is not None:
            axes.vlines(place, row.low, row.high, color=colour, linewidth=1.2, alpha=0.6)
        axes.plot(place, score, marker, color=colour, markersize=8, markeredgecolor=theme.paper)
    axes.set_xscale("log")
    axes.margins(y=0.1)
    axes.set_xlim(min(places) / 1.3, max(places) * 1.3)
    axes.set(ylabel=f"{_split(comparison)} {comparison.measure}", xlabel=_COSTS[cost])
    narrow = max(places) / min(places) < 5  # decades, halves and fifths would leave the axis bare
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]) if narrow else LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(_tell_bytes if cost == "feature_bytes" else _tell_seconds))
    axes.xaxis.set_minor_locator(NullLocator())
    _finish(axes)
    handles = [
        Line2D([], [], color=theme.palette[number], marker="s", linestyle="", markersize=8, label=name)
        for number, name in enumerate(_values(rows, colour_by)[: len(theme.palette)])
    ] + [
        Line2D([], [], color=theme.ink, marker=_MARKERS[number], linestyle="", label=name)
        for number, name in enumerate(_values(rows, marker_by)[: len(_MARKERS)])
    ]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    _number(figure, axes, rows, places, scores, theme)
    return figure


def _tell_bytes(size: float, _: int) -> str:
    return format_bytes(size).replace(".0 ", " ")


def _tell_seconds(seconds: float, _: int) -> str:
    return f"{seconds:g}"


_COSTS = {"feature_bytes": "bytes of features", "seconds": "seconds of one training"}


def _told_apart(rows: Sequence[Row], varying: Sequence[str]) -> tuple[str | None, str | None]:
    """The settings that colours and markers stand for: feature set and model before any other."""
    ranked = sorted(varying, key=lambda name: ("set", "model").index(name) if name in ("set", "model") else 2)
    useful = [name for name in ranked if 2 <= len(_values(rows, name)) <= len(_MARKERS)]
    return (useful[0] if useful else None), (useful[1] if len(useful) > 1 else None)


def _values(rows: Sequence[Row], name: str | None) -> list[str]:
    return sorted({_short(as_text(row.fields.get(name))) for row in rows}) if name else []


def _index(row: Row, rows: Sequence[Row], name: str | None, most: int) -> int:
    return min(_values(rows, name).index(_short(as_text(row.fields.get(name)))), most - 1) if name else 0


def _apart(values: Sequence[float]) -> list[float]:
    """Equal ones a little apart on a log axis, so that each is seen."""
    places = np.array(values)
    for value in set(values):
        same = np.flatnonzero(np.array(values) == value)
        places[same] *= 1.3 ** (np.linspace(-0.5, 0.5, len(same)) if len(same) > 1 else np.zeros(1))
    return [float(place) for place in places]


def _number(
    figure: Figure, axes: Axes, rows: Sequence[Row], places: Sequence[float], scores: Sequence[float], theme: Theme
) -> None:
    """Writes each row's number beside its point."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # sets the layout that pixels depend on
    figure.set_layout_engine("none")
    points = list(zip(places, scores, strict=True))
    anchors = axes.transData.transform(points)
    scale = _DPI / 72
    told = [len(rows) <= _MAX_NUMBERED or row.number <= _NUMBERED for row in rows]
    sizes = [(scale * (2 + 6 * len(str(row.number))), scale * 11) for row in rows]
    taken = [(x - 4 * scale, y - 4 * scale, x + 4 * scale, y + 4 * scale) for x, y in anchors]
    window = axes.get_window_extent(canvas.get_renderer())
    edges = (window.x0, window.y0, window.x1, window.y1)
    corners = place_labels(anchors[told], list(compress(sizes, told)), edges, taken)
    back = axes.transData.inverted()
    for row, corner in zip(compress(rows, told), corners, strict=True):
        x, y = back.transform((corner[0] + scale, corner[1] + scale))
        axes.text(float(x), float(y), str(row.number), fontsize=9, color=theme.ink, va="bottom")


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
    figure = _figure(0.9 + 2.6 * len(names))
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
        _finish(axes)
    figure.axes[-1].set(xlabel="epoch")
    handles = [
        Line2D([], [], color=theme.palette[row.number - 1], linewidth=2, label=_short(f"{row.number}  {row.label}", 44))
        for row in reversed(rows)
        if row.number <= _CURVES and curves[row.number]
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=1, frameon=False, fontsize=10)
    return figure


def _bars(comparison: Comparison, rows: Sequence[Row], theme: Theme) -> Figure:
    """Score per class of the best configurations and of the best one's baseline."""
    split = _split(comparison)
    bars: list[tuple[str, Any, str]] = [
        (_short(f"{row.number}  {row.label}", 44), _per_class(row.results, split), theme.palette[number])
        for number, row in enumerate(rows)
    ]
    baselines = [result.baseline_outcome for result in rows[0].results if result.baseline_outcome is not None]
    baseline = _mean_per_class(baselines)
    if baseline is not None:
        bars.append((f"mean baseline of {rows[0].number}", baseline, theme.grey))
    order = np.argsort(np.nan_to_num(bars[0][1], nan=np.inf), kind="stable")[:_MAX_CLASSES]
    step = 0.8 / len(bars)
    figure = _figure(1.6 + len(order) * (0.16 + 0.1 * len(bars)))
    axes = figure.add_subplot()
    for number, (label, scores, colour) in enumerate(bars):
        places = np.arange(len(order)) + (number - (len(bars) - 1) / 2) * step
        axes.barh(places, np.nan_to_num(scores[order]), height=step * 0.9, color=colour, label=label)
    names = [_short(comparison.classes[number]) for number in order]
    axes.set_yticks(range(len(order)), names)
    axes.set_ylim(len(order) - 0.4, -0.6)  # the first on top
    axes.set_xlim(0, 1)
    axes.set(xlabel=f"{split} {_CLASS_SCORES.get(comparison.task, 'recall')}")
    _finish(axes)
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize=10)
    return figure


_CLASS_SCORES = {"multilabel": "average precision", "frames": "recall of frames"}


def _per_class(results: Sequence[Any], split: str) -> Any:
    return _mean_per_class([result.outcomes[split] for result in results if split in result.outcomes])


def _mean_per_class(outcomes: Sequence[Outcome]) -> Any:
    """Mean score of each class ``(num_classes,)``, nan for a class that does not occur; None without any."""
    scores = [outcome.per_class() for outcome in outcomes]
    known = [score for score in scores if score is not None]
    return np.mean(known, axis=0) if known else None


def _short(text: str, most: int = _MAX_NAME) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
