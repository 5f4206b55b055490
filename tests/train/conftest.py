"""A feature set whose classes an LSTM can learn and a mean cannot, made without a CNN."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from matplotlib.figure import Figure

from framecache.cache.ledger import LedgerRow, append_journal
from framecache.cache.shard import VideoRow
from framecache.cache.spec import Spec
from framecache.cache.store import Cache
from framecache.cache.writer import ShardWriter
from framecache.train.config import FitConfig
from framecache.train.experiment import Experiment, Scored, open_experiment
from framecache.train.reuse import labels_digest


@dataclass(frozen=True)
class Data:
    """A cache with one feature set, and the manifest of its videos."""

    cache: Path
    name: str
    manifest: Path


def digest_of(content: str) -> str:
    """Content digest of a file that holds this text."""
    return str(xxhash.xxh3_128_hexdigest(content.encode()))


def make_data(
    folder: Path,
    feature_shape: tuple[int, ...] = (8,),
    counts: tuple[tuple[str, int], ...] = (("train", 24), ("val", 8), ("test", 8)),
) -> Data:
    """Ramps up and ramps down of 4 to 9 frames: the same frames in both classes, in the other order."""
    rng = np.random.default_rng(0)
    spec = Spec("toy", "00" * 32, "late", True, {}, "all", "grid" if len(feature_shape) > 1 else "gap", feature_shape)
    set_folder = Cache(folder / "features").create(spec)
    direction = rng.normal(size=feature_shape)
    lines = ["path,label,split,group"]
    with ShardWriter(set_folder, spec, {}, 1 << 20, 60) as writer:
        for split, count in counts:
            for number in range(count):
                label = "up" if number % 2 else "down"
                ramp = np.linspace(-1, 1, int(rng.integers(4, 10))) * (1 if label == "up" else -1)
                frames = ramp.reshape(-1, *[1] * len(feature_shape)) * direction
                frames = (frames + 0.05 * rng.normal(size=frames.shape)).astype(np.float16)
                buffer = writer.open_video()
                buffer.append(frames, np.arange(len(frames)) * 100.0)
                video_id = f"{label}/{split}{number}.mp4"
                row = VideoRow(
                    video_id, len(frames), buffer.hexdigest(), video_id, digest_of(video_id), "", None, len(frames), ()
                )
                writer.add(buffer, row)
                lines.append(f"{video_id},{label},{split},{split}-{number // 2}")
    append_journal(set_folder, 1, [LedgerRow("up/broken.mp4", "up/broken.mp4", "failed", "no video stream")])
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return Data(folder / "features", spec.name, manifest)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Vectors of 8 numbers: 24 videos to train, 8 to choose, 8 to test."""
    return make_data(tmp_path_factory.mktemp("vectors"))


@pytest.fixture(scope="session")
def grid_data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """The same with maps of 2 × 2 positions and 3 channels."""
    return make_data(tmp_path_factory.mktemp("grids"), (2, 2, 3))


@contextmanager
def undrawn(but: str = "") -> Iterator[None]:
    """Figures in files stay empty, where nobody looks at them; all but that of one name."""
    draw = Figure.savefig

    def save(figure: Figure, target: Any, **options: Any) -> None:
        if isinstance(target, Path) and target.name != but:
            target.write_bytes(b"")
        else:
            draw(figure, target, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        yield


@pytest.fixture
def undrawn_runs() -> Iterator[None]:
    with undrawn():
        yield


_TRAINERS: dict[str, OrderedDict[Any, Any]] = {}


def content_digest(experiment: Experiment) -> str:
    """Digest of all that the graphs of an experiment hold: frames, targets, and how batches are cut from them."""
    content = xxhash.xxh3_128(labels_digest(experiment.labeled, experiment.task).encode())
    content.update(repr((experiment.features.fingerprint, type(experiment.task), experiment.sequences.clips)).encode())
    content.update(repr((experiment.batch_size, experiment.resident_bytes)).encode())
    for row in range(len(experiment.sequences.lengths)):
        content.update(np.ascontiguousarray(experiment.sequences.take(row)))
    return str(content.hexdigest())


@contextmanager
def traced_once() -> Iterator[None]:
    """Trainings on the same frames and targets share their graphs, as those of one sweep do."""

    def open_known(feature_set: str, config: FitConfig) -> Experiment:
        experiment = open_experiment(feature_set, config)
        if ":" not in config.model:  # code of a test's own, which the name does not tell from another's
            trainers = _TRAINERS.setdefault(content_digest(experiment), OrderedDict())
            vars(experiment)["_trainers"] = trainers
        return experiment

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("framecache.train.fit"), "open_experiment", open_known)
        yield


@pytest.fixture
def shared_graphs() -> Iterator[None]:
    with traced_once():
        yield


@contextmanager
def untrained_baselines() -> Iterator[None]:
    """Baselines of classes tell nothing, at once, where nobody looks at them."""

    def baseline(experiment: Experiment, config: FitConfig) -> Scored:
        num_classes = experiment.task.num_outputs
        return Scored(
            {split: np.zeros((len(rows), num_classes), np.float32) for split, rows in experiment.rows.items()}, 0
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experiment, "baseline", baseline)
        yield


@pytest.fixture
def no_baselines() -> Iterator[None]:
    with untrained_baselines():
        yield
