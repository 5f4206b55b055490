"""Frame labels: from segments in seconds or a line per frame, and what is wrong with a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from framecache.cache.errors import InputError
from framecache.train.tasks.frame_labels import FrameLabels, read_frame_labels

TIMES = np.arange(10) * 100.0  # ms
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str | bytes, name: str = "labels.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def told(labels: FrameLabels) -> list[str]:
    return ["" if code < 0 else labels.names[code] for code in labels.codes]


def test_a_segment_holds_the_frames_from_its_start_up_to_its_end(write: Write) -> None:
    path = write("end,note,label,start\n0.5,,wipe, 0.2\n1.0,late,rinse,0.8\n")
    labels = read_frame_labels(path, TIMES, every_frame=False)
    assert told(labels) == [*[""] * 2, *["wipe"] * 3, *[""] * 3, *["rinse"] * 2]
    assert labels.as_classes({"rinse": 5, "other": 6, "wipe": 7}).tolist() == [-1, -1, 7, 7, 7, -1, -1, -1, 5, 5]


def test_segments_that_touch_do_not_overlap_and_lose_no_frame(write: Write) -> None:
    times = np.arange(1000) * 40.0  # 0.28 s are 280.00000000000006 ms in 64 bits
    borders = [f"{number * 0.04:.2f}" for number in range(1001)]
    rows = [f"{borders[number]},{borders[number + 1]},{number}" for number in range(1000)]
    labels = read_frame_labels(write("\n".join(["start,end,label", *reversed(rows)])), times, every_frame=True)
    assert told(labels) == [str(number) for number in range(1000)]


def test_a_line_per_frame_where_an_empty_one_has_no_label(write: Write) -> None:
    path = write("a\nb\n\nb\n", "labels.txt")
    assert told(read_frame_labels(path, TIMES[:4], every_frame=True)) == ["a", "b", "", "b"]


def test_only_labels_that_some_frame_has_are_told(write: Write) -> None:
    path = write("start,end,label\n0,0.5,a\n0.51,0.59,between\n7,8,after\n")
    assert read_frame_labels(path, TIMES, every_frame=False).names == ("a",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("start,end,label\n0,2,cut\n3,4,rinse\n1.5,2.5,wipe\n", r"'cut' \(0-2 s\) and 'wipe' \(1.5-2.5 s\) overlap"),
        ("start,stop,label\n0,2,cut\n", "no column 'end', found start, stop, label"),
        ("", "no column 'start', found nothing"),
        ("start,end,label\n0,2\n", "line 2: not as many fields as the header"),
        ("start,end,label\n0,2,a,b\n", "line 2: not as many fields as the header"),
        ("start,end,label\n1,one,a\n", "line 2: end 'one', expected seconds"),
        ("start,end,label\n-1,1,a\n", "line 2: start '-1', expected seconds"),
        ("start,end,label\n0,inf,a\n", "line 2: end 'inf', expected seconds"),
        ("start,end,label\n2,2,a\n", "line 2: end 2 is not after start 2"),
        ("start,end,label\n0,1,a\n1,2,\n", "line 3: label is empty"),
        ("start,end,label\n", "none of the video's 10 frames has a label"),
        ("start,end,label\n60,70,a\n", "none of the video's 10 frames has a label"),
        (b"start,end,label\n0,1,\xff\n", "cannot be read"),
        ('start,end,label\n0,1,"a', "not CSV"),
    ],
)
def test_a_wrong_file_of_segments_is_named(write: Write, text: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=f"labels.csv.*{message}"):
        read_frame_labels(write(text), TIMES, every_frame=True)


def test_lines_must_be_as_many_as_frames_and_these_all_of_the_video(write: Write) -> None:
    path = write("a\n" * 9, "labels.txt")
    with pytest.raises(InputError, match="9 lines, expected a label for each of the video's 10 frames"):
        read_frame_labels(path, TIMES, every_frame=True)
    with pytest.raises(InputError, match=r"the feature set holds some of them only; expected a .csv"):
        read_frame_labels(path, TIMES[:9], every_frame=False)


def test_a_file_that_is_none_of_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone.csv: no such file"):
        read_frame_labels(tmp_path / "gone.csv", TIMES, every_frame=True)
    with pytest.raises(InputError, match=r"expected frame labels, a .csv .* found '.json'"):
        read_frame_labels(tmp_path / "labels.json", TIMES, every_frame=True)
