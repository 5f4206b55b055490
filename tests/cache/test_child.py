"""Child processes: they end with their parent, whatever happens to either of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from framecache.cache.child import Child

# PyDLL, unlike CDLL, calls without letting other threads run: as a library that hangs within a careless binding.
HANGS = """
import ctypes, os
from framecache.cache.child import serve

def answer(message):
    yield str(os.getpid()).encode()
    ctypes.PyDLL(None).sleep(120)

serve(answer)
"""
PARENT = """
from framecache.cache.child import Child

child = Child("hangs")
child.send(b"")
print(child.receive().decode(), flush=True)
child.receive()
"""


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(") ")[2][0] != "Z"  # ended, and nobody has asked for its status yet


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process that hangs so with its parent")
def test_a_child_that_hangs_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.send_signal(signal.SIGKILL)
    give_up = time.monotonic() + 30
    while is_alive(pid):
        assert time.monotonic() < give_up, "a child outlives its parent"
        time.sleep(0.05)


def test_a_child_that_cannot_be_started_is_an_error_and_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Child("hangs")) as child:
        monkeypatch.setattr(sys, "executable", "/no/python")
        with pytest.raises(OSError, match="/no/python"):  # a socket left open would be a warning, and so an error
            child.send(b"")
        assert child.close() == "stopped"
