"""A user's own code, named as ``module:callable``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from framecache.cache.errors import InputError


def import_callable(name: str, flag: str) -> Callable[..., Any]:
    """The callable that ``module:callable`` means; modules of the working directory count too.

    Args:
        name: ``module:callable``.
        flag: The option that named it, for the error message.

    Raises:
        InputError: There is none.
    """
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a user's module may raise anything while it is imported
        raise InputError(f"{flag} {name}: cannot be imported ({error}); expected module:callable") from error
    if not callable(found):
        raise InputError(f"{flag} {name}: expected a callable, found {type(found).__name__}")
    return found  # type: ignore[no-any-return]
