"""Features in TFRecords of SequenceExamples, as YouTube-8M's frame-level files have them, and as we export them.

YouTube-8M (arXiv:1609.08675): context ``id`` (in its first version ``video_id``) and ``labels``; feature lists ``rgb``
and ``audio`` with one string of 1024 and 128 bytes per second of video, which stand for the range from -2 to 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError
from framecache.cache.exchange.import_config import ImportConfig
from framecache.cache.exchange.imported_video import (
    Content,
    ImportedVideo,
    UnusableError,
    check_shape,
    check_timestamps,
    refuse_other_shape,
    regular_timestamps,
)
from framecache.cache.exchange.tfrecord import (
    TFRECORD_SUFFIXES,
    RecordError,
    get_floats,
    read_records,
    sequence_example_class,
    set_floats,
)
from framecache.cache.fingerprint import digest_parts
from framecache.cache.folders import natural_key
from framecache.cache.manifest import LABEL_SEPARATOR, is_plain_name, printable

DEQUANTISED = "x * 4 / 255 + 4 / 512 - 2"  # YouTube-8M's utils.Dequantize
_LEVELS = (np.arange(256) * (4.0 / 255.0) + (4.0 / 512.0 - 2.0)).astype(np.float32)
_ONE_FPS = 1.0
_IDS = ("video_id", "id")
_KEYS = ("features", "rgb")  # taken unless another is named
_MOST_LOOKED_AT = 1000  # records, for one that says what features there are


class SequenceExamples:
    """The videos of some TFRecord files.

    Args:
        paths: The files.
        config: The import's options.

    Raises:
        InputError: No record can be read, or none has the feature list that is asked for.

    Attributes:
        feature_shape: Of one frame, as the first usable record has it.
        dtype: That holds the numbers: float16 where they are 8 bits.
        keys: The feature lists that are taken, in order.
        unlisted: Always none.
    """

    def __init__(self, paths: Sequence[Path], config: ImportConfig) -> None:
        if config.manifest is not None:
            raise InputError("--manifest: expected none with TFRecords, which name their videos themselves")
        self._paths = paths
        self._fps = float(config.fps or _ONE_FPS)
        self.keys = config.key
        self.unlisted: list[str] = []
        self.feature_shape, self.dtype = self._look()

    def __iter__(self) -> Iterator[ImportedVideo]:
        for path in self._paths:
            source = printable(str(path.absolute()))
            try:
                for number, record in enumerate(read_records(path)):
                    yield self._video(f"{source}#{number}", f"{printable(path.name)}#{number}", record)
            except OSError as error:
                reason = UnusableError(f"cannot be read: {error.strerror or error}")
                yield ImportedVideo(printable(path.name), source, "", _raiser(reason))

    def provenance(self) -> dict[str, Any]:
        """What the spec says of where the features come from."""
        how = {"dequantised": DEQUANTISED} if self._quantised else {}
        return {"format": "tfrecord", "keys": list(self.keys), "fps": self._fps, **how}

    def _look(self) -> tuple[tuple[int, ...], str]:
        """Shape and dtype of the first record that can be used; also chooses the keys."""
        reason = "they hold no record"
        looked_at = 0
        for path in self._paths:
            for record in read_records(path):
                looked_at += 1
                try:
                    example = _parse(record)
                    lists = example.feature_lists.feature_list
                    self.keys = self.keys or next(((key,) for key in _KEYS if key in lists), ())
                    if not self.keys:
                        reason = f"feature lists {', '.join(sorted(lists)) or 'none'}; name one or more with --key"
                        continue
                    features = _features(example, self.keys)
                    self._quantised = _is_quantised(example, self.keys)
                    return features.shape[1:], "float16" if self._quantised else "float32"
                except UnusableError as error:
                    reason = str(error)
                if looked_at >= _MOST_LOOKED_AT:
                    break
        named = ", ".join(map(str, self._paths[:3])) + ", …" * (len(self._paths) > 3)
        raise InputError(f"{named}: none of {looked_at} records can be imported: {reason}")

    def _video(self, source: str, name: str, record: bytes | RecordError) -> ImportedVideo:
        """A record's video; of one that is damaged, the failure under the record's own name."""
        try:
            example = _parse(record)
            video_id = _video_id(example)
        except UnusableError as error:
            return ImportedVideo(name, source, "", _raiser(error))

        def load() -> Content:
            features = _features(example, self.keys)
            refuse_other_shape(features.shape[1:], self.feature_shape)
            if _is_quantised(example, self.keys) != self._quantised:
                raise UnusableError("its features are bytes where others are floats, or the other way round")
            times = self._times(example, len(features))
            digest = digest_parts(features.tobytes(), times.tobytes())
            return Content(digest, times, lambda: iter([_LEVELS[features] if self._quantised else features]))

        labels = example.context.feature["labels"].int64_list.value
        return ImportedVideo(video_id, source, "", load, LABEL_SEPARATOR.join(map(str, labels)))

    def _times(self, example: Any, num_frames: int) -> NDArray[np.float64]:
        told = example.context.feature["timestamps_ms"].bytes_list.value
        if not told:
            return regular_timestamps(num_frames, self._fps)
        if len(told[0]) % 8:
            raise UnusableError(f"timestamps_ms of {len(told[0])} bytes; expected 8 per frame")
        return check_timestamps(np.frombuffer(told[0], "<f8"), num_frames)


def tfrecord_files(source: Path) -> list[Path]:
    """The TFRecords that a source means: itself, or those in the folder, in natural order; none if it has none."""
    if source.is_file():
        return [source] if source.suffix.lower() in TFRECORD_SUFFIXES else []
    found = [path for path in source.rglob("*") if path.suffix.lower() in TFRECORD_SUFFIXES and path.is_file()]
    return sorted(found, key=lambda path: natural_key(str(path)))


def encode_example(video_id: str, features: NDArray[Any], timestamps_ms: NDArray[np.float64]) -> bytes:
    """A video as a SequenceExample.

    Args:
        video_id: Context ``video_id``.
        features: ``(T, *feature_shape)``; feature list ``features`` has ``T`` lists of floats, context
            ``feature_shape`` the shape of one frame.
        timestamps_ms: Context ``timestamps_ms``, ``(T,)``, the bytes of little-endian float64.
    """
    example = sequence_example_class()()
    context = example.context.feature
    context["video_id"].bytes_list.value.append(video_id.encode())
    context["feature_shape"].int64_list.value.extend(features.shape[1:])
    context["timestamps_ms"].bytes_list.value.append(timestamps_ms.astype("<f8").tobytes())
    frames = example.feature_lists.feature_list["features"].feature
    for frame in features.astype(np.float32).reshape(len(features), -1):
        set_floats(frames.add(), frame)
    content: bytes = example.SerializeToString()
    return content


def _parse(record: bytes | RecordError) -> Any:
    from google.protobuf.message import DecodeError

    if isinstance(record, RecordError):
        raise UnusableError(str(record))
    try:
        return sequence_example_class().FromString(record)
    except DecodeError as error:
        raise UnusableError(f"a record that is no SequenceExample ({error})") from error


def _video_id(example: Any) -> str:
    for key in _IDS:
        named: Sequence[bytes] = example.context.feature[key].bytes_list.value
        if len(named) == 1:
            try:
                video_id = named[0].decode()
            except UnicodeDecodeError:
                raise UnusableError(f"context {key!r} is {named[0]!r}; expected UTF-8 text") from None
            if not is_plain_name(video_id):
                raise UnusableError(f"context {key!r} is {video_id!r}; expected a relative name without '..'")
            return video_id
    raise UnusableError(f"no context {' or '.join(map(repr, _IDS))} that names the video; is it frame-level?")


def _is_quantised(example: Any, keys: Sequence[str]) -> bool:
    return any(len(example.feature_lists.feature_list[key].feature[0].bytes_list.value) for key in keys)


def _features(example: Any, keys: Sequence[str]) -> NDArray[Any]:
    """Feature lists behind each other: ``(T, *feature_shape)``, uint8 of bytes and float32 of floats."""
    lists = example.feature_lists.feature_list
    missing = [key for key in keys if key not in lists]
    if missing:
        raise UnusableError(f"no feature list {missing[0]!r}, but {', '.join(sorted(lists)) or 'none'}")
    arrays: list[NDArray[Any]] = [_frames(lists[key].feature, key) for key in keys]
    if len({(len(array), array.dtype) for array in arrays}) > 1:
        told = " and ".join(f"{len(array)} frames of {array.dtype}" for array in arrays)
        raise UnusableError(f"{told} in {', '.join(keys)} cannot be put behind each other")
    features: NDArray[Any] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)
    length = features[0].size
    shape = tuple(example.context.feature["feature_shape"].int64_list.value) or (length,)
    if math.prod(shape) != length or min(shape) < 1:
        raise UnusableError(f"feature_shape {shape}, but {length} numbers per frame")
    features = features.reshape(len(features), *shape)
    check_shape(features.shape)
    return features


def _frames(frames: Sequence[Any], key: str) -> NDArray[Any]:
    if not frames:
        raise UnusableError(f"feature list {key!r} has no frame")
    arrays: list[NDArray[Any]]
    if frames[0].bytes_list.value:
        arrays = [np.frombuffer(b"".join(frame.bytes_list.value), np.uint8) for frame in frames]
    else:
        arrays = [get_floats(frame) for frame in frames]
    sizes = {len(array) for array in arrays}
    if len(sizes) > 1 or 0 in sizes:
        raise UnusableError(f"feature list {key!r} has frames of {', '.join(map(str, sorted(sizes)))} numbers")
    return np.concatenate(arrays).reshape(len(frames), -1)


def _raiser(error: UnusableError) -> Any:
    def load() -> Content:
        raise error

    return load
