"""Packages that only some need: loaded when they are asked for, and named with their extra when they are not there."""

from __future__ import annotations

import importlib
from types import ModuleType

from framecache.cache.errors import InputError

_EXTRAS = {
    "pandas": "framecache[pandas]",
    "pyarrow": "framecache[parquet]",
    "pyarrow.parquet": "framecache[parquet]",
    "safetensors.numpy": "framecache[safetensors]",
    "torch": "torch",
}


def load_optional(name: str, purpose: str) -> ModuleType:
    """The module of this name.

    Args:
        name: A key of the table above.
        purpose: What it is needed for, for the error message.

    Raises:
        InputError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name.partition(".")[0]:
            raise
        raise InputError(
            f"{purpose} needs {name.partition('.')[0]}, which is not installed; pip install '{_EXTRAS[name]}'"
        ) from None
