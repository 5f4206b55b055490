"""``--help`` of every command is one screen with examples, and ``--help-all`` leaves nothing out."""

from __future__ import annotations

import io
import shlex
from types import SimpleNamespace

import pytest
from cyclopts import App
from rich.console import Console

from framecache.cache.__main__ import app as cache_app
from framecache.cache.cli import Door, make_app, run
from framecache.cache.help import examples_of, help_page, print_help
from framecache.extract.__main__ import app as extract_app
from framecache.train.__main__ import app as train_app
from framecache.train.config import FitConfig

DOORS = {door.name[0]: door for door in (cache_app, extract_app, train_app)}
COMMANDS: dict[tuple[str, ...], App] = {
    **{(name,): door for name, door in DOORS.items()},
    **{(name, word): door[word] for name, door in DOORS.items() for word in door if not word.startswith("-")},
}
NUM_LINES = {100: 48, 80: 60}  # of a screen, by its columns

each_command = pytest.mark.parametrize("names", COMMANDS, ids=" ".join)


def settings_of(app: App) -> dict[str, str]:
    """Text of each setting, by its flag or its place's name."""
    arguments = app.assemble_argument_collection(parse_docstring=True) if app.default_command else ()
    return {one.name: " ".join((one.parameter.help or "").split()).rstrip(".") for one in arguments if one.show}


def test_every_command_is_looked_at() -> None:
    assert {("framecache", "ls"), ("framecache-extract",), ("framecache-train", "fit")} <= set(COMMANDS)
    assert len(COMMANDS) >= 18


@each_command
@pytest.mark.parametrize("width", NUM_LINES)
def test_help_fits_one_screen(names: tuple[str, ...], width: int) -> None:
    lines = help_page(names, COMMANDS[names], width).splitlines()
    assert len(lines) <= NUM_LINES[width]
    assert max(map(len, lines)) <= width
    assert lines[0].startswith(f"Usage: {' '.join(names)}")


@each_command
def test_help_all_says_everything_of_every_setting(names: tuple[str, ...]) -> None:
    page = help_page(names, COMMANDS[names], 100, tells_all=True)
    told = " ".join(page.split())
    for name, text in settings_of(COMMANDS[names]).items():
        assert text, f"{name} has no help"
        assert text in told
        assert (name if name.startswith("-") else name.upper()) in page


@each_command
def test_help_that_leaves_something_out_says_where_it_is(names: tuple[str, ...]) -> None:
    app = COMMANDS[names]
    page, whole = (help_page(names, app, 100, tells_all) for tells_all in (False, True))
    named = [f"{name} " in page or f"{name}\n" in page for name in settings_of(app) if name.startswith("-")]
    flags = len(named)
    if "--help-all" in page:
        assert f"--help-all  All {flags} settings" in " ".join(page.split()).replace("--help-all ", "--help-all  ")
        assert len(whole) > len(page)
    else:
        assert page == whole
        assert all(named)
    assert "--help-all" not in whole


@each_command
def test_examples_are_of_the_command_and_parse(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framecache.train.repeat.open_run", lambda _: SimpleNamespace(config=FitConfig))
    examples = examples_of(COMMANDS[names])
    assert examples
    for example in examples:
        words = shlex.split(example.rpartition("|")[2])
        assert tuple(words[: len(names)]) == names
        DOORS[names[0]].parse_args(words[1:], exit_on_error=False, print_error=False)


def test_an_example_on_several_lines_is_the_same_in_a_shell() -> None:
    app = train_app["fidelity"]
    page = help_page(("framecache-train", "fidelity"), app, 60)
    shown = page.partition("Examples:\n")[2].partition("\n\n")[0]
    assert shown.count("\\\n") > 0
    assert [shlex.split(shown.replace("\\\n", ""))] == [shlex.split(example) for example in examples_of(app)]


@pytest.mark.parametrize(
    ("words", "tells_all"),
    [
        (["fit", "--help"], False),
        (["fit", "-h"], False),
        (["fit", "--help-all"], True),
        (["--help-all", "fit"], True),
        (["fit", "SET", "--units", "3", "--help-all"], True),
    ],
)
def test_either_help_may_stand_anywhere(words: list[str], tells_all: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(train_app, words) == 0
    assert ("--near-duplicate X" in capsys.readouterr().out) is tells_all


def other() -> tuple[Door, list[str]]:
    """A command that takes anything, and what it took."""
    door, taken = make_app("other", "Take words."), []

    def take(*words: str) -> None:
        """Take them."""
        taken.extend(words)

    door.command(take, name="take")
    return door, taken


def test_behind_two_dashes_help_is_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    door, taken = other()
    assert run(door, ["take", "--", "--help-all"]) == 0
    assert (taken, capsys.readouterr().out) == (["--help-all"], "")


def test_what_was_asked_for_once_is_not_told_again(capsys: pytest.CaptureFixture[str]) -> None:
    run(train_app, ["fit", "--help-all"])
    run(train_app, ["fit", "--help"])
    assert capsys.readouterr().out.count("--near-duplicate X") == 1


def test_help_for_a_command_that_is_none_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(train_app, ["fitt", "--help-all"]) == 2
    assert '"fitt"' in capsys.readouterr().err


def test_colours_are_for_terminals() -> None:
    for is_terminal in (False, True):
        printed = io.StringIO()
        console = Console(file=printed, force_terminal=is_terminal, color_system="standard" if is_terminal else None)
        print_help(("framecache", "ls"), cache_app["ls"], console, tells_all=False)
        assert ("\x1b[36m--cache\x1b[0m PATH" in printed.getvalue()) is is_terminal
        assert ("\x1b" in printed.getvalue()) is is_terminal
