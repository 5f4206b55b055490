"""What one start worked out and the next need not: kept in the user's cache folder, never believed unseen.

A file's name is the hash of all that decides its content, and its content begins with a digest of the rest. A file
that is damaged, of another key, or that somebody else may have written counts as missing. Each may be deleted.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from framecache.cache import reductions
from framecache.cache.durable import PARTIAL_SUFFIX, publish
from framecache.cache.fingerprint import canonical_json, digest_parts, fingerprint

_MAX_BYTES = 1_000_000_000  # of all files; beyond it the ones unused for longest go
_PACKAGES = ("ai-edge-litert", "keras", "numpy", "tensorflow")


def recall(kind: str, key: Mapping[str, object]) -> bytes | None:
    """What was kept under this key by this software; None where there is nothing to be trusted."""
    path, key_line = _path(kind, key), _key_line(key)
    try:
        with path.open("rb") as file:
            if not _is_ours(os.fstat(file.fileno())):
                return None
            digest, found_key, content = file.readline(), file.readline(), file.read()
        if found_key != key_line or digest.decode("ascii", "replace").strip() != digest_parts(key_line, content):
            return None
        os.utime(path)  # in use: others go first
    except OSError:
        return None
    return content


def keep(kind: str, key: Mapping[str, object], content: bytes) -> None:
    """Keeps content for :func:`recall`; where the disk refuses, the next start works it out again."""
    path, key_line = _path(kind, key), _key_line(key)
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(PARTIAL_SUFFIX, ".", path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.writelines([digest_parts(key_line, content).encode() + b"\n", key_line, content])
            publish(Path(name), path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)
        _make_room(path.parent)


def folder() -> Path:
    """``$XDG_CACHE_HOME/framecache``, by default ``~/.cache/framecache``."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "framecache"


def _path(kind: str, key: Mapping[str, object]) -> Path:
    return folder() / f"{kind}-{fingerprint({**key, **_software()})[:32]}"


def _key_line(key: Mapping[str, object]) -> bytes:
    return canonical_json({**key, **_software()}).encode() + b"\n"


@cache
def _software() -> dict[str, object]:
    """Everything that another release may do in another way: packages, this code, the kind of machine."""
    sources = [*Path(__file__).parent.glob("*.py"), Path(reductions.__file__)]
    return {
        **{package: importlib.metadata.version(package) for package in _PACKAGES},
        "code": digest_parts(*(path.read_bytes() for path in sorted(sources))),
        "machine": platform.machine(),
    }


def _is_ours(stat: os.stat_result) -> bool:
    """Whether nobody but this user may have written the file; where a system does not tell, its folder decides."""
    return not hasattr(os, "getuid") or (stat.st_uid == os.getuid() and not stat.st_mode & 0o022)


def _make_room(parent: Path) -> None:
    files = sorted(((path.stat().st_mtime, path.stat().st_size, path) for path in parent.iterdir()), reverse=True)
    total = 0
    for number, (_, size, path) in enumerate(files):
        total += size
        if number and total > _MAX_BYTES:  # the newest stays, however large
            path.unlink(missing_ok=True)
