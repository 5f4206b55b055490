"""import: what other tools wrote becomes a feature set, and what cannot is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framecache.cache import InputError, open_cache
from framecache.cache.__main__ import app
from framecache.cache.cli import run
from framecache.cache.exchange.import_config import ImportConfig
from framecache.cache.exchange.imports import ImportReport, import_features
from framecache.cache.verify import verify

Import = Callable[..., ImportReport]
RNG = np.random.default_rng(0)


def numbers(*shape: int, dtype: str = "float16") -> np.ndarray[Any, Any]:
    return RNG.normal(size=shape).astype(dtype)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "arrays").mkdir()
    return tmp_path / "arrays"


@pytest.fixture
def imports(tmp_path: Path, folder: Path) -> Import:
    """``imports(**options)``: imports the folder under the name "cnn"."""

    def call(**options: Any) -> ImportReport:
        return import_features([folder], ImportConfig(**{"name": "cnn", "cache": tmp_path / "features", **options}))

    return call


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[ImportReport], Any]:
    return lambda report: open_cache(tmp_path / "features")[report.feature_set]


def save_as_video_features(folder: Path, stem: str, times: Any = None, **arrays: Any) -> None:
    """As v-iashin/video_features' BaseExtractor saves what it has extracted from a video."""
    length = len(next(iter(arrays.values())))
    times = np.arange(length) * 40.0 if times is None else times
    for key, value in {**arrays, "fps": np.array(25.0), "timestamps_ms": times}.items():
        np.save(folder / f"{stem}_{key}.npy", value)


def test_what_video_features_wrote_is_imported_with_its_times(folder: Path, imports: Import, opened: Any) -> None:
    clips = {"a_b_c": numbers(5, 8, dtype="float32"), "a": numbers(3, 8, dtype="float32")}
    for stem, array in clips.items():
        save_as_video_features(folder, stem, np.arange(len(array)) * 33.4, resnet=array)
    report = imports()
    features = opened(report)
    assert (report.imported, report.failed, report.num_frames) == (2, {}, 8)
    assert features.name.startswith("imported_cnn.resnet-")
    assert (features.spec.backbone, features.spec.preprocessing) == (
        "imported:cnn",
        {"format": "arrays", "keys": ["resnet"]},
    )
    for stem, array in clips.items():
        np.testing.assert_array_equal(features[stem], array)
        np.testing.assert_array_equal(features.timestamps_ms(stem), np.arange(len(array)) * 33.4)
    assert verify(features.folder, features.spec).ok


def test_arrays_of_several_keys_are_put_behind_each_other(folder: Path, imports: Import, opened: Any) -> None:
    rgb, flow = numbers(5000, 512), numbers(5000, 700)  # blocks of other lengths
    save_as_video_features(folder, "a", rgb=rgb, flow=flow)
    save_as_video_features(folder, "b", rgb=rgb[:3], flow=flow[:4])
    with pytest.raises(InputError, match="several arrays, flow, rgb; name one or more of them with --key"):
        imports()
    report = imports(key=("rgb", "flow"))
    np.testing.assert_array_equal(opened(report)["a"], np.concatenate([rgb, flow], axis=1))
    assert list(report.failed) == ["b"]
    assert "cannot be put behind each other" in report.failed["b"]
    assert opened(imports(key=("flow",))).feature_shape == (700,)


def test_what_five_video_classification_wrote_is_imported(folder: Path, imports: Import, opened: Any) -> None:
    (folder / "Diving").mkdir()
    np.save(folder / "Diving" / "v_Diving_g01-40-features.npy", numbers(40, 6))
    with pytest.raises(InputError, match="nothing says how many frames per second 1 of 1 videos"):
        imports()
    features = opened(imports(fps=8))
    assert list(features) == ["Diving/v_Diving_g01"]
    assert features.timestamps_ms("Diving/v_Diving_g01")[:2].tolist() == [0, 125]


def test_archives_and_grids_are_imported(folder: Path, imports: Import, opened: Any) -> None:
    maps = numbers(4, 2, 3, 5)
    np.savez(folder / "a.npz", features=maps, timestamps_ms=np.array([0, 1, 5, 9.5]))
    np.savez_compressed(folder / "b.npz", arr_0=maps[:2], fps=2)
    features = opened(imports())
    assert (features.feature_shape, features.spec.reduction, features.spec.dtype) == ((2, 3, 5), "grid", "float16")
    np.testing.assert_array_equal(features["a"], maps)
    assert features.timestamps_ms("a").tolist() == [0, 1, 5, 9.5]
    assert features.timestamps_ms("b").tolist() == [0, 500]


def test_every_offender_is_named_and_the_others_are_imported(folder: Path, imports: Import, opened: Any) -> None:
    for number in range(3):
        np.save(folder / f"good{number}.npy", numbers(4, 8, dtype="float32"))
    nan = numbers(4, 8, dtype="float32")
    nan[2, 5] = np.nan
    for name, array in {
        "nan": nan,
        "inf": np.full((2, 8), np.inf),
        "large": np.full((2, 8), 1e300),
        "dim": numbers(4, 9),
        "rank": numbers(8),
        "rank3": numbers(2, 2, 2),
        "empty": numbers(0, 8),
        "text": np.array(["x"]),
        "objects": np.array([{}], object),
    }.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "cut.npy").write_bytes((folder / "good0.npy").read_bytes()[:-3])
    (folder / "zip.npz").write_bytes(b"PK")
    save_as_video_features(folder, "times", times=np.zeros(3), features=numbers(4, 8))
    report = imports(fps=25)
    assert (report.num_videos, report.imported) == (15, 3)
    expected = {
        "nan": "a number of frame 2 is NaN or infinite",
        "inf": "frame 0 is NaN or infinite",
        "large": "too large for float32",
        "dim": r"features of shape (9,) per frame; most others have (8,)",
        "rank": r"shape (8,); expected (T, D)",
        "rank3": "expected (T, D)",
        "empty": "there is nothing in it",
        "text": "expected real numbers",
        "objects": "a pickle",
        "cut": "cut off",
        "zip": "no .npz file",
        "times": "4 frames, but timestamps of shape (3,)",
    }
    assert report.failed.keys() == expected.keys()
    assert [name for name, part in expected.items() if part not in report.failed[name]] == []
    ledger = opened(report).ledger()
    assert {row.video_id: row.reason for row in ledger.values() if row.status == "failed"} == report.failed


def test_a_second_import_adds_what_is_new_and_mended(folder: Path, imports: Import, opened: Any) -> None:
    np.save(folder / "a.npy", numbers(4, 8))
    np.save(folder / "b.npy", np.full((4, 8), np.nan, np.float16))
    first = imports(fps=25)
    np.save(folder / "b.npy", numbers(5, 8))
    np.save(folder / "c.npy", np.load(folder / "a.npy"))
    (folder / "a.npy").touch()  # another time of writing, the same content
    second = imports(fps=25)
    assert second.feature_set == first.feature_set
    assert (second.imported, second.cached, second.duplicates, second.failed) == (1, 1, 1, {})
    third = imports(fps=25)
    assert (third.imported, third.cached, third.duplicates) == (0, 2, 1)
    assert opened(third).ledger()["c"].reason == "same content as a"


def test_other_content_under_a_name_is_refused_before_anything_is_added(
    folder: Path, imports: Import, opened: Any
) -> None:
    np.save(folder / "b.npy", numbers(4, 8))
    report = imports(fps=25)
    before = opened(report)["b"].copy()
    np.save(folder / "b.npy", numbers(4, 8))
    np.save(folder / "a.npy", numbers(4, 8))
    with pytest.raises(InputError, match=r"'b' was imported .* from other features \(\w{4}… → \w{4}…\)"):
        imports(fps=25, shard_mb=1e-6)  # so small that each video would be sealed on its own
    assert list(opened(report)) == ["b"]
    np.testing.assert_array_equal(opened(report)["b"], before)


def test_other_times_are_another_content(tmp_path: Path, folder: Path, imports: Import) -> None:
    np.save(folder / "a.npy", numbers(4, 8))
    for fps in (25, 30):
        (tmp_path / "videos.csv").write_text(f"path,fps\narrays/a.npy,{fps}\n")
        if fps == 25:
            imports(manifest=tmp_path / "videos.csv")
    with pytest.raises(InputError, match="from other features"):
        imports(manifest=tmp_path / "videos.csv")


def test_options_that_change_numbers_make_another_feature_set(folder: Path, imports: Import) -> None:
    np.save(folder / "a.npy", numbers(4, 8))
    names = {imports(fps=fps, dtype=dtype).feature_set for fps in (25, 30) for dtype in ("float16", "float32")}
    assert len(names) == 4
    assert imports(fps=25.0).feature_set in names


def test_a_manifest_names_the_videos_and_their_lengths(
    tmp_path: Path, folder: Path, imports: Import, opened: Any
) -> None:
    padded = numbers(9, 8)
    for name in ("a", "b", "unlisted"):
        np.save(folder / f"{name}.npy", padded[: {"a": 9, "b": 5}.get(name, 2)])
    manifest = tmp_path / "videos.csv"
    manifest.write_text(
        "path,video_id,fps,num_frames\nclips/x/a.mp4,,50,6\narrays/b.npy,second,10,\nclips/x/c.mp4,,25,\nclips/b.mp4,,1,99\n"
    )
    report = imports(manifest=manifest)
    features = opened(report)
    assert set(features) == {"clips/x/a.mp4", "second"}
    np.testing.assert_array_equal(features["clips/x/a.mp4"], padded[:6])
    assert features.timestamps_ms("clips/x/a.mp4")[1] == 20
    assert features.timestamps_ms("second")[1] == 100
    assert report.failed["clips/x/c.mp4"] == "no file of its features"
    assert "num_frames 99 in the manifest, but 5 frames" in report.failed["clips/b.mp4"]
    assert (report.num_videos, report.unlisted) == (4, ["unlisted"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": " "}, "--name"),
        ({"fps": -1.0}, "--fps -1: expected a positive number"),
        ({"root": Path("x")}, "--root: expected --manifest"),
        ({"fps": 1, "key": ("rgb",)}, "--key rgb: no array of this name"),
        ({"manifest": Path("none.csv")}, "no such manifest"),
    ],
)
def test_wrong_options_write_nothing(
    tmp_path: Path, folder: Path, imports: Import, options: dict[str, Any], message: str
) -> None:
    np.save(folder / "a.npy", numbers(4, 8))
    with pytest.raises(InputError, match=message):
        imports(**options)
    assert not (tmp_path / "features").exists()


def test_the_command_tells_counts_and_status(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["import", str(folder), "--name", "cnn", "--fps", "25", "--cache", str(tmp_path / "features")]
    assert run(app, command) == 2
    assert "no .npy or .npz file" in capsys.readouterr().err
    np.save(folder / "a.npy", numbers(4, 8))
    assert run(app, command) == 0
    np.save(folder / "b.npy", np.full((4, 8), np.inf, np.float16))
    capsys.readouterr()
    assert run(app, command) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        "2 videos: 0 imported, 1 cached, 0 duplicate, 1 failed",
        "failed: b: a number of frame 0 is NaN or infinite",
    ]
    assert run(app, [*command, "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert (shown["cached"], list(shown["failed"])) == (1, ["b"])
