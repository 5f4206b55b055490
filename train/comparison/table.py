"""The tables of ``framecache-train compare``: for a terminal, as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from framecache.cache.cli import format_bytes
from framecache.cache.errors import InputError
from framecache.train.comparison.comparison import Comparison, Row
from framecache.train.comparison.differences import BETTER, BOOTSTRAP, MCNEMAR, NOISE, WORSE
from framecache.train.comparison.filters import as_text, named
from framecache.train.comparison.measures import Measured
from framecache.train.comparison.significance import LEVEL, NUM_RESAMPLES
from framecache.train.config import FitConfig
from framecache.train.tables import (
    NONE,
    WIDTH,
    Heading,
    count,
    decimal,
    html_table,
    markdown_table,
    mean_and_deviation,
    terminal_table,
)

_DEFAULTS = {field.name: field.default for field in fields(FitConfig)}
OTHERS = "other metrics on test: mean over the seeds, and its 95 % interval over resampled test videos"
_ALWAYS_TOLD = ("set", "model")  # even if by default, and in columns where no setting differs
_OF_TEST = ("test", "interval", "to_baseline", "verdict", "p")
_FEW = 50  # videos
_SHOWN = 5  # runs that are not counted


@dataclass(frozen=True)
class Column:
    """A column: how a row is told in it, and what it is sorted by.

    Attributes:
        name: As ``--sort`` has it.
        heading: As the table has it.
        text: A row's cell.
        value: What the row is sorted by; None comes last.
        falling: Whether the highest comes first.
    """

    name: str
    heading: Heading
    text: Callable[[Row], str]
    value: Callable[[Row], Any]
    falling: bool = False


def columns(comparison: Comparison) -> list[Column]:
    """The columns: what differs between the rows, scores, what they are worth, and costs."""
    measure, rising = comparison.measure, comparison.lower_is_better
    found = [
        Column("number", Heading("#"), lambda row: str(row.number), lambda row: row.number),
        *(_setting(name) for name in comparison.varying or _ALWAYS_TOLD),
        Column("seeds", Heading("seeds"), lambda row: str(len(row.results)), lambda row: len(row.results), True),
        Column(
            "val",
            Heading(f"val\n{measure}"),
            lambda row: mean_and_deviation(row.val.mean, row.val.std),
            lambda row: row.val.mean,
            not rising,
        ),
        Column(
            "test",
            Heading(f"test\n{measure}"),
            lambda row: mean_and_deviation(row.test.mean, row.test.std) if row.test else NONE,
            lambda row: row.test and row.test.mean,
            not rising,
        ),
        Column(
            "interval",
            Heading("95 % CI\nof test"),
            lambda row: NONE if row.low is None or row.high is None else _range(row.low, row.high),
            lambda row: row.low,
            not rising,
        ),
        Column(
            "baseline",
            Heading("mean\nbaseline"),
            lambda row: decimal(row.baseline_val if row.test is None else row.baseline_test, 3),
            lambda row: row.baseline_val if row.test is None else row.baseline_test,
            not rising,
        ),
        Column(
            "to_baseline",
            Heading("against\nbaseline"),
            lambda row: row.to_baseline.verdict or NONE,
            lambda row: row.to_baseline.p_holm,
        ),
        Column(
            "verdict",
            Heading("against\nthe best"),
            lambda row: row.to_best.verdict or NONE,
            lambda row: row.to_best.verdict,
        ),
        Column("p", Heading("p\n(Holm)"), lambda row: _p_value(row.to_best.p_holm), lambda row: row.to_best.p_holm),
        Column("seconds", Heading("train\ns"), lambda row: decimal(row.seconds, 1), lambda row: row.seconds),
        Column("parameters", Heading("params"), lambda row: count(row.parameters), lambda row: row.parameters),
        Column(
            "bytes",
            Heading("features"),
            lambda row: NONE if row.feature_bytes is None else format_bytes(row.feature_bytes),
            lambda row: row.feature_bytes,
        ),
    ]
    if len({len(row.results) for row in comparison.rows}) == 1:
        found = [column for column in found if column.name != "seeds"]  # the title tells
    if comparison.num_test is None and all(row.test is None for row in comparison.rows):
        found = [column for column in found if column.name not in _OF_TEST]
    return found


def _setting(name: str) -> Column:
    return Column(
        name,
        Heading(name.replace("_", "\n", 1), is_name=name in ("run", "set", "model")),
        lambda row: as_text(row.fields.get(name)),
        lambda row: row.fields.get(name),
    )


def sort(comparison: Comparison, by: str) -> Comparison:
    """The rows in another order: the best score, the smallest number or the first name first, unknown ones last.

    Raises:
        InputError: There is no such column.
    """
    known = {column.name: column for column in columns(comparison)}
    if by not in known and by not in comparison.constant:
        raise InputError(f"--sort {by!r}: no such column; expected one of {named(by, list(known))}")
    if by not in known:
        return comparison
    column = known[by]
    told = [row for row in comparison.rows if column.value(row) is not None]
    texts = any(not isinstance(column.value(row), int | float) for row in told)
    told.sort(key=lambda row: as_text(column.value(row)) if texts else column.value(row), reverse=column.falling)
    return replace(comparison, rows=(*told, *(row for row in comparison.rows if column.value(row) is None)))


def format_table(comparison: Comparison, width: int = WIDTH) -> str:
    """The table for a terminal."""
    return terminal_table(title(comparison), *_parts(comparison), width)


def format_markdown(comparison: Comparison) -> str:
    """The same as a Markdown table."""
    tables = [markdown_table(title(comparison), *_parts(comparison))]
    if comparison.others:
        headings, cells = others(comparison)
        tables.append(markdown_table(OTHERS, headings, cells, []))
    return "\n\n".join(tables)


def format_html(comparison: Comparison) -> str:
    """The same for a notebook."""
    headings, cells, (outcome, same, *legend) = _parts(comparison)
    return html_table(title(comparison), headings, cells, [outcome, same], legend)


def others(comparison: Comparison) -> tuple[list[Heading], list[list[str]]]:
    """The other metrics on test as a table: headings, and a row of cells per row."""
    names = list(comparison.others)
    return (
        [Heading("#"), Heading("configuration", is_name=True), *map(Heading, names)],
        [
            [str(row.number), row.label, *(_measured(comparison.others[name][place]) for name in names)]
            for place, row in enumerate(comparison.rows)
        ],
    )


def _measured(one: Measured | None) -> str:
    if one is None:
        return NONE
    return decimal(one.mean, 3) + ("" if one.low is None or one.high is None else f" ({_range(one.low, one.high)})")


def _range(low: float, high: float) -> str:
    """An interval; with a word where a sign would be taken for a dash."""
    return f"{low:.3f} to {high:.3f}" if low < 0 else f"{low:.3f}–{high:.3f}"


def _parts(comparison: Comparison) -> tuple[list[Heading], list[list[str]], list[str]]:
    shown = columns(comparison)
    cells = [[column.text(row) for column in shown] for row in comparison.rows]
    return (
        [column.heading for column in shown],
        cells,
        [conclusion(comparison), constants(comparison), *notes(comparison)],
    )


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
    shown = () if comparison.varying else _ALWAYS_TOLD
    told = [
        f"{name} {as_text(value)}"
        for name, value in comparison.constant.items()
        if name not in shown and (name in _ALWAYS_TOLD or value != _DEFAULTS.get(name))
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


def to_json(comparison: Comparison) -> dict[str, Any]:
    """All of it, as plain JSON."""
    return {
        "task": comparison.task,
        "measure": comparison.measure,
        "lower_is_better": comparison.lower_is_better,
        "classes": list(comparison.classes),
        "num_val": comparison.num_val,
        "num_test": comparison.num_test,
        "varying": list(comparison.varying),
        "constant": dict(comparison.constant),
        "not_counted": list(comparison.repeated),
        "rows": [
            {**_row_to_json(row), "others": {name: asdict(one) for name, one in _others(comparison, place).items()}}
            for place, row in enumerate(comparison.rows)
        ],
    }


def to_csv(comparisons: Sequence[Comparison]) -> str:
    """A line per row of all comparisons, numbers in full; what differs between rows has columns of its own."""
    varying = list(dict.fromkeys(name for comparison in comparisons for name in comparison.varying))
    lines: list[dict[str, Any]] = []
    for number, comparison in enumerate(comparisons, 1):
        for place, row in enumerate(comparison.rows):
            told = _row_to_json(row)
            own = told.pop("fields")
            for name, one in _others(comparison, place).items():
                told |= {f"test_{name}_{part}": value for part, value in asdict(one).items()}
            head = {"comparison": number, "task": comparison.task, "measure": comparison.measure}
            kept = {name: as_text(own.get(name)) for name in dict.fromkeys(["set", *varying])}
            lines.append({**head, "number": told.pop("number"), **kept, **told})
    stream = io.StringIO()
    every = dict.fromkeys(key for line in lines for key in line)
    writer = csv.DictWriter(stream, list(every), restval="", lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow(
            {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in line.items()}
        )
    return stream.getvalue()


def _others(comparison: Comparison, place: int) -> dict[str, Measured]:
    """The other metrics of the row at a place, where it has them."""
    return {name: one for name, column in comparison.others.items() if (one := column[place]) is not None}


def _row_to_json(row: Row) -> dict[str, Any]:
    return {
        "number": row.number,
        "label": row.label,
        "feature_set": row.results[0].feature_set,
        "fingerprint": row.results[0].fingerprint,
        "fields": dict(row.fields),
        "seeds": [result.seed for result in row.results],
        "val_mean": row.val.mean,
        "val_std": row.val.std,
        "test_mean": row.test and row.test.mean,
        "test_std": row.test and row.test.std,
        "test_low": row.low,
        "test_high": row.high,
        "baseline_val": row.baseline_val,
        "baseline_test": row.baseline_test,
        "difference": row.to_best.mean,
        "p": row.to_best.p,
        "p_holm": row.to_best.p_holm,
        "paired_test": row.to_best.paired_test,
        "verdict": row.to_best.verdict,
        "baseline_difference": row.to_baseline.mean,
        "baseline_p": row.to_baseline.p,
        "baseline_p_holm": row.to_baseline.p_holm,
        "baseline_paired_test": row.to_baseline.paired_test,
        "baseline_verdict": row.to_baseline.verdict,
        "seconds": row.seconds,
        "parameters": row.parameters,
        "feature_bytes": row.feature_bytes,
        "runs": [str(run.folder) for run in row.runs],
    }


def _p_value(p: float | None) -> str:
    if p is None:
        return NONE
    return "<0.001" if p < 0.001 else f"{p:.3f}"
