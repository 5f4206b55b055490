"""Child processes for files that nobody vouches for: they may crash, hang or fill the memory without harm to us.

A child is a plain subprocess that answers messages over a socket. It is no ``multiprocessing`` one, so that a
user's script needs no ``__main__`` guard, and messages are bytes: nothing is ever unpickled.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection

_GRACE_SECONDS = 2.0
_WATCH_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


class Child:
    """A process that runs ``module``, which calls :func:`serve`; started when first needed, and again after its end.

    On Linux it ends with the thread that started it: that thread must live until the child is closed, whichever
    threads use it.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._killed = False
        self._lock = threading.Lock()

    def send(self, message: bytes) -> None:
        """Sends a message.

        Raises:
            EOFError: :meth:`kill` was called.
            OSError: The process has ended, or cannot be started.
        """
        self._connect().send_bytes(message)

    def receive(self, timeout: float | None = None) -> bytes:
        """Waits for the next message of an answer, at most ``timeout`` seconds.

        Raises:
            TimeoutError: Nothing came; the process still runs.
            EOFError: The process has ended.
            OSError: The process has ended while it was writing.
        """
        connection = self._connect()
        if not connection.poll(timeout):
            raise TimeoutError
        return connection.recv_bytes()

    def fileno(self) -> int:
        """So that one can wait for several, with :func:`multiprocessing.connection.wait`."""
        return self._connect().fileno()

    def kill(self) -> None:
        """Ends the process for good, from any thread; whoever waits for its answer gets EOFError."""
        with self._lock:
            self._killed = True
            if self._process is not None:
                self._process.kill()

    def close(self, grace_seconds: float = _GRACE_SECONDS) -> str:
        """Ends the process, frees what it held, and says how it ended."""
        with self._lock:
            process, self._process = self._process, None
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if process is None:
            return "stopped"
        try:
            status = process.wait(grace_seconds)  # without its connection it ends by itself
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        return signal.strsignal(-status) or f"signal {-status}" if status < 0 else f"exit status {status}"

    def _connect(self) -> Connection:
        with self._lock:
            if self._killed:
                raise EOFError
            if self._connection is None:
                ours, theirs = socket.socketpair()
                with ours, theirs:
                    self._process = subprocess.Popen(  # noqa: S603
                        [sys.executable, "-P", "-m", self._module, str(theirs.fileno())],
                        pass_fds=[theirs.fileno()],
                        stdin=subprocess.DEVNULL,
                        process_group=0,  # Ctrl-C is for us: we seal what is computed, then end our children
                    )
                    self._connection = Connection(ours.detach())
            return self._connection


def serve(answer: Callable[[bytes], Iterable[bytes]]) -> None:
    """The child's side: answers each message with some others, until the parent hangs up or dies."""
    with connect() as connection, suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            for message in answer(connection.recv_bytes()):
                connection.send_bytes(message)


def connect() -> Connection:
    """The child's side: what leads to the parent, without whom this process ends."""
    if sys.platform == "linux":  # the kernel ends this process, whatever hangs in it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    threading.Thread(target=_end_with_parent, args=[os.getppid()], daemon=True).start()
    return Connection(int(sys.argv[1]))


def _end_with_parent(parent: int) -> None:
    """Ends this process once its parent was killed, unless something hangs in it that lets no other thread run."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)
