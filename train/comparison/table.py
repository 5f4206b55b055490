"""The tables of ``framecache-train compare``: for a terminal, as Markdown and in a notebook."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from framecache.cache.cli import format_bytes
from framecache.cache.errors import InputError
from framecache.train.comparison.comparison import Comparison, Row
from framecache.train.comparison.filters import as_text, named
from framecache.train.comparison.measures import Measured
from framecache.train.comparison.words import ALWAYS_TOLD, conclusion, constants, notes, title
from framecache.train.tables import (
    NONE,
    WIDTH,
    Heading,
    count,
    decimal,
    html_table,
    markdown_table,
    mean_and_deviation,
    terminal_table,
)

OTHERS = "other metrics on test: mean over the seeds, and its 95 % interval over resampled test videos"
_OF_TEST = ("test", "interval", "to_baseline", "verdict", "p")


@dataclass(frozen=True)
class Column:
    """A column: how a row is told in it, and what it is sorted by.

    Attributes:
        name: As ``--sort`` has it.
        heading: As the table has it.
        text: A row's cell.
        value: What the row is sorted by; None comes last.
        falling: Whether the highest comes first.
    """

    name: str
    heading: Heading
    text: Callable[[Row], str]
    value: Callable[[Row], Any]
    falling: bool = False


def columns(comparison: Comparison) -> list[Column]:
    """The columns: what differs between the rows, scores, what they are worth, and costs."""
    measure, rising = comparison.measure, comparison.lower_is_better
    found = [
        Column("number", Heading("#"), lambda row: str(row.number), lambda row: row.number),
        *(_setting(name) for name in comparison.varying or ALWAYS_TOLD),
        Column("seeds", Heading("seeds"), lambda row: str(len(row.results)), lambda row: len(row.results), True),
        Column(
            "val",
            Heading(f"val\n{measure}"),
            lambda row: mean_and_deviation(row.val.mean, row.val.std),
            lambda row: row.val.mean,
            not rising,
        ),
        Column(
            "test",
            Heading(f"test\n{measure}"),
            lambda row: mean_and_deviation(row.test.mean, row.test.std) if row.test else NONE,
            lambda row: row.test and row.test.mean,
            not rising,
        ),
        Column(
            "interval",
            Heading("95 % CI\nof test"),
            lambda row: NONE if row.low is None or row.high is None else _range(row.low, row.high),
            lambda row: row.low,
            not rising,
        ),
        Column(
            "baseline",
            Heading("mean\nbaseline"),
            lambda row: decimal(row.baseline_val if row.test is None else row.baseline_test, 3),
            lambda row: row.baseline_val if row.test is None else row.baseline_test,
            not rising,
        ),
        Column(
            "to_baseline",
            Heading("against\nbaseline"),
            lambda row: row.to_baseline.verdict or NONE,
            lambda row: row.to_baseline.p_holm,
        ),
        Column(
            "verdict",
            Heading("against\nthe best"),
            lambda row: row.to_best.verdict or NONE,
            lambda row: row.to_best.verdict,
        ),
        Column("p", Heading("p\n(Holm)"), lambda row: _p_value(row.to_best.p_holm), lambda row: row.to_best.p_holm),
        Column("seconds", Heading("train\ns"), lambda row: decimal(row.seconds, 1), lambda row: row.seconds),
        Column("parameters", Heading("params"), lambda row: count(row.parameters), lambda row: row.parameters),
        Column(
            "bytes",
            Heading("features"),
            lambda row: NONE if row.feature_bytes is None else format_bytes(row.feature_bytes),
            lambda row: row.feature_bytes,
        ),
    ]
    if len({len(row.results) for row in comparison.rows}) == 1:
        found = [column for column in found if column.name != "seeds"]  # the title tells
    if comparison.num_test is None and all(row.test is None for row in comparison.rows):
        found = [column for column in found if column.name not in _OF_TEST]
    return found


def _setting(name: str) -> Column:
    return Column(
        name,
        Heading(name.replace("_", "\n", 1), is_name=name in ("run", "set", "model")),
        lambda row: as_text(row.fields.get(name)),
        lambda row: row.fields.get(name),
    )


def sort(comparison: Comparison, by: str) -> Comparison:
    """The rows in another order: the best score, the smallest number or the first name first, unknown ones last.

    Raises:
        InputError: There is no such column.
    """
    known = {column.name: column for column in columns(comparison)}
    if by not in known and by not in comparison.constant:
        raise InputError(f"--sort {by!r}: no such column; expected one of {named(by, list(known))}")
    if by not in known:
        return comparison
    column = known[by]
    told = [row for row in comparison.rows if column.value(row) is not None]
    texts = any(not isinstance(column.value(row), int | float) for row in told)
    told.sort(key=lambda row: as_text(column.value(row)) if texts else column.value(row), reverse=column.falling)
    return replace(comparison, rows=(*told, *(row for row in comparison.rows if column.value(row) is None)))


def format_table(comparison: Comparison, width: int = WIDTH) -> str:
    """The table for a terminal."""
    return terminal_table(title(comparison), *_parts(comparison), width)


def format_markdown(comparison: Comparison) -> str:
    """The same as a Markdown table."""
    tables = [markdown_table(title(comparison), *_parts(comparison))]
    if comparison.others:
        headings, cells = others(comparison)
        tables.append(markdown_table(OTHERS, headings, cells, []))
    return "\n\n".join(tables)


def format_html(comparison: Comparison) -> str:
    """The same for a notebook."""
    headings, cells, (outcome, same, *legend) = _parts(comparison)
    return html_table(title(comparison), headings, cells, [outcome, same], legend)


def others(comparison: Comparison) -> tuple[list[Heading], list[list[str]]]:
    """The other metrics on test as a table: headings, a row of cells per row, and the mean baseline of the best."""
    names = list(comparison.others)
    best = min(range(len(comparison.rows)), key=lambda place: comparison.rows[place].number)
    baselines = [None if one is None else one.baseline for one in (comparison.others[name][best] for name in names)]
    return (
        [Heading("#"), Heading("configuration", is_name=True), *map(Heading, names)],
        [
            *(
                [str(row.number), row.label, *(_measured(comparison.others[name][place]) for name in names)]
                for place, row in enumerate(comparison.rows)
            ),
            [NONE, "mean baseline of # 1", *(decimal(value, 3) for value in baselines)],
        ],
    )


def _measured(one: Measured | None) -> str:
    if one is None:
        return NONE
    return decimal(one.mean, 3) + ("" if one.low is None or one.high is None else f" ({_range(one.low, one.high)})")


def _range(low: float, high: float) -> str:
    """An interval; with a word where a sign would be taken for a dash."""
    return f"{low:.3f} to {high:.3f}" if low < 0 else f"{low:.3f}–{high:.3f}"


def _parts(comparison: Comparison) -> tuple[list[Heading], list[list[str]], list[str]]:
    shown = columns(comparison)
    cells = [[column.text(row) for column in shown] for row in comparison.rows]
    return (
        [column.heading for column in shown],
        cells,
        [conclusion(comparison), constants(comparison), *notes(comparison)],
    )


def _p_value(p: float | None) -> str:
    if p is None:
        return NONE
    return "<0.001" if p < 0.001 else f"{p:.3f}"
