"""``framecache-train compare``: from folders to tables; no TensorFlow, so that it answers at once."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from framecache.cache.errors import InputError
from framecache.cache.shown import Shown, plural
from framecache.train.comparison.comparison import Comparison, compare
from framecache.train.comparison.filters import select
from framecache.train.comparison.forms import to_csv, to_json
from framecache.train.comparison.results import Result, find_runs, read_result
from framecache.train.comparison.table import format_html, format_markdown, format_table, sort
from framecache.train.comparison.words import conclusion

_WIDE = 200  # characters; where nobody's terminal sets a limit
_APART = "runs on other videos, labels or tasks cannot be compared with those above:"


@dataclass(frozen=True, eq=False, repr=False)
class Compared(Shown):
    """What was found in some folders.

    Attributes:
        comparisons: Runs that can be compared with each other, most runs first.
        unreadable: Folders of damaged runs, and what is wrong with each.
    """

    comparisons: tuple[Comparison, ...]
    unreadable: Mapping[str, str]

    def _line(self) -> str:
        counts = [plural(sum(len(row.runs) for row in each.rows), "run") for each in self.comparisons]
        return "; ".join(f"{runs}: {conclusion(each)}" for runs, each in zip(counts, self.comparisons, strict=True))

    def _html(self) -> str:
        from framecache.cache.html import notes, reasons

        tables = map(format_html, self.comparisons)
        return notes([_APART]).join(tables) + reasons("cannot be read", self.unreadable)

    def format(self, kind: str) -> str:
        """All tables as text with a line end: ``table``, ``md``, ``csv`` or ``json``."""
        if kind == "csv":
            return to_csv(self.comparisons)
        if kind == "json":
            told = {"comparisons": [to_json(each) for each in self.comparisons], "unreadable": dict(self.unreadable)}
            return json.dumps(told, indent=2, ensure_ascii=False) + "\n"
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDE
        tables = [format_markdown(each) if kind == "md" else format_table(each, width) for each in self.comparisons]
        return f"\n\n{_APART}\n\n".join(tables) + "\n"


def compare_runs(
    places: str | Path | Sequence[str | Path] = (),
    runs: str | Path = "runs",
    filters: Sequence[str] = (),
    sort_by: str = "number",
    group: bool = True,
) -> Compared:
    """Compares finished runs.

    Args:
        places: Runs, or folders to look for them in; by default ``runs``.
        runs: Folder of the runs.
        filters: See :func:`~framecache.train.comparison.filters.select`.
        sort_by: See :func:`~framecache.train.comparison.table.sort`.
        group: Whether to group over seeds.

    Raises:
        InputError: There is nothing to compare, or a filter or a column is wrong.

    Example:
        >>> compare_runs("runs", filters=["units=64"])  # doctest: +SKIP
    """
    runs = Path(runs)
    places = [places] if isinstance(places, str | Path) else places
    results: list[Result] = []
    unreadable: dict[str, str] = {}
    for folder in find_runs(places, runs):
        try:
            results.append(read_result(folder))
        except (InputError, OSError) as error:
            unreadable[str(folder)] = " ".join(str(error).split())
    where = ", ".join(map(str, places or [runs]))
    if not results and unreadable:
        raise InputError(
            f"{where}: no run can be read; the first of {len(unreadable)}: {next(iter(unreadable.values()))}"
        )
    if not results:
        raise InputError(f"{where}: expected finished runs, found none; framecache-train fit makes them")
    comparisons = compare(select(results, filters), group)
    return Compared(tuple(sort(each, sort_by) for each in comparisons), unreadable)
