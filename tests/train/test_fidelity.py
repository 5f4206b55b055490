"""fidelity: what a derived set keeps of its parent, and one table of several sets trained alike."""

from __future__ import annotations

import csv
import importlib
import json
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from framecache.cache import InputError, open_cache
from framecache.cache.cli import run
from framecache.cache.derive import DeriveConfig, derive
from framecache.cache.shard import VideoRow, read_shard
from framecache.cache.writer import ShardWriter
from framecache.train.__main__ import app
from framecache.train.config import FitConfig
from framecache.train.fidelity import reconstruction
from framecache.train.fidelity.fidelity import (
    FidelityConfig,
    FidelityReport,
    FidelityRow,
    compare_fidelity,
    short_labels,
)
from framecache.train.fidelity.reconstruction import Fidelity, measure_fidelity
from framecache.train.fidelity.table import format_markdown, format_table
from framecache.train.fit import fit
from framecache.train.plots import place_labels, plot_fidelity

from .conftest import Data, digest_of, make_data, traced_once, undrawn, untrained_baselines

Rows = NDArray[np.float64]


class Workplace:
    """A cache of one's own with the set ``toy.gap``, and what is derived from it."""

    def __init__(self, folder: Path, feature_shape: tuple[int, ...] = (8,)) -> None:
        self.folder = folder
        self.data: Data = make_data(folder, feature_shape)
        self.store = open_cache(self.data.cache)
        self.parent = self.store[self.data.name]

    def ids(self, split: str) -> list[str]:
        return [video_id for video_id in self.parent.video_ids if f"/{split}" in video_id]

    def derive(self, name: str | None = None, **options: Any) -> str:
        config = DeriveConfig(cache=self.data.cache, manifest=self.data.manifest, **options)
        return derive(name or self.data.name, config).feature_set

    def measure(self, name: str) -> Fidelity:
        return measure_fidelity(open_cache(self.data.cache), self.store[name], self.ids("train"), self.ids("test"))

    def rows(self, split: str, name: str | None = None, every: int = 1) -> Rows:
        features = self.store[name or self.data.name]
        return np.concatenate([features[video_id][::every] for video_id in self.ids(split)]).astype(np.float64)

    def configure(self, **changes: Any) -> FidelityConfig:
        """The quickest of experiments."""
        base = FidelityConfig(manifest=self.data.manifest, cache=self.data.cache, runs=self.folder / "runs")
        return replace(base, model="mean", epochs=1, num_seeds=2, **changes)

    def command(self, *words: object) -> int:
        folders = {"--manifest": self.data.manifest, "--cache": self.data.cache, "--runs": self.folder / "runs"}
        flags = {**folders, "--model": "mean", "--epochs": 1, "--num-seeds": 1}
        defaults = [word for flag, value in flags.items() if flag not in words for word in (flag, value)]
        return run(app, ["fidelity", *map(str, [*defaults, *words])])


@pytest.fixture
def place(tmp_path: Path, undrawn_runs: None, shared_graphs: None, no_baselines: None) -> Workplace:
    return Workplace(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """One whose sets are only added to."""
    return Workplace(tmp_path_factory.mktemp("shared"))


def judge(wanted: Rows, found: Rows, train: Rows) -> tuple[float, float, float]:
    """Cosine, relative error and explained variance, by their definitions."""
    cosines = (wanted * found).sum(axis=1) / np.linalg.norm(wanted, axis=1) / np.linalg.norm(found, axis=1)
    error = np.linalg.norm(wanted - found) / np.linalg.norm(wanted)
    explained = 1 - ((wanted - found) ** 2).sum() / ((wanted - train.mean(axis=0)) ** 2).sum()
    return float(cosines.mean()), float(error), float(explained)


def told(fidelity: Fidelity) -> tuple[float | None, ...]:
    return fidelity.cosine, fidelity.relative_error, fidelity.explained_variance


def best_affine(rows: Rows, wanted: Rows) -> Callable[[Rows], Rows]:
    """The best affine map, by NumPy's own least squares."""
    solution = np.linalg.lstsq(np.c_[rows, np.ones(len(rows))], wanted, rcond=None)[0]
    return lambda others: np.c_[others, np.ones(len(others))] @ solution


# What is left of the parent


@pytest.mark.parametrize(
    "steps", [{"dtype": "float32"}, {"sample": "every=2"}, {"sample": "num=3"}], ids=lambda steps: str(steps)
)
def test_features_that_are_left_as_they_are_lose_nothing(shared: Workplace, steps: dict[str, Any]) -> None:
    found = shared.measure(shared.derive(**steps))
    assert found.parents == (shared.data.name,)
    assert told(found) == pytest.approx((1, 0, 1), abs=1e-9)
    assert found.remark == ""


@pytest.mark.parametrize(("whiten", "every"), [(False, 1), (True, 1), (False, 2)])
def test_the_reconstruction_of_a_pca_is_its_own_inverse(shared: Workplace, whiten: bool, every: int) -> None:
    name = shared.derive(pca=3, whiten=whiten, dtype="float32", sample=None if every == 1 else f"every={every}")
    train, test = shared.rows("train", every=every), shared.rows("test", every=every)
    mean = train.mean(axis=0)
    components = np.linalg.svd(train - mean, full_matrices=False)[2][:3]
    expected = judge(test, (test - mean) @ components.T @ components + mean, train)
    assert told(shared.measure(name)) == pytest.approx(expected, rel=1e-5)
    assert 0.01 < expected[1] < 0.5


@pytest.mark.parametrize(
    "steps", [{"random": 3}, {"dtype": "uint8"}, {"l2": True}, {"random": 3, "dtype": "uint8"}], ids=str
)
def test_any_step_is_undone_by_the_least_squares_of_the_train_split(shared: Workplace, steps: dict[str, Any]) -> None:
    name = shared.derive(**steps)
    train, test = shared.rows("train"), shared.rows("test")
    undo = best_affine(shared.rows("train", name), train)
    expected = judge(test, undo(shared.rows("test", name)), train)
    assert told(shared.measure(name)) == pytest.approx(expected, rel=1e-4)
    assert expected[1] > 1e-3


def test_8_bits_keep_nearly_all(shared: Workplace) -> None:
    cosine, error, explained = told(shared.measure(shared.derive(dtype="uint8")))
    assert cosine is not None
    assert 0.999 < cosine < 1
    assert error is not None
    assert 0 < error < 0.02
    assert explained is not None
    assert 0.99 < explained < 1


def test_test_videos_never_teach_the_reconstruction(place: Workplace) -> None:
    name = place.derive(random=3)
    before = place.measure(name)
    half = measure_fidelity(place.store, place.store[name], place.ids("train")[:12], place.ids("test"))
    other = measure_fidelity(place.store, place.store[name], place.ids("test"), place.ids("test"))
    assert half.relative_error != before.relative_error
    assert other.relative_error is not None
    assert before.relative_error is not None
    assert other.relative_error < before.relative_error  # those that it was fitted on are the easiest


def test_the_parents_of_a_concatenation_are_reconstructed_together(shared: Workplace) -> None:
    other = shared.derive(random=4, dtype="float32")
    found = shared.measure(shared.derive(concat=(other,), dtype="float32"))
    assert found.parents == (shared.data.name, other)
    assert told(found) == pytest.approx((1, 0, 1), abs=1e-6)


def test_a_grandchild_is_judged_by_its_own_parent(shared: Workplace) -> None:
    child = shared.derive(pca=3, dtype="float32")
    found = shared.measure(shared.derive(child, dtype="float32", sample="every=3"))
    assert found.parents == (child,)
    assert told(found) == pytest.approx((1, 0, 1), abs=1e-9)


def test_fewer_frames_than_numbers_leave_alone_what_no_step_has_mixed(tmp_path: Path) -> None:
    place = Workplace(tmp_path, (40,))
    for steps in ({"sample": "num=1"}, {"sample": "num=1", "dtype": "uint8"}):  # 24 frames to fit on
        found = place.measure(place.derive(**steps))
        assert found.cosine is not None
        assert found.cosine > 0.99
        assert found.remark == ""
    assert place.measure(place.derive(sample="num=1", random=30)).remark == (
        "reconstructed from 24 train frames only, for 30 numbers each"
    )


def test_an_extracted_set_has_no_fidelity_and_nothing_to_explain(shared: Workplace) -> None:
    assert shared.measure(shared.data.name) == Fidelity()


def test_a_parent_that_is_gone_or_too_wide_is_told(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    name = place.derive(pca=3)
    with monkeypatch.context() as patch:
        patch.setattr(reconstruction, "_MAX_WIDTH", 7)
        found = place.measure(name)
        assert told(found) == (None, None, None)
        assert found.remark == "its parent has 8 numbers per frame, and over 7 are not reconstructed"
    place.store.remove(place.data.name)
    found = place.measure(name)
    assert told(found) == (None, None, None)
    assert found.remark == f"its parent {place.parent.fingerprint[:8]} is not in {place.data.cache} any more"


def test_a_parent_whose_videos_are_others_by_now_is_told(place: Workplace) -> None:
    name, video_id = place.derive(pca=3), place.ids("test")[0]
    with ShardWriter(place.parent.folder, place.parent.spec, {}, 1 << 20, 60) as writer:
        buffer = writer.open_video()
        buffer.append(np.ones((5, 8), np.float16), np.arange(5) * 100.0)
        content = digest_of("other content")
        writer.add(buffer, VideoRow(video_id, 5, buffer.hexdigest(), video_id, content, "", None, 5, ()))
    found = place.measure(name)
    assert told(found) == (None, None, None)
    assert f"1 of its videos ('{video_id}', …) are missing in its parent, or have other frames" in found.remark


def test_a_hurt_parent_is_told(place: Workplace) -> None:
    name = place.derive(pca=3)
    (path,) = place.parent.folder.glob("shard-*.h5")
    flip_a_bit(path)
    assert "'down/train0.mp4' is hurt" in place.measure(name).remark


# The comparison


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[read_shard(path).features.offset + 5] ^= 4
    path.write_bytes(content)


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs that were trained since."""
    made: list[str] = []

    def count(feature_set: str, config: FitConfig, progress: bool = False) -> Any:
        assert not progress
        made.append(str(config.name))
        return fit(feature_set, config)

    monkeypatch.setattr(importlib.import_module("framecache.train.fidelity.fidelity"), "fit", count)
    return made


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> FidelityReport:
    place = Workplace(tmp_path_factory.mktemp("report"))
    with undrawn(but="fidelity.png"), traced_once():
        return compare_fidelity(["toy.gap", place.derive(pca=3)], place.configure(seed=3))


def test_the_rows_are_those_of_the_runs(report: FidelityReport) -> None:
    assert report.labels == ("gap", "gap.pca=3")
    assert [path.name for path in sorted(report.folder.iterdir()) if not path.is_dir()] == [
        "fidelity.csv",
        "fidelity.json",
        "fidelity.png",
    ]
    for row, width in zip(report.rows, (8, 3), strict=True):
        names = [f"{row.feature_set}-seed{seed}" for seed in (3, 4)]
        records = [json.loads((report.folder / name / "run.json").read_text()) for name in names]
        accuracies = [record["metrics"]["test"]["accuracy"] for record in records]
        baselines = [record["baseline"]["test"]["accuracy"] for record in records]
        assert [record["seed"] for record in records] == [3, 4]
        assert "num_seeds" not in records[0]["config"]
        assert row.test_accuracies == tuple(accuracies)
        assert row.test_accuracy_mean == pytest.approx(np.mean(accuracies))
        assert row.test_accuracy_std == pytest.approx(np.std(accuracies, ddof=1))
        assert row.baseline_accuracy_mean == pytest.approx(np.mean(baselines))
        assert row.baseline_accuracy_std == pytest.approx(np.std(baselines, ddof=1))
        assert row.train_seconds == pytest.approx(statistics.fmean(record["seconds"]["train"] for record in records))
        assert (row.feature_shape, row.dtype, row.bytes_per_frame) == ((width,), "float16", 2 * width)
        model = keras.saving.load_model(report.folder / names[0] / "model.keras")
        assert row.num_parameters == model.count_params()
        assert row.inference_ms is not None
        assert 0 < row.inference_ms < 1000
        assert row.remarks == ()
    assert [row.cosine is None for row in report.rows] == [True, False]


def test_the_written_tables_hold_the_same(report: FidelityReport) -> None:
    assert json.loads((report.folder / "fidelity.json").read_text()) == report.to_json()
    rows = list(csv.DictReader((report.folder / "fidelity.csv").read_text().splitlines()))
    assert [row["feature_set"] for row in rows] == [row.feature_set for row in report.rows]
    assert [float(row["test_accuracy_std"]) for row in rows] == [row.test_accuracy_std for row in report.rows]
    assert rows[0]["cosine"] == ""
    assert (report.folder / "fidelity.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("undrawn_runs", "shared_graphs")
def test_a_run_is_that_of_fit_alone(report: FidelityReport, tmp_path: Path) -> None:
    features = report.rows[1].feature_set
    alone = fit(features, replace(report.config.for_run(open_cache(report.config.cache)[features], 4), runs=tmp_path))
    record = json.loads((report.folder / f"{features}-seed4" / "run.json").read_text())
    assert alone.record["metrics"] == record["metrics"]
    assert alone.record["baseline"] == record["baseline"]


def test_an_interrupted_comparison_goes_on_where_it_was(
    place: Workplace, fits: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    second = place.derive(pca=3)
    module = importlib.import_module("framecache.train.fidelity.fidelity")

    def fit_one(feature_set: str, config: FitConfig) -> Any:
        if fits:
            raise KeyboardInterrupt
        return counted(feature_set, config)

    counted = module.fit
    with monkeypatch.context() as patch:
        patch.setattr(module, "fit", fit_one)
        assert place.command("toy.gap", second) == 130
    assert capsys.readouterr() == ("", "error: interrupted; run the same command again\n")
    (finished,) = (place.folder / "runs/fidelity").iterdir()
    before = files_of(finished)

    assert place.command("toy.gap", second) == 0
    assert fits == [f"{name}-seed0" for name in (place.data.name, second)]
    assert files_of(finished) == before
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == str(place.folder / "runs" / "fidelity")
    assert err == ""
    assert place.command("toy.gap", "--num-seeds", 2, "--json") == 0  # another seed joins them
    assert fits[2:] == [f"{place.data.name}-seed1"]
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert len(row["test_accuracies"]) == 2


@pytest.mark.usefixtures("undrawn_runs", "no_baselines")
def test_a_grid_whose_projection_came_of_its_own_accord_is_not_trained_again(tmp_path: Path, fits: list[str]) -> None:
    place = Workplace(tmp_path, (2, 2, 3))
    config = replace(place.configure(), model="gru", units=2, num_seeds=1)
    row = compare_fidelity(["toy.grid"], config).rows[0]
    assert (row.test_accuracy_std, row.baseline_accuracy_std) == (None, None)
    compare_fidelity(["toy.grid"], config)
    assert len(fits) == 1
    with pytest.raises(InputError, match=r"is of other settings \(dense: 0 → 5\)"):
        compare_fidelity(["toy.grid"], replace(config, dense=5))
    (place.folder / "runs/fidelity/fidelity.json").unlink()
    with pytest.raises(InputError, match=r"is a run of other settings \(dense: 64 → 5\)"):
        compare_fidelity(["toy.grid"], replace(config, dense=5))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``runs`` of a comparison of ``toy.gap`` alone."""
    place = Workplace(tmp_path_factory.mktemp("finished"))
    with undrawn(), traced_once(), untrained_baselines():
        assert place.command("toy.gap") == 0
    return place.folder / "runs"


def relabel(place: Workplace, run_folder: Path) -> None:
    text = place.data.manifest.read_text()
    place.data.manifest.write_text(text.replace("up/val1.mp4,up,val,val-0", "up/val1.mp4,down,val,val-0"))


def halve(place: Workplace, run_folder: Path) -> None:
    (run_folder / "run.json").unlink()


def swap_features(place: Workplace, run_folder: Path) -> None:
    record = json.loads((run_folder / "run.json").read_text())
    (run_folder / "run.json").write_text(json.dumps({**record, "fingerprint": "00" * 32}))


def break_table(place: Workplace, run_folder: Path) -> None:
    (run_folder.parent / "fidelity.json").write_text("[]")


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (None, ["--epochs", "2"], "fidelity.json: is of other settings (epochs: 1 → 2); choose another --name, or rem"),
        (relabel, [], "-seed0: is a run with other labels or splits than "),
        (halve, [], "-seed0: is no finished run; choose another --name, or remove "),
        (swap_features, [], "-seed0: is a run on other features than toy.gap-"),
        (break_table, [], "fidelity.json: is no table of framecache-train fidelity; choose another --name"),
    ],
    ids=["settings", "labels", "half", "features", "table"],
)
def test_what_is_in_the_way_is_one_line_and_stays(
    place: Workplace,
    finished: Path,
    fits: list[str],
    change: Callable[[Workplace, Path], None] | None,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = shutil.copytree(finished, place.folder / "runs")
    if change is not None:
        change(place, runs / "fidelity" / f"{place.data.name}-seed0")
    before = files_of(runs)
    refused(place, capsys, message, "toy.gap", *words)
    assert files_of(runs) == before
    assert fits == []


def test_a_finished_comparison_of_the_same_features_and_labels_elsewhere_is_taken_over(
    place: Workplace, finished: Path, fits: list[str]
) -> None:
    shutil.copytree(finished, place.folder / "runs")
    assert place.command("toy.gap") == 0
    assert fits == []


def refused(place: Workplace, capsys: pytest.CaptureFixture[str], message: str, *words: object) -> None:
    capsys.readouterr()
    assert place.command(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_a_run_of_that_name_is_no_comparison(
    place: Workplace, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_folder,) = finished.glob("fidelity/*-seed0")
    shutil.copytree(run_folder, place.folder / "runs" / "mine")
    refused(place, capsys, "runs/mine is there, and no comparison; choose", "toy.gap", "--name", "mine")
    (place.folder / "runs" / "file").write_text("")
    refused(place, capsys, "runs/file is there, and no comparison; choose", "toy.gap", "--name", "file")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "fidelity: expected at least one feature set; framecache ls lists what there is"),
        (["toy.gap", "toy.ga"], "was named 2 times; name each feature set once"),
        (["toy.gap", "toy.gpa"], "no feature set 'toy.gpa' in "),
        (["toy.gap", "--num-seeds", "0"], "--num-seeds 0: expected at least 1"),
        (["toy.gap", "--md", "--json"], "--md, --json: expected one of them"),
        (["toy.gap", "--model", "gone:build"], "--model gone:build: cannot be imported"),
        (["toy.gap", "--manifest", "untested.csv"], "untested.csv: no video is in the test split; all seeds are"),
        (["toy.gap", "--manifest", "gone.csv"], "gone.csv: no such manifest"),
        (["toy.gap", "fewer"], "3 of the 40 videos of "),
        (["toy.gap", "other"], "1 of its videos ('up/train1.mp4', …) are of other content than in toy.gap-"),
        (["toy.gap", "hurt"], "the stored features of 1 of 40 videos are hurt"),
        (["toy.gap", "seen"], "8 of its test videos ("),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_the_last_set_costs_no_training(
    place: Workplace,
    fits: list[str],
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place.folder)
    lines = place.data.manifest.read_text().splitlines(keepends=True)
    Path("untested.csv").write_text("".join(line for line in lines if ",test," not in line))
    copy_set(place, "fewer", leave_out=("up/test1.mp4", "down/test2.mp4", "up/train1.mp4"))
    copy_set(place, "other", other=("up/train1.mp4",))
    (hurt,) = (copy_set(place, "hurt")).glob("shard-*.h5")
    flip_a_bit(hurt)
    if words[-1:] == ["seen"]:
        swapped = place.folder / "swapped.csv"
        text = "".join(lines).replace(",train,", ",new,").replace(",test,", ",train,").replace(",new,", ",test,")
        swapped.write_text(text)
        words = ["toy.gap", derive("toy.gap", DeriveConfig(place.data.cache, pca=3, manifest=swapped)).feature_set]
    refused(place, capsys, message, *words)
    assert fits == []
    assert not (place.folder / "runs").exists()


def copy_set(place: Workplace, backbone: str, leave_out: Sequence[str] = (), other: Sequence[str] = ()) -> Path:
    """The same features under another backbone's name, without some videos and with others of other content."""
    spec = replace(place.parent.spec, backbone=backbone)
    folder = place.store.create(spec)
    with ShardWriter(folder, spec, {}, 1 << 20, 60) as writer:
        for video_id, rows in place.parent.items():
            if video_id not in leave_out:
                buffer = writer.open_video()
                buffer.append(rows, place.parent.timestamps_ms(video_id))
                content = digest_of(video_id + "?" * (video_id in other))
                row = VideoRow(video_id, len(rows), buffer.hexdigest(), video_id, content, "", None, len(rows), ())
                writer.add(buffer, row)
    return folder


def test_videos_that_no_set_has_are_left_out_of_all(place: Workplace, finished: Path, fits: list[str]) -> None:
    shutil.copytree(finished, place.folder / "runs")
    with place.data.manifest.open("a") as manifest:
        manifest.write("up/broken.mp4,up,test,x\n")
    assert compare_fidelity(["toy.gap"], replace(place.configure(), num_seeds=1)).num_test_videos == 8
    assert fits == []


def test_labels_leave_out_what_all_names_have(place: Workplace) -> None:
    sets = [place.parent, place.store[place.derive(pca=3)], place.store[place.derive(sample="fps=0.5")]]
    assert short_labels(sets) == ("gap", "gap.pca=3", "gap.fps=0.5")
    copy = copy_set(place, "other").name
    assert short_labels([*sets[:1], place.store[copy]]) == ("toy.gap", "other.gap")
    alike = [place.store[place.derive(pca=3, dtype=dtype)] for dtype in ("float16", "float32")]
    assert short_labels(alike) == tuple(f"gap.pca=3-{features.fingerprint[:8]}" for features in alike)


def test_a_model_that_cannot_be_loaded_keeps_its_accuracy(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.folder)
    Path("unregistered.py").write_text(
        "import keras\n"
        "class Mean(keras.layers.Layer):\n"
        "    def call(self, x): return keras.ops.mean(x, axis=1)\n"
        "def build(feature_shape, num_classes):\n"
        "    x = keras.Input((None, *feature_shape))\n"
        "    return keras.Model(x, keras.layers.Dense(num_classes)(Mean()(x)))\n"
    )
    config = replace(place.configure(), model="unregistered:build", num_seeds=1)
    row = compare_fidelity(["toy.gap"], config).rows[0]
    assert row.test_accuracies
    assert (row.inference_ms, row.num_parameters) == (None, None)
    assert "cannot be loaded, nor timed" in row.remarks[0]


# The table


def fake_report(names: Sequence[str], **changes: Any) -> FidelityReport:
    row = FidelityRow(
        feature_set="efficientnet-lite0.gap-36f7c2d3",
        fingerprint="36f7c2d3",
        parents=("efficientnet-lite0.grid-d044b4ae",),
        feature_shape=(1280,),
        dtype="float16",
        num_frames=21266,
        bytes_per_frame=125440,
        bytes=2_700_000_000,
        cosine=-0.12345,
        relative_error=1.23456,
        explained_variance=-1.23456,
        test_accuracies=(1.0, 0.9),
        test_accuracy_mean=0.95,
        test_accuracy_std=0.0707,
        baseline_accuracy_mean=0.5,
        baseline_accuracy_std=0.01,
        train_seconds=12345.67,
        inference_ms=123.456,
        num_parameters=32_123_456,
        remarks=(),
    )
    rows = tuple(replace(row, **changes) for _ in names)
    return FidelityReport(Path("runs/fidelity"), FidelityConfig(num_seeds=5), 34, rows, tuple(names))


def test_the_table_fits_120_columns_and_no_name_is_cut() -> None:
    long = "gap+gmp.pca=1024,white.uint8.fps=12.5"
    lines = format_table(fake_report(["gap", "gap.pca=256,white.uint8", long])).splitlines()
    assert max(map(len, lines)) <= 120
    text = "".join(line[:23].strip() for line in lines[4:])
    assert "gap.pca=256,white.uint8" in text
    assert long in text
    (cells,) = [line.split("  ") for line in lines if line.startswith("gap ")]
    assert [cell.strip() for cell in cells if cell.strip()] == [
        *("gap", "125440", "2.7 GB", "-0.1235", "1.2346", "-1.2346"),
        *("0.950 ± 0.071", "0.500 ± 0.010", "12345.7", "123.46", "32.1M"),
    ]


def test_what_is_missing_is_a_dash_and_why_is_told_below() -> None:
    missing = dict.fromkeys(["cosine", "relative_error", "explained_variance", "inference_ms", "num_parameters"])
    report = fake_report(["gap"], **missing, test_accuracy_std=None, remarks=("its parent is gone",))
    lines = format_table(report).splitlines()
    (row,) = [line for line in lines if line.startswith("gap ")]
    assert row.split() == ["gap", "125440", "2.7", "GB", *"–––", "0.950", "0.500", "±", "0.010", "12345.7", *"––"]
    assert lines[-1] == "gap: its parent is gone"
    assert not any("cosine, relative error" in line for line in lines)


def test_markdown_has_the_same_cells_in_a_table_of_even_rows() -> None:
    lines = [line for line in format_markdown(fake_report(["gap", "gmp"])).splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert lines[0].startswith("| set | bytes/frame | size |")
    assert lines[2].startswith("| `gap` | 125440 | 2.7 GB | -0.1235 |")


# The figure

PIXELS = st.floats(0, 1000)


@given(st.lists(st.tuples(PIXELS, PIXELS, st.floats(20, 180)), min_size=1, max_size=12))
def test_labels_overlap_neither_each_other_nor_the_points(labels: list[tuple[float, float, float]]) -> None:
    anchors = [(x, y) for x, y, _ in labels]
    sizes = [(width, 16.0) for *_, width in labels]
    points = [(x - 5, y - 5, x + 5, y + 5) for x, y in anchors]
    corners = place_labels(anchors, sizes, (0, 0, 1000, 1000), points)
    boxes = [(x, y, x + width, y + high) for (x, y), (width, high) in zip(corners, sizes, strict=True)]
    for number, box in enumerate(boxes):
        assert min(box) >= 0
        assert max(box) <= 1000
        for other in [*boxes[:number], *points]:
            assert box[2] <= other[0] or other[2] <= box[0] or box[3] <= other[1] or other[3] <= box[1]


def test_a_label_stays_near_its_point() -> None:
    (corner,) = place_labels([(500, 300)], [(80, 16)], (0, 0, 1000, 600), [(492, 292, 508, 308)])
    assert 508 <= corner[0] <= 520
    assert 280 <= corner[1] <= 312


def test_sets_of_one_size_and_no_deviation_can_be_drawn(tmp_path: Path) -> None:
    plot_fidelity(tmp_path / "x.png", ["a", "b", "c"], [2560, 2560, 128], [1.0, 1.0, 0.0], [0.0] * 3, "title")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_as_json_holds_no_credentials_of_its_manifests_url() -> None:
    config = FidelityConfig(manifest=Path("https://reader:s3cret@example.org/manifest.csv"))
    report = FidelityReport(Path("runs/fidelity"), config, 1, (), ())
    assert report.to_json()["config"]["manifest"] == "https://example.org/manifest.csv"
