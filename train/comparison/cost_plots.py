"""Scores against costs: a column per feature set, the small ones first, and the seconds of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from framecache.cache.cli import format_bytes
from framecache.train.comparison.comparison import Comparison, Row
from framecache.train.comparison.filters import as_text
from framecache.train.comparison.themes import Theme, finish, new_figure, shorten
from framecache.train.plots import place_labels

_MARKERS = "osD^vP"
_MAX_BESIDE = 48  # points that find room side by side; of more, only each set's best has an interval
_MAX_NUMBERED = 40  # points; more numbers would hide them, then only
_NUMBERED = 10  # of the best have one
_HALF = 0.42  # of a column's width, without the gap to the next


def draw_bytes(comparison: Comparison, theme: Theme) -> Figure:
    """Score of each feature set in a column of its own, by rising bytes, and the mean baseline as a line across it.

    Sets of one size, and rows on one set, would cover each other on an axis of bytes; moved apart on it, they would
    look as if their sizes differed. Columns have no such meaning, and say the bytes in words.
    """
    rows = [row for row in comparison.rows if row.feature_bytes]
    sets = _sets(rows)
    figure = new_figure(4.6)
    axes = figure.add_subplot()
    crowded = is_crowded(rows)
    points: dict[int, tuple[float, float]] = {}
    look = _Look(rows, [name for name in comparison.varying if name != "set"], theme)
    for column, members in enumerate(sets.values()):
        axes.axvspan(column - _HALF, column + _HALF, color=theme.faint, alpha=0.25, linewidth=0)
        for place, row in enumerate(members):
            x = column + (0 if crowded else 2 * _HALF * ((place + 0.5) / len(members) - 0.5))
            points[row.number] = (x, score_of(row))
            look.draw(axes, row, x, is_thin=crowded and place > 0)
        _draw_baseline(axes, members[0], theme, (column - _HALF, column + _HALF))
    axes.margins(y=0.1)
    axes.set_xlim(-0.5, len(sets) - 0.5)
    labels = [f"{shorten(name, max(12, 48 // len(sets)))}\n{format_bytes(size)}" for size, name in sets]
    turned: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if len(sets) > 4 else {}
    axes.set_xticks(range(len(sets)), labels, fontsize=10 if len(sets) <= 8 else 7, **turned)
    axes.set(ylabel=f"{split_of(comparison)} {comparison.measure}", xlabel="feature set, by its bytes")
    finish(axes)
    axes.grid(visible=False, axis="x")
    look.explain(figure)
    told = [row for members in sets.values() for row in (members[:1] if crowded else members)]
    _number(figure, axes, told, [points[row.number] for row in told], theme)
    return figure


def is_crowded(rows: Sequence[Row]) -> bool:
    """Whether there are more points than find room side by side."""
    sets = _sets(rows)
    return max(map(len, sets.values())) * len(sets) > _MAX_BESIDE


def _sets(rows: Sequence[Row]) -> dict[tuple[int, str], list[Row]]:
    """Rows of each feature set, by bytes and name."""
    sets: dict[tuple[int, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.feature_bytes or 0, str(row.fields["set"]), row.number)):
        sets.setdefault((row.feature_bytes or 0, str(row.fields["set"])), []).append(row)
    return sets


def draw_seconds(comparison: Comparison, theme: Theme) -> Figure:
    """Score against the seconds of one training, on a logarithmic axis."""
    rows = [row for row in comparison.rows if row.seconds]
    figure = new_figure(4.4)
    axes = figure.add_subplot()
    places = [row.seconds or 0.0 for row in rows]
    look = _Look(rows, comparison.varying, theme)
    for row, place in zip(rows, places, strict=True):
        look.draw(axes, row, place)
    _draw_baseline(axes, min(rows, key=lambda row: row.number), theme)
    axes.set_xscale("log")
    axes.margins(y=0.1)
    axes.set_xlim(min(places) / 1.3, max(places) * 1.3)
    axes.set(ylabel=f"{split_of(comparison)} {comparison.measure}", xlabel="seconds of one training")
    narrow = max(places) / min(places) < 5  # decades, halves and fifths would leave the axis bare
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]) if narrow else LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    finish(axes)
    look.explain(figure)
    told = [row for row in rows if len(rows) <= _MAX_NUMBERED or row.number <= _NUMBERED]
    _number(figure, axes, told, [(row.seconds or 0.0, score_of(row)) for row in told], theme)
    return figure


def split_of(comparison: Comparison) -> str:
    """The split that figures are of."""
    return "test" if any(row.test for row in comparison.rows) else "val"


def score_of(row: Row) -> float:
    """Its mean on that split."""
    return row.test.mean if row.test else row.val.mean


class _Look:
    """Colour and marker of each row, by the two settings that say most."""

    def __init__(self, rows: Sequence[Row], varying: Sequence[str], theme: Theme) -> None:
        self._rows = rows
        self._theme = theme
        self._by = _told_apart(rows, varying)

    def draw(self, axes: Axes, row: Row, x: float, is_thin: bool = False) -> None:
        """The row's point with its interval, or a thin dash."""
        colour_by, marker_by = self._by
        colour = self._theme.palette[_index(row, self._rows, colour_by, len(self._theme.palette))]
        if is_thin:
            axes.plot(x, score_of(row), "_", color=colour, markersize=14, markeredgewidth=1, alpha=0.7)
            return
        if row.low is not None and row.high is not None:
            axes.vlines(x, row.low, row.high, color=colour, linewidth=1.2, alpha=0.6)
        marker = _MARKERS[_index(row, self._rows, marker_by, len(_MARKERS))]
        axes.plot(x, score_of(row), marker, color=colour, markersize=8, markeredgecolor=self._theme.paper)

    def explain(self, figure: Figure) -> None:
        """The legend."""
        colour_by, marker_by = self._by
        colours = zip(self._theme.palette, _values(self._rows, colour_by), strict=False)
        markers = zip(_MARKERS, _values(self._rows, marker_by), strict=False)
        handles = [
            *(_handle(_named(colour_by, value), colour, "s") for colour, value in colours),
            *(_handle(_named(marker_by, value), self._theme.ink, marker) for marker, value in markers),
        ]
        if any(_baseline_of(row) is not None for row in self._rows):
            handles.append(Line2D([], [], color=self._theme.ink, linestyle="--", linewidth=1, label="mean baseline"))
        if handles:
            figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=10)


def _handle(label: str, colour: str, marker: str) -> Line2D:
    return Line2D([], [], color=colour, marker=marker, linestyle="", markersize=8, label=label)


def _named(setting: str | None, value: str) -> str:
    return value if setting in ("set", "model", "run") else f"{setting} {value}".replace("_", " ")


def _baseline_of(row: Row) -> float | None:
    return row.baseline_test if row.test else row.baseline_val


def _draw_baseline(axes: Axes, row: Row, theme: Theme, across: tuple[float, float] | None = None) -> None:
    """The mean baseline of a row as a dashed line."""
    baseline = _baseline_of(row)
    if baseline is None:
        return
    if across is None:
        axes.axhline(baseline, color=theme.ink, linestyle="--", linewidth=1)
    else:
        axes.hlines(baseline, *across, color=theme.ink, linestyle="--", linewidth=1)


def _told_apart(rows: Sequence[Row], varying: Sequence[str]) -> tuple[str | None, str | None]:
    """The settings that colours and markers stand for: feature set and model before any other."""
    ranked = sorted(varying, key=lambda name: ("set", "model").index(name) if name in ("set", "model") else 2)
    useful = [name for name in ranked if 2 <= len(_values(rows, name)) <= len(_MARKERS)]
    return (useful[0] if useful else None), (useful[1] if len(useful) > 1 else None)


def _values(rows: Sequence[Row], name: str | None) -> list[str]:
    return sorted({shorten(as_text(row.fields.get(name))) for row in rows}) if name else []


def _index(row: Row, rows: Sequence[Row], name: str | None, most: int) -> int:
    return min(_values(rows, name).index(shorten(as_text(row.fields.get(name)))), most - 1) if name else 0


def _number(
    figure: Figure, axes: Axes, rows: Sequence[Row], points: Sequence[tuple[float, float]], theme: Theme
) -> None:
    """Writes each row's number beside its point."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # sets the layout that pixels depend on
    figure.set_layout_engine("none")
    anchors = axes.transData.transform(points)
    scale = figure.dpi / 72
    sizes = [(scale * (2 + 6 * len(str(row.number))), scale * 11) for row in rows]
    taken = [(x - 4 * scale, y - 4 * scale, x + 4 * scale, y + 4 * scale) for x, y in anchors]
    window = axes.get_window_extent(canvas.get_renderer())
    corners = place_labels(anchors, sizes, (window.x0, window.y0, window.x1, window.y1), taken)
    back = axes.transData.inverted()
    for row, corner in zip(rows, corners, strict=True):
        x, y = back.transform((corner[0] + scale, corner[1] + scale))
        axes.text(float(x), float(y), str(row.number), fontsize=9, color=theme.ink, va="bottom")
