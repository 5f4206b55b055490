"""A feature set as a map-style data set for PyTorch. torch is loaded when a batch is put together, and not before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from framecache.cache.errors import InputError
from framecache.cache.exchange.labelled import labelled_videos
from framecache.cache.exchange.optional import load_optional
from framecache.cache.reader import FeatureSet


class TorchDataset:
    """Videos by number, as ``torch.utils.data.DataLoader`` wants them.

    It goes to a worker process as the name of its feature set, which is opened again there; no features are copied.

    Args:
        features: The feature set.
        labels: Target of each video, a number or an array of one shape; None for none.
        video_ids: Videos, in order; by default those of ``labels``, or all.
        max_len: Frames beyond this many are left out; by default none are.

    Raises:
        VideoNotFoundError: One of the videos has no features, or no label.
        InputError: There is no video, labels are no numbers, or ``max_len`` is below 1.

    Attributes:
        video_ids: The videos, in order.
        targets: Their targets ``(N, …)``, or None.
    """

    def __init__(
        self,
        features: FeatureSet,
        labels: Mapping[str, Any] | None = None,
        video_ids: Sequence[str] | None = None,
        max_len: int | None = None,
    ) -> None:
        if max_len is not None and max_len < 1:
            raise InputError(f"max_len: expected at least 1, found {max_len}")
        self.video_ids, self.targets = labelled_videos(features, labels, video_ids)
        self._features = features
        self._max_len = max_len

    def __repr__(self) -> str:
        return f"<TorchDataset of {len(self)} videos of {self._features.name}>"

    def __len__(self) -> int:
        return len(self.video_ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``video_id``, ``features`` ``(T, *feature_shape)``, a copy, and with labels ``label``; all of NumPy's."""
        video_id = self.video_ids[index]
        sample = {"video_id": video_id, "features": np.array(self._features[video_id][: self._max_len])}
        return sample if self.targets is None else {**sample, "label": self.targets[index]}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_features": self._features.folder.absolute()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        from framecache.cache.store import open_cache

        folder: Path = state["_features"]
        vars(self).update(state, _features=open_cache(folder.parent)[folder.name])

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Samples as a batch of tensors; the ``collate_fn`` of a DataLoader.

        Returns:
            ``features`` ``(B, T, *feature_shape)``, right-padded with zeros to the longest, ``lengths`` ``(B,)`` int64,
            ``video_id``, a list, and with labels ``label`` ``(B, …)``.

        Raises:
            InputError: torch is not installed.
        """
        torch = load_optional("torch", "TorchDataset.collate")
        batch = pad_samples(samples)
        return {name: value if name == "video_id" else torch.from_numpy(value) for name, value in batch.items()}


def pad_samples(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What :meth:`TorchDataset.collate` gives, in NumPy's arrays."""
    arrays = [sample["features"] for sample in samples]
    lengths = np.array([len(array) for array in arrays], np.int64)
    padded = np.zeros((len(arrays), lengths.max(), *arrays[0].shape[1:]), arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    batch = {"video_id": [sample["video_id"] for sample in samples], "features": padded, "lengths": lengths}
    return batch if "label" not in samples[0] else {**batch, "label": np.array([sample["label"] for sample in samples])}
