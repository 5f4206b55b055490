"""How every door behaves: options from dataclasses and TOML, one-line errors, exit statuses.

0 all well; 1 not everything could be done; 2 wrong usage, input or configuration; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Toml

from framecache.cache.errors import FramecacheError, InputError, LockedError, ShardError

OK, SOME_FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
HELP_ALL = "--help-all"


class Door(App):
    """A command-line application, and each of its commands, with help that fits one screen."""

    tells_all = False

    def help_print(
        self,
        tokens: Annotated[str | Iterable[str] | None, Parameter(show=False)] = None,
        *,
        console: Annotated[Any, Parameter(parse=False)] = None,
    ) -> None:
        """Prints the help of the command that the tokens name."""
        from framecache.cache.help import print_help  # here, since few ask

        names, apps, _ = self.parse_commands(tokens)
        print_help((self.name[0], *names), apps[-1], console or apps[-1].console, self.tells_all)


def make_app(name: str, summary: str) -> Door:
    """An empty command-line application with the house rules: its own help, no negative form of a list."""
    return Door(
        name=name,
        help=summary,
        default_parameter=Parameter(negative_iterable=()),
        help_flags=["--help", "-h", HELP_ALL],
        help_format="plaintext",
        version=_version,
        version_flags=["--version"],
        end_of_options_delimiter="--",
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )


def _version() -> str:
    import importlib.metadata  # here, since few ask

    return importlib.metadata.version("framecache")


def run(app: Door, arguments: Sequence[str] | None = None) -> int:
    """Runs a command and turns every expected error into one line on standard error and a status.

    Args:
        app: The application; its commands return their status, or None for 0.
        arguments: The command line; by default the process's own.

    Returns:
        The exit status.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before a command imports TensorFlow, which is chatty
    words = list(sys.argv[1:] if arguments is None else arguments)
    kept = app.config
    try:
        words = _take_config(app, words)
        app.tells_all = HELP_ALL in (words[: words.index("--")] if "--" in words else words)
        status = app(words, exit_on_error=False, print_error=False)
        sys.stdout.flush()
        return int(status or OK)
    except CycloptsError as error:
        return _fail(f"{_plain(error)} (see {app.name[0]} --help)", WRONG)
    except (InputError, LockedError, ShardError) as error:
        return _fail(str(error), WRONG)
    except FramecacheError as error:
        return _fail(str(error), SOME_FAILED)
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SOME_FAILED
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        return _fail(f"{what}; what was sealed stays: mend this and run the same command again", SOME_FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again", INTERRUPTED)
    finally:
        app.config = kept


def _take_config(app: App, words: list[str]) -> list[str]:
    """Takes ``--config FILE.toml`` off the command line; its keys are the flags' names, and flags win."""
    rest: list[str] = []
    given = iter(words)
    for word in given:
        name, equals, value = word.partition("=")
        if name != "--config":
            rest.append(word)
            continue
        path = value if equals else next(given, "")
        if not os.path.isfile(path):
            raise InputError(f"--config {path!r}: no such file; expected a TOML file whose keys are flags' names")
        config = Toml(path, use_commands_as_keys=False)
        try:
            config.config  # noqa: B018  (reads the file)
        except (CycloptsError, ValueError) as error:
            raise InputError(f"--config {path}: not TOML ({error})") from error
        app.config = (config, *(app.config or ()))  # what comes first wins
    return rest


def _plain(error: CycloptsError) -> str:
    """A parser error as one line of plain text."""
    from rich.console import Console  # here, since few commands end so

    console = Console(width=10_000, no_color=True)
    with console.capture() as capture:
        console.print(str(error).strip(), markup=False, highlight=False)
    return " ".join(capture.get().split())


def _fail(message: str, status: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status


def format_bytes(count: float) -> str:
    """``1234567`` → ``1.2 MB``, in powers of 1000."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.95:  # beyond it, one decimal would show 1000.0
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"
