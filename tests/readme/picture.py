"""``make picture`` draws the README's picture again, from the sample, its features and two runs trained on them.

Two clips show the same frames in opposite order. What the cache holds of them is mirrored and has one mean: the LSTM
tells the clips apart, the mean baseline cannot.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from framecache.cache import open_cache
from framecache.cache.sampling import spread
from framecache.train import FitConfig, Run, fit
from framecache.train.comparison.themes import DARK, LIGHT, Theme
from framecache.train.serving.scorer import Scorer

SET = "efficientnet-lite0.gap"
CLIPS = ("zoom-in/scene-021.mp4", "zoom-out/scene-021.mp4")  # of the test split: neither run has seen them
LABELS = tuple(clip.partition("/")[0] for clip in CLIPS)
MODELS = {"lstm": "LSTM", "mean": "mean baseline"}
_SHOWN_FRAMES, _GAP = 5, 6  # so many of a clip, pixels between them
_SHOWN_CHANNELS = 64
_DPI = 150


@dataclass(frozen=True)
class Clip:
    """One half of the picture.

    Attributes:
        strip: Some of its frames beside each other, ``(H, W, 4)``: RGBA, transparent between them.
        features: What the cache holds, ``(T, D)``.
        scores: Of each model the probability of each class after so many frames, ``(T, num_classes)``.
    """

    strip: NDArray[np.uint8]
    features: NDArray[np.float32]
    scores: dict[str, NDArray[np.float64]]


def read_strip(path: Path) -> NDArray[np.uint8]:
    """Some frames of a video, beside each other."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgba") for frame in container.decode(video=0)]
    chosen = [frames[index] for index in spread(len(frames), _SHOWN_FRAMES)]
    gap = np.zeros((chosen[0].shape[0], _GAP, 4), np.uint8)
    return np.concatenate([part for frame in chosen for part in (gap, frame)][1:], axis=1)


def scores_over_time(run: Run, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities ``(T, num_classes)`` as if the video ended after its first, second, … last frame."""
    logits = np.stack(Scorer(run).logits([features[: end + 1] for end in range(len(features))])).astype(np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def read_clips(sample: Path, cache: Path, runs: Path) -> tuple[list[Clip], list[int], tuple[str, ...]]:
    """The two clips, the channels that are shown of them, and the names of all classes."""
    config = {"manifest": sample / "manifest.csv", "cache": cache, "runs": runs}
    trained = {model: fit(SET, FitConfig(model=model, **config)) for model in MODELS}
    features = open_cache(cache)[SET]
    clips = []
    for clip in CLIPS:
        array = np.asarray(features[clip], np.float32)
        clips.append(
            Clip(
                read_strip(sample / clip),
                array,
                {model: scores_over_time(run, array) for model, run in trained.items()},
            )
        )
    # Those that change most, from the ones that fall to the ones that rise in the first clip.
    first = clips[0].features
    strongest = np.argsort(-first.std(axis=0), kind="stable")[:_SHOWN_CHANNELS]
    late = (np.arange(len(first)) @ first[:, strongest]) / first[:, strongest].sum(axis=0)
    return clips, strongest[np.argsort(late, kind="stable")].tolist(), tuple(trained["lstm"].record["classes"])


def draw(clips: list[Clip], channels: list[int], classes: tuple[str, ...], theme: Theme) -> Figure:
    """The picture: frames, features and scores of both clips, beside each other."""
    figure = Figure(figsize=(10, 9.4), dpi=_DPI)
    halves = figure.add_gridspec(1, 2, left=0.03, right=0.975, top=0.955, bottom=0.045, wspace=0.1)
    for half, clip, label in zip(halves, clips, LABELS, strict=True):
        grid = half.subgridspec(4, 2, height_ratios=(0.78, 1.7, 1.3, 1.3), width_ratios=(1, 0.13), hspace=0.3, wspace=0)
        strip = figure.add_subplot(grid[0, :])
        strip.imshow(clip.strip, interpolation="antialiased")
        strip.set_anchor("W")
        strip.set_axis_off()
        strip.set_title(label, loc="left", weight="bold", color=_colour(label, theme), fontsize=20)
        shown = clip.features[:, channels].T / np.maximum(clip.features[:, channels].max(axis=0)[:, None], 1e-6)
        heat = figure.add_subplot(grid[1, 0])
        _heat(heat, shown)
        heat.set_title("features in the cache", loc="left")
        mean = heat.inset_axes((1.035, 0, 0.06, 1))
        _heat(mean, shown.mean(axis=1, keepdims=True))
        mean.set_title("mean")
        for row, (model, name) in enumerate(MODELS.items(), start=2):
            axes = figure.add_subplot(grid[row, 0])
            scores = clip.scores[model]
            _lines(axes, scores, classes, theme)
            said = classes[int(scores[-1].argmax())]
            axes.set_title(f"{name}: {said}, {'right' if said == label else 'wrong'}", loc="left")
        axes.set_xlabel("frames seen so far →", labelpad=6)
    return figure


def _colour(label: str, theme: Theme) -> str:
    return theme.palette[LABELS.index(label)] if label in LABELS else theme.grey


def _heat(axes: Axes, values: NDArray[np.float32]) -> None:
    axes.imshow(values, aspect="auto", cmap="magma", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _lines(axes: Axes, scores: NDArray[np.float64], classes: tuple[str, ...], theme: Theme) -> None:
    for index, name in sorted(enumerate(classes), key=lambda item: item[1] in LABELS):
        known, colour = name in LABELS, _colour(name, theme)
        axes.plot(scores[:, index], color=colour, linewidth=3.5 if known else 1.2, clip_on=False)
        if known:
            end = (len(scores) - 1, scores[-1, index])
            axes.annotate(
                f"{end[1]:.2f}", end, (9, 0), textcoords="offset points", va="center", color=colour, weight="bold"
            )
    axes.set(xlim=(-0.5, len(scores) - 0.5), ylim=(0, 1), xticks=[], yticks=[0, 1])
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG of 256 colours, a third of the size of one of all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def styled(theme: Theme) -> AbstractContextManager[None]:
    """The theme's colours, and letters that can be read on a phone."""
    ink = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), theme.ink)
    paper = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), theme.paper)
    return rc_context({**ink, **paper, "axes.edgecolor": theme.faint, "font.size": 16, "axes.titlesize": 17})


def main() -> None:
    parser = argparse.ArgumentParser(prog="make picture")
    parser.add_argument("sample", type=Path, help="folder of the sample")
    parser.add_argument("cache", type=Path, help="folder of the cache with its features")
    parser.add_argument("out", type=Path, help="folder that gets picture-light.png and picture-dark.png")
    folders = parser.parse_args()
    with tempfile.TemporaryDirectory() as runs:
        read = read_clips(folders.sample, folders.cache, Path(runs))
    folders.out.mkdir(exist_ok=True)
    for name, theme in (("light", LIGHT), ("dark", DARK)):
        with styled(theme):
            save(draw(*read, theme), folders.out / f"picture-{name}.png")


if __name__ == "__main__":
    main()
