"""Which videos of a feature set make a data set for another framework, and their targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError, VideoNotFoundError
from framecache.cache.reader import FeatureSet

_SHOWN = 3


def labelled_videos(
    features: FeatureSet, labels: Mapping[str, Any] | None, video_ids: Sequence[str] | None
) -> tuple[list[str], NDArray[Any] | None]:
    """The videos that are asked for, and their targets.

    Args:
        features: The feature set.
        labels: Target of each video, a number or an array of one shape; None for none.
        video_ids: Videos, in order; by default those of ``labels``, or all.

    Returns:
        ``N`` videos and targets ``(N, …)``, or None without labels.

    Raises:
        VideoNotFoundError: One of the videos has no features, or none of the labels is its.
        InputError: There is no video, or labels are no numbers, or not of one shape.
    """
    chosen = list(video_ids if video_ids is not None else features if labels is None else labels)
    if not chosen:
        raise InputError(f"{features.name}: expected at least one video, found none")
    missing = [video_id for video_id in chosen if video_id not in features]
    if missing:
        raise VideoNotFoundError(f"{features.name}: no features of {_named(missing)}; leave them out of the labels")
    if labels is None:
        return chosen, None
    missing = [video_id for video_id in chosen if video_id not in labels]
    if missing:
        raise VideoNotFoundError(f"labels: none for {_named(missing)}")
    try:
        targets = np.array([labels[video_id] for video_id in chosen])
    except ValueError as error:
        raise InputError(f"labels: expected numbers, or arrays of one shape ({error})") from error
    if targets.dtype.kind not in "biuf":
        raise InputError(f"labels: expected numbers, found {labels[chosen[0]]!r}; give each class a number")
    return chosen, targets


def _named(video_ids: Sequence[str]) -> str:
    shown = ", ".join(map(repr, video_ids[:_SHOWN]))
    return f"{len(video_ids)} videos ({shown}{', …' * (len(video_ids) > _SHOWN)})"
