"""What notebooks show of runs, sweeps and comparisons, and how Python gets at what makes them."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import framecache.cache
import framecache.extract
import framecache.train
from framecache.train import Run, Swept, compare_runs, open_run
from framecache.train.fidelity.fidelity import FidelityConfig, FidelityReport, FidelityRow
from framecache.train.serving.export import Exported
from framecache.train.sweep.sweep import Configuration
from framecache.train.sweep.trials import Ended

from ..shown import read_html  # noqa: TID252
from .fake_runs import write_run

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
HOSTILE = "<script>alert(1)</script>\x1b[31m\ud800" + "x" * 10_000


def words_of(shown: Any) -> str:
    return " ".join(read_html(shown)[0].split())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        write_run(folder / f"lstm-{seed}", seed=seed)
        write_run(folder / f"gru-{seed}", seed=seed, skill=1.0, model="gru", units=64)
    return folder


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> Run:
    return open_run(shutil.copytree(runs / "gru-1", tmp_path / "gru-1"))


def test_a_run_shows_its_scores_beside_the_baseline(run: Run) -> None:
    test, baseline = (run.record[key]["test"]["accuracy"] for key in ("metrics", "baseline"))
    scores = f"test accuracy {test:.3f} (mean baseline {baseline:.3f}, 30 videos)"
    assert repr(run) == f"<Run {run.folder}: gru on toy.gap, {scores}>"
    words = words_of(run)
    assert "split (videos) accuracy top5 macro f1 loss" in words
    assert f"test (30) gru {test:.3f}" in words
    assert f"test (30) mean baseline {baseline:.3f}" in words
    assert "settings units 64, epochs 12, seed 1, all else by default" in words
    assert "12 train, 9 val, 30 test" in words
    assert run.record["command"] in words


def test_a_run_shows_the_figures_in_its_folder(run: Run) -> None:
    assert read_html(run)[1] == 0
    for name in ("learning-curve.png", "confusion.png"):
        (run.folder / name).write_bytes(PNG)
    assert read_html(run)[1] == 2
    shutil.rmtree(run.folder)
    words, pictures = read_html(run)
    assert pictures == 0
    assert "its folder is gone" in words
    assert "gru on toy.gap" in repr(run)


@pytest.mark.parametrize("key", ["metrics", "baseline", "config", "num_videos", "seconds", "command", "left_out"])
@pytest.mark.parametrize("value", [None, [HOSTILE], HOSTILE, {"test": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}}, 10**400])
def test_any_run_can_be_shown(run: Run, key: str, value: object) -> None:
    damaged = Run(run.folder, {**run.record, key: value})
    words = words_of(damaged)
    assert "run gru-1" in words
    assert "cannot be shown" not in words
    assert len(repr(damaged)) < 1000
    repr(damaged).encode()


def test_a_run_without_anything_is_shown(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({}))
    empty = open_run(tmp_path)
    assert repr(empty) == f"<Run {tmp_path}: model on ?>"
    assert f"run {tmp_path.name}" in words_of(empty)


def test_a_comparison_shows_its_table_and_its_outcome(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurt = tmp_path / "others" / "hurt"
    hurt.mkdir(parents=True)
    (hurt / "run.json").write_text("{")
    monkeypatch.chdir(tmp_path)  # a long path is shortened
    compared = compare_runs([str(runs), Path("others")])
    assert repr(compared).startswith("<Compared 4 runs: Best on val: lstm, units 128")
    words = words_of(compared)
    (comparison,) = compared.comparisons
    assert words_of(comparison) in words
    assert f"{comparison.rows[1].val.mean:.3f} ±" in words
    assert "what the columns mean" in words
    assert "cannot be read" in words
    assert "hurt/run.json" in words
    assert repr(comparison).startswith("<Comparison classification: 4 runs of 2 configurations")
    assert repr(compare_runs(str(runs))) == repr(compared)


def swept_of(trials: list[Ended]) -> Swept:
    finished = tuple(trial for trial in trials if trial.state == "finished")
    ranking = (Configuration({"units": 32}, finished),) if finished else ()
    seconds = {"wall": 10.0, "busy": 18.0, "training": 15.0}
    return Swept(
        Path("runs/s"), "accuracy", tuple(trials), ranking, {"accuracy": 0.75} if finished else None, 2, seconds
    )


def test_a_sweep_shows_its_ranking_and_how_its_trials_ended() -> None:
    trials = [
        Ended(f"units=32,seed={seed}", "finished", {"units": 32}, seed, value=0.9 - seed / 10, val_loss=0.5, seconds=2)
        for seed in range(2)
    ]
    failed = [Ended(f"units={HOSTILE}", "failed", {"units": HOSTILE}, 0, reason=HOSTILE)] * 1000
    swept = swept_of([*trials, *failed])
    best = "best trial of the best configuration: units=32,seed=0: val accuracy 0.900; test accuracy 0.750"
    assert repr(swept).startswith(f"<Swept runs/s: 1,002 trials; {best}")
    words = words_of(swept)
    assert "1 units=32 2 0.850 ± 0.071 0.500 2.0" in words
    assert "1002 trials: 2 finished, 0 pruned, 1000 failed; 10.0 s with 2 workers, 75%" in words
    assert len(words) < 10_000
    assert len(repr(swept.ranking)) < 100
    assert repr(swept_of([])) == "<Swept runs/s: 0 trials; no trial was finished>"
    assert "no trial was finished" in words_of(swept_of([]))


def test_fidelity_shows_its_table() -> None:
    numbers = ((8,), "float16", 100, 16, 1600, 0.99, 0.1, 0.95, (0.8, 0.9), 0.85, 0.07, 0.5, 0.0, 1.0, 0.1, 12_345)
    row = FidelityRow("toy.gap.pca=8-12345678", "12" * 32, ("toy.gap-00000001",), *numbers, ("a remark",))
    report = FidelityReport(Path("runs/fidelity"), FidelityConfig(num_seeds=2), 30, (row,), ("pca=8",))
    assert repr(report) == "<FidelityReport runs/fidelity: lstm, 30 test videos, accuracy of pca=8 0.850>"
    words = words_of(report)
    assert "pca=8 16 1.6 kB 0.9900 0.1000 0.9500 0.850 ± 0.070" in words
    assert "pca=8: a remark" in words


def test_an_export_shows_its_files() -> None:
    files = {"keras": {"file": "model.keras", "difference": 1e-7}, "litert": {"file": None, "reason": "a GRU"}}
    exported = Exported(Path("out"), {"run": "gru-1", "files": files, "kind": "videos", "tolerance": 0.01})
    assert repr(exported) == "<Exported out: gru-1 as keras>"
    assert "keras model.keras 1e-07" in words_of(exported)
    assert "litert – a GRU" in words_of(exported)
    assert "cannot be shown" in repr(Exported(Path("out"), {}))


DOORS = """
import sys
import framecache.cache, framecache.extract, framecache.train
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"tensorflow", "keras", "optuna", "matplotlib", "numpy", "h5py", "cyclopts"}
import framecache.train.sweep.search, framecache.train.fit  # which have the functions' names
from framecache.train import fit, sweep
assert callable(fit) and callable(sweep) and framecache.train.fit is fit and framecache.train.sweep is sweep
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"tensorflow", "keras", "optuna", "matplotlib"}
"""


def test_the_doors_open_at_once_and_functions_are_not_mistaken_for_their_modules() -> None:
    subprocess.run([sys.executable, "-c", DOORS], check=True, timeout=60)


@pytest.mark.parametrize("package", [framecache.cache, framecache.extract, framecache.train])
def test_all_that_a_door_names_is_there(package: ModuleType) -> None:
    for name in package.__all__:
        found = getattr(package, name)
        assert not isinstance(found, ModuleType)
        assert found.__name__ == name
        assert name in dir(package)
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
        _ = package.nothing
