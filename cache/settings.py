"""What the dataclasses of settings share, so that they are as easy to give in Python as in a shell."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

RARE = {"rare": True}  # metadata of a field that few change: --help leaves it to --help-all


def accept_text(config: Any) -> None:
    """Takes text where a path is expected, and one text or a list where a tuple is; for ``__post_init__``.

    Args:
        config: A frozen dataclass whose annotations are text.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, str) and "Path" in str(field.type):
            object.__setattr__(config, field.name, Path(value))
        elif isinstance(value, str | list) and str(field.type).startswith("tuple"):
            object.__setattr__(config, field.name, (value,) if isinstance(value, str) else tuple(value))


def changed(config: Any) -> str:
    """``FitConfig(model='gru', units=64)``: what is not by default, without the credentials of a URL."""
    from framecache.cache.sources import public_text

    told = []
    for field in fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            told.append(f"{field.name}={(public_text(value) if isinstance(value, Path) else value)!r}")
    return f"{type(config).__name__}({', '.join(told)})"
