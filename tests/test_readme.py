"""What the README tells its readers to type works, and what it promises is held by tests that exist."""

from __future__ import annotations

import glob
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from cyclopts import App
from matplotlib.figure import Figure

from framecache.cache.__main__ import app as cache_app
from framecache.cache.cli import run
from framecache.extract import render
from framecache.extract.__main__ import app as extract_app
from framecache.train.__main__ import app as train_app
from framecache.train.config import MODEL_NAMES
from framecache.train.experiment import Experiment

from .readme.page import README, commands_of, is_command, read_blocks, read_commands, read_rows, read_spans
from .readme.picture import LABELS, LIGHT, Clip, draw
from .readme.place import furnish, install_network

ROOT = README.parent
TEXT = README.read_text(encoding="utf-8")
APPS = {"framecache": cache_app, "framecache-extract": extract_app, "framecache-train": train_app}
RUN = "runs/efficientnet-lite0.gap-lstm-seed0"
STAND_INS = {"SET": "efficientnet-lite0.gap", "M": "sample/manifest.csv", "DIR": "written", "runs/NAME": RUN}
PARSED = (  # and make, of which make -n shows the recipe; all others run
    "framecache-extract https://host/videos/manifest.csv",  # there is no host; tests/extract/test_remote.py
    "framecache-train export runs/NAME exported",  # takes a CNN in Keras; tests/train/test_export.py
)
TRAINED = (  # to the end: what comes after them reads their runs; all others stop when the first training begins
    "framecache-train fit efficientnet-lite0.gap --manifest sample/manifest.csv",
    "framecache-train fit efficientnet-lite0.gap --dense 64 --manifest handwash/manifest.csv --duplicates drop "
    "--name dense64",
)
OF_ALL_SETS = ("framecache verify", "framecache compact", "framecache rm")
TRAINING = tuple(f"framecache-train {command} " for command in ("fit", "fidelity", "sweep"))


class TrainingBeginsError(BaseException):
    """All that a command does before its first training is done."""


def begin_training(*_: object) -> NoReturn:
    raise TrainingBeginsError


def shortly(train: Callable[..., Any]) -> Callable[..., Any]:
    """A training of two epochs."""
    return lambda experiment, config, *rest, **named: train(experiment, replace(config, epochs=2), *rest, **named)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory has all that the README's commands read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    install_network(monkeypatch.setattr)
    furnish(monkeypatch)
    monkeypatch.setattr(Experiment, "train", shortly(Experiment.train))
    monkeypatch.setattr(Figure, "savefig", lambda _figure, target, **_: isinstance(target, Path) and target.touch())


def words_of(command: str) -> list[str]:
    """A command's words, as its shell gives them to it, with stand-ins for what the README leaves open."""
    words = [STAND_INS.get(word, word) for word in shlex.split(command.replace("$cnn", "efficientnet-lite0"))]
    return [found for word in words for found in (sorted(glob.glob(word)) or [word] if "*" in word else [word])]


def parse(words: list[str]) -> None:
    APPS[words[0]].parse_args(words[1:], exit_on_error=False, print_error=False)


def do(command: str) -> None:
    """Does what a command line does, as far as it is done here, and fails where it fails."""
    program, *arguments = words_of(command)
    if program == "make":
        subprocess.run(["make", "-n", *arguments], cwd=ROOT, check=True, capture_output=True)
    elif command in PARSED:
        parse([program, *arguments])
    elif program == "python":
        assert arguments[:2] == ["-m", "framecache.extract.render"]
        assert render.main(arguments[2:]) == 0
    elif command.startswith(TRAINING) and command not in TRAINED:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Experiment, "baseline", begin_training)
            patch.setattr(importlib.import_module("framecache.train.sweep.sweep"), "Dispatcher", begin_training)
            with pytest.raises(TrainingBeginsError):
                pytest.fail(f"status {run(APPS[program], arguments)}")
    elif program in APPS:
        assert run(APPS[program], arguments) == 0
    else:
        assert command == "cnn=efficientnet-lite0", "neither run here nor listed"


@contextmanager
def one_set() -> Iterator[None]:
    """A cache of one feature set, which may be removed."""
    Path("features").rename("kept")
    for folder in Path("kept").glob("efficientnet-lite0.gap-*"):
        shutil.copytree(folder, f"features/{folder.name}")
    yield
    shutil.rmtree("features")
    Path("kept").rename("features")


def test_every_command_and_snippet_runs(place: None, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    done: set[str] = set()
    for block in read_blocks(TEXT):
        code = "\n".join(block.lines)
        if block.kind == "toml":
            Path("tour.toml").write_text(code)
        elif block.kind == "python" and code.startswith("# my_module.py"):
            Path("my_module.py").write_text(code)
            module = importlib.import_module("my_module")
            assert module.cnn().output_shape == (None, 47, 47, 32)
            assert module.model((5,), 3).output_shape == (None, 3)
        elif block.kind == "python":
            exec(compile(code, "README.md", "exec"), names)
        for command in commands_of(block):
            try:
                if command.startswith("framecache-train compare"):  # the sweep of it trained nothing
                    shutil.copytree(RUN, "runs/tour/one")
                with one_set() if command.startswith(OF_ALL_SETS) else nullcontext():
                    do(command)
            except BaseException as error:
                error.add_note(f"README.md: {command}\n{capsys.readouterr().err}")
                raise
            done.add(command)
    for command in {span for span in read_spans(TEXT) if is_command(span)} - done:
        do(command)
    for method in re.findall(r"\bfeatures\.(\w+)\(", " ".join(read_spans(TEXT))):
        assert hasattr(names["features"], method)
    sys.modules.pop("my_module")


def test_what_is_only_parsed_or_trained_is_in_the_readme() -> None:
    assert {*PARSED, *TRAINED} <= set(read_commands(TEXT))


def test_options_in_tables_are_those_of_the_commands() -> None:
    for _, cell in read_rows(TEXT, "you want | write"):
        for span in read_spans(cell):
            if span.startswith("--"):
                parse(["framecache-extract", "videos/", *span.split()])
    for cell, _ in read_rows(TEXT, "flag"):
        words = " ".join(read_spans(cell)).replace(" N", " 8").replace(" S", " 1").split()
        parse(["framecache", "derive", "SET", "--manifest", "manifest.csv", *words])
    for _, cell in read_rows(TEXT, "you have | write"):
        for span in read_spans(cell):
            if span.startswith("--"):
                parse(["framecache-train", "fit", "SET", *span.split()])
    models = [span for row in read_rows(TEXT, "`--model`") for span in read_spans(row[0])]
    assert set(MODEL_NAMES) | {"my_module:model"} == set(models)


def options_of(app: App) -> set[str]:
    """Names of all options of an application and its commands."""
    arguments = app.assemble_argument_collection() if app.default_command else ()
    found = {name for argument in arguments for name in argument.names}
    return found.union(*(options_of(app[name]) for name in app if not name.startswith("-")))


def test_every_option_that_is_named_exists() -> None:
    known = set().union(*map(options_of, APPS.values()), {"--config", "--help", "--help-all"})
    named = re.findall(r"(?<![\w-])--[a-z][\w-]*", " ".join(read_spans(TEXT)))
    assert len(set(named)) > 40
    assert sorted(set(named) - known) == []


def test_pictures_and_links_lead_somewhere() -> None:
    for picture in re.findall(r'(?:src|srcset)="([^"]+)"', TEXT):
        assert (ROOT / picture).stat().st_size < 200_000
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= headings


def test_the_picture_says_which_model_is_right() -> None:
    features, strip = np.eye(3, 8, dtype=np.float32), np.zeros((4, 9, 4), np.uint8)
    certain = {"lstm": np.array([[0.2, 0.8]] * 3), "mean": np.array([[0.7, 0.3]] * 3)}
    clips = [
        Clip(strip, features, {**certain, "lstm": scores}) for scores in (certain["lstm"][:, ::-1], certain["lstm"])
    ]
    drawn = draw(clips, [0, 1, 2], LABELS, LIGHT)
    told = [axes.get_title(loc="left") for axes in drawn.axes]
    assert [title for title in told if ":" in title] == [
        "LSTM: zoom-in, right",
        "mean baseline: zoom-in, right",
        "LSTM: zoom-out, right",
        "mean baseline: zoom-in, wrong",
    ]


def test_every_test_that_the_readme_names_exists() -> None:
    promises = TEXT.partition("## What is promised")[2].partition("\n## ")[0]
    written = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/test_*.py"))
    named = re.findall(r"`(test_\w+)`", promises)
    assert len(named) > 15
    assert [name for name in named if f"def {name}(" not in written] == []
    assert [path for path in re.findall(r"`(tests/\S+\.py)`", promises) if not (ROOT / path).exists()] == []
