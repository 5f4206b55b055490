"""Training: light sequence models on cached features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from framecache.cache.door import open_door

if TYPE_CHECKING:
    from framecache.train.comparison.compare import Compared, compare_runs
    from framecache.train.comparison.report import write_report
    from framecache.train.config import FitConfig
    from framecache.train.fidelity.fidelity import FidelityConfig, FidelityReport, compare_fidelity
    from framecache.train.fit import fit, fit_folds
    from framecache.train.runs import Run, open_run
    from framecache.train.serving.config import ExportConfig
    from framecache.train.serving.export import Exported, export
    from framecache.train.sweep.sweep import Swept, sweep

__all__ = [
    "Compared",
    "ExportConfig",
    "Exported",
    "FidelityConfig",
    "FidelityReport",
    "FitConfig",
    "Run",
    "Swept",
    "compare_fidelity",
    "compare_runs",
    "export",
    "fit",
    "fit_folds",
    "open_run",
    "sweep",
    "write_report",
]

# TensorFlow, and all else that takes its time, comes with what needs it.
open_door(
    __name__,
    {
        "Compared": "comparison.compare",
        "ExportConfig": "serving.config",
        "Exported": "serving.export",
        "FidelityConfig": "fidelity.fidelity",
        "FidelityReport": "fidelity.fidelity",
        "FitConfig": "config",
        "Run": "runs",
        "Swept": "sweep.sweep",
        "compare_fidelity": "fidelity.fidelity",
        "compare_runs": "comparison.compare",
        "export": "serving.export",
        "fit": "fit",
        "fit_folds": "fit",
        "open_run": "runs",
        "sweep": "sweep.sweep",
        "write_report": "comparison.report",
    },
)
