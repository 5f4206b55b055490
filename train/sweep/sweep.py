"""Many runs on one cache: a search over the settings of ``fit``, trained by warm processes, one a core.

Whatever ends a sweep, the same command goes on with it: a trial with a ``run.json`` is finished, one without is trained
again from its beginning, and ``sweep.json`` says what was asked for.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from framecache.cache.errors import InputError
from framecache.cache.shown import Shown, plural
from framecache.train.runs import Run, open_run
from framecache.train.splits.leakage import told_of_run
from framecache.train.sweep.dispatch import Dispatcher
from framecache.train.sweep.file import read_sweep
from framecache.train.sweep.folder import (
    SweepData,
    configuration_of,
    finished_runs,
    locked,
    open_data,
    refuse_other,
    remove_unfinished,
    write_description,
)
from framecache.train.sweep.search import SET, Choice, Sweep
from framecache.train.sweep.trials import FAILED, FINISHED, PRUNED, Ended, Trial

_WORKER = "framecache.train.sweep.worker"
_PER_GPU = 2  # processes that share a GPU


@dataclass(frozen=True)
class Configuration:
    """Values and their finished trials, over seeds and folds, the best on val first."""

    values: Mapping[str, Any]
    trials: tuple[Ended, ...] = field(repr=False)

    @property
    def value(self) -> float:
        """Mean of the measure on val."""
        return statistics.fmean(trial.value or 0.0 for trial in self.trials)

    @property
    def val_loss(self) -> float:
        """Mean of the loss on val."""
        return statistics.fmean(trial.val_loss or 0.0 for trial in self.trials)


@dataclass(frozen=True, repr=False)
class Swept(Shown):
    """A sweep that has ended.

    Attributes:
        folder: Of its trials.
        measure: The metric on val that was searched for.
        trials: All trials.
        ranking: Configurations with a finished trial, the best on val first: by the mean of the measure, then of the
            loss.
        test: Metrics on test of the best configuration's best trial on val; None without test videos.
        workers: Processes.
        seconds: ``wall``; ``busy``, in all processes without their start; and ``training``, of it in trainings.
        warnings: What else is to be told.
    """

    folder: Path
    measure: str
    trials: tuple[Ended, ...]
    ranking: tuple[Configuration, ...]
    test: Mapping[str, float] | None
    workers: int
    seconds: Mapping[str, float]
    warnings: tuple[str, ...] = ()

    def _line(self) -> str:
        from framecache.train.sweep.table import told_best

        return f"{self.folder}: {plural(len(self.trials), 'trial')}; {told_best(self)}"

    def _html(self) -> str:
        from framecache.train.sweep.table import html_sweep

        return html_sweep(self)

    @property
    def best(self) -> Ended | None:
        """The best configuration's best trial on val."""
        return self.ranking[0].trials[0] if self.ranking else None

    @property
    def efficiency(self) -> float:
        """Share of the processes' time, their start included, that went into trainings."""
        return self.seconds["training"] / (self.workers * self.seconds["wall"])

    def count(self, state: str) -> int:
        """Trials that ended so."""
        return sum(trial.state == state for trial in self.trials)


def sweep(
    path: str | Path, workers: int = 0, retry_failed: bool = False, progress: bool = False, module: str = _WORKER
) -> Swept:
    """Trains all trials that a file asks for, but for those that ended earlier.

    Args:
        path: The TOML file.
        workers: Processes; 0 for one a core, or two a GPU.
        retry_failed: Whether trials that failed earlier are trained again.
        progress: Whether to show a progress bar, on a terminal.
        module: The processes' program.

    Raises:
        InputError: The file, the settings of a trial, the features or the labels are wrong, or the folder holds
            something else; nothing was written.
        LockedError: Another process is at this sweep.
        ShardError: A shard is missing or cannot be read; nothing was written.
        KeyboardInterrupt: With what is done and how to go on.
    """
    begin = time.perf_counter()
    if workers < 0:
        raise InputError(f"--workers {workers}: expected 1 or more, or 0 for one a core")
    plan = read_sweep(Path(path))
    data = open_data(plan)
    refuse_other(plan, data)
    places = worker_places(workers)
    with locked(plan.folder):
        is_same = refuse_other(plan, data)
        under_way = _Sweeping(plan, data, retry_failed)
        if not is_same:
            write_description(plan, data)
        try:
            dispatcher = Dispatcher(module, places, data.names, under_way.more, under_way.end, under_way.report_every)
            with closing(dispatcher):
                test, warnings = under_way.run(dispatcher, is_same, progress)
        except KeyboardInterrupt:
            done, count = len(under_way.ended), plan.num_trials
            raise KeyboardInterrupt(
                f"interrupted; {done} of {count} trials are done and stay; run the same command again for the others"
            ) from None
    seconds = {
        "wall": time.perf_counter() - begin,
        "busy": dispatcher.busy_seconds,
        "training": dispatcher.training_seconds,
    }
    trials = tuple(under_way.ended.values())
    return Swept(plan.folder, data.measure, trials, under_way.ranking(), test, len(places), seconds, warnings)


def worker_places(workers: int) -> list[dict[str, Any]]:
    """Where each process has its place: a core of its own if there are as many, or a share of a GPU.

    Args:
        workers: Processes; 0 for one a core, or two a GPU.
    """
    cores = sorted(os.sched_getaffinity(0))
    gpus = _visible_gpus()
    count = workers or (len(gpus) * _PER_GPU or len(cores))
    return [
        {
            "num_workers": count,
            "gpu": gpus[number % len(gpus)] if gpus else None,
            "core": cores[number] if count == len(cores) and not gpus else None,
        }
        for number in range(count)
    ]


def _visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES has them, without asking TensorFlow."""
    found = sorted(Path("/dev").glob("nvidia[0-9]*"), key=lambda path: int(path.name.removeprefix("nvidia")))
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None or not found:
        return [str(number) for number in range(len(found))]
    return [name for name in named.split(",") if name not in ("", "-1")]


class _Sweeping:
    """A sweep that is under way: which trials ended, and which are to come."""

    def __init__(self, plan: Sweep, data: SweepData, retry_failed: bool) -> None:
        from framecache.train.sweep.study import STUDY_FILE, Study, draw_all, report_every

        self._plan = plan
        self._data = data
        self._retry_failed = retry_failed
        self._configurations: dict[int, Mapping[str, Any]] = {}
        self._bar: Any = None
        self.ended: dict[str, Ended] = {}
        epochs = plan.axes.get("epochs", Choice((plan.fixed.get("epochs", 100),)))
        most = max(epochs.values) if isinstance(epochs, Choice) else int(epochs.high)
        self.report_every = report_every(most) if plan.pruning != "none" else 0
        self._study = Study(plan.folder / STUDY_FILE, plan, data.lower_is_better, most)
        planned: list[Trial] = []
        if plan.method == "grid":
            planned = [trial for values in plan.combinations() for trial in plan.trials(values)]
        elif plan.method == "random":
            drawn = enumerate(draw_all(plan), start=1)
            planned = [trial for number, values in drawn for trial in plan.trials(values, number)]
        self._trials = {trial.name: trial for trial in planned}

    def run(
        self, dispatcher: Dispatcher, is_same: bool, progress: bool
    ) -> tuple[Mapping[str, float] | None, tuple[str, ...]]:
        """Trains what is to come; gives the best trial's metrics on test, and warnings."""
        runs = finished_runs(self._plan.folder)
        if len(runs) < self._plan.num_trials:
            dispatcher.warm_up()
        stored = self._study.load()
        to_come = self._take_up(stored, runs)
        kept = list(self.ended.values())
        self._study.begin(kept, rewrite=kept != stored or not is_same)
        total = self._plan.num_trials
        with tqdm(total=total, initial=len(kept), unit="trial", disable=None if progress else True) as self._bar:
            self._tell()
            dispatcher.run(to_come, self._study)
        return self._report(dispatcher)

    def more(self) -> list[Trial]:
        """Trials of the next configuration, if values are drawn one after the other."""
        while self._plan.method == "tpe" and len(self._configurations) < self._plan.configurations:
            trials = self._trials_of(max(self._configurations, default=0) + 1, self._study.draw())
            if trials:
                return trials
        return []

    def end(self, ended: Ended) -> None:
        """Takes down how a trial ended."""
        self._study.end(ended)
        self.ended[ended.name] = ended
        self._bar.update()
        self._tell()

    def ranking(self) -> tuple[Configuration, ...]:
        """Configurations with a finished trial, the best on val first."""
        sign = 1 if self._data.lower_is_better else -1

        def rank(one: Ended | Configuration) -> tuple[float, float]:
            return round(sign * (one.value or 0.0), 9), one.val_loss or 0.0

        groups: dict[str, list[Ended]] = {}
        for trial in self.ended.values():
            if trial.state == FINISHED:
                groups.setdefault(repr(sorted(trial.values.items())), []).append(trial)
        found = [Configuration(trials[0].values, tuple(sorted(trials, key=rank))) for trials in groups.values()]
        return tuple(sorted(found, key=rank))

    def _take_up(self, stored: Sequence[Ended], runs: Mapping[str, Run]) -> list[Trial]:
        """Sorts out which trials ended earlier; gives the others, without the folders that they left."""
        known = {trial.name: trial for trial in stored}
        for number, values in self._drawn_earlier(stored, runs).items():
            if f"{number:04d}" in known:
                self._configurations[number] = values
                self.ended[f"{number:04d}"] = known[f"{number:04d}"]
            else:
                self._trials_of(number, values)
        to_come = []
        for trial in self._trials.values():
            earlier, run = known.get(trial.name), runs.get(trial.name)
            if run is not None:
                is_known = earlier is not None and earlier.state == FINISHED
                self.ended[trial.name] = earlier if earlier and is_known else self._ended_of(trial, run)
            elif earlier and (earlier.state == PRUNED or (earlier.state == FAILED and not self._retry_failed)):
                self.ended[trial.name] = earlier
            else:
                to_come.append(trial)
        names = {trial.name for trial in to_come}
        for folder in self._plan.folder.iterdir():
            if folder.name in names or (self._plan.method != "grid" and configuration_of(folder.name)):
                remove_unfinished(folder)
        order = {name: place for place, name in enumerate(known)}
        self.ended = dict(sorted(self.ended.items(), key=lambda item: order.get(item[0], len(order))))
        return to_come

    def _drawn_earlier(self, stored: Sequence[Ended], runs: Mapping[str, Run]) -> dict[int, Mapping[str, Any]]:
        """Values by the number of their configuration, where these follow from nothing but what was drawn."""
        if self._plan.method != "tpe":
            return {}
        found: dict[int, Mapping[str, Any]] = {trial.configuration: trial.values for trial in stored}
        given = {full: name for name, full in self._data.names.items()}
        for name, run in runs.items():
            config = {**run.record["config"], SET: given.get(run.record["feature_set"])}
            if configuration_of(name):
                found.setdefault(configuration_of(name), {axis: config[axis] for axis in self._plan.axes})
        return dict(sorted(found.items()))

    def _trials_of(self, number: int, values: Mapping[str, Any]) -> list[Trial]:
        """Trials of values that were drawn; none if they do not go together, which is told as a failure."""
        self._configurations[number] = values
        try:
            trials = self._plan.trials(values, number)
        except InputError as error:
            name, seed = f"{number:04d}", self._plan.seeds[0]
            self._study.start(name, values)
            self.end(Ended(name, FAILED, values, seed, number, reason=str(error)))
            return []
        self._trials.update({trial.name: trial for trial in trials})
        return trials

    def _ended_of(self, trial: Trial, run: Run) -> Ended:
        """What a finished run tells that Optuna was not told before a kill."""
        metrics, seconds = run.record["metrics"]["val"], run.record["seconds"]["train"]
        scores = {"value": metrics[self._data.measure], "val_loss": metrics["loss"], "seconds": seconds}
        return Ended(trial.name, FINISHED, trial.values, trial.config.seed, trial.configuration, **scores)

    def _tell(self) -> None:
        """Best trial so far, and how many failed or were pruned."""
        sign = 1 if self._data.lower_is_better else -1
        finished = [trial for trial in self.ended.values() if trial.state == FINISHED]
        best = min(finished, key=lambda trial: (sign * (trial.value or 0.0), trial.val_loss), default=None)
        told = [f"best val {self._data.measure} {best.value:.3f} ({best.name})"] if best else []
        for state in (FAILED, PRUNED):
            count = sum(trial.state == state for trial in self.ended.values())
            told += [f"{count} {state}"] if count else []
        self._bar.set_postfix_str(", ".join(told))

    def _report(self, dispatcher: Dispatcher) -> tuple[Mapping[str, float] | None, tuple[str, ...]]:
        ranking = self.ranking()
        if not ranking:
            return None, ()
        best = self._trials[ranking[0].trials[0].name]
        folder = self._plan.folder / best.name
        record = open_run(folder).record
        warnings = told_of_run(record)
        if not (folder / "learning-curve.png").exists() and (reason := dispatcher.draw(best)):
            warnings.append(f"the figures of {folder} could not be drawn: {reason}")
        return record["metrics"]["test"], tuple(warnings)
