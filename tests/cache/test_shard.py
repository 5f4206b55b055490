"""The shard's form: what is whole is accepted, what is cut or no shard is refused."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import h5py
import pytest

from framecache.cache import FeatureSet, ShardError, Spec
from framecache.cache.shard import read_rows, read_shard, shard_number

from .conftest import read_all


def test_a_whole_shard_is_accepted(shard: Path, spec: Spec) -> None:
    read_all(shard, spec)
    info = read_shard(shard)
    assert info.number == 1
    assert info.spec == spec
    assert info.features.shape == (5, 4)
    assert [row.video_id for row in read_rows(shard)] == ["v1", "v2"]


def test_a_user_block_before_the_data_moves_no_features(shard: Path, spec: Spec) -> None:
    wrapped = shard.with_suffix(".tmp")
    with h5py.File(shard, "r") as file, h5py.File(wrapped, "w", userblock_size=512) as copy:
        for name in file:
            copy[name] = file[name][()]
        for name in file.attrs:
            copy.attrs[name] = file.attrs[name]
    os.replace(wrapped, shard)
    assert FeatureSet(shard.parent, spec)["v2"].tolist() == [[2] * 4] * 2


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_shard_is_refused(keep: float, shard: Path) -> None:
    os.truncate(shard, int(shard.stat().st_size * keep))
    with pytest.raises(ShardError, match="not a whole, readable shard of format version 1"):
        read_shard(shard)


@pytest.mark.parametrize("declared", [(1000, 4), (1 << 62, 4), (5, 1 << 62)])
def test_features_that_declare_more_than_the_file_holds_are_refused(declared: tuple[int, int], shard: Path) -> None:
    raw = shard.read_bytes()
    shape, forged = struct.pack("<4Q", 5, 4, 5, 4), struct.pack("<4Q", *declared, *declared)
    assert raw.count(shape) == 1
    shard.write_bytes(raw.replace(shape, forged))
    with pytest.raises(ShardError, match="'features'"):
        read_shard(shard)


def test_features_beyond_the_end_of_the_file_are_refused(shard: Path) -> None:
    with h5py.File(shard, "r") as file:
        offset, num_bytes = file["features"].id.get_offset(), file["features"].nbytes
    raw = shard.read_bytes()
    extent, forged = struct.pack("<QQ", offset, num_bytes), struct.pack("<QQ", len(raw) - 16, num_bytes)
    assert raw.count(extent) == 1
    shard.write_bytes(raw.replace(extent, forged))
    with pytest.raises(ShardError, match="'features'"):
        read_shard(shard)


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n", bytes(5000)])
def test_what_is_no_hdf5_is_refused(content: bytes, shard: Path) -> None:
    shard.write_bytes(content)
    with pytest.raises(ShardError, match="not a whole, readable shard of format version 1"):
        read_shard(shard)


def test_a_folder_in_the_place_of_a_shard_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shard-000001-00000000.h5"
    path.mkdir()
    with pytest.raises(ShardError, match="not a whole, readable shard of format version 1"):
        read_shard(path)


def test_a_flipped_byte_anywhere_is_refused_or_leaves_the_shard_readable(shard: Path, spec: Spec) -> None:
    whole = shard.read_bytes()
    with h5py.File(shard, "r") as file:
        data = [
            range(d.id.get_offset(), d.id.get_offset() + d.nbytes) for d in (file["features"], file["timestamps_ms"])
        ]
    escaped: dict[int, Exception] = {}
    positions = [
        p for p in (*range(0, 1000, 17), *range(1000, len(whole), 131)) if not any(p in extent for extent in data)
    ]
    for position in positions:
        shard.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            read_shard(shard)
            read_rows(shard)
        except ShardError:
            pass
        except Exception as error:
            escaped[position] = error
    assert not escaped


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("shard-000001-0123abcd.h5", 1),
        ("shard-123456-0123abcd.h5", 123456),
        ("shard-1234567-0123abcd.h5", 1234567),
        (".shard-000001-0123abcd.h5.partial", None),
        ("shard-000001-0123abcd.h5.partial", None),
        ("shard-00001-0123abcd.h5", None),
        ("shard-000001-0123ABCD.h5", None),
        ("shard-000001-0123abc.h5", None),
        ("shard-000001.h5", None),
        ("old-shard-000001-0123abcd.h5", None),
        ("spec.json", None),
    ],
)
def test_only_sealed_shards_have_a_number(name: str, number: int | None) -> None:
    assert shard_number(Path("folder") / name) == number


def test_a_pipe_in_the_place_of_a_shard_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "shard-000001-00000000.h5"
    os.mkfifo(path)
    with pytest.raises(ShardError, match="not a file"):
        read_shard(path)
