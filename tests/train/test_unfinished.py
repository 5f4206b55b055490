"""Whose folder a run gets: its own unfinished one, never another's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from framecache.cache.errors import InputError
from framecache.train.config import FitConfig
from framecache.train.unfinished import claimed_folder, unfinished_identity

FEATURES: Any = SimpleNamespace(spec=SimpleNamespace(short_name="toy.gap"))


class KilledError(Exception):
    """In place of a kill: the folder stays as it is."""


def killed(config: FitConfig, identity: dict[str, Any]) -> Path:
    with pytest.raises(KilledError), claimed_folder(config, FEATURES, identity) as folder:
        raise KilledError
    return folder


@pytest.mark.parametrize("name", [None, "mine"])
def test_the_same_run_gets_its_unfinished_folder_and_another_does_not(tmp_path: Path, name: str | None) -> None:
    config = FitConfig(runs=tmp_path / "runs", name=name)
    folder = killed(config, {"seed": 0})
    assert unfinished_identity(folder) == {"seed": 0}
    assert killed(config, {"seed": 0}) == folder
    if name is None:
        assert killed(config, {"seed": 1}).name == "toy.gap-lstm-seed0-2"
    else:
        with pytest.raises(InputError, match=r"mine is an unfinished run of other settings.*choose another name"):
            killed(config, {"seed": 1})


def test_two_processes_of_one_command_have_a_folder_each(tmp_path: Path) -> None:
    config = FitConfig(runs=tmp_path)
    with claimed_folder(config, FEATURES, {}) as first, claimed_folder(config, FEATURES, {}) as second:
        assert first != second
    with claimed_folder(config, FEATURES, {}) as third:
        assert third == first


def test_a_finished_run_is_nobodys(tmp_path: Path) -> None:
    config = FitConfig(runs=tmp_path, fold=2, folds=3)
    folder = killed(config, {})
    (folder / "run.json").write_text("{}")
    assert unfinished_identity(folder) is None
    assert (folder.name, killed(config, {}).name) == ("toy.gap-lstm-seed0-fold2", "toy.gap-lstm-seed0-fold2-2")
    with pytest.raises(InputError, match="exists already; choose another name"):
        killed(FitConfig(runs=tmp_path, name=folder.name), {})


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000])
def test_a_folder_that_does_not_say_what_it_is_is_left_alone(tmp_path: Path, text: str) -> None:
    folder = killed(FitConfig(runs=tmp_path), {})
    (folder / "checkpoint" / "identity.json").write_text(text)
    assert killed(FitConfig(runs=tmp_path), {}) != folder
