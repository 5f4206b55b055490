"""What a sweep's file means: trials and their names, and each mistake in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from framecache.cache.errors import InputError
from framecache.train.sweep.file import parse_sweep, read_sweep
from framecache.train.sweep.search import Choice, Range, Sweep, check_trials, require_extension
from framecache.train.sweep.study import draw_all

SETS = {"sets": ["toy.gap"]}


def parse(**content: Any) -> Sweep:
    sweep = parse_sweep({**SETS, **content}, "study")
    check_trials(sweep)
    return sweep


def test_a_grid_is_all_combinations_of_sets_values_and_seeds() -> None:
    grid = {"model": ["lstm", "gru"], "units": [32, 64], "learning_rate": [1e-3]}
    sweep = parse(sets=["toy.gap", "toy.gmp"], seeds=2, epochs=7, runs="out", grid=grid)
    trials = [trial for values in sweep.combinations() for trial in sweep.trials(values)]
    assert len(trials) == sweep.num_trials == 2 * 2 * 2 * 2
    assert len({trial.name for trial in trials}) == 16
    last = trials[-1]
    assert last.name == "set=toy.gmp,model=gru,units=64,learning_rate=0.001,seed=1"
    assert last.feature_set == "toy.gmp"
    config = last.config
    assert (config.model, config.units, config.seed, config.epochs) == ("gru", 64, 1, 7)
    assert (config.runs, config.name) == (Path("out/study"), last.name)


def test_seeds_and_set_may_be_one_and_axes_may_be_missing() -> None:
    sweep = parse(sets="toy.gap", seed=3)
    assert [trial.name for trial in sweep.trials(next(sweep.combinations()))] == ["seed=3"]


def test_each_fold_is_a_trial() -> None:
    sweep = parse(folds=3, seeds=[5])
    assert [trial.name for trial in sweep.trials({})] == ["seed=5,fold=1", "seed=5,fold=2", "seed=5,fold=3"]
    assert [trial.config.fold for trial in sweep.trials({})] == [1, 2, 3]


def test_ranges_are_written_as_in_optuna() -> None:
    axes = {
        "learning_rate": {"log": [1e-4, 1e-2]},
        "dropout": {"low": 0, "high": 0.5},
        "units": {"low": 32, "high": 128, "step": 32},
        "model": ["lstm"],
    }
    sweep = parse(tpe={"trials": 9, **axes})
    assert sweep.axes == {
        "learning_rate": Range(1e-4, 1e-2, log=True),
        "dropout": Range(0.0, 0.5),
        "units": Range(32, 128, 32),
        "model": Choice(("lstm",)),
    }
    assert (sweep.method, sweep.configurations, sweep.num_trials) == ("tpe", 9, 9)


def test_a_longer_random_search_begins_with_the_shorter_one() -> None:
    axes = {"learning_rate": {"log": [1e-4, 1e-2]}, "units": {"low": 32, "high": 96, "step": 32}, "model": ["gru"]}
    short, long = (draw_all(parse(random={"trials": count, **axes})) for count in (3, 6))
    assert long[:3] == short
    assert len({str(values) for values in long}) == 6
    for values in long:
        assert 1e-4 <= values["learning_rate"] <= 1e-2
        assert values["units"] in (32, 64, 96)
        assert isinstance(values["units"], int)


def test_names_differ_where_values_cannot_be_written_in_them() -> None:
    sweep = parse(grid={"model": ["net:small", "net_small:x", "net.small:y"]})
    names = [sweep.trials(values)[0].name for values in sweep.combinations()]
    assert len(set(names)) == 3
    assert all(":" not in name for name in names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"unit": 3}, "unknown field 'unit' at the top; did you mean 'units'?"),
        ({"grid": {"unit": [3]}}, "unknown field 'unit' in [grid]; did you mean 'units'?"),
        ({"grid": {"units": []}}, "[grid] units: expected at least one value, found []"),
        ({"grid": {"units": 3}}, "[grid] units: expected a list of values, found 3"),
        ({"grid": {"units": [3, "4"]}}, "units: expected a whole number, found 4"),
        ({"grid": {"units": [3, 4.0]}}, "units: expected a whole number, found 4.0"),
        ({"grid": {"units": [True]}}, "units: expected a whole number, found true"),
        ({"grid": {"units": [3, 4, 3]}}, "[grid] units: 3 is listed twice"),
        ({"grid": {"units": {"low": 1, "high": 3}}}, "ranges are for [random] and [tpe]"),
        ({"grid": {"seed": [1, 2]}}, "seed in [grid]: the seeds are no axis; write seeds = [0, 1, 2]"),
        ({"grid": {"manifest": ["a", "b"]}}, "manifest in [grid]: trials are compared on the same videos"),
        ({"grid": {"name": ["a"]}}, "name in [grid]: trials get theirs from the sweep"),
        ({"grid": {}, "tpe": {"trials": 3}}, "[grid] and [tpe]: expected one of them"),
        ({"units": 3, "grid": {"units": [3]}}, "units: expected it at the top or in [grid], found it in both"),
        ({"epochs": 2.5}, "epochs: expected a whole number, found 2.5"),
        ({"sets": []}, "sets: expected"),
        ({"sets": ["a", "a"]}, "sets: a is listed twice"),
        ({"seeds": 0}, "seeds: expected a whole number, 1 or more, found 0"),
        ({"seeds": []}, "seeds: expected at least one, found []"),
        ({"seeds": [1, 1]}, "seeds: 1 is listed twice"),
        ({"seeds": 2, "seed": 1}, "seed and seeds: expected one of them"),
        ({"pruning": "hyperband"}, "pruning = 'hyperband': expected none, median, halving"),
        ({"tpe": {"units": [3]}}, "[tpe] trials: expected a whole number, 1 or more, found nothing"),
        ({"tpe": {"trials": 3}}, "[tpe]: expected axes"),
        ({"tpe": {"trials": 3, "units": {"low": 3}}}, "units: expected {low = …, high = …}"),
        ({"tpe": {"trials": 3, "units": {"low": 3, "hihg": 4}}}, "unknown field 'hihg' in units; did you mean 'high'?"),
        ({"tpe": {"trials": 3, "units": {"low": 3.5, "high": 4}}}, "units: expected a whole number, found 3.5"),
        ({"tpe": {"trials": 3, "units": {"low": 4, "high": 4}}}, "units: expected low < high, found 4 and 4"),
        ({"tpe": {"trials": 3, "dropout": {"log": [0, 0.5]}}}, "dropout: a logarithmic range begins above 0"),
        ({"tpe": {"trials": 3, "model": {"low": 3, "high": 4}}}, "model: expected a list of values, found a range"),
        ({"tpe": {"trials": 3, "dropout": {"low": 0.5, "high": 1.0}}}, "--dropout 1: expected a share in [0, 1)"),
        ({"name": "a/b"}, "--name 'a/b': expected the plain name of a folder"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_a_mistake_is_told_with_its_place(content: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        parse(**content)
    assert message in str(error.value)


def test_all_wrong_combinations_are_told_at_once() -> None:
    with pytest.raises(InputError) as error:
        parse(grid={"units": [0, 8], "clip": ["spread", "crop"], "max_len": [0, 16], "model": ["lstm", "lsmt"]})
    message = str(error.value)
    assert message.startswith("13 of 16 configurations cannot be trained: ")
    assert "--units 0: expected at least 1" in message
    assert "--model 'lsmt'" in message
    assert "--clip crop: expected a --max-len" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sets = [", "experiments.toml: not TOML ("),
        ("epochs = 3\nepochs = 4\n", "at line 2"),
        ("sets = ['x']\nepoch = 3\n", "experiments.toml: unknown field 'epoch'"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "experiments.toml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_sweep(path)
    assert message in str(error.value)


def test_a_sweep_is_named_after_its_file(tmp_path: Path) -> None:
    path = tmp_path / "experiments.toml"
    path.write_text("sets = ['x']\n")
    assert read_sweep(path).folder == Path("runs/experiments")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"grid": {"units": [3]}}, {"grid": {"units": [4, 3]}}),
        ({"seeds": 2}, {"seeds": [5, 1, 0]}),
        ({"tpe": {"trials": 2, "units": [3]}}, {"tpe": {"trials": 3, "units": [3]}}),
        ({"epochs": 100}, {}),  # its default
        ({"cache": "here"}, {"cache": "there"}),  # the features have digests
    ],
)
def test_a_sweep_may_grow(old: dict[str, Any], new: dict[str, Any]) -> None:
    require_extension(parse(**old).describe(), parse(**new).describe(), "runs/study")


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ({"grid": {"units": [3, 4]}}, {"grid": {"units": [4]}}, "units: [3, 4] → [4]"),
        ({"grid": {"units": [3]}}, {"grid": {"units": [3], "layers": [2]}}, "layers: nothing → [2]"),
        ({"seeds": 2}, {"seeds": 1}, "seeds: [0, 1] → [0]"),
        ({}, {"epochs": 7}, "epochs: 100 → 7"),
        ({"pruning": "median"}, {}, "pruning: median → none"),
        ({"tpe": {"trials": 3, "units": [3]}}, {"tpe": {"trials": 2, "units": [3]}}, "trials: 3 → 2"),
        ({"tpe": {"trials": 3, "units": [3]}}, {"tpe": {"trials": 3, "units": [3, 4]}}, "units: [3] → [3, 4]"),
        ({"random": {"trials": 3, "units": [3]}}, {"tpe": {"trials": 3, "units": [3]}}, "method: random → tpe"),
    ],
)
def test_another_sweep_of_the_same_name_is_refused_with_the_difference(
    old: dict[str, Any], new: dict[str, Any], difference: str
) -> None:
    with pytest.raises(InputError) as error:
        require_extension(parse(**old).describe(), parse(**new).describe(), "runs/study")
    assert difference in str(error.value)
    assert "runs/study" in str(error.value)


def test_a_sweeps_description_holds_no_credentials_of_its_manifests_url_and_its_trials_do() -> None:
    sweep = parse(manifest="https://reader:s3cret@example.org/manifest.csv?token=s3cret")
    assert sweep.describe()["fixed"]["manifest"] == "https://example.org/manifest.csv"
    assert "s3cret" in str(sweep.trials({})[0].config.manifest)
