"""The state of an unfinished training on disk, from which it goes on to the numbers of an uninterrupted one."""

from __future__ import annotations

import signal
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.durable import PARTIAL_SUFFIX, publish

CHECKPOINT_FILE = "state.npz"
_MIN_SECONDS = 5.0  # from one checkpoint to the next
_MAX_SHARE = 0.01  # of the time that goes into them
_UNREADABLE = (
    *(OSError, ValueError, KeyError, EOFError, MemoryError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)
Tell = Callable[[str], None]


@dataclass
class TrainingState:
    """What a training has to remember after an epoch, beside the variables of model and optimizer.

    Attributes:
        measures: Values after each epoch, by name.
        seconds: Wall time of each epoch.
        starts: Epochs that were the first of their process, counted from 1.
        best_loss: Lowest loss on val.
        best_epoch: Its epoch; 0 before the first one.
        best_weights: The model's weights after it, arrays or tensors.
    """

    measures: dict[str, list[float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    best_loss: float = np.inf
    best_epoch: int = 0
    best_weights: list[Any] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Epochs so far."""
        return len(self.seconds)


class Checkpoint:
    """One file that is replaced now and then, so rarely that training takes no longer for it.

    Args:
        path: The file; its folder exists.
        tell: Takes a line for the user.
    """

    def __init__(self, path: Path, tell: Tell) -> None:
        self.path = path
        self._tell = tell
        self._due = time.monotonic() + _MIN_SECONDS

    def save_if_due(self, state: TrainingState, variables: Sequence[Any], is_last: bool) -> None:
        """Saves where the last time is long enough ago, or where there will be no other time."""
        if is_last or time.monotonic() >= self._due:
            self.save(state, variables)

    def save(self, state: TrainingState, variables: Sequence[Any]) -> None:
        """Replaces the file by the state after an epoch: whole, or not at all."""
        begin = time.monotonic()
        arrays: dict[str, Any] = {f"measures/{name}": values for name, values in state.measures.items()}
        arrays |= {"seconds": state.seconds, "starts": state.starts, "best": [state.best_loss, state.best_epoch]}
        arrays |= {f"best_weights/{place}": weight for place, weight in enumerate(state.best_weights)}
        arrays |= {f"variables/{place}": variable.numpy() for place, variable in enumerate(variables)}
        partial = self.path.with_name(f".{self.path.name}{PARTIAL_SUFFIX}")
        with partial.open("wb") as stream:
            np.savez(stream, **arrays)
        publish(partial, self.path)
        end = time.monotonic()
        self._due = end + max(_MIN_SECONDS, (end - begin) / _MAX_SHARE)

    def load(self, variables: Sequence[Any]) -> TrainingState | None:
        """Sets the variables of model and optimizer to those of the file; None without one, or with a damaged one."""
        if not self.path.is_file():
            return None
        try:
            with zipfile.ZipFile(self.path) as file:  # np.load would take anything else for a pickle
                names = [name.removesuffix(".npy") for name in file.namelist()]
            with np.load(self.path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in names}
            state, values = _unpack(arrays)
            _require_alike(values, variables)
        except _UNREADABLE as error:
            reason = str(error) or type(error).__name__
            self._tell(f"{self.path}: cannot be read ({reason}); starting again at epoch 1")
            return None
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        self._tell(f"resuming {self.path.parent.parent} at epoch {state.epoch + 1}")
        return state


@contextmanager
def held_interrupts() -> Iterator[Callable[[], bool]]:
    """Holds the first Ctrl-C back, so that an epoch can be ended and saved; the second one interrupts at once.

    Yields:
        Whether there was one.
    """
    if threading.current_thread() is not threading.main_thread():  # which gets no signals
        yield lambda: False
        return
    caught: list[int] = []

    def note(number: int, frame: Any) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(caught)
    finally:
        signal.signal(signal.SIGINT, before)


def _unpack(arrays: dict[str, NDArray[Any]]) -> tuple[TrainingState, list[NDArray[Any]]]:
    """State and variables.

    Raises:
        KeyError: One is missing.
        ValueError: They do not fit together.
    """
    prefix = "measures/"
    measures = {name.removeprefix(prefix): arrays[name].tolist() for name in arrays if name.startswith(prefix)}
    best_loss, best_epoch = arrays["best"].tolist()
    seconds, starts = arrays["seconds"].tolist(), arrays["starts"].tolist()
    state = TrainingState(measures, seconds, starts, best_loss, int(best_epoch), _listed(arrays, "best_weights/"))
    if not seconds or not measures or any(len(values) != len(seconds) for values in measures.values()):
        raise ValueError("its epochs do not fit together")
    return state, _listed(arrays, "variables/")


def _listed(arrays: dict[str, NDArray[Any]], prefix: str) -> list[NDArray[Any]]:
    return [arrays[f"{prefix}{place}"] for place in range(sum(name.startswith(prefix) for name in arrays))]


def _require_alike(values: Sequence[NDArray[Any]], variables: Sequence[Any]) -> None:
    if [value.shape for value in values] != [tuple(variable.shape) for variable in variables]:
        raise ValueError("it is of another model")
