"""Figures of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

_DPI = 120
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
    axes.set(title=title, xlabel="predicted", ylabel="true")
    if len(classes) <= _MAX_LABELED:
        ticks = range(len(classes))
        axes.set_xticks(ticks, classes, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(ticks, classes)
        for row, column in zip(*np.nonzero(counts), strict=True):
            shade = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=shade)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    _save(figure, path)


def plot_learning_curve(path: Path, measures: Mapping[str, Sequence[float]], best_epoch: int, title: str) -> None:
    """Draws loss and accuracy of train and val over the epochs, and marks the epoch that was kept.

    Args:
        path: The PNG file.
        measures: Per measure its value after each epoch.
        best_epoch: The epoch whose weights were kept, counted from 1.
        title: Heading of the figure.
    """
    epochs = np.arange(1, len(measures["loss"]) + 1)
    figure = Figure(figsize=(9, 3.6), dpi=_DPI, layout="constrained")
    figure.suptitle(title)
    for axes, measure in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.plot(epochs, measures[measure], label="train")
        axes.plot(epochs, measures[f"val_{measure}"], label="val")
        axes.axvline(best_epoch, color="grey", linestyle=":", label=f"kept (epoch {best_epoch})")
        axes.set(xlabel="epoch", ylabel=measure)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0, top=1.03 if measure == "accuracy" else None)
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with mpl.rc_context({"axes.unicode_minus": False}):
        figure.savefig(path)
