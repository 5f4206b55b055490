"""Tables for a terminal and for a README."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from framecache.cache.cli import format_bytes
from framecache.train.fidelity import FidelityReport, FidelityRow

NONE = "–"
_WIDTH = 120  # characters; only names are folded to fit
_COLUMNS = (
    "set",
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


def format_table(report: FidelityReport) -> str:
    """The table and what there is to say of it, at most 120 characters wide."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for number, column in enumerate(_COLUMNS):
        if number:
            table.add_column(column, justify="right", no_wrap=True)
        else:
            table.add_column(column, overflow="fold")
    for cells in _cells(report):
        table.add_row(*map(Text, cells))
    console = Console(width=_WIDTH, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(Text(heading(report)), table, *map(Text, notes(report)), sep="\n")
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def format_markdown(report: FidelityReport) -> str:
    """The same as a Markdown table."""
    lines = [
        [column.replace("/\n", "/").replace("\n", " ") for column in _COLUMNS],
        ["---"] + ["---:"] * (len(_COLUMNS) - 1),
        *([f"`{name}`", *cells] for name, *cells in _cells(report)),
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([heading(report), table, *notes(report)])


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
        *(_decimal(value, 4) for value in (row.cosine, row.relative_error, row.explained_variance)),
        _spread(row.test_accuracy_mean, row.test_accuracy_std),
        _spread(row.baseline_accuracy_mean, row.baseline_accuracy_std),
        _decimal(row.train_seconds, 1),
        _decimal(row.inference_ms, 2),
        _count(row.num_parameters),
    ]


def _decimal(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value + 0.0:.{digits}f}"


def _spread(mean: float, deviation: float | None) -> str:
    return f"{mean:.3f}" if deviation is None else f"{mean:.3f} ± {deviation:.3f}"


def _count(number: int | None) -> str:
    if number is None:
        return NONE
    return f"{number / 1e6:.1f}M" if number >= 1e6 else f"{number / 1e3:.0f}k" if number >= 1e4 else str(number)
