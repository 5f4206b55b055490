"""Videos rendered for the tests and a CNN small enough to run hundreds of times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

TINY_BACKBONE = """
import keras
from keras import layers

def build(seed=0):
    keras.utils.set_random_seed(seed)
    frames = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 255)(frames)
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="early")(x)
    x = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="late")(x)
    return keras.Model(frames, layers.Dense(3, name="top")(layers.GlobalAveragePooling2D()(x)))

def other():
    return build(seed=1)

def large():
    frames = keras.Input((16, 16, 3))
    return keras.Model(frames, layers.Rescaling(1e4, name="late")(frames))

def not_a_model():
    return 7

def sequential():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((16, 16, 3)), layers.Conv2D(4, 3, strides=2, padding="same"), layers.ReLU()])

def nested():
    frames = keras.Input((16, 16, 3))
    inner = keras.Input((16, 16, 3))
    keras.utils.set_random_seed(0)
    model = keras.Model(inner, layers.Conv2D(4, 3, strides=2, padding="same")(inner))
    return keras.Model(frames, model(layers.Rescaling(2.0)(frames)))

def skip(late):
    frames = keras.Input((16, 16, 3))
    first = layers.ReLU()(frames)
    second = layers.ReLU()(first)
    return keras.Model(frames, layers.Add()([second, first if late else frames]))

def skip_early():
    return skip(False)

def skip_late():
    return skip(True)

class Subclassed(keras.Model):
    def call(self, frames):
        return frames

def raises():
    return 1 / 0

def any_size():
    frames = keras.Input((None, None, 3))
    return keras.Model(frames, layers.Conv2D(4, 3)(frames))
"""


Render = Callable[..., Path]


@pytest.fixture
def tiny_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A ``module:callable`` that builds a CNN of 16 × 16 pixels with the layers ``early`` and ``late``."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "tiny_backbone.py").write_text(TINY_BACKBONE)
    monkeypatch.syspath_prepend(folder)
    return "tiny_backbone:build"


def shades(num_frames: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Grey frames ``(num_frames, height, width, 3)``, each lighter than the one before, told apart by their mean."""
    levels = np.linspace(20, 230, num_frames).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (num_frames, height, width, 3)).copy()


def write_video(
    path: Path,
    frames: NDArray[np.uint8],
    fps: int = 10,
    times_ms: Sequence[int] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    pixel_aspect: Fraction | None = None,
) -> Path:
    """Encodes RGB frames ``(N, H, W, 3)``, every fourth a key frame, at a fixed rate or at given times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixel_format
        if codec == "libx264":
            stream.options = {"crf": "12", "g": "4", "bf": "0"}
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            if times_ms is None:
                frame.pts, frame.time_base = index, Fraction(1, fps)
            else:
                frame.pts, frame.time_base = times_ms[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder of three clips of 5, 7 and 4 frames in two class folders."""
    folder = tmp_path / "clips"
    for name, count in (("a/one", 5), ("a/two", 7), ("b/three", 4)):
        write_video(folder / f"{name}.mp4", shades(count))
    return folder
