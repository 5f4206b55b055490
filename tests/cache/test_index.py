"""The index of names behaves as a dict, also where hashes collide."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framecache.cache.index import NameHash, NameIndex, Names, latest

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
FEW = st.sampled_from([b"a", b"b", b"ab", "ü".encode(), b"12345678", b"123456789", b"x" * 40])
WORDS = st.lists(st.tuples(FEW | NAMES.map(str.encode), st.sampled_from(["set", "renew", "forget"])), max_size=40)

CUTS = st.lists(st.integers(0, 40), max_size=4)


class WeakHash(NameHash):
    """Collides in its first attempts; there are as many as are left over."""

    attempts = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).attempts += 1
        self._bits = 4**self.attempts // 2  # 2, 8, 32, 64

    def __call__(self, names: Names) -> np.ndarray[Any, np.dtype[np.uint64]]:
        return super().__call__(names) & np.uint64((1 << min(64, self._bits)) - 1)


def column(names: list[bytes]) -> Names:
    return np.array(names or [b""], np.bytes_)[: len(names)]


def split(names: list[bytes], cuts: list[int]) -> list[Names]:
    """Columns of different widths."""
    places = sorted({0, len(names), *(cut % (len(names) + 1) for cut in cuts)})
    return [column(names[begin:end]) for begin, end in pairwise(places)]


@given(words=WORDS, cuts=CUTS, order=st.randoms(), weak=st.booleans())
def test_an_index_is_what_a_dict_would_be(
    words: list[tuple[bytes, str]], cuts: list[int], order: Any, weak: bool
) -> None:
    numbers = list(range(len(words)))
    order.shuffle(numbers)  # the words are spoken in another order than they stand
    expected: dict[bytes, int] = {}
    for number in numbers:
        name, what = words[number]
        if what != "set":
            expected.pop(name, None)
        if what != "forget":
            expected[name] = number
    WeakHash.attempts = 0
    index = NameIndex(
        split([name for name, _ in words], cuts),
        np.array(numbers, np.int64),
        np.array([what != "set" for _, what in words], np.bool_),
        np.array([what == "forget" for _, what in words], np.bool_),
        make_hash=WeakHash if weak else NameHash,
    )
    assert dict(zip(index.names(), index.rows.tolist(), strict=True)) == expected
    assert index.names() == list(expected)
    assert len(index) == len(expected)
    asked = [*dict(words), b"", b"z", b"a\0", b"x" * 41]
    assert index.find(asked) == [expected.get(name, -1) for name in asked]
    index.keep(index.rows[::-2])
    kept = dict(list(expected.items())[::-2])
    assert index.names() == list(kept)
    assert index.find(asked) == [kept.get(name, -1) for name in asked]


@given(ours=st.lists(FEW, max_size=20), theirs=st.lists(FEW, max_size=20), cuts=CUTS)
def test_all_names_of_another_index_are_found(ours: list[bytes], theirs: list[bytes], cuts: list[int]) -> None:
    index, other = NameIndex(split(ours, cuts)), NameIndex(split(theirs, cuts))
    places = {name: number for number, name in enumerate(ours)}
    assert index.find_all(other).tolist() == [places.get(name, -1) for name in other.names()]


@given(names=st.lists(NAMES.map(str.encode), min_size=1, max_size=20), more=st.integers(0, 30))
def test_a_hash_depends_on_the_name_and_not_on_the_column(names: list[bytes], more: int) -> None:
    hashed = NameHash()
    narrow = hashed(column(names))
    wide = hashed(np.array(names, f"S{max(map(len, names)) + more}"))
    assert narrow.tolist() == wide.tolist() == [int(hashed(column([name]))[0]) for name in names]
    assert len(set(narrow.tolist())) == len(set(names))


def test_hashes_of_a_million_names_that_hardly_differ_are_distinct() -> None:
    names = np.char.add(b"class/video-", np.arange(10**6).astype(np.bytes_))
    assert len(np.unique(NameHash()(names))) == 10**6


def test_names_whose_python_hashes_collide_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framecache.cache.index.hash", lambda name: len(name) % 2, raising=False)
    names = [b"a", b"b", b"cc", b"dd", b"e"]
    index = NameIndex([column(names)])
    assert index.find([*names, b"f", b"ff"]) == [0, 1, 2, 3, 4, -1, -1]


@pytest.mark.parametrize(
    ("keys", "anew", "void", "expected"),
    [
        ([], [], [], []),
        ([7, 7], [0, 0], [0, 0], [1]),  # the last word, in the first one's place
        ([7, 8, 7], [0, 0, 0], [0, 0, 0], [2, 1]),
        ([7, 8, 7], [0, 0, 1], [0, 0, 0], [1, 2]),
        ([7, 8, 7], [0, 0, 1], [0, 0, 1], [1]),
        ([7, 7, 8, 7], [0, 1, 0, 0], [0, 1, 0, 0], [2, 3]),
    ],
)
def test_the_latest_words(keys: list[int], anew: list[int], void: list[int], expected: list[int]) -> None:
    found = latest(np.array(keys, np.uint64), np.array(anew, np.bool_), np.array(void, np.bool_))
    assert found.tolist() == expected
