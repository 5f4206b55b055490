"""A user's own code by name, and native libraries kept quiet."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from framecache.cache import InputError
from framecache.cache.plugins import import_callable
from framecache.cache.quiet import quiet_stderr


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    return tmp_path


def test_a_module_of_the_working_directory_is_found(working_directory: Path) -> None:
    (working_directory / "my_models.py").write_text("def build():\n    return 7\n")
    assert import_callable("my_models:build", "--model")() == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "my_gone:build",
            r"--model my_gone:build: cannot be imported \(No module named 'my_gone'\); expected module:call",
        ),
        ("os:gone", r"--model os:gone: cannot be imported \(module 'os' has no attribute 'gone'"),
        ("os", r"--model os: cannot be imported \("),
        (":build", r"--model :build: cannot be imported \("),
        ("os:sep", "--model os:sep: expected a callable, found str"),
    ],
)
@pytest.mark.usefixtures("working_directory")
def test_what_is_no_callable_is_refused_with_the_flag(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_callable(name, "--model")


def chatter() -> None:
    os.write(2, b"native\n")
    print("python", file=sys.stderr)


def test_chatter_is_held_back(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", os.fdopen(2, "w", closefd=False))  # as outside of tests
    print("before", file=sys.stderr)
    with quiet_stderr():
        chatter()
    print("after", file=sys.stderr, flush=True)
    assert capfd.readouterr().err.splitlines() == ["before", "after"]


def test_chatter_before_an_error_is_given_out(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", os.fdopen(2, "w", closefd=False))

    def fail() -> None:
        with quiet_stderr():
            chatter()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    print("after", file=sys.stderr, flush=True)
    assert capfd.readouterr().err.splitlines() == ["native", "python", "after"]


def free_descriptors() -> list[int]:
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
    for descriptor in opened:
        os.close(descriptor)
    return opened


def test_held_back_chatter_leaves_no_open_files() -> None:
    before = free_descriptors()
    with quiet_stderr():
        chatter()
    with pytest.raises(ZeroDivisionError), quiet_stderr():
        raise ZeroDivisionError
    assert free_descriptors() == before
