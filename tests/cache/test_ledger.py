"""The ledger: nothing vanishes, and the later word counts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framecache.cache import FeatureSet, ShardError, Spec
from framecache.cache.journal import append_lines
from framecache.cache.ledger import LEDGER_FILE, JournalLine, LedgerRow, append_journal, read_journal
from framecache.cache.manifest import is_plain_name
from framecache.cache.shard import VideoRow
from framecache.cache.verify import repair, verify

FillSet = Callable[..., Path]

FAILED = LedgerRow("v1", "videos/v1.mp4", "failed", "no frame could be decoded", ("odd", "ünicode"), 7, 3)
ROWS = st.builds(
    LedgerRow,
    video_id=st.text().filter(is_plain_name),
    source=st.text(),
    status=st.sampled_from(["failed", "duplicate"]),
    reason=st.text(),
    warnings=st.lists(st.text(), max_size=3).map(tuple),
    frames_expected=st.none() | st.integers(0, 10**9),
    frames_decoded=st.integers(0, 10**9),
    source_digest=st.text(),
    source_stat=st.text(),
)


def ones(num_frames: int) -> np.ndarray:
    return np.ones((num_frames, 4), np.float16)


@settings(max_examples=25)
@given(batches=st.lists(st.tuples(st.integers(0, 10**6), st.lists(ROWS, max_size=4)), max_size=4))
def test_rows_survive_the_journal(batches: list[tuple[int, list[LedgerRow]]]) -> None:
    with TemporaryDirectory() as name:
        for after_shard, rows in batches:
            append_journal(Path(name), after_shard, rows)
        told = list(read_journal(Path(name)))
    assert told == [JournalLine(after_shard, row) for after_shard, rows in batches for row in rows]


def test_a_journal_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert list(read_journal(tmp_path)) == []


@pytest.mark.parametrize("cut", [1, 2, 20, 60])
def test_a_torn_last_line_is_passed_over_and_kept_apart(cut: int, tmp_path: Path) -> None:
    journal = tmp_path / LEDGER_FILE
    append_journal(tmp_path, 1, [FAILED, replace(FAILED, video_id="torn")])
    journal.write_bytes(journal.read_bytes()[:-cut])
    whole = ["v1", "torn"] if cut == 1 else ["v1"]
    assert [line.row.video_id for line in read_journal(tmp_path)] == whole
    append_journal(tmp_path, 2, [replace(FAILED, video_id="after")])
    assert [line.row.video_id for line in read_journal(tmp_path)] == [*whole, "after"]


def test_a_line_torn_within_a_character_is_passed_over(tmp_path: Path) -> None:
    append_journal(tmp_path, 1, [FAILED])
    with (tmp_path / LEDGER_FILE).open("ab") as stream:
        stream.write('{"video_id": "ü'.encode()[:-1])
    append_journal(tmp_path, 1, [replace(FAILED, video_id="after")])
    assert [line.row.video_id for line in read_journal(tmp_path)] == ["v1", "after"]


GOOD_LINE = {"after_shard": 1, "video_id": "v1", "source": "", "status": "failed"}


@pytest.mark.parametrize(
    "row",
    [
        {},
        {key: value for key, value in GOOD_LINE.items() if key != "after_shard"},
        {key: value for key, value in GOOD_LINE.items() if key != "status"},
        {**GOOD_LINE, "surprise": 1},
        {**GOOD_LINE, "after_shard": "one"},
        {**GOOD_LINE, "after_shard": None},
        {**GOOD_LINE, "after_shard": float("inf")},
        {**GOOD_LINE, "after_shard": float("nan")},
        {**GOOD_LINE, "warnings": 5},
        {**GOOD_LINE, "video_id": ["v1"]},
        {**GOOD_LINE, "video_id": None},
        {**GOOD_LINE, "status": "surprise"},
        {**GOOD_LINE, "status": "duplicate", "source_digest": None},
    ],
    ids=str,
)
def test_a_whole_line_that_is_no_row_is_passed_over(
    row: dict[str, object], tmp_path: Path, spec: Spec, fill_set: FillSet
) -> None:
    folder = fill_set(tmp_path, spec, {"v1": ones(3)})
    append_lines(folder / LEDGER_FILE, [row])
    append_journal(folder, 1, [replace(FAILED, video_id="v2")])
    features = FeatureSet(folder, spec)
    assert list(features) == ["v1"]
    assert {video_id: row.status for video_id, row in features.ledger().items()} == {"v1": "ok", "v2": "failed"}


@pytest.mark.parametrize("line", ["", "null", "{}", "not JSON", "\0", "[" * 100_000, json.dumps(GOOD_LINE)], ids=str)
def test_a_line_that_nobody_wrote_is_damage(line: str, tmp_path: Path, spec: Spec, fill_set: FillSet) -> None:
    folder = fill_set(tmp_path, spec, {"v1": ones(3)})
    (folder / LEDGER_FILE).write_text(line + "\n")
    append_journal(folder, 1, [replace(FAILED, video_id="v2")])
    with pytest.raises(ShardError, match=r"ledger.jsonl: line 1 is damaged; run framecache verify --repair"):
        FeatureSet(folder, spec)


def test_any_flipped_bit_of_the_journal_is_found_and_repair_keeps_the_other_lines(
    tmp_path: Path, spec: Spec, fill_set: FillSet
) -> None:
    folder = fill_set(tmp_path, spec, {"a": ones(3), "b": ones(2)})
    rows = [LedgerRow("b", "b", "duplicate", source_digest="content of a"), replace(FAILED, video_id="v2")]
    append_journal(folder, 1, rows)
    whole = (folder / LEDGER_FILE).read_bytes()
    for bit in range(0, 8 * (len(whole) - 1), 13):  # the very last byte is that of a line that is being written
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        (folder / LEDGER_FILE).write_bytes(flipped)
        with pytest.raises(ShardError, match="is damaged"):
            FeatureSet(folder, spec)
    assert list(verify(folder, spec).errors) == [LEDGER_FILE]
    assert repair(folder, spec).repaired
    assert (folder / "hurt" / LEDGER_FILE).read_bytes() == bytes(flipped)
    assert verify(folder, spec).ok
    assert [row for row in FeatureSet(folder, spec).ledger().values() if row.status != "ok"] == rows[:1]


def test_a_later_failure_hides_stored_features(tmp_path: Path, spec: Spec, fill_set: FillSet) -> None:
    folder = fill_set(tmp_path, spec, {"v1": ones(3), "v2": ones(1)})
    append_journal(folder, 1, [FAILED])
    features = FeatureSet(folder, spec)
    assert list(features) == ["v2"]
    assert features.ledger()["v1"] == FAILED


def test_features_stored_after_a_failure_count(tmp_path: Path, spec: Spec, fill_set: FillSet) -> None:
    folder = fill_set(tmp_path, spec, {"v2": ones(1)})
    append_journal(folder, 1, [FAILED])
    fill_set(tmp_path, spec, {"v1": ones(3)})
    features = FeatureSet(folder, spec)
    assert set(features) == {"v1", "v2"}
    assert features.ledger()["v1"].status == "ok"


def test_lines_count_in_the_order_of_shards_and_then_of_lines(tmp_path: Path, spec: Spec, fill_set: FillSet) -> None:
    folder = fill_set(tmp_path, spec, {"v1": ones(1)})
    fill_set(tmp_path, spec, {"v1": ones(2)})
    # Two writers' lines may lie in any order in the file; what they say they follow counts.
    append_journal(folder, 2, [replace(FAILED, video_id="v2", reason="late")])
    append_journal(folder, 1, [FAILED, replace(FAILED, video_id="v2", reason="early")])
    append_journal(folder, 2, [replace(FAILED, video_id="v3", reason=reason) for reason in ("first", "second")])
    features = FeatureSet(folder, spec)
    assert features.length("v1") == 2
    ledger = features.ledger()
    assert ledger["v1"].status == "ok"
    assert ledger["v2"].reason == "late"
    assert ledger["v3"].reason == "second"


def test_a_duplicate_may_be_told_before_a_failure_and_after(tmp_path: Path, spec: Spec, fill_set: FillSet) -> None:
    folder = fill_set(tmp_path, spec, {"v1": ones(3)})
    copy = LedgerRow("copy", "copy.mp4", "duplicate", "same content as v1", source_digest="content of v1")
    append_journal(folder, 1, [copy])
    append_journal(folder, 1, [replace(FAILED, video_id="copy")])
    assert "copy" not in FeatureSet(folder, spec)
    append_journal(folder, 1, [copy])
    features = FeatureSet(folder, spec)
    assert features.length("copy") == 3
    assert features.ledger()["copy"] == copy


@settings(max_examples=40)
@given(
    lines=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["v1", "v2", "v3", "copy"]), st.sampled_from(["v1", "v2", ""])),
        max_size=6,
    )
)
def test_statuses_are_counted_as_the_ledger_has_them(
    lines: list[tuple[int, str, str]], spec: Spec, fill_set: FillSet
) -> None:
    with TemporaryDirectory() as name:
        folder = fill_set(Path(name), spec, {"v1": ones(2), "v2": ones(3)})
        fill_set(Path(name), spec, {"v2": ones(4), "v3": ones(1)})
        for after_shard, video_id, original in lines:
            told = {"status": "duplicate", "source_digest": f"content of {original}"} if original else {}
            append_journal(folder, after_shard, [replace(FAILED, video_id=video_id, **told)])
        features = FeatureSet(folder, spec)
        assert features.statuses() == Counter(row.status for row in features.ledger().values())


def test_losing_the_journal_loses_no_features(tmp_path: Path, spec: Spec, fill_set: FillSet) -> None:
    folder = fill_set(tmp_path, spec, {"v1": ones(3)})
    append_journal(folder, 1, [replace(FAILED, video_id="v2")])
    (folder / LEDGER_FILE).unlink()
    features = FeatureSet(folder, spec)
    assert list(features) == list(features.ledger()) == ["v1"]


def test_a_stored_video_is_ok_in_the_ledger() -> None:
    stored = VideoRow("v1", 3, "digest", "videos/v1.mp4", "content", "1-2-3-4", None, 9, ("odd",))
    assert LedgerRow.of_stored(stored) == LedgerRow(
        video_id="v1",
        source="videos/v1.mp4",
        status="ok",
        reason="",
        warnings=("odd",),
        frames_expected=None,
        frames_decoded=9,
        frames_stored=3,
        source_digest="content",
        feature_digest="digest",
        source_stat="1-2-3-4",
    )


def test_the_json_of_a_row_has_the_documented_keys() -> None:
    shown = FAILED.to_json()
    assert list(shown) == [
        "video_id",
        "source",
        "status",
        "reason",
        "warnings",
        "frames_expected",
        "frames_decoded",
        "frames_stored",
        "source_digest",
        "feature_digest",
    ]
    assert json.loads(json.dumps(shown)) == shown
