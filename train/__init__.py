"""Training: light sequence models on cached features."""

from framecache.train.config import FitConfig
from framecache.train.fit import Run, fit

__all__ = ["FitConfig", "Run", "fit"]
