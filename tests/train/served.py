"""Runs that were never trained, on features that a CNN really gave, and their scores on every way to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache import open_cache
from framecache.cache.derive import DeriveConfig, derive
from framecache.cache.manifest import Video, read_manifest
from framecache.extract import ExtractConfig, extract
from framecache.train.config import FitConfig
from framecache.train.lineage import keep_lineage, read_lineage
from framecache.train.runs import Run
from framecache.train.tasks.registry import TASKS
from tests.extract.conftest import write_video

LENGTHS = (12, 5, 9)
CLASSES = ("left", "right", "stay")


@dataclass(frozen=True)
class Served:
    """Videos, the CNN that saw them, and a cache with feature sets by their names without fingerprint."""

    folder: Path
    manifest: Path
    cache: Path
    backbone: str | None

    @property
    def videos(self) -> list[Video]:
        return read_manifest(self.manifest)


@dataclass(frozen=True)
class Case:
    """One combination of model, features and task."""

    model: str
    feature_set: str
    max_len: int = 0
    clip: str = "spread"
    task: str = "classification"
    rescale: tuple[float, float] = (1.0, 0.0)

    def __str__(self) -> str:
        return f"{self.model}-{self.feature_set}-{self.clip}{self.max_len}-{self.task}"


def write_backbone(path: Path) -> str:
    """A CNN of 16 × 16 pixels with random weights, as a file."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    frames = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 64, offset=-2.0)(frames)
    x = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="early")(x)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="late")(x)
    keras.Model(frames, x).save(path)
    return str(path)


def write_clips(folder: Path, size: tuple[int, int] = (48, 64)) -> Path:
    """Clips of blobs that move, all in the train split, so that anything may be fitted on them."""
    rng = np.random.default_rng(0)
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    lines = ["path,label,split"]
    for number, length in enumerate(LENGTHS):
        frames = np.zeros((length, height, width, 3))
        for channel in range(3):
            centre, speed = rng.uniform(0.2, 0.8, 2), rng.uniform(-0.04, 0.04, 2)
            for index in range(length):
                y, x = (centre + speed * index) * (height, width)
                frames[index, ..., channel] = 230 * np.exp(
                    -((rows - y) ** 2 + (columns - x) ** 2) / (0.02 * height * width)
                )
        write_video(folder / f"clip{number}.mp4", frames.astype(np.uint8))
        lines.append(f"clip{number}.mp4,{CLASSES[number]},train")
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def serve(folder: Path, reduce: Sequence[str], dtype: Any = "float16", backbone: str | None = "tiny") -> Served:
    """Clips with features of these reductions."""
    folder.mkdir(exist_ok=True)
    own = write_backbone(folder / "tiny.keras") if backbone == "tiny" else None
    manifest = write_clips(folder / "clips", (48, 64) if own else (240, 320))
    served = Served(folder, manifest, folder / "features", own)
    add_sets(served, reduce, dtype)
    return served


def add_sets(served: Served, reduce: Sequence[str], dtype: Any) -> None:
    config = ExtractConfig(cache=served.cache, reduce=tuple(reduce), dtype=dtype, engine="tensorflow", workers=1)
    extract(served.manifest, replace(config, backbone=served.backbone or config.backbone))


def derived(served: Served, name: str, **steps: Any) -> str:
    """Full name of a feature set that is derived now."""
    return derive(name, DeriveConfig(cache=served.cache, manifest=served.manifest, **steps)).feature_set


def make_run(served: Served, case: Case, folder: Path, **changes: Any) -> Run:
    """A run with random weights."""
    import keras

    from framecache.train.experiment import GRID_DENSE
    from framecache.train.models import build_model

    keras.utils.set_random_seed(1)
    features = open_cache(served.cache)[case.feature_set]
    shape = features.feature_shape
    dense = GRID_DENSE if len(shape) > 1 and case.model != "mean" else 0
    config = FitConfig(
        model=case.model, units=8, dense=dense, max_len=case.max_len, clip=case.clip, task=case.task, **changes
    )
    rows = np.concatenate([features[video_id].astype(np.float64) for video_id in features])
    axes = tuple(range(rows.ndim - 1))
    statistics = rows.mean(axis=axes), rows.var(axis=axes) + 1e-2
    classes = () if case.task == "regression" else CLASSES
    per_frame = TASKS[case.task].per_frame
    model = build_model(config, shape, len(classes) or 1, *statistics, per_frame, case.rescale)
    folder.mkdir(parents=True)
    model.save(folder / "model.keras")
    keep_lineage(folder, features)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
    record = {
        "config": settings,
        "feature_set": features.name,
        "fingerprint": features.fingerprint,
        "spec": features.spec.to_dict(),
        "task": case.task,
        "classes": list(classes),
        "metrics": {"val": {"accuracy": 0.5}, "test": None},
        "command": "framecache-train fit …",
    }
    (folder / "run.json").write_text(json.dumps(record))
    return Run(folder, record)


@dataclass(frozen=True)
class Ways:
    """Logits of each video on every way, and how far they may lie apart."""

    cached: list[NDArray[np.float32]]
    live: list[NDArray[np.float32]]
    exported: list[NDArray[np.float32]]
    streamed: list[NDArray[np.float32]]
    whole: list[NDArray[np.float32]]  # from the cache, of all frames as one sequence: what a stream gives
    tolerance: float


def every_way(served: Served, case: Case, run: Run) -> Ways:
    """The cache, the files, the exported model and, where there is one, the streaming model."""
    from framecache.extract.video import DecodeStats, decode
    from framecache.train.clips import evaluation_sequences
    from framecache.train.serving.config import ExportConfig, PredictConfig
    from framecache.train.serving.exported import FrameFeatures, build_exported
    from framecache.train.serving.features import Clip, parse_sampling
    from framecache.train.serving.predict import Predictor
    from framecache.train.serving.scorer import Scorer
    from framecache.train.serving.streaming import STREAMED, build_stream
    from framecache.train.serving.tolerance import feature_deviations, logit_tolerance

    nowhere, videos = served.folder / "nowhere", served.videos
    scorer, cached = Scorer(run, batch_size=4), open_cache(served.cache)[case.feature_set]
    stored = [cached[video.video_id].astype(np.float32) for video in videos]
    config = PredictConfig(cache=nowhere, backbone=served.backbone, engine="tensorflow", workers=1)
    live = [answer.logits for answer in Predictor(run.folder, config).predict(videos)]

    lineage = read_lineage(run, nowhere)
    features = FrameFeatures(lineage, ExportConfig(cache=nowhere, backbone=served.backbone))
    frames = []
    for video in videos:
        clip = Clip(video.path, parse_sampling(features.sampling), features.backbone.geometry)
        frames.append(np.concatenate([block.frames for block in decode(clip, DecodeStats())]))
    lengths = np.array([len(rows) for rows in frames], np.int32)
    batch = np.zeros((len(frames), lengths.max(), *frames[0].shape[1:]), np.uint8)
    for place, rows in enumerate(frames):
        batch[place, : len(rows)] = rows
    exported = build_exported(features, scorer)({"frames": batch, "lengths": lengths})["logits"].numpy()
    per_frame = scorer.per_frame
    exported = [logits[:length] if per_frame else logits for logits, length in zip(exported, lengths, strict=True)]

    streamed, whole, tolerance = [], [], 0.0
    stream = build_stream(features, scorer) if case.model in STREAMED else None
    for rows, pixels in zip(stored, frames, strict=True):
        if not tolerance:
            values, deviations = feature_deviations(lineage, features.computed(pixels))
            at = evaluation_sequences(len(values), scorer.clips, per_frame)[0]
            tolerance = logit_tolerance(scorer.model, values[at], deviations[at])
        if stream is None:
            continue
        state = {t.name: np.zeros((1, t.shape[1]), np.float32) for t in stream.inputs if t.name != "frame"}
        found: dict[str, Any] = {}
        for frame in pixels:
            found = stream({"frame": frame[None], **state})
            state = {name: found[f"next_{name}"].numpy() for name in state}
        streamed.append(found["logits"].numpy()[0])
        logits = scorer.model({"features": rows[None], "mask": np.ones((1, len(rows)), np.bool_)}).numpy()[0]
        whole.append(logits[-1] if per_frame else logits)
    return Ways(scorer.logits(stored), live, exported, streamed, whole, tolerance)


def require_equal(ways: Ways) -> None:
    """Cached equals live equals exported equals streamed, within a tolerance that is small beside the logits."""
    for other in (ways.live, ways.exported):
        for ours, theirs in zip(ways.cached, other, strict=True):
            assert ours.shape == theirs.shape
            np.testing.assert_allclose(theirs, ours, rtol=0, atol=ways.tolerance)
    for ours, theirs in zip(ways.whole, ways.streamed, strict=False):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=ways.tolerance)
    everything = np.concatenate([logits.reshape(-1) for logits in ways.cached])
    assert ways.tolerance < 0.2 * np.ptp(everything)
