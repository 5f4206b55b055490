"""Tasks by their names: what ``--task`` may be."""

from __future__ import annotations

from framecache.train.classification import Classification
from framecache.train.config import FitConfig
from framecache.train.frames import Frames
from framecache.train.multilabel import Multilabel
from framecache.train.regression import Regression
from framecache.train.splits import LabeledVideos
from framecache.train.task import Task

__all__ = ["TASKS", "Classification", "Frames", "Multilabel", "Regression", "Task", "make_task"]

TASKS: dict[str, type[Task]] = {task.name: task for task in (Classification, Multilabel, Regression, Frames)}


def make_task(config: FitConfig, labeled: LabeledVideos) -> Task:
    """The task of these settings, as these videos set it."""
    return TASKS[config.task].of(labeled, config)
