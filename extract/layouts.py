"""Data sets with split files of their own: UCF101 and HMDB51, as they are published, become manifests.

UCF101 (Soomro et al., 2012): ``trainlist01.txt`` with lines ``ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1``,
``testlist01.txt`` with the same and no number, ``classInd.txt`` with lines ``1 ApplyEyeMakeup``. Clips of one class
and one ``g`` number were cut from one video, and are a group.

HMDB51 (Kuehne et al., 2011): ``brush_hair_test_split1.txt`` and the like with lines ``NAME.avi 1``, where 1 is train, 2
is test and 0 is neither. Before the class a file's name tells the film that it was cut from. Clips of one class and one
film are a group, which the splits keep together; across classes they do not.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from framecache.cache.durable import PARTIAL_SUFFIX, publish
from framecache.cache.errors import InputError
from framecache.cache.folders import VIDEO_SUFFIXES, natural_key
from framecache.cache.manifest import printable
from framecache.cache.settings import RARE

_COLUMNS = ("path", "label", "split", "group")
_NUM_SPLITS = 3
_SHOWN = 3  # videos named in a message
_UCF101_LINE = re.compile(r"(?P<label>[^/\s]+)/(?P<name>v_\S+_(?P<group>g\d+)_c\d+)\.\w+(\s+(?P<number>\d+))?")
_HMDB51_LINE = re.compile(r"(?P<name>\S.*)\.\w+\s+(?P<id>[012])")
_HMDB51_TAGS = r"_[a-z]_[a-z]{2}_np\d+_[a-z]{2}_[a-z]{3}_\d+"  # parts seen, camera, people, view, quality, number
_HMDB51_SPLITS = {"1": "train", "2": "test", "0": None}


@dataclass(frozen=True)
class LayoutConfig:
    """How to make a manifest of a published data set; each field is a flag of ``framecache-extract``.

    Attributes:
        layout: SOURCE is the folder of this data set. Its official split files and its videos are somewhere in it.
        split: Which of the official splits: 1, 2 or 3.
        lists: Folder of the split files, if they are not below SOURCE.
        manifest: The manifest to write; by default <layout>-split<N>.csv in SOURCE.
        missing: Whether videos that the lists name and that are not there are an error, or left out.
        manifest_only: Write the manifest and extract nothing.
    """

    layout: Literal["ucf101", "hmdb51"] | None = None
    split: int = 1
    lists: Path | None = field(default=None, metadata=RARE)
    manifest: Path | None = field(default=None, metadata=RARE)
    missing: Literal["error", "drop"] = field(default="error", metadata=RARE)
    manifest_only: bool = False

    def __post_init__(self) -> None:
        if self.layout is None:
            given = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
            if given:
                flag = f"--{given[0].replace('_', '-')}"
                raise InputError(f"{flag}: expected --layout with it, one of {', '.join(LAYOUTS)}")
        elif self.layout not in LAYOUTS:
            raise InputError(f"--layout {self.layout!r}: expected one of {', '.join(LAYOUTS)}")
        if not 1 <= self.split <= _NUM_SPLITS:
            raise InputError(f"--split {self.split}: expected 1, 2 or 3, as the official splits are numbered")
        if self.manifest is not None and self.manifest.suffix.lower() != ".csv":
            raise InputError(f"--manifest {str(self.manifest)!r}: expected the name of a .csv file")


@dataclass(frozen=True)
class LayoutReport:
    """What became of a data set's split files.

    Attributes:
        manifest: The manifest.
        num_videos: Its videos per split.
        num_classes: Their classes.
        num_groups: Their groups.
        num_unused: Videos that the split uses neither to train nor to test.
        missing: Videos that the split uses and that are not there, as the lists name them; left out.
        unlisted: Videos that are there and in no list, as paths from the data set's folder; left out.
    """

    manifest: Path
    num_videos: dict[str, int]
    num_classes: int
    num_groups: int
    num_unused: int
    missing: tuple[str, ...]
    unlisted: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return {
            **vars(self),
            "manifest": printable(str(self.manifest)),
            "missing": list(self.missing),
            "unlisted": list(self.unlisted),
        }

    def lines(self) -> Iterator[str]:
        """What a person is told."""
        counts = ", ".join(f"{count} {split}" for split, count in self.num_videos.items())
        unused = f", {self.num_unused} unused" if self.num_unused else ""
        yield f"{self.manifest}: {counts}{unused}; {self.num_classes} classes, {self.num_groups} groups"
        if self.missing:
            yield f"left out: {_named(self.missing)} listed and not there"
        if self.unlisted:
            yield f"left out: {_named(self.unlisted)} there and in no list"


@dataclass(frozen=True)
class _Listed:
    """A video as a list names it; of no split if it is not to be used."""

    label: str
    name: str  # without its suffix
    split: str | None
    group: str


def write_layout(root: Path, config: LayoutConfig) -> LayoutReport:
    """Writes the manifest of a published data set; its paths start from ``root``.

    A video is known by its name, in its class folder or elsewhere below ``root``, whatever format it was converted to.

    Args:
        root: Folder that holds the videos, and the split files unless ``config.lists`` does.
        config: Which data set and split.

    Raises:
        InputError: Lists are missing or not as published, videos are missing (unless these are to be left out), or
            the manifest is there with another content; nothing was written.
    """
    if config.layout is None:
        raise InputError(f"--layout: expected one of {', '.join(LAYOUTS)}, found none")
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected that of the data set, with its split files and videos")
    listed = LAYOUTS[config.layout](config.lists or root, config.split)
    paths, unlisted = _find(root, listed)
    used = [video for video in listed.values() if video.split is not None]
    missing = tuple(f"{video.label}/{video.name}" for video in used if video.name not in paths)
    if missing and (config.missing == "error" or len(missing) == len(used)):
        raise InputError(
            f"{root}: {_named(missing)} of {len(used)} that split {config.split} lists are not there; scores on the "
            "rest are not comparable with published ones; leave them out all the same with --missing drop"
        )
    found = [video for video in used if video.name in paths]
    found.sort(key=lambda video: (video.split == "test", natural_key(f"{video.label}/{video.name}")))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([paths[video.name], video.label, video.split, video.group] for video in found)
    manifest = config.manifest or root / f"{config.layout}-split{config.split}.csv"
    _write_once(manifest, text.getvalue().encode())
    counts = Counter(str(video.split) for video in found)
    return LayoutReport(
        manifest=manifest,
        num_videos={split: counts[split] for split in ("train", "test")},
        num_classes=len({video.label for video in found}),
        num_groups=len({video.group for video in found}),
        num_unused=len(listed) - len(used),
        missing=missing,
        unlisted=unlisted,
    )


def _ucf101(lists: Path, split: int) -> dict[str, _Listed]:
    train = _only_file(lists, f"trainlist{split:02d}.txt")
    classes = train.with_name("classInd.txt")
    numbers = {}
    for where, line in _lines(classes) if classes.is_file() else ():
        number, _, label = line.partition(" ")
        if not number.isdecimal() or not label:
            raise InputError(f"{where}: expected '1 ApplyEyeMakeup' or the like, found {line[:80]!r}")
        numbers[label.strip()] = int(number)
    listed: dict[str, _Listed] = {}
    for name in ("train", "test"):
        for where, line in _lines(train.with_name(f"{name}list{split:02d}.txt")):
            match = _UCF101_LINE.fullmatch(line)
            if match is None:
                raise InputError(f"{where}: expected 'Class/v_Class_g01_c01.avi 1' or the like, found {line[:80]!r}")
            label = match["label"]
            if match["number"] and numbers and numbers.get(label) != int(match["number"]):
                raise InputError(
                    f"{where}: {label} has the number {match['number']}, but {numbers.get(label, 'none')} in "
                    f"{classes}; expected files of one publication"
                )
            _add(listed, _Listed(label, match["name"], name, f"{label}_{match['group']}"), where)
    return listed


def _hmdb51(lists: Path, split: int) -> dict[str, _Listed]:
    ending = f"_test_split{split}.txt"
    files = sorted(path for path in _walk(lists) if path.name.endswith(ending))
    if not files:
        raise InputError(f"{lists}: no file *{ending} in it; name the folder of HMDB51's split files with --lists")
    listed: dict[str, _Listed] = {}
    for path in files:
        label = path.name.removesuffix(ending)
        for where, line in _lines(path):
            match = _HMDB51_LINE.fullmatch(line)
            if match is None:
                raise InputError(f"{where}: expected a file's name and 0, 1 or 2, found {line[:80]!r}")
            name = match["name"]
            film = re.fullmatch(rf"(.+)_{re.escape(label)}{_HMDB51_TAGS}", name)
            group = f"{label}/{film[1] if film else name}"
            _add(listed, _Listed(label, name, _HMDB51_SPLITS[match["id"]], group), where)
    return listed


LAYOUTS: Mapping[str, Callable[[Path, int], dict[str, _Listed]]] = {"ucf101": _ucf101, "hmdb51": _hmdb51}


def _add(listed: dict[str, _Listed], video: _Listed, where: str) -> None:
    if video.name in listed:
        before = listed[video.name]
        raise InputError(f"{where}: {video.name} is listed twice ({before.label}, {before.split}); expected it once")
    listed[video.name] = video


def _only_file(folder: Path, name: str) -> Path:
    found = [path for path in _walk(folder) if path.name == name]
    if not found:
        raise InputError(f"{folder}: no file {name} in it; name the folder of the split files with --lists")
    if len(found) > 1:
        raise InputError(f"{folder}: {name} is there twice ({found[0]}, {found[1]}); name one's folder with --lists")
    return found[0]


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines that are not empty, each with where it stands."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected the split files as they are published") from None
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected the split files as they are published") from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield f"{path}, line {number}", line.strip()


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _find(root: Path, listed: Mapping[str, _Listed]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The path below root of each listed video that is there, and the paths of videos that no list names."""
    paths: dict[str, str] = {}
    unlisted: list[str] = []
    for path in _walk(root):
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            continue
        written = PurePosixPath(path.relative_to(root)).as_posix()
        video = listed.get(path.stem)
        if video is None:
            unlisted.append(printable(written))
        elif path.stem in paths:
            raise InputError(f"{root}: {path.stem} is there twice ({paths[path.stem]}, {written}); remove one of them")
        else:
            paths[path.stem] = written
    return paths, tuple(sorted(unlisted, key=natural_key))


def _write_once(path: Path, content: bytes) -> None:
    """Writes a file whole; one that is there stays, if it is the same."""
    try:
        if path.read_bytes() != content:
            raise InputError(
                f"{path}: there is another manifest of this name; remove it, or choose a name with --manifest"
            )
        return
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); choose another name with --manifest") from error
    partial = path.with_name(f".{path.name}{PARTIAL_SUFFIX}")
    try:
        partial.write_bytes(content)
        publish(partial, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose a place with --manifest") from error


def _named(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_SHOWN]) + ", …" * (len(names) > _SHOWN)
    return f"{len(names)} videos ({shown})" if len(names) > 1 else f"1 video ({shown})"
