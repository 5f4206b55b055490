"""Who trains what: warm processes get the trials whose graphs they have, and are started again if they end."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Protocol

from framecache.cache.child import Child
from framecache.cache.errors import FramecacheError
from framecache.train.experiment import graph_key
from framecache.train.sweep.folder import remove_unfinished
from framecache.train.sweep.pool import data_key
from framecache.train.sweep.trials import FAILED, Ended, Trial

_MAX_CRASHES = 2  # of one trial, or before anything else
Key = tuple[Any, ...]


class Judge(Protocol):
    """Who is asked about measures: :class:`~framecache.train.sweep.study.Study`."""

    def start(self, name: str, values: Mapping[str, Any]) -> None:
        """A trial begins, perhaps again."""

    def report(self, name: str, epoch: int, value: float) -> bool:
        """Takes a measure, and says whether the trial is to be pruned."""

    def store(self) -> None:
        """Writes down which trials ended; all workers are busy meanwhile."""


class Queue:
    """Trials that wait, by the graph that they need."""

    def __init__(self) -> None:
        self._waiting: dict[Key, deque[Trial]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def add(self, trial: Trial, first: bool = False) -> None:
        """Puts a trial at the end of those of its graph, or first."""
        waiting = self._waiting.setdefault(graph_of(trial), deque())
        if first:
            waiting.appendleft(trial)
        else:
            waiting.append(trial)

    def take(self, own: Sequence[Key], others: Collection[Key]) -> Trial | None:
        """The next trial for a worker.

        Args:
            own: Graphs that it has, the one used last at the end.
            others: Graphs that other workers have: it takes over from them only when nothing else is left.
        """
        waiting = {key: len(trials) for key, trials in self._waiting.items() if trials}
        if not waiting:
            return None
        known = [key for key in own if key in waiting]
        free = [key for key in waiting if key not in others]
        key = known[-1] if known else max(free or waiting, key=lambda key: waiting[key])
        return self._waiting[key].popleft()


def graph_of(trial: Trial) -> Key:
    """What trials have in common if one can use the graphs of another."""
    return (data_key(trial.feature_set, trial.config), graph_key(trial.config))


def baseline_of(trial: Trial) -> Key:
    """What trials have in common if their mean-pool baseline is the same."""
    return (data_key(trial.feature_set, trial.config), trial.config.seed, trial.config.class_weights)


@dataclass
class _Worker:
    """A process, the trial that it is at, and whether it trains that one's baseline only, or waits for it."""

    child: Child
    place: Mapping[str, Any]
    graphs: list[Key] = field(default_factory=list)
    trial: Trial | None = None
    has_started: bool = False
    is_baseline: bool = False
    is_waiting: bool = False


class Dispatcher:
    """Trains trials in several processes, one at a time in each.

    Args:
        module: The processes' program: :mod:`framecache.train.sweep.worker`.
        places: What each process is told first.
        names: Full name per feature set.
        more: Gives further trials when all others have begun; none if that is all.
        on_end: Called with each trial that ended.
        report_every: After how many epochs a measure is asked for; 0 for never.
    """

    def __init__(
        self,
        module: str,
        places: Sequence[Mapping[str, Any]],
        names: Mapping[str, str],
        more: Callable[[], Sequence[Trial]],
        on_end: Callable[[Ended], None],
        report_every: int = 0,
    ) -> None:
        self._module = module
        self._names = names
        self._more = more
        self._on_end = on_end
        self._report_every = report_every
        self._workers = [_Worker(Child(module), place) for place in places]
        self._queue = Queue()
        self._baselines: dict[Key, dict[str, Any] | None] = {}  # None while one is trained
        self._crashes: Counter[Key] = Counter()
        self._has_ended = False
        self.busy_seconds = 0.0
        self.training_seconds = 0.0

    def warm_up(self) -> None:
        """Starts all processes, so that they get ready meanwhile."""
        for worker in self._workers:
            self._start(worker)

    def run(self, trials: Sequence[Trial], judge: Judge) -> None:
        """Trains these trials, and those that come to them, until all have ended.

        Raises:
            FramecacheError: The processes cannot even begin.
        """
        self._judge = judge
        for trial in trials:
            self._queue.add(trial)
        while True:
            for worker in self._workers:
                if worker.trial is None:
                    self._assign(worker)
            at_work = [(worker, worker.trial) for worker in self._workers if worker.trial is not None]
            judge.store()
            if not at_work:
                return
            ready = wait([worker.child.fileno() for worker, _ in at_work])
            for worker, trial in at_work:
                if worker.child.fileno() in ready:
                    self._hear(worker, trial)

    def draw(self, trial: Trial) -> str:
        """Draws the figures of a run; returns the reason if that failed."""
        worker = self._workers[0]
        self._start(worker)
        try:
            self._send(worker, self._job("figures", trial))
            told = json.loads(worker.child.receive())
        except (EOFError, OSError) as error:
            return str(error) or worker.child.close()
        return str(told.get("reason", ""))

    def close(self) -> None:
        """Ends all processes, and removes what they have not finished."""
        for worker in self._workers:
            worker.child.kill()
        for worker in self._workers:
            worker.child.close()
            if worker.trial is not None:
                remove_unfinished(folder_of(worker.trial))

    def _assign(self, worker: _Worker) -> None:
        for other in self._workers:
            if other.is_waiting and other.trial is not None and baseline_of(other.trial) not in self._baselines:
                self._train_baseline(worker, other.trial)
                return
        if not self._queue:
            for drawn in self._more():
                self._queue.add(drawn)
        others = {key for other in self._workers if other is not worker for key in other.graphs}
        trial = self._queue.take(worker.graphs, others)
        if trial is None:
            return
        if baseline_of(trial) not in self._baselines:
            self._queue.add(trial, first=True)
            self._train_baseline(worker, trial)
            return
        key = graph_of(trial)
        worker.graphs = [*(graph for graph in worker.graphs if graph != key), key]
        worker.trial, worker.is_baseline = trial, False
        self._start(worker)
        self._judge.start(trial.name, trial.values)
        self._send(worker, {**self._job("trial", trial), "report_every": self._report_every})

    def _train_baseline(self, worker: _Worker, trial: Trial) -> None:
        self._baselines[baseline_of(trial)] = None
        worker.trial, worker.is_baseline = trial, True
        self._start(worker)
        self._send(worker, self._job("baseline", trial))

    def _job(self, name: str, trial: Trial) -> dict[str, Any]:
        config = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(trial.config).items()}
        return {"job": name, "set": self._names[trial.feature_set], "config": config}

    def _start(self, worker: _Worker) -> None:
        if not worker.has_started:
            worker.has_started = True
            self._send(worker, worker.place)

    def _send(self, worker: _Worker, message: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it has ended, as whoever waits for its answer will see
            worker.child.send(json.dumps(message).encode())

    def _hear(self, worker: _Worker, trial: Trial) -> None:
        try:
            told = json.loads(worker.child.receive())
        except (EOFError, OSError):
            self._start_again(worker, trial)
            return
        if told["event"] == "epoch":
            prune = self._judge.report(trial.name, told["epoch"], told["value"])
            self._send(worker, {"prune": prune})
        elif told["event"] == "trained":
            worker.is_waiting = True
            self._hand_out_baselines()
        else:
            self._has_ended = True
            self.busy_seconds += told["busy"] - told.get("waited", 0.0)
            self.training_seconds += told.get("seconds", told["busy"])
            worker.trial, was_baseline, worker.is_baseline = None, worker.is_baseline, False
            if was_baseline:
                self._baselines[baseline_of(trial)] = {"reason": "", **told}
                self._hand_out_baselines()
            else:
                self._end(trial, told)

    def _hand_out_baselines(self) -> None:
        for worker in self._workers:
            found = self._baselines.get(baseline_of(worker.trial)) if worker.is_waiting and worker.trial else None
            if found is not None:
                worker.is_waiting = False
                self._send(worker, {key: found.get(key) for key in ("logits", "seconds", "reason")})

    def _end(self, trial: Trial, told: Mapping[str, Any]) -> None:
        self._on_end(
            Ended(
                name=trial.name,
                state=told["state"],
                values=trial.values,
                seed=trial.config.seed,
                configuration=trial.configuration,
                value=told.get("value"),
                val_loss=told.get("val_loss"),
                reason=told.get("reason", ""),
                seconds=told.get("seconds", told.get("busy", 0.0)),
                measures={int(epoch): value for epoch, value in told.get("measures", {}).items()},
            )
        )

    def _start_again(self, worker: _Worker, trial: Trial) -> None:
        """A process ended by itself, or was killed: another one takes its place, and its trial."""
        how, was_baseline = worker.child.close(), worker.is_baseline
        worker.child, worker.graphs, worker.trial = Child(self._module), [], None
        worker.has_started = worker.is_baseline = worker.is_waiting = False
        key = baseline_of(trial) if was_baseline else (trial.name,)
        self._crashes[key] += 1
        if self._crashes[key] >= _MAX_CRASHES and not self._has_ended:
            raise FramecacheError(f"the workers end before their first trial does ({how}); finished trials stay")
        reason = f"its process ended {_MAX_CRASHES} times ({how})"
        if was_baseline:
            if self._crashes[key] < _MAX_CRASHES:
                del self._baselines[key]
            else:
                self._baselines[key] = {"reason": reason}
                self._hand_out_baselines()
            return
        remove_unfinished(folder_of(trial))
        if self._crashes[key] < _MAX_CRASHES:
            self._queue.add(trial, first=True)
        else:
            self._end(trial, {"state": FAILED, "reason": reason})


def folder_of(trial: Trial) -> Path:
    """The folder of its run."""
    return trial.config.runs / str(trial.config.name)
