"""Renders the sample: H.264 clips whose classes differ only in the order of what happens.

    python -m framecache.extract.render [FOLDER]

The eight classes are four reversed pairs. The two clips of a scene hold exactly the same pictures,
the second in the opposite order, so that the mean of their frame features is the same: a classifier
of means finds the pair and guesses the class (accuracy 0.5), whereas an LSTM reads the order (above
0.95). 224 clips, 5,376 frames, 8 MB, about 16 seconds of processor time.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from framecache.cache.errors import InputError

SIZE = 160  # of a frame, both ways, in pixels
NUM_FRAMES = 24
FPS = 12
NUM_SCENES: Mapping[str, int] = {"train": 16, "val": 4, "test": 8}  # of each pair
_ZOOM = 3  # the widest view over the narrowest, which is painted at SIZE and therefore sharp
_BLUR = 16  # the size of the sharpest frame over that of the detail left in the most blurred
_LIGHT = 8.0  # the light of the brightest frame over that of the darkest

FloatImage = npt.NDArray[np.float32]  # (H, W) or (H, W, 3), 0 to 1
Image = npt.NDArray[np.uint8]  # (H, W) or (H, W, 3), 0 to 255


@dataclass(frozen=True)
class _Style:
    """What the paintings of a pair have in common, so that one look tells which pair it is."""

    num_shapes: int
    radius: float  # mean, in widths of the painting
    rectangles: float  # their share; other shapes are ellipses
    stripes: float  # the share of striped shapes; others are softly shaded
    texture: float  # contrast of the background's, 0 to 1


@dataclass(frozen=True)
class _Scene:
    """Two clips with the same pictures: one forwards, one backwards."""

    pair: tuple[str, str]
    number: int
    split: str

    @property
    def paths(self) -> tuple[str, str]:
        """The two clips, relative to the sample's folder."""
        forwards, backwards = (f"{label}/scene-{self.number:03d}.mp4" for label in self.pair)
        return forwards, backwards


def render_sample(folder: Path, seed: int = 0, num_scenes: Mapping[str, int] = NUM_SCENES) -> Path:
    """Renders the sample into a folder, or returns at once where it is complete already.

    The manifest is the last file to appear, whole or not at all: a folder without one holds an
    interrupted rendering, which is done again from the start.

    Args:
        folder: Where the class folders and ``manifest.csv`` go; created if missing.
        seed: All pixels follow from it; not negative.
        num_scenes: Scenes of each pair, by split; a scene gives two clips.

    Returns:
        The path of ``manifest.csv`` (columns path, label, split, group).

    Raises:
        InputError: The folder has a manifest of something else, which is left alone.
    """
    splits = [split for split, count in num_scenes.items() for _ in range(count)]
    scenes = [_Scene(pair, *numbered) for pair in PAIRS for numbered in enumerate(splits)]
    manifest, text = folder / "manifest.csv", _manifest_text(scenes, seed)
    if manifest.exists():
        if manifest.read_bytes() != text.encode():
            raise InputError(
                f"{manifest}: expected no manifest, or that of the sample with seed {seed} and "
                f"{dict(num_scenes)} scenes; found another one; name another folder or delete it"
            )
        if all((folder / path).is_file() for scene in scenes for path in scene.paths):
            return manifest
        manifest.unlink()
    pool = ThreadPoolExecutor(os.cpu_count())  # swscale and x264 release the interpreter's lock
    try:
        done = pool.map(partial(_render_scene, folder, seed), scenes)
        for _ in tqdm(done, "rendering", len(scenes), unit="scene", disable=None):
            pass
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for scenes not begun
    unfinished = folder / "manifest.csv.tmp"
    unfinished.write_bytes(text.encode())
    os.replace(unfinished, manifest)
    return manifest


def _manifest_text(scenes: Sequence[_Scene], seed: int) -> str:
    """The manifest as CSV; the seed is part of ``group``, so that samples of two seeds differ."""
    rows = ["path,label,split,group"]
    for scene in scenes:
        group = f"seed{seed}-{scene.pair[0]}-{scene.number:03d}"
        for path, label in zip(scene.paths, scene.pair, strict=True):
            rows.append(f"{path},{label},{scene.split},{group}")
    return "\n".join(rows) + "\n"


def _render_scene(folder: Path, seed: int, scene: _Scene) -> None:
    # A generator of its own: threads may take the scenes in any order, the pixels stay the same.
    rng = np.random.default_rng((seed, list(PAIRS).index(scene.pair), scene.number))
    # Scenes differ in where the change begins and ends and in its pace, never in its direction.
    begin, end, pace = rng.uniform((0.0, 0.92, -0.3), (0.08, 1.0, 0.3))
    time = np.linspace(0.0, 1.0, NUM_FRAMES) ** np.exp(pace)
    levels = begin + (end - begin) * time**2 * (3.0 - 2.0 * time)  # slow, fast, slow
    images = PAIRS[scene.pair](rng, levels.tolist())
    # Converted once, so that the encoder gets the same pixels both ways.
    frames = [_frame(image, "rgb24").reformat(format="yuv420p") for image in images]
    for path, ordered in zip(scene.paths, (frames, frames[::-1]), strict=True):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        _write_clip(folder / path, ordered)


def _write_clip(path: Path, frames: Sequence[av.VideoFrame]) -> None:
    # Every frame is coded alone and with the same quantiser. A frame predicted from earlier ones
    # carries traces of them, hence of the order, and the mean of the features would show them.
    options = {"preset": "veryfast", "g": "1", "qp": "30"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        stream.codec_context.thread_count = 1  # the scenes keep the cores busy
        for index, frame in enumerate(frames):
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


# What happens in a clip: an effect paints a scene and takes the level (0 to 1) of every frame.
# Changes are geometric where perception is, so that their speed looks constant.


def _zoom(rng: np.random.Generator, levels: Sequence[float]) -> list[Image]:
    """From the whole painting to a part of it."""
    middle = SIZE * _ZOOM // 2
    style = _Style(num_shapes=24, radius=0.06, rectangles=1.0, stripes=0.0, texture=0.5)
    whole = _to_uint8(_paint(rng, 2 * middle, style)[-1])
    halves = [round(middle * _ZOOM**-level) for level in levels]  # centred: the view never trembles
    windows = [slice(middle - half, middle + half) for half in halves]
    return [_resize(whole[window, window], SIZE) for window in windows]


def _focus(rng: np.random.Generator, levels: Sequence[float]) -> list[Image]:
    """From blurred to sharp: a frame made small and large again has lost its fine detail."""
    style = _Style(num_shapes=10, radius=0.15, rectangles=0.5, stripes=1.0, texture=0.5)
    sharp = _to_uint8(_paint(rng, SIZE, style)[-1])
    return [_resize(_resize(sharp, round(SIZE * _BLUR ** (level - 1))), SIZE) for level in levels]


def _brighten(rng: np.random.Generator, levels: Sequence[float]) -> list[Image]:
    """From night to day."""
    style = _Style(num_shapes=10, radius=0.12, rectangles=0.0, stripes=0.0, texture=1.0)
    bright = _paint(rng, SIZE, style)[-1]
    return [_to_uint8(bright * _LIGHT ** (level - 1)) for level in levels]


def _appear(rng: np.random.Generator, levels: Sequence[float]) -> list[Image]:
    """From the bare background to all shapes, which fade in one after the other."""
    style = _Style(num_shapes=14, radius=0.15, rectangles=0.5, stripes=0.5, texture=0.0)
    stages, images = _paint(rng, SIZE, style), []
    for position in (level * style.num_shapes for level in levels):
        index = min(int(position), style.num_shapes - 1)
        fade = position - index
        images.append(_to_uint8(stages[index] * (1 - fade) + stages[index + 1] * fade))
    return images


Effect = Callable[[np.random.Generator, Sequence[float]], list[Image]]
PAIRS: Mapping[tuple[str, str], Effect] = {
    ("zoom-in", "zoom-out"): _zoom,
    ("focus", "defocus"): _focus,
    ("brighten", "darken"): _brighten,
    ("appear", "disappear"): _appear,
}


def _paint(rng: np.random.Generator, size: int, style: _Style) -> list[FloatImage]:
    """Paints a scene `(size, size, 3)`: the bare background, then the canvas after each shape."""
    x = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    angle = rng.uniform(0.0, 2.0 * math.pi)
    across: FloatImage = x * np.float32(math.cos(angle)) + x[:, None] * np.float32(math.sin(angle))
    slope = 0.5 + 0.7 * across[:, :, None]
    canvas: FloatImage = _colour(rng) * slope + _colour(rng) * (1 - slope)
    for num_cells, contrast in ((5, 0.35), (14, 0.25), (40, 0.2)):  # hills, hillocks, grain
        cells = rng.integers(0, 256, (num_cells, num_cells), dtype=np.uint8)
        relief = _resize(cells, size)[:, :, None] / np.float32(255) - 0.5
        canvas *= 1 + style.texture * contrast * relief
    stages = [canvas]
    for _ in range(style.num_shapes):
        stages.append(_with_shape(rng, stages[-1], style))
    return stages


def _with_shape(rng: np.random.Generator, canvas: FloatImage, style: _Style) -> FloatImage:
    """A copy of the canvas `(size, size, 3)` with one ellipse or rectangle, striped or shaded."""
    size = canvas.shape[0]
    low, high = style.radius * 0.6, style.radius * 1.4
    radius_u, radius_v = rng.uniform(low, high), rng.uniform(low, high)
    middle_x, middle_y = rng.uniform(0.05, 0.95), rng.uniform(0.05, 0.95)
    angle = rng.uniform(0.0, math.pi)
    # Only a window around the shape is painted: most of a large canvas is far from it.
    reach = math.hypot(radius_u, radius_v) + 1 / size
    rows = slice(max(0, int((middle_y - reach) * size)), int((middle_y + reach) * size) + 1)
    columns = slice(max(0, int((middle_x - reach) * size)), int((middle_x + reach) * size) + 1)
    grid = np.arange(size, dtype=np.float32) / size
    x, y = grid[columns] - middle_x, grid[rows, None] - middle_y
    u = x * math.cos(angle) + y * math.sin(angle)
    v = y * math.cos(angle) - x * math.sin(angle)
    if rng.random() < style.rectangles:
        outside = np.maximum(np.abs(u) - radius_u, np.abs(v) - radius_v)
    else:
        outside = (np.hypot(u / radius_u, v / radius_v) - 1) * min(radius_u, radius_v)
    cover = np.clip(0.5 - outside * size, 0.0, 1.0)[:, :, None]  # anti-aliased edges
    mix = 0.5 + 2 * v
    if rng.random() < style.stripes:
        period = rng.uniform(0.04, 0.1)
        mix = 0.5 + np.sin(2 * math.pi / period * u) * (period * size / 6)
    mix = np.clip(mix, 0.0, 1.0)[:, :, None]
    colours = _colour(rng) * mix + _colour(rng) * (1 - mix)
    painted = canvas.copy()
    painted[rows, columns] += (colours - painted[rows, columns]) * cover
    return painted


def _colour(rng: np.random.Generator) -> FloatImage:
    """A random colour `(3,)`: any hue, rather saturated, rather bright."""
    hue, saturation, value = rng.uniform((0.0, 0.3, 0.5), (1.0, 0.9, 1.0))
    wheel = 0.5 + 0.5 * np.cos(2 * math.pi * (hue - np.arange(3) / 3))
    return np.asarray(value * (1 - saturation + saturation * wheel), dtype=np.float32)


def _resize(image: Image, size: int) -> Image:
    frame = _frame(image, "gray" if image.ndim == 2 else "rgb24")
    resized = frame.reformat(width=size, height=size, interpolation="BICUBIC")
    return np.asarray(resized.to_ndarray(), dtype=np.uint8)


def _frame(image: Image, pixel_format: str) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=pixel_format)


def _to_uint8(image: FloatImage) -> Image:
    return (np.clip(image, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m framecache.extract.render")
    parser.description = "Render sample clips whose classes differ only in the order of events."
    parser.add_argument("folder", nargs="?", type=Path, default=Path("sample"))
    folder: Path = parser.parse_args(argv).folder
    try:
        manifest = render_sample(folder)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command renders the sample again", file=sys.stderr)
        return 130
    labels = [label for pair in PAIRS for label in pair]
    sizes = [clip.stat().st_size for label in labels for clip in (folder / label).glob("*.mp4")]
    print(
        f"{manifest}: {len(sizes)} clips, {len(labels)} classes, "
        f"{len(sizes) * NUM_FRAMES:,} frames, {sum(sizes):,} bytes"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
