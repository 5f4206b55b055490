"""derive makes a feature set like any other, or refuses in one line and writes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framecache.cache import InputError, ShardError
from framecache.cache.derivation import ARRAYS_FILE
from framecache.cache.derive import DeriveConfig, derive
from framecache.cache.ledger import LedgerRow, append_journal
from framecache.cache.manifest import read_manifest
from framecache.cache.reader import list_shards
from framecache.cache.verify import verify
from framecache.cache.writer import ShardWriter

from .deriving import DIM, Workplace, arrays_of, digests, write_manifest


def test_the_second_time_nothing_is_computed(place: Workplace) -> None:
    first = place.derive(pca=4)
    again = place.derive(pca=4)
    assert (again.feature_set, again.derived, again.cached, again.num_frames) == (first.feature_set, 0, 11, 0)
    assert again.explained_variance == first.explained_variance


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_derivation_goes_on_to_the_same_digests(
    place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    steps = {"pca": 4, "whiten": True}
    whole = Workplace(tmp_path / "other", place.make_spec, place.fill_set).derived(**steps)
    add, seen = ShardWriter.add, []

    def stop_at_the_fifth(writer: ShardWriter, *arguments: Any) -> None:
        seen.append(1)
        if len(seen) == 5:
            raise error
        add(writer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "add", stop_at_the_fifth)
        with pytest.raises(error):
            place.derive(**steps, seal_seconds=1e-9)
    report = place.derive(**steps)
    assert report.feature_set == whole.name
    assert (report.derived, report.cached) == (7, 4)
    assert digests(place[report.feature_set]) == digests(whole)


def test_a_changed_video_is_derived_again(place: Workplace, add_video: Callable[..., object]) -> None:
    first = place.derived(fitted=False, random=4)
    with ShardWriter(place.folder, place.spec, {}, 1 << 30, 60) as writer:
        add_video(writer, "train2", np.ones((3, DIM)), source_digest="new content")
    report = place.derive(fitted=False, random=4)
    assert (report.feature_set, report.derived, report.cached) == (first.name, 1, 10)
    assert place[first.name].ledger()["train2"].source_digest == "new content"
    assert place[first.name]["train2"].shape == (3, 4)


def test_failed_and_duplicate_videos_are_taken_over(place: Workplace) -> None:
    failed = LedgerRow("bad", "videos/bad", "failed", "no frame could be decoded", ("cut short",), 9)
    copy = LedgerRow("copy", "videos/copy", "duplicate", "same as test0", source_digest="content of test0")
    append_journal(place.folder, 1, [failed, copy])
    report = place.derive(fitted=False, random=4)
    assert (report.num_videos, report.derived, report.cached, report.failed) == (13, 11, 1, {"bad": failed.reason})
    features = place[report.feature_set]
    known = place.parent.ledger()
    assert {name: row.status for name, row in features.ledger().items()} == {
        name: row.status for name, row in known.items()
    }
    assert features.ledger()["bad"] == failed
    np.testing.assert_array_equal(features["copy"], features["test0"])
    journal = (features.folder / "ledger.jsonl").read_bytes()
    assert place.derive(fitted=False, random=4).failed == {"bad": failed.reason}
    assert (features.folder / "ledger.jsonl").read_bytes() == journal


def test_a_copy_whose_original_has_changed_keeps_its_features(
    place: Workplace, add_video: Callable[..., object]
) -> None:
    copies = [
        LedgerRow(name, f"videos/{name}", "duplicate", "same as test0", source_digest="content of test0")
        for name in ("copy", "copy2")
    ]
    append_journal(place.folder, 1, copies)
    with ShardWriter(place.folder, place.spec, {}, 1 << 30, 60) as writer:
        add_video(writer, "test0", np.ones((3, DIM)), source_digest="new content")
    features = place.derived(fitted=False, dtype="float16")
    for name in ("copy", "copy2"):
        np.testing.assert_array_equal(features[name], place.videos["test0"].astype(np.float16))
    assert place.derive(fitted=False, dtype="float16").derived == 0


def test_a_copy_of_what_cannot_be_derived_has_failed_too(place: Workplace) -> None:
    place.fill_set(place.cache, place.spec, {"huge": np.full((3, DIM), 1e6)})
    copy = LedgerRow("copy", "videos/copy", "duplicate", "same as huge", source_digest="content of huge")
    append_journal(place.folder, 2, [copy])
    report = place.derive(fitted=False, dtype="float16")
    assert report.failed["copy"] == "same as huge, which failed"
    assert place.derive(fitted=False, dtype="float16").failed == report.failed


def test_progress_comes_to_its_total_in_every_pass(place: Workplace) -> None:
    seen: list[tuple[int, int]] = []
    derive(
        place.spec.name,
        DeriveConfig(cache=place.cache, manifest=place.manifest, pca=3),
        lambda done, total: seen.append((done, total)),
    )
    train, all_frames = len(place.rows("train")), sum(map(len, place.videos.values()))
    assert [total for done, total in seen if done == total] == [train, all_frames]
    assert {total for _, total in seen} == {train, all_frames}


def test_many_small_shards_are_compacted_at_the_end(place: Workplace) -> None:
    features = place.derived(fitted=False, random=3, seal_seconds=1e-9)
    assert len(list_shards(features.folder)) == 1
    assert len(features) == 11


def test_verify_finds_a_flipped_bit_in_the_arrays(place: Workplace) -> None:
    for steps in ({"pca": 4}, {"dtype": "uint8"}):
        features = place.derived(**steps)
        assert verify(features.folder, features.spec).ok
        path = features.folder / ARRAYS_FILE
        content = bytearray(path.read_bytes())
        name = "0.matrix" if "pca" in steps else "0.offset"
        place_of_array = bytes(content).index(np.ascontiguousarray(arrays_of(features)[name]).tobytes())
        content[place_of_array + 1] ^= 4
        path.write_bytes(content)
        result = verify(features.folder, features.spec)
        assert not result.ok
        assert ARRAYS_FILE in result.errors
        with pytest.raises(ShardError, match=ARRAYS_FILE):
            place.derive(**steps)
    for damaged in (content, content[:-200], b"", b"PK"):
        path.write_bytes(damaged)
        with pytest.raises(ShardError, match=ARRAYS_FILE):
            place[features.name]


def hurt(folder: Path) -> None:
    path = list_shards(folder)[0]
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # features end the file: this is of the last video
    path.write_bytes(content)


@pytest.mark.parametrize(
    "words", [["--l2"], ["--random", 3], ["--sample", "every=4"], ["--pca", 3, "--manifest", "manifest.csv"]]
)
def test_a_hurt_parent_is_refused_and_nothing_is_left(
    place: Workplace, words: list[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.manifest.parent)
    hurt(place.folder)
    assert place.command(place.spec.name, *words, "--seal-seconds", 1e-9) == 2
    out, err = capsys.readouterr()
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert "'test1' is hurt; run framecache verify" in err
    assert out == ""
    assert place.sets() == [place.spec.name]


WRONG: dict[str, tuple[list[object], str]] = {
    "nothing to do": ([], "at least one step"),
    "the parent's sampling": (["--sample", "all"], "at least one step"),
    "the parent's dtype": (["--dtype", "float32"], "at least one step"),
    "pca above the parent's": (["--pca", 13, "--manifest", "manifest.csv"], "expected 1 to 12 dimensions"),
    "random above the parent's": (["--random", 13], "expected 1 to 12 dimensions"),
    "negative": (["--pca", -1], "expected a number of dimensions"),
    "pca without manifest": (["--pca", 3], "--manifest: expected the manifest"),
    "uint8 without manifest": (["--dtype", "uint8"], "--manifest: expected the manifest"),
    "no such manifest": (["--pca", 3, "--manifest", "none.csv"], "no such manifest"),
    "manifest without train": (["--pca", 3, "--manifest", "test.csv"], "in its train split"),
    "manifest of others": (["--pca", 3, "--manifest", "others.csv"], "in its train split"),
    "too few rows": (["--pca", 12, "--manifest", "few.csv"], "needs more than 12 frames of the train split, found"),
    "gap of vectors": (["--reduce", "gap"], "expected a grid set (h, w, C), found (12,)"),
    "no pooling": (["--reduce", "grid"], "expected gap, gmp"),
    "unknown reduction": (["--reduce", "gapp"], "did you mean 'gap'"),
    "sampling": (["--sample", "fps=0"], "expected all, fps=N"),
    "whiten alone": (["--whiten", "--l2"], "expected --pca N with it"),
    "two projections": (["--pca", 3, "--random", 3], "expected one of them"),
    "no run": (["--dense", "runs/none"], "no projection.npz"),
    "dense and concat": (["--dense", "runs/none", "--concat", "efficientnet-lite0"], "expected no --concat"),
    "no such set": (["--concat", "nothing"], "no feature set 'nothing'"),
    "seed": (["--random", 3, "--seed", -1], "--seed"),
    "seconds": (["--l2", "--seal-seconds", 0], "expected a positive number"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_line_and_writes_nothing(
    place: Workplace, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.manifest.parent)
    write_manifest(Path("test.csv"), {"test0": "test", "val0": "val"})
    write_manifest(Path("others.csv"), {"another": "train"})
    write_manifest(Path("few.csv"), {"train0": "train"})
    place.fill_set(place.cache, place.make_spec(reduction="gmp"), {})
    before = place.sets()
    words, message = WRONG[case]
    if case == "too few rows":
        place.fill_set(place.cache, place.spec, {"train0": place.videos["train1"][:4]})
    assert place.command(place.spec.name, *words) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("derive:")]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert out == ""
    assert place.sets() == before


def test_sampling_a_sampled_set_is_refused(place: Workplace) -> None:
    sampled = place.derived(fitted=False, sample="every=2")
    with pytest.raises(InputError, match="expected a parent with all frames"):
        place.derive(sampled.name, fitted=False, sample="every=2")


def test_too_many_components_to_whiten(place: Workplace) -> None:
    flat = place.make_spec(reduction="gmp", dtype="float32")
    rng = np.random.default_rng(0)
    place.fill_set(place.cache, flat, {"train0": rng.normal(size=(40, 2)) @ rng.normal(size=(2, 4))})
    with pytest.raises(InputError, match="varies in 2 dimensions only"):
        place.derive(flat.name, pca=3, whiten=True)
    assert place.derive(flat.name, pca=3).explained_variance == pytest.approx(1)


def test_the_command_reports(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.command("efficientnet-lite0.gap", "--pca", 3, "--manifest", place.manifest) == 0
    name, counts, explained = capsys.readouterr().out.splitlines()
    assert name in place.sets()
    assert counts == "11 videos: 11 derived, 0 cached, 0 failed"
    assert explained.startswith("explained variance 0.")
    assert explained.endswith("fitted on 8 train videos")
    assert place.command(place.spec.name, "--pca", 3, "--manifest", place.manifest, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["feature_set"], report["derived"], report["cached"]) == (name, 0, 11)
    assert len(read_manifest(place.manifest)) == report["num_videos"]
