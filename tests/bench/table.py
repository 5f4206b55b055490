"""The benchmark's results: a table on the terminal, ``bench.json``, and a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from measure import Row
from rich.console import Console
from rich.table import Table


def print_rows(rows: Sequence[Row], title: str) -> None:
    """Prints one section's rows."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("name", overflow="fold")
    for column in ("ratio", "target", "ours", "theirs"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    for row in rows:
        missed = row.ratio is not None and row.target is not None and row.ratio < row.target
        name = row.name + (f" ({row.note})" if row.note else "")
        cells = [_figure(value) for value in (row.ratio, row.target, row.ours, row.theirs)]
        table.add_row(name, *cells, row.unit, style="yellow" if missed else None)
    Console().print(table)


def write_json(rows: Sequence[Row], path: Path) -> None:
    """Writes ``name ratio target ours theirs unit note`` of each row."""
    listed = [
        {key: getattr(row, key) for key in ("name", "ratio", "target", "ours", "theirs", "unit", "note")}
        for row in rows
    ]
    path.write_text(json.dumps(listed, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def plot_rows(rows: Sequence[Row], path: Path) -> None:
    """Draws each ratio as a bar on a logarithmic axis, and its target as a line across it."""
    shown = [(row, row.ratio) for row in rows if row.ratio is not None]
    figure = Figure(figsize=(11, 1.2 + 0.34 * len(shown)), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for place, (row, ratio) in enumerate(shown):
        reached = row.target is None or ratio >= row.target
        axes.barh(place, ratio, color="#4878a8" if reached else "#d08840", height=0.7)
        axes.text(ratio * 1.04, place, _figure(ratio), va="center", fontsize=8)
        if row.target is not None:
            axes.plot([row.target, row.target], [place - 0.42, place + 0.42], color="black", linewidth=1.6)
    axes.set_yticks(range(len(shown)), [row.name for row, _ in shown], fontsize=8)
    axes.set_xscale("log")
    axes.axvline(1, color="grey", linestyle=":", linewidth=1)
    axes.set_xlabel("times better (black line: target)")
    axes.set_xlim(right=2 * max((ratio for _, ratio in shown), default=1))
    axes.invert_yaxis()
    figure.savefig(path)


def _figure(value: float | None) -> str:
    """Three significant digits, no exponent."""
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.{2 if value >= 10 or not value else max(2, 1 - math.floor(math.log10(abs(value))))}f}"
