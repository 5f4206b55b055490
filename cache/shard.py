"""The shard, format version 1: an immutable HDF5 file with the features of some videos of one feature set.

    features       (num_frames, *feature_shape)  contiguous, uncompressed: can be memory-mapped
    timestamps_ms  (num_frames,)                 float64, presentation time in the source
    index          (num_videos,)                 compound: video_id, start, length, digest, source_digest
    ledger         (num_videos,)                 compound: source, source_stat, frames_expected,
                                                 frames_decoded, warnings
    attributes     format_version, spec (JSON), software (JSON: versions and the engine), shard (its own
                   name), index_digest, ledger_digest

The index's digest covers all that says where and of what the features are, and is checked whenever a shard is
opened; the ledger's covers the rest. Features and timestamps have a digest per video, in the index.

Strings are fixed-length UTF-8, so that the file holds no variable-length heap, no object type and no
reference. A shard may come from anybody: everything is checked before it is believed.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache import untrusted
from framecache.cache.errors import InputError, ShardError
from framecache.cache.fingerprint import FeatureDigest, digest_parts
from framecache.cache.index import Names, hash_names, pad_names
from framecache.cache.manifest import is_plain_name
from framecache.cache.plain_hdf5 import Extent, NotPlainError, read_layout
from framecache.cache.spec import FORMAT_VERSION, Spec

if TYPE_CHECKING:
    import h5py

SHARD_PATTERN = re.compile(r"shard-(\d{6,})-[0-9a-f]{8}\.h5")
INDEX_FIELDS = {"video_id": "S", "start": "i8", "length": "i8", "digest": "S", "source_digest": "S"}
LEDGER_FIELDS = {"source": "S", "source_stat": "S", "frames_expected": "i8", "frames_decoded": "i8", "warnings": "S"}
DATASETS = ("features", "timestamps_ms", "index", "ledger")
ATTRIBUTES = ("format_version", "spec", "software", "shard", "index_digest", "ledger_digest")
UNKNOWN = -1  # frames_expected of a container that does not say

_COPY_BYTES = 4 << 20


@dataclass(frozen=True)
class VideoRow:
    """What a shard says of one video beside its features."""

    video_id: str
    length: int
    digest: str
    source: str
    source_digest: str
    source_stat: str
    frames_expected: int | None
    frames_decoded: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ShardInfo:
    """A checked shard: where its arrays lie and which videos it holds.

    Attributes:
        path: The file.
        number: Its place in the order of writing; of two rows for one video the later shard's counts.
        num_bytes: Size of the file.
        spec: The spec it was written under.
        software: Versions and engine that computed it.
        features: Extent of the ``(num_frames, *feature_shape)`` array.
        timestamps_ms: Extent of the ``(num_frames,)`` array.
        index: Structured array ``(num_videos,)`` with :data:`INDEX_FIELDS`.
        name_hashes: Of its ``video_id``s ``(num_videos,)``, by :func:`framecache.cache.index.hash_names`.
    """

    path: Path
    number: int
    num_bytes: int
    spec: Spec
    software: Mapping[str, str]
    features: Extent
    timestamps_ms: Extent
    index: NDArray[np.void]
    name_hashes: NDArray[np.uint64]


def shard_number(path: Path) -> int | None:
    """The number in a shard's file name; None for a file that is no visible shard."""
    match = SHARD_PATTERN.fullmatch(path.name)
    return int(match[1]) if match else None


@dataclass(frozen=True)
class _Content:
    """What a shard's file says, as far as its form allows it to be read."""

    num_bytes: int
    spec: Spec
    spec_json: bytes
    software: Mapping[str, str]
    name: str
    index_digest: str
    extents: Mapping[str, Extent]
    index: NDArray[np.void]


def read_shard(path: Path, with_hdf5: bool = False) -> ShardInfo:
    """Opens, checks and closes a shard; reads its index and none of its features.

    Args:
        path: The file.
        with_hdf5: Whether libhdf5 has to find the file in order too, which takes ten times as long; by default it
            is asked only about a file that it has not laid out in the way we know.

    Raises:
        ShardError: The file is not a whole, well-formed shard of format version 1.
    """
    try:
        found = None if with_hdf5 else _read_plain(path)
    except (OSError, ValueError, TypeError, RecursionError):  # NotPlainError too
        found = None  # the other way to read it tells what is wrong
    return _check(path, _read_with_hdf5(path) if found is None else found)


def _read_plain(path: Path) -> _Content:
    """Reads a file that is exactly as we write it.

    Raises:
        NotPlainError: It is different.
        OSError: It cannot be read.
        ValueError: An attribute is not what it should be; TypeError and RecursionError too.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if not S_ISREG(status.st_mode):
            raise NotPlainError(f"{path}: not a file")
        extents, attributes = read_layout(descriptor, DATASETS)
        if attributes.keys() != set(ATTRIBUTES) or attributes.pop("format_version") != FORMAT_VERSION:
            raise NotPlainError(f"{path}: other attributes")
        texts = {name: value for name, value in attributes.items() if isinstance(value, bytes)}
        extent = extents["index"]
        if (
            any(len(text) > untrusted.ATTRIBUTE_BYTES for text in texts.values())
            or len(texts) < len(attributes)
            or not untrusted.has_fields(extent.dtype, INDEX_FIELDS)
            or not untrusted.has_fields(extents["ledger"].dtype, LEDGER_FIELDS)
            or extent.num_bytes > untrusted.MAX_TABLE_BYTES
        ):
            raise NotPlainError(f"{path}: other attributes or tables")
        index = np.frombuffer(os.pread(descriptor, extent.num_bytes, extent.offset), extent.dtype)
        if index.shape != extent.shape:
            raise NotPlainError(f"{path}: it is being cut")
    finally:
        os.close(descriptor)
    return _Content(
        num_bytes=status.st_size,
        spec=_parse_spec(texts["spec"]),
        spec_json=texts["spec"],
        software=_json_object(texts["software"]),
        name=texts["shard"].decode(),
        index_digest=texts["index_digest"].decode(),
        extents=extents,
        index=index,
    )


def _read_with_hdf5(path: Path) -> _Content:
    """Reads a file of any form, and says what is wrong with it.

    Raises:
        ShardError: It is not in the form of a shard.
    """
    with untrusted.reading(path, DATASETS, ATTRIBUTES) as file:
        return _Content(
            num_bytes=path.stat().st_size,
            spec=_read_spec(file, path),
            spec_json=untrusted.text_attribute(file, "spec", path),
            software=_json_object(untrusted.text_attribute(file, "software", path)),
            name=untrusted.text_attribute(file, "shard", path).decode(),
            index_digest=untrusted.text_attribute(file, "index_digest", path).decode(),
            extents={name: untrusted.extent(file, name, path) for name in DATASETS},
            index=untrusted.table(file, "index", INDEX_FIELDS, path),
        )


def _check(path: Path, content: _Content) -> ShardInfo:
    """Checks what a file says, in whatever way it was read.

    Raises:
        ShardError: It is not what we write.
    """
    spec, index = content.spec, content.index
    _refuse_overlap(content.extents, path)
    features, timestamps = content.extents["features"], content.extents["timestamps_ms"]
    num_frames = features.shape[0] if features.shape else 0
    if features.shape[1:] != spec.feature_shape or features.dtype != np.dtype(spec.dtype):
        raise ShardError(
            f"{path}: features are {features.shape} {features.dtype}; "
            f"its spec says (num_frames, {', '.join(map(str, spec.feature_shape))}) {spec.dtype}"
        )
    if timestamps.shape != (num_frames,) or timestamps.dtype != np.float64:
        raise ShardError(f"{path}: timestamps_ms is {timestamps.shape} {timestamps.dtype}, expected ({num_frames},)")
    start, length = np.ascontiguousarray(index["start"]), np.ascontiguousarray(index["length"])
    if len(index) and (start.min() < 0 or length.min() < 1 or (start > num_frames - length).any()):
        raise ShardError(f"{path}: the index points outside the {num_frames} frames of the shard")
    if length.sum() != num_frames or (start != np.cumsum(length) - length).any():
        raise ShardError(f"{path}: the videos of the index do not follow each other, or leave frames to nobody")
    names = pad_names(index["video_id"])
    name_hashes = hash_names(names)
    _check_names(names, name_hashes, path)
    if index_digest(content.name, content.spec_json, features, timestamps, index) != content.index_digest:
        raise ShardError(f"{path}: its index, spec or extents are not the ones that were written")
    if content.name != path.name:
        raise ShardError(f"{path}: this file was sealed as {content.name}; was it renamed or copied?")
    number, software = shard_number(path) or 0, content.software
    return ShardInfo(path, number, content.num_bytes, spec, software, features, timestamps, index, name_hashes)


def _check_names(names: Names, name_hashes: NDArray[np.uint64], path: Path) -> None:
    """Refuses names that are paths, doubles, or no text.

    Args:
        names: As :func:`framecache.cache.index.pad_names` gives them.
        name_hashes: Theirs.
        path: Of the shard.

    Raises:
        ShardError: Naming the first.
    """
    width, raw = names.itemsize, names.tobytes()
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise untrusted.unreadable(path, error) from error
    # Whatever might be no plain name, looked at all at once; a million names one by one would take ten seconds.
    letters = np.frombuffer(raw, np.uint8)
    is_letter = letters != 0
    first = letters[::width].copy()
    begins = np.count_nonzero(is_letter[1:] > is_letter[:-1])  # of names behind the first, and behind a NUL within
    is_dot = letters == ord(".")
    dots = (is_dot[1:] & is_dot[:-1]).any()  # five times as quick as to ask bytes for two of them
    suspicious = dots or not first.all() or (first == ord("/")).any() or begins != len(names) - 1
    odd = [name for one in names.tolist() if not is_plain_name(name := one.decode())] if suspicious else []
    hashes = np.sort(name_hashes)
    doubles = (hashes[1:] == hashes[:-1]).any() and len(set(names.tolist())) < len(names)
    if odd or doubles:
        raise ShardError(f"{path}: the index names a video twice, or a path ({odd[:1]}), where a plain name belongs")


def read_tables(path: Path) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """The index and the ledger of a shard, a row per video.

    Raises:
        ShardError: The file is not a whole, well-formed shard.
    """
    with untrusted.reading(path, DATASETS, ATTRIBUTES) as file:
        index = untrusted.table(file, "index", INDEX_FIELDS, path)
        ledger = untrusted.table(file, "ledger", LEDGER_FIELDS, path)
        if len(index) != len(ledger):
            raise ShardError(f"{path}: index has {len(index)} rows, ledger {len(ledger)}")
        expected = untrusted.text_attribute(file, "ledger_digest", path).decode()
        if ledger_digest(untrusted.text_attribute(file, "software", path), ledger) != expected:
            raise ShardError(f"{path}: its ledger or software attribute is not the one that was written")
        return index, ledger


def read_rows(path: Path) -> list[VideoRow]:
    """All that a shard says of its videos, in its order.

    Raises:
        ShardError: The file is not a whole, well-formed shard.
    """
    index, ledger = read_tables(path)
    try:
        return [
            VideoRow(
                video_id=video_id.decode(),
                length=length,
                digest=digest.decode(),
                source=source.decode(),
                source_digest=source_digest.decode(),
                source_stat=source_stat.decode(),
                frames_expected=None if expected == UNKNOWN else expected,
                frames_decoded=decoded,
                warnings=tuple(str(warning) for warning in _json_list(warnings)),
            )
            for (video_id, _, length, digest, source_digest), (source, source_stat, expected, decoded, warnings) in zip(
                index.tolist(), ledger.tolist(), strict=True
            )
        ]
    except (ValueError, TypeError, RecursionError) as error:
        raise untrusted.unreadable(path, error) from error


def read_stored(info: ShardInfo, row: int, num_frames: int) -> Iterator[tuple[NDArray[Any], NDArray[np.float64]]]:
    """Reads a video's stored features ``(n, *feature_shape)`` and timestamps ``(n,)``, so many frames at a time.

    Reads the file instead of mapping it: a file that shrinks meanwhile is an error and not a signal, and what was
    read does not stay in the process's memory.

    Raises:
        ShardError: The file cannot be read.
    """
    start, length = int(info.index["start"][row]), int(info.index["length"][row])
    shape, dtype = info.features.shape[1:], info.features.dtype
    frame_bytes = math.prod(shape) * dtype.itemsize
    try:
        with info.path.open("rb", buffering=0) as stream:
            for begin in range(start, start + length, num_frames):
                count = min(num_frames, start + length - begin)
                features = os.pread(stream.fileno(), count * frame_bytes, info.features.offset + begin * frame_bytes)
                times = os.pread(stream.fileno(), count * 8, info.timestamps_ms.offset + begin * 8)
                if len(features) < count * frame_bytes or len(times) < count * 8:
                    raise ShardError(f"{info.path}: ends before the frames of its index do; it is truncated")
                yield np.frombuffer(features, dtype).reshape(count, *shape), np.frombuffer(times, np.float64)
    except ShardError:
        raise
    except OSError as error:
        raise ShardError(f"{info.path}: cannot be read ({error.strerror})") from error


def digest_stored(info: ShardInfo, row: int) -> Iterator[str]:
    """Digests a video's stored bytes again, to be compared with the index's ``digest``.

    Yields:
        An empty string after each block of a few MB but the last; then the digest.

    Raises:
        ShardError: The file cannot be read.
    """
    frame_bytes = math.prod(info.features.shape[1:]) * info.features.dtype.itemsize
    digest = FeatureDigest()
    for number, (features, times) in enumerate(read_stored(info, row, max(1, _COPY_BYTES // frame_bytes))):
        if number:
            yield ""
        digest.update(features, times)
    yield digest.hexdigest()


def index_digest(name: str, spec: bytes, features: Extent, timestamps: Extent, index: NDArray[np.void]) -> str:
    """Of all that says where and of what the features are; the offsets are left out, since the videos' digests tell."""
    shapes = f"{features.shape} {features.dtype.str} {timestamps.shape} {timestamps.dtype.str} {_layout(index)}"
    return digest_parts(str(FORMAT_VERSION).encode(), name.encode(), spec, shapes.encode(), _bytes_of(index))


def ledger_digest(software: bytes, ledger: NDArray[np.void]) -> str:
    """Of the rest that is told of the videos, and of what computed them."""
    return digest_parts(software, _layout(ledger).encode(), _bytes_of(ledger))


def _bytes_of(table: NDArray[np.void]) -> memoryview:
    return np.ascontiguousarray(table).view(np.uint8).data


def _layout(table: NDArray[np.void]) -> str:
    return str([(field, table.dtype[field].str) for field in table.dtype.names or ()])


def _json_list(value: bytes) -> list[object]:
    found = json.loads(value)
    if not isinstance(found, list):
        raise TypeError(f"expected a list, found {found!r}")
    return found


def _refuse_overlap(extents: Mapping[str, Extent], path: Path) -> None:
    """What lies in two datasets at once was never written by us."""
    end, before = 0, ""
    for name, extent in sorted(extents.items(), key=lambda item: item[1].offset):
        if extent.offset < end:
            raise ShardError(f"{path}: {name!r} begins within {before!r}; the bytes of two datasets overlap")
        end, before = extent.offset + extent.num_bytes, name


def _read_spec(file: h5py.File, path: Path) -> Spec:
    import h5py

    version: object = None
    if h5py.h5a.exists(file.id, b"format_version"):
        kind = h5py.h5a.open(file.id, b"format_version").get_type()
        # What is no integer might be of variable length, and is not even read.
        version = file.attrs["format_version"] if isinstance(kind, h5py.h5t.TypeIntegerID) else "that is no integer"
    if np.ndim(version) or version != FORMAT_VERSION:  # type: ignore[arg-type]
        raise ShardError(f"{path}: format version {version}, expected {FORMAT_VERSION}; use the release that wrote it")
    try:
        return _parse_spec(untrusted.text_attribute(file, "spec", path))
    except InputError as error:
        raise ShardError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path}: its spec attribute is missing or not JSON") from error


@lru_cache(maxsize=64)
def _parse_spec(text: bytes) -> Spec:
    """The spec of a JSON text: of all shards of a feature set the same, so that it is made once."""
    return Spec.from_dict(json.loads(text))


def _json_object(value: bytes) -> dict[str, str]:
    found = json.loads(value)
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise TypeError(f"expected an object of strings, found {found!r}")
    return found
