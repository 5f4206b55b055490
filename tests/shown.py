"""Reads what notebooks are shown, as strictly as nobody else."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

TAGS = {"div", "strong", "table", "thead", "tbody", "tr", "th", "td", "code", "details", "summary", "br", "img"}
VOID = {"br", "img"}
ATTRIBUTES = {"style", "alt", "src"}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.num_pictures = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS
        for name, value in attrs:
            assert name in ATTRIBUTES
            assert "url(" not in (value or "")
            assert name != "src" or str(value).startswith("data:image/png;base64,")
        self.num_pictures += tag == "img"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read_html(shown: Any) -> tuple[str, int]:
    """The words of an object's ``_repr_html_``, and how many pictures it has; fails on what a notebook should not get.

    That is: unbalanced tags, scripts, anything to load, and text that cannot be saved.
    """
    html = shown._repr_html_()
    assert type(html) is str  # a subclass could escape what is put beside it
    html.encode()
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open
    return " ".join(reader.texts), reader.num_pictures
