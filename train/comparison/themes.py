"""What all figures of a comparison look like: on light and dark pages, in colours that the colour-blind tell apart."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 160
_WIDTH = 5.6  # inches: its letters can still be read when a phone shows it 360 pixels wide
_MAX_NAME = 26  # characters


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


@contextmanager
def style(theme: Theme) -> Iterator[None]:
    """Draws in these colours meanwhile."""
    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), theme.ink)
    papers = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"), theme.paper)
    edges = dict.fromkeys(("axes.edgecolor", "grid.color", "legend.edgecolor"), theme.faint)
    plain = {"text.parse_math": False, "axes.unicode_minus": False}  # names are names, whatever dollar signs they have
    with mpl.rc_context({**colours, **papers, **edges, **plain, "font.size": 11}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the page has the names as text
        yield


def new_figure(height: float) -> Figure:
    """Of the width of all, so many inches high."""
    return Figure(figsize=(_WIDTH, height), dpi=DPI, layout="constrained")


def finish(axes: Axes) -> None:
    """Faint lines behind the data, and no frame."""
    axes.grid(linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def shorten(text: str, most: int = _MAX_NAME) -> str:
    """A name that has room."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
