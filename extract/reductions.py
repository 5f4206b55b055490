"""Reductions: a feature map → the features of one frame."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from framecache.cache.errors import InputError

Tensor = Any  # a TensorFlow tensor; its library is only imported where it computes


def _gap(maps: Tensor) -> Tensor:
    import tensorflow as tf

    return tf.reduce_mean(maps, axis=(1, 2))


def _gmp(maps: Tensor) -> Tensor:
    import tensorflow as tf

    return tf.reduce_max(maps, axis=(1, 2))


def _gap_gmp(maps: Tensor) -> Tensor:
    import tensorflow as tf

    return tf.concat([_gap(maps), _gmp(maps)], axis=-1)


_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gap": _gap,
    "gmp": _gmp,
    "gap+gmp": _gap_gmp,
    "grid": lambda maps: maps,
}
REDUCTION_NAMES = tuple(_REDUCTIONS)


def check_reduction(name: str) -> None:
    """Refuses a name that is no reduction.

    Raises:
        InputError: Naming all, and the nearest.
    """
    if name not in _REDUCTIONS:
        near = difflib.get_close_matches(name, REDUCTION_NAMES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"--reduce {name!r}: expected one of {', '.join(REDUCTION_NAMES)}{hint}")


def reduce_maps(name: str, maps: Tensor) -> Tensor:
    """Reduces feature maps ``(B, h, w, C)`` to ``(B, *feature_shape)``, in the maps' dtype.

    ``gap`` is the mean over all positions (global average pooling, arXiv:1312.4400), ``gmp`` the maximum,
    ``gap+gmp`` one after the other, ``grid`` the map itself.
    """
    return _REDUCTIONS[name](maps)


def feature_shape(name: str, map_shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Shape of one frame's features for a map ``(h, w, C)``."""
    return {"gap": map_shape[2:], "gmp": map_shape[2:], "gap+gmp": (2 * map_shape[2],), "grid": map_shape}[name]
