"""``fit --from RUN --set field=value``: the settings of a run, as a source of the command line's."""

from __future__ import annotations

import difflib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts.config import Dict

from framecache.cache.errors import InputError
from framecache.cache.store import open_cache
from framecache.train.config import FitConfig
from framecache.train.runs import open_run

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.argument import Argument, ArgumentCollection

_FROM, _SET = "--from", "--set"
_OF_ITS_OWN = ("name", "runs")  # a new run goes where new runs go


def settings_of_run(command: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Gives a command's arguments the values of ``--set``, and those of the run where nothing else gives one.

    As cyclopts calls its sources of configuration, for any command; flags and the keys of ``--config`` come first.

    Raises:
        InputError: A field is unknown or given twice, or the run is none.
    """
    named = {argument.name: argument for argument in arguments}
    if _FROM not in named:
        return
    source, changes = (named[name].tokens for name in (_FROM, _SET))
    if changes and not source:
        raise InputError(f"{_SET} {changes[0].value}: expected {_FROM} RUN, whose settings it changes")
    for token in list(changes):
        name, value = _split(token.value)
        _refuse_given(named[_flag(name)], token.value)
        named[_flag(name)].tokens.clear()
        Dict({name: value}, use_commands_as_keys=False, source=_SET)(command, commands, arguments)
    if source:
        config = asdict(open_run(source[0].value).config())
        kept = {name: str(value) for name, value in config.items() if value is not None and name not in _OF_ITS_OWN}
        Dict(kept, use_commands_as_keys=False, source=source[0].value)(command, commands, arguments)


def repeated_set(folder: Path, feature_set: str | None, config: FitConfig) -> str:
    """The full name of the feature set of a run that is to be trained again, or with other settings.

    Args:
        folder: The run's.
        feature_set: The one asked for, which has to be the same; None for that of the run.
        config: Settings of the new run.

    Raises:
        InputError: The cache has another feature set, or labels or splits are no longer those of the run.
        FeatureSetNotFoundError: The cache has none of that kind.
    """
    from framecache.train.reuse import refuse_other_labels

    run = open_run(folder)
    features = run.open_features(config.cache)
    if feature_set is not None:
        asked = open_cache(config.cache)[feature_set]
        if asked.fingerprint != features.fingerprint:
            raise InputError(
                f"{feature_set}: {folder} was trained on {features.name}; leave the feature set out, or train on "
                f"{asked.name} without {_FROM}"
            )
    refuse_other_labels(run, features, config)
    return features.name


def _split(change: str) -> tuple[str, str]:
    name, equals, value = change.partition("=")
    name = name.strip().replace("-", "_")
    known = list(FitConfig.__dataclass_fields__)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        raise InputError(
            f"{_SET} {change}: unknown field {name!r}"
            + (f"; did you mean {near[0]!r}?" if near else f"; expected one of {', '.join(known)}")
        )
    if not equals:
        raise InputError(f"{_SET} {change}: expected field=value, such as {name}=…")
    return name, value.strip()


def _refuse_given(argument: Argument, change: str) -> None:
    if any(token.source in ("cli", _SET) for token in argument.tokens):
        raise InputError(f"{_SET} {change}: {argument.name} is given twice; expected it once")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
