"""What a sweep searches: axes become settings of trials, all of which are checked before the first one runs."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from framecache.cache.errors import InputError
from framecache.cache.sources import public_text
from framecache.cache.spec import folder_name
from framecache.train.config import FitConfig
from framecache.train.sweep.trials import Trial

METHODS = ("grid", "random", "tpe")
PRUNINGS = ("none", "median", "halving")
SET = "set"  # the axis of the feature sets
HINTS = get_type_hints(FitConfig)
DEFAULTS = {field.name: field.default for field in fields(FitConfig)}
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
        return {**whole, **own, "fixed": {name: plain_text(value) for name, value in sorted(changed.items())}}


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
        lines.append(f"{key}: {plain_text(before)} → {plain_text(after)}")
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
    kinds = get_args(HINTS[name]) if isinstance(HINTS[name], types.UnionType) else (HINTS[name],)
    for kind in kinds:
        if kind is float and type(value) is int:
            return float(value)
        if kind is Path and isinstance(value, str):
            return Path(value)
        if type(value) is kind:
            return value
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}
    expected = " or ".join(words[kind] for kind in kinds if kind in words)
    raise InputError(f"{name}: expected {expected}, found {plain_text(value)}")


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
                default = plain_text(DEFAULTS[name]) if key == "fixed" and name in DEFAULTS else None
                yield name, (before.get(name, default), after.get(name, default))
        else:
            yield key, (before, after)


def plain_text(value: Any) -> str:
    """A value as a message has it."""
    if value is None:
        return "nothing"
    if isinstance(value, Path):
        return public_text(value)
    return value if isinstance(value, str) else json.dumps(value, default=str)
