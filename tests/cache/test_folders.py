"""Folders as manifests: labels and splits from the names of folders."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framecache.cache import InputError
from framecache.cache.folders import image_files, natural_key, read_source, scan_folder
from framecache.cache.manifest import Video


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def told(folder: Path) -> list[tuple[str, str | None, str | None]]:
    return [(video.video_id, video.label, video.split) for video in scan_folder(folder)]


def test_class_folders_give_labels(tmp_path: Path) -> None:
    make_files(tmp_path, "dog/1.mp4", "cat/2.avi", "cat/more/3.MKV")
    assert told(tmp_path) == [
        ("cat/2.avi", "cat", None),
        ("cat/more/3.MKV", "cat", None),
        ("dog/1.mp4", "dog", None),
    ]
    assert [video.path for video in scan_folder(tmp_path)] == [
        tmp_path / "cat/2.avi",
        tmp_path / "cat/more/3.MKV",
        tmp_path / "dog/1.mp4",
    ]


def test_split_folders_give_splits_and_labels(tmp_path: Path) -> None:
    make_files(tmp_path, "train/cat/1.mp4", "val/cat/2.mp4", "test/dog/deep/3.mp4")
    assert told(tmp_path) == [
        ("test/dog/deep/3.mp4", "dog", "test"),
        ("train/cat/1.mp4", "cat", "train"),
        ("val/cat/2.mp4", "cat", "val"),
    ]


def test_split_folders_without_class_folders_are_labels(tmp_path: Path) -> None:
    make_files(tmp_path, "train/1.mp4", "test/2.mp4")
    assert told(tmp_path) == [("test/2.mp4", "test", None), ("train/1.mp4", "train", None)]


def test_a_plain_folder_gives_no_labels(tmp_path: Path) -> None:
    make_files(tmp_path, "b.mp4", "a.webm")
    assert told(tmp_path) == [("a.webm", None, None), ("b.mp4", None, None)]


def test_videos_come_in_natural_order(tmp_path: Path) -> None:
    make_files(tmp_path, *(f"class{i}/clip{j}.mp4" for i in (10, 9) for j in (100, 20, 3)))
    assert [video_id for video_id, _, _ in told(tmp_path)] == [
        f"class{i}/clip{j}.mp4" for i in (9, 10) for j in (3, 20, 100)
    ]


def test_a_folder_of_images_is_one_video(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "clip", "frame1.png", "frame2.png", "notes.txt")
    assert scan_folder(folder) == [Video("clip", folder)]
    make_files(tmp_path, "other.mp4")
    assert told(tmp_path) == [("clip", None, None), ("other.mp4", None, None)]


def test_folders_of_images_have_labels_too(tmp_path: Path) -> None:
    make_files(tmp_path, "cat/clip1/1.jpg", "cat/clip1/2.jpg", "dog/clip2/1.JPEG")
    assert told(tmp_path) == [("cat/clip1", "cat", None), ("dog/clip2", "dog", None)]


def test_images_beside_videos_are_no_video(tmp_path: Path) -> None:
    make_files(tmp_path, "cat/clip.mp4", "cat/thumbnail.jpg")
    assert told(tmp_path) == [("cat/clip.mp4", "cat", None)]


def test_the_working_directory_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_files(tmp_path / "clip", "1.png"))
    assert scan_folder(Path()) == [Video("clip", tmp_path / "clip")]


def test_images_come_in_natural_order(tmp_path: Path) -> None:
    make_files(tmp_path, "frame10.png", "frame9.png", "frame100.jpg", "notes.txt")
    assert [path.name for path in image_files(tmp_path)] == ["frame9.png", "frame10.png", "frame100.jpg"]


def test_hidden_images_are_no_frames(tmp_path: Path) -> None:
    make_files(tmp_path, "frame1.png", "._frame1.png", ".thumbnail.jpg")  # as macOS leaves on shared disks
    assert [path.name for path in image_files(tmp_path)] == ["frame1.png"]


def test_hidden_files_and_folders_and_others_are_passed_over(tmp_path: Path) -> None:
    make_files(tmp_path, "a.mp4", "._a.mp4", ".hidden.mp4", ".cache/b.mp4", "a.srt", "mp4", "cat/.d/c.mp4", "README")
    assert told(tmp_path) == [("a.mp4", None, None)]


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    make_files(tmp_path, "cat/a.mp4")
    (tmp_path / "cat" / "loop").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    assert told(tmp_path) == [("cat/a.mp4", "cat", None)]


def test_links_to_videos_count_even_broken_ones(tmp_path: Path) -> None:
    make_files(tmp_path / "store", "a.mp4")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "1.mp4").symlink_to(tmp_path / "store" / "a.mp4")
    (tmp_path / "set" / "2.mp4").symlink_to(tmp_path / "gone.mp4")
    assert told(tmp_path / "set") == [("1.mp4", None, None), ("2.mp4", None, None)]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_utf8_become_printable_and_stay_openable(tmp_path: Path) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.mkdir(folder)
    with open(os.path.join(folder, b"\xff.mp4"), "wb") as stream:
        stream.write(b"frames")
    (video,) = scan_folder(tmp_path)
    assert (video.video_id, video.label) == (r"caf\xe9/\xff.mp4", r"caf\xe9")
    assert video.path.read_bytes() == b"frames"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_print_alike_are_refused(tmp_path: Path) -> None:
    make_files(tmp_path, r"\xff.mp4", "\udcff.mp4")
    with pytest.raises(InputError, match="duplicate video_id"):
        scan_folder(tmp_path)


@pytest.mark.parametrize("names", [(), ("notes.txt",), (".hidden.mp4",), ("deep/er/notes.txt",)])
def test_a_folder_without_videos_is_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    make_files(tmp_path, *names)
    with pytest.raises(
        InputError, match=f"{tmp_path}: no video in this folder; expected files such as .mp4, or folders"
    ):
        scan_folder(tmp_path)


def test_a_source_may_be_a_folder_a_manifest_or_one_video(tmp_path: Path) -> None:
    make_files(tmp_path, "cat/a.mp4", "b.unusual")
    (tmp_path / "list.csv").write_text("path,label\ncat/a.mp4,feline\n")
    assert read_source(tmp_path / "cat") == [Video("a.mp4", tmp_path / "cat/a.mp4")]
    assert read_source(tmp_path / "list.csv") == [Video("cat/a.mp4", tmp_path / "cat/a.mp4", "feline")]
    assert read_source(tmp_path / "cat/a.mp4") == [Video("a.mp4", tmp_path / "cat/a.mp4")]
    assert read_source(tmp_path / "b.unusual") == [Video("b.unusual", tmp_path / "b.unusual")]


def test_a_root_is_for_the_paths_of_a_manifest(tmp_path: Path) -> None:
    make_files(tmp_path, "videos/a.mp4", "lists/x")
    (tmp_path / "lists/list.csv").write_text("path\na.mp4\n")
    assert read_source(tmp_path / "lists/list.csv", tmp_path / "videos")[0].path == tmp_path / "videos/a.mp4"


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.mp4: no such file or folder; expected a manifest, a folder of videos"):
        read_source(tmp_path / "gone.mp4")
    with pytest.raises(InputError, match=r"gone\.csv: no such manifest"):
        read_source(tmp_path / "gone.csv")


def test_one_video_with_a_relative_path_gets_an_absolute_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_files(tmp_path, "a.mp4"))
    assert read_source(Path("a.mp4")) == [Video("a.mp4", tmp_path / "a.mp4")]


@pytest.mark.parametrize(
    ("texts", "ordered"),
    [
        (["a10", "a2", "a1"], ["a1", "a2", "a10"]),
        (["a", "10", "9"], ["9", "10", "a"]),
        (["a1b10", "a1b9", "a01b1"], ["a01b1", "a1b9", "a1b10"]),
        (["b", "", "a"], ["", "a", "b"]),
        (["x²", "x٣", "x2"], ["x2", "x²", "x٣"]),
    ],
)
def test_digits_sort_as_numbers(texts: list[str], ordered: list[str]) -> None:
    assert sorted(texts, key=natural_key) == ordered


@given(numbers=st.lists(st.integers(0, 10**12), max_size=6), prefix=st.text("ab_- ", max_size=3))
def test_numbered_names_sort_by_number(numbers: list[int], prefix: str) -> None:
    names = [f"{prefix}{number}.png" for number in numbers]
    assert sorted(names, key=natural_key) == [f"{prefix}{number}.png" for number in sorted(numbers)]


@given(texts=st.lists(st.text(), max_size=6))
def test_any_names_can_be_sorted(texts: list[str]) -> None:
    assert sorted(sorted(texts, key=natural_key)) == sorted(texts)


def test_names_of_thousands_of_digits_can_be_sorted() -> None:
    assert sorted(["9" * 5000, "10", "9"], key=natural_key) == ["9", "10", "9" * 5000]


def test_folders_that_are_splits_in_part_are_refused(tmp_path: Path) -> None:
    folder = make_files(tmp_path, "train/cat/a.mp4", "validation/cat/b.mp4")
    message = "folders train, validation are splits in part; expected only train, val, test"
    with pytest.raises(InputError, match=message):
        scan_folder(folder)


def test_a_picture_beside_folders_of_videos_is_no_video(tmp_path: Path) -> None:
    folder = make_files(tmp_path, "cover.jpg", "cat/a.mp4", "dog/b.mp4", "dog/frames/1.png")
    assert [video.video_id for video in scan_folder(folder)] == ["cat/a.mp4", "dog/b.mp4", "dog/frames"]
