"""UCF101 and HMDB51 as they are published: split files and rendered clips become manifests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from framecache.cache import InputError, open_cache
from framecache.cache.cli import run
from framecache.cache.manifest import read_manifest
from framecache.extract.__main__ import app
from framecache.extract.layouts import LayoutConfig, write_layout

from .conftest import shades, write_video

UCF101_TRAIN = (
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n"
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02.avi 1\r\n"
    "HandstandPushups/v_HandStandPushups_g10_c01.avi 2\r\n"
    "\r\n"
)
UCF101_TEST = "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\r\nHandstandPushups/v_HandStandPushups_g02_c03.avi\r\n"
HMDB51 = {
    "brush_hair": "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 \n"
    "April_09_brush_hair_u_nm_np1_ba_goo_1.avi 1 \n"
    "Aussie_Brunette_Brushing_Hair_II_brush_hair_u_nm_np1_ba_goo_4.avi 0 \n"
    "Haarek_mmen_brush_hair_h_cm_np1_fr_goo_0.avi 2 \n",
    "shoot_bow": "(Rad)Schlag_die_Bank!_shoot_bow_u_nm_np1_fr_med_9.avi 2 \n"
    "#122_Archery_shoot_bow_f_nm_np10_ri_med_2.avi 1 \n",
}


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"a video")


def lay_out_ucf101(root: Path, make: Callable[[Path], object] = touch) -> Path:
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n", newline="")
    for split in ("01", "02"):
        (lists / f"trainlist{split}.txt").write_text(UCF101_TRAIN, newline="")
        (lists / f"testlist{split}.txt").write_text(UCF101_TEST, newline="")
    for line in (UCF101_TRAIN + UCF101_TEST).split():
        if line.endswith(".avi"):
            make(root / "UCF-101" / line)
    return root


def lay_out_hmdb51(root: Path, make: Callable[[Path], object] = touch, flat: bool = False) -> Path:
    lists = root / "testTrainMulti_7030_splits"
    lists.mkdir(parents=True)
    for label, lines in HMDB51.items():
        (lists / f"{label}_test_split1.txt").write_text(lines)
        (lists / f"{label}_test_split2.txt").write_text(lines.replace(" 2 ", " 0 "))
        for line in lines.splitlines():
            name = line.split()[0]
            make(root / name if flat else root / "hmdb51_org" / label / name)
    return root


def rows(manifest: Path, root: Path) -> list[tuple[str, str | None, str | None, str | None]]:
    return [(video.video_id, video.label, video.split, video.group) for video in read_manifest(manifest, root)]


def test_ucf101_lists_become_a_manifest(tmp_path: Path) -> None:
    root = lay_out_ucf101(tmp_path / "data")
    report = write_layout(root, LayoutConfig("ucf101"))
    assert report.manifest == root / "ucf101-split1.csv"
    makeup, stand = "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup", "UCF-101/HandstandPushups/v_HandStandPushups"
    assert rows(report.manifest, root) == [
        (f"{makeup}_g08_c01.avi", "ApplyEyeMakeup", "train", "ApplyEyeMakeup_g08"),
        (f"{makeup}_g08_c02.avi", "ApplyEyeMakeup", "train", "ApplyEyeMakeup_g08"),
        (f"{stand}_g10_c01.avi", "HandstandPushups", "train", "HandstandPushups_g10"),
        (f"{makeup}_g01_c01.avi", "ApplyEyeMakeup", "test", "ApplyEyeMakeup_g01"),
        (f"{stand}_g02_c03.avi", "HandstandPushups", "test", "HandstandPushups_g02"),
    ]
    assert list(report.lines()) == [f"{report.manifest}: 3 train, 2 test; 2 classes, 4 groups"]


@pytest.mark.parametrize("flat", [False, True])
def test_hmdb51_lists_become_a_manifest_of_videos_in_folders_or_none(flat: bool, tmp_path: Path) -> None:
    root = lay_out_hmdb51(tmp_path / "data", flat=flat)
    report = write_layout(root, LayoutConfig("hmdb51"))
    brush, bow = ("", "") if flat else ("hmdb51_org/brush_hair/", "hmdb51_org/shoot_bow/")
    assert rows(report.manifest, root) == [
        (f"{brush}April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "brush_hair", "train", "brush_hair/April_09"),
        (f"{brush}April_09_brush_hair_u_nm_np1_ba_goo_1.avi", "brush_hair", "train", "brush_hair/April_09"),
        (f"{bow}#122_Archery_shoot_bow_f_nm_np10_ri_med_2.avi", "shoot_bow", "train", "shoot_bow/#122_Archery"),
        (f"{brush}Haarek_mmen_brush_hair_h_cm_np1_fr_goo_0.avi", "brush_hair", "test", "brush_hair/Haarek_mmen"),
        (
            f"{bow}(Rad)Schlag_die_Bank!_shoot_bow_u_nm_np1_fr_med_9.avi",
            "shoot_bow",
            "test",
            "shoot_bow/(Rad)Schlag_die_Bank!",
        ),
    ]
    assert list(report.lines()) == [f"{report.manifest}: 3 train, 2 test, 1 unused; 2 classes, 4 groups"]


def test_each_split_reads_its_own_lists(tmp_path: Path) -> None:
    root = lay_out_hmdb51(tmp_path)
    assert write_layout(root, LayoutConfig("hmdb51", split=2)).num_videos == {"train": 3, "test": 0}
    assert (root / "hmdb51-split2.csv").exists()
    with pytest.raises(InputError, match=r"no file \*_test_split3.txt in it; name the folder .* with --lists"):
        write_layout(root, LayoutConfig("hmdb51", split=3))


def test_listed_videos_that_are_not_there_are_an_error_that_names_them_or_left_out(tmp_path: Path) -> None:
    root = lay_out_ucf101(tmp_path)
    gone = root / "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02.avi"
    gone.unlink()
    with pytest.raises(
        InputError, match=r"1 video \(ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02\) of 5 that split 1 lists are not there"
    ):
        write_layout(root, LayoutConfig("ucf101"))
    assert not (root / "ucf101-split1.csv").exists()
    report = write_layout(root, LayoutConfig("ucf101", missing="drop"))
    assert report.missing == ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02",)
    assert report.num_videos == {"train": 2, "test": 2}


def test_no_video_at_all_is_an_error_in_any_case(tmp_path: Path) -> None:
    lay_out_ucf101(tmp_path, make=lambda _: None)
    with pytest.raises(InputError, match=r"5 videos .* of 5 that split 1 lists are not there"):
        write_layout(tmp_path, LayoutConfig("ucf101", missing="drop"))


def test_videos_in_no_list_are_told_and_left_out(tmp_path: Path) -> None:
    root = lay_out_hmdb51(tmp_path)
    touch(root / "hmdb51_org/wave/new.avi")
    report = write_layout(root, LayoutConfig("hmdb51"))
    assert report.unlisted == ("hmdb51_org/wave/new.avi",)
    assert list(report.lines())[1] == "left out: 1 video (hmdb51_org/wave/new.avi) there and in no list"


def test_converted_videos_are_known_by_their_names(tmp_path: Path) -> None:
    root = lay_out_ucf101(tmp_path)
    for path in list(root.rglob("*.avi")):
        path.rename(path.with_suffix(".mp4"))
    assert rows(write_layout(root, LayoutConfig("ucf101")).manifest, root)[0][0].endswith("_g08_c01.mp4")


def test_a_manifest_that_is_there_is_kept_and_another_one_never_overwritten(tmp_path: Path) -> None:
    root = lay_out_ucf101(tmp_path)
    manifest = write_layout(root, LayoutConfig("ucf101")).manifest
    before = manifest.stat()
    assert write_layout(root, LayoutConfig("ucf101")).manifest == manifest
    assert (manifest.stat().st_ino, manifest.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    manifest.write_text("path\nmine.mp4\n")
    with pytest.raises(InputError, match="there is another manifest of this name; remove it, or choose"):
        write_layout(root, LayoutConfig("ucf101"))
    assert manifest.read_text() == "path\nmine.mp4\n"
    assert write_layout(root, LayoutConfig("ucf101", manifest=root / "other.csv")).manifest == root / "other.csv"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "trainlist01.txt",
            "v_ApplyEyeMakeup_g08_c01.avi 1\n",
            r"trainlist01.txt, line 1: expected 'Class/v_Class_g01",
        ),
        ("trainlist01.txt", "HandstandPushups/v_HandStandPushups_g10_c01.avi 1\n", r"has the number 1, but 2 in .*Ind"),
        ("testlist01.txt", UCF101_TRAIN, r"testlist01.txt, line 1: v_ApplyEyeMakeup_g08_c01 is listed twice \(App"),
        ("classInd.txt", "ApplyEyeMakeup 1\n", r"classInd.txt, line 1: expected '1 ApplyEyeMakeup' or the like"),
    ],
)
def test_lists_that_are_not_as_published_are_refused(file: str, text: str, message: str, tmp_path: Path) -> None:
    root = lay_out_ucf101(tmp_path)
    (root / "ucfTrainTestlist" / file).write_text(text)
    with pytest.raises(InputError, match=message):
        write_layout(root, LayoutConfig("ucf101"))


def test_lists_and_videos_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    root = lay_out_ucf101(tmp_path)
    touch(root / "old/v_ApplyEyeMakeup_g08_c01.avi")
    with pytest.raises(InputError, match=r"v_ApplyEyeMakeup_g08_c01 is there twice \(UCF-101/.*, old/"):
        write_layout(root, LayoutConfig("ucf101"))
    (root / "old/trainlist01.txt").write_text("")
    with pytest.raises(InputError, match=r"trainlist01.txt is there twice .* name one's folder with --lists"):
        write_layout(root, LayoutConfig("ucf101"))


def test_hmdb51_lines_without_a_number_are_refused(tmp_path: Path) -> None:
    root = lay_out_hmdb51(tmp_path)
    (root / "testTrainMulti_7030_splits/brush_hair_test_split1.txt").write_text("a.avi 3\n")
    with pytest.raises(InputError, match=r"brush_hair_test_split1.txt, line 1: expected a file's name and 0, 1 or 2"):
        write_layout(root, LayoutConfig("hmdb51"))


def test_one_command_writes_the_manifest_and_extracts(
    tmp_path: Path, tiny_backbone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    count = iter(range(3, 20))
    root = lay_out_ucf101(tmp_path / "data", lambda path: write_video(path, shades(next(count))))
    flags = ["--cache", str(tmp_path / "features"), "--backbone", tiny_backbone, "--engine", "tensorflow"]
    manifest = tmp_path / "elsewhere.csv"
    asked = [str(root), "--layout", "ucf101", "--split", "1", "--manifest", str(manifest), *flags]
    assert run(app, [*asked, "--manifest-only", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layout"]["num_videos"] == {"train": 3, "test": 2}
    assert not (tmp_path / "features").exists()
    assert run(app, asked) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{manifest}: 3 train, 2 test; 2 classes, 4 groups"
    assert out[2] == "5 videos: 5 computed, 0 cached, 0 duplicate, 0 failed"
    features = open_cache(tmp_path / "features")["build.gap"]
    assert [video.video_id in features for video in read_manifest(manifest, root)] == [True] * 5
    assert run(app, [str(root), "--layout", "ucf101", "--split", "2", *flags, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["cached"], report["layout"]["manifest"]) == (5, str(root / "ucf101-split2.csv"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--split", "2"], "--split: expected --layout with it, one of ucf101, hmdb51"),
        (["--layout", "ucf101", "--split", "4"], "--split 4: expected 1, 2 or 3"),
        (["--layout", "ucf11"], "--layout"),
        (["--layout", "ucf101", "--root", "."], "--root: expected none beside --layout"),
        (["--layout", "ucf101", "--manifest", "list.jsonl"], "expected the name of a .csv file"),
        (["--layout", "ucf101"], "no file trainlist01.txt in it; name the folder of the split files with --lists"),
    ],
)
def test_wrong_flags_are_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, [str(tmp_path), *flags, "--cache", str(tmp_path / "features")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
