"""Near-duplicates: videos of two splits that are too alike to be two, by the cosine of their mean features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.manifest import SPLITS
from framecache.cache.reader import FeatureSet
from framecache.train.splits.splitting import LabeledVideos

_NEAREST = 10  # told of each video at most, so that a set of all but equal videos makes no list of millions
_CACHED_NUMBERS = 1 << 16  # float32 that the processor's cache holds: 256 KB
_BLOCK_NUMBERS = 1 << 22  # cosines that are held at a time: 16 MB
_HALF_SIGN_AND_DIGITS = np.int32(~0x70001FFF)
_HALF_TO_SINGLE = np.float32(2.0**112)  # the exponents' biases differ by so much
_MIN_RELATIVE_STD = 1e-2  # of the root mean square over channels: one that hardly ever fires must not decide
_SHOWN = 3


@dataclass(frozen=True)
class NearDuplicate:
    """Two videos of different splits with all but the same mean features.

    Attributes:
        video_id: The one that chooses or tests.
        split: Its split, ``val`` or ``test``.
        other_id: The one of an earlier split.
        other_split: Its split, ``train`` or ``val``.
        cosine: Of their mean features after standardisation, in [-1, 1].
    """

    video_id: str
    split: str
    other_id: str
    other_split: str
    cosine: float


def near_duplicates(features: FeatureSet, labeled: LabeledVideos, threshold: float) -> tuple[NearDuplicate, ...]:
    """Videos of val and test, each with its nearest ones of the earlier splits, from a threshold on.

    Mean features are standardised by mean and standard deviation over the videos of the train split. As they come,
    all are in one corner: relu makes them positive, so that any two videos have high cosines.

    Reads all features once. One matrix product gives the cosines, some rows at a time.

    Args:
        features: The feature set.
        labeled: Its videos, split up.
        threshold: Lowest cosine that is told, in (0, 1); 0 for not looking.

    Returns:
        At most ten for each video of val and test, the nearest first, sorted by cosine.
    """
    if not threshold:
        return ()
    videos = [(video.video_id, split) for split in SPLITS for video in labeled.splits[split]]
    vectors = _standardise(
        np.stack([mean_features(features, video_id) for video_id, _ in videos]), len(labeled.splits["train"])
    )
    found = []
    for first, last, earlier in _blocks([len(labeled.splits[split]) for split in SPLITS]):
        cosines = vectors[first:last] @ vectors[:earlier].T
        nearest = np.argpartition(-cosines, min(_NEAREST, earlier) - 1, axis=1)[:, :_NEAREST]
        values = np.take_along_axis(cosines, nearest, axis=1)
        for row, column in zip(*np.nonzero(values >= threshold), strict=True):
            (video_id, split), (other_id, other_split) = videos[first + row], videos[nearest[row, column]]
            cosine = round(min(float(values[row, column]), 1.0), 4)
            found.append(NearDuplicate(video_id, split, other_id, other_split, cosine))
    return tuple(sorted(found, key=lambda one: (-one.cosine, one.video_id, one.other_id)))


def told(found: Sequence[NearDuplicate], num_held_out: int) -> list[str]:
    """The warning as lines for the terminal, with the first few; none without near-duplicates.

    Args:
        found: As :func:`near_duplicates` gives them.
        num_held_out: Videos of val and test together.
    """
    if not found:
        return []
    num_videos = len({one.video_id for one in found})
    lines = [
        f"warning: {num_videos} of the {num_held_out} videos of val and test look like near-duplicates of videos in an "
        "earlier split; if they are, they make the scores too good: give both one group"
    ]
    for one in found[:_SHOWN]:
        lines.append(f"  {one.video_id} ({one.split}) and {one.other_id} ({one.other_split}): cosine {one.cosine:.3f}")
    if len(found) > _SHOWN:
        lines.append(f"  … and {len(found) - _SHOWN} more pairs")
    return lines


def told_of_run(record: Mapping[str, Any]) -> list[str]:
    """The same of what a ``run.json`` says; none where nobody looked."""
    counts = record["num_videos"]
    near = [NearDuplicate(**each) for each in record.get("near_duplicates") or ()]
    return told(near, counts["val"] + counts.get("test", 0))


def mean_features(features: FeatureSet, video_id: str) -> NDArray[np.float32]:
    """Mean of one video's features over its frames, and over the positions of a grid, ``(C,)`` float32."""
    stored = features.stored(video_id)
    rows = stored.reshape(len(stored), -1)
    step = max(1, _CACHED_NUMBERS // rows.shape[1])
    total = np.zeros(rows.shape[1])
    for first in range(0, len(rows), step):
        total += _widen(rows[first : first + step]).sum(axis=0)
    mean = features.decode((total / len(rows)).reshape(features.feature_shape))
    over_positions: NDArray[np.float32] = mean.reshape(-1, mean.shape[-1]).mean(axis=0).astype(np.float32)
    return over_positions


def _widen(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Finite numbers as float32; halves several times as fast as NumPy's own cast, which most of the time went into."""
    if rows.dtype != np.float16:
        return rows.astype(np.float32)
    bits = rows.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= _HALF_SIGN_AND_DIGITS
    single = bits.view(np.float32)
    single *= _HALF_TO_SINGLE
    return single


def _standardise(means: NDArray[np.float32], num_train: int) -> NDArray[np.float32]:
    """Vectors of length 1 (or 0), ``(N, C)``; the first rows are those of the train split."""
    center, deviation = means[:num_train].mean(axis=0), means[:num_train].std(axis=0)
    floor = _MIN_RELATIVE_STD * float(np.sqrt(np.mean(deviation**2)))
    vectors = (means - center) / np.maximum(deviation, floor or 1.0)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.where(lengths > 0, lengths, 1.0)
    return unit


def _blocks(counts: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """First and last row (exclusive) of each block of val and test, and how many rows the earlier splits have."""
    earlier = counts[0]
    for count in counts[1:]:
        step = max(1, _BLOCK_NUMBERS // max(1, earlier))
        for first in range(earlier, earlier + count, step):
            yield first, min(first + step, earlier + count), earlier
        earlier += count
