"""Errors of framecache: one family, each also a built-in, so that either name catches them.

A message says what is wrong (file, argument), what was expected, what was found and what to do next.
"""

from __future__ import annotations


class FramecacheError(Exception):
    """Root of every error that framecache raises on purpose."""

    def __str__(self) -> str:
        # KeyError's own __str__ is the repr of its argument, which would quote the whole message.
        return str(self.args[0]) if self.args else ""


class InputError(FramecacheError, ValueError):
    """Wrong usage, input or configuration; nothing was written. The commands exit with status 2."""


class SpecMismatchError(InputError):
    """Two specs that should be equal are not; the message holds the readable diff."""


class FeatureSetNotFoundError(InputError, KeyError):
    """No feature set fits the name, or several do."""


class VideoNotFoundError(FramecacheError, KeyError):
    """The feature set holds no features for this ``video_id``."""


class ShardError(FramecacheError, OSError):
    """A shard is damaged, truncated, or holds what a shard must not hold."""


class LockedError(FramecacheError, OSError):
    """Another process is writing into this feature set."""
