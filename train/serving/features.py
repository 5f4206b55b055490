"""Features of new videos, as a run's own were made: decoded, sampled, through the same CNN, reduced and derived.

With :mod:`framecache.train.serving.exported` the part of training that knows extraction.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError, SpecMismatchError
from framecache.cache.exchange.import_config import IMPORTED
from framecache.cache.manifest import Video
from framecache.cache.reductions import parse_reduction
from framecache.cache.sampling import parse_sampling
from framecache.cache.spec import Spec, diff_specs
from framecache.extract.backbones import Backbone, load_backbone
from framecache.extract.batch import Batch, Batcher
from framecache.extract.decoder import DecoderPool, Finished, Frames
from framecache.extract.engines import Engine, PassesAhead, make_engine
from framecache.extract.forward import Output
from framecache.extract.networks import NO_NORMALISATION
from framecache.extract.video import Clip
from framecache.train.lineage import Lineage
from framecache.train.serving.config import CnnConfig

_TOGETHER = 64  # videos at a time, where several CNNs see them


@dataclass(frozen=True, eq=False)
class Live:
    """Features of a video that was decoded now.

    Attributes:
        features: ``(T, *feature_shape)``, as they are read from the run's feature set.
        timestamps_ms: Of its frames, ``(T,)``.
        warnings: What was odd.
    """

    features: NDArray[np.floating]
    timestamps_ms: NDArray[np.float64]
    warnings: tuple[str, ...] = ()


def serving_backbone(leaves: Sequence[Spec], backbone: str | None = None, weights: str | None = None) -> Backbone:
    """The CNN of extracted feature sets, to the bit.

    Args:
        leaves: The sets' specs; they differ in tap, reduction and dtype only.
        backbone: As ``--backbone`` of the extraction; by default the name in the spec.
        weights: As ``--weights`` of the extraction.

    Raises:
        InputError: It cannot be had.
        SpecMismatchError: It is another one; the message has the difference.
    """
    name = backbone or leaves[0].backbone
    if name.startswith(IMPORTED):
        raise InputError(
            f"{leaves[0].short_name}: its features were imported, and the CNN that made them is not known here; "
            "only videos whose features are in the cache can be scored"
        )
    own = name.endswith(".keras") or ":" in name
    normalisation = str(leaves[0].preprocessing.get("normalisation", NO_NORMALISATION))
    try:
        found = load_backbone(name, weights, normalisation if own and normalisation != NO_NORMALISATION else None)
        for leaf in leaves:
            _require_same(leaf, found, name)
    except SpecMismatchError:
        raise
    except InputError as error:
        hint = "" if backbone else "; a CNN of one's own is named with --backbone FILE.keras or module:callable"
        raise InputError(f"{error} (the run's features are of {leaves[0].backbone}{hint})") from error
    return found


def _require_same(spec: Spec, found: Backbone, name: str) -> None:
    now = replace(
        spec,
        backbone=found.name,
        weights=found.weights,
        default_tap=spec.tap == found.default_tap,
        preprocessing=found.preprocessing,
    )
    changes = diff_specs(spec.to_dict(), now.to_dict())
    if not changes:  # a layer of that name is known to be there only now
        shape = parse_reduction(spec.reduction).feature_shape(found.map_shape(spec.tap))
        changes = diff_specs(spec.to_dict(), replace(spec, feature_shape=shape).to_dict())
    if changes:
        raise SpecMismatchError(
            f"--backbone {name}: the run's features were made under another spec than this CNN's "
            f"({'; '.join(changes)}); name the CNN that they were extracted with by --backbone, and its weights by "
            "--weights"
        )


@dataclass(eq=False)
class _Pass:
    """One CNN, and all that is taken from it in one pass.

    Attributes:
        backbone: The CNN.
        sampling: Which frames it sees.
        leaves: The extracted sets whose features come out of it.
    """

    backbone: Backbone
    sampling: str
    leaves: list[Spec]
    config: CnnConfig
    engine: Engine | None = None

    def make_engine(self) -> Engine:
        """The engine, built once."""
        if self.engine is None:
            outputs: list[Output] = [(leaf.tap, parse_reduction(leaf.reduction)) for leaf in self.leaves]
            dtypes, precision = {leaf.dtype for leaf in self.leaves}, self.leaves[0].precision
            dtype = dtypes.pop() if len(dtypes) == 1 else "float32"
            name, size = self.config.engine, self.config.batch_size
            self.engine = make_engine(name, self.backbone, outputs, size, _num_cores(), dtype, precision)
        return self.engine


class LiveFeatures:
    """Computes a run's features of new videos, in one pass of each CNN over their frames.

    Args:
        lineage: How the features come from what the CNN gives.
        config: What runs the CNN.
        sample: Which of the frames of the run's feature set are wanted, as ``num=32``, if it has all; None for all of
            them.

    Raises:
        InputError: A CNN cannot be had, or is another one than that of the features.
    """

    def __init__(self, lineage: Lineage, config: CnnConfig, sample: str | None = None) -> None:
        self.lineage = lineage
        self._config = config
        by_cnn: dict[tuple[Any, ...], list[Spec]] = {}
        for leaf, wanted in lineage.leaves(sample or "all"):
            key = (leaf.backbone, leaf.weights, repr(leaf.preprocessing), leaf.precision, wanted)
            leaves = by_cnn.setdefault(key, [])
            leaves += [] if leaf in leaves else [leaf]
        self._passes = []
        for (*_, wanted), leaves in by_cnn.items():
            backbone = serving_backbone(leaves, config.backbone, config.weights)
            self._passes.append(_Pass(backbone, wanted, leaves, config))

    @property
    def engine(self) -> str:
        """What ran the CNN; empty before it ran."""
        return ", ".join(dict.fromkeys(one.engine.name for one in self._passes if one.engine is not None))

    def compute(self, videos: Sequence[Video]) -> Iterator[tuple[int, Live | str]]:
        """Number and features of each video as they come; or why it has none."""
        if len(self._passes) == 1:
            yield from self._run(self._passes[0], videos, whole=True)
            return
        for begin in range(0, len(videos), _TOGETHER):
            some = videos[begin : begin + _TOGETHER]
            seen = [dict(self._run(one, some, whole=False)) for one in self._passes]
            for number in range(len(some)):
                yield begin + number, self._joined([found[number] for found in seen])

    def _joined(self, parts: Sequence[Live | str]) -> Live | str:
        """Features of one video that several CNNs have seen."""
        reasons = [part for part in parts if isinstance(part, str)]
        if reasons:
            return reasons[0]
        lives = [part for part in parts if isinstance(part, Live)]
        times = lives[0].timestamps_ms
        if not all(np.array_equal(live.timestamps_ms, times) for live in lives):
            return "the frames that its features are of differ from one parent set to the other"
        computed: dict[str, NDArray[np.floating]] = {}
        for one, live in zip(self._passes, lives, strict=True):
            # One after the other in a row each, flattened: as _Video put them.
            ends = np.cumsum([int(np.prod(leaf.feature_shape)) for leaf in one.leaves])
            for leaf, values in zip(one.leaves, np.split(live.features, ends[:-1], axis=1), strict=True):
                computed[leaf.fingerprint] = values.reshape(-1, *leaf.feature_shape)
        try:
            features = self.lineage.features(computed)
        except ValueError as error:
            return str(error)
        return Live(features, times, tuple(warning for live in lives for warning in live.warnings))

    def _run(self, one: _Pass, videos: Sequence[Video], whole: bool) -> Iterator[tuple[int, Live | str]]:
        """As :meth:`compute`; unless ``whole``, features are what the CNN gave, flattened, one leaf after the other."""
        sampling, geometry = parse_sampling(one.sampling), one.backbone.geometry
        clips = [Clip(video.path, sampling, geometry, video.start, video.end) for video in videos]
        works = [_Video(one.leaves, self.lineage if whole else None) for _ in videos]
        under_way: deque[tuple[Batch, Future[list[NDArray[Any]]]]] = deque()
        if not clips:
            return
        with ExitStack() as stack:
            # Workers start decoding while the engine is still being built.
            decoder = stack.enter_context(DecoderPool(clips, self._config.workers or max(1, _num_cores() // 2)))
            engine = one.make_engine()
            passes = stack.enter_context(PassesAhead(engine))
            batcher = Batcher(engine.batch_size, geometry)

            def computed(num_left: int) -> Iterator[int]:
                """Numbers of the videos in the batches that have come back; waits for all but so many."""
                while under_way and (len(under_way) > num_left or under_way[0][1].done()):
                    batch, result = under_way.popleft()
                    begin, features = 0, result.result()
                    for clip, times in batch.parts:
                        works[clip].add([rows[begin : begin + len(times)] for rows in features], times)
                        begin += len(times)
                        yield clip

            def told(clips: Iterator[int]) -> Iterator[tuple[int, Live | str]]:
                for clip in clips:
                    outcome = works[clip].outcome()
                    if outcome is not None:
                        works[clip] = _Video([], None)  # its features are the caller's now
                        yield clip, outcome

            for event in decoder:
                if isinstance(event, Frames):
                    for batch in batcher.add(event):
                        under_way.append((batch, passes.submit(batch.frames)))
                        yield from told(computed(passes.depth - 1))
                elif isinstance(event, Finished):
                    works[event.clip].finished = event
                    yield from told(iter([event.clip]))
                yield from told(computed(passes.depth))
            for batch in batcher.rest():
                under_way.append((batch, passes.submit(batch.frames)))
            yield from told(computed(0))


@dataclass(eq=False)
class _Video:
    """A video on its way through the CNN."""

    leaves: Sequence[Spec]
    lineage: Lineage | None
    finished: Finished | None = None
    _rows: list[NDArray[np.floating]] = field(default_factory=list)
    _times: list[NDArray[np.float64]] = field(default_factory=list)
    _num_frames: int = 0
    _reason: str | None = None

    def add(self, computed: Sequence[NDArray[np.floating]], timestamps_ms: NDArray[np.float64]) -> None:
        """Takes what the CNN gave for some frames, per leaf."""
        self._num_frames += len(timestamps_ms)
        if not self.leaves or self._reason is not None:
            return
        by_leaf: Mapping[str, NDArray[np.floating]] = {
            leaf.fingerprint: rows for leaf, rows in zip(self.leaves, computed, strict=True)
        }
        try:
            if self.lineage is not None:
                rows = self.lineage.features(by_leaf)
            else:
                rows = np.concatenate([rows.reshape(len(rows), -1) for rows in by_leaf.values()], axis=1)
        except ValueError as error:
            self._reason = str(error)
            return
        self._rows.append(np.array(rows))  # not a view that keeps the whole batch
        self._times.append(timestamps_ms)

    def outcome(self) -> Live | str | None:
        """Features of all its frames, or why there are none; None while some are still to come."""
        if self.finished is None or not self.leaves:
            return None
        reason = self.finished.reason or self._reason
        if reason is not None:
            return reason
        if self._num_frames < self.finished.stats.frames_kept:
            return None
        return Live(np.concatenate(self._rows), np.concatenate(self._times), tuple(self.finished.stats.warnings))


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
