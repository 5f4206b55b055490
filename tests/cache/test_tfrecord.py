"""TFRecord's framing: what is written is read back, and what is damaged is found."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from framecache.cache.exchange.tfrecord import (
    RecordError,
    get_floats,
    masked_crc,
    read_records,
    sequence_example_class,
    set_floats,
    write_record,
)

CONTENTS = [b"one", b"", b"three" * 100]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with (tmp_path / "a.tfrecord").open("wb") as stream:
        for content in CONTENTS:
            write_record(stream, content)
    return tmp_path / "a.tfrecord"


def test_the_check_sum_is_the_published_one() -> None:
    # CRC-32C of "123456789" is e3069283 (RFC 3720); masked by hand: rotated right by 15, plus a282ead8.
    assert masked_crc(b"123456789") == (((0xE3069283 >> 15) | (0xE3069283 << 17)) + 0xA282EAD8) % (1 << 32)


def test_records_are_read_back(path: Path) -> None:
    assert list(read_records(path)) == CONTENTS


def test_a_damaged_record_is_told_and_the_next_are_read(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[12] ^= 1  # of "one", behind the length and its sum
    path.write_bytes(content)
    damaged, *others = read_records(path)
    assert isinstance(damaged, RecordError)
    assert not damaged.last
    assert others == CONTENTS[1:]


@pytest.mark.parametrize("cut", [1, 4, 8, 200])
def test_a_file_that_is_cut_off_ends_with_an_error(path: Path, cut: int) -> None:
    path.write_bytes(path.read_bytes()[:-cut])
    *whole, last = read_records(path)
    assert whole == CONTENTS[:2]
    assert isinstance(last, RecordError)
    assert last.last


def test_a_damaged_length_is_not_followed(path: Path) -> None:
    path.write_bytes(struct.pack("<QI", 1 << 60, 0) + path.read_bytes()[12:])
    (error,) = read_records(path)
    assert isinstance(error, RecordError)
    assert "length" in str(error)


def test_a_length_beyond_the_file_is_not_allocated(path: Path) -> None:
    length = struct.pack("<Q", 1 << 60)
    path.write_bytes(length + struct.pack("<I", masked_crc(length)))
    (error,) = read_records(path)
    assert "cut off" in str(error)


@pytest.mark.parametrize("count", [0, 1, 31, 32, 5000])
def test_floats_are_the_same_as_those_set_one_by_one(count: int) -> None:
    values = np.linspace(-1, 1, count, dtype=np.float32)
    quick, slow = sequence_example_class()(), sequence_example_class()()
    set_floats(quick.context.feature["x"], values)
    slow.context.feature["x"].float_list.value.extend(values.tolist())
    assert quick == slow
    np.testing.assert_array_equal(get_floats(slow.context.feature["x"]), values)
