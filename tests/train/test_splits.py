"""Splits: nobody tests on what was trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framecache.cache.errors import InputError
from framecache.cache.manifest import SPLITS, Video
from framecache.train.config import SplitConfig
from framecache.train.splits.dealing import deal, units_of
from framecache.train.splits.splitting import LabeledVideos, check_classes, split_videos

DROP = SplitConfig(duplicates="drop")
Row = tuple[str, int]  # a label, and the number of a group


def video(name: str, label: str | None = "a", split: str | None = None, group: str | None = None) -> Video:
    return Video(name, Path(name), label, split, group)


def complete() -> list[Video]:
    return [
        video(f"{split}-{label}-{number}", label, split)
        for split, count in (("train", 4), ("val", 1), ("test", 2))
        for label in "ab"
        for number in range(count)
    ]


def split(
    videos: Sequence[Video], digests: dict[str, str] | None = None, seed: int = 0, config: SplitConfig | None = None
) -> LabeledVideos:
    """Splits videos as classification does."""
    strata = {one.video_id: one.label or "" for one in videos}
    labeled = split_videos(videos, digests or {}, strata, config or SplitConfig(), seed, "m.csv")
    return replace(labeled, classes=check_classes(labeled, "m.csv"))


def grouped(rows: Sequence[Row]) -> list[Video]:
    return [video(f"v{number}", label, group=f"g{group}") for number, (label, group) in enumerate(rows)]


def sizes(labeled: LabeledVideos) -> dict[str, int]:
    return {name: len(members) for name, members in labeled.splits.items()}


def test_the_manifests_splits_are_taken_as_they_are() -> None:
    labeled = split(complete())
    assert sizes(labeled) == {"train": 8, "val": 2, "test": 4}
    assert labeled.classes == ("a", "b")
    assert labeled.targets("test") == [0, 0, 1, 1]
    assert labeled.left_out == {}


def test_a_test_split_is_not_needed() -> None:
    assert split([one for one in complete() if one.split != "test"]).splits["test"] == ()


def test_without_splits_they_are_dealt_by_label_and_seed() -> None:
    videos = [video(f"{label}{number}", label) for label in "abc" for number in range(20)]
    labeled = split(videos)
    for name, count in (("train", 14), ("val", 3), ("test", 3)):
        assert Counter(one.label for one in labeled.splits[name]) == dict.fromkeys("abc", count)
    assert split(videos) == labeled
    assert split(videos, seed=1) != labeled


def test_without_val_it_is_taken_from_train_and_test_stays() -> None:
    videos = [video(f"{label}{number}", label, "train") for label in "ab" for number in range(20)]
    videos += [video(f"t{label}", label, "test") for label in "ab"]
    assert sizes(split(videos)) == {"train": 34, "val": 6, "test": 2}


def test_as_few_groups_as_splits_give_each_split_one() -> None:
    videos = [
        video(f"{group}{label}{number}", label, None, group) for group in "xyz" for label in "ab" for number in "12"
    ]
    assert sizes(split(videos)) == {"train": 4, "val": 4, "test": 4}


rows_of_groups = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12)), min_size=1, max_size=60)


@given(rows_of_groups, st.integers(0, 5), st.integers(2, 5))
def test_dealing_tears_no_group_apart_and_leaves_no_part_empty(rows: list[Row], seed: int, num_parts: int) -> None:
    videos = grouped(rows)
    units = units_of(videos, {})
    parts = deal(units, {one.video_id: one.label or "" for one in videos}, (1 / num_parts,) * num_parts, seed)
    assert parts.keys() == {one.video_id for one in videos}
    for group in {one.group for one in videos}:
        assert len({parts[one.video_id] for one in videos if one.group == group}) == 1
    assert len(set(parts.values())) == min(num_parts, len(set(units.values())))


@given(st.dictionaries(st.sampled_from("abcde"), st.integers(1, 25), min_size=1), st.integers(2, 7), st.integers(0, 3))
def test_single_videos_are_dealt_as_evenly_as_can_be(counts: dict[str, int], num_parts: int, seed: int) -> None:
    strata = {f"{label}{number}": label for label, count in counts.items() for number in range(count)}
    parts = deal({name: name for name in strata}, strata, (1 / num_parts,) * num_parts, seed)
    for wanted in (strata.keys(), *({name for name in strata if strata[name] == label} for label in counts)):
        found = [sum(parts[name] == part for name in wanted) for part in range(num_parts)]
        assert max(found) - min(found) <= 1


@given(rows_of_groups, st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(rows: list[Row], seed: int, random: Any) -> None:
    videos = grouped(rows)
    digests = {one.video_id: f"content{number // 3}" for number, one in enumerate(videos)}
    strata = {one.video_id: one.label or "" for one in videos}
    shuffled = random.sample(videos, len(videos))
    assert units_of(videos, digests) == units_of(shuffled, digests)
    dealt = [deal(units_of(some, digests), strata, (0.7, 0.15, 0.15), seed) for some in (videos, shuffled, videos)]
    assert dealt[0] == dealt[1] == dealt[2]


# Of StratifiedGroupKFold(5, shuffle=True, random_state=seed) of scikit-learn 1.9.1, for the videos of each seed below.
UNEVENNESS_OF_SCIKIT_LEARN = 1.508961


def test_groups_are_dealt_no_less_evenly_than_by_scikit_learn() -> None:
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        groups = rng.integers(0, 25, 200)
        labels = np.array(list("abcd"))[(groups + rng.integers(0, 3, 200)) % 4]
        videos = [video(f"{n:03d}", str(labels[n]), group=str(groups[n])) for n in range(200)]
        strata = {one.video_id: one.label or "" for one in videos}
        parts = deal(units_of(videos, {}), strata, (0.2,) * 5, seed)
        found.append(unevenness(np.array([parts[one.video_id] for one in videos]), labels))
    assert np.mean(found) <= UNEVENNESS_OF_SCIKIT_LEARN


def unevenness(folds: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float:
    """Mean standard deviation over 5 folds of their sizes and of their counts of each label."""
    held = [folds, *(folds[labels == label] for label in sorted(set(labels)))]
    return float(np.mean([np.bincount(some, minlength=5).std() for some in held]))


def test_dealing_keeps_copies_together_and_the_groups_that_share_one() -> None:
    videos = [video(f"{number}", group=f"g{number // 6}") for number in range(40)]
    digests = {one.video_id: f"content{int(one.video_id) // 4}" for one in videos}
    units = units_of(videos, digests)
    assert len(set(units.values())) == 4
    assert {name for name in units if units[name] == units["0"]} == {str(number) for number in range(12)}


def folds_of(videos: Sequence[Video], num_folds: int, **rest: Any) -> list[LabeledVideos]:
    return [split(videos, config=SplitConfig(folds=num_folds, fold=fold), **rest) for fold in range(1, num_folds + 1)]


@given(st.lists(st.integers(1, 4), min_size=5, max_size=12), st.integers(3, 5), st.integers(0, 3))
def test_each_video_is_tested_once_and_chooses_once(counts: list[int], num_folds: int, seed: int) -> None:
    videos = [
        video(f"{group}{label}{n}", label, None, str(group))
        for group, count in enumerate(counts)
        for label in "ab"
        for n in range(count)
    ]
    runs = folds_of(videos, num_folds, seed=seed)
    for name, times in (("test", 1), ("val", 1), ("train", num_folds - 2)):
        found = Counter(one.video_id for run in runs for one in run.splits[name])
        assert found == {one.video_id: times for one in videos}
    for run in runs:
        placed = {(one.group, name) for name in SPLITS for one in run.splits[name]}
        assert len(placed) == len(counts)
        assert run.classes == ("a", "b")


def test_a_test_split_that_the_manifest_names_is_the_same_in_all_folds() -> None:
    videos = complete()
    runs = folds_of(videos, 2)
    assert all(run.splits["test"] == tuple(one for one in videos if one.split == "test") for run in runs)
    chosen = Counter(one.video_id for run in runs for one in run.splits["val"])
    assert chosen == {one.video_id: 1 for one in videos if one.split != "test"}


def test_folds_take_train_and_val_as_one() -> None:
    digests = {"train-a-0": "same", "val-a-0": "same"}
    videos = [replace(one, group="person") if one.video_id in ("train-b-1", "val-b-0") else one for one in complete()]
    for run in folds_of(videos, 2, digests=digests):
        named = {one.video_id: name for name in SPLITS for one in run.splits[name]}
        assert named["train-a-0"] == named["val-a-0"]
        assert named["train-b-1"] == named["val-b-0"]
    digests["test-a-0"] = "same"
    with pytest.raises(
        InputError, match=r"2 of 14 videos have the same content .* val-a-0 \(val\) and test-a-0 \(test\)"
    ):
        folds_of(videos, 2, digests=digests)


@pytest.mark.parametrize(
    ("videos", "config", "message"),
    [
        (grouped([("a", 1), ("b", 1), ("a", 2), ("b", 2)]), (3, 1), "4 videos .* in 2 groups .*at most 2 folds"),
        (
            grouped([(label, group) for group in range(4) for label in "ab"] + [("c", 1), ("c", 2)]),
            (3, 1),
            "1 classes of m.csv are in fewer groups than that: 'c': 2 .*each class in 3 groups or more",
        ),
        ([one for one in complete() if one.split != "test"], (2, 1), "m.csv names no test split.*at least 3"),
        (complete(), (3, 0), "--folds 3: expected --fold 1 to 3 too"),
        (
            grouped([("a", 0)] * 9 + [("a", 1)] * 9 + [("b", 1)] + [("b", 0)] + [("a", 2)] + [("b", 2)]),
            (3, 1),
            None,
        ),
    ],
    ids=["groups", "class", "two", "which", "just-enough"],
)
def test_folds_that_cannot_be_judged_are_refused(
    videos: list[Video], config: tuple[int, int], message: str | None
) -> None:
    settings = SplitConfig(folds=config[0], fold=config[1])
    if message is None:
        split(videos, config=settings)
        return
    with pytest.raises(InputError, match=message):
        split(videos, config=settings)


def test_a_fold_that_got_none_of_a_class_is_named() -> None:
    labeled = LabeledVideos((), {"train": (), "val": (), "test": tuple(grouped([("a", n) for n in range(3)]))}, {})
    folds = {"v0": 1, "v1": 1, "v2": 3}
    with pytest.raises(InputError, match=r"--folds 3: fold 2 of m.csv has no video of class 'a'"):
        check_classes(replace(labeled, folds=folds, units={name: name for name in folds}), "m.csv")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 1}, "--folds 1: expected at least 3"),
        ({"folds": -2}, "--folds -2: expected at least 3"),
        ({"fold": 2}, "--fold 2: expected --folds"),
        ({"folds": 3, "fold": 4}, "--fold 4: expected 1 to 3"),
        ({"duplicates": "keep"}, "--duplicates 'keep': expected error or drop"),
        ({"missing": "keep"}, "--missing 'keep': expected error or drop"),
        ({"near_duplicate": 1.0}, r"--near-duplicate 1: expected a cosine in \(0, 1\)"),
        ({"near_duplicate": float("nan")}, "--near-duplicate nan: expected a cosine"),
    ],
    ids=str,
)
def test_settings_of_splits_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SplitConfig(**changes)


def test_groups_in_two_splits_are_an_error_that_counts_them_and_names_the_videos() -> None:
    videos = complete()
    videos += [video(f"x{n}", "a", "train", f"person{n}") for n in range(5)]
    videos += [video(f"y{n}", "a", "test", f"person{n}") for n in range(1, 5)]
    with pytest.raises(
        InputError, match=r"4 of 5 groups .*x1 \(train\) and y1 \(test\) have .* 'person1'; x2.*; …; put"
    ):
        split(videos, config=DROP)


def shared_contents() -> tuple[list[Video], dict[str, str]]:
    digests = {"train-a-0": "same", "val-a-0": "same", "test-a-0": "same", "train-b-1": "twice", "val-b-0": "twice"}
    return [*complete(), video("more", "a", "val")], digests


def test_a_content_in_two_splits_is_an_error_that_names_the_videos() -> None:
    named = r"3 of 15 videos .*: val-a-0 \(val\) and test-a-0 \(test\); train-a-0 \(train\) .* --duplicates drop"
    with pytest.raises(InputError, match=named):
        split(*shared_contents())


def test_a_content_in_two_splits_may_stay_only_in_the_later_one() -> None:
    labeled = split(*shared_contents(), config=DROP)
    assert labeled.left_out == {
        "train-a-0": "same content as test-a-0 (test)",
        "val-a-0": "same content as test-a-0 (test)",
        "train-b-1": "same content as val-b-0 (val)",
    }
    names = {one.video_id for videos in labeled.splits.values() for one in videos}
    assert not names & set(labeled.left_out)


def test_parts_of_one_file_are_shared_only_where_they_overlap() -> None:
    parts = {"t1": ("train", 0, 10), "t2": ("train", 20, 30), "v": ("val", 5, 15), "e": ("test", 30, None)}
    videos = [Video(name, Path(name), "a", split, None, start, end) for name, (split, start, end) in parts.items()]
    digests = {name: f"file#{start}-{end}" for name, (_, start, end) in parts.items()}
    assert split([*complete(), *videos], digests, config=DROP).left_out == {"t1": "same content as v (val)"}
    with pytest.raises(InputError, match=r"1 of 18 videos .*: t1 \(train\) and v \(val\); put"):
        split([*complete(), *videos], digests)


def test_other_tasks_need_no_labels() -> None:
    videos = [video(f"{number}", None) for number in range(20)]
    strata = {one.video_id: "" for one in videos}
    labeled = split_videos(videos, {}, strata, SplitConfig(), 0, "m.csv")
    assert labeled.classes == ()
    assert sizes(labeled) == {"train": 14, "val": 3, "test": 3}


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ([*complete(), video("x", None, "train")], r"1 of 15 videos have no label \('x'\)"),
        ([*complete(), video("x", "a", None)], r"1 of 15 videos have no split \('x'\)"),
        ([*complete(), video("x", "c", "test")], "label 'c' is in the test split but not in train"),
        ([one for one in complete() if one.label == "a"], "the train split has only the class 'a'"),
        ([one for one in complete() if one.split != "val" or one.label == "a"], "the val split has only the class 'a'"),
        ([one for one in complete() if one.split == "test"], "the train split has no video"),
        ([video("x", "a"), video("y", "b")], "2 videos in 2 groups .* cannot be dealt out to train, val, test"),
    ],
    ids=["label", "split", "unknown", "one-class", "one-class-val", "no-train", "too-few"],
)
def test_splits_that_cannot_be_learned_or_judged_are_refused(videos: list[Video], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split(videos)
