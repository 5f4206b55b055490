"""Manifests: read as they are meant, refused with the line and a way out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framecache.cache import InputError
from framecache.cache.folders import read_source
from framecache.cache.manifest import Video, printable, read_manifest, require_files, segment_name

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(text, name)``: a manifest with that text."""

    def write_text(text: str | bytes, name: str = "manifest.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_text


@pytest.fixture(params=["csv", "jsonl"])
def write_rows(request: pytest.FixtureRequest, write: Write) -> Write:
    """``write_rows(rows)``: the same manifest as CSV and as JSONL; rows are dicts of text."""

    def write_as(rows: list[dict[str, str]]) -> Path:
        if request.param == "jsonl":
            return write("".join(json.dumps(row) + "\n" for row in rows), "manifest.jsonl")
        names = list(dict.fromkeys(name for row in rows for name in row))
        lines = [names, *([row.get(name, "") for name in names] for row in rows)]
        return write("".join(",".join(line) + "\n" for line in lines))

    return write_as


def test_every_column_is_read(write_rows: Write, tmp_path: Path) -> None:
    row = {"path": "a/b.mp4", "video_id": "b", "label": "cat", "split": "val", "group": "g", "start": "1.5", "end": "2"}
    assert read_manifest(write_rows([row])) == [Video("b", tmp_path / "a/b.mp4", "cat", "val", "g", 1.5, 2.0)]


def test_all_but_the_path_may_be_missing_or_empty(write_rows: Write, tmp_path: Path) -> None:
    path = write_rows([{"path": "a.mp4"}, {"path": "b.mp4", "label": "", "split": "", "group": "", "end": ""}])
    assert read_manifest(path) == [Video("a.mp4", tmp_path / "a.mp4"), Video("b.mp4", tmp_path / "b.mp4")]


def test_other_columns_and_spaces_around_values_are_passed_over(write_rows: Write) -> None:
    (video,) = read_manifest(write_rows([{"path": "  a.mp4 ", "label": " cat ", "note": "blurred"}]))
    assert (video.video_id, video.label) == ("a.mp4", "cat")


def test_rows_keep_their_order(write_rows: Write) -> None:
    names = ["b.mp4", "a.mp4", "c10.mp4", "c9.mp4"]
    assert [video.video_id for video in read_manifest(write_rows([{"path": name} for name in names]))] == names


@pytest.mark.parametrize("name", ["manifest.csv", "MANIFEST.CSV"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_byte_order_mark_and_any_line_end_are_understood(name: str, newline: str, write: Write) -> None:
    text = newline.join(["path,label", "a.mp4,cat", "", "b.mp4,dög", ""])
    videos = read_manifest(write(text.encode("utf-8-sig"), name))
    assert [(video.video_id, video.label) for video in videos] == [("a.mp4", "cat"), ("b.mp4", "dög")]


def test_quoted_commas_and_quotes_are_part_of_a_value(write: Write) -> None:
    (video,) = read_manifest(write('path,label\n"a, b.mp4","say ""hi"""\n'))
    assert (video.video_id, video.label) == ("a, b.mp4", 'say "hi"')


def test_another_column_may_hold_the_labels(write_rows: Write) -> None:
    path = write_rows([{"path": "a.mp4", "label": "cat", "age": " 3 "}, {"path": "b.mp4", "label": "dog", "age": ""}])
    assert [video.label for video in read_manifest(path, label="age")] == ["3", None]
    with pytest.raises(InputError, match=r"no column 'aeg', found path, label, age; did you mean 'age'\?"):
        read_manifest(path, label="aeg")


def test_a_list_of_labels_in_jsonl_is_one_with_semicolons(write: Write) -> None:
    rows = '{"path": "a.mp4", "label": ["b", 1]}\n{"path": "b.mp4", "label": []}\n'
    assert [video.label for video in read_manifest(write(rows, "m.jsonl"))] == ["b;1", None]


@pytest.mark.parametrize("label", ['"a;b"', '""', "null", '["a"]', '{"a": 1}'])
def test_a_list_holds_plain_labels_only(label: str, write: Write) -> None:
    path = write('{"path": "a.mp4", "label": ["x", ' + label + "]}", "m.jsonl")
    with pytest.raises(InputError, match=r"line 1: label .*: expected a label without semicolons in the list"):
        read_manifest(path)


def test_jsonl_may_hold_numbers_and_nulls_and_blank_lines(write: Write) -> None:
    rows = (
        '\n{"path": "a.mp4", "video_id": null, "label": 3, "start": 1, "end": 2.5}\n\n{"path": "b.mp4", "label": 0}\n'
    )
    one, two = read_manifest(write(rows, "m.jsonl"))
    assert (one.video_id, one.label, one.start, one.end) == ("a.mp4#1-2.5", "3", 1.0, 2.5)
    assert two.label == "0"


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c"])
def test_only_line_ends_end_a_row(character: str, write: Write) -> None:
    label = f"one{character}label"
    (in_csv,) = read_manifest(write(f"path,label\na.mp4,{label}\n"))
    assert in_csv.label == label
    if character > " ":  # JSON must escape control characters
        row = json.dumps({"path": "a.mp4", "label": label}, ensure_ascii=False)
        (in_jsonl,) = read_manifest(write(row, "m.jsonl"))
        assert in_jsonl.label == label


def test_a_line_end_within_quotes_is_part_of_the_value(write: Write) -> None:
    one, two = read_manifest(write('path,label\na.mp4,"two\nlines"\nb.mp4,one\n'))
    assert one.label == "two\nlines"
    assert two.video_id == "b.mp4"


@pytest.mark.parametrize(
    ("start", "end", "name"),
    [
        (None, None, ""),
        (0.0, None, "#0-"),
        (None, 5.0, "#-5"),
        (1.5, 2.25, "#1.5-2.25"),
        (10.0, 100.0, "#10-100"),
        (1234.567, 1234.568, "#1234.567-1234.568"),
        (1e6, 2e6, "#1000000-2000000"),
    ],
)
def test_a_part_is_named_by_its_seconds(start: float | None, end: float | None, name: str) -> None:
    assert segment_name(start, end) == name
    assert Video("v", Path("v"), start=start, end=end).segment == name


@given(start_ms=st.integers(0, 36_000_000), more_ms=st.integers(1, 100))
def test_parts_that_begin_a_millisecond_apart_have_names_of_their_own(start_ms: int, more_ms: int) -> None:
    # A part's name goes into its content digest: one name for two would be a false duplicate.
    assert segment_name(start_ms / 1000, None) != segment_name((start_ms + more_ms) / 1000, None)


def test_parts_of_one_video_get_default_names_of_their_own(write: Write) -> None:
    videos = read_manifest(write("path,start,end\na.mp4,,\na.mp4,0,5\na.mp4,5,10\na.mp4,10,\n"))
    assert [video.video_id for video in videos] == ["a.mp4", "a.mp4#0-5", "a.mp4#5-10", "a.mp4#10-"]
    assert len({video.path for video in videos}) == 1


def test_a_default_name_is_the_tidied_path(write: Write) -> None:
    videos = read_manifest(write("path\n./a//b/../c.mp4\n"))
    assert videos[0].video_id == "a/c.mp4"


BAD_ROWS = [
    ({"path": ""}, "path is empty"),
    ({"path": "  "}, "path is empty"),
    ({"split": "Train"}, r"split 'Train', expected one of train, val, test; did you mean 'train'\?"),
    ({"split": "valid"}, r"split 'valid', expected one of train, val, test; did you mean 'val'\?"),
    ({"split": "testing"}, r"split 'testing', .*; did you mean 'test'\?"),
    ({"split": "3"}, r"split '3', expected one of train, val, test$"),
    ({"start": "soon"}, "start 'soon', expected seconds from the beginning, 0 or more"),
    ({"start": "-1"}, "start '-1', expected seconds from the beginning, 0 or more"),
    ({"start": "nan"}, "start 'nan', expected seconds"),
    ({"end": "inf"}, "end 'inf', expected seconds"),
    ({"end": "1:30"}, "end '1:30', expected seconds"),
    ({"start": "2", "end": "1"}, r"end 1 is not after start 2 \(seconds\)"),
    ({"start": "2", "end": "2"}, r"end 2 is not after start 2 \(seconds\)"),
    ({"end": "0"}, r"end 0 is not after start 0 \(seconds\)"),
    ({"path": "../other.mp4"}, r"path '\.\./other\.mp4' leads outside .*; name the folder that holds all .* --root"),
    ({"path": "a/../../other.mp4"}, "path 'a/../../other.mp4' leads outside"),
    ({"path": "/etc/passwd"}, "path '/etc/passwd' leads outside"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_ROWS)
def test_a_bad_row_is_refused_with_its_line(changes: dict[str, str], message: str, write_rows: Write) -> None:
    good = {"path": "good.mp4", "label": "cat", "split": "train", "start": "0", "end": "9"}
    bad = {"path": "bad.mp4", "label": "", "split": "", "start": "", "end": "", **changes}
    path = write_rows([good, bad])
    line = 3 if path.suffix == ".csv" else 2
    with pytest.raises(InputError, match=f"{path}, line {line}: {message}"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the manifest lists no video; expected a row per video"),
        ("path,label\n", "the manifest lists no video"),
        ("Path,label\na.mp4,cat\n", r"no column 'path', found Path, label; rename 'Path'\?"),
        ("filepath\na.mp4\n", r"no column 'path', found filepath; rename 'filepath'\?"),
        ("file,label\na.mp4,cat\n", "no column 'path', found file, label$"),
        ("path,label\na.mp4\n", "line 2: not as many fields as the header"),
        ("path,label\na.mp4,cat\nb.mp4,cat,dog\n", "line 3: not as many fields as the header"),
        ('path,label\na.mp4,cat\n"b"c.mp4,cat\n', r"line 3: not CSV \("),
        ('path,label\na.mp4,cat\n"b.mp4,cat\n', r"not CSV \(unexpected end of data\)"),
        (b"path\n\xff.mp4\n", r"the manifest cannot be read \(.*\); expected UTF-8 text"),
    ],
)
def test_a_malformed_csv_is_refused(text: str | bytes, message: str, write: Write) -> None:
    path = write(text)
    with pytest.raises(InputError, match=message) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the manifest lists no video"),
        ('{"path": "a.mp4"}\n{"path": "b.mp4"\n', r"line 2: not JSON \(.*delimiter"),
        ('{"path": "a.mp4"}\n\n["b.mp4"]\n', "line 3: expected a JSON object, found list"),
        ('"a.mp4"\n', "line 1: expected a JSON object, found str"),
        ('{"paths": "a.mp4"}\n', r"no column 'path', found paths; rename 'paths'\?"),
        ('{"path": "a.mp4"}\n{"label": "cat"}\n', "no column 'path', found label"),
        ('{"path": null}\n', "line 1: path is empty"),
        ("[" * 100_000 + "\n", "line 1: not JSON"),
        ('{"path": "a\\ud800.mp4"}\n', "line 1: .*path"),
        ('{"path": "a.mp4", "video_id": "\\ud800"}\n', "line 1: .*video_id"),
    ],
)
def test_a_malformed_jsonl_is_refused(text: str, message: str, write: Write) -> None:
    path = write(text, "manifest.jsonl")
    with pytest.raises(InputError, match=message) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(str(path))


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.csv: no such manifest"):
        read_manifest(tmp_path / "missing.csv")


def test_a_folder_or_another_kind_of_file_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=r"folder\.csv: the manifest cannot be read"):
        read_manifest(tmp_path / "folder.csv")
    with pytest.raises(InputError, match=r"list\.txt: expected a manifest, a \.csv or \.jsonl file"):
        read_manifest(tmp_path / "list.txt")


def test_two_rows_of_one_name_are_refused(write_rows: Write) -> None:
    path = write_rows([{"path": "a.mp4"}, {"path": "b.mp4"}, {"path": "./a.mp4"}])
    with pytest.raises(InputError, match=f"{path}: duplicate video_id 'a.mp4'; give each row a video_id of its own"):
        read_manifest(path)
    assert len(read_manifest(write_rows([{"path": "a.mp4"}, {"path": "a.mp4", "video_id": "again"}]))) == 2


def test_many_duplicates_are_counted_and_a_few_named(write_rows: Write) -> None:
    path = write_rows([{"path": f"{i % 5}.mp4"} for i in range(10)])
    with pytest.raises(InputError, match=r"duplicate video_id '0.mp4', '1.mp4', '2.mp4' and 2 more; give each row"):
        read_manifest(path)


def test_a_root_moves_relative_paths_and_widens_what_is_allowed(write: Write, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    manifest = write("path\nvideos/a.mp4\n", "lists/manifest.csv")
    assert read_manifest(manifest, tmp_path)[0].path == tmp_path / "videos/a.mp4"
    absolute = write(f"path\n{tmp_path}/videos/a.mp4\n", "lists/manifest.csv")
    assert read_manifest(absolute, tmp_path)[0].path == tmp_path / "videos/a.mp4"
    assert read_manifest(absolute, Path("/"))[0].path == tmp_path / "videos/a.mp4"
    with pytest.raises(InputError, match=f"leads outside {tmp_path}/lists; name the folder that holds all videos"):
        read_manifest(absolute)


def test_a_neighbour_whose_name_begins_alike_is_outside(write: Write, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match="leads outside"):
        read_manifest(write("path\n../data2/a.mp4\n", "data/manifest.csv"))


def test_a_relative_manifest_gives_absolute_paths(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("path\na.mp4\n")
    monkeypatch.chdir(tmp_path)
    assert read_manifest(Path("manifest.csv"))[0].path == tmp_path / "a.mp4"


def test_a_link_within_the_root_may_point_anywhere(write: Write, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.mp4").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "videos").symlink_to(outside)
    videos = read_manifest(write("path\nvideos/a.mp4\n", "data/manifest.csv"))
    assert videos[0].path == tmp_path / "data/videos/a.mp4"
    require_files(videos, "manifest.csv")


def test_videos_that_are_not_there_are_refused(write: Write, tmp_path: Path) -> None:
    (tmp_path / "here.mp4").touch()
    path = write("path\nhere.mp4\ngone.mp4\n")
    with pytest.raises(InputError) as caught:
        read_source(path)
    assert str(caught.value) == (
        f"{path}: 1 of 2 paths do not exist ({tmp_path}/gone.mp4); "
        "relative paths start from the manifest's folder, or from --root"
    )
    (tmp_path / "gone.mp4").touch()
    assert [video.video_id for video in read_source(path)] == ["here.mp4", "gone.mp4"]


def test_many_missing_videos_are_counted_and_a_few_named() -> None:
    videos = [Video(str(i), Path(f"/missing/{i}.mp4")) for i in range(5)]
    expected = r"5 of 5 paths do not exist \(/missing/0.mp4, /missing/1.mp4, /missing/2.mp4, …\);"
    with pytest.raises(InputError, match=expected):
        require_files(videos, "manifest.csv")


def test_a_broken_link_is_there_and_left_to_the_ledger(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").symlink_to(tmp_path / "nowhere")
    require_files([Video("a", tmp_path / "a.mp4")], "manifest.csv")


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("a.mp4", "a.mp4"),
        ("日本/ü.mp4", "日本/ü.mp4"),
        ("a\udcff.mp4", r"a\xff.mp4"),
        ("\udce9t\udce9.mp4", r"\xe9t\xe9.mp4"),
    ],
)
def test_names_that_are_not_utf8_become_printable(path: str, shown: str) -> None:
    assert printable(path) == shown
    assert printable(path).encode().decode() == shown


def test_blanks_around_a_columns_name_do_not_hide_it(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text("path, label , split\na.mp4, cat, train\n")
    (video,) = read_manifest(path)
    assert (video.label, video.split) == ("cat", "train")


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text("path,label,label\na.mp4,cat,dog\n")
    with pytest.raises(InputError, match="several columns are called 'label'"):
        read_manifest(path)
