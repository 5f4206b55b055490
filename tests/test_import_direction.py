"""Imports run one way: the cache knows nobody, extraction knows the cache, training knows the cache."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOADERS = ("import_module", "__import__", "load_optional")
HEAVY = ("tensorflow", "keras", "torch", "jax", "ai_edge_litert")
FORBIDDEN = {
    "cache": ("framecache.extract", "framecache.train", *HEAVY),
    "extract": ("framecache.train",),
    "train": ("framecache.extract",),
}
# What the cache hands to TensorFlow and PyTorch: each of these modules may load one of them, when it is called.
READERS = {"cache/exchange/tf_dataset.py": "tensorflow", "cache/exchange/torch_dataset.py": "torch"}
SERVING = ROOT / "train" / "serving"  # new videos and export: the part of training that may extract
FILES = [path for room in FORBIDDEN for path in sorted((ROOT / room).rglob("*.py")) if SERVING not in path.parents]


def imported_modules(source: str, package: str) -> Iterator[str]:
    """Every module that a source text names in an import, wherever in the text it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(LOADERS):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def forbidden_imports(source: str, room: str) -> list[str]:
    modules = imported_modules(source, f"framecache.{room}")
    return [name for name in modules if any(f"{name}.".startswith(f"{bad}.") for bad in FORBIDDEN[room])]


class _WithoutFunctions(ast.NodeTransformer):
    """Leaves what runs when a module is imported."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.body = [ast.Pass()]
        return node


def loaded_at_import(source: str) -> str:
    return ast.unparse(_WithoutFunctions().visit(ast.parse(source)))


def test_every_room_has_files() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(FORBIDDEN)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    room, source = path.relative_to(ROOT).parts[0], path.read_text(encoding="utf-8")
    allowed = READERS.get(path.relative_to(ROOT).as_posix())
    assert [name for name in forbidden_imports(source, room) if name.partition(".")[0] != allowed] == []
    assert forbidden_imports(loaded_at_import(source), room) == []


def test_the_exceptions_are_used_and_only_within_functions() -> None:
    for name, allowed in READERS.items():
        source = (ROOT / name).read_text(encoding="utf-8")
        assert [found.partition(".")[0] for found in forbidden_imports(source, "cache")] == [allowed]
    assert forbidden_imports(loaded_at_import("class A:\n    import torch"), "cache")
    assert not forbidden_imports(loaded_at_import("def f():\n    import torch"), "cache")


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("cache", "import tensorflow as tf"),
        ("cache", "def f():\n    from keras import layers"),
        ("cache", "from framecache import extract"),
        ("cache", "from ..train import fit"),
        ("cache", "import importlib\nimportlib.import_module('tensorflow')"),
        ("cache", "load_optional('torch', 'x')"),
        ("cache", "try:\n    import os\nexcept ImportError:\n    import framecache.extract.video"),
        ("extract", "from framecache.train.fit import fit"),
        ("train", "from framecache.extract import extract"),
    ],
)
def test_a_wrong_import_would_be_noticed(room: str, source: str) -> None:
    assert forbidden_imports(source, room)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("cache", "import numpy\nfrom framecache.cache.errors import InputError\nfrom . import reader"),
        ("cache", "import tensorflow_free_zone"),
        ("extract", "import tensorflow\nfrom framecache.cache import Spec"),
        ("train", "import keras\nfrom framecache.cache import open_cache"),
    ],
)
def test_a_right_import_is_no_false_alarm(room: str, source: str) -> None:
    assert forbidden_imports(source, room) == []


IMPORT_ALL = """
import importlib, json, sys
loaded = {}
for name in (*sys.argv[1:], "framecache.cache", "framecache.train", "framecache.extract"):
    before = set(sys.modules)
    importlib.import_module(name)
    loaded[name] = sorted(set(sys.modules) - before)
print(json.dumps(loaded))
"""


def test_importing_the_packages_loads_no_tensorflow() -> None:
    files = [path for path in (ROOT / "cache").rglob("*.py") if not path.stem.startswith("__")]
    cache = ["framecache." + ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    command = [sys.executable, "-c", IMPORT_ALL, *cache]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    loaded = json.loads(ended.stdout)
    for modules in loaded.values():
        assert not {name.partition(".")[0] for name in modules} & set(HEAVY)
    assert not [
        name for name in loaded["framecache.cache"] if name.startswith(("framecache.train", "framecache.extract"))
    ]
    assert not [name for name in loaded["framecache.train"] if name.startswith("framecache.extract")]
