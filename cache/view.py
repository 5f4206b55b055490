"""The shards of a feature set at one moment, and where the latest word on each video leads."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import FeatureSetNotFoundError, ShardError
from framecache.cache.index import NameIndex, hash_names
from framecache.cache.ledger import JournalLine, LedgerRow, read_journal
from framecache.cache.sealed import sealed_shards
from framecache.cache.shard import ShardInfo, read_shard, shard_number
from framecache.cache.spec import Spec, require_same_spec

Place = tuple[int, int]  # which shard, which row of its index
Kept = TypeVar("Kept")


class View:
    """Finds the features of each video, and of each content.

    The rows of all shards are numbered through, in the order of writing, and the lines of the ledger after them.

    Args:
        shards: In the order of writing.
        lines: The ledger's lines, ordered by the shards that they were written after.
    """

    def __init__(self, shards: Sequence[ShardInfo], lines: Sequence[JournalLine]) -> None:
        self.shards = list(shards)
        self.files = [str(info.path) for info in shards]
        self.last_number = max([0, *(info.number for info in shards), *(line.after_shard for line in lines)])
        self._begins = [0, *accumulate(len(info.index) for info in shards)]
        rows, numbers = self._begins[-1], [info.number for info in shards]
        # A line counts after all shards up to its own, and before the next.
        behind = [self._begins[bisect_right(numbers, line.after_shard)] for line in lines]
        told = np.insert(np.arange(rows), np.array(behind, np.int64), rows + np.arange(len(lines)))
        anew = np.arange(rows + len(lines)) >= rows
        void = anew.copy()
        void[rows:] = [line.row.status != "duplicate" for line in lines]
        names = [line.row.video_id.encode() for line in lines]
        column = np.array(names or [b""], np.bytes_)[: len(names)]
        columns = [*(info.index["video_id"] for info in shards), column]
        hashes = [*(info.name_hashes for info in shards), hash_names(column)]
        self._names = NameIndex(columns, told, anew, void, hashes)
        self._lines = lines
        self._led_to = np.full(len(lines), -1)  # the row with a duplicate's content
        # In the end, since the shard with the content may have been replaced by one that is newer than the line.
        copies = [number for number, line in enumerate(lines) if line.row.status == "duplicate"]
        if copies:
            self._led_to[copies] = self.find_content([lines[number].row.source_digest for number in copies])
        if lines:
            self._names.keep(self._names.rows[self._rows_of(self._names.rows) >= 0])

    def __len__(self) -> int:
        return len(self._names)

    def video_ids(self) -> Iterator[str]:
        """The videos with features, in the order in which they were stored."""
        return map(bytes.decode, self._names.names())

    def find(self, video_ids: Sequence[str]) -> list[int]:
        """Numbers of the rows with the features of some videos; -1 where there are none."""
        # Half a character is in no stored name, and is no error here.
        found = self._names.find([video_id.encode("utf-8", "surrogatepass") for video_id in video_ids])
        if len(self._led_to):
            rows = self._begins[-1]
            return [number if number < rows else int(self._led_to[number - rows]) for number in found]
        return found

    def find_content(self, source_digests: Sequence[str]) -> list[int]:
        """Numbers of the rows with the features of some contents; -1 where there are none, and of no content."""
        found = self._contents.find([digest.encode("utf-8", "surrogatepass") for digest in source_digests])
        return [row if digest else -1 for row, digest in zip(found, source_digests, strict=True)]

    def place(self, row: int) -> Place:
        """Where a row is."""
        shard: int = self._names.column_of[row]
        return shard, row - self._begins[shard]

    @cached_property
    def spans(self) -> memoryview:
        """Of each row its shard, its first frame there and its number of frames, one behind the other.

        A view that gives plain integers. Side by side, since of a million rows most lie outside the processor's caches.
        """
        columns = (self._names.column_of, self._column("start", np.int64), self._column("length", np.int64))
        return np.stack([np.asarray(column)[: self._begins[-1]] for column in columns], axis=1).reshape(-1).data

    def places(self) -> Iterator[tuple[str, Place]]:
        """All videos with features and where these are, in the order in which they were stored."""
        rows = self._rows_of(self._names.rows)
        shards = np.searchsorted(self._begins, rows, "right") - 1
        within = rows - np.array(self._begins)[shards]
        return zip(self.video_ids(), zip(shards.tolist(), within.tolist(), strict=True), strict=True)

    def live(self) -> Iterator[tuple[NDArray[np.int64], dict[int, LedgerRow]]]:
        """Of each shard the rows that still count, and which of them go by another name, with the ledger's row on it.

        A row whose own video was computed again since, and that duplicates still refer to, goes by the name of
        the first of them.
        """
        total, numbers = self._begins[-1], self._names.rows
        rows = self._rows_of(numbers)
        others = numbers >= total
        for place in np.flatnonzero(others).tolist():
            shard, row = self.place(int(rows[place]))
            own: bytes = self.shards[shard].index["video_id"][row]
            others[place] = self._lines[int(numbers[place]) - total].row.video_id.encode() != own
        order = np.lexsort((others, rows))  # stable: of several other names the first
        first = order[np.append(True, np.diff(rows[order]) > 0)[: len(order)]]
        bounds = np.searchsorted(rows[first], self._begins)
        for begin, low, high in zip(self._begins, bounds, bounds[1:], strict=False):
            chosen = first[low:high]
            named = {
                int(rows[place]) - begin: self._lines[int(numbers[place]) - total].row
                for place in chosen[others[chosen]].tolist()
            }
            yield rows[chosen] - begin, named

    @cached_property
    def num_frames(self) -> int:
        """Frames of all videos together; duplicates count once."""
        counted = np.zeros(self._begins[-1], np.bool_)
        counted[self._rows_of(self._names.rows)] = True
        return int(self._column("length", np.int64)[counted].sum())

    def statuses(self) -> Counter[str]:
        """How many videos ended as ``ok``, ``duplicate`` and ``failed`` by the latest word on each."""
        rows, last = self._begins[-1], {line.row.video_id: line.row.status for line in self._lines}
        # All at once, which builds no table for names that come one at a time.
        told = NameIndex([np.array([video_id.encode() for video_id in last] or [b""], np.bytes_)[: len(last)]])
        found = self._names.find_all(told).tolist()
        counts = Counter[str](
            status for status, number in zip(last.values(), found, strict=True) if not 0 <= number < rows
        )
        counts["ok"] += int(np.count_nonzero(self._names.rows < rows))
        return +counts

    def narrow_to(self, before: View) -> list[str]:
        """Keeps of these videos the ones that an earlier view has with the same features, in its order.

        Returns:
            The videos of the earlier view that are not kept.
        """
        found = self._names.find_all(before._names)
        rows, earlier = self._rows_of(found), before._rows_of(before._names.rows)
        same = found >= 0
        digests, digests_before = self._column("digest", "S1"), before._column("digest", "S1")
        same[same] = digests[rows[same]] == digests_before[earlier[same]]
        self._names.keep(found[same])
        names = before._names.names()
        return [names[number].decode() for number in np.flatnonzero(~same)]

    def _column(self, field: str, kind: str | type) -> NDArray[Any]:
        found: NDArray[Any] = np.concatenate([np.empty(0, kind), *(info.index[field] for info in self.shards)])
        return found

    def _rows_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows that names lead to: their own, or a duplicate's content's; -1 where that is not stored."""
        rows = self._begins[-1]
        led = numbers.copy()
        lines = numbers >= rows
        led[lines] = self._led_to[numbers[lines] - rows]
        return led

    @cached_property
    def _contents(self) -> NameIndex:
        """Content digests of all rows; only looked up where duplicates are."""
        return NameIndex([info.index["source_digest"] for info in self.shards])


def read_view(folder: Path, spec: Spec, without: Collection[str] | None) -> View:
    """The feature set at one moment.

    Args:
        folder: The feature set's folder.
        spec: Its spec.
        without: Names of shards to pass over; if not None, damaged lines of the ledger are passed over too.

    Raises:
        ShardError: A shard is damaged or missing.
        SpecMismatchError: A shard was written under another spec.
    """
    return View(*read_moment(folder, spec, without, lambda info: info))


def read_moment(
    folder: Path, spec: Spec, without: Collection[str] | None, keep: Callable[[ShardInfo], Kept]
) -> tuple[list[Kept], list[JournalLine]]:
    """Reads what there is at one moment, while a writer may be sealing, compacting and removing.

    Shards appear before those that they replace are removed, and their removal is on record before it happens.
    So a listing that is the same after all was read as it was before is a listing of one moment.

    Args:
        folder: The feature set's folder.
        spec: Its spec.
        without: Names of shards to pass over; if not None, damaged lines of the ledger are passed over too.
        keep: What to keep of a shard.

    Returns:
        What is kept of each shard, in the order of writing, and the ledger's lines, ordered by the shards that they
        were written after.

    Raises:
        ShardError: A shard is damaged or missing.
        SpecMismatchError: A shard was written under another spec.
    """
    read: dict[Path, tuple[Spec, Kept]] = {}
    lenient, without = without is not None, frozenset(without or ())
    while True:
        listed = [path for path in list_shards(folder) if path.name not in without]
        try:
            for path in listed:
                if path not in read:
                    info = read_shard(path)
                    read[path] = info.spec, keep(info)
        except ShardError:
            if os.path.lexists(path):
                raise
            continue
        journal = sorted(read_journal(folder, lenient=lenient), key=lambda line: line.after_shard)
        recorded = sealed_shards(folder)
        if listed == [path for path in list_shards(folder) if path.name not in without]:
            break
    missing = sorted(recorded - {path.name for path in listed} - without)
    if missing:
        missing = sorted(sealed_shards(folder) & set(missing))  # what a compaction has just taken away is not
    if missing:
        raise ShardError(
            f"{folder}: {len(missing)} of its shards are missing ({', '.join(missing[:3])}); "
            "restore them, or run framecache verify --repair and extract again"
        )
    for path in listed:
        require_same_spec(spec, read[path][0], str(path))
    return [read[path][1] for path in listed], journal


def list_shards(folder: Path) -> list[Path]:
    """The visible shards of a feature set, in the order of writing.

    Raises:
        FeatureSetNotFoundError: The folder is not there.
    """
    try:
        found = [(number, path) for path in folder.iterdir() if (number := shard_number(path)) is not None]
    except FileNotFoundError:
        raise FeatureSetNotFoundError(f"no feature set in {folder}: it was removed") from None
    return [path for _, path in sorted(found)]
