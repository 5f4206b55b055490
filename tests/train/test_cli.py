"""framecache-train as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from framecache.cache.cli import run
from framecache.train.__main__ import app

from .conftest import Data, make_data


@pytest.mark.usefixtures("undrawn_runs", "shared_graphs")
def test_fit_prints_the_model_and_the_baseline(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--cache", str(data.cache), "--manifest", str(data.manifest), "--runs", str(tmp_path), "--epochs", "1"]
    assert run(app, ["fit", "toy.gap", *common]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(tmp_path / "toy.gap-lstm-seed0")
    assert lines[1].startswith("lstm ")
    assert lines[2].startswith("mean baseline ")
    assert all("val accuracy" in line and "test accuracy" in line for line in lines[1:3])
    assert "trained on 24 videos" in lines[3]


@pytest.mark.usefixtures("undrawn_runs", "no_baselines")
def test_settings_may_come_from_a_toml_file_and_flags_win(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "experiment.toml"
    folders = f'cache = "{data.cache}"\nmanifest = "{data.manifest}"\nruns = "{tmp_path}"\n'
    settings.write_text(f'{folders}model = "gru"\nepochs = 1\nunits = 3\n')
    assert run(app, ["fit", "toy.gap", "--config", str(settings), "--units", "5", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["config"]["model"], record["config"]["units"]) == ("gru", 5)
    assert Path(record["run"]).name == "toy.gap-gru-seed0"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a cache with two feature sets, a good manifest and wrong ones."""
    monkeypatch.chdir(tmp_path)
    make_data(tmp_path)
    make_data(tmp_path, (2, 2, 3))
    rows = (tmp_path / "manifest.csv").read_text().splitlines()
    wrong = {
        "stranger.csv": ["path,label", "x/y.mp4,up"],
        "unlabeled.csv": [row.split(",")[0] for row in rows],
        "split.csv": [row.replace(",val,", ",valid,") for row in rows],
        "one-class.csv": [row for row in rows if not (row.startswith("up") and ",test," in row)],
        "unknown.csv": [row.replace(",up,test", ",sideways,test") for row in rows],
        "group.csv": [row.rpartition(",")[0] + ",everyone" if "," in row[-9:] else row for row in rows],
    }
    wrong["group.csv"][0] = rows[0]
    for name, lines in wrong.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["toy.gap"], "--manifest: expected the CSV, JSONL or folder with the labels"),
        (["toy.gap", "--manifest", "gone.csv"], "gone.csv: no such manifest"),
        (["toy", "--manifest", "manifest.csv"], "'toy' fits several feature sets of features: toy.gap-"),
        (["toi.gap", "--manifest", "manifest.csv"], "no feature set 'toi.gap' in features: did you mean toy.gap"),
        (["toy.gap", "--cache", "nowhere"], "cache 'nowhere': no such folder; run framecache-extract first"),
        (["toy.gap", "--manifest", "stranger.csv"], "none of its 1 videos is in toy.gap-"),
        (["toy.gap", "--manifest", "unlabeled.csv"], "40 videos have no label"),
        (
            ["toy.gap", "--manifest", "split.csv"],
            "split 'valid', expected one of train, val, test; did you mean 'val'?",
        ),
        (["toy.gap", "--manifest", "one-class.csv"], "the test split has only the class 'down'"),
        (["toy.gap", "--manifest", "unknown.csv"], "label 'sideways' is in the test split but not in train"),
        (["toy.gap", "--manifest", "group.csv"], "have the same group 'everyone'"),
        (["toy.gap", "--manifest", "manifest.csv", "--model", "lsmt"], "--model 'lsmt': expected lstm"),
        (["toy.gap", "--manifest", "manifest.csv", "--model", "gone:build"], "--model gone:build: cannot be imported"),
        (["toy.gap", "--manifest", "manifest.csv", "--epoch", "3"], "Unknown option: --epoch. Did you mean --epochs?"),
    ],
    ids=lambda value: " ".join(value)[-30:] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_status_2_and_nothing_written(
    here: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.rglob("*"))
    assert run(app, ["fit", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(here.rglob("*")) == before


def test_help_does_not_wait_for_tensorflow() -> None:
    code = (
        "import sys; from framecache.cache.cli import run; from framecache.train.__main__ import app; "
        "[run(app, [*words, '--help']) for words in ([], *([name] for name in app if name[0] != '-'))]; "
        "print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("Usage:") == 7
    assert done.stdout.split()[-2:] == ["False", "False"]
