"""Scores over time, as a figure of one video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

_DPI = 120
_MAX_MARKED = 60  # times
_MAX_LINES = 8  # more can neither be told apart nor named


def plot_timeline(
    path: Path,
    edges: NDArray[np.float64],
    scores: NDArray[np.float64],
    names: Sequence[str],
    title: str,
) -> None:
    """Draws scores over time, the highest ones by name.

    Args:
        path: The PNG file.
        edges: Start and end of each stretch that was scored, ``(N, 2)`` in seconds.
        scores: ``(N, num_outputs)``: probabilities, or numbers.
        names: Of the outputs; none of a regression.
        title: Heading of the figure.
    """
    figure = Figure(figsize=(10, 3.6), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    times, marker = edges.mean(axis=1), "." if len(edges) <= _MAX_MARKED else ""
    # By the highest score that each ever has, so that what is there for a moment only is seen too.
    shown = np.argsort(-scores.max(axis=0), kind="stable")[:_MAX_LINES]
    lines = {
        names[number] if names else "predicted": axes.plot(times, scores[:, number], marker=marker)[0]
        for number in sorted(shown.tolist())
    }
    if names:
        axes.set_ylim(-0.02, 1.02)
    axes.set(xlabel="seconds", ylabel="probability" if names else "predicted")
    axes.set_xlim(float(edges[:, 0].min()), max(float(edges[:, 1].max()), float(edges[:, 0].min()) + 1e-3))
    axes.set_title(title, parse_math=False)
    axes.grid(alpha=0.3)
    legend = axes.legend(
        list(lines.values()), list(lines), loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="small"
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # names are names, whatever dollar signs they have
    figure.savefig(path)
