"""What ``--help`` prints: one screen per command, with its examples; ``--help-all`` prints the rest of it too.

A command's docstring begins with what it does. Its examples follow, a line ``Example: …`` each, and what stands behind
them is left to ``--help-all``, as are settings that few change (``RARE``) and what texts say beyond a first sentence.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from framecache.cache.cli import HELP_ALL
from framecache.cache.settings import RARE

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.argument import Argument
    from rich.console import Console

_EXAMPLE = "Example: "
_WIDEST = 120  # longer lines are hard to read
_MAX_LABEL = 26  # a longer label has a line of its own
_PLACEHOLDERS = {int: "N", float: "X", Path: "PATH"}

Row = tuple[str, str]


def print_help(names: Sequence[str], app: App, console: Console, tells_all: bool) -> None:
    """Prints a command's help, coloured where the console is."""
    from rich.text import Text

    text = Text(help_page(names, app, console.width, tells_all))
    text.highlight_regex(r"(?m)^\w+:", "bold")
    text.highlight_regex(r"(?<![\w-])--?[a-z][a-z-]*", "cyan")
    console.print(text, soft_wrap=True)


def help_page(names: Sequence[str], app: App, width: int, tells_all: bool = False) -> str:
    """The help of a command.

    Args:
        names: The words that call it, such as ``("framecache-train", "fit")``.
        app: The command.
        width: Columns of the terminal.
        tells_all: Whether rare settings and all their texts are told too.
    """
    width = min(width, _WIDEST)
    intro, examples, rest = _told(app)
    arguments = list(app.assemble_argument_collection(parse_docstring=True)) if app.default_command else []
    fields = _fields(app)
    arguments = sorted((one for one in arguments if one.show), key=lambda one: _position(one, list(fields)))
    words = [one for one in arguments if one.field_info.is_positional]
    flags = [one for one in arguments if not one.field_info.is_positional]
    shown = [one for one in flags if tells_all or one.name not in fields or fields[one.name].metadata != RARE]
    options = [(_label(one), _text(one, tells_all)) for one in shown]
    commands = [(name, _first_sentence(_told(app[name])[0][0])) for name in app if not name.startswith("-")]
    if flags:
        options.append(("--config FILE", "TOML file that has flags' names as keys; flags win"))
    if not tells_all and (rest or any(_text(one, True) != _text(one, False) for one in arguments) or shown != flags):
        options.append((HELP_ALL, f"All {len(flags)} settings, and all about them"))
    if commands:
        options.append(("COMMAND --help", "One screen about a command"))
    if len(names) == 1:
        options.append(("--version", "The version"))
    parts = [
        textwrap.fill(f"Usage: {_usage(names, bool(commands), words, flags)}", width, subsequent_indent="    "),
        *(_prose(paragraph, width) for paragraph in intro),
        _section("Examples", [_shell_lines(example, width) for example in examples]),
        *(_prose(paragraph, width) for paragraph in rest if tells_all),
        _section("Commands", _rows(commands, width)),
        _section("Arguments", _rows([(_label(one), _text(one, tells_all)) for one in words], width)),
        _section("Options", _rows(options, width)),
    ]
    return "\n\n".join(filter(None, parts))


def examples_of(app: App) -> list[str]:
    """The command lines that a command's help shows."""
    return _told(app)[1]


def _told(app: App) -> tuple[list[str], list[str], list[str]]:
    """Paragraphs before the examples, the examples, paragraphs behind them."""
    before: list[str] = []
    examples: list[str] = []
    behind: list[str] = []
    for paragraph in re.split(r"\n\n+(?! )", inspect.cleandoc(app.help)):
        if paragraph.startswith(_EXAMPLE):
            examples += [line.removeprefix(_EXAMPLE) for line in paragraph.splitlines()]
        else:
            (behind if examples else before).append(paragraph)
    return before, examples, behind


def _fields(app: App) -> dict[str, dataclasses.Field[Any]]:
    """A command's settings by their flags; those of a dataclass before those that it inherits."""
    found: dict[str, dataclasses.Field[Any]] = {}
    for hint in get_type_hints(app.default_command).values() if app.default_command else ():
        for kind in filter(dataclasses.is_dataclass, (hint, *get_args(hint))):
            fields = {field.name: field for field in dataclasses.fields(kind)}
            for base in inspect.getmro(kind):  # type: ignore[arg-type]  # a class, as it comes from an annotation
                for name in inspect.get_annotations(base):
                    found.setdefault("--" + name.replace("_", "-"), fields[name])
    return found


def _position(argument: Argument, settings: list[str]) -> int:
    return settings.index(argument.name) if argument.name in settings else len(settings)


def _usage(names: Sequence[str], has_commands: bool, words: Sequence[Argument], flags: Sequence[Argument]) -> str:
    told = [*names, *(["COMMAND"] if has_commands else [])]
    for argument in words:
        label = _label(argument) + ("..." if get_origin(_plain(argument.hint)) is tuple else "")
        told.append(label if argument.required else f"[{label}]")
    told += [_label(argument) for argument in flags if argument.required]
    return " ".join([*told, *(["[OPTIONS]"] if flags else [])])


def _label(argument: Argument) -> str:
    """``--units N``, or ``SET``."""
    if argument.field_info.is_positional:
        return argument.name.lstrip("-").upper()
    if _plain(argument.hint) is bool:
        return ", ".join(argument.names if argument.field_info.default is True else argument.names[:1])
    is_list = argument.parameter.consume_multiple and get_origin(_plain(argument.hint)) is tuple
    return f"{argument.name} {_placeholder(argument.hint)}{'...' if is_list else ''}"


def _plain(hint: Any) -> Any:
    """A type without ``None`` and what else annotates it."""
    members = [member for member in get_args(hint) if member is not type(None)]
    return members[0] if len(members) == 1 and get_origin(hint) not in (Literal, tuple) else hint


def _placeholder(hint: Any) -> str:
    hint = _plain(hint)
    if get_origin(hint) is Literal:
        return "NAME"
    return _placeholder(get_args(hint)[0]) if get_origin(hint) is tuple else _PLACEHOLDERS.get(hint, "TEXT")


def _text(argument: Argument, tells_all: bool) -> str:
    """What a setting is, what it may be, and what it is by default."""
    told = " ".join((argument.parameter.help or "").split())
    told = told if tells_all else _first_sentence(told)
    value = argument.field_info.default
    kinds = argument.get_choices() or ()
    facts = ["required"] if argument.required and not argument.field_info.is_positional else []
    facts += [" ".join(f"{kind}" for kind in kinds).replace(" ", ", ")] if kinds else []
    facts += [f"default {_value(value)}"] if not argument.required and _value(value) else []
    return f"{told.rstrip('.')} ({'; '.join(facts)})" if facts else told.rstrip(".")


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s+(?=[A-Z])", " ".join(text.split()), maxsplit=1)[0].rstrip(".")


def _prose(paragraph: str, width: int) -> str:
    """Lines of running text, wrapped; what is indented in the docstring stays as it is."""
    text, *verbatim = re.split(r"\n\n(?= )", paragraph)
    return "\n\n".join([textwrap.fill(" ".join(text.split()), width, break_on_hyphens=False), *verbatim])


def _shell_lines(command: str, width: int) -> str:
    """A command, on several lines of a shell where one is too short."""
    if len(command) <= width - 2:
        return f"  {command}"
    joined = re.sub(r"( --[\w-]+) (?!-)", "\\1\xa0", command)  # a flag stays with its value
    lines = textwrap.wrap(joined, width - 8, break_on_hyphens=False, break_long_words=False)
    return "  " + " \\\n      ".join(lines).replace("\xa0", " ")


def _rows(rows: Sequence[Row], width: int) -> Iterator[str]:
    """Labels on the left, texts on the right."""
    column = max((len(label) for label, _ in rows if len(label) <= _MAX_LABEL), default=0) + 4
    for label, text in rows:
        lines = textwrap.wrap(text, max(width - column, 20), break_on_hyphens=False)
        if len(label) > column - 4:
            lines.insert(0, "")
        yield f"\n{' ' * column}".join([f"  {label}".ljust(column) + (lines[0] if lines else ""), *lines[1:]]).rstrip()


def _section(title: str, lines: Sequence[str] | Iterator[str]) -> str:
    body = "\n".join(lines)
    return f"{title}:\n{body}" if body else ""
