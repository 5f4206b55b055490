"""Runs beside each other, as a user compares them."""

from __future__ import annotations

import csv
import io
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framecache.cache.cli import run
from framecache.cache.errors import InputError
from framecache.train.__main__ import app
from framecache.train.comparison.compare import compare_runs
from framecache.train.comparison.comparison import Row, short_names
from framecache.train.comparison.differences import BEST, BETTER, BOOTSTRAP, MCNEMAR, NOISE, WORSE
from framecache.train.comparison.results import read_result
from framecache.train.comparison.significance import mcnemar
from framecache.train.comparison.words import conclusion
from framecache.train.predictions import Predictions, read_predictions

from .fake_runs import COUNTS, make_old, write_run

GAP, GMP = "toy.gap-00000001", "toy.gmp-00000002"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two feature sets, two models, three seeds, somewhat nested; the lstm on gap is the best on val."""
    folder = tmp_path_factory.mktemp("runs")
    for feature_set, worse in ((GAP, 0.0), (GMP, 0.3)):
        for model, skill in (("lstm", 6.0), ("gru", 0.5)):
            for seed in range(3):
                write_run(
                    folder / "sweep" / model / f"{feature_set}-{seed}",
                    skill=skill - worse,
                    seed=seed,
                    feature_set=feature_set,
                    model=model,
                )
    return folder


def rows_of(*places: Path, **options: Any) -> tuple[Row, ...]:
    (comparison,) = compare_runs(places, Path("runs"), **options).comparisons
    return comparison.rows


def told(arguments: Sequence[str], capsys: pytest.CaptureFixture[str], status: int = 0) -> tuple[str, str]:
    assert run(app, ["compare", *arguments]) == status
    out, err = capsys.readouterr()
    return out, err


# Rows


def test_seeds_of_a_configuration_are_one_row_with_mean_and_deviation(runs: Path) -> None:
    rows = rows_of(runs)
    assert len(rows) == 4
    for row in rows:
        assert [result.seed for result in row.results] == [0, 1, 2]
        assert len({(result.feature_set, result.config["model"]) for result in row.results}) == 1
        records = [json.loads((result.folder / "run.json").read_text()) for result in row.results]
        values = [record["metrics"]["test"]["accuracy"] for record in records]
        assert row.test is not None
        assert (row.test.mean, row.test.std) == (statistics.fmean(values), statistics.stdev(values))
        baselines = [record["baseline"]["test"]["accuracy"] for record in records]
        assert row.baseline_test == pytest.approx(statistics.fmean(baselines))
        assert row.seconds == pytest.approx(statistics.fmean(record["seconds"]["train"] for record in records))
        assert row.low is not None
        assert row.high is not None
        assert row.low < row.test.mean < row.high


def test_nothing_below_a_run_is_a_run_and_each_counts_once(runs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runs"
    shutil.copytree(runs / "sweep" / "gru", copy / "gru")
    shutil.copytree(copy / "gru" / f"{GAP}-0", copy / "gru" / f"{GAP}-1" / "tensorboard")
    rows = rows_of(copy, copy / "gru", copy / "gru" / f"{GAP}-2", group=False)
    assert len(rows) == 6


def test_validation_chooses_the_best_and_test_does_not(tmp_path: Path) -> None:
    write_run(tmp_path / "a", skill=6, val_skill=0.5, model="lstm")
    write_run(tmp_path / "b", skill=0.5, val_skill=6, model="gru")
    best, other = rows_of(tmp_path)
    assert (best.fields["model"], best.number, best.to_best.verdict) == ("gru", 1, BEST)
    assert best.test is not None
    assert other.test is not None
    assert best.test.mean < other.test.mean
    assert other.to_best.verdict == "better"


def test_a_difference_is_told_from_noise(runs: Path) -> None:
    best, second, *others = rows_of(runs)
    assert (best.fields["model"], best.to_best.p, best.to_best.verdict) == ("lstm", None, BEST)
    assert (second.fields["model"], second.to_best.verdict, second.to_best.paired_test) == ("lstm", NOISE, BOOTSTRAP)
    assert [row.to_best.verdict for row in others] == [WORSE] * 2
    for row in (second, *others):
        assert row.to_best.p is not None
        assert row.to_best.p_holm is not None
        assert row.to_best.p_holm >= row.to_best.p
        assert row.test is not None
        assert best.test is not None
        assert row.to_best.mean == pytest.approx(row.test.mean - best.test.mean)


def test_two_single_runs_are_compared_by_mcnemar(runs: Path) -> None:
    best, second, *_ = rows_of(runs, group=False)
    right = [row.results[0].outcomes["test"].right() for row in (best, second)]
    assert right[0] is not None
    assert right[1] is not None
    assert (second.to_best.p, second.to_best.paired_test) == (mcnemar(right[0], right[1]), MCNEMAR)


def test_each_row_is_tested_against_its_own_mean_baseline(runs: Path) -> None:
    (comparison,) = compare_runs([runs], runs).comparisons
    for row in comparison.rows:
        assert row.test is not None
        assert row.baseline_test is not None
        assert row.to_baseline.mean == pytest.approx(row.test.mean - row.baseline_test)
        assert row.to_baseline.paired_test == BOOTSTRAP
    least = min((row.to_baseline for row in comparison.rows), key=lambda difference: difference.p or 0.0)
    assert least.p
    assert least.p_holm == pytest.approx(min(1.0, 4 * least.p))
    single, *_ = rows_of(runs, group=False)
    outcome, baseline = single.results[0].outcomes["test"].right(), single.results[0].baseline_outcome
    assert outcome is not None
    assert baseline is not None
    right = baseline.right()
    assert right is not None
    assert (single.to_baseline.p, single.to_baseline.paired_test) == (mcnemar(outcome, right), MCNEMAR)


@pytest.mark.parametrize(("is_right", "verdict"), [(True, BETTER), (False, WORSE)])
def test_a_model_ahead_of_or_behind_its_mean_baseline_is_said_to_be(
    is_right: bool, verdict: str, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "a")
    path = folder / "logits.npz"
    found = read_predictions(path)
    outputs = [np.eye(3, dtype=np.float32)[found.targets], found.logits * 0]  # all right, and the first class always
    logits, baseline = outputs if is_right else outputs[::-1]
    replace(found, logits=logits, baseline=baseline).write(path)
    scores = [{split: {"accuracy": score} for split in ("val", "test")} for score in (1.0, 1 / 3)]
    metrics, of_baseline = scores if is_right else scores[::-1]
    change_record(folder, metrics=metrics, baseline=of_baseline)
    (comparison,) = compare_runs([tmp_path], tmp_path).comparisons
    assert comparison.rows[0].to_baseline.verdict == verdict
    assert f"Against its mean baseline (test {0.333 if is_right else 1:.3f}) it is {verdict}." in conclusion(comparison)


def test_near_duplicates_and_a_small_val_are_told(tmp_path: Path) -> None:
    for seed, videos in enumerate((["test/v001", "val/v002"], ["test/v001"])):
        near = [{"video_id": video, "split": "test", "cosine": 0.99} for video in videos]
        write_run(tmp_path / f"{seed}", seed=seed, record={"near_duplicates": near})
    text = compare_runs([tmp_path], tmp_path).format("md")
    assert "near-duplicates: 2 of the 39 videos of val and test" in text
    assert "val has 9 videos, each worth 0.111 of accuracy" in text


def test_a_run_that_repeats_another_is_not_counted_but_told(runs: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(runs / "sweep" / "lstm" / f"{GAP}-0", tmp_path / name)
    (comparison,) = compare_runs([tmp_path], tmp_path).comparisons
    assert [len(row.results) for row in comparison.rows] == [1]
    assert comparison.repeated == (str(tmp_path / "two"),)
    assert str(tmp_path / "two") in compare_runs([tmp_path], tmp_path).format("table").replace("\n", "")


def test_only_settings_that_differ_are_columns(runs: Path) -> None:
    (comparison,) = compare_runs([runs], runs).comparisons
    assert comparison.varying == ("set", "model")
    assert (comparison.constant["units"], comparison.constant["epochs"]) == (128, 12)
    assert {row.label for row in comparison.rows} == {"gap, lstm", "gap, gru", "gmp, lstm", "gmp, gru"}


@pytest.mark.parametrize(
    ("change", "what"),
    [({"counts": {**COUNTS, "test": 29}}, "videos"), ({"prefix": "w"}, "videos"), ({"classes": "abc"}, "classes")],
)
def test_runs_on_other_videos_or_classes_are_not_compared(
    change: dict[str, Any], what: str, runs: Path, tmp_path: Path
) -> None:
    write_run(tmp_path / "other", **change)
    compared = compare_runs([runs, tmp_path], runs)
    assert [len(comparison.rows) for comparison in compared.comparisons] == [4, 1]
    assert "cannot be compared" in compared.format("table")


def test_runs_without_test_videos_have_no_test_columns(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / f"{seed}", seed=seed, counts={"train": 6, "val": 6})
    compared = compare_runs([tmp_path], tmp_path)
    (row,) = compared.comparisons[0].rows
    assert (row.test, row.low, row.to_best.p) == (None, None, None)
    table = compared.format("table")
    assert "test" not in table.split("the same in all")[0]
    assert f"{row.baseline_val:.3f}" in table


def test_an_error_is_better_the_lower_it_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(40, 1)).astype(np.float32)
    split = np.repeat(["val", "test"], 20)
    for name, noise in (("good", 0.1), ("bad", 2.0)):
        folder = write_run(tmp_path / name, model="lstm" if name == "good" else "gru")
        outputs = (targets + noise * rng.normal(size=targets.shape)).astype(np.float32)
        ids = np.array([f"v{number}" for number in range(40)])
        Predictions(ids, split, outputs, outputs * 0, targets).write(folder / "logits.npz")
        errors = np.abs(outputs - targets)
        metrics = {name: {"mae": float(errors[split == name].mean())} for name in ("val", "test")}
        change_record(folder, task="regression", measure="mae", classes=[], metrics=metrics, baseline=metrics)
    good, bad = rows_of(tmp_path)
    assert (good.results[0].folder.name, good.to_best.verdict) == ("good", BEST)
    assert bad.to_best.verdict == WORSE
    assert bad.to_best.mean is not None
    assert bad.to_best.mean > 0


def test_names_leave_out_what_all_have_in_front() -> None:
    assert short_names(["net.v2.gap-01", "net.v2.gap.pca=3-02"]) == ["gap", "gap.pca=3"]
    assert short_names(["net.gap-01", "net.gap-02", "net.gmp-03"]) == ["gap-01", "gap-02", "gmp"]
    assert short_names(["net.gap-01", "net.gap-01"]) == ["net.gap", "net.gap"]


# Runs that know less, or nonsense


def test_an_older_run_is_compared_by_its_right_and_wrong_videos(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "sweep", tmp_path / "sweep")
    before = rows_of(tmp_path)
    for seed in range(3):
        make_old(tmp_path / "sweep" / "gru" / f"{GMP}-{seed}")
    after = rows_of(tmp_path)
    assert [(row.test, row.low, row.high, row.to_best.p) for row in after] == [
        (row.test, row.low, row.high, row.to_best.p) for row in before
    ]
    (old,) = [row for row in after if row.label == "gmp, gru"]
    assert (old.parameters, old.feature_bytes, old.results[0].command) == (None, None, None)


def test_a_run_without_predictions_is_listed_with_what_it_has(tmp_path: Path) -> None:
    (write_run(tmp_path / "a") / "logits.npz").unlink()
    (row,) = rows_of(tmp_path)
    assert row.test is not None
    assert (row.low, row.to_best.p) == (None, None)


def change_record(folder: Path, **changes: Any) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def contradict(folder: Path) -> None:
    predictions = read_predictions(folder / "logits.npz")
    replace(predictions, logits=-predictions.logits).write(folder / "logits.npz")


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "not JSON": lambda folder: (folder / "run.json").write_text('{"config": {'),
    "expected a JSON object": lambda folder: (folder / "run.json").write_text("[1]"),
    "config: expected an object, found 'x'": lambda folder: change_record(folder, config="x"),
    "seed: expected a whole number, found 'one'": lambda folder: change_record(folder, seed="one"),
    "fingerprint: expected text, found nothing": lambda folder: change_record(folder, fingerprint=None),
    "task: expected classification": lambda folder: change_record(folder, task="guessing"),
    "classes: expected a list of texts": lambda folder: change_record(folder, classes=[1, 2]),
    "expected the accuracy on val": lambda folder: change_record(folder, metrics={}),
    "metrics.val.accuracy: expected a finite number, 0 or more, found 'nan'": lambda folder: change_record(
        folder, metrics={"val": {"accuracy": float("nan")}}
    ),
    "metrics.val.accuracy: expected a finite number, 0 or more, found 'high'": lambda folder: change_record(
        folder, metrics={"val": "high"}
    ),
    "seconds: expected an object": lambda folder: change_record(folder, seconds=3),
    "seconds.train: expected a finite number, 0 or more, found '-1'": lambda folder: change_record(
        folder, seconds={"train": -1}
    ),
    "feature_bytes: expected a whole number below 2^63": lambda folder: change_record(folder, feature_bytes=10**400),
    "run.json says accuracy": contradict,
    "expected classification with 2 classes": lambda folder: change_record(folder, classes=["a", "b"]),
    "logits.npz: cannot be read": lambda folder: (folder / "logits.npz").write_bytes(b"PK\x05\x06"),
}


@pytest.mark.parametrize(("message", "damage"), DAMAGES.items(), ids=DAMAGES)
def test_a_damaged_run_is_one_line_of_warning_and_the_others_are_compared(
    message: str, damage: Callable[[Path], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "good")
    damage(write_run(tmp_path / "hurt"))
    out, err = told([str(tmp_path)], capsys, status=1)
    assert err.startswith("warning: ")
    assert err.count("\n") == 1
    assert str(tmp_path / "hurt") in err
    assert message in err
    assert "1 run of 1 configuration" in out
    shutil.rmtree(tmp_path / "good")
    out, err = told([str(tmp_path)], capsys, status=2)
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("label", "lable"), "cannot be read"),
        (lambda text: text.replace("up", "upwards"), "the class 'upwards'"),
        (lambda text: text + text.splitlines()[-1] + "\n", "a video twice"),
    ],
)
def test_damaged_predictions_of_an_older_run_are_refused(
    change: Callable[[str], str], message: str, tmp_path: Path
) -> None:
    path = make_old(write_run(tmp_path / "old")) / "predictions.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=message):
        read_result(tmp_path / "old")


# What is chosen, and how it is told


def test_filters_choose_runs(runs: Path) -> None:
    assert {row.label for row in rows_of(runs, filters=["set~GMP"])} == {"lstm", "gru"}
    assert len(rows_of(runs, filters=["model=lstm", "learning_rate=1e-3"])) == 2
    assert [len(row.results) for row in rows_of(runs, filters=["seed=1"])] == [1] * 4
    assert len(rows_of(runs, filters=["run~gru"], group=False)) == 6
    assert len(rows_of(runs, filters=["class_weights=false", "units=128"])) == 4


def test_rows_are_sorted_by_a_column_and_keep_their_numbers(runs: Path) -> None:
    by_seconds = rows_of(runs, sort_by="seconds")
    assert [row.seconds for row in by_seconds] == sorted(row.seconds or 0 for row in by_seconds)
    by_test = rows_of(runs, sort_by="test")
    assert [row.test.mean for row in by_test if row.test] == sorted(
        (row.test.mean for row in by_test if row.test), reverse=True
    )
    assert [row.fields["model"] for row in rows_of(runs, sort_by="model")] == ["gru", "gru", "lstm", "lstm"]
    assert {row.number for row in by_test} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--filter", "unit=64"], "no field 'unit'; expected one of batch_size,"),
        (["--filter", "unit=64"], "did you mean 'units'?"),
        (["--filter", "units=65"], "fits no run; found 128"),
        (["--filter", "units"], "expected field=value or field~text"),
        (["--sort", "second"], "--sort 'second': no such column; expected one of number, set, model,"),
        (["--sort", "second"], "did you mean 'seconds'?"),
        (["--csv", "--md"], "--csv, --md: expected one of them"),
        (["sweeep"], "did you mean 'sweep'?"),
        (["--out", "__file__"], "expected a folder, found a file"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: list[str], message: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [__file__ if word == "__file__" else word for word in arguments]
    out, err = told([*words, "--runs", str(runs)], capsys, status=2)
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(("where", "message"), [("nowhere", "no such folder"), (".", "found none")])
def test_nothing_to_compare_is_a_mistake(
    where: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, err = told(["--runs", str(tmp_path / where)], capsys, status=2)
    assert message in err


def test_all_forms_hold_the_same_rows(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (comparison,) = json.loads(told(["sweep", "--runs", str(runs), "--json"], capsys)[0])["comparisons"]
    lines = list(csv.DictReader(io.StringIO(told([str(runs), "--csv"], capsys)[0])))
    table = [line.split() for line in told([str(runs)], capsys)[0].splitlines()]
    tables, others = told([str(runs), "--md"], capsys)[0].split("other metrics on test")
    markdown = [line for line in tables.splitlines() if line.startswith("|")]
    assert others.count("\n| ") == 4 + 3
    assert len({line.replace("\\|", "").count("|") for line in markdown}) == 1
    assert len(lines) == len(markdown) - 2 == len(comparison["rows"]) == 4
    for row, line, text in zip(comparison["rows"], lines, markdown[2:], strict=True):
        assert float(line["test_mean"]) == row["test_mean"]
        assert line["runs"].split() == row["runs"]
        assert row["others"].keys() == {"top5", "macro_f1", "loss"}
        for name in ("macro_f1", "loss"):
            other = row["others"][name]
            assert other["low"] < other["mean"] < other["high"]
            assert float(line[f"test_{name}_low"]) == other["low"]
            assert f"{other['mean']:.3f} ({other['low']:.3f}–{other['high']:.3f})" in others
        assert (line["set"], line["model"]) == (row["fields"]["set"], row["fields"]["model"])
        score = f"{row['test_mean']:.3f} ± {row['test_std']:.3f}"
        assert score in text
        (told_row,) = [cells for cells in table if cells[:3] == [str(row["number"]), line["set"], line["model"]]]
        assert score in " ".join(told_row)
        assert row["verdict"] in " ".join(told_row)


def test_names_of_anybody_move_no_cursor_and_break_no_table(tmp_path: Path) -> None:
    write_run(tmp_path / "a", feature_set="toy.\x1b[2Jgap|x`y-01", model="m:\nn")
    write_run(tmp_path / "b")
    compared = compare_runs([tmp_path], tmp_path)
    assert "\x1b" not in compared.format("table") + compared.format("md")
    tables = [table.splitlines() for table in compared.format("md").split("\n\n") if table.startswith("|")]
    assert [len(table) for table in tables] == [4, 5]
    markdown = tables[0]
    assert len({line.replace("\\|", "").count("|") for line in markdown}) == 1


def test_comparing_waits_neither_for_tensorflow_nor_for_matplotlib(runs: Path) -> None:
    code = (
        "import sys; from framecache.cache.cli import run; from framecache.train.__main__ import app; "
        f"run(app, ['compare', {str(runs)!r}]); print(*[name in sys.modules for name in ('tensorflow', 'matplotlib')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"


# Cross-validation


def write_folds(folder: Path, numbers: Sequence[int] = (1, 2, 3), **settings: Any) -> None:
    for fold in numbers:
        write_run(folder / f"fold{fold}", prefix=f"f{fold}-", folds=3, fold=fold, **settings)


def test_the_folds_of_a_cross_validation_are_one_result_over_all_videos(tmp_path: Path) -> None:
    write_folds(tmp_path / "good", skill=5.0)
    write_folds(tmp_path / "bad", skill=0.5, model="gru")
    (comparison,) = compare_runs([tmp_path], tmp_path).comparisons
    assert comparison.num_test == 3 * COUNTS["test"]
    good, bad = comparison.rows
    assert (good.label, bad.label, bad.to_best.verdict) == ("lstm", "gru", WORSE)
    runs = [read_result(tmp_path / "good" / f"fold{fold}") for fold in (1, 2, 3)]
    assert good.test is not None
    assert good.test.mean == pytest.approx(statistics.fmean(run.metrics["test"] for run in runs))
    (pooled,) = good.results
    outcome = pooled.outcomes["test"]
    assert outcome.scores(np.ones((1, 90)))[0] == pytest.approx(good.test.mean)
    for run_of_fold in runs:
        own = dict(zip(outcome.video_ids, outcome.errors(), strict=True))
        part = run_of_fold.outcomes["test"]
        assert [own[video_id] for video_id in part.video_ids] == part.errors().tolist()
    confusions = [run_of_fold.outcomes["test"].confusion() for run_of_fold in runs]
    np.testing.assert_array_equal(outcome.confusion(), np.sum([c for c in confusions if c is not None], axis=0))
    assert [path.name for path in (run_of_fold.folder for run_of_fold in pooled.runs)] == ["fold1", "fold2", "fold3"]
    assert len(compare_runs([tmp_path], tmp_path, group=False).comparisons) == 3


@pytest.mark.parametrize("numbers", [(1, 3), (1, 2)])
def test_a_cross_validation_that_lacks_a_fold_is_none(numbers: tuple[int, ...], tmp_path: Path) -> None:
    write_folds(tmp_path, numbers)
    assert [len(each.rows) for each in compare_runs([tmp_path], tmp_path).comparisons] == [1, 1]


def test_folds_that_share_test_videos_are_averaged(tmp_path: Path) -> None:
    for fold in (1, 2):
        write_run(tmp_path / f"fold{fold}", folds=2, fold=fold)
    ((row,),) = [each.rows for each in compare_runs([tmp_path], tmp_path).comparisons]
    outcome = row.results[0].outcomes["test"]
    assert len(outcome.video_ids) == COUNTS["test"]
    parts = [read_result(tmp_path / f"fold{fold}").outcomes["test"] for fold in (1, 2)]
    np.testing.assert_allclose(outcome.errors(), np.mean([part.errors() for part in parts], axis=0))
    assert outcome.true() == parts[0].true()
