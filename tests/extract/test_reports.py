"""What a notebook shows of an extraction."""

from __future__ import annotations

from framecache.extract import ExtractReport

from ..shown import read_html  # noqa: TID252


def test_an_extraction_shows_counts_time_and_what_failed() -> None:
    report = ExtractReport(
        ["toy.gap-12345678", "toy.gmp-87654321"],
        num_videos=9,
        computed=5,
        cached=2,
        duplicates=1,
        failed={"up/<b>.mp4": "no video stream"},
        num_frames=3000,
        num_bytes=4_000_000,
        seconds=30.0,
        start_seconds=6.0,
        decode_wait_seconds=20.0,
        bound_by="decode",
        saved_seconds=24.0,
        engine="litert",
    )
    counts = "5 computed, 2 cached, 1 duplicate, 1 failed"
    line = f"toy.gap-12345678, toy.gmp-87654321: 9 videos: {counts}; 3,000 frames in 30.0 s"
    assert repr(report) == f"<ExtractReport {line}>"
    words = " ".join(read_html(report)[0].split())
    for told in (
        "toy.gap-12345678 toy.gmp-87654321",
        f"9: {counts}",
        "4.0 MB",
        "100 frames/s, litert",
        "bound by decode",
        "1.5 epochs, each of which saves 24.0 s",
        "up/<b>.mp4 no video stream",
    ):
        assert told in words


def test_an_extraction_that_had_nothing_to_do_says_no_speed() -> None:
    report = ExtractReport(["toy.gap-12345678"], num_videos=9, cached=9, start_seconds=0.1)
    assert repr(report).endswith("9 videos: 0 computed, 9 cached, 0 duplicates, 0 failed>")
    assert "frames/s" not in read_html(report)[0]
