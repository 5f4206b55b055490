"""The extraction as a whole: what is computed, what is not computed again, and what never vanishes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framecache.cache import open_cache
from framecache.cache.errors import InputError, LockedError
from framecache.cache.reader import list_shards
from framecache.cache.sampling import Sampling
from framecache.cache.store import lock_for_writing
from framecache.cache.writer import VideoBuffer
from framecache.extract import pipeline
from framecache.extract.backbones import load_backbone
from framecache.extract.config import ExtractConfig
from framecache.extract.decoder import Finished
from framecache.extract.pipeline import extract
from framecache.extract.video import Clip, DecodeStats, decode

from .conftest import TINY_BACKBONE, shades, write_video
from .numpy_network import NumpyEngine, install


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExtractConfig:
    """The CNN is one in NumPy, which starts at once."""
    install(monkeypatch.setattr)
    return ExtractConfig(cache=tmp_path / "features", batch_size=4)


@pytest.fixture
def keras_config(tiny_backbone: str, tmp_path: Path) -> ExtractConfig:
    """The CNN is one in Keras."""
    return ExtractConfig(cache=tmp_path / "features", backbone=tiny_backbone, engine="tensorflow", batch_size=4)


@pytest.fixture(scope="module")
def keras_extracted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ExtractConfig]]:
    """Two clips of 5 and 3 frames, and the configuration under which their features were extracted."""
    folder = tmp_path_factory.mktemp("extracted")
    for name, count in (("one", 5), ("two", 3)):
        write_video(folder / f"clips/{name}.mp4", shades(count))
    (folder / "tiny_backbone.py").write_text(TINY_BACKBONE)
    config = ExtractConfig(cache=folder / "features", backbone="tiny_backbone:build", engine="tensorflow", batch_size=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        assert extract(folder / "clips", config).computed == 2
        yield folder / "clips", config


@pytest.fixture
def extracted(keras_extracted: tuple[Path, ExtractConfig], tmp_path: Path) -> tuple[Path, ExtractConfig]:
    """The same with a cache of one's own."""
    clips, config = keras_extracted
    return clips, replace(config, cache=shutil.copytree(config.cache, tmp_path / "features"))


def digests(config: ExtractConfig, name: str = "numpy.gap") -> dict[str, str]:
    ledger = open_cache(config.cache)[name].ledger()
    return {video_id: row.feature_digest for video_id, row in ledger.items()}


def test_cached_features_are_those_of_each_frame_alone(clips: Path, keras_config: ExtractConfig) -> None:
    report = extract(clips, replace(keras_config, dtype="float32"))
    assert (report.num_videos, report.computed, report.num_frames, report.failed) == (3, 3, 16, {})
    features = open_cache(keras_config.cache)["build.gap"]
    backbone = load_backbone(keras_config.backbone)
    import keras

    network = keras.Model(backbone.model.input, backbone.model.get_layer("late").output)
    for video_id, count in (("a/one.mp4", 5), ("a/two.mp4", 7), ("b/three.mp4", 4)):
        (block,) = decode(Clip(clips / video_id, Sampling(), backbone.geometry), DecodeStats())
        live = np.asarray(network(block.frames.astype(np.float32), training=False)).mean(axis=(1, 2))
        assert features[video_id].shape == (count, 6)
        np.testing.assert_allclose(features[video_id], live, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(features.timestamps_ms(video_id), np.arange(count) * 100)


def test_neither_the_order_of_videos_nor_the_workers_change_a_digest(
    clips: Path, config: ExtractConfig, tmp_path: Path
) -> None:
    extract(clips, config)
    manifest = clips / "manifest.csv"
    manifest.write_text("path\nb/three.mp4\na/two.mp4\na/one.mp4\n")
    other = replace(config, cache=tmp_path / "other", workers=3, seal_seconds=0.01)
    extract(manifest, other)
    assert digests(config) == digests(other)


def test_one_pass_gives_every_tap_and_reduction(clips: Path, keras_config: ExtractConfig) -> None:
    report = extract(clips, replace(keras_config, tap=("early", "late"), reduce=("gap", "gmp", "grid")))
    assert report.num_frames == 16
    cache = open_cache(keras_config.cache)
    assert {name.rpartition("-")[0] for name in cache} == {
        f"build{tap}.{reduction}" for tap in ("", "@early") for reduction in ("gap", "gmp", "grid")
    }
    grid, gap, gmp = (cache[f"build@early.{reduction}"]["a/two.mp4"] for reduction in ("grid", "gap", "gmp"))
    assert grid.shape == (7, 8, 8, 4)
    np.testing.assert_allclose(grid.astype(np.float32).mean(axis=(1, 2)), gap, rtol=1e-2, atol=1e-3)
    np.testing.assert_array_equal(grid.max(axis=(1, 2)), gmp)


def test_a_second_run_decodes_nothing(clips: Path, config: ExtractConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a video was decoded")

    extract(clips, config)
    monkeypatch.setattr(pipeline, "DecoderPool", refuse)
    report = extract(clips, config)
    assert (report.computed, report.cached, report.num_frames) == (0, 3, 0)


def test_another_reduction_later_computes_only_that_one(clips: Path, config: ExtractConfig) -> None:
    extract(clips, config)
    before = {path: path.stat().st_mtime_ns for path in config.cache.rglob("*.h5")}
    report = extract(clips, replace(config, reduce=("gap", "gmp")))
    assert (report.computed, report.num_frames) == (3, 16)
    after = {path: path.stat().st_mtime_ns for path in config.cache.rglob("*.h5")}
    assert before.items() < after.items()
    assert all("gmp" in path.parent.name for path in after.keys() - before.keys())


def test_one_more_video_computes_only_that_one(clips: Path, config: ExtractConfig) -> None:
    extract(clips, replace(config, reduce=("gap", "gmp")))
    write_video(clips / "b/four.mp4", shades(9))
    report = extract(clips, replace(config, reduce=("gap", "gmp")))
    assert (report.computed, report.cached, report.num_frames) == (1, 3, 9)
    assert len(open_cache(config.cache)["numpy.gap"]) == len(open_cache(config.cache)["numpy.gmp"]) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"sample": "every=2"},
        {"dtype": "float32"},
        {"precision": "mixed_float16"},
        {"backbone": "tiny_backbone:other"},
        {"preprocessing": "mobilenet_v2"},
        {"tap": ("early",)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_the_numbers_makes_another_feature_set(
    extracted: tuple[Path, ExtractConfig], change: dict[str, Any]
) -> None:
    clips, config = extracted
    (first,) = open_cache(config.cache)
    before = digests(config, first)
    report = extract(clips, replace(config, **change))
    assert report.computed == 2
    assert set(open_cache(config.cache)) == {first, *report.feature_sets} > {first}
    assert digests(config, first) == before


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 16}, {"workers": 2}, {"shard_mb": 1e-4}, {"engine": "litert"}, {"tap": ("late",)}],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_no_number_keeps_the_feature_set(
    extracted: tuple[Path, ExtractConfig], change: dict[str, Any]
) -> None:
    clips, config = extracted
    (first,) = open_cache(config.cache)
    report = extract(clips, replace(config, **change))
    assert (report.feature_sets, report.cached) == ([first], 2)


def test_a_changed_file_under_an_old_name_is_computed_again(clips: Path, config: ExtractConfig) -> None:
    extract(clips, config)
    before = digests(config)
    write_video(clips / "a/one.mp4", shades(6)[::-1])
    report = extract(clips, config)
    assert (report.computed, report.cached) == (1, 2)
    features = open_cache(config.cache)["numpy.gap"]
    assert len(features["a/one.mp4"]) == 6
    assert digests(config)["a/one.mp4"] != before["a/one.mp4"]


def test_a_changed_file_of_the_same_size_and_time_is_still_noticed(clips: Path, config: ExtractConfig) -> None:
    extract(clips, config)
    path = clips / "a/one.mp4"
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert extract(clips, config).computed == 1


def test_a_touched_file_is_not_computed_again(clips: Path, config: ExtractConfig) -> None:
    extract(clips, config)
    os.utime(clips / "a/one.mp4", (1, 1))
    assert extract(clips, config).cached == 3


def test_an_identical_file_under_a_new_name_costs_no_pass(clips: Path, config: ExtractConfig) -> None:
    extract(clips, config)
    shutil.copy(clips / "a/one.mp4", clips / "b/copy.mp4")
    report = extract(clips, config)
    assert (report.computed, report.duplicates, report.num_frames) == (0, 1, 0)
    features = open_cache(config.cache)["numpy.gap"]
    np.testing.assert_array_equal(features["b/copy.mp4"], features["a/one.mp4"])
    assert features.ledger()["b/copy.mp4"].status == "duplicate"
    assert extract(clips, config).cached == 4


def test_copies_within_one_run_are_computed_once(clips: Path, config: ExtractConfig) -> None:
    shutil.copy(clips / "a/one.mp4", clips / "b/copy.mp4")
    report = extract(clips, config)
    assert (report.computed, report.duplicates, report.num_frames) == (3, 1, 16)
    assert len(open_cache(config.cache)["numpy.gap"]) == 4


def test_a_copy_of_a_broken_video_fails_with_it(clips: Path, config: ExtractConfig) -> None:
    for name in ("x", "y"):
        (clips / f"{name}.mp4").write_bytes(b"no video at all")
    report = extract(clips, config)
    assert set(report.failed) == {"x.mp4", "y.mp4"}
    rows = open_cache(config.cache)["numpy.gap"].ledger()
    assert rows["y.mp4"].status == "failed"
    assert "same content as x.mp4" in rows["y.mp4"].reason


def test_every_video_ends_in_the_ledger_and_bad_ones_stop_nothing(clips: Path, config: ExtractConfig) -> None:
    (clips / "bad.mp4").write_bytes(b"no video at all")
    (clips / "empty.mp4").write_bytes(b"")
    report = extract(clips, config)
    assert report.computed == 3
    rows = open_cache(config.cache)["numpy.gap"].ledger()
    assert {name: row.status for name, row in rows.items()} == {
        "a/one.mp4": "ok",
        "a/two.mp4": "ok",
        "b/three.mp4": "ok",
        "bad.mp4": "failed",
        "empty.mp4": "failed",
    }
    assert report.failed == {name: rows[name].reason for name in ("bad.mp4", "empty.mp4")}
    assert all(report.failed.values())


def test_a_failed_video_is_reported_again_but_tried_again_only_when_asked(clips: Path, config: ExtractConfig) -> None:
    (clips / "bad.mp4").write_bytes(b"no video at all")
    extract(clips, config)
    ledger = (config.cache / extract(clips, config).feature_sets[0] / "ledger.jsonl").read_text()
    again = extract(clips, config)
    assert set(again.failed) == {"bad.mp4"}
    assert (config.cache / again.feature_sets[0] / "ledger.jsonl").read_text() == ledger
    assert again.engine == ""  # nothing was run
    assert extract(clips, replace(config, retry_failed=True)).engine == "numpy"


def test_a_mended_video_is_tried_again_without_asking(clips: Path, config: ExtractConfig) -> None:
    (clips / "bad.mp4").write_bytes(b"no video at all")
    extract(clips, config)
    write_video(clips / "bad.mp4", shades(3))
    report = extract(clips, config)
    assert (report.computed, report.failed) == (1, {})
    assert open_cache(config.cache)["numpy.gap"].ledger()["bad.mp4"].status == "ok"


def test_a_video_that_breaks_after_it_was_cached_is_no_longer_served(clips: Path, config: ExtractConfig) -> None:
    extract(clips, config)
    (clips / "a/one.mp4").write_bytes(b"overwritten")
    extract(clips, config)
    features = open_cache(config.cache)["numpy.gap"]
    assert "a/one.mp4" not in features
    assert features.ledger()["a/one.mp4"].status == "failed"


def test_numbers_too_large_for_float16_fail_with_the_way_out(clips: Path, keras_config: ExtractConfig) -> None:
    report = extract(clips, replace(keras_config, backbone="tiny_backbone:large"))
    assert set(report.failed) == {"a/one.mp4", "a/two.mp4", "b/three.mp4"}
    assert "not finite in float16; try --dtype float32" in report.failed["a/one.mp4"]
    assert extract(clips, replace(keras_config, backbone="tiny_backbone:large", dtype="float32")).failed == {}


def test_one_reduction_that_is_not_finite_leaves_the_others_alone(clips: Path, keras_config: ExtractConfig) -> None:
    # The mean of a bright and many dark pixels fits into float16, the brightest alone does not.
    for number, path in enumerate(clips.rglob("*.mp4")):
        frames = np.zeros((2, 16, 16, 3), np.uint8)
        frames[:, :4, :4] = 50 + 4 * number
        write_video(path, frames)
    report = extract(clips, replace(keras_config, backbone="tiny_backbone:large", reduce=("gmp", "gap"), tap=("late",)))
    assert all("not finite" in reason for reason in report.failed.values())
    statuses = {
        name.partition("-")[0]: row.status
        for name in report.feature_sets
        for row in open_cache(keras_config.cache)[name].ledger().values()
    }
    assert statuses == {"large.gmp": "failed", "large.gap": "ok"}


def test_content_that_comes_back_is_computed_again_under_its_own_name(clips: Path, config: ExtractConfig) -> None:
    extract(clips, config)
    first, original = digests(config), (clips / "a/one.mp4").read_bytes()
    write_video(clips / "a/one.mp4", shades(3))
    extract(clips, config)
    (clips / "a/one.mp4").write_bytes(original)
    assert extract(clips, config).computed == 1
    assert digests(config) == first
    assert extract(clips, config).cached == 3


def test_a_moments_unreadability_hides_no_features(
    clips: Path, config: ExtractConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(clips, config)

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("framecache.extract.plan.stat_source", refuse)
        assert set(extract(clips, config).failed.values()) == {"cannot be read: Permission denied"}
    assert len(open_cache(config.cache)["numpy.gap"]) == 3
    assert extract(clips, config).cached == 3


def test_a_file_that_changes_while_it_is_read_fails(
    clips: Path, config: ExtractConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "stat_source", lambda path: "another signature")
    assert "changed while it was read" in extract(clips, config).failed["a/one.mp4"]


def test_the_counts_add_up_to_all_videos(clips: Path, config: ExtractConfig) -> None:
    extract(clips, config)
    (clips / "a/one.mp4").rename(clips / "a/renamed.mp4")
    (clips / "bad.mp4").write_bytes(b"no video")
    write_video(clips / "new.mp4", shades(3))
    report = extract(clips, replace(config, reduce=("gap", "gmp")))
    counts = (report.computed, report.cached, report.duplicates, len(report.failed))
    assert (sum(counts), report.num_videos) == (5, 5)
    assert counts == (4, 0, 0, 1)  # the renamed one is a duplicate in gap, but had to be computed for gmp


def test_a_cache_that_is_a_file_is_refused(clips: Path, config: ExtractConfig) -> None:
    config.cache.write_text("not a folder")
    with pytest.raises(InputError, match="expected a folder, found a file"):
        extract(clips, config)


def test_an_unreadable_video_is_a_failure_of_its_own(clips: Path, config: ExtractConfig) -> None:
    os.mkfifo(clips / "pipe.mp4")
    report = extract(clips, config)
    assert report.failed == {"pipe.mp4": "cannot be read: not a regular file"}
    assert report.computed == 3


def test_an_interrupt_seals_what_is_complete_and_the_next_run_goes_on(
    clips: Path, config: ExtractConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_engine = pipeline.make_engine

    def make_tired_engine(*arguments: Any) -> Any:
        engine = make_engine(*arguments)
        run, passes = engine.run, iter(range(2))

        def run_twice(frames: Any) -> Any:
            if next(passes, None) is None:
                raise KeyboardInterrupt
            return run(frames)

        engine.run = run_twice
        return engine

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "make_engine", make_tired_engine)
        with pytest.raises(KeyboardInterrupt):
            extract(clips, config)
    assert set(open_cache(config.cache)["numpy.gap"]) == {"a/one.mp4"}  # 5 frames, of 8 computed
    assert not list(config.cache.rglob(".*partial"))
    report = extract(clips, config)
    assert (report.computed, report.cached) == (2, 1)
    fresh = replace(config, cache=config.cache.with_name("fresh"))
    extract(clips, fresh)
    assert digests(config) == digests(fresh)


def test_a_feature_set_that_is_being_written_is_not_written_twice(clips: Path, config: ExtractConfig) -> None:
    (name,) = extract(clips, config).feature_sets
    with lock_for_writing(config.cache / name), pytest.raises(LockedError, match="is writing into this feature set"):
        extract(clips, config)


def test_wrong_input_writes_nothing(clips: Path, keras_config: ExtractConfig) -> None:
    for wrong in ({"tap": ("nope",)}, {"backbone": "nope"}, {"root": Path("/nonexistent")}):
        with pytest.raises(InputError):
            extract(clips / "a" / "gone.mp4" if "root" in wrong else clips, replace(keras_config, **wrong))
    assert not keras_config.cache.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample": "fps=0"}, "expected all, fps=N, every=N or num=N"),
        ({"reduce": ()}, "at least one reduction"),
        ({"reduce": ("gab",)}, "expected one of"),
        ({"batch_size": 0}, "--batch-size 0: expected a positive number"),
        ({"shard_mb": float("inf")}, "--shard-mb inf: expected a positive number"),
        ({"shard_mb": -1.0}, "--shard-mb -1: expected a positive number"),
        ({"seal_seconds": float("nan")}, "--seal-seconds nan"),
        ({"workers": -1}, "--workers -1: expected 0 or more"),
        ({"engine": "cuda"}, "expected one of auto, tensorflow, litert"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_setting_out_of_range_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExtractConfig(**change)


def test_a_run_that_cannot_merge_small_shards_has_computed_all_the_same(clips: Path, config: ExtractConfig) -> None:
    (name,) = extract(clips, replace(config, shard_mb=1e-9)).feature_sets  # a shard per video
    hurt = list_shards(config.cache / name)[0]
    data = bytearray(hurt.read_bytes())
    data[-1] ^= 1
    hurt.write_bytes(data)
    write_video(clips / "b" / "four.mp4", shades(9))
    report = extract(clips, config)
    assert (report.computed, report.cached) == (1, 3)
    assert "is hurt" in report.not_merged[name] or "are hurt" in report.not_merged[name]
    assert len(open_cache(config.cache)[name]) == 4


@pytest.mark.parametrize("slow", ["decode", "CNN", "write"])
def test_a_run_says_what_it_was_bound_by_and_what_it_saves(
    clips: Path, config: ExtractConfig, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    def slowed(function: Callable[..., Any]) -> Callable[..., Any]:
        def slower(*arguments: Any) -> Any:
            time.sleep(0.3)
            return function(*arguments)

        return slower

    if slow == "decode":
        monkeypatch.setattr(pipeline.DecoderPool, "__iter__", lambda pool: slowed_events(pool._events, 3))

        def slowed_events(events: Any, num_clips: int) -> Iterator[Any]:
            while num_clips:
                time.sleep(0.3)
                event = events.get()
                num_clips -= isinstance(event, Finished)
                yield event

    else:  # all is decoded before anything is waited for
        decoded = pipeline.DecoderPool.__iter__
        monkeypatch.setattr(pipeline.DecoderPool, "__iter__", lambda pool: iter(list(decoded(pool))))
    if slow == "CNN":
        monkeypatch.setattr(NumpyEngine, "run", slowed(NumpyEngine.run))
    elif slow == "write":
        monkeypatch.setattr(VideoBuffer, "append", slowed(VideoBuffer.append))
    report = extract(clips, config)
    assert report.bound_by == slow
    waits = {"decode": report.decode_wait_seconds, "CNN": report.cnn_wait_seconds, "write": report.write_seconds}
    assert 0.9 < waits[slow] <= report.seconds
    assert sum(waits.values()) <= report.seconds
    assert report.saved_seconds == pytest.approx(report.seconds - report.write_seconds)
    assert report.start_seconds > 0
    nothing = extract(clips, config)
    assert (nothing.bound_by, nothing.saved_seconds) == ("", 0.0)
