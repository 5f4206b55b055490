"""Finding videos among millions by name: sorted hashes of the names, in a few bytes per video.

A Python dict of a million names takes 150 MB and a second to fill. What is here behaves as one, and the tests hold
it to that: of several words on one name the last counts, and the names keep the order of their first words.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

Names = NDArray[np.bytes_]  # (n,), of one width, padded with NULs
_WORD_BYTES = 8
_MASK = (1 << 63) - 1
_END = (1 << 64) - 1  # behind all hashes; of a slot that is free


def pad_names(names: Names) -> Names:
    """The names side by side, each in whole words of 8 bytes of which the last byte at least is NUL."""
    return names.astype(f"S{(names.itemsize // _WORD_BYTES + 1) * _WORD_BYTES}")


class NameHash:
    """A random 64-bit hash of names, the same in a column of any width.

    Nobody who makes a cache can make its names collide, since the hash is another one each time.
    """

    def __init__(self) -> None:
        self._seed = secrets.randbits(64)
        self._factors = self._draw(4)

    def _draw(self, num_words: int) -> NDArray[np.uint64]:
        """Two odd factors for each word; a longer draw begins like a shorter one, so that earlier hashes stay true."""
        drawn = np.random.default_rng(self._seed).integers(1 << 64, size=(num_words, 2), dtype=np.uint64)
        return drawn | np.uint64(1)

    def __call__(self, names: Names) -> NDArray[np.uint64]:
        """Hashes ``(n,)``: the sum of a hash of each word of 8 bytes, in which one of NULs adds nothing."""
        if not names.flags.c_contiguous or names.itemsize % _WORD_BYTES:
            names = pad_names(names)
        num_words = names.itemsize // _WORD_BYTES
        if num_words > len(self._factors):
            self._factors = self._draw(num_words)
        multiply, again = self._factors[:num_words].T
        words = names.view("<u8").reshape(len(names), num_words)
        mixed = np.array(words.T, order="C")  # (num_words, n), since sums of long rows are quicker
        mixed *= multiply[:, None]
        mixed ^= mixed >> np.uint64(32)
        mixed *= again[:, None]
        mixed ^= mixed >> np.uint64(29)
        hashes: NDArray[np.uint64] = np.add.reduce(mixed, axis=0)
        return hashes


hash_names = NameHash()
"""The process's own, with which each name is hashed once."""


class NameIndex:
    """Which of the names in some columns count, and where each of them stands.

    The columns are numbered through from 0, as if they were one.

    Args:
        columns: The names.
        told: The numbers in the order in which the words were spoken; by default as they stand.
        anew: Whether each number forgets what was said of its name before, so that the name goes to the end; by
            default none does.
        void: Whether it does nothing else than that; by default none does.
        hashes: Each column's, by :func:`hash_names`, where somebody has them; otherwise they are made here.
        make_hash: Makes the hash then.
    """

    def __init__(
        self,
        columns: Sequence[Names],
        told: NDArray[np.int64] | None = None,
        anew: NDArray[np.bool_] | None = None,
        void: NDArray[np.bool_] | None = None,
        hashes: Sequence[NDArray[np.uint64]] | None = None,
        make_hash: Callable[[], NameHash] = NameHash,
    ) -> None:
        self._columns = list(columns)
        self._begins = [0, *accumulate(map(len, columns))]
        count = self._begins[-1]
        told = np.arange(count) if told is None else told
        anew = np.zeros(count, np.bool_) if anew is None else anew
        void = np.zeros(count, np.bool_) if void is None else void
        while True:
            self._hash = make_hash() if hashes is None else hash_names
            hashes = list(map(self._hash, self._columns)) if hashes is None else hashes
            self._hashes, hashes = np.concatenate([np.empty(0, np.uint64), *hashes]), None
            distinct = np.sort(self._hashes)
            if (distinct[1:] != distinct[:-1]).all():
                rows = told[~void[told]]
                break
            if not self._collides():
                rows = told[latest(self._hashes[told], anew[told], void[told])]
                break
        self.rows = rows
        """The number under which each name counts, in the names' order."""

    def _collides(self) -> bool:
        """Whether two names have one hash: as good as never, and then another hash is taken."""
        order = np.argsort(self._hashes)
        same = np.flatnonzero(self._hashes[order[1:]] == self._hashes[order[:-1]])
        names = self._all_names()
        return bool((names[order[same]] != names[order[same + 1]]).any())

    def _all_names(self) -> Names:
        return np.concatenate(self._columns) if self._columns else np.empty(0, "S1")

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Forgets all names but those at these numbers, and takes on their order."""
        self.rows = rows
        self.__dict__.pop("_sorted", None)
        self.__dict__.pop("_looked_up", None)

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Hashes of the names that count, sorted, and their numbers."""
        hashes = self._hashes[self.rows]
        order = np.argsort(hashes)
        return hashes[order], self.rows[order]

    @cached_property
    def _looked_up(self) -> tuple[int, memoryview, memoryview, bytes]:
        """For one name at a time, by Python's hash, which is slower of a million names and much quicker of one.

        Of a million names most lie outside the processor's caches, so that a look-up takes as long as it touches
        places. Hence a table with open addressing: the names that count are in the order of their hashes, each in
        the slot that its hash says, or else in the first behind that is free.

        Returns:
            By how many bits a hash is shifted to give its slot; the slots, each a hash and its number side by side,
            as a view whose elements are plain integers; where each number's name begins; and all names in one text.
        """
        by_python, lengths, texts = [np.empty(0, np.int64)], [np.zeros(1, np.int64)], []
        for column in self._columns:
            names: list[bytes] = column.tolist()
            by_python.append(np.fromiter(map(hash, names), np.int64, len(names)))
            lengths.append(np.fromiter(map(len, names), np.int64, len(names)))
            texts.append(b"".join(names))
        hashes = np.concatenate(by_python)[self.rows].view(np.uint64) & np.uint64(_MASK)
        order = np.argsort(hashes)
        hashes, count = hashes[order], np.arange(len(order))
        bits = len(order).bit_length() + 1  # two to four slots for a name
        shift = 63 - bits
        places = np.maximum.accumulate((hashes >> np.uint64(shift)).astype(np.int64) - count) + count
        slots = np.full((max(1 << bits, places.max(initial=0) + 1) + 1, 2), _END, np.uint64)
        slots[places] = np.stack([hashes, self.rows[order].astype(np.uint64)], axis=1)
        spelled = np.cumsum(np.concatenate(lengths))
        return shift, slots.reshape(-1).data, spelled.data, b"".join(texts)

    @cached_property
    def column_of(self) -> memoryview:
        """In which column each number is, as a view whose elements are plain integers."""
        return np.repeat(np.arange(len(self._columns), dtype=np.int32), list(map(len, self._columns))).data

    def __len__(self) -> int:
        return len(self.rows)

    def names(self) -> list[bytes]:
        """All names that count, in order."""
        found: list[bytes] = self._all_names()[self.rows].tolist()
        return found

    def find(self, names: Sequence[bytes]) -> list[int]:
        """The numbers under which some names count; -1 of those that do not."""
        shift, slots, spelled, text = self._looked_up
        found = []
        for name in names:
            wanted = hash(name) & _MASK
            place = 2 * (wanted >> shift)
            while slots[place] < wanted:
                place += 2
            number = -1
            while number < 0 and slots[place] == wanted:
                candidate = slots[place + 1]
                place += 2
                if text[spelled[candidate] : spelled[candidate + 1]] == name:
                    number = candidate
            found.append(number)
        return found

    def find_all(self, other: NameIndex) -> NDArray[np.int64]:
        """As :meth:`find`, of all names of another index, in its order; -1 for those that do not count here."""
        if not len(self.rows) or not len(other.rows):
            return np.full(len(other.rows), -1)
        hashes, rows = self._sorted
        wanted = other._all_names()[other.rows]
        found = rows[np.minimum(np.searchsorted(hashes, self._hash(wanted)), len(rows) - 1)]
        return np.where(self._all_names()[found] == wanted, found, -1)


def latest(keys: NDArray[np.uint64], anew: NDArray[np.bool_], void: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Which words a dict would hold in the end, in its order.

    Args:
        keys: What each word is about ``(n,)``, in the order of the words.
        anew: Whether it first removes its key ``(n,)``; the key then goes to the end.
        void: Whether it only removes its key ``(n,)``; such a word is also ``anew``.

    Returns:
        For each key the place of its last word, among ``n``.
    """
    order = np.argsort(keys, kind="stable")  # the words on each key side by side, in their order
    grouped = keys[order]
    begins = np.flatnonzero(np.append(True, grouped[1:] != grouped[:-1])) if len(keys) else np.empty(0, np.int64)
    if not len(keys):
        return begins
    ends = np.append(begins[1:], len(keys)) - 1
    removals = np.maximum.reduceat(np.where(anew[order], np.arange(len(keys)), -1), begins)
    inserts = np.where(removals < 0, begins, removals + void[order[removals]])
    there = inserts <= ends
    first, last = order[inserts[there]], order[ends[there]]
    found: NDArray[np.int64] = last[np.argsort(first)]
    return found
