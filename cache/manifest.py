"""Manifests: which videos there are, and what is said of them.

A manifest is a CSV (with a header) or JSONL file with a ``path`` and any of ``video_id``, ``label``, ``split``,
``group``, ``start`` and ``end`` per video. Other columns are passed over, unless one of them is asked for as the
label. Both stages read it: extraction the paths, training the labels, splits and groups, so that relabelling never
costs an extraction. Paths and the manifest itself may be URLs (:mod:`framecache.cache.sources`).
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import os
import posixpath
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from framecache.cache.errors import InputError
from framecache.cache.sources import Source, Url, as_source, read_text_url

COLUMNS = ("path", "video_id", "label", "split", "group", "start", "end")
SPLITS = ("train", "val", "test")
MANIFEST_SUFFIXES = (".csv", ".jsonl")
LABEL_SEPARATOR = ";"
_SHOWN = 3  # examples named in an error message


@dataclass(frozen=True)
class Video:
    """One row of a manifest.

    Attributes:
        video_id: Its name in the feature set; by default its path within the root, with ``#start-end`` for a part.
        path: Where the file (or the folder of images) is; a URL if it is not on this machine.
        label: What is to be told of it, if anything: its class; or several with semicolons, a number, a file.
        split: ``train``, ``val`` or ``test``, if any.
        group: Videos of one group (recording, person, …) never go into different splits.
        start: Where the part of interest begins, in seconds; None for the beginning.
        end: Where it ends (exclusive), in seconds; None for the end.
    """

    video_id: str
    path: Source
    label: str | None = None
    split: str | None = None
    group: str | None = None
    start: float | None = None
    end: float | None = None

    @property
    def segment(self) -> str:
        """``#start-end`` of a part, empty for a whole video."""
        return segment_name(self.start, self.end)

    def overlaps(self, other: Video) -> bool:
        """Whether the two parts, if of one file, have a moment in common."""
        begins = (self.start or 0.0, other.start or 0.0)
        ends = (math.inf if self.end is None else self.end, math.inf if other.end is None else other.end)
        return max(begins) < min(ends)


def segment_name(start: float | None, end: float | None) -> str:
    """``#start-end`` in seconds, with an open side left empty; empty for a whole video."""
    if start is None and end is None:
        return ""
    begin, stop = ("" if second is None else f"{second}".removesuffix(".0") for second in (start, end))
    return f"#{begin}-{stop}"


def read_manifest(path: Source, root: Source | None = None, label: str = "label") -> list[Video]:
    """Reads and checks a manifest; looks at no video.

    Args:
        path: The CSV or JSONL file, or its URL.
        root: Folder that relative paths start from and that no path may leave; by default the manifest's own.
        label: Column that holds the labels; a row must have it if it is another than ``label``.

    Raises:
        InputError: The file is missing or malformed, a column is missing, or a value is not what it must be.
    """
    path = as_source(path)
    root = path.parent if root is None else as_source(root)
    videos: list[Video] = []
    names: dict[str, None] = {}
    for line, row in _read_rows(path):
        names.update(dict.fromkeys(row))
        videos.append(_parse_row(row, f"{path}, line {line}", root, label))
    if not videos:
        raise InputError(f"{path}: the manifest lists no video; expected a row per video")
    if label not in names and label != "label":
        raise InputError(f"{path}: no column {label!r}, found {', '.join(names)}{_did_you_mean(label, names)}")
    refuse_duplicate_ids(videos, str(path))
    return videos


def read_column(path: Path, name: str) -> list[str]:
    """A column of any name, a text per row of :func:`read_manifest`; empty where a row does not have it.

    Raises:
        InputError: The file is missing or malformed.
    """
    return ["" if row.get(name) is None else str(row[name]).strip() for _, row in _read_rows(path)]


def require_files(videos: Sequence[Video], where: str) -> None:
    """Refuses videos that are not there; whether a URL leads anywhere is left to the ledger.

    Raises:
        InputError: Naming the first few that are missing.
    """
    missing = [video for video in videos if not isinstance(video.path, Url) and not os.path.lexists(video.path)]
    if missing:
        named = ", ".join(str(video.path) for video in missing[:_SHOWN])
        raise InputError(
            f"{where}: {len(missing)} of {len(videos)} paths do not exist ({named}{', …' * (len(missing) > _SHOWN)}); "
            "relative paths start from the manifest's folder, or from --root"
        )


def refuse_duplicate_ids(videos: Sequence[Video], where: str) -> None:
    """Refuses two videos of one name.

    Raises:
        InputError: Naming the first few names.
    """
    counts = Counter(video.video_id for video in videos)
    doubles = [video_id for video_id, count in counts.items() if count > 1]
    if doubles:
        raise InputError(
            f"{where}: duplicate video_id {', '.join(map(repr, doubles[:_SHOWN]))}"
            f"{f' and {len(doubles) - _SHOWN} more' if len(doubles) > _SHOWN else ''}; "
            "give each row a video_id of its own"
        )


def is_plain_name(video_id: str) -> bool:
    """Whether a name stays within its folder should it ever become a path: relative, without ``..`` and NUL."""
    path = PurePosixPath(video_id)
    return bool(video_id) and not path.is_absolute() and ".." not in path.parts and "\0" not in video_id


def resolve_within(root: Path, written: str, where: str) -> Path:
    """The path within ``root``; as text only, so that a link inside it may point anywhere its owner wants.

    Raises:
        InputError: It leads outside.
    """
    absolute = os.path.abspath(root)
    path = os.path.normpath(os.path.join(absolute, written))
    if os.path.commonpath([absolute, path]) != absolute:
        raise InputError(
            f"{where}: path {written!r} leads outside {absolute}; name the folder that holds all videos with --root"
        )
    return Path(path)


def path_from(root: Path, path: Source) -> str:
    """How a manifest whose paths start from ``root`` names this one; a URL without its credentials."""
    if isinstance(path, Url):
        return str(path)
    return printable(PurePosixPath(os.path.relpath(path, os.path.abspath(root))).as_posix())


def printable(path: str) -> str:
    r"""``path`` as valid UTF-8: bytes that are not (a file name may hold any) become ``\xNN``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _read_rows(path: Source) -> Iterator[tuple[int, Mapping[str, object]]]:
    if path.suffix.lower() not in MANIFEST_SUFFIXES:
        raise InputError(f"{path}: expected a manifest, a .csv or .jsonl file, or a folder of class folders")
    try:
        content = read_text_url(path) if isinstance(path, Url) else path.read_bytes()
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such manifest") from None
    except (UnicodeDecodeError, OSError) as error:
        why = error.strerror if isinstance(path, Url) and isinstance(error, OSError) else error
        raise InputError(f"{path}: the manifest cannot be read ({why}); expected UTF-8 text") from error
    rows = _jsonl_rows(text, path) if path.suffix.lower() == ".jsonl" else _csv_rows(text, path)
    for line, row in rows:
        if "path" not in row:
            near = difflib.get_close_matches("path", [str(name) for name in row], 1, 0.5)
            hint = f"; rename {near[0]!r}?" if near else ""
            raise InputError(f"{path}: no column 'path', found {', '.join(map(str, row))}{hint}")
        yield line, row


def _csv_rows(text: str, path: Source) -> Iterator[tuple[int, Mapping[str, object]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        doubles = [name for name, count in Counter(names).items() if count > 1]
        if doubles:
            raise InputError(f"{path}: several columns are called {doubles[0]!r}; keep one of them")
        reader.fieldnames = names
        for row in reader:
            if None in row or None in row.values():
                raise InputError(f"{path}, line {reader.line_num}: not as many fields as the header")
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num + 1}: not CSV ({error})") from error


def _jsonl_rows(text: str, path: Source) -> Iterator[tuple[int, Mapping[str, object]]]:
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {line}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {line}: expected a JSON object, found {type(row).__name__}")
        yield line, row


def _parse_row(row: Mapping[str, object], where: str, root: Source, label: str) -> Video:
    text = {name: str(row[name]).strip() for name in COLUMNS if row.get(name) is not None}
    text["label"] = _label(row.get(label), f"{where}: {label}")
    for name, value in text.items():
        if any("\ud800" <= letter <= "\udfff" or letter == "\0" for letter in value):
            raise InputError(f"{where}: {name} {value!r} holds NUL or half a character; expected valid Unicode text")
    written = text.get("path", "")
    if not written:
        raise InputError(f"{where}: path is empty")
    start, end = _seconds(text, "start", where), _seconds(text, "end", where)
    if end is not None and end <= (start or 0.0):
        raise InputError(f"{where}: end {end:g} is not after start {start or 0.0:g} (seconds)")
    split = text.get("split") or None
    if split is not None and split not in SPLITS:
        hint = _did_you_mean(split.lower(), SPLITS)
        raise InputError(f"{where}: split {split!r}, expected one of {', '.join(SPLITS)}{hint}")
    path, name = _resolve(root, written, where)
    video_id = text.get("video_id") or name + segment_name(start, end)
    if not is_plain_name(video_id):
        raise InputError(f"{where}: video_id {video_id!r} is absolute or holds '..'; expected a relative name")
    return Video(
        video_id=video_id,
        path=path,
        label=text.get("label") or None,
        split=split,
        group=text.get("group") or None,
        start=start,
        end=end,
    )


def _label(value: object, where: str) -> str:
    """A label as text; the members of a list with semicolons between them."""
    if value is None:
        return ""
    if not isinstance(value, list):
        return str(value).strip()
    names = [str(item).strip() for item in value]
    for name, item in zip(names, value, strict=True):
        if not name or LABEL_SEPARATOR in name or isinstance(item, list | dict) or item is None:
            raise InputError(f"{where} {item!r}: expected a label without semicolons in the list")
    return LABEL_SEPARATOR.join(names)


def _did_you_mean(name: str, choices: Collection[str]) -> str:
    near = difflib.get_close_matches(name, choices, 1, 0.4)
    return f"; did you mean {near[0]!r}?" if near else ""


def _seconds(text: Mapping[str, str], name: str, where: str) -> float | None:
    if not text.get(name):
        return None
    try:
        value = float(text[name])
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{where}: {name} {text[name]!r}, expected seconds from the beginning, 0 or more")
    return value


def _resolve(root: Source, written: str, where: str) -> tuple[Source, str]:
    """Where a manifest's path leads, and the name that the video has of it.

    A URL may lead anywhere; a path stays within the root, on this machine or another.
    """
    try:
        source = as_source(written)
    except InputError as error:
        raise InputError(f"{where}: path {error}") from error
    if isinstance(source, Url):
        return source, _name_below(root, source)
    if isinstance(root, Url):
        relative = posixpath.normpath(written)
        if not is_plain_name(relative):
            raise InputError(f"{where}: path {written!r} leads outside {root}; expected a path within it, or a URL")
        return root.joined(relative), relative
    path = resolve_within(root, written, where)
    return path, path_from(root, path)


def _name_below(root: Source, url: Url) -> str:
    """The path below the root where it is there, so that a row means the same with and without the root's URL."""
    if isinstance(root, Url) and str(url).startswith(f"{str(root).rstrip('/')}/"):
        return printable(url.key.relative_to(root.key).as_posix())
    return printable(url.key.as_posix())
