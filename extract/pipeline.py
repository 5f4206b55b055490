"""The extraction: decode ahead, cut batches across videos, one forward pass, many feature sets."""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from framecache.cache.compact import compact
from framecache.cache.errors import FramecacheError, InputError
from framecache.cache.fingerprint import stat_source
from framecache.cache.folders import read_source
from framecache.cache.ledger import LedgerRow, append_journal
from framecache.cache.manifest import Video
from framecache.cache.reader import FeatureSet
from framecache.cache.reductions import parse_reduction
from framecache.cache.sampling import parse_sampling
from framecache.cache.shard import VideoRow
from framecache.cache.sources import Source, Url
from framecache.cache.spec import Spec
from framecache.cache.store import Cache, lock_for_writing
from framecache.cache.writer import ShardWriter, VideoBuffer
from framecache.extract.backbones import Backbone, load_backbone
from framecache.extract.batch import Batch, Batcher
from framecache.extract.config import ExtractConfig, ExtractReport
from framecache.extract.decoder import DecoderPool, Finished, Frames
from framecache.extract.engines import Engine, PassesAhead, make_engine
from framecache.extract.forward import Output
from framecache.extract.plan import Job, Plan, as_duplicate, make_plan
from framecache.extract.video import Clip, DecodeStats
from framecache.extract.waits import Waits

_END = object()
_MANY_SHARDS = 4  # so many small ones are merged at the end of a run


def extract(source: str | Source, config: ExtractConfig | None = None, progress: bool = False) -> ExtractReport:
    """Computes what is missing of a source's features.

    Args:
        source: A manifest, a folder of class folders, of videos or of images, or one video; or the URL of a manifest or
            a video.
        config: Settings; the defaults if None.
        progress: Whether to show a progress bar, on a terminal.

    Raises:
        InputError: The source or a setting is wrong; nothing was written.
        LockedError: Another process writes into one of the feature sets.
        OSError: The disk refused; what was sealed before stays.
        KeyboardInterrupt: As it came, after everything complete was sealed.
    """
    begin = time.perf_counter()
    config = config or ExtractConfig()
    videos = read_source(source, config.root)
    if config.cache.exists() and not config.cache.is_dir():
        raise InputError(f"--cache {str(config.cache)!r}: expected a folder, found a file; choose another name")
    backbone = load_backbone(config.backbone, config.weights, config.preprocessing)
    reductions = [parse_reduction(text) for text in config.reduce]
    outputs = [(tap, reduction) for tap in config.tap or (backbone.default_tap,) for reduction in reductions]
    outputs = list(dict.fromkeys(outputs))
    specs = _resolve_specs(backbone, outputs, config)
    cache = Cache(config.cache)
    report = ExtractReport([spec.name for spec in specs], len(videos))
    with ExitStack() as locks:
        for spec in sorted(specs, key=lambda spec: spec.name):
            locks.enter_context(lock_for_writing(cache.folder / spec.name))
            cache.create(spec)
        sets = [cache[spec.name] for spec in specs]
        plan = make_plan(videos, sets, config.retry_failed)
        run = _Run(plan.jobs, sets, config, report, begin)
        if plan.jobs:
            run.compute(backbone, outputs, progress)
            for found, copies in zip(plan.duplicates, run.copies, strict=True):
                found += copies
        duplicates = _settle(plan, [cache[spec.name] for spec in specs], report)
        _require_rows(videos, [cache[spec.name] for spec in specs])
        for features in sets:
            try:
                compact(features.folder, features.spec, int(config.shard_mb * 1e6), _MANY_SHARDS)
            except OSError as error:  # all features are stored; that older ones are hurt, or the disk full, is told
                report.not_merged[features.name] = str(error)
    # One word for each video, so that the counts add up to all of them.
    report.computed = len(run.stored - report.failed.keys())
    report.duplicates = len(duplicates - run.stored - report.failed.keys())
    report.cached = report.num_videos - report.computed - report.duplicates - len(report.failed)
    return report


def _resolve_specs(backbone: Backbone, outputs: Sequence[Output], config: ExtractConfig) -> list[Spec]:
    shapes = {tap: backbone.map_shape(tap) for tap, _ in outputs}
    weights = backbone.weights
    return [
        Spec(
            backbone=backbone.name,
            weights=weights,
            tap=tap,
            default_tap=tap == backbone.default_tap,
            preprocessing=backbone.preprocessing,
            sampling=str(parse_sampling(config.sample)),
            reduction=str(reduction),
            feature_shape=reduction.feature_shape(shapes[tap]),
            dtype=config.dtype,
            precision=config.precision,
        )
        for tap, reduction in outputs
    ]


def _settle(plan: Plan, sets: Sequence[FeatureSet], report: ExtractReport) -> set[str]:
    """Writes the ledger rows of videos that have no features of their own, once the others are sealed.

    Returns:
        The videos that are duplicates in some feature set.
    """
    duplicates: set[str] = set()
    for features, copies, failures in zip(sets, plan.duplicates, plan.failed, strict=True):
        known = features.ledger()
        rows = []
        for row in copies:
            if features.video_with_content(row.source_digest) is None:
                row = replace(row, status="failed", reason=f"{row.reason}, which failed")
                failures.append(row)
            else:
                duplicates.add(row.video_id)
                rows.append(row)
        rows += failures
        # A file that cannot be read for a moment does not hide the features that were computed from it.
        rows = [row for row in rows if row.source_digest or row.video_id not in features]
        news = [row for row in rows if known.get(row.video_id) != row]
        if news:
            append_journal(features.folder, features.last_shard, news)
        report.failed |= {row.video_id: row.reason for row in failures}
    return duplicates


def _require_rows(videos: Sequence[Video], sets: Sequence[FeatureSet]) -> None:
    """Nothing vanishes: in every feature set each video is ok, duplicate or failed with its reason."""
    for features in sets:
        ledger = features.ledger()
        lost = [
            video.video_id
            for video in videos
            if video.video_id not in features
            and (video.video_id not in ledger or ledger[video.video_id].status != "failed")
        ]
        if lost:
            raise FramecacheError(
                f"{features.name}: {len(lost)} of {len(videos)} videos ended as neither ok, duplicate nor failed "
                f"({', '.join(lost[:3])}); this is a fault of framecache, please report it"
            )


@dataclass
class _Work:
    """A video on its way through the CNN, with a buffer per feature set that lacks it."""

    job: Job
    buffers: dict[int, VideoBuffer]
    computed: int = 0
    finished: Finished | None = None

    def finish(self, event: Finished) -> None:
        """Takes the end of its decoding; what was transferred says what it was of."""
        self.finished = event
        if event.fetched is not None:
            digest = event.fetched.digest + self.job.video.segment
            self.job = replace(
                self.job, row=replace(self.job.row, source_digest=digest, source_stat=event.fetched.stat)
            )


class _Run:
    """One pass over the videos that lack features."""

    def __init__(
        self,
        jobs: Sequence[Job],
        sets: Sequence[FeatureSet],
        config: ExtractConfig,
        report: ExtractReport,
        begin: float,
    ) -> None:
        self._jobs = jobs
        self._sets = sets
        self._config = config
        self._report = report
        self._begin = begin
        self._waits = Waits()
        self._under_way: deque[tuple[Batch, Future[list[NDArray[Any]]]]] = deque()
        self._needed = sorted({index for job in jobs for index in job.missing})
        self._works: dict[int, _Work] = {}
        self._writers: dict[int, ShardWriter] = {}
        self.stored: set[str] = set()  # videos with new features in some feature set
        self.copies: list[list[LedgerRow]] = [[] for _ in sets]  # remote ones whose content another video has
        self._contents = [
            {job.row.source_digest: job.row.video_id for job in jobs if index in job.missing and job.row.source_digest}
            for index in range(len(sets))
        ]

    def compute(self, backbone: Backbone, outputs: Sequence[Output], progress: bool) -> None:
        """Decodes, computes and stores; an interrupt seals what is complete before it goes on its way."""
        config = self._config
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        sampling = parse_sampling(config.sample)
        clips = [
            Clip(
                job.video.path,
                sampling,
                backbone.geometry,
                job.video.start,
                job.video.end,
                config.keep_partial,
                config.limits,
            )
            for job in self._jobs
        ]
        with ExitStack() as stack:
            # Workers start decoding while the engine is still being built.
            decoder = stack.enter_context(DecoderPool(clips, config.workers or max(1, cores // 2)))
            wanted = [outputs[index] for index in self._needed]
            engine = make_engine(
                config.engine, backbone, wanted, config.batch_size, cores, config.dtype, config.precision
            )
            self._report.engine, self._report.engine_note = engine.name, engine.note
            passes = stack.enter_context(PassesAhead(engine))
            bar = stack.enter_context(tqdm(total=len(clips), unit="video", disable=None if progress else True))
            stack.callback(self._drop_unfinished)
            for index in self._needed:
                writer = ShardWriter(
                    self._sets[index].folder,
                    self._sets[index].spec,
                    _software(engine),
                    int(config.shard_mb * 1e6),
                    config.seal_seconds,
                )
                self._writers[index] = stack.enter_context(writer)
            begin = time.perf_counter()
            self._pump(decoder, passes, Batcher(engine.batch_size, backbone.geometry), bar)
            with self._waits.on("write"):
                for writer in self._writers.values():
                    writer.seal()
            self._tell_times(begin)

    def _pump(self, decoder: DecoderPool, passes: PassesAhead, batcher: Batcher, bar: Any) -> None:
        begin, events = time.perf_counter(), iter(decoder)
        while True:
            with self._waits.on("decode"):
                event = next(events, _END)
            if event is _END:
                break
            if isinstance(event, Frames):
                self._begin_clip(event.clip)
                for batch in batcher.add(event):
                    self._forward(passes, batch)
                    rate = self._report.num_frames / (time.perf_counter() - begin)
                    bar.set_postfix_str(f"{rate:.0f} frames/s, bound by {self._waits.bound}")
            elif isinstance(event, Finished):
                self._begin_clip(event.clip)
                self._works[event.clip].finish(event)
                with self._waits.on("write"):
                    self._settle_if_done(event.clip)
                bar.update()
            self._store_computed(passes.depth)
            with self._waits.on("write"):
                for writer in self._writers.values():
                    writer.seal_if_due()
        for batch in batcher.rest():
            self._forward(passes, batch)
        self._store_computed(0)

    def _tell_times(self, begin: float) -> None:
        report, waits = self._report, self._waits
        report.start_seconds = begin - self._begin
        report.seconds = time.perf_counter() - begin
        report.decode_wait_seconds = waits.seconds["decode"]
        report.cnn_wait_seconds = waits.seconds["CNN"]
        report.write_seconds = waits.seconds["write"]
        report.bound_by = waits.bound if report.num_frames else ""
        report.saved_seconds = report.seconds - report.write_seconds if report.num_frames else 0.0

    def _begin_clip(self, clip: int) -> None:
        if clip not in self._works:
            job = self._jobs[clip]
            self._works[clip] = _Work(job, {index: self._writers[index].open_video() for index in job.missing})

    def _forward(self, passes: PassesAhead, batch: Batch) -> None:
        """Sends a batch on its way, and stores those that were sent before and have come back."""
        self._under_way.append((batch, passes.submit(batch.frames)))
        self._store_computed(passes.depth - 1)

    def _store_computed(self, num_left: int) -> None:
        """Stores, in order, the batches that are computed; waits for some where more than ``num_left`` are not."""
        while self._under_way and (len(self._under_way) > num_left or self._under_way[0][1].done()):
            batch, computed = self._under_way.popleft()
            with self._waits.on("CNN"):
                features = computed.result()
            with self._waits.on("write"):
                self._store(batch, features)

    def _store(self, batch: Batch, computed: Sequence[NDArray[Any]]) -> None:
        """Each frame's features into the buffers of its video."""
        stored = {
            index: _cast(features, self._sets[index].spec.dtype)
            for index, features in zip(self._needed, computed, strict=True)
        }
        begin = 0
        for clip, timestamps_ms in batch.parts:
            end = begin + len(timestamps_ms)
            work = self._works.get(clip)
            if work is not None:  # else it has failed while its frames waited in the batch
                for index, buffer in work.buffers.items():
                    buffer.append(stored[index][begin:end], timestamps_ms)
                work.computed += end - begin
                self._settle_if_done(clip)
            begin = end
        self._report.num_frames += batch.num_frames

    def _settle_if_done(self, clip: int) -> None:
        """Hands a video over to the writers once its last frame is computed, or records why it failed."""
        work = self._works[clip]
        if work.finished is None:
            return
        stats, reason = work.finished.stats, work.finished.reason
        if reason is None and work.computed < stats.frames_kept:
            return
        if reason is None and _stat(work.job) != work.job.row.source_stat:
            reason = "the file changed while it was read; run the command again"
        for index, buffer in work.buffers.items():
            why = reason
            original = self._original(index, work.job) if why is None else None
            if original is not None:
                buffer.close()
                self.copies[index].append(as_duplicate(work.job.row, original))
                continue
            if why is None and not buffer.finite:
                why = f"a feature is not finite in {self._sets[index].spec.dtype}; try --dtype float32"
            if why is not None:
                buffer.close()
                self._record_failure(index, work, why)
                continue
            row = VideoRow(
                video_id=work.job.row.video_id,
                length=buffer.num_frames,
                digest=buffer.hexdigest(),
                source=work.job.row.source,
                source_digest=work.job.row.source_digest,
                source_stat=work.job.row.source_stat,
                frames_expected=stats.frames_expected,
                frames_decoded=stats.frames_decoded,
                warnings=tuple(stats.warnings),
            )
            self._report.num_bytes += buffer.num_bytes
            self._writers[index].add(buffer, row)
            self._contents[index].setdefault(row.source_digest, row.video_id)
            self.stored.add(row.video_id)
            if stats.warnings:
                self._report.warnings[row.video_id] = "; ".join(stats.warnings)
        del self._works[clip]

    def _record_failure(self, index: int, work: _Work, reason: str) -> None:
        stats = work.finished.stats if work.finished else DecodeStats()
        row = replace(
            work.job.row,
            status="failed",
            reason=reason,
            warnings=tuple(stats.warnings),
            frames_expected=stats.frames_expected,
            frames_decoded=stats.frames_decoded,
        )
        # A server that fails for a moment does not hide the features that were computed before.
        if row.source_digest or row.video_id not in self._sets[index]:
            append_journal(self._sets[index].folder, self._writers[index].last_shard, [row])
        self._report.failed[row.video_id] = reason

    def _original(self, index: int, job: Job) -> str | None:
        """The other video that has the content of this one, if it is remote; of files the plan has told already."""
        if not isinstance(job.video.path, Url):
            return None
        digest = job.row.source_digest
        original = self._contents[index].get(digest) or self._sets[index].video_with_content(digest)
        return original if original != job.row.video_id else None

    def _drop_unfinished(self) -> None:
        for work in self._works.values():
            for buffer in work.buffers.values():
                buffer.close()


def _stat(job: Job) -> str:
    if isinstance(job.video.path, Url):
        return job.row.source_stat  # of the very bytes that were decoded
    try:
        return stat_source(job.video.path)
    except OSError:
        return ""


def _cast(features: NDArray[Any], dtype: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # an overflow becomes inf, which fails its video with a reason
        return features.astype(dtype, copy=False)


def _software(engine: Engine) -> dict[str, str]:
    """Versions of what computes, for the record in each shard."""
    packages = ("framecache", "tensorflow", "keras", "ai-edge-litert", "av", "numpy")
    return {"engine": engine.name, **{package: importlib.metadata.version(package) for package in packages}}
