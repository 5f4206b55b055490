"""Folders of .npy and .npz files of shape ``(T, D)`` or ``(T, h, w, C)``, one video each or several files of one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError
from framecache.cache.exchange.array_files import Array, FoundVideo, choose_keys, find_videos, list_videos
from framecache.cache.exchange.import_config import ImportConfig
from framecache.cache.exchange.imported_video import (
    Content,
    ImportedVideo,
    UnusableError,
    check_shape,
    check_timestamps,
    most_common_shape,
    refuse_other_shape,
    regular_timestamps,
)
from framecache.cache.exchange.npy import ArrayError, read_array, read_blocks, read_header
from framecache.cache.fingerprint import digest_parts, digest_source, stat_source
from framecache.cache.manifest import Video, printable, refuse_duplicate_ids

_MAX_TIMES_BYTES = 1 << 26
_SHOWN = 3


class ArrayFolder:
    """The videos of some folders and files.

    Args:
        sources: Folders, and .npy and .npz files.
        config: The import's options.

    Raises:
        InputError: There is no array, none of the key that is asked for, or videos whose frame rate nobody says.

    Attributes:
        feature_shape: Of one frame; most videos have it.
        dtype: float16 if most of their numbers are, else float32.
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
            listed = list_videos(found, config.manifest, config.root)
            taken = {path for video in listed for path in video.paths}
            self.unlisted = [video.video_id for video in found if not taken.intersection(video.paths)]
            found = listed
        refuse_duplicate_ids([Video(video.video_id, Path()) for video in found], where)
        self.keys = choose_keys(found, config.key, where)
        self._fps = config.fps
        headers = {video.video_id: _header(video, self.keys) for video in found}
        usable = [header for header in headers.values() if isinstance(header, _Header)]
        if not usable:
            first = next(iter(headers.items()))
            raise InputError(f"{where}: none of {len(found)} videos can be imported; {first[0]!r}: {first[1]}")
        self.feature_shape = most_common_shape([header.shape[1:] for header in usable])
        # As most of them are, so that one more file does not make another feature set.
        halves = [header.dtype == np.float16 for header in usable if header.shape[1:] == self.feature_shape]
        self.dtype = "float16" if sum(halves) > len(halves) / 2 else "float32"
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
            stats = [stat_source(path) for path in self._files(video, header)]
        except OSError as error:
            header, stats = f"cannot be read: {error.strerror or error}", []
        stat = "|".join([*stats, f"{video.fps} {video.num_frames}"]) if stats else ""

        def load() -> Content:
            if isinstance(header, str):
                raise UnusableError(header)
            return self._load(video, header)

        return ImportedVideo(video.video_id, source, stat, load)

    def _files(self, video: FoundVideo, header: _Header | str) -> list[Path]:
        """All files that its features and times come from."""
        arrays = [] if isinstance(header, str) else video.taken(self.keys)
        return list(dict.fromkeys(array.path for array in (*arrays, *video.timing.values())))

    def _load(self, video: FoundVideo, header: _Header) -> Content:
        refuse_other_shape(header.shape[1:], self.feature_shape)
        count, stored = header.shape[0], header.shape[0]
        if video.num_frames is not None:
            count = video.num_frames
            if count > stored:
                raise UnusableError(f"num_frames {count} in the manifest, but {stored} frames in the file")
        times = self._times(video, stored)[:count]
        try:
            digests = [digest_source(path).encode() for path in self._files(video, header)]
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
