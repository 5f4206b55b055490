"""Names never become paths outside their folder, and links in a cache are not followed by what writes or removes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from framecache.cache import Cache, FeatureSet, FeatureSetNotFoundError, InputError, LockedError, Spec, open_cache
from framecache.cache.__main__ import app
from framecache.cache.cli import run
from framecache.cache.ledger import LEDGER_FILE, LedgerRow, append_journal
from framecache.cache.manifest import is_plain_name
from framecache.cache.sealed import SEALED_FILE
from framecache.cache.store import LOCKS_FOLDER, SPEC_FILE, lock_for_writing

FillSet = Callable[..., Path]

ODD_NAMES = ["", ".", "..", "../kept", "/", "/etc", "nul\0", "x" * 300, "CON", "nul.txt", "．．／kept", "a/b", "*", "~"]


@pytest.fixture
def folder(tmp_path: Path, spec: Spec, fill_set: FillSet) -> Path:
    """One feature set in the cache ``features``; beside the cache, a folder that nobody may touch."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("mine")
    return fill_set(tmp_path / "features", spec, {"a": np.ones((3, 4)), "b": np.ones((2, 4))})


def files(folder: Path) -> set[str]:
    """All that is below, but for the locks."""
    found = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return {name for name in found if LOCKS_FOLDER not in name}


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """The status and the error, which is one line or none."""
    status = run(app, [str(word) for word in words])
    err = capsys.readouterr().err
    assert err.count("\n") <= 1
    return status, err


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: repr(name[:12]))
def test_a_name_of_no_set_is_one_line_and_touches_nothing(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(tmp_path)
    for words in (["info"], ["ledger"], ["verify"], ["verify", "--repair"], ["compact"], ["rm", "--yes"]):
        status, err = command(capsys, *words, "--cache", folder.parent, "--", name)
        assert status == 2
        assert err.startswith("error: no feature set ")
    with pytest.raises(FeatureSetNotFoundError):
        open_cache(folder.parent)[name]
    assert files(tmp_path) == before


@pytest.mark.parametrize("cache", ["x" * 300, "nul\0", "a/" * 3000], ids=["long", "NUL", "deep"])
def test_a_cache_that_cannot_be_is_one_line(cache: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, err = command(capsys, "ls", "--cache", cache)
    assert (status, "no such folder" in err) == (2, True)


@pytest.mark.parametrize("part", ["../up", "/abs", "nul\0", "x" * 300, "CON", "．．／up", "..", "", "a\\b", "line\n"])
@pytest.mark.parametrize("field", ["backbone", "tap", "reduction", "sampling"])
def test_a_spec_of_any_words_makes_a_folder_of_its_own(
    field: str, part: str, tmp_path: Path, make_spec: Callable[..., Spec]
) -> None:
    spec = make_spec(default_tap=False, **{field: part})
    assert Cache(tmp_path / "cache").create(spec).parent == tmp_path / "cache"
    assert os.listdir(tmp_path) == ["cache"]
    assert os.listdir(tmp_path / "cache") == [spec.name]
    with lock_for_writing(tmp_path / "cache" / spec.name):
        assert open_cache(tmp_path / "cache")[spec.name].spec == spec


def test_long_words_of_two_specs_are_told_apart_by_the_fingerprint(make_spec: Callable[..., Spec]) -> None:
    one, other = (make_spec(backbone="x" * 300 + end) for end in "ab")
    assert one.short_name == other.short_name
    assert one.name != other.name


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("class/clip.mp4", True),
        ("a..b", True),
        ("．．／x", True),  # looks like a path, and is not one
        ("x" * 5000, True),
        ("CON", True),
        ("", False),
        ("..", False),
        ("../x", False),
        ("a/../x", False),
        ("/x", False),
        ("//x", False),
        ("a\0b", False),
    ],
)
def test_what_a_video_may_be_called(name: str, plain: bool) -> None:
    assert is_plain_name(name) is plain


@pytest.mark.parametrize("video_id", ["../x", "/x", "", "a\0b"])
def test_nothing_is_stored_under_a_name_that_would_not_be_read(
    video_id: str, tmp_path: Path, spec: Spec, fill_set: FillSet
) -> None:
    with pytest.raises(ValueError, match="expected a relative name"):
        fill_set(tmp_path, spec, {"a": np.ones((1, 4)), video_id: np.ones((1, 4))})


def test_a_video_of_a_very_long_name_is_stored_and_read(tmp_path: Path, spec: Spec, fill_set: FillSet) -> None:
    name = "ü/" * 2000 + "clip.mp4"
    assert list(FeatureSet(fill_set(tmp_path, spec, {name: np.ones((1, 4))}), spec)) == [name]


@pytest.fixture
def linked(folder: Path, tmp_path: Path) -> Path:
    """The feature set lies outside the cache, which holds a link to it."""
    outside = tmp_path / "outside" / folder.name
    outside.parent.mkdir()
    folder.rename(outside)
    folder.symlink_to(outside)
    return folder


def test_a_link_is_no_feature_set(linked: Path, spec: Spec, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(tmp_path)
    assert open_cache(linked.parent).names() == []
    for words in (["info"], ["rm", "--yes"], ["compact"], ["verify", "--repair"]):
        assert command(capsys, *words, "--cache", linked.parent, "--", spec.name)[0] == 2
    with pytest.raises(InputError, match="is a link; a cache holds its own files only"):
        Cache(linked.parent).create(spec)
    with pytest.raises(InputError, match="is a link"), lock_for_writing(linked):
        pass
    assert files(tmp_path) == before
    assert set(FeatureSet(tmp_path / "outside" / linked.name, spec)) == {"a", "b"}


def test_a_cache_may_be_a_link_itself(folder: Path, spec: Spec, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder.parent)
    cache = open_cache(tmp_path / "link")
    assert set(cache[spec.name]) == {"a", "b"}
    assert cache.remove(spec.name) == spec.name
    assert not folder.exists()


def test_removal_deletes_links_and_not_what_they_lead_to(folder: Path, spec: Spec, tmp_path: Path) -> None:
    (folder / "link").symlink_to(tmp_path / "kept")
    (folder / "hurt").symlink_to(tmp_path / "kept")
    (folder.parent / ".removed-0000").symlink_to(tmp_path / "kept")
    open_cache(folder.parent).remove(spec.name)
    assert not folder.exists()
    assert (tmp_path / "kept" / "file").read_text() == "mine"


@pytest.mark.parametrize("what", ["", "{name}.lock", "{name}.json"], ids=["folder", "lock", "holder"])
@pytest.mark.parametrize("to", ["kept/file", "kept", "kept/new"], ids=["file", "folder", "nowhere"])
def test_locks_are_not_written_through_links(what: str, to: str, folder: Path, tmp_path: Path) -> None:
    locks = folder.parent / LOCKS_FOLDER
    shutil.rmtree(locks, ignore_errors=True)
    link = locks / what.format(name=folder.name)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / to)
    with pytest.raises(InputError, match="is a link"), lock_for_writing(folder):
        pass
    assert (tmp_path / "kept" / "file").read_text() == "mine"
    assert files(tmp_path / "kept") == {"file"}


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_holder_that_is_no_file_hangs_nobody(kind: str, folder: Path, tmp_path: Path) -> None:
    holder = folder.parent / LOCKS_FOLDER / f"{folder.name}.json"
    holder.parent.mkdir(exist_ok=True)
    put(holder, kind, tmp_path)
    with lock_for_writing(folder), pytest.raises(LockedError, match="is writing"), lock_for_writing(folder):
        pass


def test_a_folder_called_like_a_temporary_file_is_left_alone(folder: Path) -> None:
    (folder / ".mine.partial").mkdir()
    with lock_for_writing(folder):
        assert (folder / ".mine.partial").is_dir()


def put(path: Path, kind: str, outside: Path) -> None:
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(outside)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
@pytest.mark.parametrize("name", [LEDGER_FILE, SEALED_FILE])
def test_a_journal_that_is_no_file_of_its_own_is_not_written_and_hides_no_features(
    name: str, kind: str, folder: Path, spec: Spec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(folder / name, kind, tmp_path / "kept" / "file")
    assert set(FeatureSet(folder, spec)) == {"a", "b"}
    for words in (["ls"], ["info", spec.name], ["ledger", spec.name], ["verify"]):
        assert command(capsys, *words, "--cache", folder.parent) == (0, "")
    if name == SEALED_FILE:
        assert command(capsys, "compact", "--cache", folder.parent)[0] == 1
    else:
        with pytest.raises(OSError, match=name):
            append_journal(folder, 1, [LedgerRow("c", "c", "failed", "broken")])
    assert (tmp_path / "kept" / "file").read_text() == "mine"


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_a_spec_that_is_no_file_is_one_line(
    kind: str, folder: Path, spec: Spec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(folder / SPEC_FILE, kind, tmp_path / "kept" / "file")
    assert command(capsys, "ls", "--cache", folder.parent)[0] == 1
    for words in (["info"], ["ledger"], ["verify"], ["compact"]):
        assert command(capsys, *words, "--cache", folder.parent, "--", spec.name)[0] == 2
