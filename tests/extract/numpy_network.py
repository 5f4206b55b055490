"""The extraction command with a CNN in NumPy in the place of TensorFlow's, which takes seconds to import and to trace.

All else is the command itself: what is decoded, cut into batches, stored, sealed, interrupted and told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from framecache.extract import __main__ as command
from framecache.extract import pipeline
from framecache.extract.backbones import Backbone
from framecache.extract.forward import Output
from framecache.extract.scaler import Geometry

SIDE, MAP_SIDE, CHANNELS = 16, 4, 6
POOLS = {"gap": np.mean, "gmp": np.max}


def not_built() -> NoReturn:
    raise AssertionError("the network was built")


class NumpyEngine:
    """One convolution whose stride is its size, a ReLU and the reductions."""

    name = "numpy"
    num_parallel = 1
    note = ""

    def __init__(self, outputs: Sequence[Output], batch_size: int) -> None:
        self.batch_size = batch_size
        self._pools = [POOLS[str(reduction)] for _, reduction in outputs]
        self._kernel = np.random.default_rng(0).normal(size=(4, 4, 3, CHANNELS))

    def run(self, frames: NDArray[np.uint8]) -> list[NDArray[Any]]:
        patches = frames.reshape(-1, MAP_SIDE, 4, MAP_SIDE, 4, 3) / 255
        maps = np.maximum(np.einsum("bhiwjc,ijcd->bhwd", patches, self._kernel), 0)
        return [pool(maps, axis=(1, 2)).astype(np.float32) for pool in self._pools]


def install(place: Callable[[Any, str, Any], None] = setattr) -> None:
    """Puts the network under ``--backbone`` and ``--engine``, whatever their values."""
    maps = {"late": (MAP_SIDE, MAP_SIDE, CHANNELS)}
    backbone = Backbone("numpy", "00" * 32, Geometry(SIDE, SIDE), "none", maps, not_built)
    place(pipeline, "load_backbone", lambda *_: backbone)
    place(pipeline, "make_engine", lambda _name, _backbone, outputs, batch_size, *_: NumpyEngine(outputs, batch_size))


def main() -> None:
    install()
    command.main()
