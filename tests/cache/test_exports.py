"""export: the same numbers in every format, whole or not at all, with check sums that a standard tool checks."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framecache.cache import FeatureSet, InputError, ShardError, Spec, open_cache
from framecache.cache.__main__ import app
from framecache.cache.cli import run
from framecache.cache.exchange import exports
from framecache.cache.exchange.export_config import ExportConfig
from framecache.cache.exchange.export_formats import FORMATS
from framecache.cache.exchange.exports import ExportReport, export_features
from framecache.cache.exchange.import_config import ImportConfig
from framecache.cache.exchange.imports import import_features
from framecache.cache.ledger import LedgerRow, append_journal
from framecache.cache.reader import list_shards

RNG = np.random.default_rng(0)
VIDEOS = {"up/a.mp4": RNG.normal(size=(5, 4)), "b": RNG.normal(size=(3, 4)), "日 本_fps": RNG.normal(size=(2, 4))}
Export = Callable[..., ExportReport]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, spec: Spec, fill_set: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("features")
    append_journal(fill_set(folder, spec, VIDEOS), 1, [LedgerRow("broken", "broken", "failed", "no video stream")])
    return folder


@pytest.fixture
def features(cache: Path) -> FeatureSet:
    return open_cache(cache)["efficientnet-lite0"]


@pytest.fixture
def export(tmp_path: Path, cache: Path) -> Export:
    """``export("npy", …)``: exports the feature set to ``tmp_path/out``."""

    def call(form: Any, **options: Any) -> ExportReport:
        return export_features("efficientnet-lite0", tmp_path / "out", ExportConfig(form, cache, **options))

    return call


def snippet(folder: Path) -> str:
    """The program in the README beside exported files."""
    return (folder / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]


def read_as_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray[Any, Any]]:
    """What the README's program finds, video by video."""
    found: list[np.ndarray[Any, Any]] = []
    program = snippet(folder).rstrip()
    indent = program.splitlines()[-1][: -len(program.splitlines()[-1].lstrip())]
    monkeypatch.chdir(folder)
    exec(f"{program}\n{indent}found.append(features)\n", {"found": found})
    return found


@pytest.mark.parametrize("form", ["npy", "parquet", "safetensors"])
@pytest.mark.parametrize("shard_mb", [256, 1e-6])
def test_the_readme_beside_the_files_reads_the_same_numbers(
    tmp_path: Path, export: Export, features: FeatureSet, form: str, shard_mb: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = export(form, shard_mb=shard_mb)
    found = read_as_told(tmp_path / "out", monkeypatch)
    assert report.num_files == (3 if form == "npy" or shard_mb < 1 else 1)
    assert (report.num_videos, report.num_frames) == (3, 10)
    for video_id, array in zip(features, found, strict=True):
        np.testing.assert_array_equal(array, features[video_id])


@pytest.mark.parametrize("form", FORMATS)
def test_a_standard_tool_finds_a_changed_bit(tmp_path: Path, export: Export, form: str) -> None:
    report = export(form)
    check = ["sha256sum", "--quiet", "-c", "SHA256SUMS"]
    assert subprocess.run(check, cwd=tmp_path / "out", capture_output=True).returncode == 0
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert report.num_bytes == sum(path.stat().st_size for path in files)
    with (tmp_path / "out" / "videos.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["video_id"]: int(row["num_frames"]) for row in rows} == {key: len(a) for key, a in VIDEOS.items()}
    path = tmp_path / "out" / rows[0]["path"]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert subprocess.run(check, cwd=tmp_path / "out", capture_output=True).returncode == 1


@pytest.mark.parametrize(("form", "options"), [("npy", {}), ("tfrecord", {"dtype": "float16"})])
@pytest.mark.parametrize("frame", [(4,), (2, 3, 4)])
def test_an_export_is_imported_with_the_same_digests(
    tmp_path: Path,
    make_spec: Callable[..., Spec],
    fill_set: Callable[..., Path],
    form: Any,
    options: Any,
    frame: tuple[int, ...],
) -> None:
    videos = {video_id: RNG.normal(size=(len(array), *frame)) for video_id, array in VIDEOS.items()}
    fill_set(tmp_path / "old", make_spec(feature_shape=frame), videos)
    export_features("efficientnet-lite0", tmp_path / "out", ExportConfig(form, tmp_path / "old"))
    report = import_features([tmp_path / "out"], ImportConfig("again", tmp_path / "new", **options))
    assert (report.imported, report.failed) == (3, {})
    ledgers = [open_cache(tmp_path / name)[prefix].ledger() for name, prefix in (("old", "eff"), ("new", "imported_"))]
    digests = [{video_id: row.feature_digest for video_id, row in ledger.items()} for ledger in ledgers]
    assert digests[0] == digests[1]


def test_a_manifest_and_its_splits_choose_the_videos(tmp_path: Path, export: Export) -> None:
    manifest = tmp_path / "videos.csv"
    manifest.write_text("path,split\nb,train\nup/a.mp4,val\nbroken,train\nnever,test\n")
    report = export("npy", manifest=manifest, split=("train", "val"))
    assert report.num_videos == 2
    assert report.missing == {"broken": "no video stream"}
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.npy")) == [
        "a.mp4.npy",
        "a.mp4_timestamps_ms.npy",
        "b.npy",
        "b_timestamps_ms.npy",
    ]


def test_eight_bits_are_exported_as_what_they_stand_for(tmp_path: Path, cache: Path) -> None:
    from framecache.cache.derive import derive
    from framecache.cache.derive_config import DeriveConfig

    shutil.copytree(cache, tmp_path / "features")
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,split\nb,train\nup/a.mp4,train\n")
    name = derive("eff", DeriveConfig(tmp_path / "features", dtype="uint8", manifest=manifest)).feature_set
    export_features(name, tmp_path / "out", ExportConfig("npy", tmp_path / "features"))
    exported = np.load(tmp_path / "out" / "b.npy")
    assert exported.dtype == np.float32
    np.testing.assert_array_equal(exported, open_cache(tmp_path / "features")[name]["b"])


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, export: Export) -> None:
    (tmp_path / "out").mkdir()
    assert export("npy").num_videos == 3  # an empty one is as good as none
    before = sorted((tmp_path / "out").rglob("*"))
    with pytest.raises(InputError, match="not an empty folder"):
        export("npy")
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_what_fails_leaves_nothing_behind(tmp_path: Path, export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exports, "_describe", full)
    with pytest.raises(OSError, match="No space"):
        export("tfrecord")
    assert list(tmp_path.iterdir()) == []


def test_hurt_features_are_not_exported(tmp_path: Path, cache: Path, export: Export) -> None:
    shutil.copytree(cache, tmp_path / "features")
    (shard,) = list_shards(next((tmp_path / "features").glob("eff*")))
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1  # of the last frame
    shard.write_bytes(content)
    with pytest.raises(ShardError, match="stored features of '日 本_fps' are hurt"):
        export_features("eff", tmp_path / "out", ExportConfig("safetensors", tmp_path / "features"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("form", "options", "message"),
    [
        ("npy", {"split": ("val",)}, "--split: expected --manifest"),
        ("npy", {"shard_mb": 0.0}, "--shard-mb 0"),
        ("npy", {"manifest": "other"}, "it holds no video of"),
    ],
)
def test_wrong_options_write_nothing(tmp_path: Path, export: Export, form: str, options: Any, message: str) -> None:
    (tmp_path / "m.csv").write_text("path\nsomething\n")
    if "manifest" in options:
        options = {"manifest": tmp_path / "m.csv"}
    with pytest.raises(InputError, match=message):
        export(form, **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", [("a", "a_timestamps_ms"), ("a", "a.npy/b")])
def test_videos_whose_files_would_collide_are_refused(
    tmp_path: Path, spec: Spec, fill_set: Callable[..., Path], names: tuple[str, str]
) -> None:
    fill_set(tmp_path / "features", spec, dict.fromkeys(names, np.ones((2, 4))))
    with pytest.raises(InputError, match="two videos would have a file"):
        export_features("eff", tmp_path / "out", ExportConfig("npy", tmp_path / "features"))
    export_features("eff", tmp_path / "out", ExportConfig("safetensors", tmp_path / "features"))


@pytest.mark.parametrize("form", ["parquet", "safetensors"])
def test_a_missing_package_is_named_with_its_extra(
    export: Export, form: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in ("pyarrow", "pyarrow.parquet", "safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"pip install 'framecache\[{form}\]'"):
        export(form)
    assert not (tmp_path / "out").exists()


def test_the_command_tells_counts_and_status(tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.csv").write_text("path\nb\nbroken\n")
    command = ["export", "eff", str(tmp_path / "out"), "--format", "npy", "--cache", str(cache)]
    assert run(app, [*command, "--manifest", str(tmp_path / "m.csv"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["missing"] == {"broken": "no video stream"}
    assert run(app, command) == 2
    assert "not an empty folder" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "out")
    assert run(app, command) == 0
    assert "3 videos, 10 frames in 3 files" in capsys.readouterr().out
