"""Figures of tasks that are not about one class: average precision per label, predicted against true numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

_DPI = 120
_MAX_BARS = 60


def plot_per_class(
    path: Path, values: NDArray[np.float64], counts: NDArray[np.int64], classes: Sequence[str], title: str
) -> None:
    """Draws a bar per class that occurs, the best on top; of very many the worst only.

    Args:
        path: The PNG file.
        values: Average precision of each class ``(num_classes,)``, in [0, 1]; nan for a class that does not occur.
        counts: Videos of each class, ``(num_classes,)``.
        classes: Names of the classes.
        title: Heading of the figure.
    """
    order = [number for number in np.argsort(values, kind="stable").tolist() if counts[number]][:_MAX_BARS]
    figure = Figure(figsize=(8, 1.5 + 0.28 * len(order)), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.barh(range(len(order)), values[order], color="C0")
    names = [f"{classes[number]} ({counts[number]})" for number in order]
    axes.set_yticks(range(len(order)), names, parse_math=False)
    axes.set(xlim=(0, 1), xlabel="average precision (number of videos in brackets)")
    axes.set_title(title, parse_math=False)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.savefig(path)


def plot_scatter(path: Path, true: NDArray[np.floating], predicted: NDArray[np.floating], title: str) -> None:
    """Draws predicted numbers ``(N,)`` against true ones ``(N,)``, and the line where they are equal.

    Args:
        path: The PNG file.
        true: The labels.
        predicted: What the model made of them.
        title: Heading of the figure.
    """
    figure = Figure(figsize=(5.5, 5.5), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(true, predicted, s=16, alpha=0.6, edgecolors="none")
    axes.axline((float(np.mean(true)), float(np.mean(true))), slope=1, color="grey", linestyle=":", label="equal")
    axes.set(xlabel="true", ylabel="predicted")
    axes.set_title(title, parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
