"""Training: light sequence models on cached features."""

from framecache.train.config import FitConfig
from framecache.train.fit import fit
from framecache.train.runs import Run, open_run

__all__ = ["FitConfig", "Run", "fit", "open_run"]
