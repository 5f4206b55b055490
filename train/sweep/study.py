"""The trials of a sweep as Optuna knows them: it draws values and prunes in memory; those that ended go into SQLite.

Each is written once, when it ended, so that no kill leaves one behind that runs forever; a run's ``run.json``
is what says that it is finished.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from framecache.cache.errors import InputError
from framecache.train.sweep.search import Choice, Range, Sweep
from framecache.train.sweep.trials import FAILED, FINISHED, PRUNED, Ended

STUDY_FILE = "study.db"
_STATES = {FINISHED: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}
_STARTUP_TRIALS = 5  # that are never pruned by the median
_REPORTS = 20  # measures of a trial that the pruner sees, since each is written into the file


def report_every(epochs: int) -> int:
    """After how many epochs the pruner is asked again."""
    return max(1, epochs // _REPORTS)


class Study:
    """What Optuna draws and decides.

    Args:
        path: The SQLite file.
        sweep: What is searched.
        lower_is_better: Whether a small measure is a good one.
        epochs: Most epochs of a trial.
    """

    def __init__(self, path: Path, sweep: Sweep, lower_is_better: bool, epochs: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._path = path
        self._name = sweep.name
        self._method = sweep.method
        self._direction = StudyDirection.MINIMIZE if lower_is_better else StudyDirection.MAXIMIZE
        self._distributions = {name: _distribution(axis) for name, axis in sweep.axes.items()}
        self._pruner = _pruner(sweep.pruning, epochs)
        self._running: dict[str, optuna.Trial] = {}
        self._drawn: optuna.Trial | None = None
        self._to_store: list[Ended] = []
        self._stored: optuna.Study
        self._study: optuna.Study

    def load(self) -> list[Ended]:
        """Trials that the file has, in their order.

        Raises:
            InputError: It is damaged.
        """
        if not self._path.exists():
            return []
        try:
            self._stored = optuna.load_study(study_name=None, storage=_url(self._path))
            return [_ended(trial) for trial in self._stored.trials if trial.state in _STATES.values()]
        except Exception as error:  # whatever SQLAlchemy makes of a file that is none of ours
            raise InputError(
                f"{self._path}: cannot be read ({type(error).__name__}); delete it: finished trials are known by "
                "their run.json, and stay"
            ) from error

    def begin(self, ended: Sequence[Ended], rewrite: bool) -> None:
        """Goes on from trials that ended.

        Args:
            ended: All of them.
            rewrite: Whether they are not those that :meth:`load` gave, so that the file must be written anew.
        """
        trials = [self._frozen(trial) for trial in ended]
        if rewrite or not self._path.exists():
            partial = self._path.with_name(f".{self._path.name}.partial")
            partial.unlink(missing_ok=True)
            made = optuna.create_study(storage=_url(partial), study_name=self._name, direction=self._direction)
            made.add_trials(trials)
            os.replace(partial, self._path)
            storage = optuna.storages.RDBStorage(_url(self._path), skip_compatibility_check=True)
            self._stored = optuna.load_study(study_name=None, storage=storage)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = _sampler(self._method, len(ended))
        self._study = optuna.create_study(direction=self._direction, sampler=sampler, pruner=self._pruner)
        self._study.add_trials(trials)

    def draw(self) -> dict[str, Any]:
        """Values of the next configuration."""
        self._drawn = self._study.ask(self._distributions)
        return dict(self._drawn.params)

    def start(self, name: str, values: Mapping[str, Any]) -> None:
        """A trial begins, perhaps again."""
        if name in self._running:
            self._study.tell(self._running.pop(name), state=TrialState.FAIL)
        trial, self._drawn = self._drawn, None
        if trial is None or trial.params != dict(values):
            self._study.enqueue_trial(dict(values))
            trial = self._study.ask(self._distributions)
        self._running[name] = trial

    def report(self, name: str, epoch: int, value: float) -> bool:
        """Takes a measure, and says whether the trial is to be pruned."""
        self._running[name].report(value, epoch)
        return bool(self._running[name].should_prune())

    def end(self, ended: Ended) -> None:
        """A trial ended."""
        trial = self._running.pop(ended.name)
        self._study.tell(trial, ended.value if ended.state == FINISHED else None, state=_STATES[ended.state])
        self._to_store.append(ended)

    def store(self) -> None:
        """Writes the trials that ended into the file, which takes longer than a worker should wait."""
        while self._to_store:
            self._stored.add_trial(self._frozen(self._to_store.pop(0)))

    def _frozen(self, ended: Ended) -> FrozenTrial:
        told = {
            "name": ended.name,
            "seed": ended.seed,
            "configuration": ended.configuration,
            "val_loss": ended.val_loss,
            "reason": ended.reason,
            "seconds": ended.seconds,
        }
        return optuna.trial.create_trial(
            state=_STATES[ended.state],
            value=ended.value if ended.state != FAILED else None,
            params=dict(ended.values),
            distributions=self._distributions,
            user_attrs={key: value for key, value in told.items() if value not in (None, "")},
            intermediate_values=dict(ended.measures),
        )


def draw_all(sweep: Sweep) -> list[dict[str, Any]]:
    """All configurations of a random search; a longer one begins with those of a shorter one."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    distributions = {name: _distribution(axis) for name, axis in sweep.axes.items()}
    return [dict(study.ask(distributions).params) for _ in range(sweep.configurations)]


def _distribution(axis: Choice | Range) -> BaseDistribution:
    if isinstance(axis, Choice):
        return CategoricalDistribution(axis.values)
    if type(axis.low) is int:
        return IntDistribution(axis.low, int(axis.high), axis.log, int(axis.step or 1))
    return FloatDistribution(axis.low, axis.high, axis.log, axis.step)


def _sampler(method: str, done: int) -> optuna.samplers.BaseSampler:
    if method == "tpe":  # a sweep that goes on must not draw again what it began with
        return optuna.samplers.TPESampler(seed=done, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=0)


def _pruner(pruning: str, epochs: int) -> optuna.pruners.BasePruner:
    if pruning == "median":
        return optuna.pruners.MedianPruner(_STARTUP_TRIALS, n_warmup_steps=epochs // 10)
    if pruning == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=max(1, epochs // 27), reduction_factor=3)
    return optuna.pruners.NopPruner()


def _ended(trial: FrozenTrial) -> Ended:
    told = trial.user_attrs
    return Ended(
        name=told["name"],
        state=next(name for name, state in _STATES.items() if state == trial.state),
        values=trial.params,
        seed=told["seed"],
        configuration=told["configuration"],
        value=trial.value,
        val_loss=told.get("val_loss"),
        reason=told.get("reason", ""),
        seconds=told["seconds"],
        measures=trial.intermediate_values,
    )


def _url(path: Path) -> str:
    return f"sqlite:///{path}"
