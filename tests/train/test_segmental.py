"""Segmental metrics: against values worked out by hand, and what must hold of any."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framecache.train.tasks.segmental import levenshtein, segmental_metrics, segments


def classes(letters: str) -> np.ndarray:
    """One class per letter, -1 for a dot."""
    return np.array([-1 if letter == "." else ord(letter) - ord("a") for letter in letters], np.int64)


def metrics(predicted: str, true: str) -> dict[str, float]:
    lengths = np.array([len(video) for video in true.split("|")], np.int64)
    return segmental_metrics(classes(predicted.replace("|", "")), classes(true.replace("|", "")), lengths)


@pytest.mark.parametrize(
    ("predicted", "true", "edit", "f1"),
    [
        ("aaabbbccc", "aaabbbccc", 1.0, (1.0, 1.0, 1.0)),
        # Segments a b against a b c: one is missing. Overlaps 3/3 and 3/6, and nothing for c: F1 = 2·2/(2 + 3).
        ("aaabbbbbb", "aaabbbccc", 2 / 3, (0.8, 0.8, 0.8)),
        # a b a b c against a b c: two too many. Overlaps 2/3, 0, 0, 1/2 and 1: three are right; F1 = 2·3/(5 + 3).
        ("aababcccc", "aaabbcccc", 1 - 2 / 5, (0.75, 0.75, 0.75)),
        # The border too late: overlaps 4/6 and 2/4, then 4/7 and 1/4.
        ("aaaaaabb", "aaaabbbb", 1.0, (1.0, 1.0, 1.0)),
        ("aaaaaaab", "aaaabbbb", 1.0, (1.0, 1.0, 0.5)),
        # The right segments in the wrong order.
        ("bbbbaaaa", "aaaabbbb", 0.0, (0.0, 0.0, 0.0)),
        # Frames without a label count neither way, and part two segments of one class.
        ("aaacccaaa", "aaa...aaa", 1.0, (1.0, 1.0, 1.0)),
        ("aaacccbbb", "aaa...aaa", 0.5, (0.5, 0.5, 0.5)),
        # Two videos: edit is a mean over videos, F1 counts segments of both; nothing goes over the border.
        ("aaaa|aabb", "aaaa|aaaa", 0.75, (0.8, 0.8, 0.8)),
        ("aaaa|aaaa", "aaaa|....", 1.0, (1.0, 1.0, 1.0)),
    ],
    ids=["perfect", "missing", "split", "shifted", "shifted-far", "order", "gap", "gap-wrong", "videos", "unlabelled"],
)
def test_values_worked_out_by_hand(predicted: str, true: str, edit: float, f1: tuple[float, ...]) -> None:
    found = metrics(predicted, true)
    assert found["edit"] == pytest.approx(edit)
    assert [found[f"f1@{overlap}"] for overlap in (10, 25, 50)] == pytest.approx(list(f1))


def test_a_true_segment_is_taken_once() -> None:
    # Both halves of a overlap it by 4/9; the second one is one too many.
    assert metrics("aaaabaaaa", "aaaaaaaaa")["f1@25"] == pytest.approx(2 * 1 / (3 + 1))


@given(st.text("abcd", min_size=1, max_size=40))
def test_a_perfect_prediction_has_one_of_all(true: str) -> None:
    assert set(metrics(true, true).values()) == {1.0}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(4, 9)), min_size=1, max_size=6), st.integers(0, 100))
def test_a_flicker_lowers_edit_and_f1_but_hardly_accuracy(parts: list[tuple[str, int]], at: int) -> None:
    true = "".join(letter * count for letter, count in parts)
    place = 1 + at % (len(true) - 2)
    while true[place - 1] != true[place + 1]:
        place -= 1
    flickering = true[:place] + "d" + true[place + 1 :]
    found = metrics(flickering, true)
    assert found["edit"] < 1
    assert found["f1@10"] < 1
    assert sum(one != other for one, other in zip(flickering, true, strict=True)) == 1


def slow_levenshtein(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for number, letter in enumerate(one, 1):
        before, row[0] = row[0], number
        for place, found in enumerate(other, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (letter != found))
    return row[-1]


@given(st.text("abc", max_size=12), st.text("abc", max_size=12))
def test_levenshtein_is_the_textbooks(one: str, other: str) -> None:
    assert levenshtein(classes(one), classes(other)) == slow_levenshtein(one, other)


@given(st.text("abc.", max_size=20))
def test_segments_hold_each_known_frame_once(letters: str) -> None:
    true = classes(letters)
    again = np.full_like(true, -1)
    for label, begin, end in segments(true, true >= 0):
        assert (again[begin:end] == -1).all()
        again[begin:end] = label
    np.testing.assert_array_equal(again, true)
