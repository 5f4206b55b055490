"""YouTube-8M's frame-level TFRecords become a feature set, with a manifest of their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framecache.cache import InputError, open_cache
from framecache.cache.exchange.import_config import ImportConfig
from framecache.cache.exchange.imports import ImportReport, import_features
from framecache.cache.exchange.sequence_examples import encode_example
from framecache.cache.exchange.tfrecord import sequence_example_class, write_record
from framecache.cache.manifest import read_manifest

Import = Callable[..., ImportReport]
RNG = np.random.default_rng(0)
RGB = RNG.integers(256, size=(7, 1024), dtype=np.uint8)
AUDIO = RNG.integers(256, size=(7, 128), dtype=np.uint8)


def example(video_id: str, labels: Sequence[int] = (), key: str = "id", **lists: Any) -> bytes:
    """As google/youtube-8m's extract_tfrecords_main.py writes a video: a string of bytes per frame."""
    made = sequence_example_class()()
    made.context.feature[key].bytes_list.value.append(video_id.encode())
    made.context.feature["labels"].int64_list.value.extend(labels)
    for name, frames in lists.items():
        for frame in frames:
            made.feature_lists.feature_list[name].feature.add().bytes_list.value.append(frame.tobytes())
    content: bytes = made.SerializeToString()
    return content


def write(path: Path, *records: bytes) -> Path:
    with path.open("wb") as stream:
        for record in records:
            write_record(stream, record)
    return path


def dequantize(x: Any) -> Any:
    """google/youtube-8m, utils.py, Dequantize(feat_vector, max_quantized_value=2, min_quantized_value=-2)."""
    quantized_range = 2 - -2
    return x * (quantized_range / 255.0) + ((quantized_range / 512.0) + -2)


@pytest.fixture
def imports(tmp_path: Path) -> Import:
    def call(*sources: Path, **options: Any) -> ImportReport:
        return import_features(sources, ImportConfig("yt8m", tmp_path / "features", **options))

    return call


@pytest.fixture
def records(tmp_path: Path) -> Path:
    (tmp_path / "yt8m").mkdir()
    write(tmp_path / "yt8m" / "train00.tfrecord", example("aa00", [3, 17], rgb=RGB, audio=AUDIO))
    write(tmp_path / "yt8m" / "train01.tfrecord", example("bb11", [], "video_id", rgb=RGB[:4], audio=AUDIO[:4]))
    return tmp_path / "yt8m"


def test_rgb_is_dequantised_by_the_published_formula(tmp_path: Path, records: Path, imports: Import) -> None:
    report = imports(records, dtype="float32")
    features = open_cache(tmp_path / "features")[report.feature_set]
    assert (report.imported, report.feature_set.partition("-")[0]) == (2, "imported_yt8m.rgb")
    np.testing.assert_allclose(features["aa00"], dequantize(RGB.astype(np.float64)), rtol=0, atol=2e-7)
    assert features["bb11"].shape == (4, 1024)
    assert features.timestamps_ms("aa00").tolist() == [0, 1000, 2000, 3000, 4000, 5000, 6000]
    assert features.spec.preprocessing["dequantised"] == "x * 4 / 255 + 4 / 512 - 2"


def test_half_precision_is_the_default_and_keeps_all_levels_apart(tmp_path: Path, imports: Import) -> None:
    levels = np.arange(256, dtype=np.uint8)[None]
    report = imports(write(tmp_path / "a.tfrecord", example("v", rgb=levels)))
    features = open_cache(tmp_path / "features")[report.feature_set]
    assert features.dtype == np.float16
    assert len(np.unique(features["v"])) == 256


def test_audio_can_be_its_own_set_or_follow_rgb(tmp_path: Path, records: Path, imports: Import) -> None:
    reports = [imports(records, key=key) for key in (("rgb", "audio"), ("audio",))]
    both, audio = (open_cache(tmp_path / "features")[report.feature_set] for report in reports)
    assert (both.feature_shape, audio.feature_shape) == ((1152,), (128,))
    np.testing.assert_array_equal(both["aa00"][:, 1024:], audio["aa00"])
    with pytest.raises(InputError, match="no feature list 'rgbd', but audio, rgb"):
        imports(records, key=("rgbd",))


def test_labels_become_a_manifest_that_grows(tmp_path: Path, records: Path, imports: Import) -> None:
    first = imports(records / "train00.tfrecord")
    second = imports(records / "train01.tfrecord")
    assert first.manifest == second.manifest == str(tmp_path / "features" / f"{first.feature_set}.csv")
    labels = {video.video_id: video.label for video in read_manifest(Path(first.manifest or ""))}
    assert labels == {"aa00": "3;17", "bb11": None}
    assert sorted(open_cache(tmp_path / "features")[first.feature_set]) == ["aa00", "bb11"]


def test_damaged_and_odd_records_are_named_and_the_others_imported(tmp_path: Path, imports: Import) -> None:
    path = write(
        tmp_path / "a.tfrecord",
        example("first", rgb=RGB),
        example("damaged", rgb=RGB),
        b"\xff\xff no message",
        example("../up", rgb=RGB),
        example("short", rgb=[*RGB[:2], RGB[2, :1000]]),
        example("other", rgb=AUDIO),
        example("none", audio=AUDIO),
        example("first", rgb=RGB[:2]),
        example("last", rgb=RGB[1:]),
    )
    content = bytearray(path.read_bytes())
    content[content.index(b"damaged")] ^= 1
    path.write_bytes(content)
    (tmp_path / "b.tfrecord").write_bytes(path.read_bytes()[:100])
    report = imports(path, tmp_path / "b.tfrecord")
    assert list(open_cache(tmp_path / "features")[report.feature_set]) == ["first", "last"]
    expected = {
        "a.tfrecord#1": "check sum",
        "a.tfrecord#2": "no SequenceExample",
        "a.tfrecord#3": "'../up'; expected a relative name",
        "short": "frames of 1000, 1024 numbers",
        "other": "(128,) per frame; most others have (1024,)",
        "none": "no feature list 'rgb', but audio",
        "first": "named twice",
        "b.tfrecord#0": "cut off",
    }
    assert report.failed.keys() == expected.keys()
    assert [name for name, part in expected.items() if part not in report.failed[name]] == []
    assert report.num_videos == report.imported + len(report.failed)


def test_a_second_import_reads_and_adds_nothing(records: Path, imports: Import) -> None:
    imports(records)
    again = imports(records)
    assert (again.imported, again.cached, again.failed) == (0, 2, {})


def test_another_content_under_an_id_is_refused(tmp_path: Path, records: Path, imports: Import) -> None:
    imports(records)
    with pytest.raises(InputError, match=r"'aa00' was imported .* from other features"):
        imports(write(tmp_path / "new.tfrecord", example("aa00", rgb=RGB[::-1])))


def test_floats_and_times_of_an_export_are_imported_to_the_bit(tmp_path: Path, imports: Import) -> None:
    maps, times = RNG.normal(size=(3, 2, 2, 5)).astype(np.float32), np.array([0, 33.3, 70.1])
    report = imports(write(tmp_path / "a.tfrecord", encode_example("v", maps, times)))
    features = open_cache(tmp_path / "features")[report.feature_set]
    np.testing.assert_array_equal(features["v"], maps)
    np.testing.assert_array_equal(features.timestamps_ms("v"), times)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, "none of 0 records can be imported: they hold no record"),
        (b"\xff", "no SequenceExample"),
        (example("video-level", mean_rgb=[]), "feature lists none"),
    ],
    ids=["no-record", "no-message", "no-feature-list"],  # a message's bytes differ from process to process
)
def test_files_without_a_usable_record_are_refused(
    tmp_path: Path, imports: Import, record: bytes | None, message: str
) -> None:
    path = write(tmp_path / "a.tfrecord", *([] if record is None else [record]))
    with pytest.raises(InputError, match=message):
        imports(path)
    assert not (tmp_path / "features").exists()
