"""A comparison for programs: JSON and CSV, with numbers in full."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from framecache.train.comparison.comparison import Comparison, Row
from framecache.train.comparison.filters import as_text
from framecache.train.comparison.measures import Measured


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
