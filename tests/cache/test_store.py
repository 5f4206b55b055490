"""The folder of feature sets: names, creation, locks."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framecache.cache import (
    Cache,
    FeatureSetNotFoundError,
    InputError,
    LockedError,
    Spec,
    open_cache,
)
from framecache.cache.store import SPEC_FILE, lock_for_writing

MakeSpec = Callable[..., Spec]
FillSet = Callable[..., Path]


@pytest.fixture
def named(tmp_path: Path, make_spec: MakeSpec) -> dict[str, Spec]:
    """Feature sets whose names begin alike, by a word for each."""
    specs = {
        "gap": make_spec(),
        "gap+gmp": make_spec(reduction="gap+gmp"),
        "fps": make_spec(sampling="fps=8"),
        "resnet": make_spec(backbone="ResNet50"),
    }
    for spec in specs.values():
        Cache(tmp_path).create(spec)
    return specs


def test_a_cache_is_a_mapping_of_full_names(tmp_path: Path, named: dict[str, Spec]) -> None:
    cache = open_cache(tmp_path)
    names = sorted(spec.name for spec in named.values())
    assert isinstance(cache, Mapping)
    assert list(cache) == cache.names() == names
    assert len(cache) == 4
    assert [features.name for features in cache.values()] == names
    assert "efficientnet-lite0.gap" in cache
    assert "vgg" not in cache
    assert repr(cache) == f"<Cache {tmp_path}: 4 feature sets>"


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("efficientnet-lite0.gap", "gap"),
        ("efficientnet-lite0.gap+gmp", "gap+gmp"),
        ("efficientnet-lite0.gap+", "gap+gmp"),
        ("efficientnet-lite0.gap.fps=8", "fps"),
        ("efficientnet-lite0.gap.", "fps"),
        ("ResNet50.gap", "resnet"),
        ("Res", "resnet"),
    ],
)
def test_a_name_may_leave_out_the_fingerprint_or_be_a_prefix(
    asked: str, meant: str, tmp_path: Path, named: dict[str, Spec]
) -> None:
    cache = open_cache(tmp_path)
    assert cache.resolve(asked) == named[meant].name
    assert cache[asked].spec == named[meant]


def test_every_full_name_means_itself(tmp_path: Path, named: dict[str, Spec]) -> None:
    cache = open_cache(tmp_path)
    for spec in named.values():
        assert cache.resolve(spec.name) == spec.name
        assert cache.resolve(spec.name[:-1]) == spec.name


def test_a_full_name_wins_over_a_longer_one(tmp_path: Path, make_spec: MakeSpec) -> None:
    spec = make_spec()
    longer = make_spec(backbone=spec.name)
    for one in (spec, longer):
        Cache(tmp_path).create(one)
    assert longer.name.startswith(spec.name)
    assert open_cache(tmp_path).resolve(spec.name) == spec.name


def test_an_ambiguous_prefix_lists_all_that_fit(tmp_path: Path, named: dict[str, Spec]) -> None:
    with pytest.raises(FeatureSetNotFoundError) as caught:
        open_cache(tmp_path)["efficientnet-lite0.g"]
    message = str(caught.value)
    assert message.startswith(f"'efficientnet-lite0.g' fits several feature sets of {tmp_path}: ")
    assert message.endswith("; name one of them in full")
    assert all((spec.name in message) == (word != "resnet") for word, spec in named.items())


def test_sets_that_differ_only_in_their_fingerprint_must_be_told_apart(
    tmp_path: Path, named: dict[str, Spec], make_spec: MakeSpec
) -> None:
    other = make_spec(dtype="float32")
    Cache(tmp_path).create(other)
    with pytest.raises(FeatureSetNotFoundError, match="fits several feature sets") as caught:
        open_cache(tmp_path)["efficientnet-lite0.gap"]
    assert other.name in str(caught.value)
    assert named["gap"].name in str(caught.value)
    assert named["gap+gmp"].name not in str(caught.value)
    assert open_cache(tmp_path)[other.name].spec == other


@pytest.mark.parametrize(
    ("asked", "near"),
    [("efficientnet-lite0.gpa", "efficientnet-lite0.gap"), ("resnet50.gap", "ResNet50.gap")],
)
def test_an_unknown_name_gives_near_ones(asked: str, near: str, tmp_path: Path, named: dict[str, Spec]) -> None:
    with pytest.raises(
        FeatureSetNotFoundError, match=f"no feature set '{asked}' in .*: did you mean .*{near}"
    ) as caught:
        open_cache(tmp_path)[asked]
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, InputError)


def test_a_name_like_no_other_gets_the_list_of_all(tmp_path: Path, named: dict[str, Spec]) -> None:
    with pytest.raises(FeatureSetNotFoundError, match=r"no feature set 'zzz' in .*: it holds ") as caught:
        open_cache(tmp_path)["zzz"]
    assert all(spec.name in str(caught.value) for spec in named.values())


def test_an_empty_cache_says_so(tmp_path: Path) -> None:
    assert len(open_cache(tmp_path)) == 0
    with pytest.raises(FeatureSetNotFoundError, match=r"no feature set 'x' in .*: it holds none yet"):
        open_cache(tmp_path)["x"]


@pytest.mark.parametrize("name", ["..", ".", "../secret", "/etc", "", "*"])
def test_a_name_never_leads_out_of_the_cache(name: str, tmp_path: Path, named: dict[str, Spec]) -> None:
    (tmp_path.parent / "secret").mkdir(exist_ok=True)
    with pytest.raises(FeatureSetNotFoundError):
        open_cache(tmp_path)[name]


def test_a_missing_cache_is_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cache '.*missing': no such folder; run framecache-extract first"):
        open_cache(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="no such folder"):
        open_cache(tmp_path / "file")


def test_a_folder_without_a_spec_is_no_feature_set(tmp_path: Path, spec: Spec) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / f".{SPEC_FILE}.partial").touch()
    Cache(tmp_path).create(spec)
    assert open_cache(tmp_path).names() == [spec.name]


def test_creating_twice_changes_nothing(tmp_path: Path, spec: Spec, fill_set: FillSet) -> None:
    folder = fill_set(tmp_path / "deep" / "features", spec, {"v1": np.ones((1, 4))})
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()}
    assert Cache(tmp_path / "deep" / "features").create(spec) == folder
    assert {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()} == before


def test_the_spec_beside_the_shards_is_readable_json(tmp_path: Path, spec: Spec) -> None:
    folder = Cache(tmp_path).create(spec)
    assert [path.name for path in folder.iterdir()] == [SPEC_FILE]
    assert json.loads((folder / SPEC_FILE).read_text(encoding="utf-8")) == spec.to_dict()


def test_a_new_feature_set_survives_a_power_cut(tmp_path: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    folder = Cache(tmp_path).create(spec)
    assert synced == [path.stat().st_ino for path in (folder / SPEC_FILE, folder, tmp_path)]


def edited(**changes: Any) -> Callable[[str], str]:
    return lambda text: json.dumps({**json.loads(text), **changes})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edited(sampling="fps=8"), r"its spec is that of efficientnet-lite0\.gap\.fps=8-.*; was it edited or moved\?"),
        (edited(weights="77c0" * 16), r"its spec is that of efficientnet-lite0\.gap-.*; was it edited or moved\?"),
        (edited(surprise=1), r"not a spec of format version 1; fields that differ: \['surprise'\]"),
        (edited(dtype="float64"), "dtype: expected one of float16, float32, uint8, found 'float64'"),
        (edited(format_version=2), "format version 2: this framecache reads version 1"),
        (edited(backbone=5), "backbone"),
        (edited(preprocessing={"mean": float("nan")}), "preprocessing"),
        (lambda text: text[:-9], r"not JSON \(.*\); restore it, or delete it and extract again"),
        (lambda text: "", "not JSON"),
        (lambda text: "[" * 100_000, "not JSON"),
        (lambda text: "7", "not a spec of format version 1"),
    ],
)
def test_an_edited_spec_is_refused_with_its_path(
    edit: Callable[[str], str], message: str, tmp_path: Path, spec: Spec
) -> None:
    path = Cache(tmp_path).create(spec) / SPEC_FILE
    path.write_text(edit(path.read_text()))
    with pytest.raises(InputError, match=message) as caught:
        open_cache(tmp_path)[spec.name]
    assert str(path) in str(caught.value)


def test_a_renamed_feature_set_is_refused(tmp_path: Path, spec: Spec) -> None:
    Cache(tmp_path).create(spec).rename(tmp_path / "mine-12345678")
    with pytest.raises(InputError, match=f"its spec is that of {spec.name}, not of this folder"):
        open_cache(tmp_path)["mine"]


HOLD_LOCK = """
import sys
from pathlib import Path
from framecache.cache.store import lock_for_writing
with lock_for_writing(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def locked_by_another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD_LOCK, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()


def test_two_processes_never_write_one_feature_set(tmp_path: Path, make_spec: MakeSpec, fill_set: FillSet) -> None:
    folder = fill_set(tmp_path, make_spec(), {"v1": np.ones((1, 4))})
    other = Cache(tmp_path).create(make_spec(reduction="gmp"))
    with locked_by_another_process(folder) as process:
        host = re.escape(socket.gethostname())
        expected = rf"{folder}: process {process.pid} on {host}, since 20..-..-..T.*, is writing into this feature set"
        with pytest.raises(LockedError, match=expected), lock_for_writing(folder):
            pass
        with lock_for_writing(other):
            pass
        assert open_cache(tmp_path)["efficientnet-lite0.gap"].length("v1") == 1  # readers need no lock
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        with lock_for_writing(folder):  # a lock ends with its process, however that ends
            pass


def test_a_lock_holds_within_one_process_too(tmp_path: Path) -> None:
    with lock_for_writing(tmp_path):
        with pytest.raises(LockedError, match=f"process {os.getpid()} on .* is writing"), lock_for_writing(tmp_path):
            pass
        with pytest.raises(LockedError) as caught, lock_for_writing(tmp_path):
            pass
    assert isinstance(caught.value, OSError)


def test_a_lock_ends_with_its_block_also_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock_for_writing(tmp_path):
        raise ZeroDivisionError
    with lock_for_writing(tmp_path):
        assert os.listdir(tmp_path) == []


def test_taking_the_lock_removes_what_a_dead_writer_left(tmp_path: Path) -> None:
    (tmp_path / ".shard-000001-00000000.h5.partial").write_bytes(b"half")
    (tmp_path / ".spool1234.partial").write_bytes(b"half")
    (tmp_path / "shard-000001-11111111.h5").write_bytes(b"whole")
    with lock_for_writing(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["shard-000001-11111111.h5"]
