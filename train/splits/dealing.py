"""Dealing videos out: whole groups together, each part alike in its labels, the same whatever the rows' order."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from framecache.cache.manifest import Video

_Token = tuple[str, str]


def content_of(video: Video, source_digests: Mapping[str, str]) -> str:
    """What the video's file holds, whichever part of it is meant."""
    return source_digests.get(video.video_id, "").partition("#")[0] or video.video_id


def units_of(videos: Sequence[Video], source_digests: Mapping[str, str]) -> dict[str, str]:
    """What is dealt as one: videos of a group, videos of one content, and whatever these have in common.

    Args:
        videos: The videos.
        source_digests: Content digest per ``video_id``.

    Returns:
        The unit of each ``video_id``, named by its first video in the order of the alphabet.
    """
    parents: dict[_Token, _Token] = {}

    def root(token: _Token) -> _Token:
        while parents.setdefault(token, token) != token:
            parents[token] = parents[parents[token]]
            token = parents[token]
        return token

    tokens = {video.video_id: ("content", content_of(video, source_digests)) for video in videos}
    for video in videos:
        if video.group is not None:
            parents[root(tokens[video.video_id])] = root(("group", video.group))
    names: dict[_Token, str] = {}
    for video_id in sorted(tokens):
        names.setdefault(root(tokens[video_id]), video_id)
    return {video_id: names[root(token)] for video_id, token in tokens.items()}


def deal(units: Mapping[str, str], strata: Mapping[str, str], shares: Sequence[float], seed: int) -> dict[str, int]:
    """Deals units out to parts, the large ones first, each to where its strata are scarcest.

    A part's count of a stratum weighs by its square over the share that it should have (as in chi-square), and the
    count of all its videos likewise; each unit goes where that sum grows least. With units of a single video and equal
    shares no two parts differ by more than one video, in all and in each stratum. No part stays empty if there are as
    many units as parts.

    Args:
        units: The unit of each ``video_id``.
        strata: Stratum of each ``video_id``, of which every part should have its share: for classes, the label.
        shares: Share of each part, in (0, 1), with a sum of 1.
        seed: Seed of the order among units that are alike.

    Returns:
        The part of each ``video_id``, an index into ``shares``.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for video_id in sorted(units):
        members[units[video_id]].append(video_id)
    made_of = {unit: Counter(strata[video_id] for video_id in ids) for unit, ids in members.items()}
    names = list(members)
    np.random.default_rng(seed).shuffle(names)
    names.sort(key=lambda unit: (-len(members[unit]), sorted(made_of[unit].items())))

    columns = {stratum: column for column, stratum in enumerate(sorted({strata[video_id] for video_id in units}), 1)}
    totals = np.zeros(len(columns) + 1)  # the first is that of all videos
    for counts in made_of.values():
        for stratum, count in counts.items():
            totals[[0, columns[stratum]]] += count
    wanted = np.outer(shares, totals)
    held = np.zeros_like(wanted)
    parts: dict[str, int] = {}
    for place, unit in enumerate(names):
        column = [0, *(columns[stratum] for stratum in made_of[unit])]
        added = np.array([len(members[unit]), *made_of[unit].values()])
        cost = (added * (2 * held[:, column] + added) / wanted[:, column]).sum(axis=1)
        empty = held[:, 0] == 0
        if len(names) - place <= empty.sum():
            cost[~empty] = np.inf
        part = int(cost.argmin())
        held[part, column] += added
        parts.update(dict.fromkeys(members[unit], part))
    return parts
