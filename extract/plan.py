"""What is missing: the (feature set, video) pairs that a run has to compute, and those it need not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from framecache.cache.fingerprint import digest_source, stat_source
from framecache.cache.ledger import LedgerRow
from framecache.cache.manifest import Video, printable
from framecache.cache.reader import FeatureSet
from framecache.cache.sources import Url

_ASKED_AT_ONCE = 16  # servers take long to answer and little to ask


@dataclass(frozen=True)
class Job:
    """A video whose features are missing from some feature sets.

    Attributes:
        video: What to decode.
        row: Its ledger row so far: name, source, digest and signature. A remote video has no digest before it is
            transferred.
        missing: Indices of the feature sets that lack it.
    """

    video: Video
    row: LedgerRow
    missing: tuple[int, ...]


@dataclass
class Plan:
    """The work of one run.

    Attributes:
        jobs: Videos to decode and compute.
        duplicates: Per feature set, rows of videos whose content it holds or will hold under another name.
        failed: Per feature set, rows of videos that failed before (and are not tried again) or cannot be read.
    """

    jobs: list[Job]
    duplicates: list[list[LedgerRow]]
    failed: list[list[LedgerRow]]


@dataclass
class _Known:
    """What one feature set knows, and what this run will add to it."""

    features: FeatureSet
    rows: dict[str, LedgerRow]
    planned: dict[str, str] = field(default_factory=dict)  # source_digest → video_id


def make_plan(videos: Sequence[Video], sets: Sequence[FeatureSet], retry_failed: bool) -> Plan:
    """Compares videos with what the feature sets hold, by content and not by name.

    A file is read only where its signature (size, times, inode) differs from the one in the ledger. A remote video is
    not: it is transferred when its turn to be decoded comes, once for its digest and its frames.

    Args:
        videos: What should be there.
        sets: The feature sets of this run.
        retry_failed: Whether videos that failed with the same content are tried again.
    """
    known = [_Known(features, features.ledger()) for features in sets]
    plan = Plan([], [[] for _ in sets], [[] for _ in sets])
    stats = _ask_servers(videos)
    for video in videos:
        row = _identify(video, known, stats)
        if row.status == "failed":
            for failed in plan.failed:
                failed.append(row)
            continue
        states = [_place(row, one, retry_failed) if row.source_digest else "missing" for one in known]
        for index, state in enumerate(states):
            if isinstance(state, LedgerRow):
                (plan.failed if state.status == "failed" else plan.duplicates)[index].append(state)
        missing = tuple(index for index, state in enumerate(states) if state == "missing")
        if missing:
            plan.jobs.append(Job(video, row, missing))
    return plan


def _ask_servers(videos: Sequence[Video]) -> dict[Url, str | OSError]:
    """The signatures of all remote videos, or why one cannot be had."""

    def ask(url: Url) -> str | OSError:
        try:
            return stat_source(url)
        except OSError as error:
            return error

    urls = list(dict.fromkeys(video.path for video in videos if isinstance(video.path, Url)))
    if not urls:
        return {}
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as threads:
        return dict(zip(urls, threads.map(ask, urls), strict=True))


def _identify(video: Video, known: Sequence[_Known], stats: Mapping[Url, str | OSError]) -> LedgerRow:
    """The video's ledger row with its digest and signature; ``failed`` when the file cannot be read."""
    source = printable(str(video.path))
    try:
        stat = stats[video.path] if isinstance(video.path, Url) else stat_source(video.path)
        if isinstance(stat, OSError):
            raise stat
        digest, is_known = "", False
        for one in known:
            before = one.rows.get(video.video_id)
            is_known |= before is not None
            if before is not None and stat and before.source_stat == stat:
                digest = digest or before.source_digest.partition("#")[0]
        # Of a remote video whose server tells no versions apart, only the content says whether it is the same.
        if not digest and (not isinstance(video.path, Url) or (is_known and not stat)):
            digest = digest_source(video.path)
        digest += video.segment if digest else ""
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        return LedgerRow(video.video_id, source, "failed", reason=reason)
    return LedgerRow(video.video_id, source, "ok", source_digest=digest, source_stat=stat)


def _place(row: LedgerRow, known: _Known, retry_failed: bool) -> str | LedgerRow:
    """``cached``, ``missing``, or the row that says ``duplicate`` or ``failed``."""
    before = known.rows.get(row.video_id)
    if before is not None and before.source_digest == row.source_digest:
        if before.status == "failed" and not retry_failed:
            return before
        if before.status != "failed" and row.video_id in known.features:
            return "cached"
    original = known.features.video_with_content(row.source_digest) or known.planned.get(row.source_digest)
    if original is None or original == row.video_id:  # its own older content, back again, is computed anew
        known.planned[row.source_digest] = row.video_id
        return "missing"
    return as_duplicate(row, original)


def as_duplicate(row: LedgerRow, original: str) -> LedgerRow:
    """The row of a video whose content is stored under the name ``original``."""
    return replace(row, status="duplicate", reason=f"same content as {original}")
