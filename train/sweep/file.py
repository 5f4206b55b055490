"""A sweep's TOML file: what each key means, and what is wrong with it."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from framecache.cache.errors import InputError
from framecache.train.config import FitConfig
from framecache.train.sweep.search import (
    DEFAULTS,
    HINTS,
    METHODS,
    PRUNINGS,
    SET,
    Choice,
    Range,
    Sweep,
    check_trials,
    typed,
)
from framecache.train.sweep.search import plain_text as _text

_OWN = ("sets", "seeds", "pruning", *METHODS)  # keys that are no fields of a run
_NO_AXES = {
    "seed": "the seeds are no axis; write seeds = [0, 1, 2], or seeds = 3, at the top",
    **dict.fromkeys(("name", "runs", "threads"), "trials get theirs from the sweep"),
    **dict.fromkeys(
        ("manifest", "root", "cache", "task", "folds", "fold", "duplicates", "missing"),
        "trials are compared on the same videos and labels; write it at the top, once for all",
    ),
}


def read_sweep(path: Path) -> Sweep:
    """Reads what to search from a TOML file.

    Raises:
        InputError: It is no TOML, or a key, a value, or the settings of a trial are wrong.
    """
    try:
        content = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a TOML file with the sweep") from error
    except ValueError as error:
        raise InputError(f"{path}: not TOML ({error})") from error
    try:
        sweep = parse_sweep(content, path.stem)
        check_trials(sweep)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return sweep


def parse_sweep(content: Mapping[str, Any], stem: str) -> Sweep:
    """Makes a sweep of a file's content.

    Args:
        content: Keys and values.
        stem: Its name unless it has a key ``name``.

    Raises:
        InputError: A key or a value is wrong.
    """
    content = {key.replace("-", "_"): value for key, value in content.items()}
    _refuse_unknown(content, (*_OWN, *DEFAULTS), "at the top")
    methods = [method for method in METHODS if method in content]
    if len(methods) > 1:
        raise InputError(f"[{methods[0]}] and [{methods[1]}]: expected one of them")
    method = methods[0] if methods else "grid"
    table = content.get(method, {})
    if not isinstance(table, Mapping):
        raise InputError(f"{method}: expected a table [{method}] with an axis a line, found {table!r}")
    table = {key.replace("-", "_"): value for key, value in table.items()}
    configurations = 0 if method == "grid" else _count(table.pop("trials", None), f"[{method}] trials")
    own = () if method == "grid" else ("trials",)
    _refuse_unknown(table, (*own, *(name for name in DEFAULTS if name not in _NO_AXES)), f"in [{method}]")
    fixed = {name: typed(name, content[name]) for name in DEFAULTS if name in content}
    both = sorted(fixed.keys() & table.keys())
    if both:
        raise InputError(f"{both[0]}: expected it at the top or in [{method}], found it in both")
    if "threads" in fixed:
        raise InputError("threads: a trial has one core, so that many run at once; leave it out")
    sets = _sets(content.get("sets"))
    axes = {name: _axis(name, value, method) for name, value in table.items()}
    if method != "grid" and not axes and len(sets) < 2:
        raise InputError(f"[{method}]: expected axes, such as units = [32, 64]; found none")
    pruning = content.get("pruning", "none")
    if pruning not in PRUNINGS:
        raise InputError(f"pruning = {pruning!r}: expected {', '.join(PRUNINGS)}")
    name = fixed.pop("name", None) or stem
    FitConfig(name=name)
    return Sweep(
        name=name,
        sets=sets,
        fixed={key: value for key, value in fixed.items() if key != "seed"},
        axes={SET: Choice(sets), **axes} if len(sets) > 1 else axes,
        method=method,
        configurations=configurations,
        seeds=_seeds(content, fixed),
        pruning=pruning,
    )


def _sets(value: Any) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(
            f'sets: expected a list of feature sets such as ["efficientnet-lite0.gap"], found {_text(value)}'
        )
    _refuse_repeated("sets", names)
    return tuple(names)


def _seeds(content: Mapping[str, Any], fixed: Mapping[str, Any]) -> tuple[int, ...]:
    if "seeds" not in content:
        return (fixed.get("seed", 0),)
    if "seed" in content:
        raise InputError("seed and seeds: expected one of them")
    value = content["seeds"]
    if isinstance(value, list):
        if not value:
            raise InputError("seeds: expected at least one, found []")
        _refuse_repeated("seeds", value)
        return tuple(typed("seed", seed) for seed in value)
    return tuple(range(_count(value, "seeds")))


def _count(value: Any, where: str) -> int:
    if type(value) is not int or value < 1:
        raise InputError(f"{where}: expected a whole number, 1 or more, found {_text(value)}")
    return value


def _axis(name: str, value: Any, method: str) -> Choice | Range:
    if isinstance(value, Mapping) and method != "grid":
        return _range(name, value)
    if not isinstance(value, list):
        other = "" if method == "grid" else ", or a range such as {low = 0.0, high = 0.5}"
        raise InputError(
            f"[{method}] {name}: expected a list of values{other}, found {_text(value)}; what is the same in all "
            "trials goes to the top" + ("; ranges are for [random] and [tpe]" if isinstance(value, Mapping) else "")
        )
    if not value:
        raise InputError(f"[{method}] {name}: expected at least one value, found []")
    values = [typed(name, one) for one in value]
    _refuse_repeated(f"[{method}] {name}", values)
    return Choice(tuple(values))


def _range(name: str, value: Mapping[str, Any]) -> Range:
    _refuse_unknown(value, ("low", "high", "step", "log"), f"in {name}")
    log = value.get("log", False)
    if isinstance(log, list) and len(log) == 2 and len(value) == 1:
        value, log = {"low": log[0], "high": log[1]}, True
    if "low" not in value or "high" not in value or not isinstance(log, bool):
        raise InputError(
            f"{name}: expected {{low = …, high = …}}, with step = … or log = true if wanted, or {{log = [low, high]}}; "
            f"found {_text(dict(value))}"
        )
    if HINTS[name] not in (int, float):
        raise InputError(f"{name}: expected a list of values, found a range; only numbers have one")
    numbers = {key: typed(name, value[key]) for key in ("low", "high", "step") if key in value}
    found = Range(**numbers, log=log)
    if not found.low < found.high:
        raise InputError(f"{name}: expected low < high, found {found.low:g} and {found.high:g}")
    if log and (found.low <= 0 or found.step is not None):
        raise InputError(f"{name}: a logarithmic range begins above 0 and has no step, found {_text(dict(value))}")
    if found.step is not None and found.step <= 0:
        raise InputError(f"{name}: expected a step above 0, found {found.step:g}")
    return found


def _refuse_unknown(found: Iterable[str], known: Sequence[str], where: str) -> None:
    for name in found:
        if name in known:
            continue
        if where != "at the top" and name in _NO_AXES and name in DEFAULTS:
            raise InputError(f"{name} {where}: {_NO_AXES[name]}")
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; expected some of {', '.join(known)}"
        raise InputError(f"unknown field {name!r} {where}{hint}")


def _refuse_repeated(where: str, values: Sequence[Any]) -> None:
    for place, value in enumerate(values):
        if value in values[:place]:
            raise InputError(f"{where}: {_text(value)} is listed twice")
