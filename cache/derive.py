"""derive: new feature sets from cached ones, without the CNN and without decoding."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from framecache.cache.compact import compact
from framecache.cache.derivation import Derivation, Step, fitted_digest, read_derivation, step_shape
from framecache.cache.derive_config import DeriveConfig, DeriveReport
from framecache.cache.errors import InputError, ShardError
from framecache.cache.fitting import (
    TrainSplit,
    fit_derivation,
    inherited_videos,
    needs_fitting,
    read_train_split,
)
from framecache.cache.ledger import LedgerRow, append_journal
from framecache.cache.parents import Parents, Progress
from framecache.cache.projection import Projection, read_projection
from framecache.cache.reader import FeatureSet
from framecache.cache.reductions import parse_reduction
from framecache.cache.shard import VideoRow
from framecache.cache.spec import Spec
from framecache.cache.store import SPEC_FILE, Cache, lock_for_writing, open_cache, read_spec
from framecache.cache.writer import ShardWriter

_YOUTUBE_CLIP = 2.0  # whitened components are clipped to this range before 8 bits, as YouTube-8M does
_MANY_SHARDS = 4


def derive(name: str, config: DeriveConfig, progress: Progress | None = None) -> DeriveReport:
    """Computes what is missing of a derived feature set.

    The same derivation again, after videos were added to the parent, adds them with the arrays that were fitted
    before.

    Args:
        name: The parent: its name, with or without fingerprint, or a prefix.
        config: The steps.
        progress: Called with the frames done and the frames in all, of each pass.

    Raises:
        InputError: The steps do not fit the parent or each other, or there is nothing to fit on; nothing was written.
        ShardError: A parent's features are hurt; no feature set was begun.
        LockedError: Another process writes into the derived set.
        OSError: The disk refused; what was sealed before stays.
    """
    store = open_cache(config.cache)
    sets = [store[parent] for parent in (name, *config.concat)]
    if config.dtype is None:
        dtype: Any = "float16" if sets[0].spec.dtype == "uint8" else sets[0].spec.dtype
        config = replace(config, dtype=dtype)
    parents = Parents(sets, config.sample)
    projection = read_projection(config.dense, sets[0]) if config.dense is not None else None
    steps = _plan_steps(config, projection)
    spec = _plan_spec(parents, steps, config)
    split = read_train_split(parents, config.manifest, config.root) if config.manifest is not None else None
    inherited = inherited_videos(parents)
    if split is not None:
        split.refuse_held_out(inherited, " and ".join(features.name for features in sets))
    if projection is not None:
        if split is not None:
            split.refuse_held_out(projection.fitted_on, f"--dense {config.dense}")
        inherited = (*inherited, *projection.fitted_on)
    derivation = _find_derivation(store, spec, split, inherited)
    derivation = derivation or fit_derivation(parents, steps, split, projection, inherited, progress)
    lineage = {"arrays": derivation.digest(), "fitted_on": fitted_digest(derivation.fitted_on)}
    spec = replace(spec, lineage={**(spec.lineage or {}), **lineage})
    report = DeriveReport(spec.name, fitted_videos=len(derivation.fitted_on))
    explained = [array for key, array in derivation.arrays.items() if key.endswith(".explained")]
    report.explained_variance = float(explained[0].sum()) if explained else None
    folder = store.folder / spec.name
    with lock_for_writing(folder):
        is_new = not (folder / SPEC_FILE).exists()
        store.create(spec, derivation.to_bytes())
        try:
            _compute(parents, derivation, folder, spec, config, report, progress)
        except ShardError:
            if is_new:
                shutil.rmtree(folder)
            raise
    return report


def _plan_steps(config: DeriveConfig, projection: Projection | None) -> list[Step]:
    steps: list[Step] = []
    if config.reduce is not None:
        pool = parse_reduction(config.reduce)
        if pool.dim or pool.pool == "grid":
            raise InputError(f"--reduce {config.reduce}: expected gap, gmp, gap+gmp or gem; --random N projects")
        steps.append({"op": "reduce", "reduction": str(pool)})
    if config.pca:
        steps.append({"op": "pca", "dim": config.pca, "whiten": config.whiten})
    if config.random:
        steps.append({"op": "random", "dim": config.random, "seed": config.seed})
    if projection is not None:
        units = len(projection.arrays["bias"])
        steps.append({"op": "dense", "units": units, "activation": "relu", "projection": projection.digest()})
    if config.l2:
        steps.append({"op": "l2"})
    if config.dtype == "uint8":
        # Whitened components have one scale, and YouTube-8M's clip; all else is fitted per dimension.
        whitened = config.whiten and not config.l2
        steps.append({"op": "uint8", "clip": _YOUTUBE_CLIP if whitened else None})
    return steps


def _plan_spec(parents: Parents, steps: Sequence[Step], config: DeriveConfig) -> Spec:
    """The derived set's spec, but for what its lineage says of arrays."""
    first = parents.sets[0].spec
    if not steps and len(parents.sets) == 1 and (parents.sampling, config.dtype) == (first.sampling, first.dtype):
        raise InputError("derive: expected at least one step, such as --pca 256 or --dtype uint8; see --help")
    shape = parents.feature_shape
    for step in steps:
        shape = step_shape(step, shape)
    reduction = "+".join(features.spec.reduction for features in parents.sets)
    if config.reduce is not None and reduction == "grid":
        reduction = ""  # as if the pooling had been extracted
    return replace(
        first,
        sampling=parents.sampling,
        reduction=".".join(filter(None, [reduction, *map(_step_name, steps)])),
        feature_shape=shape,
        dtype=str(config.dtype),
        lineage={"parents": parents.fingerprints, "steps": [dict(step) for step in steps]},
    )


def _step_name(step: Step) -> str:
    """A step in the name of the derived set; empty for ``uint8``, which the dtype tells."""
    if step["op"] == "reduce":
        return str(step["reduction"])
    if step["op"] == "pca":
        return f"pca={step['dim']}{',white' if step['whiten'] else ''}"
    if step["op"] == "random":
        seed = f",seed={step['seed']}" if step["seed"] else ""
        return f"random={step['dim']}{seed}"
    return {"dense": f"dense={step.get('units')}", "l2": "l2"}.get(step["op"], "")


def _find_derivation(store: Cache, spec: Spec, split: TrainSplit | None, inherited: Sequence[str]) -> Derivation | None:
    """The arrays of the same derivation made before, unless they saw videos that the manifest does not train on.

    Raises:
        InputError: Several were made before, and no manifest says which is meant.
        ShardError: Its arrays are damaged.
    """
    planned = spec.lineage or {}
    if not needs_fitting(planned["steps"]):
        return None
    found: dict[str, Derivation] = {}
    for name in store.names():
        with suppress(InputError):  # another set's damaged spec is none of our business
            other = read_spec(store.folder / name)
            kept = {key: value for key, value in (other.lineage or {}).items() if key in planned}
            if replace(other, lineage=kept) == spec:
                found[name] = read_derivation(store.folder / name, other.lineage or {})
    if split is None:
        if len(found) > 1:
            raise InputError(f"--manifest: expected one, since {', '.join(found)} were fitted on different videos")
        return next(iter(found.values()), None)
    trained = {*split.video_ids, *inherited}
    fitting = [derivation for derivation in found.values() if set(derivation.fitted_on) <= trained]
    return max(fitting, key=lambda derivation: len(derivation.fitted_on), default=None)


def _compute(
    parents: Parents,
    derivation: Derivation,
    folder: Path,
    spec: Spec,
    config: DeriveConfig,
    report: DeriveReport,
    progress: Progress | None,
) -> None:
    """Derives the parent's videos that are missing, and takes over its other ledger rows."""
    ledger, known = parents.ledgers[0], FeatureSet(folder, spec).ledger()
    report.num_videos = len(ledger)
    todo, rest = _plan_rows(parents, known, spec, report)
    total = sum(parents.length(row.video_id) for row in todo)
    with ShardWriter(folder, spec, {"engine": "derive"}, int(config.shard_mb * 1e6), config.seal_seconds) as writer:
        for row in todo:
            with closing(writer.open_video()) as buffer:
                finite, times = True, parents.timestamps_ms(row.video_id)
                for rows in parents.blocks(row.video_id):
                    applied = derivation.apply(rows)
                    stored = derivation.store(applied, spec.dtype)
                    finite = finite and bool(np.isfinite(applied).all())  # 8 bits would hide it
                    buffer.append(stored, times[buffer.num_frames : buffer.num_frames + len(stored)])
                    report.num_frames += len(stored)
                    if progress is not None:
                        progress(report.num_frames, total)
                if not finite or not buffer.finite:
                    rest.append(_failed(row, _not_finite(spec)))
                    continue
                writer.add(buffer, _stored_row(row, buffer.num_frames, buffer.hexdigest()))
                report.derived += 1
            writer.seal_if_due()
    rest = _without_lost_copies(rest, FeatureSet(folder, spec))
    news = [row for row in rest if known.get(row.video_id) != row]
    if news:
        append_journal(folder, writer.last_shard, news)
    report.failed = {row.video_id: row.reason for row in rest if row.status == "failed"}
    report.cached += sum(row.status == "duplicate" for row in rest)
    compact(folder, spec, int(config.shard_mb * 1e6), _MANY_SHARDS)


def _plan_rows(
    parents: Parents, known: Mapping[str, LedgerRow], spec: Spec, report: DeriveReport
) -> tuple[list[LedgerRow], list[LedgerRow]]:
    """The parent's rows to compute, and those that get no features of their own; counts the rest as cached."""
    todo: list[LedgerRow] = []
    rest: list[LedgerRow] = []
    contents = {row.source_digest for row in parents.ledgers[0].values() if row.status == "ok"}
    for row in parents.ledgers[0].values():
        if row.status == "duplicate" and row.source_digest not in contents and row.video_id in parents.sets[0]:
            contents.add(row.source_digest)  # what it is a copy of has changed since; its features go by its own name
            row = replace(row, status="ok", reason="")
        if row.status != "ok":
            rest.append(row)
            continue
        before, reason = known.get(row.video_id), parents.why_not(row.video_id)
        same = before is not None and before.source_digest == row.source_digest
        if reason is not None:
            rest.append(_failed(row, reason))
        elif before is not None and same and before.status == "ok":
            report.cached += 1
        elif before is not None and same and before.reason == _not_finite(spec):
            rest.append(before)
        else:
            todo.append(row)
    return todo, rest


def _without_lost_copies(rows: Sequence[LedgerRow], derived: FeatureSet) -> list[LedgerRow]:
    """Duplicates of what could not be derived have failed too."""
    return [
        _failed(row, f"{row.reason}, which failed")
        if row.status == "duplicate" and derived.video_with_content(row.source_digest) is None
        else row
        for row in rows
    ]


def _failed(row: LedgerRow, reason: str) -> LedgerRow:
    return replace(row, status="failed", reason=reason, frames_stored=0, feature_digest="")


def _not_finite(spec: Spec) -> str:
    return f"a derived feature is not finite in {spec.dtype}; try --dtype float32"


def _stored_row(row: LedgerRow, length: int, digest: str) -> VideoRow:
    return VideoRow(
        video_id=row.video_id,
        length=length,
        digest=digest,
        source=row.source,
        source_digest=row.source_digest,
        source_stat=row.source_stat,
        frames_expected=row.frames_expected,
        frames_decoded=row.frames_decoded,
        warnings=row.warnings,
    )
