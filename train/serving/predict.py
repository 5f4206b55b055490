"""Predicting: a trained run's scores of videos, from the cache where it has them, else from their files."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from framecache.cache.errors import FramecacheError, InputError, ShardError
from framecache.cache.fingerprint import digest_source
from framecache.cache.folders import scan_folder
from framecache.cache.manifest import MANIFEST_SUFFIXES, Video, printable, read_manifest
from framecache.cache.reader import FeatureSet
from framecache.cache.sources import Url, as_source, require_library
from framecache.cache.spec import folder_name
from framecache.cache.store import Cache
from framecache.train.lineage import read_lineage
from framecache.train.runs import open_run
from framecache.train.serving.answers import COLUMNS, Answer, Question, frame_ends
from framecache.train.serving.config import PredictConfig
from framecache.train.serving.features import Live, LiveFeatures
from framecache.train.serving.scorer import Scorer

STDIN = "-"
_SCORED_TOGETHER = 16  # videos
_SLACK = 1e-6  # seconds; a frame on the border is the next stretch's


def find_videos(sources: Sequence[str], listed: Iterable[bytes] = (), root: Path | None = None) -> list[Video]:
    """The videos that are meant; a file that is not there is one too, of which predicting will say so.

    Args:
        sources: Videos, folders, manifests, URLs of videos or manifests, and ``-`` for what is listed.
        listed: A path per line, as on standard input.
        root: Folder that a manifest's paths start from; by default the manifest's own.

    Raises:
        InputError: There are none, or a manifest is malformed.
    """
    found: list[Video] = []
    for source in sources:
        if source == STDIN:
            for line in listed:
                path = os.fsdecode(line.rstrip(b"\r\n"))
                found += _videos_of(path, root) if path else []
        else:
            found += _videos_of(source, root)
    if not found:
        raise InputError("predict: expected videos, folders, manifests, or - for a list of paths on standard input")
    return found


def _videos_of(source: str, root: Path | None) -> list[Video]:
    path = as_source(source)
    if isinstance(path, Url):
        require_library(path)
    elif path.is_dir():
        return scan_folder(path)
    if path.suffix.lower() in MANIFEST_SUFFIXES:
        return read_manifest(path, root)
    return [Video(printable(str(path)), path if isinstance(path, Url) else path.absolute())]


@dataclass(frozen=True, eq=False)
class _Plan:
    """Where each video's features come from.

    Attributes:
        videos: All of them; the others count by their numbers among these.
        features: The run's feature set in the cache; None if it has none.
        cached: Videos whose content is in it, and under which name.
        todo: Videos to decode.
        failed: Videos that cannot be read, and why.
    """

    videos: Sequence[Video]
    features: FeatureSet | None
    cached: dict[int, str]
    todo: list[int]
    failed: dict[int, str]


class Predictor:
    """Scores videos with a trained run.

    Attributes:
        question: How its logits are told.
        warnings: What was odd about the cache.
        engine: What ran the CNN; empty if it did not run.

    Args:
        run: The run's folder.
        config: Settings.

    Raises:
        InputError: The folder holds no run that can be used, or settings do not fit it.
        ShardError: Arrays of its features' lineage are damaged.
    """

    def __init__(self, run: Path, config: PredictConfig) -> None:
        opened = open_run(run)
        self._scorer = Scorer(opened)
        self._lineage = read_lineage(opened, config.cache)
        self._config = config
        self.question = Question(self._scorer.task, self._scorer.classes, config.top_k, config.threshold)
        self.warnings: list[str] = []
        self.engine = ""
        if self._scorer.per_frame and config.windows:
            raise InputError(f"--windows {config.windows:g}: {run} has scores for each frame; leave it out")
        if config.timeline is not None and not (self._scorer.per_frame or config.windows):
            raise InputError("--timeline: expected --windows SECONDS with it, the stretches that are scored over time")

    def predict(self, videos: Sequence[Video]) -> Iterator[Answer]:
        """What the run says of each video, in their order.

        Raises:
            InputError: The CNN cannot be had, or is another one than that of the run's features.
        """
        plan = self._plan(videos)
        live = LiveFeatures(self._lineage, self._config, self._sample()) if plan.todo else None
        return self._in_order(plan, live)

    def _plan(self, videos: Sequence[Video]) -> _Plan:
        plan = _Plan(videos, self._cached_set(), {}, [], {})
        for number, video in enumerate(videos):
            if isinstance(video.path, Url):  # its content is not known before it is transferred
                plan.todo.append(number)
                continue
            try:
                found = plan.features and plan.features.video_with_content(digest_source(video.path) + video.segment)
                if found and plan.features and plan.features.is_intact(found):
                    plan.cached[number] = found
                    continue
            except ShardError as error:
                self.warnings.append(str(error))
            except OSError as error:
                plan.failed[number] = f"cannot be read: {error.strerror or error}"
                continue
            plan.todo.append(number)
        return plan

    def _cached_set(self) -> FeatureSet | None:
        spec, folder = self._lineage.spec, self._config.cache
        if not folder.is_dir() or spec.name not in Cache(folder).names():
            return None
        try:
            found = Cache(folder)[spec.name]
        except FramecacheError as error:  # predicting can do without
            self.warnings.append(f"the cache was not used: {error}")
            return None
        return found if found.spec == spec else None

    def _sample(self) -> str | None:
        """The frames that the run's sequences are made of, where the decoder can pick these and no others."""
        clips = self._scorer.clips
        thinned = clips.max_len and clips.clip == "spread" and not clips.jitter and not self._config.windows
        return f"num={clips.max_len}" if thinned and self._lineage.spec.sampling == "all" else None

    def _in_order(self, plan: _Plan, live: LiveFeatures | None) -> Iterator[Answer]:
        held: dict[int, Answer] = {}
        due = 0
        for number, answer in self._answers(plan, live):
            held[number] = answer
            while due in held:
                yield held.pop(due)
                due += 1

    def _answers(self, plan: _Plan, live: LiveFeatures | None) -> Iterator[tuple[int, Answer]]:
        """Numbers and answers, as they come."""
        for number, reason in plan.failed.items():
            yield number, _failed(plan.videos[number], reason)
        waiting: dict[int, Live] = {}
        for number, found in self._features(plan, live):
            if isinstance(found, str):
                yield number, _failed(plan.videos[number], found)
                continue
            waiting[number] = found
            # What came through the CNN waited long enough.
            if len(waiting) == _SCORED_TOGETHER or number not in plan.cached:
                yield from self._scored(plan, waiting)
                waiting = {}
        yield from self._scored(plan, waiting)

    def _features(self, plan: _Plan, live: LiveFeatures | None) -> Iterator[tuple[int, Live | str]]:
        for number, video_id in plan.cached.items():
            if plan.features is not None:
                yield number, Live(plan.features[video_id], np.array(plan.features.timestamps_ms(video_id)))
        if live is not None:
            for place, found in live.compute([plan.videos[number] for number in plan.todo]):
                self.engine = live.engine
                yield plan.todo[place], found

    def _scored(self, plan: _Plan, videos: Mapping[int, Live]) -> Iterator[tuple[int, Answer]]:
        windows = {number: self._windows(found.timestamps_ms) for number, found in videos.items()}
        parts = [
            found.features[part]
            for number, found in videos.items()
            for part in (slice(None), *(window.frames for window in windows[number]))
        ]
        logits = iter(self._scorer.logits(parts))
        for number, found in videos.items():
            video, whole = plan.videos[number], next(logits)
            answer = Answer(
                video.video_id,
                printable(str(video.path)),
                is_cached=number in plan.cached,
                num_frames=len(found.features),
                logits=whole,
                timestamps_ms=found.timestamps_ms,
                windows=[(window.start, window.end, next(logits)) for window in windows[number]],
                warnings=found.warnings,
            )
            yield number, answer

    def _windows(self, timestamps_ms: NDArray[np.float64]) -> list[_Window]:
        """Stretches of :attr:`PredictConfig.windows` seconds all along a video; those without a frame are left out."""
        length, step = self._config.windows, self._config.step or self._config.windows
        if not length:
            return []
        times, end = timestamps_ms / 1000, float(frame_ends(timestamps_ms)[-1] / 1000)
        count = max(1, math.ceil((end - float(times[0])) / step - 1e-6))
        starts = float(times[0]) + step * np.arange(count)
        found = []
        for start in starts.tolist():
            first, last = np.searchsorted(times, [start - _SLACK, start + length - _SLACK]).tolist()
            if first < last:
                found.append(_Window(start, min(start + length, end), slice(first, last)))
        return found


class _Window(NamedTuple):
    start: float
    end: float
    frames: slice


def draw_timelines(folder: Path, question: Question, answers: Iterable[Answer]) -> Iterator[Answer]:
    """The same answers, after a PNG of each one's scores over time was drawn; of no two under one name."""
    from framecache.train.serving.timeline import plot_timeline

    folder.mkdir(parents=True, exist_ok=True)
    drawn: Counter[str] = Counter()
    for answer in answers:
        if answer.logits is not None and answer.timestamps_ms is not None:
            name = folder_name(answer.video_id)
            drawn[name] += 1
            path = folder / (f"{name}.png" if drawn[name] == 1 else f"{name}-{drawn[name]}.png")
            if answer.windows:
                edges = np.array([(start, end) for start, end, _ in answer.windows])
                logits = np.stack([logits for *_, logits in answer.windows])
            else:
                times = answer.timestamps_ms
                edges, logits = np.stack([times, frame_ends(times)], axis=1) / 1000, answer.logits
            plot_timeline(path, edges, question.scores(logits), question.classes, answer.video_id)
        yield answer


def print_answers(run: Path, videos: Sequence[Video], config: PredictConfig, as_json: bool) -> int:
    """Prints what a run says of videos as it comes, and the counts on standard error; gives how many failed.

    Raises:
        InputError: As of :class:`Predictor`; nothing was printed.
    """
    begin = time.perf_counter()
    predictor = Predictor(run, config)
    answers, question = predictor.predict(videos), predictor.question
    if config.timeline is not None:
        answers = draw_timelines(config.timeline, question, answers)
    counts: Counter[str] = Counter()
    first, writer = 0.0, csv.writer(sys.stdout, lineterminator="\n")
    if not as_json:
        writer.writerow(COLUMNS)
    for answer in tqdm(answers, total=len(videos), unit="video", disable=None):
        first = first or time.perf_counter()
        counts["failed" if answer.reason else "cached" if answer.is_cached else "computed"] += 1
        if as_json:
            print(json.dumps(answer.to_json(question), ensure_ascii=False), flush=True)
        else:
            writer.writerows(answer.rows(question))
            sys.stdout.flush()
    for warning in predictor.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    seconds = time.perf_counter() - first
    print(
        f"{len(videos)} videos: {counts['computed']} computed{predictor.engine and f' ({predictor.engine})'}, "
        f"{counts['cached']} from the cache, {counts['failed']} failed; "
        f"{first - begin:.1f} s to the first, {seconds:.1f} s for the others",
        file=sys.stderr,
    )
    return counts["failed"]


def _failed(video: Video, reason: str) -> Answer:
    return Answer(video.video_id, printable(str(video.path)), reason)
