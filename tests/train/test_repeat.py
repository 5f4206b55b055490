"""fit --from RUN: the settings of a run, with some changed, on the features and labels that it had."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from framecache.cache.cli import run as run_command
from framecache.cache.errors import InputError
from framecache.cache.store import open_cache
from framecache.train.__main__ import app
from framecache.train.config import FitConfig
from framecache.train.reuse import labels_digest
from framecache.train.runs import open_run
from framecache.train.splits.labels import label_videos
from framecache.train.tasks.registry import make_task

from .conftest import Data, make_data


class Stop(Exception):  # noqa: N818
    """Here fit would begin."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, FitConfig]]:
    found: list[tuple[str, FitConfig]] = []

    def fit(feature_set: str, config: FitConfig, progress: bool = False) -> Any:
        found.append((feature_set, config))
        raise Stop

    monkeypatch.setattr("framecache.train.__main__.fit", fit)
    return found


@pytest.fixture
def config(data: Data, tmp_path: Path) -> FitConfig:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(data.manifest.read_text())
    return FitConfig(
        manifest=manifest,
        cache=data.cache,
        runs=tmp_path / "runs",
        name="one",
        model="gru",
        units=5,
        learning_rate=1 / 3,
    )


@pytest.fixture
def folder(data: Data, config: FitConfig) -> Path:
    """A run, as far as it is read."""
    features = open_cache(data.cache)[data.name]
    labeled = label_videos(features, config)
    place = config.runs / "one"
    place.mkdir(parents=True)
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
    record = {"config": plain, "spec": features.spec.to_dict(), "machine": {"threads": 3}}
    record["labels"] = labels_digest(labeled, make_task(config, labeled))
    (place / "run.json").write_text(json.dumps(record))
    return place


def command(*words: object) -> int:
    return run_command(app, ["fit", *map(str, words)])


def test_a_run_is_repeated_with_its_settings_features_and_threads(
    folder: Path, config: FitConfig, data: Data, asked: list[tuple[str, FitConfig]]
) -> None:
    with pytest.raises(Stop):
        command("--from", folder)
    assert asked == [(data.name, replace(config, name=None, runs=Path("runs"), threads=3))]


def test_what_is_set_or_flagged_is_another_and_wins_over_a_file(
    folder: Path, config: FitConfig, tmp_path: Path, asked: list[tuple[str, FitConfig]]
) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text("units = 9\npatience = 7\nepochs = 8\n")
    words = ["--set", "units=64", "--set", "class_weights=true", "--epochs", "100", "--name", "two"]
    with pytest.raises(Stop):
        command("toy.gap", "--from", folder, *words, "--config", settings, "--set", "learning-rate=1e-4")
    wanted = {"units": 64, "class_weights": True, "epochs": 100, "patience": 7, "learning_rate": 1e-4}
    assert asked[0][1] == replace(config, **wanted, name="two", runs=Path("runs"), threads=3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "unit=3"], "--set unit=3: unknown field 'unit'; did you mean 'units'?"),
        (["--set", "colour=3"], "--set colour=3: unknown field 'colour'; expected one of model, units,"),
        (["--set", "units"], "--set units: expected field=value, such as units="),
        (["--set", "units=many"], "units"),
        (["--set", "units=0"], "--units 0: expected at least 1"),
        (["--set", "units=3", "--units", "4"], "--set units=3: --units is given twice; expected it once"),
        (["--set", "units=3", "--set", "units=4"], "--set units=4: --units is given twice; expected it once"),
    ],
)
def test_a_wrong_change_is_one_line(
    words: list[str], message: str, folder: Path, asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--from", folder, *words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert asked == []


def test_changes_need_a_run_and_fit_needs_features(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command("toy.gap", "--set", "units=3") == 2
    assert "--set units=3: expected --from RUN" in capsys.readouterr().err
    assert command() == 2
    assert "expected the name of a feature set, or --from RUN" in capsys.readouterr().err
    assert command("--from", tmp_path) == 2
    assert "expected the folder of a run, found no run.json" in capsys.readouterr().err


def test_other_features_than_those_of_the_run_are_refused(
    folder: Path, config: FitConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data(tmp_path / "other", (2, 2, 3))
    assert command("--from", folder, "--cache", tmp_path / "other" / "features") == 2
    assert "no feature set" in capsys.readouterr().err
    make_data(tmp_path / "other", (9,))
    assert command("--from", folder, "--cache", tmp_path / "other" / "features") == 2
    assert "feature_shape: [8] → [9]" in capsys.readouterr().err
    make_data(tmp_path / "both")
    make_data(tmp_path / "both", (2, 2, 3))
    assert command("toy.grid", "--from", folder, "--cache", tmp_path / "both" / "features") == 2
    assert "toy.grid: " in (err := capsys.readouterr().err)
    assert "was trained on toy.gap-" in err


def test_labels_that_have_changed_are_refused_with_the_way_back(
    folder: Path, config: FitConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "splits.csv").write_text("")
    assert config.manifest is not None
    config.manifest.write_text(config.manifest.read_text().replace("up/train1.mp4,up", "up/train1.mp4,down"))
    assert command("--from", folder) == 2
    err = capsys.readouterr().err
    assert "was trained with other labels or splits than " in err
    assert f"those of the run are in {folder / 'splits.csv'}: --manifest, with --root" in err


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "expected the settings of the run, found none"),
        ({"config": {"colour": 1}}, "its setting 'colour' is unknown here"),
        ({"config": {"units": "many"}}, "units: expected a whole number, found many"),
        ({"config": {"units": 0}}, "--units 0: expected at least 1"),
    ],
)
def test_a_run_with_wrong_settings_is_refused(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=message):
        open_run(tmp_path).config()


def test_settings_that_a_run_does_not_know_have_their_defaults(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"config": {"units": 3, "manifest": "m.csv", "dropout": 0}}))
    assert open_run(tmp_path).config() == FitConfig(units=3, manifest=Path("m.csv"), dropout=0.0)
