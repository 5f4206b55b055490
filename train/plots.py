"""Figures of a run, and of runs beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from framecache.cache.cli import format_bytes

_DPI = 120
_APART = 1.1  # ratio of the places of two sets of one size
_MARGIN = 8.0  # pixels around labels and points
_FAR = 12.0  # pixels from which on a line leads from a label to its point
_GRID = 4.0  # pixels between the places tried
_OVERLAP = 1e6  # more than any distance
_UNBOUNDED = ("loss", "mae")
_MAX_LABELED = 40  # with more classes neither names nor counts can be read


def plot_confusion(path: Path, counts: NDArray[np.int64], classes: Sequence[str], title: str) -> None:
    """Draws a confusion matrix, coloured by the share of each true class.

    Args:
        path: The PNG file.
        counts: ``(num_classes, num_classes)``, rows the true class.
        classes: Names of the classes.
        title: Heading of the figure.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(4 + 0.35 * len(classes), 18)
    figure = Figure(figsize=(size + 1, size), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(title, parse_math=False)  # names are names, whatever dollar signs they have
    if len(classes) <= _MAX_LABELED:
        ticks = range(len(classes))
        axes.set_xticks(ticks, classes, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_yticks(ticks, classes, parse_math=False)
        for row, column in zip(*np.nonzero(counts), strict=True):
            shade = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=shade)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    _save(figure, path)


def plot_learning_curve(path: Path, measures: Mapping[str, Sequence[float]], best_epoch: int, title: str) -> None:
    """Draws what is known of train and val, loss and a score, over the epochs, and marks the epoch that was kept.

    Args:
        path: The PNG file.
        measures: Per measure its value after each epoch.
        best_epoch: The epoch whose weights were kept, counted from 1.
        title: Heading of the figure.
    """
    epochs = np.arange(1, len(measures["loss"]) + 1)
    names = [name for name in measures if f"val_{name}" in measures]
    figure = Figure(figsize=(9, 3.6), dpi=_DPI, layout="constrained")
    figure.suptitle(title, parse_math=False)
    for axes, measure in zip(figure.subplots(1, 2), names, strict=True):
        axes.plot(epochs, measures[measure], label="train")
        axes.plot(epochs, measures[f"val_{measure}"], label="val")
        axes.axvline(best_epoch, color="grey", linestyle=":", label=f"kept (epoch {best_epoch})")
        axes.set(xlabel="epoch", ylabel=measure)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0, top=None if measure in _UNBOUNDED else 1.03)
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, path)


def plot_fidelity(
    path: Path,
    labels: Sequence[str],
    bytes_per_frame: Sequence[int],
    means: Sequence[float],
    deviations: Sequence[float],
    title: str,
) -> None:
    """Draws accuracy against the size of a frame, a labelled point with its deviation per feature set.

    Args:
        path: The PNG file.
        labels: A name per set.
        bytes_per_frame: Size per set.
        means: Accuracy per set, in [0, 1].
        deviations: Its standard deviation per set.
        title: Heading of the figure.
    """
    places = _side_by_side(bytes_per_frame)
    figure = Figure(figsize=(10, 6), dpi=_DPI)
    figure.subplots_adjust(left=0.08, right=0.97, bottom=0.1, top=0.92)
    axes = figure.add_subplot()
    colors = [f"C{number % 10}" for number in range(len(labels))]
    for place, mean, deviation, color in zip(places, means, deviations, colors, strict=True):
        axes.errorbar(place, mean, deviation, fmt="o", capsize=3, elinewidth=1, markersize=6, color=color)
    axes.margins(y=0.12)
    axes.set_xscale("log")
    axes.set(xlabel="bytes per frame (sets of one size side by side)", ylabel="test accuracy")
    axes.set_title(title, parse_math=False)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, min(places) / 1.6), max(high, max(places) * 1.6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: format_bytes(size).replace(".0 ", " ")))
    axes.grid(alpha=0.3)
    _label(figure, axes, list(zip(places, means, strict=True)), deviations, labels, colors)
    _save(figure, path)


def _side_by_side(sizes: Sequence[int]) -> list[float]:
    """Sizes on a log axis, equal ones a little apart, so that each error bar is seen."""
    seen: dict[int, list[int]] = {}
    for number, size in enumerate(sizes):
        seen.setdefault(size, []).append(number)
    places = [float(size) for size in sizes]
    for size, members in seen.items():
        for place, number in enumerate(members):
            places[number] = size * _APART ** (place - (len(members) - 1) / 2)
    return places


def _label(
    figure: Figure,
    axes: Axes,
    points: Sequence[tuple[float, float]],
    deviations: Sequence[float],
    labels: Sequence[str],
    colors: Sequence[str],
) -> None:
    """Writes a label near each point, over no point, error bar or other label, with a line to it where it is far."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # sets the scales that pixels depend on
    texts = [
        axes.text(*point, label, fontsize=9, color=color, parse_math=False)
        for point, label, color in zip(points, labels, colors, strict=True)
    ]
    extents = [text.get_window_extent(canvas.get_renderer()) for text in texts]
    anchors = axes.transData.transform(points)
    taken = []
    for (x, y), deviation in zip(points, deviations, strict=True):
        (left, low), (_, high) = axes.transData.transform([(x, y - deviation), (x, y + deviation)])
        taken.append((left - _MARGIN, low - _MARGIN, left + _MARGIN, high + _MARGIN))
    sizes = [(extent.width + _MARGIN, extent.height + _MARGIN) for extent in extents]
    window = axes.get_window_extent(canvas.get_renderer())
    corners = place_labels(anchors, sizes, (window.x0, window.y0, window.x1, window.y1), taken)
    back = axes.transData.inverted()
    for text, corner, size, anchor, color in zip(texts, corners, sizes, anchors, colors, strict=True):
        x, y = back.transform((corner[0] + _MARGIN / 2, corner[1] + _MARGIN / 2))
        text.set_position((float(x), float(y)))
        text.set_verticalalignment("bottom")
        nearest = np.clip(anchor, corner, np.add(corner, size))
        if np.hypot(*(nearest - anchor)) > _FAR:
            (x0, y0), (x1, y1) = back.transform([nearest, anchor])
            axes.plot([x0, x1], [y0, y1], color=color, linewidth=0.6, scalex=False, scaley=False)


def place_labels(
    anchors: ArrayLike,
    sizes: Sequence[tuple[float, float]],
    window: tuple[float, float, float, float],
    taken: Sequence[tuple[float, float, float, float]],
) -> list[tuple[float, float]]:
    """Places each label as near as can be to its anchor, over nothing that is taken and over no other label.

    Args:
        anchors: Points that the labels belong to, ``(N, 2)``, in pixels.
        sizes: Width and height of each label.
        window: Left, low, right and high edge of where they may be.
        taken: Boxes, as the window, that nothing may be placed over.

    Returns:
        The low left corner of each label; where there is no room left, over something.
    """
    boxes = [tuple(box) for box in taken]
    corners: list[tuple[float, float]] = []
    for (x, y), (width, height) in zip(np.asarray(anchors, float), sizes, strict=True):
        lefts = np.arange(window[0], max(window[2] - width, window[0] + 1), _GRID)
        lows = np.arange(window[1], max(window[3] - height, window[1] + 1), _GRID)
        left, low = (axis.ravel() for axis in np.meshgrid(lefts, lows))
        distance = np.hypot(x - np.clip(x, left, left + width), y - np.clip(y, low, low + height))
        distance += 0.02 * np.hypot(left - x, low + height / 2 - y)  # rather to the right, at the point's height
        for x0, y0, x1, y1 in boxes:
            distance[(left < x1) & (left + width > x0) & (low < y1) & (low + height > y0)] += _OVERLAP
        best = int(distance.argmin())
        corner = (float(left[best]), float(low[best]))
        corners.append(corner)
        boxes.append((*corner, corner[0] + width, corner[1] + height))
    return corners


def _save(figure: Figure, path: Path) -> None:
    with mpl.rc_context({"axes.unicode_minus": False}):
        figure.savefig(path)
