"""What smaller features cost: the same model, trained with the same seeds on several feature sets of one data set."""

from __future__ import annotations

import csv
import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from framecache.cache.errors import InputError
from framecache.cache.folders import scan_folder
from framecache.cache.manifest import Video, read_manifest
from framecache.cache.plugins import import_callable
from framecache.cache.quiet import quiet_stderr
from framecache.cache.reader import FeatureSet
from framecache.cache.shown import Shown, plural
from framecache.cache.sources import public_text
from framecache.cache.spec import folder_name
from framecache.cache.store import open_cache
from framecache.train.config import FitConfig
from framecache.train.data import CachedSequences
from framecache.train.fidelity.reconstruction import Fidelity, measure_fidelity
from framecache.train.fit import fit
from framecache.train.inference import inference_ms, load_model
from framecache.train.reuse import refuse_other_table, same_run
from framecache.train.runs import RUN_FILE, Run
from framecache.train.splits.labels import label_videos, refuse_fitted_on_held_out, refuse_hurt
from framecache.train.splits.splitting import LabeledVideos

TABLE_FILE = "fidelity.json"
_MAX_RUN_NAME = 150  # of the feature set's part; the fingerprint tells runs apart


@dataclass(frozen=True, repr=False)
class FidelityConfig(FitConfig):
    """The experiment that is made on each feature set; each field is a flag of ``framecache-train fidelity``.

    Attributes:
        runs: Folder that gets a folder with the table and all runs.
        name: That folder's name; by default fidelity.
        seed: The first seed.
        num_seeds: Trainings of each feature set, with consecutive seeds.
    """

    num_seeds: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.num_seeds <= (1 << 32) - self.seed:
            raise InputError(f"--num-seeds {self.num_seeds}: expected at least 1, and seeds below {1 << 32}")
        if self.task != "classification":
            raise InputError(f"--task {self.task}: expected classification; sets are compared by their accuracy")

    @property
    def folder(self) -> Path:
        """Where table and runs go."""
        return self.runs / (self.name or "fidelity")

    @property
    def seeds(self) -> range:
        """Of the trainings."""
        return range(self.seed, self.seed + self.num_seeds)

    def for_run(self, features: FeatureSet, seed: int) -> FitConfig:
        """Settings of one training."""
        shared = {field.name: getattr(self, field.name) for field in fields(FitConfig)}
        name = f"{features.spec.short_name[:_MAX_RUN_NAME]}-{features.fingerprint[:8]}-seed{seed}"
        return FitConfig(**{**shared, "runs": self.folder, "name": name, "seed": seed})


@dataclass(frozen=True)
class FidelityRow:
    """One feature set: what it takes, what is left of its parent, and what a model makes of it.

    Attributes:
        feature_set: Its full name.
        fingerprint: Its fingerprint.
        parents: Names of the sets that it was derived from.
        feature_shape: Shape of one frame's features.
        dtype: Stored dtype.
        num_frames: Frames of the whole set.
        bytes_per_frame: Size of one frame's features.
        bytes: Size of the whole set on disk.
        cosine: See :class:`~framecache.train.fidelity.reconstruction.Fidelity`, as of the next two.
        relative_error: Of the parent's reconstruction.
        explained_variance: Of the parent by its reconstruction.
        test_accuracies: Of the model, per seed.
        test_accuracy_mean: Over the seeds, in [0, 1].
        test_accuracy_std: Sample standard deviation over the seeds; None of one seed.
        baseline_accuracy_mean: Of the mean baseline.
        baseline_accuracy_std: Of the mean baseline.
        train_seconds: Mean time of one training.
        inference_ms: Milliseconds per test video of the model alone, from cached features; None if not measured.
        num_parameters: Of the model; None if it could not be loaded.
        remarks: Why a number is missing, or says little.
    """

    feature_set: str
    fingerprint: str
    parents: tuple[str, ...]
    feature_shape: tuple[int, ...]
    dtype: str
    num_frames: int
    bytes_per_frame: int
    bytes: int
    cosine: float | None
    relative_error: float | None
    explained_variance: float | None
    test_accuracies: tuple[float, ...]
    test_accuracy_mean: float
    test_accuracy_std: float | None
    baseline_accuracy_mean: float
    baseline_accuracy_std: float | None
    train_seconds: float
    inference_ms: float | None
    num_parameters: int | None
    remarks: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class FidelityReport(Shown):
    """The table, and what is the same in all its rows.

    Attributes:
        folder: Where it was written.
        config: The settings.
        num_test_videos: Videos that all accuracies are over.
        rows: One per feature set, in the order asked for.
        labels: A short name of each, as the table and the figure have it.
    """

    folder: Path
    config: FidelityConfig
    num_test_videos: int
    rows: tuple[FidelityRow, ...]
    labels: tuple[str, ...]

    def _line(self) -> str:
        scores = zip(self.labels, (row.test_accuracy_mean for row in self.rows), strict=True)
        told = ", ".join(f"{label} {score:.3f}" for label, score in scores)
        return f"{self.folder}: {self.config.model}, {plural(self.num_test_videos, 'test video')}, accuracy of {told}"

    def _html(self) -> str:
        from framecache.train.fidelity.table import format_html

        return format_html(self)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        value: dict[str, Any] = json.loads(json.dumps(asdict(self), default=public_text))
        return value


def compare_fidelity(sets: Sequence[str], config: FidelityConfig, progress: bool = False) -> FidelityReport:
    """Trains the model of ``config`` on each feature set with each seed, and writes table and figure beside the runs.

    Everything is checked before the first training. Runs that are there already, of the same settings, features and
    labels, are not made again, so that an interrupted comparison goes on where it was.

    Args:
        sets: Names of the feature sets, with or without fingerprint, or prefixes.
        config: Settings; ``manifest`` is needed, and has to name the test videos.
        progress: Whether to show a progress bar, on a terminal.

    Raises:
        InputError: A name, a label, a split or a setting is wrong, the sets hold other videos, features are hurt, or
            other runs are in the way; nothing was written.
        ShardError: A shard is missing or cannot be read; nothing was written.
    """
    store = open_cache(config.cache)
    compared = _open_sets([store[name] for name in sets])
    videos = _read_videos(config)
    _refuse_other_videos(compared, videos, config.manifest_name)
    labeled = {seed: _checked_labels(compared, config, seed) for seed in config.seeds}
    first = labeled[config.seed].splits
    for features in compared:
        refuse_hurt(features, [video.video_id for members in first.values() for video in members])
    if ":" in config.model:
        import_callable(config.model, "--model")  # which registers layers of its own, if it has any
    runs = _find_runs(compared, config, labeled)

    rows = []
    train, test = (tuple(video.video_id for video in first[split]) for split in ("train", "test"))
    labels = short_labels(compared)
    with tqdm(total=len(runs), unit="run", disable=None if progress else True) as bar:
        for label, features in zip(labels, compared, strict=True):
            bar.set_description_str(label)
            fidelity = measure_fidelity(store, features, train, test)
            made = []
            for seed in config.seeds:
                made.append(runs[features.name, seed] or _fit(features, config.for_run(features, seed)))
                bar.update()
            rows.append(_row(features, fidelity, made, test, config))
    report = FidelityReport(config.folder, config, len(test), tuple(rows), labels)
    _write(report)
    return report


def _open_sets(sets: Sequence[FeatureSet]) -> list[FeatureSet]:
    if not sets:
        raise InputError("fidelity: expected at least one feature set; framecache ls lists what there is")
    names = [features.name for features in sets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"fidelity: {twice[0]} was named {names.count(twice[0])} times; name each feature set once")
    return list(sets)


def _read_videos(config: FitConfig) -> list[Video]:
    if config.manifest is None:
        raise InputError("--manifest: expected the CSV, JSONL or folder with the labels; found none")
    folder = config.manifest.is_dir()
    videos = scan_folder(config.manifest) if folder else read_manifest(config.manifest, config.root)
    if not any(video.split == "test" for video in videos):
        raise InputError(
            f"{config.manifest_name}: no video is in the test split; all seeds are compared on the same test videos, "
            "so name them in a column 'split'"
        )
    return videos


def _refuse_other_videos(sets: Sequence[FeatureSet], videos: Sequence[Video], where: str) -> None:
    """Refuses sets of other videos than the others': their accuracies could not be compared."""
    wanted = [video.video_id for video in videos if any(video.video_id in features for features in sets)]
    contents: dict[str, str] = {}
    for features in sets:
        missing = [video_id for video_id in wanted if video_id not in features]
        if missing:
            raise InputError(
                f"{features.name}: {len(missing)} of the {len(wanted)} videos of {where} that others have are missing "
                f"in it ({missing[0]!r}, …); extract or derive it again, or leave them out of the manifest"
            )
        ledger = features.ledger()
        others = [
            video_id
            for video_id in wanted
            if contents.setdefault(video_id, ledger[video_id].source_digest) != ledger[video_id].source_digest
        ]
        if others:
            raise InputError(
                f"{features.name}: {len(others)} of its videos ({others[0]!r}, …) are of other content than in "
                f"{sets[0].name}; extract or derive both again"
            )


def _checked_labels(sets: Sequence[FeatureSet], config: FidelityConfig, seed: int) -> LabeledVideos:
    """The splits of one seed, which are those of all sets, after the checks that fit makes of each."""
    for features in sets:
        labeled = label_videos(features, config.for_run(features, seed))
        refuse_fitted_on_held_out(features, labeled)
    return labeled


def _find_runs(
    sets: Sequence[FeatureSet], config: FidelityConfig, labeled: Mapping[int, LabeledVideos]
) -> dict[tuple[str, int], Run | None]:
    """The runs that need not be made again, by feature set and seed; None for one to be made.

    Raises:
        InputError: Something else is in the way.
    """
    folder = config.folder
    if (folder / RUN_FILE).exists() or (os.path.lexists(folder) and not folder.is_dir()):
        raise InputError(f"--name {folder.name!r}: {folder} is there, and no comparison; choose another name")
    if (folder / TABLE_FILE).is_file():
        refuse_other_table(folder / TABLE_FILE, config)
    runs: dict[tuple[str, int], Run | None] = {}
    for features in sets:
        for seed, videos in labeled.items():
            wanted = config.for_run(features, seed)
            place = folder / str(wanted.name)
            runs[features.name, seed] = same_run(place, features, wanted, videos) if os.path.lexists(place) else None
    return runs


def _fit(features: FeatureSet, config: FitConfig) -> Run:
    with quiet_stderr():
        import keras
    keras.backend.clear_session()  # the graphs of many trainings would fill the memory
    return fit(features.name, config)


def _row(
    features: FeatureSet, fidelity: Fidelity, runs: Sequence[Run], test: Sequence[str], config: FitConfig
) -> FidelityRow:
    accuracies, baselines = (
        [float(run.record[key]["test"]["accuracy"]) for run in runs] for key in ("metrics", "baseline")
    )
    remarks = [fidelity.remark]
    milliseconds: float | None = None
    num_parameters: int | None = None
    try:
        model = load_model(runs[0])
    except Exception as error:  # whatever a model of the user's own makes Keras raise: it has its accuracy all the same
        remarks.append(f"the model of {runs[0].folder.name} cannot be loaded, nor timed ({error})")
    else:
        num_parameters = int(model.count_params())
        sequences = CachedSequences(features, tuple(test), config)
        milliseconds = inference_ms(model, sequences, config.batch_size)
    return FidelityRow(
        feature_set=features.name,
        fingerprint=features.fingerprint,
        parents=fidelity.parents,
        feature_shape=features.feature_shape,
        dtype=features.spec.dtype,
        num_frames=features.num_frames,
        bytes_per_frame=math.prod(features.feature_shape) * np.dtype(features.spec.dtype).itemsize,
        bytes=features.num_bytes,
        cosine=fidelity.cosine,
        relative_error=fidelity.relative_error,
        explained_variance=fidelity.explained_variance,
        test_accuracies=tuple(accuracies),
        test_accuracy_mean=statistics.fmean(accuracies),
        test_accuracy_std=_deviation(accuracies),
        baseline_accuracy_mean=statistics.fmean(baselines),
        baseline_accuracy_std=_deviation(baselines),
        train_seconds=statistics.fmean(float(run.record["seconds"]["train"]) for run in runs),
        inference_ms=milliseconds,
        num_parameters=num_parameters,
        remarks=tuple(filter(None, remarks)),
    )


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def short_labels(sets: Sequence[FeatureSet]) -> tuple[str, ...]:
    """Names of feature sets, without the backbone if all have one, and without the fingerprint if they differ so."""
    backbones = {features.spec.backbone for features in sets}
    head = folder_name(backbones.pop()) if len(backbones) == 1 else ""
    labels = [features.spec.short_name.removeprefix(head).removeprefix(".") for features in sets]
    return tuple(
        label if labels.count(label) == 1 else f"{label}-{features.fingerprint[:8]}"
        for label, features in zip(labels, sets, strict=True)
    )


def _write(report: FidelityReport) -> None:
    from framecache.train.plots import plot_fidelity

    rows = report.to_json()["rows"]
    with (report.folder / "fidelity.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in row.items()}
            )
    plot_fidelity(
        report.folder / "fidelity.png",
        report.labels,
        [row.bytes_per_frame for row in report.rows],
        [row.test_accuracy_mean for row in report.rows],
        [row.test_accuracy_std or 0.0 for row in report.rows],
        f"{report.config.model}: accuracy on {report.num_test_videos} test videos",
    )
    text = json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n"
    (report.folder / TABLE_FILE).write_text(text, encoding="utf-8")
