"""Extraction: videos → frozen-CNN features in the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from framecache.cache.door import open_door

if TYPE_CHECKING:
    from framecache.extract.config import ExtractConfig, ExtractReport
    from framecache.extract.pipeline import extract

__all__ = ["ExtractConfig", "ExtractReport", "extract"]

# A decode worker starts without the pipeline.
open_door(__name__, {"ExtractConfig": "config", "ExtractReport": "config", "extract": "pipeline"})
