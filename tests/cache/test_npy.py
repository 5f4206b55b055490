"""Arrays of files from anybody: numbers come out as NumPy reads them, and nothing else comes out."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framecache.cache.exchange.npy import ArrayError, array_names, read_array, read_blocks, read_header

BIG = np.arange(3000 * 512, dtype=np.float32).reshape(3000, 512)  # 6 MB, more than a block


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("array", [BIG, np.asfortranarray(BIG[:7]), BIG[:5].astype(">f8"), BIG[:3].astype("i2")])
def test_blocks_are_the_array(tmp_path: Path, suffix: str, array: Any) -> None:
    path, name = tmp_path / f"a{suffix}", None if suffix == ".npy" else "x"
    np.save(path, array) if suffix == ".npy" else np.savez_compressed(path, x=array, y=1)
    blocks = list(read_blocks(path, name))
    assert len(blocks) == (2 if len(array) == 3000 else 1)
    np.testing.assert_array_equal(np.concatenate(blocks), array)
    assert read_header(path, name).shape == array.shape
    np.testing.assert_array_equal(read_array(path, name), array)


def test_an_archive_names_its_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=BIG[:2], fps=25.0)
    assert sorted(array_names(tmp_path / "a.npz")) == ["features", "fps"]
    with pytest.raises(ArrayError, match="no array 'rgb' in it, but features, fps"):
        read_header(tmp_path / "a.npz", "rgb")


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    np.save(tmp_path / "a.npy", np.array([Touch()], object), allow_pickle=True)
    for read in (read_header, read_array, lambda path: list(read_blocks(path))):
        with pytest.raises(ArrayError, match="pickle"):
            read(tmp_path / "a.npy")
    assert not (tmp_path / "ran").exists()


def header_of(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()[: -array.nbytes]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"\x93NUMPY\x01\x00\xff\xffgarbage", "cannot be read"),
        (header_of(BIG[:2]).replace(b"\x93NUMPY\x01", b"\x93NUMPY\x03"), "version 3.0"),
        (header_of(BIG[:2]) + b"1234", "cut off"),
        (header_of(BIG[:2]).replace(b"(2, 512)", b"(1 << 60,)"), "cannot be read"),
        (header_of(BIG[:2]).replace(b"(2, 512), }", b"(9999999999999, 512), }")[:-12], "cut off|cannot be read"),
        (header_of(BIG[:2].astype(complex)) + bytes(BIG[:2].nbytes * 4), "complex128; expected real numbers"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_what_is_no_whole_array_of_numbers_is_refused(
    tmp_path: Path, content: bytes, message: str, zipped: bool
) -> None:
    path, name = tmp_path / ("a.npz" if zipped else "a.npy"), "x" if zipped else None
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", content)
    else:
        path.write_bytes(content)
    for read in (read_header, read_array, lambda *where: list(read_blocks(*where))):
        with pytest.raises(ArrayError, match=message):
            read(path, name)


def test_a_broken_archive_and_a_pipe_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=BIG)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ArrayError):
        list(read_blocks(tmp_path / "a.npz", "x"))
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(ArrayError, match="not a regular file"):
        read_header(tmp_path / "pipe.npy")


def test_an_array_that_must_be_read_whole_is_bounded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", BIG)
    with pytest.raises(ArrayError, match="expected at most 100"):
        read_array(tmp_path / "a.npy", max_bytes=100)
