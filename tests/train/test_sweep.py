"""Sweeps: every trial once, whatever ends the processes; with workers that train nothing, and once with real ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from framecache.cache.cli import run
from framecache.cache.errors import FramecacheError, InputError, LockedError
from framecache.cache.store import open_cache
from framecache.train.__main__ import app
from framecache.train.config import FitConfig
from framecache.train.fit import fit
from framecache.train.predictions import PREDICTIONS_FILE, read_predictions
from framecache.train.sweep.folder import locked
from framecache.train.sweep.search import typed
from framecache.train.sweep.sweep import Swept, sweep, worker_places

from .conftest import Data, make_data

FAKE = "fake_sweep_worker"
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Feature sets toy.gap and toy.grid, and a file with the fingerprint of the first for the fake worker."""
    folder = tmp_path_factory.mktemp("toy")
    made = make_data(folder)
    make_data(folder, (2, 2, 3))
    (made.cache / "fingerprint").write_text(open_cache(made.cache)["toy.gap"].fingerprint)
    return made


@pytest.fixture
def write(toy: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """``write(rest)``: a file with a sweep of toy.gap, whose workers are fakes."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)

    def write(rest: str) -> Path:
        path = tmp_path / "study.toml"
        places = f'manifest = "{toy.manifest}"\ncache = "{toy.cache}"\nruns = "{tmp_path / "runs"}"\n'
        path.write_text(f'sets = ["toy.gap"]\n{places}{rest}')
        return path

    return write


def calls(tmp_path: Path) -> Counter[str]:
    """How often each trial was begun, and how many baselines were trained."""
    log = tmp_path / "runs" / "calls.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(words[1] if words[0] == "trial" else words[0] for words in map(str.split, lines))


def fake_sweep(path: Path, **options: Any) -> Swept:
    return sweep(path, workers=2, module=FAKE, **options)


def test_every_trial_is_trained_once_and_ranked_on_val(write: Write, tmp_path: Path) -> None:
    path = write("seeds = 2\n[grid]\nlearning_rate = [0.001, 0.004]\nunits = [5, 9]\n")
    swept = fake_sweep(path)
    begun = calls(tmp_path)
    assert begun.pop("baseline") == 2  # one per seed
    assert begun.pop("figures") == 1
    assert sorted(begun.values()) == [1] * 8
    assert swept.count("finished") == 8
    ranked = [(found.values["learning_rate"], found.values["units"]) for found in swept.ranking]
    assert ranked == [(0.004, 9), (0.004, 5), (0.001, 9), (0.001, 5)]  # by accuracy, then by loss
    assert swept.best is not None
    assert (swept.folder / swept.best.name / "learning-curve.png").exists()
    assert swept.test == {"accuracy": 0.625, "loss": 1.0}
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{swept.folder / 'study.db'}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 8
    assert study.best_value == pytest.approx(0.4)

    again = fake_sweep(path)
    assert sum(calls(tmp_path).values()) == 8 + 2 + 1
    assert again.ranking == swept.ranking


def test_a_sweep_that_grows_trains_only_what_is_new(write: Write, tmp_path: Path) -> None:
    fake_sweep(write("seeds = 1\n[grid]\nunits = [5]\n"))
    swept = fake_sweep(write("seeds = 2\n[grid]\nunits = [5, 7]\n"))
    assert len(swept.trials) == 4
    begun = calls(tmp_path)
    assert begun["units=5,seed=0"] == begun["units=7,seed=1"] == 1
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{swept.folder / 'study.db'}")
    assert sorted(trial.params["units"] for trial in study.trials) == [5, 5, 7, 7]
    with pytest.raises(InputError, match=r"epochs: 100 → 7"):
        fake_sweep(write("seeds = 2\nepochs = 7\n[grid]\nunits = [5, 7]\n"))


@pytest.mark.parametrize("lost", ["study.db", "run.json"])
def test_what_is_lost_of_a_sweep_is_made_again(write: Write, tmp_path: Path, lost: str) -> None:
    path = write("seeds = 2\n[tpe]\ntrials = 3\nunits = [5, 6, 7]\n")
    swept = fake_sweep(path)
    assert len({trial.configuration for trial in swept.trials}) == 3
    begun = sum(calls(tmp_path).values())
    if lost == "study.db":
        (swept.folder / lost).unlink()
    else:
        (swept.folder / swept.trials[0].name / lost).write_text('{"con')  # a kill in the middle of writing
    again = fake_sweep(path)
    assert sorted((t.name, t.state, t.value) for t in again.trials) == sorted(
        (t.name, t.state, t.value) for t in swept.trials
    )
    drawn_again = calls(tmp_path)["figures"] - 1
    needed = 0 if lost == "study.db" else 2  # the trial, and the baseline
    assert sum(calls(tmp_path).values()) - drawn_again == begun + needed


def test_a_trial_that_fails_or_ends_its_process_is_told_and_the_others_go_on(write: Write, tmp_path: Path) -> None:
    path = write("[grid]\nunits = [5, 13, 66, 7]\n")
    swept = fake_sweep(path)
    reasons = {trial.name: trial.reason for trial in swept.trials if trial.state == "failed"}
    assert reasons.keys() == {"units=13,seed=0", "units=66,seed=0"}
    assert reasons["units=13,seed=0"] == "the loss is nan after epoch 1"
    assert reasons["units=66,seed=0"] == "its process ended 2 times (Killed)"
    assert calls(tmp_path)["units=66,seed=0"] == 2
    assert not (swept.folder / "units=66,seed=0").exists()
    assert swept.count("finished") == 2

    fake_sweep(path)
    assert calls(tmp_path)["units=13,seed=0"] == 1
    fake_sweep(path, retry_failed=True)
    assert calls(tmp_path)["units=13,seed=0"] == 2
    assert calls(tmp_path)["units=5,seed=0"] == 1


def test_trials_behind_the_median_are_pruned_and_stay_so(write: Write, tmp_path: Path) -> None:
    rates = "0.009, 0.008, 0.007, 0.006, 0.005, 0.001"
    path = write(f'pruning = "median"\nepochs = 20\n[grid]\nlearning_rate = [{rates}]\n')
    swept = sweep(path, workers=1, module=FAKE)
    pruned = [trial.name for trial in swept.trials if trial.state == "pruned"]
    assert pruned == ["learning_rate=0.001,seed=0"]
    assert not (swept.folder / pruned[0]).exists()
    sweep(path, workers=1, module=FAKE)
    assert calls(tmp_path)[pruned[0]] == 1


def test_tpe_draws_so_many_configurations_and_trains_each_with_all_seeds(write: Write, tmp_path: Path) -> None:
    swept = fake_sweep(write("seeds = [3, 4]\n[tpe]\ntrials = 4\nlearning_rate = {log = [1e-4, 1e-2]}\n"))
    drawn = {(trial.configuration, trial.values["learning_rate"]) for trial in swept.trials}
    assert sorted(number for number, _ in drawn) == [1, 2, 3, 4]
    assert Counter(trial.seed for trial in swept.trials) == {3: 4, 4: 4}
    more = fake_sweep(write("seeds = [3, 4]\n[tpe]\ntrials = 5\nlearning_rate = {log = [1e-4, 1e-2]}\n"))
    assert {(trial.configuration, trial.values["learning_rate"]) for trial in more.trials} > drawn


def test_a_kill_costs_only_what_was_under_way(write: Write, tmp_path: Path) -> None:
    path = write("noise = 0.1\n[grid]\nunits = [1, 2, 3, 4, 5, 6, 7, 8, 9]\n")
    code = f"from framecache.train.sweep.sweep import sweep; sweep({str(path)!r}, 2, module={FAKE!r})"
    folder = tmp_path / "runs" / "study"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        _wait_for(lambda: len(list(folder.glob("*/run.json"))) >= 3)
        process.kill()
    pids = {int(line.split()[2]) for line in (tmp_path / "runs" / "calls.log").read_text().splitlines()}
    _wait_for(lambda: not any(_is_alive(pid) for pid in pids))
    done = {path.parent.name for path in folder.glob("*/run.json")}
    half = {path.name for path in folder.iterdir() if path.is_dir()} - done
    assert half
    begun = calls(tmp_path)
    swept = fake_sweep(path)
    assert swept.count("finished") == 9
    assert all(calls(tmp_path)[name] == begun[name] for name in done)
    assert all((folder / trial.name / "run.json").exists() for trial in swept.trials)


def test_an_interrupt_keeps_what_is_finished_and_says_how_to_go_on(write: Write, tmp_path: Path) -> None:
    path = write("noise = 0.1\n[grid]\nunits = [1, 2, 3, 4, 5, 6, 7, 8, 9]\n")
    code = (
        "import sys; from framecache.train.sweep.sweep import sweep; "
        f"sweep.__defaults__ = (2, False, False, {FAKE!r}); "
        f"from framecache.train.__main__ import main; sys.argv = ['framecache-train', 'sweep', {str(path)!r}, "
        "'--workers', '2']; main()"
    )
    folder = tmp_path / "runs" / "study"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        _wait_for(lambda: len(list(folder.glob("*/run.json"))) >= 2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "trials are done and stay; run the same command again" in errors
    assert "Traceback" not in errors
    folders = [path for path in folder.iterdir() if path.is_dir()]
    assert all((path / "run.json").exists() for path in folders)


def test_two_processes_are_not_at_the_same_sweep(write: Write, tmp_path: Path) -> None:
    path = write("")
    with locked(tmp_path / "runs" / "study"), pytest.raises(LockedError, match="another process is at this sweep"):
        fake_sweep(path)


def test_workers_that_cannot_begin_end_the_sweep(write: Write) -> None:
    with pytest.raises(FramecacheError, match="the workers end before their first trial does"):
        sweep(write("[grid]\nunits = [1, 2, 3]\n"), workers=2, module="no_such_module")


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ('manifest = "gone.csv"', "gone.csv: no such manifest"),
        ('sets = ["toy"]', "'toy' fits several feature sets"),
        ('sets = ["toi.gap"]', "no feature set 'toi.gap' in"),
        ('sets = ["toy.gap", "toy.gap-"]', "sets: 'toy.gap' and 'toy.gap-' are both toy.gap-"),
        ("[grid]\nunit = [1]", "unknown field 'unit' in [grid]; did you mean 'units'?"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    toy: Data, tmp_path: Path, rest: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = {"sets": '["toy.gap"]', "manifest": f'"{toy.manifest}"', "cache": f'"{toy.cache}"'}
    key, _, value = rest.partition(" = ")
    if key in lines:
        lines[key] = value
        rest = ""
    path = tmp_path / "study.toml"
    path.write_text("".join(f"{key} = {value}\n" for key, value in lines.items()) + f'runs = "{tmp_path}/runs"\n{rest}')
    assert run(app, ["sweep", str(path)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_is_no_sweep_or_one_of_other_features_is_refused(write: Write, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "study"
    (folder / "mine").mkdir(parents=True)
    with pytest.raises(InputError, match="exists already and holds no sweep"):
        fake_sweep(write(""))
    shutil.rmtree(folder)
    swept = fake_sweep(write(""))
    path = swept.folder / "seed=0" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fingerprint": "other"}))
    with pytest.raises(InputError, match="trained on features of another cache"):
        fake_sweep(write(""))


def test_a_gpu_is_shared_and_a_core_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 4})
    module = import_module("framecache.train.sweep.sweep")
    monkeypatch.setattr(module, "_visible_gpus", list)
    assert [place["core"] for place in worker_places(0)] == [2, 3, 4]
    assert [place["core"] for place in worker_places(2)] == [None, None]
    monkeypatch.setattr(module, "_visible_gpus", lambda: ["0", "1"])
    assert [place["gpu"] for place in worker_places(0)] == ["0", "1", "0", "1"]
    assert [place["core"] for place in worker_places(0)] == [None] * 4


def test_trials_are_ordinary_runs_whichever_process_trained_them(toy: Data, tmp_path: Path) -> None:
    """Real workers, killed with the command in the middle; the numbers are those of a run by itself."""
    path = tmp_path / "real.toml"
    places = f'manifest = "{toy.manifest}"\ncache = "{toy.cache}"\nruns = "{tmp_path / "runs"}"\n'
    path.write_text(
        f'sets = ["toy.gap"]\nseeds = 2\nepochs = 3\nunits = 4\nnear_duplicate = 0.5\n{places}'
        "[grid]\nlearning_rate = [0.01, 1e38]\n"
    )
    command = [sys.executable, "-m", "framecache.train", "sweep", str(path), "--json", "--workers"]
    folder = tmp_path / "runs" / "real"
    with subprocess.Popen([*command, "1"], stdout=subprocess.DEVNULL) as process:
        _wait_for(lambda: any(folder.glob("*/run.json")), 60)
        process.kill()
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("*/run.json")}
    done = subprocess.run([*command, "2"], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert (told["finished"], told["failed"]) == (2, 2)
    assert all("training diverges" in trial["reason"] for trial in told["trials"] if trial["state"] == "failed")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    runs = sorted(path.parent for path in folder.glob("*/run.json"))
    assert [path.name for path in runs] == ["learning_rate=0.01,seed=0", "learning_rate=0.01,seed=1"]
    assert (folder / told["best"]["name"] / "learning-curve.png").exists()

    record = json.loads((runs[1] / "run.json").read_text())
    fields = {name: typed(name, value) for name, value in record["config"].items() if value is not None}
    fields |= {"name": "alone", **({"threads": 0} if "threads" in fields else {})}  # this process has its threads
    alone = fit(record["feature_set"], FitConfig(**fields))
    ours, single = (read_predictions(place / PREDICTIONS_FILE) for place in (runs[1], alone.folder))
    assert np.array_equal(ours.logits, single.logits)
    assert np.array_equal(ours.baseline, single.baseline)
    assert record["near_duplicates"] == alone.record["near_duplicates"] != []
    assert any("near-duplicates" in line for line in told["warnings"])


def _wait_for(is_so: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def _is_alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
