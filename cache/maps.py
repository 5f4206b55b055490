"""Memory maps of shards: kept open while they may be asked for again, and bounded over the whole process."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from framecache.cache.plain_hdf5 import Extent
from framecache.cache.shard import ShardInfo

try:
    import resource

    _LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
except ImportError:  # no such limit on Windows
    _LIMIT = 512
# Each map holds a file open. Half of what the process may open is left to others, however many sets are read.
_MAX_OPEN_MAPS = min(_LIMIT, 8192) // 2 if _LIMIT > 0 else 4096

_opened: deque[tuple[weakref.ref[OpenMaps], tuple[str, str]]] = deque()  # of all sets, the oldest first
_lock = threading.Lock()


class OpenMaps:
    """The maps of one feature set. Those that were opened first go first; views in use keep their own map alive."""

    def __init__(self) -> None:
        self.opened: dict[str, dict[str, NDArray[Any]]] = {"features": {}, "timestamps_ms": {}}
        """What is mapped already, by the dataset's name and the shard's path: whoever reads very often looks here."""

    def get(self, file: str, name: Literal["features", "timestamps_ms"], info: ShardInfo) -> NDArray[Any]:
        """A dataset of a shard, mapped read-only.

        Args:
            file: The shard's path as text, which is hashed but once.
            name: Of the dataset.
            info: The shard.

        Raises:
            FileNotFoundError: The shard is not there any more.
        """
        opened = self.opened[name]
        found = opened.get(file)
        if found is not None:
            return found
        mapped = map_extent(info.path, getattr(info, name))
        with _lock:
            if file not in opened:
                _opened.append((weakref.ref(self), (name, file)))
            opened[file] = mapped
            while len(_opened) > _MAX_OPEN_MAPS:
                owner, (kind, oldest) = _opened.popleft()
                maps = owner()
                if maps is not None:
                    maps.opened[kind].pop(oldest, None)
        return mapped


def map_extent(path: Path, extent: Extent) -> NDArray[Any]:
    """Maps a dataset's bytes into memory, read-only, without HDF5."""
    return np.memmap(path, extent.dtype, "r", extent.offset, extent.shape).view(np.ndarray)
