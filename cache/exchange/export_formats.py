"""Features as files of other formats: a writer per format, each one video, or one file, in memory at most."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError
from framecache.cache.exchange.optional import load_optional
from framecache.cache.exchange.sequence_examples import encode_example
from framecache.cache.exchange.tfrecord import write_record
from framecache.cache.reader import FeatureSet

_BLOCK_BYTES = 4 << 20
_ROW_GROUP_BYTES = 64 << 20
Tick = Callable[[str], None]  # called after each video


@dataclass(frozen=True)
class ExportFormat:
    """How features are written.

    Attributes:
        suffix: Of the files of several videos; empty where each video has its own.
        dtype: Of the numbers; empty for the feature set's own.
        write: Writes some videos of a feature set into a file; of one video its own files, where suffix is empty.
        requires: Refuses what this machine cannot write.
        description: What the files are, and how they are read, for the README beside them.
    """

    suffix: str
    dtype: str
    write: Callable[[FeatureSet, Sequence[str], Path, Tick], None]
    requires: Callable[[], object]
    description: str


def _read(features: FeatureSet, video_id: str) -> Iterator[tuple[NDArray[Any], NDArray[np.float64]]]:
    """A video's features as they are meant, and its timestamps, in pieces."""
    frame_bytes = int(np.prod(features.feature_shape)) * features.dtype.itemsize
    for stored, times in features.read(video_id, max(1, _BLOCK_BYTES // frame_bytes)):
        yield features.decode(stored), times


def _whole(features: FeatureSet, video_id: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    pieces = list(_read(features, video_id))
    return np.concatenate([block for block, _ in pieces]), np.concatenate([times for _, times in pieces])


def npy_files(video_id: str) -> tuple[str, str]:
    """Names of a video's files: its features, and its timestamps as video_features names them."""
    path = PurePosixPath(video_id).as_posix()
    return f"{path}.npy", f"{path}_timestamps_ms.npy"


def refuse_colliding_names(video_ids: Sequence[str]) -> None:
    """Refuses videos whose own files would have one name, or the name of a folder.

    Raises:
        InputError: Naming one of them.
    """
    files = [name for video_id in video_ids for name in npy_files(video_id)]
    folders = {parent.as_posix() for name in files for parent in PurePosixPath(name).parents}
    known: set[str] = set()
    for name in files:
        if name in known or name in folders:
            raise InputError(f"--format npy: two videos would have a file {name!r}; use another format")
        known.add(name)


def _write_npy(features: FeatureSet, video_ids: Sequence[str], folder: Path, tick: Tick) -> None:
    for video_id in video_ids:
        path, times_path = (folder / name for name in npy_files(video_id))
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (features.length(video_id), *features.feature_shape)
        header = {"descr": features.dtype.str, "fortran_order": False, "shape": shape}
        times = []
        with path.open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for block, block_times in _read(features, video_id):
                stream.write(np.ascontiguousarray(block).data)
                times.append(block_times)
        np.save(times_path, np.concatenate(times))
        tick(video_id)


def _write_tfrecord(features: FeatureSet, video_ids: Sequence[str], path: Path, tick: Tick) -> None:
    with path.open("wb") as stream:
        for video_id in video_ids:
            write_record(stream, encode_example(video_id, *_whole(features, video_id)))
            tick(video_id)


def _write_parquet(features: FeatureSet, video_ids: Sequence[str], path: Path, tick: Tick) -> None:
    pa, parquet = _pyarrow(), _pyarrow_parquet()
    length = int(np.prod(features.feature_shape))
    frame = pa.list_(pa.float32(), length)
    fields = {
        "video_id": pa.string(),
        "num_frames": pa.int64(),
        "timestamps_ms": pa.list_(pa.float64()),
        "features": pa.list_(frame),
    }
    about = {"feature_shape": list(features.feature_shape), "fingerprint": features.fingerprint}
    schema = pa.schema(fields, metadata={"framecache": json.dumps(about)})
    with parquet.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        rows: list[Any] = []
        num_bytes = 0
        for video_id in video_ids:
            values, times = _whole(features, video_id)
            flat = pa.array(values.astype(np.float32, copy=False).reshape(-1))
            frames = pa.FixedSizeListArray.from_arrays(flat, length)
            columns = [
                pa.array([video_id]),
                pa.array([len(times)], pa.int64()),
                pa.ListArray.from_arrays([0, len(times)], pa.array(times)),
                pa.ListArray.from_arrays([0, len(times)], frames),
            ]
            rows.append(pa.RecordBatch.from_arrays(columns, schema=schema))
            num_bytes += flat.nbytes
            if num_bytes >= _ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(rows))
                rows, num_bytes = [], 0
            tick(video_id)
        if rows:
            writer.write_table(pa.Table.from_batches(rows))


def _write_safetensors(features: FeatureSet, video_ids: Sequence[str], path: Path, tick: Tick) -> None:
    tensors: dict[str, NDArray[Any]] = {}
    for video_id in video_ids:
        tensors[f"features/{video_id}"], tensors[f"timestamps_ms/{video_id}"] = _whole(features, video_id)
        tick(video_id)
    about = {"feature_set": features.name, "fingerprint": features.fingerprint}
    _safetensors().save_file(tensors, path, metadata=about)


def _pyarrow() -> Any:
    return load_optional("pyarrow", "--format parquet")


def _pyarrow_parquet() -> Any:
    return load_optional("pyarrow.parquet", "--format parquet")


def _safetensors() -> Any:
    return load_optional("safetensors.numpy", "--format safetensors")


FORMATS: Mapping[str, ExportFormat] = {
    "npy": ExportFormat(
        "",
        "",
        _write_npy,
        lambda: None,
        """\
`<video_id>.npy` has the features of one video, `(T, {shape})` {dtype}; `<video_id>_timestamps_ms.npy` the time of each
frame in its source, `(T,)` float64.

```python
import csv
import numpy as np

with open("videos.csv", encoding="utf-8", newline="") as stream:
    for row in csv.DictReader(stream):
        features = np.load(row["path"])
```
""",
    ),
    "tfrecord": ExportFormat(
        ".tfrecord",
        "float32",
        _write_tfrecord,
        lambda: None,
        """\
`features-*.tfrecord` have a SequenceExample per video. Context: `video_id`, `feature_shape`, and `timestamps_ms`, the
bytes of a little-endian float64 per frame. Feature list `features`: a list of {length} floats per frame, of a feature
map in row order.

```python
import glob
import tensorflow as tf

def parse(record):
    context, lists = tf.io.parse_single_sequence_example(
        record,
        {{"video_id": tf.io.FixedLenFeature([], tf.string), "timestamps_ms": tf.io.FixedLenFeature([], tf.string)}},
        {{"features": tf.io.FixedLenSequenceFeature([{length}], tf.float32)}},
    )
    return context["video_id"], lists["features"], tf.io.decode_raw(context["timestamps_ms"], tf.float64)

dataset = tf.data.TFRecordDataset(sorted(glob.glob("features-*.tfrecord"))).map(parse)
```
""",
    ),
    "parquet": ExportFormat(
        ".parquet",
        "float32",
        _write_parquet,
        lambda: (_pyarrow(), _pyarrow_parquet()),
        """\
`features-*.parquet` have a row per video: `video_id`, `num_frames`, `timestamps_ms` (float64 per frame) and `features`,
a list of {length} float32 per frame, of a feature map `({shape})` in row order.

```python
import glob
import numpy as np
import pyarrow.parquet as pq

for path in sorted(glob.glob("features-*.parquet")):
    for batch in pq.ParquetFile(path).iter_batches(batch_size=1):
        values = batch["features"].flatten().flatten().to_numpy()
        features = values.reshape(-1, {shape})
```
""",
    ),
    "safetensors": ExportFormat(
        ".safetensors",
        "",
        _write_safetensors,
        _safetensors,
        """\
`features-*.safetensors` have two tensors per video: `features/<video_id>` `(T, {shape})` {dtype}, and
`timestamps_ms/<video_id>` `(T,)` float64. `videos.csv` says which file has which video.

```python
import csv
from safetensors import safe_open

with open("videos.csv", encoding="utf-8", newline="") as stream:
    for row in csv.DictReader(stream):
        with safe_open(row["path"], framework="numpy") as file:
            features = file.get_tensor("features/" + row["video_id"])
```
""",
    ),
}
