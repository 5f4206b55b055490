"""A run as one Keras model: uint8 frames in, scores out, with everything between them inside.

Only Keras's own layers and operations, so that the file needs nothing but Keras, and no trust, to be loaded. What
batches and videos have for sizes is not known while the graph is built; Keras has no symbol for it, so that numbers
are counted by sums over ones, and rows are put into new shapes by taking them by their numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.derivation import Derivation, quantisation
from framecache.cache.errors import InputError
from framecache.cache.quiet import quiet_stderr
from framecache.cache.reductions import GEM_EPSILON, Reduction, parse_reduction, random_matrix
from framecache.extract.backbones import Backbone
from framecache.extract.forward import forward_module, tapped_network
from framecache.extract.scaler import Geometry
from framecache.train.lineage import Lineage
from framecache.train.serving.config import ExportConfig
from framecache.train.serving.features import serving_backbone
from framecache.train.serving.scorer import Scorer

with quiet_stderr():
    import keras
from keras import layers, ops

Tensor = Any


class FrameFeatures:
    """The part of an exported model from frames to features: scaling, CNN, reductions, derivations, roundings.

    Attributes:
        backbone: The CNN.
        sampling: Which frames of a video the features are of.
        size: Height and width of the frames that come in.

    Args:
        lineage: How the features come from what the CNN gives.
        config: Which CNN, and the size of the frames.

    Raises:
        InputError: The CNN cannot be had, is another one, or is not the only one.
    """

    def __init__(self, lineage: Lineage, config: ExportConfig) -> None:
        found = {(spec.fingerprint, wanted): (spec, wanted) for spec, wanted in lineage.leaves()}.values()
        cnns = {(spec.backbone, spec.weights, spec.precision, wanted) for spec, wanted in found}
        if len(cnns) > 1:
            named = ", ".join(sorted(f"{name} ({wanted})" for name, *_, wanted in cnns))
            raise InputError(f"export: expected features of one CNN and one sampling, found {named}")
        self.lineage = lineage
        self.leaves = [spec for spec, _ in found]
        ((*_, self.sampling),) = cnns
        self.backbone: Backbone = serving_backbone(self.leaves, config.backbone, config.weights)
        geometry = self.backbone.geometry
        self.size = config.frame_size or (geometry.height, geometry.width)
        self._taps = list(dict.fromkeys(leaf.tap for leaf in self.leaves))
        self._network = tapped_network(self.backbone, self._taps, self.leaves[0].precision)

    def __call__(self, frames: Tensor) -> Tensor:
        """Frames ``(N, H, W, 3)`` uint8 → features ``(N, *feature_shape)`` float32, as they are read from the set."""
        pixels = _scaled(ops.cast(frames, "float32"), self.size, self.backbone.geometry)
        found = self._network(self.backbone.normalise(pixels), training=False)
        maps = dict(zip(self._taps, found if isinstance(found, list | tuple) else [found], strict=True))
        computed = {}
        for leaf in self.leaves:
            reduced = _reduced(parse_reduction(leaf.reduction), ops.cast(maps[leaf.tap], "float32"))
            computed[leaf.fingerprint] = _rounded(reduced, leaf.dtype)
        return _derived(self.lineage, computed)

    def computed(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Per fingerprint of an extracted set what the extraction's own graph gives for frames ``(n, H, W, 3)``."""
        scaled = ops.convert_to_numpy(_scaled(ops.cast(frames, "float32"), self.size, self.backbone.geometry))
        outputs = [(leaf.tap, parse_reduction(leaf.reduction)) for leaf in self.leaves]
        precision = self.leaves[0].precision
        found = forward_module(self.backbone, outputs, len(frames), precision=precision).run(scaled.astype(np.uint8))
        return {leaf.fingerprint: found[key].numpy() for leaf, key in zip(self.leaves, sorted(found), strict=True)}


def build_exported(features: FrameFeatures, scorer: Scorer, batch_size: int | None = None) -> Any:
    """The model ``{"frames" (B, T, H, W, 3) uint8, "lengths" (B,) int32}`` → ``{"scores", "logits"}``.

    Both outputs are ``(B, num_outputs)`` float32; of frame labels ``(B, T, num_outputs)``, of which what lies beyond a
    video's length means nothing. Which frames make the sequences, and that the logits of several are averaged, is as
    in the run's own evaluation.

    Args:
        features: The part up to the features.
        scorer: The run.
        batch_size: ``B``, if it is fixed.
    """
    frames = keras.Input(batch_shape=(batch_size, None, *features.size, 3), dtype="uint8", name="frames")
    lengths = keras.Input(batch_shape=(batch_size,), dtype="int32", name="lengths")
    clips = scorer.clips
    steps = _counted(frames[:, :, 0, 0, 0][(0,)])  # (T,): 0, 1, …
    rows = _counted(lengths)  # (B,): 0, 1, …
    num_steps = ops.sum(ops.ones_like(steps))
    length = ops.expand_dims(ops.minimum(ops.maximum(lengths, 1), num_steps), 1)  # (B, 1)
    first = ops.expand_dims(rows * num_steps, 1)  # (B, 1), of all frames one after the other
    flat = ops.reshape(frames, (-1, *features.size, 3))
    model = uncompiled(scorer.model)
    if clips.max_len and (clips.clip == "windows" or scorer.per_frame):
        stride = clips.stride or max(1, clips.max_len // 2)
        logits = _windows(model, features(flat), steps, rows, length, first, clips.max_len, stride, scorer.per_frame)
    else:
        cut = steps[(slice(None, clips.max_len or None),)]  # (L,)
        places, num_places = ops.expand_dims(cut, 0), ops.sum(ops.ones_like(cut))
        if not clips.max_len:
            at = places
        elif clips.clip == "crop":
            at = places + ops.maximum(length - clips.max_len, 0) // 2
        else:
            spread = ((2 * places + 1) * length) // (2 * clips.max_len)
            at = ops.where(length <= clips.max_len, places, spread)
        mask = places < length
        seen = ops.take(flat, ops.reshape(first + ops.where(mask, at, 0), (-1,)), axis=0)
        again = ops.expand_dims(rows * num_places, 1) + places  # (B, L), of the frames that were seen
        logits = model({"features": ops.take(features(seen), again, axis=0), "mask": mask}, training=False)
    return keras.Model({"frames": frames, "lengths": lengths}, outputs_of(logits, scorer), name="exported")


def outputs_of(logits: Tensor, scorer: Scorer) -> dict[str, Tensor]:
    """``scores`` (probabilities, or numbers) and ``logits``."""
    if scorer.task == "regression":
        scores = layers.Identity()(logits)
    else:
        scores = ops.sigmoid(logits) if scorer.task == "multilabel" else ops.softmax(logits, axis=-1)
    return {"scores": scores, "logits": logits}


def uncompiled(model: Any) -> Any:
    """The model with recurrent layers that run on any device: what cuDNN computes only a GPU can load."""
    for layer in model._flatten_layers(include_self=False):
        if hasattr(layer, "use_cudnn"):
            layer.use_cudnn = False
    return model


def _windows(
    model: Any,
    features: Tensor,
    steps: Tensor,
    rows: Tensor,
    length: Tensor,
    first: Tensor,
    max_len: int,
    stride: int,
    per_frame: bool,
) -> Tensor:
    """Logits averaged over stretches ``max_len`` long and ``stride`` apart, of which the last ends with the video."""
    last = ops.maximum(length - max_len, 0)  # (B, 1), where that one begins
    begins = ops.expand_dims(steps[(slice(None, None, stride),)], 0)  # (1, W - 1)
    before = begins < last
    starts = ops.concatenate([ops.where(before, begins, 0), last], axis=1)  # (B, W)
    valid = ops.concatenate([before, last >= 0], axis=1)
    at = ops.expand_dims(starts, 2) + np.arange(max_len, dtype=np.int32)  # (B, W, max_len)
    mask = at < ops.expand_dims(length, 2)
    taken = ops.expand_dims(first, 2) + ops.where(mask, at, 0)
    inputs = {
        "features": ops.take(features, ops.reshape(taken, (-1, max_len)), axis=0),
        "mask": ops.reshape(mask, (-1, max_len)),
    }
    logits = model(inputs, training=False)  # (B * W, …)
    places = _counted(begins[(0,)])
    num_windows = ops.sum(ops.ones_like(places)) + 1
    numbers = ops.concatenate([places, ops.reshape(num_windows - 1, (1,))], axis=0)
    numbers = ops.expand_dims(rows * num_windows, 1) + ops.expand_dims(numbers, 0)  # (B, W)
    logits = ops.take(logits, numbers, axis=0)
    if not per_frame:
        weights = ops.expand_dims(ops.cast(valid, "float32"), 2)
        return ops.sum(logits * weights, axis=1) / ops.sum(weights, axis=1)
    counts = ops.logical_and(mask, ops.expand_dims(valid, 2))
    is_frame = ops.logical_and(ops.equal(ops.expand_dims(at, 3), steps), ops.expand_dims(counts, 3))
    weights = ops.cast(is_frame, "float32")  # (B, W, max_len, T)
    total = ops.expand_dims(ops.sum(weights, axis=(1, 2)), 2)
    return ops.einsum("bwlt,bwlk->btk", weights, logits) / ops.maximum(total, 1.0)


def _counted(values: Tensor) -> Tensor:
    """0, 1, … for values ``(N,)``."""
    return ops.cumsum(ops.ones_like(values, dtype="int32")) - 1


def _scaled(pixels: Tensor, size: tuple[int, int], geometry: Geometry) -> Tensor:
    """Crops and scales as the decoder's scaler does of 4:2:0 video, whose crops begin and end at even pixels.

    What is left are other bicubic coefficients, and colours that were converted before: 0.3 of 255 on average.
    """
    height, width = size
    if size == (geometry.height, geometry.width):
        return pixels
    if geometry.fit == "crop":
        side = max(2, round(geometry.crop_fraction * min(height, width)) & ~1)
        top, left = (height - side) // 2 & ~1, (width - side) // 2 & ~1
        pixels = pixels[:, top : top + side, left : left + side]
    scale = layers.Resizing(geometry.height, geometry.width, geometry.interpolation, antialias=True)
    return ops.clip(ops.round(scale(pixels)), 0.0, 255.0)


def _reduced(reduction: Reduction, maps: Tensor) -> Tensor:
    """As :func:`framecache.extract.reductions.reduce_maps`."""
    pooled = _pooled(reduction, maps)
    if not reduction.dim:
        return pooled
    length = math.prod(reduction.pooled_shape(tuple(maps.shape[1:])))
    return _product(ops.reshape(pooled, (-1, length)), random_matrix(length, reduction.dim, reduction.seed))


def _pooled(reduction: Reduction, maps: Tensor) -> Tensor:
    if reduction.pool == "grid":
        return maps
    if reduction.pool == "gmp":
        return ops.max(maps, axis=(1, 2))
    if reduction.pool == "gem":
        raised = ops.power(ops.maximum(maps, GEM_EPSILON), reduction.p)
        return ops.power(ops.mean(raised, axis=(1, 2)), 1 / reduction.p)
    mean = ops.mean(maps, axis=(1, 2))
    return ops.concatenate([mean, ops.max(maps, axis=(1, 2))], axis=-1) if reduction.pool == "gap+gmp" else mean


def _derived(lineage: Lineage, computed: Mapping[str, Tensor]) -> Tensor:
    """As :meth:`framecache.train.lineage.Lineage.features`."""
    if lineage.derivation is None:
        return computed[lineage.spec.fingerprint]
    rows = [_derived(parent, computed) for parent in lineage.parents]
    if len(rows) > 1:
        rows = [ops.concatenate([_flat(row) for row in rows], axis=1)]
    applied = rows[0]
    for number in range(len(lineage.derivation.steps)):
        applied = _applied(lineage.derivation, number, applied)
    return applied if lineage.spec.dtype == "uint8" else _rounded(applied, lineage.spec.dtype)


def _applied(derivation: Derivation, number: int, rows: Tensor) -> Tensor:
    step, arrays = derivation.steps[number], derivation.arrays
    if step["op"] == "reduce":
        return _pooled(parse_reduction(step["reduction"]), rows)
    if step["op"] == "uint8":
        offset, scale = quantisation(arrays)
        levels = ops.clip(ops.round((rows - offset) / scale), 0.0, 255.0)
        return levels * scale + offset
    flat = _flat(rows)
    if step["op"] == "l2":
        norms = ops.sqrt(ops.sum(ops.square(flat), axis=1, keepdims=True))
        return ops.reshape(flat / ops.maximum(norms, 1e-12), (-1, *rows.shape[1:]))
    mean = arrays.get(f"{number}.mean")
    return _product(
        flat if mean is None else flat - mean,
        arrays[f"{number}.matrix"],
        arrays.get(f"{number}.bias"),
        step.get("activation"),
    )


def _product(rows: Tensor, matrix: Any, bias: Any = None, activation: str | None = None) -> Tensor:
    layer = layers.Dense(matrix.shape[1], activation=activation, use_bias=bias is not None, trainable=False)
    found = layer(rows)
    layer.set_weights([matrix] if bias is None else [matrix, bias])
    return found


def _flat(rows: Tensor) -> Tensor:
    return ops.reshape(rows, (-1, math.prod(rows.shape[1:])))


def _rounded(rows: Tensor, dtype: str) -> Tensor:
    return ops.cast(ops.cast(rows, dtype), "float32") if dtype != "float32" else rows
