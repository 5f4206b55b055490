"""Scaling: a decoded picture, right way up, → RGB pixels of the CNN's size.

The crop is taken before the colour conversion and the scaling, so that only pixels that the CNN sees are ever
converted.
"""

from __future__ import annotations

import fractions
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from numpy.typing import NDArray

_SCALER_FLAGS = "accurate_rnd+full_chroma_int+bitexact"  # the same pixels on every CPU
_TIME_BASE = fractions.Fraction(1, 1000)


@dataclass(frozen=True)
class Geometry:
    """How a displayed picture becomes the CNN's input.

    Attributes:
        height: Rows of the input.
        width: Columns of the input.
        fit: ``stretch`` the whole picture, or ``crop`` the central square first.
        crop_fraction: Side of that square relative to the picture's shorter side, in (0, 1].
        interpolation: swscale's name of the resampling: ``bicubic``, ``bilinear``, …
    """

    height: int
    width: int
    fit: str = "stretch"
    crop_fraction: float = 1.0
    interpolation: str = "bilinear"


class Picture(NamedTuple):
    """A decoded frame, its time in ms and the width of its pixels relative to their height."""

    time_ms: float
    frame: VideoFrame
    pixel_aspect: float


class Scaler:
    """Crops, scales, rotates and converts frames; rebuilt whenever the picture's format changes midway."""

    def __init__(self, geometry: Geometry) -> None:
        self.warnings: list[str] = []
        self._geometry = geometry
        self._format: tuple[object, ...] = ()
        self._graph = Graph()

    def __call__(self, picture: Picture) -> NDArray[np.uint8]:
        """The picture as RGB ``(height, width, 3)`` uint8."""
        frame = picture.frame
        rotation = int(frame.rotation)
        layout = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, rotation)
        if layout != self._format:
            if self._format and layout[:2] != self._format[:2]:
                self.warnings.append(f"picture size changes to {frame.width}×{frame.height}")
            self._format = layout
            self._graph = self._build(frame, rotation, picture.pixel_aspect)
        self._graph.vpush(frame)
        rgb: NDArray[Any] = self._graph.vpull().to_ndarray()
        return rgb

    def _build(self, frame: VideoFrame, rotation: int, aspect: float) -> Graph:
        geometry = self._geometry
        sideways = rotation % 180 == 90
        # The picture is turned last, when it is small; until then height and width are those of the file.
        height, width = (geometry.width, geometry.height) if sideways else (geometry.height, geometry.width)
        filters: list[tuple[str, str]] = []
        if geometry.fit == "crop":
            side = geometry.crop_fraction * min(frame.width * aspect, frame.height)
            filters.append(("crop", f"{max(1, round(side / aspect))}:{max(1, round(side))}"))
        filters.append(("scale", f"{width}:{height}:flags={geometry.interpolation}+{_SCALER_FLAGS}"))
        filters.append(("format", "rgb24"))
        filters += _turns(rotation)
        if rotation % 90:
            self.warnings.append(f"rotation by {rotation}° is not a right angle and is not applied")
        graph = Graph()
        graph.threads = 1  # videos are decoded side by side instead
        chain = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_TIME_BASE)]
        chain += [graph.add(name, arguments) for name, arguments in filters]
        chain.append(graph.add("buffersink"))
        for one, other in pairwise(chain):
            one.link_to(other)
        graph.configure()
        return graph


def _turns(rotation: int) -> list[tuple[str, str]]:
    """FFmpeg filters that undo a display matrix's counter-clockwise rotation in degrees."""
    return {
        90: [("transpose", "cclock")],
        180: [("hflip", ""), ("vflip", "")],
        270: [("transpose", "clock")],
    }.get(rotation % 360, [])
