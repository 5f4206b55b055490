"""Processes that are killed, or whose disk fails, at a chosen operation on the cache.

A launcher is one process that has imported what the others need and forks them, so that a run of a real extraction
costs no start-up. In a run with a :class:`Fault`, the operations that change files below its folder are counted,
and the chosen one is not carried out: the process dies before it, or it raises. Nothing of this is in framecache.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class Fault:
    """What goes wrong in a process.

    Attributes:
        folder: Only operations on files below it count.
        at: Number of the operation, from 1; 0 for none.
        action: ``kill``, ``hang`` for ever, or the name of an errno that the operation fails with.
        lasting: Whether all later operations fail too, as on a full disk.
        trace: File that gets a line per operation.
        progress: File that gets the time and the number of frames after each forward pass.
        pass_seconds: What each forward pass takes longer, so that there is time to do something meanwhile.
    """

    folder: str
    at: int = 0
    action: str = "kill"
    lasting: bool = False
    trace: str | None = None
    progress: str | None = None
    pass_seconds: float = 0.0


class Launched:
    """A process that runs, or has ended."""

    def __init__(self, launcher: Launcher, pid: int, stdout: Path, stderr: Path) -> None:
        self._launcher = launcher
        self._stdout, self._stderr = stdout, stderr
        self.pid = pid

    def wait(self) -> int:
        """Its exit status, negative for a signal."""
        return int(self._launcher._ask({"wait": self.pid})["status"])

    def signal(self, number: int) -> None:
        # It is a child of the launcher and not waited for yet, so that the number still means it.
        os.kill(self.pid, number)

    @property
    def stdout(self) -> str:
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()


class Launcher:
    """Imports ``modules`` once and forks a process per call of a function in one of them.

    Those that are imported late are worth naming too: each process would import them again.
    """

    def __init__(self, folder: Path, modules: Sequence[str], paths: Iterable[Path] = ()) -> None:
        self._folder = folder
        self._count = 0
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [Path(__file__).parent, *paths]))}
        self._process = subprocess.Popen(
            [sys.executable, __file__, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def start(self, target: str, arguments: Sequence[str], fault: Fault | None = None) -> Launched:
        """Runs ``module:function`` with these ``sys.argv`` in a process of its own."""
        self._count += 1
        logs = [self._folder / f"{self._count}.{name}" for name in ("out", "err")]
        fault_values = None if fault is None else asdict(fault)
        answer = self._ask({"target": target, "argv": [*arguments], "logs": [*map(str, logs)], "fault": fault_values})
        return Launched(self, answer["pid"], *logs)

    def run(self, target: str, arguments: Sequence[str], fault: Fault | None = None) -> tuple[int, Launched]:
        """Runs it to its end; gives its exit status too."""
        launched = self.start(target, arguments, fault)
        return launched.wait(), launched

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def operations(trace: Path) -> list[str]:
    """The names of the operations of a traced run, in order."""
    return [line.split()[0] for line in trace.read_text().splitlines()]


def _serve(modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = {"status": os.waitstatus_to_exitcode(status)}
        else:
            answer = {"pid": os.fork()}
            if answer["pid"] == 0:
                _run(request)
        print(json.dumps(answer), flush=True)


def _run(request: dict[str, Any]) -> None:
    """In the forked process: never returns."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for number, path in enumerate(request["logs"], 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["command", *request["argv"]]
    status: object = 1
    try:
        module, _, name = request["target"].partition(":")
        target = getattr(importlib.import_module(module), name)
        if request["fault"]:
            _install(Fault(**request["fault"]))
        status = target()
    except SystemExit as end:
        status = end.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 0)


def _install(fault: Fault) -> None:
    """Puts a counted point before every operation that changes files."""
    from framecache.cache import ledger, sealed

    count = 0
    trace = None if fault.trace is None else os.open(fault.trace, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def due(name: str, path: str) -> bool:
        """Counts an operation; whether it is the one that goes wrong."""
        nonlocal count
        if not path.startswith(fault.folder) or "/.locks/" in path:  # who holds a lock is only told
            return False
        count += 1
        if trace is not None:
            os.write(trace, f"{name} {path}\n".encode())
        return count == fault.at or (fault.lasting and 0 < fault.at < count)

    def fail(path: str) -> None:
        if fault.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        while fault.action == "hang":
            time.sleep(3600)
        number = getattr(errno, fault.action)
        raise OSError(number, os.strerror(number), path)

    def wrap(owner: Any, name: str, path_of: Callable[[Any], str]) -> None:
        original = getattr(owner, name)

        def wrapped(first: Any, *arguments: Any, **options: Any) -> Any:
            path = path_of(first)
            if due(name, path):
                fail(path)
            return original(first, *arguments, **options)

        setattr(owner, name, wrapped)

    def path_of_descriptor(descriptor: int) -> str:
        if sys.platform == "darwin":
            return os.fsdecode(fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0"))
        return os.readlink(f"/proc/self/fd/{descriptor}")

    wrap(os, "mkdir", os.fspath)
    wrap(os, "unlink", os.fspath)
    wrap(os, "replace", os.fspath)
    wrap(os, "fsync", path_of_descriptor)

    class Written:
        """A file that is being written; each step is an operation."""

        def __init__(self, stream: Any, path: str) -> None:
            self._stream, self._path = stream, path

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            failing = due("close", self._path)
            if fault.action != "kill":  # a failing close closes all the same
                self._stream.close()
            if failing:
                fail(self._path)
            self._stream.close()

        def write(self, data: Any) -> int:
            if due("write", self._path):
                if fault.action == "kill":  # half of it reaches the disk
                    self._stream.write(data[: len(data) // 2])
                    self._stream.flush()
                fail(self._path)
            written: int = self._stream.write(data)
            self._stream.flush()
            return written

    open_path = Path.open

    def opened(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not mode.startswith("w"):
            return open_path(path, mode, *arguments, **options)
        if due("open", str(path)):
            fail(str(path))
        return Written(open_path(path, mode, *arguments, **options), str(path))

    Path.open = opened  # type: ignore[assignment,method-assign]

    append = ledger.append_lines

    def append_lines(path: Path, rows: Iterable[dict[str, object]]) -> None:
        rows = list(rows)
        for name in ("append", "append-torn"):
            if due(name, str(path)):
                if name == "append-torn":  # half of a line reaches the disk
                    with path.open("ab") as stream:
                        stream.write(json.dumps(rows[0]).encode()[:-9])
                fail(str(path))
        append(path, rows)

    for module in (ledger, sealed):
        module.append_lines = append_lines  # type: ignore[attr-defined]
    if fault.progress is not None:
        _record_progress(fault.progress, fault.pass_seconds)


def _record_progress(path: str, pass_seconds: float) -> None:
    from framecache.extract import pipeline

    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    forward = pipeline._Run._forward

    def recorded(run: Any, *arguments: Any) -> None:
        forward(run, *arguments)
        time.sleep(pass_seconds)
        os.write(descriptor, f"{time.monotonic()} {run._report.num_frames}\n".encode())

    pipeline._Run._forward = recorded  # type: ignore[method-assign]


if __name__ == "__main__":
    _serve(sys.argv[1:])
