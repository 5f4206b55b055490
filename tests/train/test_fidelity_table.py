"""The table and the figure of fidelity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from framecache.train.fidelity.fidelity import (
    FidelityConfig,
    FidelityReport,
    FidelityRow,
)
from framecache.train.fidelity.table import format_markdown, format_table
from framecache.train.plots import place_labels, plot_fidelity


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
