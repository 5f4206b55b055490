"""What derive fits is fitted on the train split alone, and stays what it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from framecache.cache import InputError
from framecache.cache.derivation import read_derivation
from framecache.cache.ledger import LedgerRow, append_journal

from .deriving import SPLITS, Workplace, arrays_of, digests, make_videos, write_manifest


def test_lineage_says_what_was_done(place: Workplace) -> None:
    features = place.derived(pca=4, whiten=True, l2=True)
    spec = json.loads((features.folder / "spec.json").read_text())
    derivation = read_derivation(features.folder, spec["lineage"])
    assert spec["lineage"] == {
        "parents": [place.spec.fingerprint],
        "steps": [{"op": "pca", "dim": 4, "whiten": True}, {"op": "l2"}],
        "arrays": derivation.digest(),
        "fitted_on": spec["lineage"]["fitted_on"],
    }
    assert derivation.fitted_on == tuple(f"train{number}" for number in range(8))
    assert features.name.startswith("efficientnet-lite0.gap.pca=4,white.l2-")


def test_wild_values_outside_train_change_nothing(place: Workplace, tmp_path: Path) -> None:
    other = Workplace(tmp_path / "other", place.make_spec, place.fill_set)
    wild = {name: rows * 1e4 for name, rows in place.videos.items() if SPLITS[name] != "train"}
    place.fill_set(place.cache, place.spec, wild)
    for steps in ({"pca": 4}, {"dtype": "uint8"}):
        one, two = place.derived(**steps), other.derived(**steps)
        for name, array in arrays_of(one).items():
            np.testing.assert_array_equal(array, arrays_of(two)[name])


def test_a_train_copy_of_a_test_video_is_left_out(place: Workplace) -> None:
    copy = LedgerRow("copy", "videos/copy", "duplicate", "same as test0", source_digest="content of test0")
    append_journal(place.folder, 1, [copy])
    write_manifest(place.manifest, {**SPLITS, "copy": "train"})
    features = place.derived(pca=4)
    assert "copy" in features  # projected, not fitted on
    assert "copy" not in read_derivation(features.folder, features.spec.lineage or {}).fitted_on


def test_a_group_in_two_splits_is_refused(place: Workplace) -> None:
    place.manifest.write_text("path,split,group\ntrain0,train,g\ntest0,test,g\n")
    with pytest.raises(InputError, match=r"train0 \(train\) and test0 \(test\) have the same group 'g'"):
        place.derive(pca=2)


@pytest.mark.parametrize("fitted", [True, False], ids=["with the manifest", "without"])
def test_added_videos_get_the_same_matrix(place: Workplace, fitted: bool) -> None:
    first = place.derived(pca=4, dtype="uint8")
    arrays, before = dict(arrays_of(first)), digests(first)
    place.fill_set(place.cache, place.spec, {"train8": make_videos(seed=5)["train0"]})
    write_manifest(place.manifest, {**SPLITS, "train8": "train"})
    report = place.derive(fitted=fitted, pca=4, dtype="uint8")
    assert (report.feature_set, report.derived, report.cached) == (first.name, 1, 11)
    features = place[first.name]
    assert {name: digest for name, digest in digests(features).items() if name in before} == before
    for name, array in arrays_of(features).items():
        np.testing.assert_array_equal(array, arrays[name])


def test_a_fitted_video_that_moved_to_test_makes_another_set(place: Workplace) -> None:
    first = place.derived(pca=4)
    write_manifest(place.manifest, {**SPLITS, "train3": "test"})
    second = place.derived(pca=4)
    assert second.name != first.name
    assert "train3" not in read_derivation(second.folder, second.spec.lineage or {}).fitted_on
    assert place.derive(pca=4).feature_set == second.name
    with pytest.raises(InputError, match="fitted on different videos"):
        place.derive(fitted=False, pca=4)


def test_what_a_parent_was_fitted_on_must_not_be_held_out_later(place: Workplace) -> None:
    first = place.derived(pca=6)
    second = place.derived(first.name, l2=True)
    assert read_derivation(second.folder, second.spec.lineage or {}).fitted_on
    write_manifest(place.manifest, {**SPLITS, "train3": "test"})
    with pytest.raises(InputError, match=r"pca=6.l2.* was fitted on 1 videos .* holds out .*'train3'"):
        place.derive(second.name, pca=2)
