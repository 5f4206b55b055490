"""Extraction: videos → frozen-CNN features in the cache."""

from framecache.extract.config import ExtractConfig, ExtractReport
from framecache.extract.pipeline import extract

__all__ = ["ExtractConfig", "ExtractReport", "extract"]
