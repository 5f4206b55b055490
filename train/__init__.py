"""Training: light sequence models on cached features."""

from framecache.train.config import FitConfig
from framecache.train.fidelity.fidelity import FidelityConfig, compare_fidelity
from framecache.train.fit import fit
from framecache.train.runs import Run, open_run

__all__ = ["FidelityConfig", "FitConfig", "Run", "compare_fidelity", "fit", "open_run"]
