"""How objects show themselves in an interactive session: a line, and in a notebook a table."""

from __future__ import annotations

_MAX_TEXT = 160  # characters of a name or a reason
_MAX_LINE = 600


class Shown:
    """Gives a class a ``repr`` and a notebook's table that never raise, whatever became of its files.

    A class says what it is in :meth:`_line` and, more of it, in :meth:`_html`.
    """

    def _line(self) -> str:
        """What it is, in a few words: names, counts, the best numbers."""
        raise NotImplementedError

    def _html(self) -> str:
        """The same and more, as of :mod:`framecache.cache.html`."""
        raise NotImplementedError

    def __repr__(self) -> str:
        kind = type(self).__name__
        try:
            return f"<{kind} {plain(self._line(), _MAX_LINE)}>"
        except Exception as error:  # an object that cannot be shown would hide the traceback that it is shown for
            return f"<{kind}: cannot be shown: {_reason(error)}>"

    def _repr_html_(self) -> str:
        from framecache.cache.html import card, notes

        try:
            return str(self._html())
        except Exception as error:  # as above
            return str(card(repr(self), notes([f"more cannot be shown: {_reason(error)}"])))


def _reason(error: Exception) -> str:
    try:
        return plain(str(error) or type(error).__name__)
    except Exception:
        return type(error).__name__


def plain(text: object, limit: int = _MAX_TEXT) -> str:
    """Text that moves no cursor, changes no colour or direction, breaks no line, and is not longer than the limit.

    Of a longer one the middle is left out, since names differ at their ends.
    """
    whole = str(text)
    if len(whole) > limit:
        whole = f"{whole[: limit // 2]}…{whole[len(whole) - (limit - limit // 2 - 1) :]}"
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in whole)


def plural(count: int, noun: str) -> str:
    """``1 video``, ``1,234 videos``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
