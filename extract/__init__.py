"""Extraction: videos → frozen-CNN features in the cache."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from framecache.extract.config import ExtractConfig, ExtractReport
    from framecache.extract.pipeline import extract

__all__ = ["ExtractConfig", "ExtractReport", "extract"]

_HOMES = {"ExtractConfig": "config", "ExtractReport": "config", "extract": "pipeline"}


def __getattr__(name: str) -> Any:
    """Loads what is asked for when it is asked for: a decode worker starts without the pipeline."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
