"""What the README tells its readers to type: commands, Python, TOML and options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
PROGRAMS = ("make", "framecache", "framecache-extract", "framecache-train", "python")
DATA = ("path,label,split,group", "features/efficientnet-lite0.gap-36f7c2d3/")  # first lines of blocks without commands


@dataclass(frozen=True)
class Block:
    """An indented or fenced block: its kind (text, console, python, toml) and its lines."""

    kind: str
    lines: tuple[str, ...]


def read_blocks(text: str) -> Iterator[Block]:
    """Every block, in order; the indentation is taken off."""
    for kind, lines in _parts(text):
        if kind:
            yield Block(kind, tuple(lines))


def _parts(text: str) -> Iterator[tuple[str, list[str]]]:
    """Stretches of lines with their kind: that of a block, or an empty one for all else."""
    kind, lines, is_fenced = "", [], False
    for line in text.splitlines():
        was, is_fence = kind, line.startswith("```")
        if is_fence:
            is_fenced = not is_fenced
            kind = line.removeprefix("```") if is_fenced else ""
        elif not is_fenced:
            kind = "text" if line.startswith("    ") else ""
        if was != kind or is_fence:
            yield was, lines
            lines = []
        if not is_fence:
            lines.append(line if is_fenced else line.removeprefix("    "))
    yield kind, lines


def commands_of(block: Block) -> list[str]:
    """Its command lines, joined where they go on and without comments."""
    lines = list(block.lines)
    if block.kind == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    elif block.kind != "text" or lines[0] in DATA:
        return []
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [" ".join(re.sub(r"\s+# .*", "", line).split()) for line in joined]


def read_commands(text: str) -> list[str]:
    """Every command line of a block, in order, and then those within sentences."""
    in_blocks = [line for block in read_blocks(text) for line in commands_of(block)]
    return list(dict.fromkeys([*in_blocks, *(span for span in read_spans(text) if is_command(span))]))


def is_command(span: str) -> bool:
    """Whether code within a sentence is a command with its arguments."""
    program, _, rest = span.partition(" ")
    return program in PROGRAMS and bool(rest)


def read_spans(text: str) -> list[str]:
    """Code within sentences and tables."""
    prose = "\n".join(line for kind, lines in _parts(text) if not kind for line in lines)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def read_rows(text: str, first_cells: str) -> list[list[str]]:
    """Rows of the first table whose header begins so."""
    table = text.partition(f"\n| {first_cells}")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()[2:]]
