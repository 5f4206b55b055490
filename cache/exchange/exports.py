"""export: a feature set as files that other tools read, whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from framecache.cache.durable import PARTIAL_SUFFIX, fsync_folder
from framecache.cache.errors import InputError, ShardError
from framecache.cache.exchange.export_config import ExportConfig
from framecache.cache.exchange.export_formats import FORMATS, ExportFormat, npy_files, refuse_colliding_names
from framecache.cache.folders import scan_folder
from framecache.cache.manifest import read_manifest
from framecache.cache.reader import FeatureSet
from framecache.cache.shown import Shown, plural
from framecache.cache.store import SPEC_FILE, open_cache

SUMS_FILE = "SHA256SUMS"
VIDEOS_FILE = "videos.csv"
README_FILE = "README.md"
_README = """\
# {name}

Features of the frames of {num_videos} videos, {num_frames} frames, exported by framecache.

{description}
`{videos}` lists the videos with their files. `{spec}` says what the features are of: the CNN, its weights and
preprocessing, which frames, the reduction. `sha256sum -c {sums}` finds any changed bit.
"""


@dataclass(repr=False)
class ExportReport(Shown):
    """What an export did.

    Attributes:
        feature_set: Full name of the feature set.
        folder: Where the files are.
        format: One of :data:`~framecache.cache.exchange.export_formats.FORMATS`.
        num_videos: Videos that were exported.
        num_frames: Frames that were exported.
        num_files: Files with features.
        num_bytes: Size of all files.
        missing: Reason per ``video_id`` of the manifest that has no features.
    """

    feature_set: str
    folder: str
    format: str
    num_videos: int = 0
    num_frames: int = 0
    num_files: int = 0
    num_bytes: int = 0
    missing: dict[str, str] = field(default_factory=dict)

    def _line(self) -> str:
        missing = f", {len(self.missing):,} missing" if self.missing else ""
        return f"{self.folder}: {plural(self.num_videos, 'video')} as {self.format}, {self._size()}{missing}"

    def _size(self) -> str:
        from framecache.cache.cli import format_bytes

        return f"{format_bytes(self.num_bytes)} in {plural(self.num_files, 'file')}"

    def _html(self) -> str:
        from framecache.cache.html import card, facts, reasons

        told = [
            ("folder", self.folder),
            ("format", self.format),
            ("videos", f"{self.num_videos:,}, {plural(self.num_frames, 'frame')}"),
            ("size", self._size()),
        ]
        return card(f"exported {self.feature_set}", facts(told), reasons("not exported", self.missing))

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return dict(vars(self))


def export_features(
    name: str, folder: str | Path, config: ExportConfig, progress: Callable[[int, int], None] | None = None
) -> ExportReport:
    """Writes a feature set's videos into a new folder, under a temporary name until all of them are there.

    Args:
        name: The feature set: its name, with or without fingerprint, or a prefix.
        folder: Where to; must not be there, or be empty.
        config: The options.
        progress: Called after each video with the videos done and the videos in all.

    Raises:
        InputError: The folder holds something, no video is left to export, or a package is missing; nothing was
            written.
        ShardError: A video's features are hurt; nothing was left behind.
        OSError: The disk refused; nothing was left behind.
    """
    folder = Path(folder)
    _refuse_occupied(folder)
    form = FORMATS[config.format]
    form.requires()
    features = open_cache(config.cache)[name]
    report = ExportReport(features.name, str(folder), config.format)
    video_ids = _choose(features, config, report)
    if not form.suffix:
        refuse_colliding_names(video_ids)
    target = folder.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}"
    partial.mkdir()
    try:
        files = _write(features, video_ids, form, partial, int(config.shard_mb * 1e6), progress)
        report.num_videos, report.num_files = len(video_ids), len(set(files.values()))
        report.num_frames = sum(features.length(video_id) for video_id in video_ids)
        _describe(features, files, form, partial, report)
        report.num_bytes = _sum_up(partial)
        os.sync()  # of many files at once, instead of each on its own
        os.replace(partial, target)
        fsync_folder(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


def _refuse_occupied(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
        raise InputError(f"{folder}: is there already, and not an empty folder; name another, or remove it first")


def _choose(features: FeatureSet, config: ExportConfig, report: ExportReport) -> list[str]:
    """The videos to export, in the order of the manifest, or else in that of the feature set."""
    if config.manifest is None:
        video_ids = list(features)
    else:
        read = scan_folder(config.manifest) if config.manifest.is_dir() else read_manifest(config.manifest, config.root)
        listed = [video.video_id for video in read if not config.split or video.split in config.split]
        ledger = features.ledger()
        for video_id in listed:
            if video_id not in features:
                row = ledger.get(video_id)
                report.missing[video_id] = row.reason if row is not None else "never extracted"
        video_ids = [video_id for video_id in listed if video_id in features]
    if not video_ids:
        of = f" of {config.manifest}" if config.manifest is not None else ""
        raise InputError(f"{features.name}: it holds no video{of}{' in this split' if config.split else ''}")
    return video_ids


def _write(
    features: FeatureSet,
    video_ids: Sequence[str],
    form: ExportFormat,
    folder: Path,
    shard_bytes: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, str]:
    """Writes the videos; gives the file of each."""
    done = 0

    def tick(_: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(video_ids))

    groups = _groups(features, video_ids, form, shard_bytes)
    files: dict[str, str] = {}
    for number, group in enumerate(groups):
        for video_id in group:  # just before they are read again, out of the page cache
            if not features.is_intact(video_id):
                raise ShardError(
                    f"{features.name}: the stored features of {video_id!r} are hurt; run framecache verify "
                    f"{features.name} --repair, then the extraction again"
                )
        name = f"features-{number:05d}-of-{len(groups):05d}{form.suffix}" if form.suffix else ""
        form.write(features, group, folder / name, tick)
        files |= {video_id: name or npy_files(video_id)[0] for video_id in group}
    return files


def _groups(features: FeatureSet, video_ids: Sequence[str], form: ExportFormat, num_bytes: int) -> list[list[str]]:
    """Videos that go into one file: in order, up to so many bytes, or one that is larger alone."""
    frame_bytes = int(np.prod(features.feature_shape)) * np.dtype(form.dtype or features.dtype).itemsize
    groups: list[list[str]] = []
    left = 0
    for video_id in video_ids:
        needed = features.length(video_id) * frame_bytes
        if not groups or needed > left:
            groups.append([])
            left = num_bytes
        groups[-1].append(video_id)
        left -= needed
    return groups


def _describe(
    features: FeatureSet, files: dict[str, str], form: ExportFormat, folder: Path, report: ExportReport
) -> None:
    with (folder / VIDEOS_FILE).open("x", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("path", "video_id", "num_frames"))
        table.writerows((path, video_id, features.length(video_id)) for video_id, path in files.items())
    description = form.description.format(
        shape=", ".join(map(str, features.feature_shape)),
        length=int(np.prod(features.feature_shape)),
        dtype=features.dtype,
    )
    readme = _README.format(
        name=features.name,
        num_videos=report.num_videos,
        num_frames=report.num_frames,
        description=description,
        videos=VIDEOS_FILE,
        spec=SPEC_FILE,
        sums=SUMS_FILE,
    )
    (folder / README_FILE).write_text(readme, encoding="utf-8")
    spec = json.dumps(features.spec.to_dict(), indent=2) + "\n"
    (folder / SPEC_FILE).write_text(spec, encoding="utf-8")


def _sum_up(folder: Path) -> int:
    """Writes the check sums of all files, as ``sha256sum`` does; gives the size of all of them."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    lines, num_bytes = [], 0
    for path in paths:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        name = path.relative_to(folder).as_posix()
        escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        lines.append(f"{'' if escaped == name else chr(92)}{digest}  {escaped}\n")
        num_bytes += path.stat().st_size
    (folder / SUMS_FILE).write_text("".join(lines), encoding="utf-8")
    return num_bytes + (folder / SUMS_FILE).stat().st_size
