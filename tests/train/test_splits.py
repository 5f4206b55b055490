"""Splits: nobody tests on what was trained on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framecache.cache.errors import InputError
from framecache.cache.manifest import Video
from framecache.train.splits import deal, split_videos


def video(name: str, label: str | None = "a", split: str | None = None, group: str | None = None) -> Video:
    return Video(name, Path(name), label, split, group)


def complete() -> list[Video]:
    return [
        video(f"{split}-{label}-{number}", label, split)
        for split, count in (("train", 4), ("val", 1), ("test", 2))
        for label in "ab"
        for number in range(count)
    ]


def test_the_manifests_splits_are_taken_as_they_are() -> None:
    labeled = split_videos(complete(), {}, 0, "m.csv")
    assert {split: len(videos) for split, videos in labeled.splits.items()} == {"train": 8, "val": 2, "test": 4}
    assert labeled.classes == ("a", "b")
    assert labeled.targets("test") == [0, 0, 1, 1]
    assert labeled.left_out == {}


def test_a_test_split_is_not_needed() -> None:
    videos = [one for one in complete() if one.split != "test"]
    assert split_videos(videos, {}, 0, "m.csv").splits["test"] == ()


def test_without_splits_they_are_dealt_by_label_and_seed() -> None:
    videos = [video(f"{label}{number}", label) for label in "abc" for number in range(20)]
    labeled = split_videos(videos, {}, 0, "m.csv")
    for split, count in (("train", 14), ("val", 3), ("test", 3)):
        assert Counter(one.label for one in labeled.splits[split]) == dict.fromkeys("abc", count)
    assert split_videos(videos, {}, 0, "m.csv") == labeled
    assert split_videos(videos, {}, 1, "m.csv") != labeled


def test_without_val_it_is_taken_from_train_and_test_stays() -> None:
    videos = [video(f"{label}{number}", label, "train") for label in "ab" for number in range(20)]
    videos += [video(f"t{label}", label, "test") for label in "ab"]
    labeled = split_videos(videos, {}, 0, "m.csv")
    assert {split: len(members) for split, members in labeled.splits.items()} == {"train": 34, "val": 6, "test": 2}


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12)), min_size=1, max_size=60),
    st.integers(0, 5),
)
def test_dealing_never_tears_a_group_apart(rows: list[tuple[str, int]], seed: int) -> None:
    videos = [video(str(number), label, group=f"g{group}") for number, (label, group) in enumerate(rows)]
    chosen = deal(videos, {}, {"val": 0.2, "test": 0.3}, seed)
    assert set(chosen.values()) <= {"val", "test"}
    for group in {one.group for one in videos}:
        assert len({chosen.get(one.video_id) for one in videos if one.group == group}) == 1


def test_dealing_keeps_copies_together() -> None:
    videos = [video(f"{number}", "ab"[number % 2]) for number in range(40)]
    digests = {one.video_id: f"content{int(one.video_id) // 4}" for one in videos}
    for seed in range(5):
        chosen = deal(videos, digests, {"val": 0.3}, seed)
        for content in set(digests.values()):
            assert len({chosen.get(name) for name, digest in digests.items() if digest == content}) == 1


def test_a_group_in_two_splits_is_an_error_that_names_both() -> None:
    videos = complete()
    videos += [video("x", "a", "train", "person1"), video("y", "a", "test", "person1")]
    with pytest.raises(InputError, match=r"x \(train\) and y \(test\) have the same group 'person1'"):
        split_videos(videos, {}, 0, "m.csv")


def test_a_content_in_two_splits_stays_only_in_the_later_one() -> None:
    digests = {"train-a-0": "same", "val-a-0": "same", "test-a-0": "same", "train-b-1": "twice", "val-b-0": "twice"}
    labeled = split_videos([*complete(), video("more", "a", "val")], digests, 0, "m.csv")
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
    assert split_videos([*complete(), *videos], digests, 0, "m.csv").left_out == {"t1": "same content as v (val)"}


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ([*complete(), video("x", None, "train")], r"1 videos have no label \('x'\)"),
        ([*complete(), video("x", "a", None)], r"1 videos have no split \('x'\)"),
        ([*complete(), video("x", "c", "test")], "label 'c' is in the test split but not in train"),
        ([one for one in complete() if one.label == "a"], "the train split has only the class 'a'"),
        ([one for one in complete() if one.split != "val" or one.label == "a"], "the val split has only the class 'a'"),
        ([one for one in complete() if one.split == "test"], "the train split has no video"),
        ([video("x", "a"), video("y", "b")], "the val split has no video"),
    ],
    ids=["label", "split", "unknown", "one-class", "one-class-val", "no-train", "too-few"],
)
def test_splits_that_cannot_be_learned_or_judged_are_refused(videos: list[Video], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_videos(videos, {}, 0, "m.csv")
