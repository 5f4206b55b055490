"""Threads are TensorFlow's from its beginning, and are on record; folds of their own accord."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from framecache.cache.cli import run as run_command
from framecache.cache.errors import InputError
from framecache.train.__main__ import app
from framecache.train.config import FitConfig
from framecache.train.machine import describe_machine, use_threads
from framecache.train.runs import RUN_FILE, Run

from .conftest import Data


def test_another_number_of_threads_than_tensorflow_runs_with_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    tf.constant(0)  # which starts it
    found = describe_machine()["threads"]
    assert found >= 1
    for wanted in (0, found):
        use_threads(wanted)
        assert describe_machine()["threads"] == found
    with pytest.raises(InputError, match=rf"--threads {found + 1}: TensorFlow runs with {found} in this process"):
        use_threads(found + 1)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert describe_machine()["environment"]["TF_ENABLE_ONEDNN_OPTS"] == "0"


def test_folds_without_a_fold_are_a_run_each_and_told_together(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[FitConfig] = []

    def fit(feature_set: str, config: FitConfig, progress: bool = False) -> Run:
        asked.append(config)
        metrics = {"val": None, "test": {"accuracy": 0.5 + 0.1 * config.fold, "macro_f1": 0.5}}
        folder = config.runs / str(config.name)
        folder.mkdir(parents=True)
        return Run(folder, {**RECORD, "metrics": metrics, "baseline": metrics})

    monkeypatch.setattr(import_module("framecache.train.fit"), "fit", fit)
    words = ["fit", "toy.gap", "--manifest", data.manifest, "--cache", data.cache, "--runs", tmp_path, "--name", "cv"]
    assert run_command(app, [*map(str, words), "--folds", "3"]) == 0
    assert [(config.fold, config.name) for config in asked] == [(1, "cv-fold1"), (2, "cv-fold2"), (3, "cv-fold3")]
    out, err = capsys.readouterr()
    assert "lstm            test accuracy 0.700 ± 0.100 over 3 folds\n" in out
    assert "warning: 1 of the 8 videos of val and test look like near-duplicates" in err
    assert not list(tmp_path.glob(f"*/{RUN_FILE}"))


RECORD: dict[str, Any] = {
    "config": {"model": "lstm"},
    "measure": "accuracy",
    "num_videos": {"train": 8, "val": 4, "test": 4},
    "near_duplicates": [{"video_id": "a", "split": "test", "other_id": "b", "other_split": "train", "cosine": 0.99}],
    "left_out": {},
    "seconds": {"train": 1.0, "load": 0.1, "compile": 0.2},
    "epochs": 3,
    "best_epoch": 2,
}
