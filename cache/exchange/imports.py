"""import: features of other tools become a feature set like any other."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from framecache.cache.compact import compact
from framecache.cache.durable import PARTIAL_SUFFIX, publish
from framecache.cache.errors import InputError
from framecache.cache.exchange.array_folder import ArrayFolder
from framecache.cache.exchange.import_config import IMPORTED, ImportConfig
from framecache.cache.exchange.imported_video import Content, ImportedVideo, UnusableError
from framecache.cache.exchange.sequence_examples import SequenceExamples, tfrecord_files
from framecache.cache.fingerprint import canonical_json, digest_parts
from framecache.cache.ledger import LedgerRow, append_journal
from framecache.cache.manifest import read_manifest
from framecache.cache.reader import FeatureSet
from framecache.cache.shard import VideoRow
from framecache.cache.shown import Shown, plural
from framecache.cache.spec import Spec
from framecache.cache.store import Cache, lock_for_writing
from framecache.cache.writer import ShardWriter, VideoBuffer

_MANY_SHARDS = 4


class ImportSource(Protocol):
    """Where features come from: :class:`ArrayFolder` or :class:`SequenceExamples`."""

    feature_shape: tuple[int, ...]
    dtype: str
    keys: tuple[str, ...]
    unlisted: list[str]

    def __iter__(self) -> Iterator[ImportedVideo]:
        """Its videos."""

    def provenance(self) -> dict[str, Any]:
        """What the spec says of where the features come from."""


@dataclass(repr=False)
class ImportReport(Shown):
    """What an import did.

    Attributes:
        feature_set: Full name of the feature set.
        num_videos: Videos that were found, or that the manifest lists.
        imported: Videos that were added now.
        cached: Videos that were there.
        duplicates: Videos whose content is there under another name.
        failed: Reason per ``video_id`` that could not be imported.
        unlisted: Videos that the manifest does not list, and that were left out.
        num_frames: Frames that were added.
        manifest: File with the labels that the source had, if any.
    """

    feature_set: str
    num_videos: int = 0
    imported: int = 0
    cached: int = 0
    duplicates: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    unlisted: list[str] = field(default_factory=list)
    num_frames: int = 0
    manifest: str | None = None

    def _line(self) -> str:
        return f"{self.feature_set}: {plural(self.num_videos, 'video')}: {self._counts()}"

    def _counts(self) -> str:
        copies = plural(self.duplicates, "duplicate")
        return f"{self.imported:,} imported, {self.cached:,} cached, {copies}, {len(self.failed):,} failed"

    def _html(self) -> str:
        from framecache.cache.html import card, facts, reasons

        told = [
            ("videos", f"{self.num_videos:,}: {self._counts()}"),
            ("frames imported", f"{self.num_frames:,}"),
            ("left out", self.unlisted and f"{len(self.unlisted):,} that the manifest does not list"),
            ("labels", self.manifest),
        ]
        return card(f"imported {self.feature_set}", facts(told), reasons("failed", self.failed))

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return dict(vars(self))


def import_features(
    sources: str | Path | Sequence[str | Path], config: ImportConfig, progress: Callable[[], object] | None = None
) -> ImportReport:
    """Adds what is missing of other tools' features to the feature set of this name and these options.

    Args:
        sources: Folders or files of .npy and .npz, or of TFRecords.
        config: The options.
        progress: Called after each video.

    Raises:
        InputError: There is nothing to import; nothing was written. Or a video was imported before from another
            content; it stays as it was, and so does all that was added until then.
        LockedError: Another process writes into the feature set.
        OSError: The disk refused; what was sealed before stays.
    """
    given = [sources] if isinstance(sources, str | Path) else sources
    source = open_source([Path(path) for path in given], config)
    spec = plan_spec(source, config)
    report = ImportReport(spec.name, unlisted=source.unlisted)
    store = Cache(config.cache)
    with lock_for_writing(store.folder / spec.name):
        folder = store.create(spec)
        labels = _import_all(source, folder, spec, config, report, progress)
        if labels:
            report.manifest = str(_write_labels(store.folder / f"{spec.name}.csv", labels))
    return report


def open_source(sources: Sequence[Path], config: ImportConfig) -> ImportSource:
    """What the files are.

    Raises:
        InputError: They are nothing that can be imported, or of two kinds.
    """
    if not sources:
        raise InputError("import: expected a folder or files of features; found none")
    missing = [source for source in sources if not source.exists()]
    if missing:
        raise InputError(f"{missing[0]}: no such file or folder")
    records = [tfrecord_files(source) for source in sources]
    if all(records):
        return SequenceExamples([path for paths in records for path in paths], config)
    if any(records):
        raise InputError("TFRecords and other files in one import; import them one after the other")
    return ArrayFolder(sources, config)


def plan_spec(source: ImportSource, config: ImportConfig) -> Spec:
    """The feature set's spec.

    Nobody can tell which CNN and settings made the numbers, so that its name stands for them. What a video was
    imported from is never exchanged under one name.
    """
    backbone = f"{IMPORTED}{config.name}"
    provenance = source.provenance()
    named = "+".join(filter(None, source.keys)) or "features"
    return Spec(
        backbone=backbone,
        weights=digest_parts(backbone.encode(), canonical_json(provenance).encode()),
        tap="unknown",
        default_tap=True,
        preprocessing=provenance,
        sampling="all",
        reduction="grid" if len(source.feature_shape) > 1 else named,
        feature_shape=source.feature_shape,
        dtype=config.dtype or source.dtype,
        precision="unknown",
    )


def _import_all(
    source: ImportSource,
    folder: Path,
    spec: Spec,
    config: ImportConfig,
    report: ImportReport,
    progress: Callable[[], object] | None,
) -> dict[str, str]:
    """Adds the videos that are not there yet; gives the labels of all that are in the set."""
    features = FeatureSet(folder, spec)
    known = features.ledger()
    rest: list[LedgerRow] = []
    labels: dict[str, str] = {}
    seen: dict[str, str] = {}  # content → video, of this run
    names: set[str] = set()
    software = {"framecache": importlib.metadata.version("framecache"), "engine": "import"}
    with ShardWriter(folder, spec, software, int(config.shard_mb * 1e6), config.seal_seconds) as writer:
        for video in _known_first(source, known):
            report.num_videos += 1
            if progress is not None:
                progress()
            before = known.get(video.video_id)
            if video.video_id in names:
                report.failed[video.video_id] = f"named twice; {video.source} was left out"
                continue
            names.add(video.video_id)
            if before is not None and before.status == "ok" and video.stat and before.source_stat == video.stat:
                report.cached += 1
                seen[before.source_digest] = video.video_id
            else:
                row = _import_one(video, before, features, seen, writer, report)
                if row is not None:
                    rest.append(row)
            if video.label is not None and video.video_id not in report.failed:
                labels[video.video_id] = video.label
            writer.seal_if_due()
    news = [row for row in rest if known.get(row.video_id) != row]
    if news:
        append_journal(folder, writer.last_shard, news)
    compact(folder, spec, int(config.shard_mb * 1e6), _MANY_SHARDS)
    return labels


def _known_first(source: ImportSource, known: dict[str, LedgerRow]) -> Iterator[ImportedVideo]:
    """Of files, the videos that are there already, so that nothing is added where one of them has changed."""
    if not isinstance(source, ArrayFolder):
        yield from source
        return
    for there in (True, False):
        yield from (video for video in source if (video.video_id in known) is there)


def _import_one(
    video: ImportedVideo,
    before: LedgerRow | None,
    features: FeatureSet,
    seen: dict[str, str],
    writer: ShardWriter,
    report: ImportReport,
) -> LedgerRow | None:
    """Adds a video; gives its row where it gets no features of its own.

    Raises:
        InputError: It was imported from another content before.
    """
    digest = ""
    has_features = before is not None and before.status != "failed" and video.video_id in features
    try:
        content = video.load()
        digest = content.digest
        if before is not None and has_features:
            if before.source_digest != digest:
                raise InputError(
                    f"{video.source}: {video.video_id!r} was imported into {features.name} from other features "
                    f"({before.source_digest[:4]}… → {digest[:4]}…); give those of another CNN or setting another "
                    f"--name, or remove the set first: framecache rm {features.name}"
                )
            report.duplicates += before.status == "duplicate"
            report.cached += before.status != "duplicate"
            return None
        original = seen.get(digest) or features.video_with_content(digest)
        if original is not None and original != video.video_id:
            report.duplicates += 1
            reason = f"same content as {original}"
            return LedgerRow(video.video_id, video.source, "duplicate", reason, source_digest=digest)
        with closing(writer.open_video()) as buffer:
            _copy(content, buffer, writer.spec)
            row = VideoRow(
                video_id=video.video_id,
                length=buffer.num_frames,
                digest=buffer.hexdigest(),
                source=video.source,
                source_digest=digest,
                source_stat=video.stat,
                frames_expected=buffer.num_frames,
                frames_decoded=buffer.num_frames,
                warnings=(),
            )
            writer.add(buffer, row)
    except UnusableError as error:
        report.failed[video.video_id] = str(error)
        # A file that cannot be read for a moment does not hide the features that came from it.
        return None if has_features else LedgerRow(video.video_id, video.source, "failed", str(error))
    seen[digest] = video.video_id
    report.imported += 1
    report.num_frames += row.length
    return None


def _copy(content: Content, buffer: VideoBuffer, spec: Spec) -> None:
    """Into the buffer, in the stored dtype.

    Raises:
        UnusableError: A number is not finite, or becomes so.
    """
    for block in content.blocks():
        begin = buffer.num_frames
        if not _finite(block):
            frame = begin + int(np.argmin(np.isfinite(block).reshape(len(block), -1).all(axis=1)))
            raise UnusableError(f"a number of frame {frame} is NaN or infinite")
        with np.errstate(over="ignore"):  # an overflow becomes inf, which is told below
            stored = block.astype(spec.dtype)
        if not _finite(stored):
            raise UnusableError(f"a number is too large for {spec.dtype}; import with --dtype float32, or leave it out")
        buffer.append(stored, content.timestamps_ms[begin : begin + len(block)])


def _finite(block: NDArray[Any]) -> bool:
    return bool(np.isfinite(block).all())


def _write_labels(path: Path, labels: dict[str, str]) -> Path:
    """A manifest of the labels, with those that an earlier import has left there."""
    if path.exists():
        labels = {video.video_id: video.label or "" for video in read_manifest(path)} | labels
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("path", "video_id", "label"))
    table.writerows((video_id, video_id, label) for video_id, label in labels.items())
    partial = path.parent / f".{path.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}"
    partial.write_text(text.getvalue(), encoding="utf-8")
    publish(partial, path)
    return path
