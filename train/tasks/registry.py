"""Tasks by their names: what ``--task`` may be."""

from __future__ import annotations

from framecache.train.config import FitConfig
from framecache.train.splits.splitting import LabeledVideos
from framecache.train.tasks.classification import Classification
from framecache.train.tasks.frames import Frames
from framecache.train.tasks.multilabel import Multilabel
from framecache.train.tasks.regression import Regression
from framecache.train.tasks.task import Task

__all__ = ["TASKS", "Classification", "Frames", "Multilabel", "Regression", "Task", "make_task"]

TASKS: dict[str, type[Task]] = {task.name: task for task in (Classification, Multilabel, Regression, Frames)}


def make_task(config: FitConfig, labeled: LabeledVideos) -> Task:
    """The task of these settings, as these videos set it."""
    return TASKS[config.task].of(labeled, config)
