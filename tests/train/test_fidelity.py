"""fidelity: one table of several sets trained alike."""

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

from framecache.cache import InputError, open_cache
from framecache.cache.derive import DeriveConfig, derive
from framecache.cache.shard import VideoRow
from framecache.cache.writer import ShardWriter
from framecache.train.config import FitConfig
from framecache.train.fidelity.fidelity import FidelityReport, compare_fidelity, short_labels
from framecache.train.fit import fit

from .conftest import digest_of, traced_once, undrawn, untrained_baselines
from .workplace import Workplace, flip_a_bit


@pytest.fixture
def place(tmp_path: Path, undrawn_runs: None, shared_graphs: None, no_baselines: None) -> Workplace:
    return Workplace(tmp_path)


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
