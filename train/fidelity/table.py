"""The table of ``framecache-train fidelity``, for a terminal and for a README."""

from __future__ import annotations

from framecache.cache.cli import format_bytes
from framecache.train.fidelity.fidelity import FidelityReport, FidelityRow
from framecache.train.tables import (
    Heading,
    count,
    decimal,
    html_table,
    markdown_table,
    mean_and_deviation,
    terminal_table,
)

_NUMBERS = (
    "bytes/\nframe",
    "size",
    "cosine",
    "rel.\nerror",
    "expl.\nvar.",
    "test\naccuracy",
    "mean\nbaseline",
    "train\ns",
    "ms/\nvideo",
    "params",
)
_HEADINGS = (Heading("set", is_name=True), *map(Heading, _NUMBERS))


def format_table(report: FidelityReport) -> str:
    """The table and what there is to say of it, at most 120 characters wide."""
    return terminal_table(heading(report), _HEADINGS, _cells(report), notes(report))


def format_markdown(report: FidelityReport) -> str:
    """The same as a Markdown table."""
    return markdown_table(heading(report), _HEADINGS, _cells(report), notes(report))


def format_html(report: FidelityReport) -> str:
    """The same for a notebook."""
    return html_table(heading(report), _HEADINGS, _cells(report), notes(report))


def heading(report: FidelityReport) -> str:
    """What is the same in all rows."""
    config = report.config
    if config.num_seeds == 1:
        return f"{config.model}, seed {config.seed}, {report.num_test_videos} test videos"
    return (
        f"{config.model}, {config.num_seeds} seeds, {report.num_test_videos} test videos; accuracies are mean ± sample "
        "standard deviation over the seeds"
    )


def notes(report: FidelityReport) -> list[str]:
    """What the columns mean, and why a cell is empty."""
    told = []
    if any(row.cosine is not None for row in report.rows):
        parents = {" and ".join(row.parents) for row in report.rows if row.cosine is not None}
        of = parents.pop() if len(parents) == 1 else "the set that it was derived from"
        told.append(
            f"cosine, relative error and explained variance: the test frames of {of}, reconstructed from these "
            "features by the affine map that fits the train frames best"
        )
    told.append(
        "ms/video: the model alone, from cached features; the CNN before it costs all sets of one backbone and "
        "sampling the same"
    )
    for label, row in zip(report.labels, report.rows, strict=True):
        told += [f"{label}: {remark}" for remark in row.remarks]
    return told


def _cells(report: FidelityReport) -> list[list[str]]:
    return [[label, *_numbers(row)] for label, row in zip(report.labels, report.rows, strict=True)]


def _numbers(row: FidelityRow) -> list[str]:
    return [
        str(row.bytes_per_frame),
        format_bytes(row.bytes),
        *(decimal(value, 4) for value in (row.cosine, row.relative_error, row.explained_variance)),
        mean_and_deviation(row.test_accuracy_mean, row.test_accuracy_std),
        mean_and_deviation(row.baseline_accuracy_mean, row.baseline_accuracy_std),
        decimal(row.train_seconds, 1),
        decimal(row.inference_ms, 2),
        count(row.num_parameters),
    ]
