"""Splits: which videos train, which choose, which test; and guards against fooling oneself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from framecache.cache.errors import InputError
from framecache.cache.manifest import SPLITS, Video

VAL_SHARE = 0.15
TEST_SHARE = 0.15
_SHOWN = 3


@dataclass(frozen=True)
class LabeledVideos:
    """Videos with their classes, split up.

    Attributes:
        classes: Labels of the train split, sorted; a class is an index into it.
        splits: Videos per split; ``test`` may be empty, ``train`` and ``val`` are not.
        left_out: Reason per ``video_id`` that is in no split, since its content is in a later one.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Video, ...]]
    left_out: Mapping[str, str]

    def targets(self, split: str) -> list[int]:
        """Class of each video of a split."""
        index = {label: number for number, label in enumerate(self.classes)}
        return [index[video.label or ""] for video in self.splits[split]]


def split_videos(videos: Sequence[Video], source_digests: Mapping[str, str], seed: int, where: str) -> LabeledVideos:
    """Checks labels and splits and makes the missing splits.

    Without any split in the manifest, groups (else single videos) are dealt out to train, val and test by the
    seed, label by label; with splits but no ``val``, val is taken from train in the same way. A video whose very
    content is in test too is left out of train and val, and one whose content is in val is left out of train:
    otherwise the test would measure memory.

    Args:
        videos: Rows of the manifest that have features.
        source_digests: Content digest per ``video_id``.
        seed: Seed of the dealing.
        where: The manifest, for error messages.

    Raises:
        InputError: A label or split is missing or unknown, a split has one class, or two splits share a group.
    """
    unlabeled = [video.video_id for video in videos if video.label is None]
    if unlabeled:
        raise InputError(f"{where}: {len(unlabeled)} videos have no label ({_some(unlabeled)}); add a column 'label'")
    videos = _with_splits(videos, source_digests, seed, where)
    _refuse_shared_groups(videos, where)
    left_out = _shared_contents(videos, source_digests)
    videos = [video for video in videos if video.video_id not in left_out]
    splits = {name: tuple(video for video in videos if video.split == name) for name in SPLITS}
    classes = tuple(sorted({video.label or "" for video in splits["train"]}))
    for name, members in splits.items():
        labels = {video.label or "" for video in members}
        unknown = sorted(labels - set(classes))
        if unknown:
            raise InputError(
                f"{where}: label {_some(unknown)} is in the {name} split but not in train; nothing can learn it"
            )
        if len(labels) < 2 and (members or name != "test"):
            found = f"only the class {_some(sorted(labels))}" if labels else "no video"
            raise InputError(f"{where}: the {name} split has {found}; expected videos of at least two classes")
    return LabeledVideos(classes, splits, left_out)


def _with_splits(videos: Sequence[Video], source_digests: Mapping[str, str], seed: int, where: str) -> list[Video]:
    without = [video.video_id for video in videos if video.split is None]
    if without and len(without) < len(videos):
        raise InputError(
            f"{where}: {len(without)} videos have no split ({_some(without)}); give all of them one, or none"
        )
    shares = {"val": VAL_SHARE, "test": TEST_SHARE} if without else {"val": VAL_SHARE}
    if not without and any(video.split == "val" for video in videos):
        return list(videos)
    dealt = [video for video in videos if video.split in (None, "train")]
    chosen = deal(dealt, source_digests, shares, seed)
    return [replace(video, split=chosen.get(video.video_id, video.split or "train")) for video in videos]


def deal(
    videos: Sequence[Video], source_digests: Mapping[str, str], shares: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Deals videos out to splits, whole groups at a time and label by label.

    Args:
        videos: The videos to deal.
        source_digests: Content digest per ``video_id``; equal contents stay together, as a group does.
        shares: Share of each split, in (0, 1); what is left stays where it is.
        seed: Seed of the order.

    Returns:
        The split of each ``video_id`` that was dealt away.
    """
    groups: dict[str, list[Video]] = defaultdict(list)
    for video in videos:
        groups[video.group or _content(video, source_digests)].append(video)
    names = sorted(groups)
    np.random.default_rng(seed).shuffle(names)
    wanted = {
        split: {label: share * count for label, count in Counter(video.label for video in videos).items()}
        for split, share in shares.items()
    }
    chosen: dict[str, str] = {}
    for name in names:
        for open_labels in wanted.items():
            split, left = open_labels
            # A group goes where most of its videos are still wanted.
            if sum(min(1.0, left[video.label]) for video in groups[name]) > len(groups[name]) / 2:
                for video in groups[name]:
                    left[video.label] -= 1
                    chosen[video.video_id] = split
                break
    return chosen


def _refuse_shared_groups(videos: Sequence[Video], where: str) -> None:
    owner: dict[str, Video] = {}
    for video in videos:
        if video.group is None:
            continue
        other = owner.setdefault(video.group, video)
        if other.split != video.split:
            raise InputError(
                f"{where}: {other.video_id} ({other.split}) and {video.video_id} ({video.split}) have the same group "
                f"{video.group!r}; put them into one split"
            )


def _shared_contents(videos: Sequence[Video], source_digests: Mapping[str, str]) -> dict[str, str]:
    """Videos to leave out, since their content (for parts: some of it) is in a later split too, with the reason."""
    same: dict[str, list[Video]] = defaultdict(list)
    for video in videos:
        same[_content(video, source_digests)].append(video)
    left_out = {}
    for members in same.values():
        members.sort(key=lambda video: SPLITS.index(video.split or "train"), reverse=True)
        for place, video in enumerate(members):
            for other in members[:place]:
                if other.split != video.split and video.overlaps(other):
                    left_out[video.video_id] = f"same content as {other.video_id} ({other.split})"
                    break
    return left_out


def _content(video: Video, source_digests: Mapping[str, str]) -> str:
    """What the video's file holds, whichever part of it is meant."""
    return source_digests.get(video.video_id, "").partition("#")[0] or video.video_id


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")
