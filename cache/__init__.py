"""The cache: feature sets in HDF5 shards, read without TensorFlow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from framecache.cache.door import open_door

if TYPE_CHECKING:
    from framecache.cache.derive import derive
    from framecache.cache.derive_config import DeriveConfig, DeriveReport
    from framecache.cache.errors import (
        FeatureSetNotFoundError,
        FramecacheError,
        InputError,
        LockedError,
        ShardError,
        SpecMismatchError,
        VideoNotFoundError,
    )
    from framecache.cache.exchange.export_config import ExportConfig
    from framecache.cache.exchange.exports import ExportReport, export_features
    from framecache.cache.exchange.import_config import ImportConfig
    from framecache.cache.exchange.imports import ImportReport, import_features
    from framecache.cache.reader import FeatureSet
    from framecache.cache.spec import Spec
    from framecache.cache.store import Cache, open_cache

__all__ = [
    "Cache",
    "DeriveConfig",
    "DeriveReport",
    "ExportConfig",
    "ExportReport",
    "FeatureSet",
    "FeatureSetNotFoundError",
    "FramecacheError",
    "ImportConfig",
    "ImportReport",
    "InputError",
    "LockedError",
    "ShardError",
    "Spec",
    "SpecMismatchError",
    "VideoNotFoundError",
    "derive",
    "export_features",
    "import_features",
    "open_cache",
]

_ELSEWHERE = {
    "Cache": "store",
    "DeriveConfig": "derive_config",
    "DeriveReport": "derive_config",
    "ExportConfig": "exchange.export_config",
    "ExportReport": "exchange.exports",
    "FeatureSet": "reader",
    "ImportConfig": "exchange.import_config",
    "ImportReport": "exchange.imports",
    "Spec": "spec",
    "derive": "derive",
    "export_features": "exchange.exports",
    "import_features": "exchange.imports",
    "open_cache": "store",
}

# A decode worker starts without HDF5.
open_door(__name__, dict.fromkeys(__all__, "errors") | _ELSEWHERE)
