"""What is installed is what is here."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_folder_with_modules_is_a_package_that_is_installed() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = {path.parent for room in ("cache", "extract", "train") for path in (ROOT / room).rglob("*.py")}
    assert sorted(packages) == sorted("framecache." + ".".join(path.relative_to(ROOT).parts) for path in folders)
