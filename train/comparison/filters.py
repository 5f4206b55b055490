"""Which runs are compared: conditions on their settings, as the command line has them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any

from framecache.cache.errors import InputError
from framecache.train.comparison.results import Result


def select(results: Sequence[Result], filters: Sequence[str]) -> list[Result]:
    """Runs that fit all of some filters.

    Args:
        results: The runs.
        filters: Each ``field=value`` or, for a text within the value, ``field~text``; fields are those of the
            configuration, ``set``, ``task`` and ``run``.

    Raises:
        InputError: A filter is wrong, or nothing fits.
    """
    chosen = list(results)
    for condition in filters:
        cuts = [place for sign in "=~" if (place := condition.find(sign)) > 0]
        if not cuts:
            raise InputError(f"--filter {condition!r}: expected field=value or field~text, such as units=64 or set~gmp")
        name, sign, wanted = condition[: min(cuts)].strip(), condition[min(cuts)], condition[min(cuts) + 1 :].strip()
        known = sorted({key for result in results for key in _filtered(result)})
        if name not in known:
            raise InputError(f"--filter {condition!r}: no field {name!r}; expected one of {named(name, known)}")
        before = chosen
        chosen = [result for result in chosen if _fits(_filtered(result).get(name), sign, wanted)]
        if not chosen:
            values = sorted({as_text(_filtered(result).get(name)) for result in before})
            raise InputError(f"--filter {condition!r}: fits no run; found {', '.join(values[:10])}")
    return chosen


def named(name: str, known: Sequence[str]) -> str:
    """The names that there are, and the one that was perhaps meant."""
    near = difflib.get_close_matches(name, known, 1)
    return ", ".join(known) + (f"; did you mean {near[0]!r}?" if near else "")


def as_text(value: Any) -> str:
    """A setting as a table has it."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    return "–" if value is None else json.dumps(value, ensure_ascii=False)


def _filtered(result: Result) -> dict[str, Any]:
    return {**result.config, "seed": result.seed, "set": result.feature_set, "task": result.task} | {
        "run": str(result.folder)
    }


def _fits(value: Any, sign: str, wanted: str) -> bool:
    text = as_text(value)
    if sign == "~":
        return wanted.lower() in text.lower()
    if text.lower() == wanted.lower() or str(value).lower() == wanted.lower():
        return True
    try:
        return bool(float(wanted) == value)
    except ValueError:
        return False
