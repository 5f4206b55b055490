"""label_videos: the manifest joined to the feature set, and the splits of a run as a manifest of its own."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framecache.cache.errors import InputError
from framecache.cache.ledger import LedgerRow, append_journal
from framecache.cache.reader import FeatureSet
from framecache.cache.store import open_cache
from framecache.train.config import FitConfig
from framecache.train.splits.labels import label_videos
from framecache.train.splits.split_file import manifest_root, write_splits
from framecache.train.splits.splitting import LabeledVideos

from .conftest import Data, make_data


@pytest.fixture(scope="module")
def features(data: Data) -> FeatureSet:
    return open_cache(data.cache)[data.name]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def rewrite(data: Data, folder: Path, change: Callable[[list[dict[str, str]]], Any]) -> Path:
    """The data's manifest with some rows changed."""
    rows = rows_of(data.manifest)
    rows = change(rows) or rows
    path = folder / "changed.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def names_of(labeled: LabeledVideos) -> dict[str, list[str]]:
    return {split: [video.video_id for video in videos] for split, videos in labeled.splits.items()}


def add_missing(rows: list[dict[str, str]]) -> None:
    more = ["up/broken.mp4", *(f"up/new{number}.mp4" for number in range(4))]
    rows += [{"path": path, "label": "up", "split": "train", "group": path} for path in more]


def test_videos_that_were_never_extracted_are_an_error_that_counts_and_names_them(
    data: Data, features: FeatureSet, tmp_path: Path
) -> None:
    manifest = rewrite(data, tmp_path, add_missing)
    message = (
        r"4 of its 45 videos were never extracted into toy.gap-\w+ \('up/new0.mp4', 'up/new1.mp4', 'up/new2.mp4', …\); "
        "extract this manifest again, or .* --missing drop"
    )
    with pytest.raises(InputError, match=message):
        label_videos(features, FitConfig(manifest=manifest))


def test_they_may_be_dropped_with_their_reason_as_those_that_failed_always_are(
    data: Data, features: FeatureSet, tmp_path: Path
) -> None:
    manifest = rewrite(data, tmp_path, add_missing)
    labeled = label_videos(features, FitConfig(manifest=manifest, missing="drop"))
    never = {f"up/new{number}.mp4": "never extracted" for number in range(4)}
    assert labeled.left_out == {"up/broken.mp4": "no video stream", **never}
    only_failed = rewrite(data, tmp_path, lambda rows: [*rows, {**rows[0], "path": "up/broken.mp4"}])
    assert label_videos(features, FitConfig(manifest=only_failed)).left_out == {"up/broken.mp4": "no video stream"}


def test_a_duplicate_whose_features_are_gone_counts_as_never_extracted(tmp_path: Path) -> None:
    data = make_data(tmp_path, counts=(("train", 2), ("val", 2)))
    gone = LedgerRow("up/copy.mp4", "up/copy.mp4", "duplicate", "same content as gone.mp4", source_digest="ab" * 16)
    append_journal(data.cache / data.name, 1, [gone])
    with data.manifest.open("a") as manifest:
        manifest.write("up/copy.mp4,up,train,x\n")
    features = open_cache(data.cache)[data.name]
    with pytest.raises(InputError, match=r"1 of its 5 videos were never extracted .*'up/copy.mp4'"):
        label_videos(features, FitConfig(manifest=data.manifest))
    labeled = label_videos(features, FitConfig(manifest=data.manifest, missing="drop"))
    assert labeled.left_out == {"up/copy.mp4": "never extracted"}


def without_splits(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: row[name] for name in ("path", "label", "group")} for row in rows]


def without_val(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{**row, "split": row["split"].replace("val", "train")} for row in rows]


def awkward(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    labels = {"up": 'go "up", später', "down": "l1\nl2"}
    return [
        {**row, "video_id": row["path"], "path": f"sub/{number}, x.mp4", "label": labels[row["label"]], "end": "2.5"}
        for number, row in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        (without_splits, {}),
        (without_splits, {"folds": 4, "fold": 3}),
        (without_val, {}),
        (awkward, {}),
        (add_missing, {"missing": "drop"}),
    ],
    ids=["dealt", "folds", "val", "awkward", "missing"],
)
def test_the_written_splits_are_a_manifest_that_gives_the_same_splits(
    change: Callable[[list[dict[str, str]]], Any],
    settings: dict[str, Any],
    data: Data,
    features: FeatureSet,
    tmp_path: Path,
) -> None:
    config = FitConfig(manifest=rewrite(data, tmp_path, change), seed=3, **settings)
    labeled = label_videos(features, config)
    written = tmp_path / "run" / "splits.csv"
    written.parent.mkdir()
    write_splits(written, labeled, manifest_root(config))
    again = label_videos(features, FitConfig(manifest=written, root=manifest_root(config), seed=4))
    assert again.splits == labeled.splits
    assert again.classes == labeled.classes
    assert not any(Path(row["path"]).is_absolute() for row in rows_of(written))


def test_so_are_those_of_class_folders(data: Data, features: FeatureSet, tmp_path: Path) -> None:
    for row in rows_of(data.manifest):
        path = tmp_path / "videos" / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(row["path"])  # what the feature set's digest of it says
    config = FitConfig(manifest=tmp_path / "videos", root=tmp_path / "elsewhere")
    labeled = label_videos(features, config)
    write_splits(tmp_path / "splits.csv", labeled, manifest_root(config))
    assert all(row["path"] == row["video_id"] for row in rows_of(tmp_path / "splits.csv"))
    again = label_videos(features, FitConfig(manifest=tmp_path / "splits.csv", root=tmp_path / "videos"))
    assert again.splits == labeled.splits


def test_labels_of_another_column_are_written_there(data: Data, features: FeatureSet, tmp_path: Path) -> None:
    labeled = label_videos(features, FitConfig(manifest=data.manifest))
    write_splits(tmp_path / "splits.csv", labeled, data.manifest.parent, "direction")
    rows = rows_of(tmp_path / "splits.csv")
    assert "label" not in rows[0]
    assert {row["direction"] for row in rows} == {"up", "down"}


def test_the_order_of_the_manifests_rows_does_not_change_what_is_dealt(
    data: Data, features: FeatureSet, tmp_path: Path
) -> None:
    dealt = []
    for step in (1, -1):
        manifest = rewrite(data, tmp_path, lambda rows, step=step: without_splits(rows)[::step])
        dealt.append(names_of(label_videos(features, FitConfig(manifest=manifest))))
    assert {split: sorted(names) for split, names in dealt[0].items()} == {
        split: sorted(names) for split, names in dealt[1].items()
    }
