"""``report.html``: a comparison as one page that needs nothing else, and the figures and tables beside it."""

from __future__ import annotations

import base64
import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray

from framecache.cache.errors import InputError
from framecache.train.comparison.compare import Compared
from framecache.train.comparison.comparison import Comparison, Row
from framecache.train.comparison.differences import BEST, BETTER, NOISE, WORSE
from framecache.train.comparison.outcomes.outcome import Outcome
from framecache.train.comparison.plots import plots
from framecache.train.comparison.table import OTHERS, Column, columns, others
from framecache.train.comparison.themes import DARK, LIGHT
from framecache.train.comparison.words import conclusion, constants, notes, title
from framecache.train.tables import Heading

REPORT_FILE = "report.html"
_MAX_MATRICES = 8  # confusion matrices, of the best
_MAX_CLASSES = 40  # of a confusion matrix that is shown whole
_MAX_CONFUSIONS = 20  # pairs shown of a larger one
_MAX_HARDEST = 20
_MAX_TEXT = 160  # characters of what is true of a video
_HEAT = 10  # steps of a confusion matrix's colour
_MARKS = {BEST: "best", NOISE: "noise", WORSE: "worse", BETTER: "better", "": ""}


@dataclass(frozen=True)
class Picture:
    """A figure within the page, as PNG in base64, for light and for dark pages."""

    caption: str
    light: str
    dark: str


@dataclass(frozen=True)
class Matrix:
    """Confusions of one row: the whole matrix with a step of colour per cell, or its most frequent pairs."""

    label: str
    cells: list[list[tuple[int, int]]]
    pairs: list[tuple[str, str, int]]


@dataclass(frozen=True)
class Hard:
    """A video, how wrong it is in the mean over the runs, and what it is most often taken for."""

    video_id: str
    error: str
    true: str
    predicted: str
    loss: str


def write_report(out: str | Path, compared: Compared) -> Path:
    """Writes ``report.html``, its figures as PNG and the tables as CSV, Markdown and JSON.

    Args:
        out: The folder; made if need be, what is in it under these names is replaced.
        compared: What to report.

    Returns:
        The page.

    Raises:
        InputError: ``out`` is no folder.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {str(out)!r}: expected a folder, found a file")
    out.mkdir(parents=True, exist_ok=True)
    sections = []
    for number, comparison in enumerate(compared.comparisons, 1):
        suffix = "" if number == 1 else f"-{number}"
        sections.append(_section(comparison, _draw(comparison, out, suffix)))
    for kind in ("csv", "md", "json"):
        (out / f"comparison.{kind}").write_text(compared.format(kind), "utf-8", "backslashreplace")
    page = out / REPORT_FILE
    page.write_text(_render(sections, compared), "utf-8", "backslashreplace")
    return page


def _render(sections: Sequence[dict[str, Any]], compared: Compared) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["csp_hash"] = _csp_hash
    template = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        sections=sections,
        told_of_others=OTHERS,
        unreadable=list(compared.unreadable.values()),
        heat=range(1, _HEAT + 1),
    )


def _csp_hash(text: str) -> str:
    """What lets a browser run this very text, and no other that may have got into the page."""
    return "sha256-" + base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()


def _draw(comparison: Comparison, out: Path, suffix: str) -> list[Picture]:
    found = []
    for plot in plots(comparison):
        light, dark = io.BytesIO(), io.BytesIO()
        plot.save(light, LIGHT)
        plot.save(dark, DARK)
        (out / f"{plot.name}{suffix}.png").write_bytes(light.getvalue())
        found.append(Picture(plot.caption, *(base64.b64encode(each.getvalue()).decode() for each in (light, dark))))
    return found


def _section(comparison: Comparison, pictures: list[Picture]) -> dict[str, Any]:
    """What the template needs of a comparison."""
    shown = columns(comparison)
    ranked = sorted(comparison.rows, key=lambda row: row.number)
    split = "test" if any("test" in result.outcomes for row in ranked for result in row.results) else "val"
    matrices = [matrix for row in ranked if (matrix := _matrix(row, split, comparison.classes))]
    return {
        "title": title(comparison),
        "conclusion": conclusion(comparison),
        "constants": constants(comparison),
        "notes": notes(comparison),
        "split": split,
        "headings": [column.heading for column in shown],
        "rows": [
            {
                "mark": _MARKS[row.to_best.verdict],
                "cells": [(column.text(row), _sort_key(column.value(row)), _kind(column, row)) for column in shown],
            }
            for row in comparison.rows
        ],
        "others": _others(comparison) if comparison.others else None,
        "pictures": pictures,
        "classes": comparison.classes,
        "matrices": matrices[:_MAX_MATRICES],
        "num_matrices": len(matrices),
        "hardest": _hardest([result.outcomes.get(split) for row in ranked for result in row.results]),
        "is_regression": comparison.lower_is_better,
        "measure": comparison.measure,
        "ranked": ranked,
    }


def _kind(column: Column, row: Row) -> str:
    """Class of a cell: a name, or what a verdict is."""
    verdicts = {"verdict": row.to_best.verdict, "to_baseline": row.to_baseline.verdict}
    return "name" if column.heading.is_name else _MARKS[verdicts.get(column.name, "")]


def _others(comparison: Comparison) -> tuple[list[Heading], list[list[tuple[str, str]]]]:
    """Headings of the other metrics, and each row's cells with what they are sorted by."""
    headings, lines = others(comparison)
    rows = []
    for place, cells in enumerate(lines):
        ranked = place < len(comparison.rows)  # the last line is the baseline's
        found = [column[place] if ranked else None for column in comparison.others.values()]
        means = [None if one is None else one.mean for one in found]
        rows.append(list(zip(cells, [cells[0] if ranked else "", cells[1], *map(_sort_key, means)], strict=True)))
    return headings, rows


def _sort_key(value: Any) -> str:
    """Something that the page's script can sort by: numbers as numbers, nothing last."""
    if value is None:
        return ""
    return repr(float(value)) if isinstance(value, int | float) else str(value)


def _matrix(row: Row, split: str, classes: Sequence[str]) -> Matrix | None:
    """The confusions of a row, summed over its seeds."""
    counted = [result.outcomes[split].confusion() for result in row.results if split in result.outcomes]
    known = [each for each in counted if each is not None]
    if not known:
        return None
    counts: NDArray[np.int64] = np.sum(known, axis=0)
    if len(classes) <= _MAX_CLASSES:
        steps = np.ceil(_HEAT * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).astype(int)
        return Matrix(
            f"{row.number}  {row.label}",
            [list(zip(*line, strict=True)) for line in zip(counts.tolist(), steps.tolist(), strict=True)],
            [],
        )
    wrong = counts - np.diag(counts.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MAX_CONFUSIONS]
    places = [divmod(int(place), len(classes)) for place in order]
    pairs = [(classes[true], classes[found], int(wrong[true, found])) for true, found in places if wrong[true, found]]
    return Matrix(f"{row.number}  {row.label}", [], pairs)


def _hardest(outcomes: Sequence[Outcome | None]) -> list[Hard]:
    """The videos that are wrong most often over the runs, those with a high loss before those with a low one."""
    known = [outcome for outcome in outcomes if outcome is not None]
    if not known:
        return []
    errors = np.array([outcome.errors() for outcome in known])
    lost = [losses for outcome in known if (losses := outcome.losses()) is not None]
    losses = np.mean(lost, axis=0) if lost else np.zeros(errors.shape[1])
    truths, guesses = known[0].true(), [outcome.predicted() for outcome in known]
    found = []
    for video in np.lexsort((-losses, -errors.mean(axis=0)))[:_MAX_HARDEST].tolist():
        if not errors[:, video].any():
            break
        wrong = Counter(guess[video] for guess, error in zip(guesses, errors[:, video], strict=True) if error)
        (guess, times), *_ = wrong.most_common(1)
        error = errors[:, video]
        found.append(
            Hard(
                known[0].video_ids[video],
                f"{int(error.sum())} of {len(error)}" if np.isin(error, (0, 1)).all() else f"{error.mean():.3g}",
                truths[video][:_MAX_TEXT],
                guess[:_MAX_TEXT] + (f" ({times}×)" if len(known) > 1 else ""),
                f"{losses[video]:.2f}" if lost else "–",
            )
        )
    return found
