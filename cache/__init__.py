"""The cache: feature sets in HDF5 shards, read without TensorFlow."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from framecache.cache.errors import (
        FeatureSetNotFoundError,
        FramecacheError,
        InputError,
        LockedError,
        ShardError,
        SpecMismatchError,
        VideoNotFoundError,
    )
    from framecache.cache.reader import FeatureSet
    from framecache.cache.spec import Spec
    from framecache.cache.store import Cache, open_cache

__all__ = [
    "Cache",
    "FeatureSet",
    "FeatureSetNotFoundError",
    "FramecacheError",
    "InputError",
    "LockedError",
    "ShardError",
    "Spec",
    "SpecMismatchError",
    "VideoNotFoundError",
    "open_cache",
]

_HOMES = {"Cache": "store", "FeatureSet": "reader", "Spec": "spec", "open_cache": "store"}


def __getattr__(name: str) -> Any:
    """Loads what is asked for when it is asked for: a decode worker starts without HDF5."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
