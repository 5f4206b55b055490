"""What a sweep searches: a TOML file becomes settings of trials, all of which are checked before the first one runs."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import math
import tomllib
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from framecache.cache.errors import InputError
from framecache.cache.spec import folder_name
from framecache.train.config import FitConfig
from framecache.train.trials import Trial

METHODS = ("grid", "random", "tpe")
PRUNINGS = ("none", "median", "halving")
SET = "set"  # the axis of the feature sets
_OWN = ("sets", "seeds", "pruning", *METHODS)  # keys that are no fields of a run
_HINTS = get_type_hints(FitConfig)
DEFAULTS = {field.name: field.default for field in fields(FitConfig)}
_NO_AXES = {
    "seed": "the seeds are no axis; write seeds = [0, 1, 2], or seeds = 3, at the top",
    **dict.fromkeys(("name", "runs", "threads"), "trials get theirs from the sweep"),
    **dict.fromkeys(
        ("manifest", "root", "cache", "task", "folds", "fold", "duplicates", "missing"),
        "trials are compared on the same videos and labels; write it at the top, once for all",
    ),
}
_MAX_NAME = 150  # bytes of a trial's name
_SHOWN = 5


@dataclass(frozen=True)
class Choice:
    """An axis of some values, of which each trial has one."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """An axis of numbers from low to high, both included; in steps, or evenly by their logarithm."""

    low: float
    high: float
    step: float | None = None
    log: bool = False


@dataclass(frozen=True)
class Sweep:
    """What a file asks for.

    Attributes:
        name: Of the folder within runs.
        sets: Feature sets: names, with or without fingerprint, or prefixes.
        fixed: Fields of every run.
        axes: The other fields, and :data:`SET` where there are several.
        method: grid (all combinations), random (drawn independently) or tpe (drawn near the best ones so far).
        configurations: How many are drawn; 0 in a grid.
        seeds: Each configuration is trained with each of them.
        pruning: none, median (a trial ends once it is behind the median of the others at its epoch) or halving
            (trials compete at 1, 3, 9, … parts of their epochs; a third goes on).
    """

    name: str
    sets: tuple[str, ...]
    fixed: Mapping[str, Any]
    axes: Mapping[str, Choice | Range]
    method: str = "grid"
    configurations: int = 0
    seeds: tuple[int, ...] = (0,)
    pruning: str = "none"

    @property
    def folder(self) -> Path:
        """Of all trials."""
        return Path(self.fixed.get("runs", DEFAULTS["runs"])) / self.name

    @property
    def folds(self) -> tuple[int, ...]:
        """Each configuration is trained on each of them; 0 for the manifest's splits."""
        count, chosen = self.fixed.get("folds", 0), self.fixed.get("fold", 0)
        return tuple(range(1, count + 1)) if count and not chosen else (chosen,)

    @property
    def num_trials(self) -> int:
        """How many there are in all."""
        sizes = [len(axis.values) for axis in self.axes.values() if isinstance(axis, Choice)]
        return (self.configurations or math.prod(sizes)) * len(self.seeds) * len(self.folds)

    def trials(self, values: Mapping[str, Any], configuration: int = 0) -> list[Trial]:
        """A configuration, trained with each seed on each fold.

        Raises:
            InputError: A value is wrong.
        """
        settings = {key: value for key, value in values.items() if key != SET}
        made = []
        for seed, fold in itertools.product(self.seeds, self.folds):
            own = {"seed": seed, **({"fold": fold} if len(self.folds) > 1 else {})}
            name = _trial_name({**values, **own}, configuration)
            place = {"runs": self.folder, "name": name, **({"threads": 1} if "threads" in DEFAULTS else {})}
            config = FitConfig(**{**self.fixed, **settings, **own, **place})
            made.append(Trial(name, values.get(SET, self.sets[0]), values, config, configuration))
        return made

    def combinations(self) -> Iterator[dict[str, Any]]:
        """All of a grid."""
        choices = [axis.values if isinstance(axis, Choice) else () for axis in self.axes.values()]
        for values in itertools.product(*choices):
            yield dict(zip(self.axes, values, strict=True))

    def corners(self) -> Iterator[dict[str, Any]]:
        """Values at the ends of every axis, the other axes at their beginnings: what can be wrong without a grid."""
        first = {name: _ends(axis)[0] for name, axis in self.axes.items()}
        yield first
        for name, axis in self.axes.items():
            for value in _ends(axis)[1:]:
                yield {**first, name: value}

    def describe(self) -> dict[str, Any]:
        """As plain JSON: what decides the trials, without what has its default."""
        places = ("cache", "root", "runs")  # the features and videos are known by their digests
        changed = {k: v for k, v in self.fixed.items() if v != DEFAULTS[k] and k not in places}
        axes = {
            name: list(axis.values) if isinstance(axis, Choice) else _plain(axis) for name, axis in self.axes.items()
        }
        whole = {"sets": list(self.sets), "method": self.method, "trials": self.configurations}
        own = {"seeds": list(self.seeds), "pruning": self.pruning, "axes": axes}
        return {**whole, **own, "fixed": {name: _text(value) for name, value in sorted(changed.items())}}


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


def check_trials(sweep: Sweep) -> None:
    """Makes the settings of all trials that can be known in advance.

    Raises:
        InputError: Some are wrong; the message has each reason once.
    """
    reasons: dict[str, list[str]] = {}
    names: set[str] = set()
    count = 0
    for values in sweep.combinations() if sweep.method == "grid" else sweep.corners():
        count += 1
        try:
            made = sweep.trials(values)
        except InputError as error:
            reasons.setdefault(str(error), []).append(shown(values))
        else:
            names.update(trial.name.casefold() for trial in made)
    if reasons:
        wrong = sum(map(len, reasons.values()))
        told = [f"{reason} ({where[0]})" if where[0] else reason for reason, where in reasons.items()]
        more = f"; and {len(told) - _SHOWN} other reasons" if len(told) > _SHOWN else ""
        raise InputError(f"{wrong} of {count} configurations cannot be trained: {'; '.join(told[:_SHOWN])}{more}")
    if len(names) < count * len(sweep.seeds) * len(sweep.folds):
        raise InputError("some trials would have the same name; expected values that differ in more than case")


def require_extension(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> None:
    """Refuses another sweep under the same name; more trials, seeds, or values of a grid are no other sweep.

    Args:
        old: As :meth:`Sweep.describe` gave it.
        new: As it gives it now.
        where: The folder, for the error message.

    Raises:
        InputError: With all differences.
    """
    lines = []
    grid = old.get("method") == new["method"] == "grid"
    for key, (before, after) in _flat(old, new):
        is_grown = isinstance(before, list) and isinstance(after, list) and all(value in after for value in before)
        if before == after or (is_grown and (grid or key == "seeds")):
            continue
        if key == "trials" and isinstance(before, int) and before < after:
            continue
        lines.append(f"{key}: {_text(before)} → {_text(after)}")
    if lines:
        raise InputError(
            f"{where} holds a sweep of this name with other settings ({'; '.join(lines)}); give this one another name. "
            "Only trials, seeds and values of a grid may be added"
        )


def typed(name: str, value: Any) -> Any:
    """A value from a TOML or JSON file as a field of :class:`FitConfig` has it.

    Raises:
        InputError: It is of another type.
    """
    kinds = get_args(_HINTS[name]) if isinstance(_HINTS[name], types.UnionType) else (_HINTS[name],)
    for kind in kinds:
        if kind is float and type(value) is int:
            return float(value)
        if kind is Path and isinstance(value, str):
            return Path(value)
        if type(value) is kind:
            return value
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}
    expected = " or ".join(words[kind] for kind in kinds if kind in words)
    raise InputError(f"{name}: expected {expected}, found {_text(value)}")


def shown(values: Mapping[str, Any], digits: int = 0) -> str:
    """``model=gru,units=64``; numbers with so many significant digits, or all."""
    return ",".join(f"{name}={_number(value, digits)}" for name, value in values.items())


def _trial_name(values: Mapping[str, Any], configuration: int) -> str:
    """Of the values; where these cannot be written in a name, their digest tells them apart."""
    plain = shown(values, 4 if configuration else 0)
    parts = [f"{name}={folder_name(_number(value, 4 if configuration else 0))}" for name, value in values.items()]
    name = ",".join([f"{configuration:04d}", *parts] if configuration else parts)
    if (",".join(parts) == plain or configuration) and len(name.encode()) <= _MAX_NAME:
        return name
    digest = hashlib.sha256(json.dumps(dict(values), default=str, sort_keys=True).encode()).hexdigest()[:8]
    return f"{name.encode()[:_MAX_NAME].decode(errors='ignore').rstrip('. ')},{digest}"


def _number(value: Any, digits: int) -> str:
    return f"{value:.{digits}g}" if digits and isinstance(value, float) else str(value)


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
    if _HINTS[name] not in (int, float):
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


def _ends(axis: Choice | Range) -> tuple[Any, ...]:
    return axis.values if isinstance(axis, Choice) else (axis.low, axis.high)


def _plain(axis: Range) -> dict[str, Any]:
    return {key: value for key, value in vars(axis).items() if value not in (None, False)}


def _flat(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Pairs of values by their name, those of axes and fixed fields among them."""
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if key in ("axes", "fixed", "features") and isinstance(before, Mapping) and isinstance(after, Mapping):
            for name in sorted({*before, *after}):
                default = _text(DEFAULTS[name]) if key == "fixed" and name in DEFAULTS else None
                yield name, (before.get(name, default), after.get(name, default))
        else:
            yield key, (before, after)


def _text(value: Any) -> str:
    if value is None:
        return "nothing"
    return (
        value if isinstance(value, str) else str(value) if isinstance(value, Path) else json.dumps(value, default=str)
    )
