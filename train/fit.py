"""An experiment: a cached feature set, a manifest's labels, a sequence model, and the mean-pool baseline beside it."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.derivation import read_derivation
from framecache.cache.errors import InputError
from framecache.cache.fingerprint import digest_source, stat_source
from framecache.cache.folders import scan_folder
from framecache.cache.ledger import LedgerRow
from framecache.cache.manifest import SPLITS, Video, read_manifest
from framecache.cache.projection import write_projection
from framecache.cache.quiet import quiet_stderr
from framecache.cache.reader import FeatureSet
from framecache.cache.spec import folder_name
from framecache.cache.store import open_cache
from framecache.train.config import FitConfig
from framecache.train.data import Sequences, channel_statistics, class_weights
from framecache.train.metrics import classification_metrics, confusion_matrix, log_softmax
from framecache.train.runs import RUN_FILE, Run
from framecache.train.splits import LabeledVideos, split_videos

if TYPE_CHECKING:
    from framecache.train.trainer import History

_SHOWN = 3  # hurt videos named in an error message
GRID_DENSE = 64  # units of the projection that a flattened grid gets unless another is asked for


def fit(feature_set: str, config: FitConfig, progress: bool = False) -> Run:
    """Trains a sequence model and the mean-pool baseline on a cached feature set, and writes the run.

    Args:
        feature_set: Its name, with or without fingerprint, or a prefix.
        config: Settings; ``manifest`` is needed.
        progress: Whether to show progress bars, on a terminal.

    Raises:
        InputError: A name, a label, a split or a setting is wrong, or features are hurt; nothing was written.
        ShardError: A shard is missing or cannot be read; nothing was written.
    """
    begin = time.perf_counter()
    features = open_cache(config.cache)[feature_set]
    labeled = _labeled_videos(features, config)
    _refuse_fitted_on_held_out(features, labeled)
    _refuse_hurt(features, [video.video_id for videos in labeled.splits.values() for video in videos])
    if len(features.feature_shape) > 1 and not config.dense and ":" not in config.model and config.model != "mean":
        config = replace(config, dense=GRID_DENSE)
    sequences = {
        split: Sequences(
            features,
            tuple(video.video_id for video in videos),
            np.array(labeled.targets(split), np.int64),
            config.max_len,
        )
        for split, videos in labeled.splits.items()
        if videos
    }
    statistics = channel_statistics(sequences["train"])
    loaded = time.perf_counter()

    experiment = _Experiment(config, features.feature_shape, labeled, sequences, statistics)
    model = experiment.build(config)  # a wrong --model ends here, before anything is written
    folder = _new_folder(config, features)
    try:
        record = _train(experiment, model, config, features, folder, (begin, loaded), progress)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # half a run would only be in the way of the next
        raise
    return Run(folder, record)


def _train(
    experiment: _Experiment,
    model: Any,
    config: FitConfig,
    features: FeatureSet,
    folder: Path,
    started: tuple[float, float],
    progress: bool,
) -> dict[str, Any]:
    """Trains model and baseline and fills the run's folder; gives what its ``run.json`` says."""
    begin, loaded = started
    labeled, sequences = experiment.labeled, experiment.sequences
    compiled = time.perf_counter()
    baseline_config = replace(config, model="mean", dense=0)
    baseline_model = experiment.build(baseline_config)
    experiment.train(baseline_model, baseline_config, None, progress)
    history = experiment.train(model, config, folder, progress)
    trained = time.perf_counter()

    logits = experiment.predict(model)
    record = {
        "config": _plain(asdict(config)),
        "feature_set": features.name,
        "fingerprint": features.fingerprint,
        "spec": features.spec.to_dict(),
        "seed": config.seed,
        "classes": list(labeled.classes),
        "num_videos": {split: len(members) for split, members in sequences.items()},
        "left_out": dict(labeled.left_out),
        "epochs": history.num_epochs,
        "best_epoch": history.best_epoch,
        "metrics": experiment.metrics(logits),
        "baseline": experiment.metrics(experiment.predict(baseline_model)),
        "seconds": {
            "load": round(loaded - begin, 3),
            "compile": round(compiled - loaded, 3),
            "train": round(trained - compiled, 3),
        },
        "versions": {name: importlib.metadata.version(name) for name in ("framecache", "tensorflow", "keras", "numpy")},
    }
    model.save(folder / "model.keras")
    if config.dense and ":" not in config.model:  # so that derive --dense can bake it
        kernel, bias = model.get_layer("projection").get_weights()
        write_projection(folder, features, experiment.statistics, kernel, bias, sequences["train"].video_ids)
    _write_predictions(folder / "predictions.csv", labeled, logits)
    _write_figures(folder, labeled, sequences, logits, history)
    # Last, so that a folder with a run.json is a finished run.
    (folder / RUN_FILE).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return record


@dataclass(frozen=True)
class _Experiment:
    """What a model and its baseline share."""

    config: FitConfig
    feature_shape: tuple[int, ...]
    labeled: LabeledVideos
    sequences: Mapping[str, Sequences]
    statistics: tuple[NDArray[np.float64], NDArray[np.float64]]

    @property
    def seq_len(self) -> int:
        """One length for every batch of every split, so that each function is traced once."""
        return max(members.seq_len for members in self.sequences.values())

    def build(self, config: FitConfig) -> Any:
        with quiet_stderr():
            import keras
            import tensorflow  # noqa: F401

        from framecache.train.models import build_model

        keras.utils.set_random_seed(config.seed)
        return build_model(config, self.feature_shape, len(self.labeled.classes), *self.statistics)

    def train(self, model: Any, config: FitConfig, folder: Path | None, progress: bool) -> History:
        import keras

        from framecache.train.trainer import train_model

        keras.utils.set_random_seed(config.seed)
        train, val = self.sequences["train"], self.sequences["val"]
        weights = class_weights(train.targets, len(self.labeled.classes)) if config.class_weights else None
        return train_model(model, train, val, self.seq_len, config, weights, folder, progress)

    def predict(self, model: Any) -> dict[str, NDArray[np.float32]]:
        from framecache.train.trainer import predict_logits

        return {
            split: predict_logits(model, members, self.seq_len, self.config.batch_size)
            for split, members in self.sequences.items()
        }

    def metrics(self, logits: Mapping[str, NDArray[np.float32]]) -> dict[str, dict[str, float] | None]:
        return {
            split: classification_metrics(logits[split], self.sequences[split].targets) if split in logits else None
            for split in ("val", "test")
        }


def _labeled_videos(features: FeatureSet, config: FitConfig) -> LabeledVideos:
    """The manifest's videos that have features, split up; the others are left out, with the ledger's reason."""
    if config.manifest is None:
        raise InputError("--manifest: expected the CSV, JSONL or folder with the labels; found none")
    where = str(config.manifest)
    videos: list[Video] = (
        scan_folder(config.manifest) if config.manifest.is_dir() else read_manifest(config.manifest, config.root)
    )
    present = [video for video in videos if video.video_id in features]
    missing = [video.video_id for video in videos if video.video_id not in features]
    if not present:
        held = ", ".join(map(repr, features.video_ids[:2])) or "nothing"
        raise InputError(
            f"{where}: none of its {len(videos)} videos is in {features.name}; it lists {missing[0]!r}, "
            f"the feature set holds {held}; extract this manifest first"
        )
    ledger = features.ledger()
    _refuse_other_contents(present, ledger, features.name)
    digests = {video_id: row.source_digest for video_id, row in ledger.items()}
    labeled = split_videos(present, digests, config.seed, where)
    reasons = {name: ledger[name].reason if name in ledger else "never extracted" for name in missing}
    return replace(labeled, left_out={**reasons, **labeled.left_out})


def _refuse_other_contents(videos: Sequence[Video], ledger: Mapping[str, LedgerRow], name: str) -> None:
    """Refuses features of another file under a video's name; a file that is not here any more is not asked for."""
    for video in videos:
        row = ledger[video.video_id]
        try:
            stat = stat_source(video.path)
            same = stat == row.source_stat or digest_source(video.path) + video.segment == row.source_digest
        except OSError:
            continue
        if not same:
            raise InputError(
                f"{video.path}: the features of {video.video_id!r} in {name} are those of another content "
                f"(extracted from {row.source}); extract this manifest again, or into a --cache of its own"
            )


def _refuse_fitted_on_held_out(features: FeatureSet, labeled: LabeledVideos) -> None:
    """Refuses a PCA, a range or a projection that was fitted on what must only be predicted."""
    if features.spec.lineage is None:
        return
    ledger = features.ledger()
    fitted_on = set(read_derivation(features.folder, features.spec.lineage).fitted_on)
    contents = {ledger[video_id].source_digest for video_id in fitted_on & ledger.keys()} - {""}
    for split in ("val", "test"):
        seen = [
            video.video_id
            for video in labeled.splits[split]
            if video.video_id in fitted_on or ledger[video.video_id].source_digest in contents
        ]
        if seen:
            named = ", ".join(map(repr, seen[:_SHOWN])) + ", …" * (len(seen) > _SHOWN)
            raise InputError(
                f"{features.name}: {len(seen)} of its {split} videos ({named}) are among those that it was fitted on; "
                "derive it again with a --manifest whose column 'split' names train, val and test"
            )


def _refuse_hurt(features: FeatureSet, video_ids: Sequence[str]) -> None:
    """Digests all that will be trained on: features with a flipped bit would give numbers that nobody can repeat."""
    hurt = [video_id for video_id in video_ids if not features.is_intact(video_id)]
    if hurt:
        named = ", ".join(map(repr, hurt[:_SHOWN])) + ", …" * (len(hurt) > _SHOWN)
        raise InputError(
            f"{features.name}: the stored features of {len(hurt)} of {len(video_ids)} videos are hurt ({named}); "
            f"run framecache verify {features.name} --repair, then the extraction again"
        )


def _new_folder(config: FitConfig, features: FeatureSet) -> Path:
    """A folder of its own for the run; an older run is never written over."""
    if config.name is not None:
        folder = config.runs / config.name
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise InputError(f"--name {config.name!r}: {folder} exists already; choose another name") from None
        return folder
    config.runs.mkdir(parents=True, exist_ok=True)
    stem = f"{features.spec.short_name}-{folder_name(config.model)}-seed{config.seed}"
    number = 1
    while True:
        folder = config.runs / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _write_predictions(path: Path, labeled: LabeledVideos, logits: Mapping[str, NDArray[np.float32]]) -> None:
    """One row per video of every split: its label, the predicted one and that one's probability."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["video_id", "split", "label", "predicted", "probability"])
        for split in SPLITS:
            if split not in logits:
                continue
            probabilities = np.exp(log_softmax(logits[split]))
            for video, row in zip(labeled.splits[split], probabilities, strict=True):
                best = int(row.argmax())
                writer.writerow([video.video_id, split, video.label, labeled.classes[best], f"{row[best]:.4f}"])


def _write_figures(
    folder: Path,
    labeled: LabeledVideos,
    sequences: Mapping[str, Sequences],
    logits: Mapping[str, NDArray[np.float32]],
    history: History,
) -> None:
    from framecache.train.plots import plot_confusion, plot_learning_curve

    split = "test" if "test" in logits else "val"
    predicted = logits[split].argmax(axis=1)
    counts = confusion_matrix(sequences[split].targets, predicted, len(labeled.classes))
    share = counts.trace() / counts.sum()
    plot_confusion(folder / "confusion.png", counts, labeled.classes, f"{folder.name}: {split} accuracy {share:.3f}")
    plot_learning_curve(folder / "learning-curve.png", history.measures, history.best_epoch, folder.name)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
