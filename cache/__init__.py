"""The cache: feature sets in HDF5 shards, read without TensorFlow."""

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
