"""Reductions by name: what becomes of a feature map ``(h, w, C)``, in the extraction pass or from a grid set."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from framecache.cache.errors import InputError

POOLS = ("gap", "gmp", "gap+gmp", "gem", "grid")
GEM_EPSILON = 1e-6  # GeM is of positive values; what is below counts as this
_GEM_P = 3.0
_MAX_DIM = 1 << 16
_TEXT = re.compile(
    r"(?:(?P<pool>gap|gmp|gap\+gmp|gem|grid)(?:(?<=gem)[=:](?P<p>\d+(?:\.\d+)?))?(?:\.|$))?"
    r"(?P<random>random[=:](?P<dim>\d+)(?:,seed[=:](?P<seed>\d+))?)?"
)
_EXPECTED = "one of gap, gmp, gap+gmp, gem, gem=P, grid, alone or with .random=N behind it"


@dataclass(frozen=True)
class Reduction:
    """A pooling of the map's positions and, if wanted, a Gaussian random projection of the result.

    ``gap`` is the mean over all positions (global average pooling, arXiv:1312.4400), ``gmp`` the maximum,
    ``gap+gmp`` one after the other, ``gem`` the generalised mean ``mean(x ** p) ** (1 / p)`` (arXiv:1711.02512, p = 3
    there too), ``grid`` the map itself.

    Attributes:
        pool: One of :data:`POOLS`.
        p: Exponent of ``gem``.
        dim: Dimension of the random projection; 0 for none.
        seed: Seed of its matrix.
    """

    pool: str
    p: float = _GEM_P
    dim: int = 0
    seed: int = 0

    def __str__(self) -> str:
        pool = f"gem={self.p}".removesuffix(".0") if self.pool == "gem" and self.p != _GEM_P else self.pool
        seed = f",seed={self.seed}" if self.seed else ""
        return f"{pool}.random={self.dim}{seed}" if self.dim else pool

    def pooled_shape(self, map_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one frame's features before the projection, for a map ``(h, w, C)``."""
        channels = map_shape[-1]
        return {"grid": tuple(map_shape), "gap+gmp": (2 * channels,)}.get(self.pool, (channels,))

    def feature_shape(self, map_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one frame's features for a map ``(h, w, C)``."""
        return (self.dim,) if self.dim else self.pooled_shape(map_shape)


def parse_reduction(text: str) -> Reduction:
    """Reads ``gap``, ``gem=4``, ``grid.random=256`` and the like; ``random=256`` alone is of ``gap``.

    Raises:
        InputError: It is none of these.
    """
    match = _TEXT.fullmatch(text.strip())
    found = match.groupdict() if match and text.strip() and not text.strip().endswith(".") else {}
    p, dim, seed = float(found.get("p") or _GEM_P), int(found.get("dim") or 0), int(found.get("seed") or 0)
    if not found or not 0 < p <= 100:
        near = difflib.get_close_matches(text, POOLS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"--reduce {text!r}: expected {_EXPECTED}{hint}")
    if found["random"] and not 1 <= dim <= _MAX_DIM:
        raise InputError(f"--reduce {text!r}: expected 1 to {_MAX_DIM} dimensions, found {dim}")
    if seed >= 1 << 32:
        raise InputError(f"--reduce {text!r}: expected a seed of 0 to {(1 << 32) - 1}, found {seed}")
    return Reduction(found["pool"] or "gap", p, dim, seed)


def random_matrix(num_rows: int, dim: int, seed: int) -> NDArray[np.float32]:
    """Gaussian random projection ``(num_rows, dim)``, variance ``1 / dim``: it keeps distances on average.

    With ``dim >= 4 ln n / (e²/2 - e³/3)`` all distances between ``n`` points stay within a factor of 1 ± e with
    high probability (Johnson-Lindenstrauss; Dasgupta and Gupta 2003). Of NumPy's generators it is RandomState whose
    numbers are promised to stay the same for ever (NEP 19).
    """
    normal: NDArray[np.float64] = np.random.RandomState(seed).standard_normal((num_rows, dim))
    return (normal / math.sqrt(dim)).astype(np.float32)


def pool_maps(reduction: Reduction, maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pools maps ``(n, h, w, C)`` as the extraction pass does, to float32 rounding."""
    if reduction.pool == "grid":
        return maps
    mean: NDArray[np.float32] = maps.mean(axis=(1, 2))
    largest: NDArray[np.float32] = maps.max(axis=(1, 2))
    if reduction.pool == "gem":
        raised = np.maximum(maps, GEM_EPSILON) ** np.float32(reduction.p)
        mean = raised.mean(axis=(1, 2)) ** np.float32(1 / reduction.p)
    return {"gmp": largest, "gap+gmp": np.concatenate([mean, largest], axis=-1)}.get(reduction.pool, mean)
