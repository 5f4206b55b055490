"""Writing the file of a shard: its tables are packed, libhdf5 lays them out, the features follow as plain bytes."""

from __future__ import annotations

import errno
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache import untrusted
from framecache.cache.shard import UNKNOWN, VideoRow, index_digest, ledger_digest
from framecache.cache.spec import FORMAT_VERSION, Spec

Tables = tuple[NDArray[np.void], NDArray[np.void]]  # index and ledger, (num_videos,) each
_ALIGNMENT_BYTES = 64  # of every object in the file, so that mapped rows are aligned


def write_shard(
    path: Path,
    name: str,
    spec: Spec,
    software: Mapping[str, str],
    tables: Tables,
    features: Iterable[bytes | memoryview],
    timestamps_ms: NDArray[np.float64],
) -> None:
    """Writes a shard to ``path``, which nobody may be reading yet.

    HDF5 never touches the disk: it lays the file out in memory, with the features last, and they are then written
    behind it as plain bytes. On a full disk, closing a file of HDF5's own can end in a segmentation fault.

    Args:
        path: A temporary name.
        name: The name under which the caller makes it visible, once and for ever.
        spec: What the features are the features of.
        software: Versions and engine, for the record.
        tables: Of the videos, in the order of their frames.
        features: The bytes of the concatenated features, in pieces; what comes behind them is left.
        timestamps_ms: Of all frames ``(num_frames,)``.

    Raises:
        OSError: The disk refused.
    """
    layout, offset = _lay_out(name, spec, software, tables, timestamps_ms)
    left = len(timestamps_ms) * math.prod(spec.feature_shape) * np.dtype(spec.dtype).itemsize
    with path.open("wb") as stream:
        stream.write(layout.getbuffer()[:offset])
        for block in features:
            left -= stream.write(block[:left])
            if not left:
                break
    if left:
        raise OSError(errno.EIO, "the features of some frames are gone from the temporary file", str(path))


def _lay_out(
    name: str,
    spec: Spec,
    software: Mapping[str, str],
    tables: Tables,
    timestamps_ms: NDArray[np.float64],
) -> tuple[io.BytesIO, int]:
    """The file up to its features, and the offset at which they begin; they end the file."""
    import h5py

    index, ledger = tables
    spec_json, software_json = json.dumps(spec.to_dict()).encode(), json.dumps(dict(software)).encode()
    memory = io.BytesIO()
    with h5py.File(memory, "w", libver="earliest", alignment_threshold=1, alignment_interval=_ALIGNMENT_BYTES) as file:
        features = file.create_dataset("features", (len(timestamps_ms), *spec.feature_shape), spec.dtype)
        file.create_dataset("timestamps_ms", data=timestamps_ms)
        file.create_dataset("index", data=index)
        file.create_dataset("ledger", data=ledger)
        extents = untrusted.extent_of(features), untrusted.extent_of(file["timestamps_ms"])
        file.attrs["format_version"] = FORMAT_VERSION
        for attribute, text in {
            "spec": spec_json,
            "software": software_json,
            "shard": name.encode(),
            "index_digest": index_digest(name, spec_json, *extents, index).encode(),
            "ledger_digest": ledger_digest(software_json, ledger).encode(),
        }.items():
            file.attrs[attribute] = np.bytes_(text)
        features[:1] = 0  # the first write gives a dataset its place: behind all the others
        offset = features.id.get_offset()
    return memory, offset


def pack_rows(rows: Sequence[VideoRow]) -> Tables:
    """The tables of some videos, in the order of their frames."""
    expected = [UNKNOWN if row.frames_expected is None else row.frames_expected for row in rows]
    lengths = np.array([row.length for row in rows], np.int64)
    index = pack_table(
        {
            "video_id": _bytes([row.video_id for row in rows]),
            "start": np.cumsum(lengths) - lengths,
            "length": lengths,
            "digest": _bytes([row.digest for row in rows]),
            "source_digest": _bytes([row.source_digest for row in rows]),
        }
    )
    ledger = pack_table(
        {
            "source": _bytes([row.source for row in rows]),
            "source_stat": _bytes([row.source_stat for row in rows]),
            "frames_expected": np.array(expected, np.int64),
            "frames_decoded": np.array([row.frames_decoded for row in rows], np.int64),
            "warnings": _bytes([json.dumps(row.warnings) for row in rows]),
        }
    )
    return index, ledger


def pack_table(columns: Mapping[str, NDArray[Any]]) -> NDArray[np.void]:
    """Columns ``(num_videos,)`` as a table with a row per video."""
    table = np.empty(
        len(next(iter(columns.values()))), np.dtype([(name, column.dtype) for name, column in columns.items()])
    )
    for name, column in columns.items():
        table[name] = column
    return table


def _bytes(texts: Sequence[str]) -> NDArray[np.bytes_]:
    return np.array([text.encode() for text in texts], np.bytes_)
