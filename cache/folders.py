"""Folders as manifests: class folders, plain folders of videos, folders of images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from framecache.cache.errors import InputError
from framecache.cache.manifest import (
    MANIFEST_SUFFIXES,
    SPLITS,
    Video,
    printable,
    read_manifest,
    refuse_duplicate_ids,
    require_files,
)
from framecache.cache.sources import Source, Url, as_source, require_library

VIDEO_SUFFIXES = frozenset(
    {
        ".3gp",
        ".asf",
        ".avi",
        ".divx",
        ".f4v",
        ".flv",
        ".gif",
        ".h264",
        ".hevc",
        ".m2ts",
        ".m2v",
        ".m4v",
        ".mjpeg",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".ogm",
        ".ogv",
        ".rm",
        ".rmvb",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
        ".y4m",
    }
)
IMAGE_SUFFIXES = frozenset(
    {
        ".bmp",
        ".jp2",
        ".jpeg",
        ".jpg",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tga",
        ".tif",
        ".tiff",
        ".webp",
    }
)


def read_source(source: str | Source, root: Path | None = None) -> list[Video]:
    """The videos that a SOURCE means, those on this machine all there.

    Args:
        source: A manifest, a folder of class folders, a folder of videos, a folder of images, or one video; or the URL
            of a manifest or a video.
        root: For a manifest, the folder of its relative paths; by default its own.

    Raises:
        InputError: It does not exist, holds no video, or is malformed.
    """
    source = as_source(source)
    if isinstance(source, Url):
        require_library(source)
        if not source.name or str(source).endswith("/"):
            raise InputError(f"{source}: expected the URL of a manifest or of a video; list a folder in a manifest")
    elif source.is_dir():
        return scan_folder(source)
    if source.suffix.lower() in MANIFEST_SUFFIXES:
        videos = read_manifest(source, root)
        require_files(videos, str(source))
        for url in {video.path.protocol: video.path for video in videos if isinstance(video.path, Url)}.values():
            require_library(url)
        return videos
    if isinstance(source, Url):
        return [Video(printable(source.name), source)]
    if not os.path.lexists(source):
        raise InputError(f"{source}: no such file or folder; expected a manifest, a folder of videos or a video")
    return [Video(printable(source.name), source.absolute())]


def scan_folder(folder: Path) -> list[Video]:
    """The videos below a folder, in natural order of their paths.

    A video's ``video_id`` is its path within the folder. In ``<label>/…/<video>`` the first folder is the
    label; in ``<split>/<label>/…`` (every first folder one of train, val, test) it is the second. A folder
    that holds images and no video is one video.

    Raises:
        InputError: The folder holds no video.
    """
    found = sorted(_media(folder), key=lambda path: natural_key(str(path)))
    above = {parent for path in found for parent in path.parents}
    found = [path for path in found if path not in above]  # a cover picture beside folders of videos is no video
    if not found:
        raise InputError(f"{folder}: no video in this folder; expected files such as .mp4, or folders of images")
    parts = [path.relative_to(folder).parts for path in found]
    in_split = [len(part) > 2 and part[0] in SPLITS for part in parts]
    by_split = all(in_split)
    if any(in_split) and not by_split:
        first = sorted({part[0] for part in parts})
        raise InputError(
            f"{folder}: its folders {', '.join(first[:6])} are splits in part; expected only {', '.join(SPLITS)}, "
            "each with class folders, or no split at all"
        )
    videos = []
    for path, part in zip(found, parts, strict=True):
        labels = part[1:-1] if by_split else part[:-1]
        videos.append(
            Video(
                video_id=printable("/".join(part) or folder.absolute().name),
                path=path.absolute(),
                label=printable(labels[0]) if labels else None,
                split=part[0] if by_split else None,
            )
        )
    refuse_duplicate_ids(videos, str(folder))
    return videos


def image_files(folder: Path) -> list[Path]:
    """The images directly in a folder, in natural order (``frame2`` before ``frame10``)."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."]
    return sorted(files, key=lambda path: natural_key(path.name))


def natural_key(text: str) -> list[tuple[int, str]]:
    """Sort key that takes runs of digits as numbers, of any length."""
    key = []
    for part in re.split(r"([0-9]+)", text):
        digits = part.lstrip("0") if part.isdecimal() else ""
        key.append((len(digits), digits) if part.isdecimal() else (-1, part))
    return key


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: the folder cannot be read ({error.strerror}); mend its permissions")


def _media(folder: Path) -> Iterator[Path]:
    # Links are not followed: a link to a parent would never end.
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = [name for name in files if not name.startswith(".")]
        videos = [name for name in names if Path(name).suffix.lower() in VIDEO_SUFFIXES]
        if videos:
            yield from (Path(parent, name) for name in videos)
        elif any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in names):
            yield Path(parent)
