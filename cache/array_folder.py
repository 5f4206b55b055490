"""Folders of .npy and .npz files, one video each or several files of one, as other tools write them.

``<video>.npy`` or ``<video>.npz`` of shape ``(T, D)`` or ``(T, h, w, C)``. ``<video>_<key>.npy`` with
``<video>_fps.npy`` and ``<video>_timestamps_ms.npy`` beside it, as video_features writes them (in an .npz file: arrays
of these names). ``<video>-<frames>-features.npy``, as five-video-classification-methods names them.
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError
from framecache.cache.fingerprint import digest_parts, digest_source, stat_source
from framecache.cache.folders import natural_key
from framecache.cache.import_config import ImportConfig
from framecache.cache.imported_video import (
    Content,
    ImportedVideo,
    UnusableError,
    check_shape,
    check_timestamps,
    most_common_shape,
    refuse_other_shape,
    regular_timestamps,
)
from framecache.cache.manifest import Video, printable, read_column, read_manifest, refuse_duplicate_ids
from framecache.cache.npy import ARRAY_SUFFIXES, ArrayError, array_names, read_array, read_blocks, read_header

_TIMING = ("timestamps_ms", "fps")
_UNNAMED = ("features", "arr_0", "")  # what an array is called that needs no name, the first of them that there is
_FIVE_VIDEO = re.compile(r"-\d+-features$")
_MAX_TIMES_BYTES = 1 << 26
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


class ArrayFolder:
    """The videos of some folders and files.

    Args:
        sources: Folders, and .npy and .npz files.
        config: The import's options.

    Raises:
        InputError: There is no array, none of the key that is asked for, or videos whose frame rate nobody says.

    Attributes:
        feature_shape: Of one frame; most videos have it.
        dtype: That holds all their numbers.
        keys: The arrays that are taken, in order; none where arrays need no name.
        unlisted: Videos that the manifest does not list, which are left out.
    """

    def __init__(self, sources: Sequence[Path], config: ImportConfig) -> None:
        found = [video for source in sources for video in find_videos(source, config.key)]
        where = ", ".join(map(str, sources))
        if not found:
            raise InputError(f"{where}: no .npy or .npz file, and no TFRecord; expected files of features in it")
        self.unlisted: list[str] = []
        if config.manifest is not None:
            listed = _listed(found, config.manifest, config.root)
            taken = {path for video in listed for path in video.paths}
            self.unlisted = [video.video_id for video in found if not taken.intersection(video.paths)]
            found = listed
        refuse_duplicate_ids([Video(video.video_id, Path()) for video in found], where)
        self.keys = _choose_keys(found, config.key, where)
        self._fps = config.fps
        headers = {video.video_id: _header(video, self.keys) for video in found}
        usable = [header for header in headers.values() if isinstance(header, _Header)]
        if not usable:
            first = next(iter(headers.items()))
            raise InputError(f"{where}: none of {len(found)} videos can be imported; {first[0]!r}: {first[1]}")
        self.feature_shape = most_common_shape([header.shape[1:] for header in usable])
        fitting = [header.dtype for header in usable if header.shape[1:] == self.feature_shape]
        self.dtype = "float16" if all(dtype == np.float16 for dtype in fitting) else "float32"
        self._videos = [(video, headers[video.video_id]) for video in found]
        self._require_fps(where)

    def __len__(self) -> int:
        return len(self._videos)

    def __iter__(self) -> Iterator[ImportedVideo]:
        for video, header in self._videos:
            yield self._video(video, header)

    def provenance(self) -> dict[str, Any]:
        """What the spec says of where the features come from."""
        fps = {} if self._fps is None else {"fps": float(self._fps)}
        return {"format": "arrays", "keys": list(self.keys), **fps}

    def _require_fps(self, where: str) -> None:
        unknown = [
            video.video_id
            for video, header in self._videos
            if isinstance(header, _Header) and not video.timing and video.fps is None
        ]
        if unknown and self._fps is None:
            raise InputError(
                f"{where}: nothing says how many frames per second {len(unknown)} of {len(self._videos)} videos have "
                f"({', '.join(map(repr, unknown[:_SHOWN]))}); say it with --fps N, or a column fps in --manifest"
            )

    def _video(self, video: FoundVideo, header: _Header | str) -> ImportedVideo:
        source = printable(str(video.paths[0].absolute())) if video.paths else ""
        try:
            stats = [stat_source(path) for path in video.paths]
        except OSError as error:
            header, stats = f"cannot be read: {error.strerror or error}", []
        stat = "|".join([*stats, f"{video.fps} {video.num_frames}"]) if stats else ""

        def load() -> Content:
            if isinstance(header, str):
                raise UnusableError(header)
            return self._load(video, header)

        return ImportedVideo(video.video_id, source, stat, load)

    def _load(self, video: FoundVideo, header: _Header) -> Content:
        refuse_other_shape(header.shape[1:], self.feature_shape)
        count, stored = header.shape[0], header.shape[0]
        if video.num_frames is not None:
            count = video.num_frames
            if count > stored:
                raise UnusableError(f"num_frames {count} in the manifest, but {stored} frames in the file")
        times = self._times(video, stored)[:count]
        try:
            digests = [digest_source(path).encode() for path in video.paths]
        except OSError as error:
            raise UnusableError(f"cannot be read: {error.strerror or error}") from error
        arrays = video.taken(self.keys)
        return Content(digest_parts(*digests, times.tobytes()), times, lambda: _blocks(arrays, count))

    def _times(self, video: FoundVideo, num_frames: int) -> NDArray[np.float64]:
        try:
            if "timestamps_ms" in video.timing:
                return check_timestamps(read_array(*video.timing["timestamps_ms"], _MAX_TIMES_BYTES), num_frames)
            fps = video.fps
            if fps is None and "fps" in video.timing:
                told = read_array(*video.timing["fps"], _MAX_TIMES_BYTES)
                if told.size != 1:
                    raise UnusableError(f"fps of shape {told.shape}; expected one number")
                fps = float(told.reshape(()))
            fps = self._fps if fps is None else fps
        except ArrayError as error:
            raise UnusableError(f"its times: {error}") from error
        if fps is None or not 0 < fps < math.inf:
            raise UnusableError(f"fps {fps}; expected a positive number")
        return regular_timestamps(num_frames, fps)


@dataclass(frozen=True)
class _Header:
    """Shape ``(T, *feature_shape)`` of all of a video's arrays together, and a dtype that holds them."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def _header(video: FoundVideo, keys: Sequence[str]) -> _Header | str:
    """Of its arrays, or why they cannot be imported."""
    if video.reason:
        return video.reason
    try:
        headers = [read_header(*array) for array in video.taken(keys)]
        for header in headers:
            check_shape(header.shape)
        first = headers[0].shape
        if any(header.shape[:-1] != first[:-1] for header in headers):
            return f"arrays of {' and '.join(str(header.shape) for header in headers)} cannot be put behind each other"
    except (ArrayError, UnusableError) as error:
        return str(error)
    dtype = np.result_type(*(header.dtype for header in headers))
    return _Header((*first[:-1], sum(header.shape[-1] for header in headers)), dtype)


def _blocks(arrays: Sequence[Array], num_frames: int) -> Iterator[NDArray[Any]]:
    """The features of arrays behind each other, in pieces ``(n, *feature_shape)``."""
    left = num_frames
    try:
        streams = [_Rows(read_blocks(*array)) for array in arrays]
        while left:
            count = min(left, *(stream.available() for stream in streams))
            pieces = [stream.take(count) for stream in streams]
            left -= count
            yield pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=-1)
    except ArrayError as error:
        raise UnusableError(str(error)) from error


class _Rows:
    """Frames of an array, so many at a time as others have too."""

    def __init__(self, blocks: Iterator[NDArray[Any]]) -> None:
        self._blocks = blocks
        self._rest = next(blocks)

    def available(self) -> int:
        if not len(self._rest):
            self._rest = next(self._blocks)
        return len(self._rest)

    def take(self, count: int) -> NDArray[Any]:
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken


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


def _choose_keys(found: Sequence[FoundVideo], asked: Sequence[str], where: str) -> tuple[str, ...]:
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


def _listed(found: Sequence[FoundVideo], manifest: Path, root: Path | None) -> list[FoundVideo]:
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
