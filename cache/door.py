"""A package as a door for Python: what it offers is loaded when it is asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any


class Door(ModuleType):
    """A package that knows in which of its modules each of its names is, and loads them one by one.

    A function may have the name of its module, as ``fit`` has: whoever imports the module does not take the
    function's place, as Python would have it.
    """

    _homes: Mapping[str, str] = {}

    def __getattr__(self, name: str) -> Any:
        if name not in self._homes:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{self.__name__}.{self._homes[name]}"), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in self._homes and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._homes})


def open_door(package: str, homes: Mapping[str, str]) -> None:
    """Makes a door of a package.

    Args:
        package: Its full name.
        homes: The names that it offers, each with its module within the package.
    """
    module = sys.modules[package]
    module.__class__ = Door
    module.__dict__["_homes"] = homes
