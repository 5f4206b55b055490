"""Tables for a terminal and for a README."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

NONE = "–"
WIDTH = 120  # characters; only names are folded to fit
_MIN_NAME = 12  # characters that a name always gets
_GAP = 2


@dataclass(frozen=True)
class Heading:
    """Of a column.

    Attributes:
        text: At most two lines.
        is_name: Whether it has names, which may be folded; numbers never are.
    """

    text: str
    is_name: bool = False


def terminal_table(
    title: str, headings: Sequence[Heading], rows: Sequence[Sequence[str]], notes: Sequence[str], width: int = WIDTH
) -> str:
    """A title, a table and what there is to say of it, no wider than asked for unless its numbers need more."""
    rows = [[printable(cell) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="")
    needed = 0
    for number, heading in enumerate(headings):
        cells = [*heading.text.splitlines(), *(row[number] for row in rows)]
        natural = max(map(cell_len, cells))
        needed += _GAP + (min(natural, _MIN_NAME) if heading.is_name else natural)
        if heading.is_name:
            table.add_column(heading.text, overflow="fold", min_width=min(natural, _MIN_NAME))
        else:
            table.add_column(heading.text, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(width=max(width, needed), color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(Text(printable(title)), table, sep="\n")
        for note in notes:
            console.print(Text(printable(note)), width=min(width, WIDTH))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def markdown_table(title: str, headings: Sequence[Heading], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """The same as a Markdown table, names as code."""
    names = [heading.is_name for heading in headings]
    lines = [
        [heading.text.replace("/\n", "/").replace("\n", " ") for heading in headings],
        ["---" if is_name else "---:" for is_name in names],
        *(
            [_as_code(cell) if is_name and cell != NONE else cell for cell, is_name in zip(row, names, strict=True)]
            for row in rows
        ),
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join(map(str, [title, table, *notes]))


def html_table(
    title: str,
    headings: Sequence[Heading],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    legend: Sequence[str] = (),
) -> str:
    """The same for a notebook; of many rows the first, and what the columns mean on a click."""
    from framecache.cache import html

    names = [heading.is_name for heading in headings]
    table = html.table([heading.text for heading in headings], rows, names)
    return html.card(title, table, html.notes(notes), html.folded("what the columns mean", legend))


def printable(text: str) -> str:
    """A text that moves no cursor, changes no colour and breaks no line."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _as_code(text: str) -> str:
    return f"`{printable(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def decimal(value: float | None, digits: int) -> str:
    """A number with so many decimals, without a sign before a zero."""
    return NONE if value is None else f"{value + 0.0:.{digits}f}"


def mean_and_deviation(mean: float, deviation: float | None, digits: int = 3) -> str:
    """``0.950 ± 0.071``; without a deviation the mean alone."""
    return decimal(mean, digits) if deviation is None else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def count(number: int | None) -> str:
    """``1.2M``, ``34k``, ``5678``."""
    if number is None:
        return NONE
    return f"{number / 1e6:.1f}M" if number >= 1e6 else f"{number / 1e3:.0f}k" if number >= 1e4 else str(number)
