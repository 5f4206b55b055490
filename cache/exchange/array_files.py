"""Which .npy and .npz files belong to which video: by their names, and by a manifest.

``<video>.npy`` or ``<video>.npz``. ``<video>_<key>.npy`` with ``<video>_fps.npy`` and ``<video>_timestamps_ms.npy``
beside it, as video_features writes them (in an .npz file: arrays of these names). ``<video>-<frames>-features.npy``,
as five-video-classification-methods names them.
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from framecache.cache.errors import InputError
from framecache.cache.exchange.imported_video import UnusableError
from framecache.cache.exchange.npy import ARRAY_SUFFIXES, ArrayError, array_names
from framecache.cache.folders import natural_key
from framecache.cache.manifest import printable, read_column, read_manifest

_TIMING = ("timestamps_ms", "fps")
_UNNAMED = ("features", "arr_0", "")  # what an array is called that needs no name, the first of them that there is
_FIVE_VIDEO = re.compile(r"-\d+-features$")
_SHOWN = 3


class Array(NamedTuple):
    """Where an array is: the file, and its name within an .npz file."""

    path: Path
    name: str | None


@dataclass(frozen=True)
class FoundVideo:
    """A video's files.

    Attributes:
        video_id: By default its path within the folder, without what the tool has put behind it.
        arrays: By key; the key is empty where the file's name has none.
        timing: Arrays with its times: ``fps`` and ``timestamps_ms``.
        fps: As the manifest has it.
        num_frames: Frames that count, as the manifest has it; beyond them there is padding.
        reason: Why it cannot be imported.
    """

    video_id: str
    arrays: Mapping[str, Array] = field(default_factory=dict)
    timing: Mapping[str, Array] = field(default_factory=dict)
    fps: float | None = None
    num_frames: int | None = None
    reason: str = ""

    def taken(self, keys: Sequence[str]) -> list[Array]:
        """The arrays of these keys; of none, the one that needs no name.

        Raises:
            UnusableError: It does not have them.
        """
        keys = keys or [key for key in _UNNAMED if key in self.arrays][:1]
        missing = [key for key in keys if key not in self.arrays]
        if missing or not keys:
            raise UnusableError(f"no array {(missing or ['features'])[0]!r}, but {_named(list(self.arrays))}")
        return [self.arrays[key] for key in keys]

    @property
    def paths(self) -> list[Path]:
        """Its files, each once."""
        return list(dict.fromkeys(array.path for array in (*self.arrays.values(), *self.timing.values())))


def find_videos(source: Path, keys: Sequence[str] = ()) -> list[FoundVideo]:
    """The videos whose arrays are in a folder, or in one file, in natural order.

    Raises:
        InputError: It cannot be read.
    """
    if source.is_dir():
        paths, root = list(_array_files(source)), source
    elif source.suffix.lower() in ARRAY_SUFFIXES and os.path.lexists(source):
        paths, root = [source], source.parent
    else:
        raise InputError(f"{source}: expected a folder, .npy or .npz files, or TFRecords; found none there")
    names = {path: path.relative_to(root).with_suffix("").as_posix() for path in paths}
    timed = {
        name.removesuffix(f"_{timing}")
        for path, name in names.items()
        for timing in _TIMING
        if path.suffix.lower() == ".npy" and name.endswith(f"_{timing}")
    }
    arrays: dict[str, dict[str, Array]] = defaultdict(dict)
    times: dict[str, dict[str, Array]] = defaultdict(dict)
    reasons: dict[str, str] = {}
    for path, name in names.items():
        video_id, held = name, {"": Array(path, None)}
        if path.suffix.lower() == ".npz":
            try:
                held = {key: Array(path, key) for key in array_names(path)}
            except ArrayError as error:
                reasons[name] = str(error)
                held = {"": Array(path, None)}
        else:
            video_id, key = _split(name, timed, keys)
            held = {key: Array(path, None)}
        for key, array in held.items():
            (times if key in _TIMING else arrays)[printable(video_id)][key] = array
    found = [
        FoundVideo(video_id, arrays.get(video_id, {}), times.get(video_id, {}), reason=reasons.get(video_id, ""))
        for video_id in sorted({*arrays, *times}, key=natural_key)
    ]
    return [replace(video, reason="only its times are there") if not video.arrays else video for video in found]


def _split(name: str, timed: set[str], keys: Sequence[str]) -> tuple[str, str]:
    """A file's name as the video's and the key: by the times beside it, then by the keys that are asked for."""
    places = [at for at, letter in enumerate(name) if letter == "_"]
    for end in (len(name), *reversed(places)):
        if name[:end] in timed:
            return name[:end], name[end + 1 :]
    for key in keys:
        if name.endswith(f"_{key}"):
            return name.removesuffix(f"_{key}"), key
    return _FIVE_VIDEO.sub("", name), ""


def _array_files(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: the folder cannot be read ({error.strerror}); mend its permissions")

    for parent, folders, files in os.walk(folder, onerror=refuse):  # links to folders are not followed
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (
            Path(parent, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in ARRAY_SUFFIXES
        )


def choose_keys(found: Sequence[FoundVideo], asked: Sequence[str], where: str) -> tuple[str, ...]:
    """The keys to take of each video; none where each has one array, or one that is called ``features``."""
    held = sorted({key for video in found if not video.reason for key in video.arrays})
    missing = [key for key in asked if key not in held]
    if missing:
        raise InputError(f"--key {missing[0]}: no array of this name in {where}; found {_named(held)}")
    if asked:
        return tuple(asked)
    named = [key for key in held if key not in _UNNAMED]
    if len(named) > 1 or (named and len(held) > 1):
        raise InputError(f"{where}: several arrays, {_named(held)}; name one or more of them with --key")
    return tuple(named)


def _named(keys: Sequence[str]) -> str:
    return ", ".join(key or "files without a key" for key in keys[:12])


def list_videos(found: Sequence[FoundVideo], manifest: Path, root: Path | None) -> list[FoundVideo]:
    """The videos of a manifest with their files: of its path, of its video_id, of either without folder and suffix."""
    videos = read_manifest(manifest, root)
    fps, counts = (_numbers(manifest, name) for name in ("fps", "num_frames"))
    by_path = {os.path.abspath(path): video for video in found for path in video.paths}
    by_name: dict[str, list[FoundVideo]] = defaultdict(list)
    for one in found:
        for name in {one.video_id, one.video_id.rpartition("/")[2]}:
            by_name[name].append(one)
    listed = []
    for number, video in enumerate(videos):
        bare = os.path.splitext(video.video_id)[0]
        here = by_path.get(str(video.path))
        fits = [here] if here is not None else []
        for name in (video.video_id, bare, bare.rpartition("/")[2], _stem(str(video.path))):
            fits = fits or by_name.get(name, [])
        reason = fits[0].reason if fits else "no file of its features"
        if len(fits) > 1:
            reason = f"several files fit it: {', '.join(one.video_id for one in fits[:_SHOWN])}"
        one = replace(fits[0], reason=reason) if len(fits) == 1 else FoundVideo(video.video_id, reason=reason)
        count = counts[number]
        listed.append(
            replace(one, video_id=video.video_id, fps=fps[number], num_frames=None if count is None else int(count))
        )
    return listed


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _numbers(manifest: Path, column: str) -> list[float | None]:
    """A column of positive numbers; None where a row has none.

    Raises:
        InputError: A value is another.
    """
    numbers: list[float | None] = []
    for text in read_column(manifest, column):
        try:
            number = float(text) if text else None
        except ValueError:
            number = math.nan
        whole = column == "num_frames"
        if number is not None and not (0 < number < math.inf and (not whole or number == int(number))):
            expected = "a whole number of frames" if whole else "frames per second"
            raise InputError(f"{manifest}: {column} {text!r}; expected {expected}, 1 or more")
        numbers.append(number)
    return numbers
