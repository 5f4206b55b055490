"""Digests: equal for equal content, another for any other."""

from __future__ import annotations

import hashlib
import os
import time
from itertools import pairwise
from pathlib import Path
from stat import S_IFREG
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framecache.cache.fingerprint import FeatureDigest, canonical_json, digest_source, fingerprint, stat_source

FEATURES = np.arange(24, dtype=np.float16).reshape(6, 4)
TIMESTAMPS_MS = np.arange(6) * 40.0


def digest_of(features: np.ndarray, timestamps_ms: np.ndarray) -> str:
    digest = FeatureDigest()
    digest.update(features, timestamps_ms)
    return digest.hexdigest()


def test_a_fingerprint_is_the_sha256_of_sorted_compact_json() -> None:
    expected = hashlib.sha256(b'{"a":{"y":"\\u00fc","z":1},"b":[1,2]}').hexdigest()
    assert fingerprint({"b": [1, 2], "a": {"z": 1, "y": "ü"}}) == expected


def test_the_order_of_keys_does_not_change_a_fingerprint() -> None:
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_without_one_spelling_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": value})


def test_a_feature_digest_of_old_caches_still_holds() -> None:
    assert digest_of(FEATURES, TIMESTAMPS_MS) == "67c7001368763163b7a06366b564b991"


@given(cuts=st.lists(st.integers(0, 6)))
def test_a_feature_digest_does_not_depend_on_the_pieces(cuts: list[int]) -> None:
    digest = FeatureDigest()
    edges = [0, *sorted(cuts), 6]
    for begin, end in pairwise(edges):
        digest.update(FEATURES[begin:end], TIMESTAMPS_MS[begin:end])
    assert digest.hexdigest() == digest_of(FEATURES, TIMESTAMPS_MS)


def test_a_feature_digest_does_not_depend_on_the_memory_layout() -> None:
    assert digest_of(np.asfortranarray(FEATURES), TIMESTAMPS_MS) == digest_of(FEATURES, TIMESTAMPS_MS)


@given(byte=st.integers(0, FEATURES.nbytes - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_of_the_features_changes_their_digest(byte: int, bit: int) -> None:
    flipped = bytearray(FEATURES.tobytes())
    flipped[byte] ^= 1 << bit
    hurt = np.frombuffer(flipped, np.float16).reshape(FEATURES.shape)
    assert digest_of(hurt, TIMESTAMPS_MS) != digest_of(FEATURES, TIMESTAMPS_MS)


@given(byte=st.integers(0, TIMESTAMPS_MS.nbytes - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_of_the_timestamps_changes_the_digest(byte: int, bit: int) -> None:
    flipped = bytearray(TIMESTAMPS_MS.tobytes())
    flipped[byte] ^= 1 << bit
    assert digest_of(FEATURES, np.frombuffer(flipped)) != digest_of(FEATURES, TIMESTAMPS_MS)


def test_a_source_digest_depends_on_the_content_alone(tmp_path: Path) -> None:
    one, two, other = tmp_path / "one.mp4", tmp_path / "two.mkv", tmp_path / "other.mp4"
    content = b"x" * (1 << 20) + b"beyond the first block"
    one.write_bytes(content)
    two.write_bytes(content)
    other.write_bytes(content[:-1] + b"!")
    assert digest_source(one) == digest_source(two) != digest_source(other)


def test_the_digest_of_a_folder_covers_names_and_contents_of_its_files(tmp_path: Path) -> None:
    def folder_of(name: str, files: dict[str, bytes]) -> str:
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_bytes(content)
        return digest_source(tmp_path / name)

    digest = folder_of("a", {"1.png": b"one", "2.png": b"two"})
    assert folder_of("b", {"2.png": b"two", "1.png": b"one"}) == digest
    assert folder_of("c", {"1.png": b"one", "2.png": b"2"}) != digest
    assert folder_of("d", {"1.png": b"one", "3.png": b"two"}) != digest
    assert folder_of("e", {"1.png": b"two", "2.png": b"one"}) != digest
    assert folder_of("f", {"1.png": b"one"}) != digest


def test_a_missing_source_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        digest_source(tmp_path / "missing.mp4")
    with pytest.raises(FileNotFoundError):
        stat_source(tmp_path / "missing.mp4")


def test_an_unchanged_file_keeps_its_signature(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"frames")
    before = stat_source(path)
    path.read_bytes()
    assert stat_source(path) == before


def test_a_forged_mtime_does_not_hide_a_change(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"frames")
    stat, before = path.stat(), stat_source(path)
    time.sleep(0.02)  # longer than a tick of the file system's clock
    path.write_bytes(b"FRAMES")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert stat_source(path) != before


@pytest.mark.parametrize("changed", ["st_size", "st_mtime_ns", "st_ctime_ns", "st_ino"])
def test_size_times_and_inode_each_change_the_signature(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = {"st_mode": S_IFREG, "st_size": 1, "st_mtime_ns": 2, "st_ctime_ns": 3, "st_ino": 4}
    monkeypatch.setattr(Path, "stat", lambda _: SimpleNamespace(**stat))
    monkeypatch.setattr(Path, "is_dir", lambda _: False)
    before = stat_source(Path("a.mp4"))
    stat[changed] += 1
    assert stat_source(Path("a.mp4")) != before


def test_the_signature_of_a_folder_changes_with_its_files(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"one")
    before = stat_source(tmp_path)
    assert stat_source(tmp_path) == before
    (tmp_path / "2.png").write_bytes(b"two")
    assert stat_source(tmp_path) != before


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(OSError, match="not a regular file"):
        stat_source(tmp_path / "a.mp4")
