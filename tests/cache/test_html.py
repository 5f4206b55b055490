"""What notebooks show of a cache, its feature sets and what was done to them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framecache.cache import DeriveReport, ExportReport, FeatureSet, ImportReport, Spec, cards, html, open_cache
from framecache.cache.ledger import LedgerRow, append_journal
from framecache.cache.shown import Shown, plain
from framecache.cache.verify import Verification

from ..shown import read_html  # noqa: TID252

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e\ud800&amp;" + "x" * 10_000


@pytest.fixture
def features(tmp_path: Path, spec: Spec, fill_set: Callable[..., Path]) -> FeatureSet:
    """Two videos of 3 and 2 frames, one that failed, and a duplicate."""
    folder = fill_set(tmp_path / "features", spec, {"v1": np.ones((3, 4)), "v2": np.ones((2, 4))})
    copy = LedgerRow("copy", "copy", "duplicate", source_digest="content of v1")
    append_journal(folder, 1, [LedgerRow("bad", "bad", "failed", "no video stream"), copy])
    return FeatureSet(folder, spec)


class Thing(Shown):
    def __init__(self, line: Any = "1 thing", parts: Any = "1 thing") -> None:
        self.line, self.parts = line, parts

    def _line(self) -> str:
        if isinstance(self.line, Exception):
            raise self.line
        return str(self.line)

    def _html(self) -> str:
        if isinstance(self.parts, Exception):
            raise self.parts
        return html.card(self.parts)


def test_a_repr_never_raises() -> None:
    class WorseError(Exception):
        def __str__(self) -> str:
            raise ValueError

    for error in (ValueError(HOSTILE), KeyError(), WorseError()):
        assert repr(Thing(error)).startswith("<Thing: cannot be shown: ")
        words, _ = read_html(Thing("as ever", error))
        assert words.startswith("<Thing as ever> more cannot be shown: ")
        assert "cannot be shown" in read_html(Thing(error, error))[0]
        repr(Thing(error)).encode()
    with pytest.raises(KeyboardInterrupt):
        Thing("", parts=_Interrupted())._repr_html_()


class _Interrupted:
    def __str__(self) -> str:
        raise KeyboardInterrupt


def test_text_is_plain_and_short_and_keeps_its_ends() -> None:
    assert plain("a\tb\u202e\ud800\n") == "a�b���"
    assert plain("é 日本") == "é 日本"
    assert plain("x" * 50 + "yz", 9) == "xxxx…xxyz"
    assert plain("x" * 9, 9) == "x" * 9
    assert len(repr(Thing(HOSTILE))) < 700


def test_any_name_can_be_shown() -> None:
    rows = [(HOSTILE, HOSTILE)]
    shown = html.card(
        HOSTILE,
        html.facts([(HOSTILE, HOSTILE), ("list", [HOSTILE, "b"]), ("command", html.code(HOSTILE))]),
        html.table((HOSTILE, "two\nlines"), rows, (True, False)),
        html.reasons(HOSTILE, {HOSTILE: HOSTILE}),
        html.folded(HOSTILE, [HOSTILE]),
    )

    class Hostile(Shown):
        def _html(self) -> str:
            return shown

    words, _ = read_html(Hostile())
    assert words.count("<script>") == 13
    assert len(shown) < 25_000


def test_of_many_rows_the_first_are_shown_and_the_others_counted() -> None:
    rows = [(f"v{number}", number) for number in range(1000)]
    shown = html.table(("video", "n"), rows, (True, False))
    assert "v19" in shown
    assert "v20" not in shown
    assert "… and 980 more" in shown
    shown = html.reasons("failed", {f"v{number}": "broken" for number in range(8)})
    assert ("v4" in shown, "v5" in shown, "… and 3 more" in shown) == (True, False, True)


def test_only_a_small_png_is_put_into_a_notebook(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    assert html.picture(path, "", 100) == ""
    for content in (b"<svg onload=alert(1)>", b"\x89PNG\r\n\x1a\n" + b"\0" * 2_000_000):
        path.write_bytes(content)
        assert html.picture(path, "", 100) == ""
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    assert 'src="data:image/png;base64,iVBORw0KGgo="' in html.picture(path, '"<b>', 100)
    assert html.picture(tmp_path, "", 100) == ""


def test_a_feature_set_shows_its_spec_videos_and_size(features: FeatureSet) -> None:
    assert repr(features) == f"<FeatureSet {features.name}: 3 videos, 5 frames × (4) float16>"
    words, _ = read_html(features)
    for told in (
        features.name,
        "3 with features, 1 duplicate of others among them; 1 failed",
        "5, each 4 float16",
        "in 1 shard",
        "efficientnet-lite0, float32, weights 3fa93fa9…",
        "height 224, width 224, interpolation bicubic",
        features.fingerprint,
    ):
        assert told in words
    assert "derived" not in words


def test_a_derived_set_shows_its_steps(
    tmp_path: Path, make_spec: Callable[..., Spec], fill_set: Callable[..., Path]
) -> None:
    steps = [{"op": "pca", "dim": 4, "whiten": True}, {"op": "l2"}]
    spec = make_spec(lineage={"parents": ["12ab" * 16], "steps": steps})
    words, _ = read_html(FeatureSet(fill_set(tmp_path / "features", spec, {"v1": np.ones((3, 4))}), spec))
    assert "12ab12ab…" in words
    assert "pca dim 4, whiten true; l2" in words


def test_a_feature_set_that_was_removed_is_still_shown(features: FeatureSet, tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "features")
    cache.remove(features.name)
    assert "3 videos" in repr(features)
    assert "its folder is gone" in read_html(features)[0]
    assert "0 feature sets" in read_html(cache)[0]
    shutil.rmtree(cache.folder)
    assert repr(cache) == f"<Cache {cache.folder}: 0 feature sets>"
    assert "its folder is not there" in read_html(cache)[0]


def test_a_cache_shows_its_sets_and_what_is_wrong_with_some(
    features: FeatureSet, tmp_path: Path, make_spec: Callable[..., Spec], fill_set: Callable[..., Path]
) -> None:
    hurt = fill_set(tmp_path / "features", make_spec(reduction="gmp"), {"v1": np.ones((3, 4))})
    (shard,) = hurt.glob("*.h5")
    shard.write_bytes(b"not HDF5")
    words, _ = read_html(open_cache(tmp_path / "features"))
    assert "2 feature sets" in words
    assert f"{features.name} 3 5 4 float16" in " ".join(words.split())
    assert "cannot be opened" in words
    assert hurt.name in words


def test_a_cache_does_not_count_sets_for_long(
    features: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 2.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    monkeypatch.setattr(cards, "count", lambda *_: pytest.fail("counted"))
    assert f"not counted, since it takes long: {features.name}" in read_html(open_cache(tmp_path / "features"))[0]


def test_a_set_is_shown_without_reading_its_ledger(features: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FeatureSet, "ledger", lambda _: pytest.fail("read"))
    monkeypatch.setattr(FeatureSet, "__iter__", lambda _: pytest.fail("listed"))
    assert "1 failed" in cards.set_card(features)
    repr(features)


def test_reports_are_short_and_name_what_failed() -> None:
    failed = {f"v{number}": "broken" for number in range(1000)}
    derived = DeriveReport("toy.pca=4", 1009, 5, 4, failed, 70, 0.93, 3)
    reports: list[tuple[Shown, str]] = [
        (derived, "toy.pca=4: 1,009 videos: 5 derived, 4 cached, "),
        (ImportReport("toy", 1009, 5, 3, 1, failed, ["more"]), "toy: 1,009 videos: 5 imported, 3 cached, 1 duplicate,"),
        (ExportReport("toy", "out", "npy", 9, 70, 9, 4000, failed), "out: 9 videos as npy, 4.0 kB in 9 files, 1,000"),
        (Verification("toy", 3, 9, ["v1"], failed), "toy: 1 video hurt, 9 videos in 3 shards"),
    ]
    for report, line in reports:
        assert f"<{type(report).__name__} {line}" in repr(report)
        assert len(repr(report)) < 120
        words, _ = read_html(report)
        assert ("v0" in words, "… and 995 more" in words) == (True, True)
    assert "explained variance 0.9300" in " ".join(read_html(derived)[0].split())
    assert repr(Verification("toy", 3, 9)) == "<Verification toy: ok, 9 videos in 3 shards>"
