"""Files that survive a power cut: visible only when whole, and on the disk before anybody relies on them."""

from __future__ import annotations

import os
from pathlib import Path

PARTIAL_SUFFIX = ".partial"  # of hidden, temporary files: whoever holds the lock may remove them


def publish(partial: Path, path: Path) -> None:
    """Makes a closed file visible under its name, whole and durable: fsync, rename, fsync of the folder."""
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(partial, path)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Makes creations, renames and removals in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
