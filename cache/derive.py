"""derive: new feature sets from cached ones, without the CNN and without decoding."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from framecache.cache.compact import compact
from framecache.cache.derivation import (
    Derivation,
    Moments,
    Step,
    fit_quantisation,
    fitted_digest,
    read_derivation,
    step_shape,
)
from framecache.cache.errors import InputError, ShardError
from framecache.cache.folders import scan_folder
from framecache.cache.ledger import LedgerRow, append_journal
from framecache.cache.manifest import Video, read_manifest
from framecache.cache.reader import FeatureSet
from framecache.cache.reductions import parse_reduction, random_matrix
from framecache.cache.sampling import parse_sampling
from framecache.cache.shard import VideoRow
from framecache.cache.spec import Spec
from framecache.cache.store import Cache, lock_for_writing, open_cache, read_spec
from framecache.cache.writer import ShardWriter

PROJECTION_FILE = "projection.npz"  # of a run with a Dense projection
_BLOCK_BYTES = 16 << 20  # of float32 rows at a time
_MAX_PCA_INPUT = 16384  # dimensions; the covariance of more does not fit into 2 GB
_YOUTUBE_CLIP = 2.0  # whitened components are clipped to this range before 8 bits, as YouTube-8M does
_MANY_SHARDS = 4


@dataclass(frozen=True)
class DeriveConfig:
    """Steps of a derivation, in the order in which they are applied; each field is a flag of ``framecache derive``.

    Attributes:
        cache: Folder of the cache.
        concat: Feature sets whose features are put behind those of the first.
        sample: Keep these frames only: fps=N, every=N, num=N, of a set that has all.
        reduce: Pool a grid set: gap, gmp, gap+gmp, gem, gem=P.
        pca: Principal components to keep, fitted on the train split of --manifest.
        whiten: Scale the components to unit variance.
        random: Dimensions of a Gaussian random projection.
        seed: Seed of the random projection.
        dense: Folder of a run whose trained Dense projection is applied.
        l2: Scale each frame's features to length 1.
        dtype: Stored dtype, by default the parent's; uint8 is fitted on the train split of --manifest.
        manifest: Labelled manifest or folder; only its train split is ever fitted on.
        root: Folder that the manifest's paths start from; by default the manifest's own.
        seal_seconds: Derived videos become visible, and safe, at least so often.
        shard_mb: Shards are sealed at this size, in millions of bytes.
    """

    cache: Path = Path("features")
    concat: tuple[str, ...] = ()
    sample: str | None = None
    reduce: str | None = None
    pca: int = 0
    whiten: bool = False
    random: int = 0
    seed: int = 0
    dense: Path | None = None
    l2: bool = False
    dtype: Literal["float16", "float32", "uint8"] | None = None
    manifest: Path | None = None
    root: Path | None = None
    seal_seconds: float = 60.0
    shard_mb: float = 512.0

    def __post_init__(self) -> None:
        for flag, value in {"seal-seconds": self.seal_seconds, "shard-mb": self.shard_mb}.items():
            if not 0 < value < float("inf"):
                raise InputError(f"--{flag} {value:g}: expected a positive number")
        for flag, whole in {"pca": self.pca, "random": self.random}.items():
            if whole < 0:
                raise InputError(f"--{flag} {whole}: expected a number of dimensions")
        if not 0 <= self.seed < 1 << 32:
            raise InputError(f"--seed {self.seed}: expected 0 to {(1 << 32) - 1}")
        if self.whiten and not self.pca:
            raise InputError("--whiten: expected --pca N with it")
        if sum(map(bool, (self.pca, self.random, self.dense))) > 1:
            raise InputError("--pca, --random, --dense: expected one of them; derive again from the result for another")


@dataclass
class DeriveReport:
    """What a derivation did.

    Attributes:
        feature_set: Full name of the derived set.
        num_videos: Videos of the parent.
        derived: Videos that were computed now.
        cached: Videos that were there.
        failed: Reason per ``video_id`` without features here.
        num_frames: Frames that were computed.
        explained_variance: Share of the train split's variance that PCA keeps; None without PCA.
        fitted_videos: Videos that something was fitted on.
    """

    feature_set: str
    num_videos: int = 0
    derived: int = 0
    cached: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    num_frames: int = 0
    explained_variance: float | None = None
    fitted_videos: int = 0

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        value: dict[str, Any] = json.loads(json.dumps(vars(self)))
        return value


def derive(name: str, config: DeriveConfig, progress: Callable[[int, int], object] | None = None) -> DeriveReport:
    """Computes what is missing of a derived feature set.

    The same derivation again, after videos were added to the parent, adds them with the arrays that were fitted
    before.

    Args:
        name: The parent: its name, with or without fingerprint, or a prefix.
        config: The steps.
        progress: Called with the frames done and the frames in all, of each pass.

    Raises:
        InputError: The steps do not fit the parent or each other, or there is nothing to fit on; nothing was written.
        ShardError: A parent's features are hurt.
        LockedError: Another process writes into the derived set.
        OSError: The disk refused; what was sealed before stays.
    """
    store = open_cache(config.cache)
    parents = [store[parent] for parent in (name, *config.concat)]
    if config.dtype is None:
        dtype: Any = "float16" if parents[0].spec.dtype == "uint8" else parents[0].spec.dtype
        config = replace(config, dtype=dtype)
    source = _Source(parents, config.sample)
    steps, reduction, shape = _plan_steps(parents, config)
    found = _find_derivation(store, parents, steps, config)
    derivation = found or _fit(source, steps, config, progress)
    spec = replace(
        parents[0].spec,
        sampling=str(parse_sampling(config.sample)) if config.sample else parents[0].spec.sampling,
        reduction=reduction,
        feature_shape=shape,
        dtype=str(config.dtype),
        lineage=_lineage(parents, steps, derivation),
    )
    with lock_for_writing(store.folder / spec.name):
        folder = store.create(spec, derivation.to_bytes())
        report = DeriveReport(spec.name, fitted_videos=len(derivation.fitted_on))
        report.explained_variance = next(
            (float(array.sum()) for key, array in derivation.arrays.items() if key.endswith(".explained")), None
        )
        _compute(source, derivation, folder, spec, config, report, progress)
    return report


def _plan_steps(parents: Sequence[FeatureSet], config: DeriveConfig) -> tuple[list[Step], str, tuple[int, ...]]:
    """The steps, the derived set's reduction, and its feature shape."""
    shapes = [parent.feature_shape for parent in parents]
    reduction = "+".join(parent.spec.reduction for parent in parents)
    shape = shapes[0] if len(shapes) == 1 else (sum(int(np.prod(one)) for one in shapes),)
    steps: list[Step] = []
    if config.reduce is not None:
        pool = parse_reduction(config.reduce)
        if pool.dim or pool.pool == "grid":
            raise InputError(f"--reduce {config.reduce}: expected gap, gmp, gap+gmp or gem; --random N projects")
        steps.append({"op": "reduce", "reduction": str(pool)})
        reduction = str(pool)
    if config.pca:
        steps.append({"op": "pca", "dim": config.pca, "whiten": config.whiten})
        reduction += f".pca={config.pca}{',white' if config.whiten else ''}"
    if config.random:
        steps.append({"op": "random", "dim": config.random, "seed": config.seed})
        reduction += f".random={config.random}{f',seed={config.seed}' if config.seed else ''}"
    if config.dense is not None:
        units = _read_projection(config.dense, parents[0])["matrix"].shape[1]
        steps.append({"op": "dense", "units": int(units), "activation": "relu"})
        reduction += f".dense={units}"
    if config.l2:
        steps.append({"op": "l2"})
        reduction += ".l2"
    if config.dtype == "uint8":
        # Whitened components have one scale, and YouTube-8M's clip; all else is fitted per dimension.
        whitened = config.whiten and not config.l2
        steps.append({"op": "uint8", "clip": _YOUTUBE_CLIP if whitened else None})
    for step in steps:
        shape = step_shape(step, shape)
    if not steps and not config.sample and len(parents) == 1 and config.dtype == parents[0].spec.dtype:
        raise InputError("derive: expected at least one step, such as --pca 256 or --dtype uint8; see --help")
    return steps, reduction, shape


def _lineage(parents: Sequence[FeatureSet], steps: Sequence[Step], derivation: Derivation) -> dict[str, Any]:
    return {
        "parents": [parent.fingerprint for parent in parents],
        "steps": [dict(step) for step in steps],
        "arrays": derivation.digest(),
        "fitted_on": fitted_digest(derivation.fitted_on),
    }


def _find_derivation(
    store: Cache, parents: Sequence[FeatureSet], steps: Sequence[Step], config: DeriveConfig
) -> Derivation | None:
    """The arrays of the same derivation made before, unless the manifest now says that they saw val or test."""
    if not _fits(steps):
        return None
    train = {video.video_id for video in _train_videos(parents[0], config)} if config.manifest else None
    wanted = [parent.fingerprint for parent in parents], [dict(step) for step in steps]
    for name in store.names():
        spec = read_spec(store.folder / name)
        lineage = spec.lineage or {}
        if (lineage.get("parents"), lineage.get("steps")) != wanted or spec.dtype != config.dtype:
            continue
        if spec.sampling != (str(parse_sampling(config.sample)) if config.sample else parents[0].spec.sampling):
            continue
        found = read_derivation(store.folder / name, lineage)
        if train is None or set(found.fitted_on) <= train:
            return found
    return None


def _fits(steps: Sequence[Step]) -> bool:
    return any(step["op"] == "pca" or (step["op"] == "uint8" and step["clip"] is None) for step in steps)


def _fit(
    source: _Source, steps: Sequence[Step], config: DeriveConfig, progress: Callable[[int, int], object] | None
) -> Derivation:
    """Fits what has to be fitted, on the train split only, one pass per fitted step."""
    train: list[str] = []
    if _fits(steps):
        if config.manifest is None:
            raise InputError(
                "--manifest: expected the manifest whose train split PCA or uint8 is fitted on; found none"
            )
        train = [video.video_id for video in _train_videos(source.parents[0], config)]
    derivation = Derivation(steps)
    arrays: dict[str, NDArray[Any]] = {}
    fitted_on = tuple(train)
    for number, step in enumerate(steps):
        if step["op"] == "random":
            length = source.length_after(derivation, number)
            arrays[f"{number}.matrix"] = random_matrix(length, step["dim"], step["seed"])
        elif step["op"] == "dense":
            stored = _read_projection(Path(str(config.dense)), source.parents[0])
            fitted_on = tuple(raw.decode() for raw in stored.pop("fitted_on").tolist())
            arrays |= {f"{number}.{key}": array for key, array in stored.items()}
        elif step["op"] == "pca":
            arrays |= {f"{number}.{key}": array for key, array in _fit_pca(source, derivation, number, train, progress)}
        elif step["op"] == "uint8":
            arrays |= _fit_uint8(source, derivation, number, train, progress)
        derivation = replace(derivation, arrays=dict(arrays))
    frames = sum(source.length(video_id) for video_id in fitted_on if video_id in source.parents[0])
    return replace(derivation, fitted_on=fitted_on, fitted_frames=frames)


def _fit_pca(
    source: _Source,
    derivation: Derivation,
    number: int,
    train: Sequence[str],
    progress: Callable[[int, int], object] | None,
) -> Iterator[tuple[str, NDArray[Any]]]:
    step = derivation.steps[number]
    length = source.length_after(derivation, number)
    if length > _MAX_PCA_INPUT:
        raise InputError(
            f"--pca {step['dim']}: the covariance of {length} dimensions takes {length**2 * 8 / 1e9:.0f} GB; "
            "pool the grid with --reduce gap, or project it with --random first"
        )
    moments = Moments()
    for rows in source.read(train, progress):
        moments.add(derivation.apply(rows, number).reshape(len(rows), -1))
    yield from moments.fit_pca(step["dim"], step["whiten"]).items()


def _fit_uint8(
    source: _Source,
    derivation: Derivation,
    number: int,
    train: Sequence[str],
    progress: Callable[[int, int], object] | None,
) -> dict[str, NDArray[np.float32]]:
    clip = derivation.steps[number]["clip"]
    if clip is not None:
        edge = np.full(derivation.steps[number - 1]["dim"], clip, np.float32)
        return fit_quantisation(-edge, edge)
    low, high = np.float32(np.inf), np.float32(-np.inf)
    for rows in source.read(train, progress):
        applied = derivation.apply(rows, number)
        low, high = np.minimum(low, applied.min(axis=0)), np.maximum(high, applied.max(axis=0))
    return fit_quantisation(np.asarray(low), np.asarray(high))


def _train_videos(parent: FeatureSet, config: DeriveConfig) -> list[Video]:
    """Videos of the manifest's train split that have features, without copies of what val or test hold."""
    manifest = config.manifest
    if manifest is None:
        raise InputError("--manifest: expected the manifest whose train split PCA or uint8 is fitted on")
    videos = scan_folder(manifest) if manifest.is_dir() else read_manifest(manifest, config.root)
    ledger = parent.ledger()
    contents = {
        ledger[video.video_id].source_digest.partition("#")[0]
        for video in videos
        if video.split in ("val", "test") and video.video_id in ledger
    }
    train = [
        video
        for video in videos
        if video.split == "train"
        and video.video_id in parent
        and ledger[video.video_id].source_digest.partition("#")[0] not in contents
    ]
    if not train:
        raise InputError(
            f"{manifest}: none of its {len(videos)} videos is in its train split and in {parent.name}; "
            "nothing may be fitted on other videos"
        )
    return train


def _read_projection(run: Path, parent: FeatureSet) -> dict[str, NDArray[Any]]:
    """The folded Dense projection of a run: ``mean (D,)``, ``matrix (D, units)``, ``bias``, ``fitted_on``.

    Raises:
        InputError: The run has none, or was trained on other features.
    """
    path = run / PROJECTION_FILE
    if not path.is_file():
        raise InputError(f"--dense {run}: no {PROJECTION_FILE} in it; expected a run of fit --dense N")
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        fingerprint = arrays.pop("fingerprint").item().decode()
        length = int(np.prod(parent.feature_shape))
        if arrays["matrix"].shape[0] != length or set(arrays) != {"mean", "matrix", "bias", "fitted_on"}:
            raise ValueError(f"a projection of {arrays['matrix'].shape[0]} dimensions, the parent has {length}")
    except Exception as error:  # whatever a hurt file makes NumPy raise
        raise InputError(f"--dense {path}: cannot be used ({error}); train the run again") from error
    if fingerprint != parent.fingerprint:
        raise InputError(f"--dense {run}: it was trained on features {fingerprint[:8]}, not on {parent.name}")
    return arrays


class _Source:
    """Rows of the parents' videos, sampled and concatenated, in blocks of bounded size."""

    def __init__(self, parents: Sequence[FeatureSet], sample: str | None) -> None:
        self.parents = parents
        self._sampling = parse_sampling(sample) if sample else None
        if sample and parents[0].spec.sampling != "all":
            raise InputError(
                f"--sample {sample}: expected a parent with all frames, found {parents[0].name} "
                f"({parents[0].spec.sampling})"
            )

    def select(self, video_id: str) -> NDArray[np.int64] | None:
        """Indices of the frames that are kept; None for all."""
        if self._sampling is None:
            return None
        return np.array(self._sampling.select(self.parents[0].timestamps_ms(video_id).tolist()), np.int64)

    def length(self, video_id: str) -> int:
        """Frames of a video that are kept."""
        chosen = self.select(video_id)
        return self.parents[0].length(video_id) if chosen is None else len(chosen)

    def timestamps_ms(self, video_id: str) -> NDArray[np.float64]:
        """Times of the frames that are kept."""
        times, chosen = self.parents[0].timestamps_ms(video_id), self.select(video_id)
        return np.array(times if chosen is None else times[chosen])

    def length_after(self, derivation: Derivation, num_steps: int) -> int:
        """Numbers per frame after the first steps."""
        shape: tuple[int, ...] = self.parents[0].feature_shape
        if len(self.parents) > 1:
            shape = (sum(int(np.prod(parent.feature_shape)) for parent in self.parents),)
        for step in derivation.steps[:num_steps]:
            shape = step_shape(step, shape)
        return int(np.prod(shape))

    def why_not(self, video_id: str) -> str | None:
        """Why a video has no rows to concatenate."""
        times = self.parents[0].timestamps_ms(video_id)
        for parent in self.parents[1:]:
            if video_id not in parent:
                return f"it has no features in {parent.name}"
            if not np.array_equal(parent.timestamps_ms(video_id), times):
                return f"its frames in {parent.name} are other ones"
        return None

    def blocks(self, video_id: str) -> Iterator[NDArray[Any]]:
        """The video's rows, a few MB at a time, each parent's bytes digested on the way.

        Raises:
            ShardError: They are not the ones that were computed.
        """
        for parent in self.parents:
            if not parent.is_intact(video_id):
                raise ShardError(f"{parent.name}: {video_id!r} is hurt; run framecache verify {parent.name} --repair")
        views = [parent.stored(video_id) for parent in self.parents]
        chosen = self.select(video_id)
        count = len(views[0]) if chosen is None else len(chosen)
        step = max(1, _BLOCK_BYTES // (4 * sum(int(np.prod(view.shape[1:])) for view in views)))
        for begin in range(0, count, step):
            place = slice(begin, min(begin + step, count)) if chosen is None else chosen[begin : begin + step]
            rows = [parent.decode(view[place]) for parent, view in zip(self.parents, views, strict=True)]
            flat = rows if len(rows) == 1 else [np.concatenate([row.reshape(len(row), -1) for row in rows], axis=1)]
            yield flat[0]

    def read(self, video_ids: Sequence[str], progress: Callable[[int, int], object] | None) -> Iterator[NDArray[Any]]:
        """All rows of some videos."""
        videos = [video_id for video_id in video_ids if self.why_not(video_id) is None]
        total = sum(self.length(video_id) for video_id in videos)
        done = 0
        for video_id in videos:
            for rows in self.blocks(video_id):
                yield rows
                done += len(rows)
                if progress is not None:
                    progress(done, total)


def _compute(
    source: _Source,
    derivation: Derivation,
    folder: Path,
    spec: Spec,
    config: DeriveConfig,
    report: DeriveReport,
    progress: Callable[[int, int], object] | None,
) -> None:
    """Derives the parent's videos that are missing, and takes over its other ledger rows."""
    derived = FeatureSet(folder, spec)
    known, ledger = derived.ledger(), source.parents[0].ledger()
    report.num_videos = len(ledger)
    todo: list[LedgerRow] = []
    rest: list[LedgerRow] = []
    for row in ledger.values():
        reason = row.reason if row.status == "failed" else None
        if row.status == "ok":
            reason = source.why_not(row.video_id)
            before = known.get(row.video_id)
            if reason is None and (
                before is None or (before.status, before.source_digest) != ("ok", row.source_digest)
            ):
                todo.append(row)
                continue
        if reason is not None:
            report.failed[row.video_id] = reason
            row = replace(row, status="failed", reason=reason, frames_stored=0, feature_digest="")
        elif row.status == "ok":
            report.cached += 1
            continue
        if known.get(row.video_id) != row:
            rest.append(row)
    total = sum(source.length(row.video_id) for row in todo)
    software = {"engine": "derive"}
    with ShardWriter(folder, spec, software, int(config.shard_mb * 1e6), config.seal_seconds) as writer:
        for row in todo:
            with closing(writer.open_video()) as buffer:
                times = source.timestamps_ms(row.video_id)
                for rows in source.blocks(row.video_id):
                    computed = derivation.store(derivation.apply(rows), spec.dtype)
                    buffer.append(computed, times[buffer.num_frames : buffer.num_frames + len(computed)])
                    report.num_frames += len(computed)
                    if progress is not None:
                        progress(report.num_frames, total)
                if not buffer.finite:
                    reason = f"a feature is not finite in {spec.dtype}; try --dtype float32"
                    report.failed[row.video_id] = reason
                    rest.append(replace(row, status="failed", reason=reason, frames_stored=0, feature_digest=""))
                    continue
                derived_row = VideoRow(
                    video_id=row.video_id,
                    length=buffer.num_frames,
                    digest=buffer.hexdigest(),
                    source=row.source,
                    source_digest=row.source_digest,
                    source_stat=row.source_stat,
                    frames_expected=row.frames_expected,
                    frames_decoded=row.frames_decoded,
                    warnings=row.warnings,
                )
                writer.add(buffer, derived_row)
                report.derived += 1
            writer.seal_if_due()
    if rest:
        append_journal(folder, writer.last_shard, rest)
    report.cached += sum(row.status == "duplicate" for row in ledger.values())
    compact(folder, spec, int(config.shard_mb * 1e6), _MANY_SHARDS)
