"""A comparison in words: what is compared, the outcome, what the columns mean, and what speaks against it."""

from __future__ import annotations

from dataclasses import fields

from framecache.train.comparison.comparison import Comparison, Row
from framecache.train.comparison.differences import BETTER, BOOTSTRAP, MCNEMAR, NOISE, WORSE
from framecache.train.comparison.filters import as_text
from framecache.train.comparison.significance import LEVEL, NUM_RESAMPLES
from framecache.train.config import FitConfig
from framecache.train.tables import decimal

ALWAYS_TOLD = ("set", "model")  # even if by default, and in columns where no setting differs
_DEFAULTS = {field.name: field.default for field in fields(FitConfig)}
_FEW = 50  # videos
_SHOWN = 5  # runs that are not counted


def title(comparison: Comparison) -> str:
    """What is compared, on what."""
    num_runs = sum(len(row.runs) for row in comparison.rows)
    runs = f"{num_runs} runs" if num_runs > 1 else "1 run"
    if "run" not in comparison.rows[0].fields:
        runs += f" of {len(comparison.rows)} configurations" if len(comparison.rows) > 1 else " of 1 configuration"
        seeds = {len(row.results) for row in comparison.rows}
        runs += f", {max(seeds)} seeds each," if len(seeds) == 1 < min(len(comparison.rows), max(seeds)) else ""
    videos = [
        f"{number} {split} videos"
        for split, number in (("val", comparison.num_val), ("test", comparison.num_test))
        if number
    ]
    classes = f" of {len(comparison.classes)} classes" if comparison.classes else ""
    told = f"{' and '.join(videos)}{classes}" if videos else f"videos that the runs do not tell{classes}"
    return f"{comparison.task}: {runs} on {told}; {comparison.measure}" + (
        ", lower is better" if comparison.lower_is_better else ""
    )


def constants(comparison: Comparison) -> str:
    """The settings that all rows share: those that are not the defaults."""
    shown = () if comparison.varying else ALWAYS_TOLD
    told = [
        f"{name} {as_text(value)}"
        for name, value in comparison.constant.items()
        if name not in shown and (name in ALWAYS_TOLD or value != _DEFAULTS.get(name))
    ]
    return f"the same in all: {', '.join([*told, 'all else by default'])}"


def notes(comparison: Comparison) -> list[str]:
    """What the columns mean, and what was left out."""
    rows = comparison.rows
    told = ["#: rank on val, where the best is chosen (ties: the lower loss on val); test is only reported"]
    if any(result.folds for row in rows for result in row.results):
        told.append("cross-validation: the mean over the folds; their videos are resampled together")
    if any(len(row.results) > 1 for row in rows):
        told.append(f"{comparison.measure}: mean ± sample standard deviation over the seeds")
    if any(row.low is not None for row in rows):
        told.append(
            f"95 % CI: percentiles of {NUM_RESAMPLES:,} bootstrap resamples of the test videos, of the mean over the "
            "seeds; how it varies with the videos, not with the seeds"
        )
    if any(row.low == row.high == 1 for row in rows) and comparison.num_test:
        told.append(
            f"an interval of 1 to 1 has seen no error to resample: of {comparison.num_test} videos without any, up to "
            f"{min(1, 3 / comparison.num_test):.1%} of all videos may still be wrong (rule of three)"
        )
    if any(row.baseline_val is not None for row in rows):
        told.append(
            "mean baseline: the mean of a video's features over its frames and a linear model, trained on the same "
            "videos and with the same seeds: what there is to gain without looking at the order of frames"
            if comparison.task != "frames"
            else "mean baseline: a linear model of each frame by itself, trained on the same videos and seeds"
        )
    tests = [
        text
        for name, text in (
            (BOOTSTRAP, "a paired bootstrap over the test videos of the difference of the means over the seeds"),
            (MCNEMAR, "McNemar's exact test where both are a single run"),
        )
        if any(name in (row.to_best.paired_test, row.to_baseline.paired_test) for row in rows)
    ]
    if tests:
        told.append(
            f"against baseline (each row's own) and the best: two-sided p by {', or '.join(tests)}; corrected for the "
            f"number of rows (Holm); {NOISE}: p ≥ {LEVEL:g}, the test videos cannot tell them apart"
        )
    told.append("train s: mean seconds of one training; params: trainable numbers; features: bytes of the set on disk")
    told += _doubts(comparison)
    unknown = [row.number for row in rows if row.test and row.low is None]
    if unknown:
        told.append(f"without predictions on disk, so without interval and test: # {', '.join(map(str, unknown))}")
    if comparison.repeated:
        more = len(comparison.repeated) - _SHOWN
        told.append(
            "not counted, settings and seed of another run: "
            + ", ".join(comparison.repeated[:_SHOWN])
            + (f" and {more} more" if more > 0 else "")
        )
    return told


def _doubts(comparison: Comparison) -> list[str]:
    """What speaks against reading much into the numbers."""
    told = []
    num_val, num_videos = comparison.num_val, (comparison.num_val or 0) + (comparison.num_test or 0)
    if num_val and num_val < _FEW and comparison.task == "classification":
        told.append(f"val has {num_val} videos, each worth {1 / num_val:.3f} of accuracy: ranks on it are rough")
    near = {video for row in comparison.rows for run in row.runs for video in run.near_duplicates or ()}
    if near:
        told.append(
            f"near-duplicates: {len(near)} of the {num_videos} videos of val and test look like one of an earlier "
            "split, which makes scores too good if they are; near_duplicates in run.json names them"
        )
    return told


def conclusion(comparison: Comparison) -> str:
    """The outcome in a sentence or two."""
    best = min(comparison.rows, key=lambda row: row.number)
    score = f"val {decimal(best.val.mean, 3)}"
    if best.test:
        score += f", test {decimal(best.test.mean, 3)}"
    told = f"Best on val: {best.label} ({score})."
    told += _against_baseline(best)
    judged = [row for row in comparison.rows if row is not best and row.to_best.verdict]
    noise = sum(row.to_best.verdict == NOISE for row in judged)
    if not judged:
        return told
    others = "the other one" if len(judged) == 1 else f"{noise or 'all'} of the {len(judged)} other configurations"
    what = "cannot be told from the best (the difference is within noise)" if noise else "can be told from the best"
    return f"{told} On the {comparison.num_test} test videos {others} {what}."


def _against_baseline(row: Row) -> str:
    """How a row stands to its mean baseline, which costs next to nothing: a sentence with a space before."""
    if row.baseline_test is None or row.test is None:
        return ""
    said = {BETTER: "it is better", WORSE: "it is worse", NOISE: "the difference is within noise"}
    verdict = said.get(row.to_baseline.verdict, "nothing can be said without predictions")
    return f" Against its mean baseline (test {decimal(row.baseline_test, 3)}) {verdict}."
