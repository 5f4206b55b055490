"""Frame labels: what an annotation file says of each frame of a video.

A ``.csv`` has the columns ``start``, ``end`` and ``label``, a segment per row, in seconds of the video's file; a
``.txt`` has a label per line and frame. A frame in no segment, or with an empty line, has no label: it is neither
learned nor judged, since a file that leaves something out does not say that nothing happens there.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError

_COLUMNS = ("start", "end", "label")


@dataclass(frozen=True, eq=False)
class FrameLabels:
    """Labels of the T frames of a video.

    Attributes:
        names: Those that some frame has, sorted.
        codes: For each frame an index into them, ``(T,)``; -1 for none.
    """

    names: tuple[str, ...]
    codes: NDArray[np.int64]

    def as_classes(self, index: Mapping[str, int]) -> NDArray[np.int64]:
        """Class of each frame, ``(T,)``, -1 for none, where each name has a class."""
        return np.array([*(index[name] for name in self.names), -1], np.int64)[self.codes]


@dataclass(frozen=True)
class Segment:
    """A row of an annotation file: what happens from ``start`` to ``end`` (exclusive), in seconds."""

    start: float
    end: float
    label: str

    def __str__(self) -> str:
        return f"{self.label!r} ({self.start:g}-{self.end:g} s)"


def read_frame_labels(path: Path, timestamps_ms: NDArray[np.float64], every_frame: bool) -> FrameLabels:
    """Reads the labels of a video's frames.

    Args:
        path: A ``.csv`` of segments, or a ``.txt`` with a line per frame.
        timestamps_ms: When each frame is shown, ``(T,)``.
        every_frame: Whether these are all frames of the video, so that lines can be told apart.

    Raises:
        InputError: The file is missing or malformed, segments overlap, lines are not as many as frames, or no frame
            has a label.
    """
    kind = path.suffix.lower()
    if kind not in (".csv", ".txt"):
        raise InputError(f"{path}: expected frame labels, a .csv with {', '.join(_COLUMNS)} or a .txt, found {kind!r}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected frame labels") from None
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: frame labels cannot be read ({error}); expected UTF-8 text") from error
    if kind == ".txt":
        names = _lines(text, path, len(timestamps_ms), every_frame)
    else:
        names = _labels_at(parse_segments(text, path), timestamps_ms)
    present = sorted({name for name in names if name})
    if not present:
        raise InputError(f"{path}: none of the video's {len(names)} frames has a label; leave the video out")
    index = {name: code for code, name in enumerate(present)}
    return FrameLabels(tuple(present), np.array([index.get(name, -1) for name in names], np.int64))


def parse_segments(text: str, path: Path) -> list[Segment]:
    """The segments of a ``.csv``, in the order of time.

    Raises:
        InputError: A column or value is not as it has to be, or two segments overlap.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        missing = [name for name in _COLUMNS if name not in names]
        if missing:
            raise InputError(f"{path}: no column {missing[0]!r}, found {', '.join(names) or 'nothing'}")
        reader.fieldnames = names
        found = [_segment(row, f"{path}, line {reader.line_num}") for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num + 1}: not CSV ({error})") from error
    found.sort(key=lambda segment: segment.start)
    for one, next_one in pairwise(found):
        if next_one.start < one.end:
            raise InputError(f"{path}: {one} and {next_one} overlap; expected one label at a time")
    return found


def _segment(row: Mapping[str | None, object], where: str) -> Segment:
    if None in row or None in row.values():
        raise InputError(f"{where}: not as many fields as the header")
    text = {name: str(row[name]).strip() for name in _COLUMNS}
    start, end = (_seconds(text[name], name, where) for name in ("start", "end"))
    if end <= start:
        raise InputError(f"{where}: end {end:g} is not after start {start:g} (seconds)")
    if not text["label"]:
        raise InputError(f"{where}: label is empty; leave out the rows of what has no label")
    return Segment(start, end, text["label"])


def _seconds(text: str, name: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{where}: {name} {text!r}, expected seconds from the beginning, 0 or more")
    return value


def _labels_at(found: Sequence[Segment], timestamps_ms: NDArray[np.float64]) -> list[str]:
    """Label at each time, empty for none; compared in whole microseconds, since 0.28 s are 280.00000000000006 ms."""
    times = np.rint(timestamps_ms * 1e3)
    starts, ends = (np.rint(np.array([getattr(one, side) for one in found]) * 1e6) for side in ("start", "end"))
    places = np.searchsorted(starts, times, side="right") - 1
    return [
        found[place].label if place >= 0 and time < ends[place] else ""
        for place, time in zip(places.tolist(), times.tolist(), strict=True)
    ]


def _lines(text: str, path: Path, num_frames: int, every_frame: bool) -> list[str]:
    if not every_frame:
        raise InputError(
            f"{path}: a .txt has a label for every frame of the video, and the feature set holds some of them only; "
            f"expected a .csv with {', '.join(_COLUMNS)}, in seconds"
        )
    lines = [line.strip() for line in text.splitlines()]
    if len(lines) != num_frames:
        raise InputError(f"{path}: {len(lines)} lines, expected a label for each of the video's {num_frames} frames")
    return lines
