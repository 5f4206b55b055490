"""Small tables in HTML for notebooks: no scripts, nothing to load, no colours but the page's own, any text escaped.

Styles are written into the elements, since notebooks strip style sheets from output that they do not trust.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from markupsafe import Markup

from framecache.cache.shown import plain

_CARD = Markup('<div style="max-width:64em;margin:.3em 0;line-height:1.45">{}</div>')
_TITLE = Markup('<div style="overflow-wrap:anywhere"><strong>{}</strong></div>')
_TABLE = Markup(
    '<div style="overflow-x:auto"><table style="border-collapse:collapse;border:0;margin:.4em 0;width:auto">{}</table>'
    "</div>"
)
_ROW = Markup('<tr style="background:none">{}</tr>')
_KEY = "border:0;font-weight:normal;opacity:.75;white-space:nowrap;"
_VALUE = "border:0;overflow-wrap:anywhere;"
_LINE = "border:0;border-bottom:1px solid rgba(128,128,128,.35);"
_CELL = Markup('<{} style="vertical-align:top;text-align:{};padding:.15em .8em .15em 0;{}">{}</{}>')
_NAME = "overflow-wrap:anywhere;min-width:6em;max-width:26em;"
_NUMBER = "white-space:nowrap;font-variant-numeric:tabular-nums;"
_NOTE = Markup('<div style="font-size:.9em;opacity:.75;overflow-wrap:anywhere;margin:.15em 0">{}</div>')
_FOLDED = Markup(
    '<details style="margin:.15em 0">'
    '<summary style="font-size:.9em;opacity:.75;cursor:pointer">{}</summary>{}</details>'
)
_CODE = Markup('<code style="background:none;color:inherit;white-space:pre-wrap;overflow-wrap:anywhere">{}</code>')
_PICTURE = Markup(
    '<img alt="{}" src="data:image/png;base64,{}" style="width:100%;max-width:{}px;height:auto;background:#fff;'
    'margin:.3em .6em .3em 0;vertical-align:top">'
)
_PNG = b"\x89PNG\r\n\x1a\n"
_MAX_PICTURE_BYTES = 2_000_000
_MAX_COMMAND = 4000  # characters
_SHOWN_REASONS = 5
_SHOWN_ROWS = 20


def card(title: str, *parts: str) -> Markup:
    """A title and, below it, what the other functions here make."""
    return _CARD.format(Markup("").join([_TITLE.format(plain(title)), *parts]))


def facts(pairs: Iterable[tuple[str, object]]) -> Markup:
    """A table of two columns: what, and its value or a list of values; what has none is left out."""
    rows = [
        _ROW.format(_cell("th", "left", _KEY, key) + _cell("td", "left", _VALUE, _values(told)))
        for key, told in pairs
        if told
    ]
    return _TABLE.format(Markup("").join(rows)) if rows else Markup("")


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], names: Sequence[bool]) -> Markup:
    """A table with a head; of many rows the first.

    Args:
        headings: Of the columns; they may have several lines.
        rows: Their cells.
        names: Which columns hold names, which are left-aligned and may be broken; the others hold numbers.
    """

    def line(tag: str, cells: Sequence[object]) -> Markup:
        place = "vertical-align:bottom;" if tag == "th" else ""
        told = [
            _cell(tag, "left" if is_name else "right", _LINE + (_NAME if is_name else _NUMBER) + place, cell)
            for cell, is_name in zip(cells, names, strict=True)
        ]
        return _ROW.format(Markup("").join(told))

    if not rows:
        return Markup("")
    lines = [line("td", row) for row in rows[:_SHOWN_ROWS]]
    head, body = Markup("<thead>{}</thead>"), Markup("<tbody>{}</tbody>")
    made = _TABLE.format(
        head.format(line("th", [_values(text.split("\n")) for text in headings])) + body.format(Markup("").join(lines))
    )
    more = len(rows) - _SHOWN_ROWS
    return made + (notes([f"… and {more:,} more"]) if more > 0 else Markup(""))


def reasons(what: str, why: Mapping[str, str]) -> Markup:
    """Names and their reasons, the first few; nothing where there are none."""
    if not why:
        return Markup("")
    shown = list(islice(why.items(), _SHOWN_REASONS))
    more = [f"… and {len(why) - len(shown):,} more"] if len(why) > len(shown) else []
    return table((what, "reason"), shown, (True, True)) + notes(more)


def notes(lines: Iterable[str]) -> Markup:
    """Remarks in small print, a line each."""
    return Markup("").join(_NOTE.format(plain(line, _MAX_COMMAND)) for line in lines)


def folded(summary: str, lines: Sequence[str]) -> Markup:
    """Remarks that few will read, shown on a click."""
    return _FOLDED.format(plain(summary), notes(lines)) if lines else Markup("")


def code(text: str) -> Markup:
    """A command, or something to type."""
    return _CODE.format(plain(text, _MAX_COMMAND))


def picture(path: Path, caption: str, width: int) -> Markup:
    """A PNG as it is on disk, within the page; nothing where there is none, or one too large for a notebook.

    Args:
        path: The file.
        caption: What it shows, for those who do not see it.
        width: Pixels that it takes at most.
    """
    try:
        if not path.is_file() or path.stat().st_size > _MAX_PICTURE_BYTES:  # a pipe would be waited for without end
            return Markup("")
        content = path.read_bytes()
    except OSError:
        return Markup("")
    if not content.startswith(_PNG):
        return Markup("")
    return _PICTURE.format(plain(caption), base64.b64encode(content).decode(), width)


def _values(told: object) -> object:
    """Each of several values on a line of its own."""
    if not isinstance(told, list | tuple):
        return told
    lines = [plain(value) for value in told[:_SHOWN_ROWS]]
    return Markup("<br>").join([*lines, *(["…"] if len(told) > _SHOWN_ROWS else [])])


def _cell(tag: str, align: str, style: str, content: object) -> Markup:
    told = content if isinstance(content, Markup) else plain(content)
    return _CELL.format(tag, align, style, told, tag)
