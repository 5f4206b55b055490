"""A training that was interrupted or killed goes on to the same bits as one that never was."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from framecache.cache.errors import InputError
from framecache.cache.store import open_cache
from framecache.train import checkpoint as checkpoint_module
from framecache.train.checkpoint import Checkpoint, TrainingState
from framecache.train.config import ClipConfig, FitConfig
from framecache.train.data import CachedSequences
from framecache.train.experiment import Experiment, open_experiment
from framecache.train.feed import Feed
from framecache.train.fit import fit
from framecache.train.models import build_model
from framecache.train.tasks.registry import Classification
from framecache.train.trainer import History, Trainer

from .conftest import Data

pytestmark = pytest.mark.usefixtures("undrawn_runs")

TRAIN, VAL = np.arange(7), np.arange(7, 10)
SETTINGS = FitConfig(units=4, epochs=6, dropout=0.3, feature_dropout=0.2, noise=0.1, seed=5, learning_rate=0.01)


def new_model() -> keras.Model:
    keras.utils.set_random_seed(SETTINGS.seed)
    return build_model(SETTINGS, (8,), 2, np.zeros(8), np.ones(8))


@pytest.fixture(scope="module")
def train(data: Data) -> Callable[..., tuple[History, list[np.ndarray]]]:
    """Trains afresh, with graphs that are traced once."""
    features = open_cache(data.cache)[data.name]
    sequences = CachedSequences(features, features.video_ids[:10], ClipConfig(max_len=3, clip="crop", reverse=0.5))
    trainer = Trainer(new_model(), Feed(sequences, np.arange(10) % 2, 4), Classification(["down", "up"]))

    def training(folder: Path | None = None, **options: Any) -> tuple[History, list[np.ndarray]]:
        trainer.begin(new_model())
        history = trainer.train(TRAIN, VAL, SETTINGS, folder, **options)
        return history, trainer.model.get_weights()

    return training


@pytest.fixture(scope="module")
def uninterrupted(
    train: Callable[..., tuple[History, list[np.ndarray]]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, History, list[np.ndarray]]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, *train(folder)


def ctrl_c(epoch: int, found: Mapping[str, float]) -> None:
    if epoch == 3:
        signal.raise_signal(signal.SIGINT)


def break_off(epoch: int, found: Mapping[str, float]) -> None:
    if epoch == 4:
        raise RuntimeError("killed")


@pytest.mark.parametrize(
    ("end", "is_always_due", "resumed_at"), [(ctrl_c, False, 4), (break_off, True, 4)], ids=["ctrl-c", "killed"]
)
def test_a_training_goes_on_to_the_same_bits(
    end: Callable[[int, Mapping[str, float]], None],
    is_always_due: bool,
    resumed_at: int,
    train: Callable[..., tuple[History, list[np.ndarray]]],
    uninterrupted: tuple[Path, History, list[np.ndarray]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if is_always_due:
        save_after_each_epoch(monkeypatch)
    told: list[str] = []
    place = tmp_path / "checkpoint" / "state.npz"
    place.parent.mkdir()
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        train(tmp_path, on_epoch=end, checkpoint=Checkpoint(place, told.append))
    assert told == []
    history, weights = train(tmp_path, checkpoint=Checkpoint(place, told.append))
    assert told == [f"resuming {tmp_path} at epoch {resumed_at}"]
    folder, expected, expected_weights = uninterrupted
    assert history.measures == expected.measures
    assert history.best_epoch == expected.best_epoch
    assert history.starts == [1, resumed_at]
    assert [weight.tobytes() for weight in weights] == [weight.tobytes() for weight in expected_weights]
    assert (tmp_path / "history.csv").read_bytes() == (folder / "history.csv").read_bytes()
    for split in ("train", "validation"):
        events = EventAccumulator(str(tmp_path / "tensorboard" / split)).Reload()
        assert [event.step for event in events.Scalars("epoch_loss")] == [1, 2, 3, 4, 5, 6]


def test_without_a_checkpoint_an_interrupt_comes_at_once(train: Callable[..., Any]) -> None:
    epochs: list[int] = []

    def interrupt(epoch: int, found: Mapping[str, float]) -> None:
        epochs.append(epoch)
        signal.raise_signal(signal.SIGINT)
        epochs.append(-1)

    with pytest.raises(KeyboardInterrupt):
        train(on_epoch=interrupt)
    assert epochs == [1]


def test_a_second_ctrl_c_does_not_wait_for_the_end_of_the_epoch(train: Callable[..., Any], tmp_path: Path) -> None:
    reached: list[int] = []

    def interrupt(epoch: int, found: Mapping[str, float]) -> None:
        signal.raise_signal(signal.SIGINT)
        reached.append(1)
        signal.raise_signal(signal.SIGINT)
        reached.append(2)

    with pytest.raises(KeyboardInterrupt):
        train(on_epoch=interrupt, checkpoint=Checkpoint(tmp_path / "state.npz", print))
    assert reached == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def save_after_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "_MIN_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint_module, "_MAX_SHARE", float("inf"))


class Variable:
    """As much of a variable of Keras as a checkpoint needs."""

    def __init__(self, *values: float) -> None:
        self.value = np.array(values, np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    def numpy(self) -> np.ndarray:
        return self.value

    def assign(self, value: np.ndarray) -> None:
        self.value = value


def saved(folder: Path) -> Path:
    state = TrainingState({"loss": [0.5, 0.25]}, [1.0, 1.0], [1], 0.25, 2, [np.ones(3, np.float32)])
    Checkpoint(folder / "state.npz", print).save(state, [Variable(1, 2), Variable(3)])
    return folder / "state.npz"


def test_a_checkpoint_gives_back_what_was_saved(tmp_path: Path) -> None:
    variables = [Variable(0, 0), Variable(0)]
    state = Checkpoint(saved(tmp_path), print).load(variables)
    assert state is not None
    assert (state.measures, state.epoch, state.best_loss, state.best_epoch) == ({"loss": [0.5, 0.25]}, 2, 0.25, 2)
    assert [variable.value.tolist() for variable in variables] == [[1, 2], [3]]
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


def flip(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        offset = file.getinfo("variables/0.npy").header_offset
    content = bytearray(path.read_bytes())
    content[offset + 180] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x80\x04N."),
        lambda path: np.savez(path, seconds=[1.0]),
    ],
    ids=["bit", "cut", "empty", "pickle", "other"],
)
def test_a_damaged_checkpoint_changes_nothing_and_is_told_in_one_line(
    damage: Callable[[Path], Any], tmp_path: Path
) -> None:
    damage(saved(tmp_path))
    told: list[str] = []
    variables = [Variable(7, 7), Variable(7)]
    assert Checkpoint(tmp_path / "state.npz", told.append).load(variables) is None
    assert [variable.value.tolist() for variable in variables] == [[7, 7], [7]]
    (line,) = told
    assert line.startswith(f"{tmp_path / 'state.npz'}: cannot be read (")
    assert line.endswith("); starting again at epoch 1")


def test_a_checkpoint_of_another_model_is_none(tmp_path: Path) -> None:
    told: list[str] = []
    assert Checkpoint(saved(tmp_path), told.append).load([Variable(1), Variable(2)]) is None
    assert "it is of another model" in told[0]


def test_checkpoints_take_at_most_a_hundredth_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(checkpoint_module.time, "monotonic", lambda: now[0])
    checkpoint, saves = Checkpoint(tmp_path / "state.npz", print), []

    def publish(partial: Path, path: Path) -> None:
        saves.append(now[0])
        now[0] += 0.2  # what it takes

    monkeypatch.setattr(checkpoint_module, "publish", publish)
    for _ in range(60):
        now[0] += 1
        checkpoint.save_if_due(TrainingState(), [], False)
    assert saves == pytest.approx([5, 25, 45], abs=2)


KILLED = """
import json, os, signal, sys
from pathlib import Path
from framecache.train import checkpoint, trainer
from framecache.train.config import FitConfig
from framecache.train.experiment import Experiment
from framecache.train.fit import fit

checkpoint._MIN_SECONDS, checkpoint._MAX_SHARE = 0.0, float("inf")
values = json.loads(sys.argv[1])
config = FitConfig(**{**values, **{name: Path(values[name]) for name in ("manifest", "cache", "runs")}})
write = trainer.HistoryWriter.write
Experiment.baseline = lambda *_: None  # which comes before what is killed, and leaves nothing behind

def killing(self, epoch, measures):
    write(self, epoch, measures)
    if epoch == 4 and self._folder is not None:
        os.kill(os.getpid(), signal.SIGKILL)

trainer.HistoryWriter.write = killing
fit("toy.gap", config)
"""


def test_a_killed_process_is_gone_on_with_by_another_one_to_the_numbers_of_none_killed(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("framecache.train.fit")
    monkeypatch.setattr(module, "open_experiment", cache(open_experiment))  # so that graphs are traced once
    values = {"units": 4, "epochs": 6, "dropout": 0.3, "clip": "crop", "max_len": 4, "threads": 0}
    places = {"manifest": data.manifest, "cache": data.cache, "runs": tmp_path / "runs"}
    told = {**values, **{name: str(path) for name, path in places.items()}}
    killed = subprocess.run([sys.executable, "-c", KILLED, json.dumps(told)], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = tmp_path / "runs" / "toy.gap-lstm-seed0"
    assert (folder / "checkpoint" / "state.npz").is_file()
    assert not (folder / "run.json").exists()

    resumed = fit("toy.gap", FitConfig(**values, **places))
    whole = fit("toy.gap", FitConfig(**values, **places))
    assert (resumed.folder, whole.folder.name) == (folder, "toy.gap-lstm-seed0-2")
    assert not (folder / "checkpoint").exists()
    for name in ("history.csv", "logits.npz", "predictions.csv", "splits.csv"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    for name in ("metrics", "baseline", "best_epoch", "epochs", "labels", "machine"):
        assert resumed.record[name] == whole.record[name]
    models = [keras.saving.load_model(run.folder / "model.keras") for run in (resumed, whole)]
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        assert one.tobytes() == other.tobytes()
    assert len((folder / "history.csv").read_text().splitlines()) == 7


def test_a_training_that_diverges_leaves_no_folder_though_it_was_saved(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: Any, checkpoint: Checkpoint, **__: Any) -> None:
        checkpoint.save(TrainingState(), [])
        raise InputError("training diverges")

    monkeypatch.setattr(Experiment, "build", lambda *_: None)
    monkeypatch.setattr(Experiment, "baseline", lambda *_: None)
    monkeypatch.setattr(Experiment, "train", diverge)
    config = FitConfig(manifest=data.manifest, cache=data.cache, runs=tmp_path / "runs")
    with pytest.raises(InputError, match="diverges"):
        fit("toy.gap", config)
    assert list((tmp_path / "runs").iterdir()) == []
