"""A folder in which the README's commands can be typed as they stand, with a CNN that costs nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray

from framecache.cache.exchange.tfrecord import sequence_example_class, write_record
from framecache.cache.reductions import Reduction, pool_maps
from framecache.extract import pipeline, render
from framecache.extract.backbones import Backbone
from framecache.extract.scaler import Geometry
from tests.extract.test_layouts import lay_out_ucf101

SIDE, MAP_SIDE, PATCH, CHANNELS = 16, 2, 8, 320  # of which 256 principal components can be taken
SCENES = {"train": 8, "val": 1, "test": 1}
PAIRS = (("zoom-in", "zoom-out"), ("focus", "defocus"))


class NumpyEngine:
    """One convolution, a sine (of few clips, frames vary in many directions), and a derivation's reductions."""

    name = "numpy"
    num_parallel = 1
    note = ""

    def __init__(self, outputs: Sequence[tuple[str, Reduction]], batch_size: int) -> None:
        self.batch_size = batch_size
        self._reductions = [reduction for _, reduction in outputs]
        self._kernel = np.random.default_rng(0).normal(size=(PATCH, PATCH, 3, CHANNELS)).astype(np.float32)

    def run(self, frames: NDArray[np.uint8]) -> list[NDArray[Any]]:
        patches = frames.reshape(-1, MAP_SIDE, PATCH, MAP_SIDE, PATCH, 3).astype(np.float32) / 255
        maps = 1 + np.sin(np.einsum("bhiwjc,ijcd->bhwd", patches, self._kernel, optimize=True))
        return [pool_maps(reduction, maps) for reduction in self._reductions]


def not_built() -> NoReturn:
    raise AssertionError("the network was built")


def install_network(place: Callable[[Any, str, Any], None]) -> None:
    """Puts a small CNN in NumPy in the place of every backbone, under the name of the default one."""
    maps = {"late": (MAP_SIDE, MAP_SIDE, CHANNELS)}
    backbone = Backbone("efficientnet-lite0", "00" * 32, Geometry(SIDE, SIDE), "none", maps, not_built)
    place(pipeline, "load_backbone", lambda *_: backbone)
    place(pipeline, "make_engine", lambda _name, _backbone, outputs, batch_size, *_: NumpyEngine(outputs, batch_size))


def furnish(patch: pytest.MonkeyPatch) -> None:
    """Puts into the working directory all that the README's commands read: videos and files of other tools."""
    for pair in set(render.PAIRS) - set(PAIRS):
        patch.delitem(render.PAIRS, pair)
    for split, count in SCENES.items():
        patch.setitem(render.NUM_SCENES, split, count)
    patch.setattr(render, "SIZE", 64)
    assert render.main(["sample"]) == 0
    sample = Path("sample")
    for copy in ("videos", "handwash"):
        shutil.copytree(sample, copy)
    clip = sample / "zoom-in/scene-009.mp4"
    shutil.copy(clip, sample / "zoom-in/scene-021.mp4")  # the README names one of the whole sample's test clips
    shutil.copy(clip, "clip.mp4")
    Path("new-videos").mkdir()
    shutil.copy(clip, "new-videos/other.mp4")
    lay_out_ucf101(
        Path("UCF101"), lambda path: (path.parent.mkdir(parents=True, exist_ok=True), shutil.copy(clip, path))
    )
    arrays = Path("output/resnet/resnet50")  # as video_features writes them
    arrays.mkdir(parents=True)
    for key, value in {
        "resnet": np.ones((5, 8), np.float32),
        "fps": np.array(25.0),
        "timestamps_ms": np.arange(5.0),
    }.items():
        np.save(arrays / f"a_{key}.npy", value)
    example = sequence_example_class()()  # as YouTube-8M has them
    example.context.feature["id"].bytes_list.value.append(b"abcd")
    for key, width in (("rgb", 1024), ("audio", 128)):
        for _ in range(3):
            example.feature_lists.feature_list[key].feature.add().bytes_list.value.append(bytes(width))
    Path("yt8m").mkdir()
    with Path("yt8m/train00.tfrecord").open("wb") as stream:
        write_record(stream, example.SerializeToString())
