"""The form in which we write is read without libhdf5, as libhdf5 reads it, and no other form is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framecache.cache import ShardError, Spec
from framecache.cache.plain_hdf5 import NotPlainError, _message, read_layout
from framecache.cache.reader import list_shards
from framecache.cache.shard import DATASETS, ShardInfo, _check, _read_plain, read_shard

from .flip_worker import flipped
from .flips import random_flips

MakeSpec = Callable[..., Spec]
FillSet = Callable[..., Path]


def told(info: ShardInfo) -> tuple[object, ...]:
    """What opening a shard checks; where features lie is checked by their digests, the software with the ledger."""
    shapes = [(extent.shape, extent.dtype) for extent in (info.features, info.timestamps_ms)]
    return info.spec, info.number, info.num_bytes, shapes, info.index.dtype, info.index.tobytes()


@settings(max_examples=25)
@given(
    names=st.lists(
        st.text("abcü/", min_size=1, max_size=300).map(lambda name: f"v{name}"), min_size=1, max_size=9, unique=True
    ),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    dtype=st.sampled_from(["float16", "float32", "uint8"]),
    long=st.integers(0, 20_000),
)
def test_both_ways_of_reading_agree(
    names: list[str], shape: tuple[int, ...], dtype: str, long: int, make_spec: MakeSpec, fill_set: FillSet
) -> None:
    spec = make_spec(feature_shape=shape, dtype=dtype, preprocessing={"long": "x" * long})
    with TemporaryDirectory() as folder:
        videos = {name: np.ones((1 + len(name) % 3, *shape), dtype) for name in names}
        (path,) = list_shards(fill_set(Path(folder), spec, videos))
        plain, through_hdf5 = _check(path, _read_plain(path)), read_shard(path, with_hdf5=True)
        assert told(plain) == told(through_hdf5)
        assert (plain.features, plain.timestamps_ms) == (through_hdf5.features, through_hdf5.timestamps_ms)
        assert plain.software == through_hdf5.software


@pytest.mark.parametrize(
    "kind", ["f2", "f4", "f8", "u1", "i8", "S1", "S300", [("video_id", "S5"), ("start", "i8"), ("digest", "S32")]]
)
def test_a_dtype_is_written_as_libhdf5_writes_it(kind: str | list[tuple[str, str]]) -> None:
    written: bytes = h5py.h5t.py_create(np.dtype(kind), logical=True).encode()
    assert _message(np.dtype(kind)) == written[2:]  # two bytes say that it is a datatype


def test_libhdf5_is_not_asked_about_what_we_wrote(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h5py, "File", None)
    assert read_shard(shard).index["video_id"].tolist() == [b"v1", b"v2"]


def test_a_file_of_another_form_is_left_to_libhdf5(shard: Path, tmp_path: Path) -> None:
    other = tmp_path / shard.name
    with h5py.File(shard) as old, h5py.File(other, "w", libver="latest") as new:
        for name in DATASETS:
            old.copy(name, new)
        for name, value in old.attrs.items():
            new.attrs[name] = value
    with pytest.raises(NotPlainError):
        _read_plain(other)
    assert told(read_shard(other))[:2] == told(read_shard(shard))[:2]


def test_any_flipped_bit_is_noticed_or_changes_nothing_that_is_read(shard: Path, tmp_path: Path) -> None:
    expected, whole, copy = told(read_shard(shard)), shard.read_bytes(), tmp_path / shard.name
    copy.write_bytes(whole)
    noticed = 0
    for byte, bit in random_flips(shard, 4000, seed=5):
        with flipped(copy, whole, byte, bit):
            try:
                found = _check(copy, _read_plain(copy))
            except (NotPlainError, ShardError, ValueError, TypeError):
                noticed += 1
            else:
                assert told(found) == expected, (byte, bit)
    assert noticed > 400


@pytest.mark.parametrize("size", [0, 8, 95, 96, 500, 5000])
def test_a_cut_file_is_not_plain(size: int, shard: Path) -> None:
    os.truncate(shard, size)
    descriptor = os.open(shard, os.O_RDONLY)
    try:
        with pytest.raises(NotPlainError):
            read_layout(descriptor, DATASETS)
    finally:
        os.close(descriptor)


def test_a_header_that_continues_in_itself_ends(shard: Path) -> None:
    raw = bytearray(shard.read_bytes())
    root = int.from_bytes(raw[64:72], "little")
    assert raw[root + 16] == 0x10  # the first message of the root group says where the others are
    raw[root + 24 : root + 40] = (root + 16).to_bytes(8, "little") + (24).to_bytes(8, "little")
    raw[root + 2 : root + 4] = b"\xff\xff"
    shard.write_bytes(raw)
    with pytest.raises(NotPlainError):
        _read_plain(shard)
