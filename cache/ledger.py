"""The ledger: one row per video of a feature set, so that nothing vanishes.

Rows of stored videos live in the shards themselves. Rows without features of their own (failed, duplicate)
are lines of ``ledger.jsonl`` beside them: each says after which shard it was written, and the later word counts.
Losing that file loses no features: its videos are looked at again. Until then older features of theirs count.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from framecache.cache.errors import ShardError
from framecache.cache.journal import append_lines, read_lines
from framecache.cache.manifest import is_plain_name
from framecache.cache.shard import VideoRow, shard_number

LEDGER_FILE = "ledger.jsonl"
_MOST_SHARDS = 10**12  # a line from anybody must not make the next shard's number too long for a file's name
Status = Literal["ok", "duplicate", "failed"]


@dataclass(frozen=True)
class LedgerRow:
    """What became of one video.

    Attributes:
        video_id: The video.
        source: Path as given when it was extracted.
        status: ``ok``, ``duplicate`` (its content is stored under another ``video_id``) or ``failed``.
        reason: Why it failed, or of which video it is a duplicate; empty when ok.
        warnings: What was odd but did not stop it.
        frames_expected: Frames that the container promises; None when it does not say.
        frames_decoded: Frames that came out of the decoder.
        frames_stored: Frames that the sampling kept and whose features are stored.
        source_digest: Content digest of the source; empty when it could not be read.
        feature_digest: Digest of the stored features; empty when there are none.
        source_stat: Signature of the source file, to notice cheaply that it is unchanged.
    """

    video_id: str
    source: str
    status: Status
    reason: str = ""
    warnings: tuple[str, ...] = ()
    frames_expected: int | None = None
    frames_decoded: int = 0
    frames_stored: int = 0
    source_digest: str = ""
    feature_digest: str = ""
    source_stat: str = ""

    @classmethod
    def of_stored(cls, row: VideoRow) -> LedgerRow:
        """The ledger row of a video whose features are in a shard."""
        return cls(
            video_id=row.video_id,
            source=row.source,
            status="ok",
            warnings=row.warnings,
            frames_expected=row.frames_expected,
            frames_decoded=row.frames_decoded,
            frames_stored=row.length,
            source_digest=row.source_digest,
            feature_digest=row.digest,
            source_stat=row.source_stat,
        )

    def to_json(self) -> dict[str, Any]:
        """The row as ``framecache ledger --json`` shows it."""
        shown = {name: value for name, value in vars(self).items() if name != "source_stat"}
        return {**shown, "warnings": list(self.warnings)}


@dataclass(frozen=True)
class JournalLine:
    """A ledger row without features of its own, and the number of the last shard before it."""

    after_shard: int
    row: LedgerRow


def append_journal(folder: Path, after_shard: int, rows: Iterable[LedgerRow]) -> None:
    """Adds rows to the feature set's ``ledger.jsonl`` and makes them durable."""
    append_lines(
        folder / LEDGER_FILE,
        [{"after_shard": after_shard, **vars(row), "warnings": list(row.warnings)} for row in rows],
    )


def read_journal(folder: Path, lenient: bool = False) -> Iterator[JournalLine]:
    """The lines of ``ledger.jsonl``; one that a dying writer left unfinished is passed over.

    Args:
        folder: The feature set's folder.
        lenient: Whether damaged lines are passed over too.

    Raises:
        ShardError: A line is damaged: it may have hidden features that no longer count.
    """
    whole, damaged = read_lines(folder / LEDGER_FILE)
    if damaged and not lenient:
        raise ShardError(
            f"{folder / LEDGER_FILE}: line {damaged[0]} is damaged; run framecache verify --repair and extract again"
        )
    for text in whole:
        line = _parse_line(text)
        if line is not None:
            yield line


def last_number(folder: Path) -> int:
    """The number that the next shard and the next line come after: 0 in an empty feature set.

    Lines count too. Repair and compaction may take the newest shard away, and a shard that got its number again
    would come before the lines that were written after it.
    """
    shards = max((shard_number(path) or 0 for path in folder.iterdir()), default=0)
    return max(shards, max((line.after_shard for line in read_journal(folder, lenient=True)), default=0))


def _parse_line(text: bytes) -> JournalLine | None:
    try:
        values = json.loads(text)
        after_shard, warnings = values.pop("after_shard"), values.pop("warnings", [])
        row = LedgerRow(**values, warnings=tuple(warnings))
        "".join(value for value in vars(row).values() if isinstance(value, str)).encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    texts = (
        row.video_id,
        row.source,
        row.reason,
        row.source_digest,
        row.feature_digest,
        row.source_stat,
        *row.warnings,
    )
    counts = (after_shard, row.frames_decoded, row.frames_stored, row.frames_expected or 0)
    if not all(isinstance(value, str) for value in texts) or not all(type(value) is int for value in counts):
        return None
    possible = 0 <= after_shard < _MOST_SHARDS and is_plain_name(row.video_id) and row.status in ("duplicate", "failed")
    return JournalLine(after_shard, row) if possible else None
