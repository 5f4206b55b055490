"""Splits: which videos train, which choose, which test; and guards against fooling oneself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from framecache.cache.errors import InputError
from framecache.cache.manifest import SPLITS, Video
from framecache.train.config import SplitConfig
from framecache.train.splits.dealing import content_of, deal, units_of

VAL_SHARE = 0.15
TEST_SHARE = 0.15
_SHOWN = 3
_GROUPS = "a video without one is a group of its own, and groups that share a content are one"


@dataclass(frozen=True)
class LabeledVideos:
    """Videos with their classes, split up.

    Attributes:
        classes: Labels of the train split, sorted; a class is an index into it. Empty where labels are no classes.
        splits: Videos per split; ``test`` may be empty, ``train`` and ``val`` are not.
        left_out: Reason per ``video_id`` that is in no split.
        folds: Fold of each ``video_id`` that was dealt out by ``--folds``, from 1; empty without.
        units: What stays in one split, per ``video_id``: its group, its copies.
        labels: Label of each ``video_id``, as the task takes it.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Video, ...]]
    left_out: Mapping[str, str]
    folds: Mapping[str, int] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)

    def targets(self, split: str) -> list[int]:
        """Class of each video of a split."""
        index = {label: number for number, label in enumerate(self.classes)}
        return [index[video.label or ""] for video in self.splits[split]]


def split_videos(
    videos: Sequence[Video],
    source_digests: Mapping[str, str],
    strata: Mapping[str, str],
    config: SplitConfig,
    seed: int,
    where: str,
) -> LabeledVideos:
    """Takes the manifest's splits, or makes the missing ones, after the checks that hold for any kind of label.

    Without any split in the manifest, whole groups (else single videos) are dealt out to train, val and test by the
    seed, each with its share of every stratum; with splits but no ``val``, val is taken from train in the same way.
    With folds, all videos are dealt out to so many: fold k is test and the next one (after the last, the first) is
    val, so that over all k each video is tested once. A test split that the manifest names stays; then fold k is val.

    Args:
        videos: Rows of the manifest that have features.
        source_digests: Content digest per ``video_id``.
        strata: Stratum of each ``video_id``, of which each part should have its share: for classes, the label.
        config: Folds, and what becomes of a content that is in two splits.
        seed: Seed of the dealing.
        where: The manifest, for error messages.

    Raises:
        InputError: A split is missing, two splits share a group or a content, or there are too few groups.
    """
    without = [video.video_id for video in videos if video.split is None]
    if without and len(without) < len(videos):
        raise InputError(
            f"{where}: {len(without)} of {len(videos)} videos have no split ({_some(without)}); give all of them one, "
            "or none"
        )
    _refuse_shared_groups(videos, config, where)
    left_out = _shared_contents(videos, source_digests, config, where)
    videos = [video for video in videos if video.video_id not in left_out]
    units = units_of(videos, source_digests)
    folds: dict[str, int] = {}
    if config.folds:
        folds = _deal_folds(videos, units, strata, config, seed, where)
        videos = _with_folds(videos, folds, config)
    else:
        videos = _with_splits(videos, units, strata, seed, where)
    splits = {name: tuple(video for video in videos if video.split == name) for name in SPLITS}
    for name in ("train", "val"):
        if not splits[name]:
            raise InputError(f"{where}: the {name} split has no video; expected some in train and in val")
    return LabeledVideos((), splits, left_out, folds, units)


def check_classes(labeled: LabeledVideos, where: str) -> tuple[str, ...]:
    """Classes of the train split, where each label is one, after the checks that only classes need.

    Raises:
        InputError: A label is missing, val or test has one that train has not, or a split or fold has too few.
    """
    videos = [video for members in labeled.splits.values() for video in members]
    unlabeled = [video.video_id for video in videos if video.label is None]
    if unlabeled:
        raise InputError(
            f"{where}: {len(unlabeled)} of {len(videos)} videos have no label ({_some(unlabeled)}); expected one for "
            "each in the column 'label', or in the one that --target names"
        )
    _refuse_folds_without_a_class([video for video in videos if video.video_id in labeled.folds], labeled, where)
    classes = tuple(sorted({video.label or "" for video in labeled.splits["train"]}))
    for name, members in labeled.splits.items():
        labels = {video.label or "" for video in members}
        unknown = sorted(labels - set(classes))
        if unknown:
            raise InputError(
                f"{where}: label {_some(unknown)} is in the {name} split but not in train; nothing can learn it"
            )
        if len(labels) < 2 and members:
            raise InputError(
                f"{where}: the {name} split has only the class {_some(sorted(labels))}; expected videos of at least "
                "two classes"
            )
    return classes


def _with_splits(
    videos: Sequence[Video], units: Mapping[str, str], strata: Mapping[str, str], seed: int, where: str
) -> list[Video]:
    shares = {"train": 1 - VAL_SHARE, "val": VAL_SHARE}
    if any(video.split is None for video in videos):
        shares = {"train": 1 - VAL_SHARE - TEST_SHARE, "val": VAL_SHARE, "test": TEST_SHARE}
    elif any(video.split == "val" for video in videos):
        return list(videos)
    dealt = {video.video_id: units[video.video_id] for video in videos if video.split in (None, "train")}
    num_units = len(set(dealt.values()))
    if dealt and num_units < len(shares):
        raise InputError(
            f"{where}: {len(dealt)} videos in {num_units} groups ({_GROUPS}) cannot be dealt out to "
            f"{', '.join(shares)}, since groups stay whole; expected at least {len(shares)} groups"
        )
    parts = deal(dealt, strata, tuple(shares.values()), seed)
    names = tuple(shares)
    return [
        replace(video, split=names[parts[video.video_id]]) if video.video_id in parts else video for video in videos
    ]


def _deal_folds(
    videos: Sequence[Video],
    units: Mapping[str, str],
    strata: Mapping[str, str],
    config: SplitConfig,
    seed: int,
    where: str,
) -> dict[str, int]:
    dealt = {video.video_id: units[video.video_id] for video in videos if video.split != "test"}
    if not config.fold:
        raise InputError(f"--folds {config.folds}: expected --fold 1 to {config.folds} too, the one that is meant here")
    if config.folds < 3 and len(dealt) == len(videos):
        raise InputError(
            f"--folds {config.folds}: {where} names no test split, so that one fold tests, one chooses and the rest "
            "trains; expected at least 3"
        )
    num_units = len(set(dealt.values()))
    if num_units < config.folds:
        raise InputError(
            f"--folds {config.folds}: {len(dealt)} videos of {where} are to be dealt out, in {num_units} groups "
            f"({_GROUPS}), and groups stay whole; expected at most {num_units} folds"
        )
    parts = deal(dealt, strata, (1 / config.folds,) * config.folds, seed)
    return {video_id: part + 1 for video_id, part in parts.items()}


def _with_folds(videos: Sequence[Video], folds: Mapping[str, int], config: SplitConfig) -> list[Video]:
    if len(folds) < len(videos):
        special = {config.fold: "val"}
    else:
        special = {config.fold: "test", config.fold % config.folds + 1: "val"}
    return [
        replace(video, split=special.get(folds[video.video_id], "train")) if video.video_id in folds else video
        for video in videos
    ]


def _refuse_folds_without_a_class(videos: Sequence[Video], labeled: LabeledVideos, where: str) -> None:
    """Each fold is val or test of some run, which would say nothing of a class that it has not."""
    if not videos:
        return
    num_folds = max(labeled.folds.values())
    folds: dict[str, set[int]] = defaultdict(set)
    units: dict[str, set[str]] = defaultdict(set)
    for video in videos:
        folds[video.label or ""].add(labeled.folds[video.video_id])
        units[video.label or ""].add(labeled.units[video.video_id])
    few = sorted(label for label in folds if len(units[label]) < num_folds)
    if few:
        named = ", ".join(f"{label!r}: {len(units[label])}" for label in few[:_SHOWN]) + ", …" * (len(few) > _SHOWN)
        raise InputError(
            f"--folds {num_folds}: {len(few)} classes of {where} are in fewer groups than that: {named} ({_GROUPS}); a "
            f"fold without a class cannot judge it, so expected each class in {num_folds} groups or more"
        )
    uneven = sorted(label for label in folds if len(folds[label]) < num_folds)
    if uneven:
        gap = min(set(range(1, num_folds + 1)) - folds[uneven[0]])
        raise InputError(
            f"--folds {num_folds}: fold {gap} of {where} has no video of class {uneven[0]!r}, since whole groups are "
            "dealt; expected fewer folds, or another --seed"
        )


def _refuse_shared_groups(videos: Sequence[Video], config: SplitConfig, where: str) -> None:
    owners: dict[str, Video] = {}
    shared: dict[str, str] = {}
    for video in videos:
        if video.group is None:
            continue
        other = owners.setdefault(video.group, video)
        if _apart(video, other, config):
            shared.setdefault(video.group, f"{_placed(other)} and {_placed(video)} have the same group {video.group!r}")
    if shared:
        raise InputError(
            f"{where}: {len(shared)} of {len(owners)} groups are in more than one split: "
            f"{_listed(list(shared.values()))}; put each group into one split"
        )


def _shared_contents(
    videos: Sequence[Video], source_digests: Mapping[str, str], config: SplitConfig, where: str
) -> dict[str, str]:
    """Videos to leave out, since their content (for parts: some of it) is in a later split too, with the reason.

    Raises:
        InputError: There are some, and they are not to be left out.
    """
    same: dict[str, list[Video]] = defaultdict(list)
    for video in videos:
        same[content_of(video, source_digests)].append(video)
    shared: dict[str, tuple[Video, Video]] = {}
    for members in same.values():
        members.sort(key=lambda video: SPLITS.index(video.split or "train"), reverse=True)
        for place, video in enumerate(members):
            for other in members[:place]:
                if _apart(video, other, config) and video.overlaps(other):
                    shared[video.video_id] = video, other
                    break
    if shared and config.duplicates == "error":
        pairs = [f"{_placed(video)} and {_placed(other)}" for video, other in shared.values()]
        raise InputError(
            f"{where}: {len(shared)} of {len(videos)} videos have the same content as one of another split: "
            f"{_listed(pairs)}; put copies into one split, or leave the one of the earlier split out with "
            "--duplicates drop"
        )
    return {name: f"same content as {other.video_id} ({other.split})" for name, (_, other) in shared.items()}


def _apart(video: Video, other: Video, config: SplitConfig) -> bool:
    """Whether the manifest keeps two videos in different splits; folds take train and val as one."""
    return video.split != other.split and not (config.folds and "test" not in (video.split, other.split))


def _placed(video: Video) -> str:
    return f"{video.video_id} ({video.split})"


def _listed(texts: Sequence[str]) -> str:
    return "; ".join(texts[:_SHOWN]) + "; …" * (len(texts) > _SHOWN)


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + ", …" * (len(names) > _SHOWN)
