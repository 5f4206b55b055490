"""How far scores may lie apart that were computed from the same video on two ways: from what is stored, and live.

Every way rounds its features to the stored dtype, but what is rounded differs by the CNN's own rounding, so that now
and then a value falls to the other side of an edge, one step of the dtype away: of float16 (11 significant bits)
``2⁻¹⁰`` of the power of two below the value, of uint8 the scale of its dimension, of float32 next to nothing. The
deviation of a feature is taken to be a whole step, as if each fell to the other side, and the CNN's rounding beside
it. Deviations are independent, so that their squares add up, weighted by the squares of the derivatives, through the
derivations' steps and through the model, to first order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecache.cache.derivation import quantisation
from framecache.cache.reductions import parse_reduction
from framecache.cache.sampling import spread
from framecache.train.lineage import Lineage

CNN_ROUNDING = 1e-5  # of a set's largest value: float32's, grown through a hundred layers
_DEVIATIONS = 4.0  # that a score may be off; beyond it lies one of 15,000
_MOST_LOGITS = 6
_MODEL_ROUNDING = 1e-5  # of the sequence model in float32, relative to its logits

Floats = NDArray[np.float64]


def feature_deviations(
    lineage: Lineage, computed: Mapping[str, NDArray[np.floating]]
) -> tuple[NDArray[np.float32], Floats]:
    """Features of some frames as they are read from a set, and the deviation of each, ``(n, *feature_shape)`` both.

    Args:
        lineage: How they come from what the CNN gives.
        computed: Per fingerprint of a leaf what the CNN gave, ``(n, *feature_shape)``.
    """
    rows, variances = _variances(lineage, computed)
    return rows.astype(np.float32), np.sqrt(variances)


def _variances(lineage: Lineage, computed: Mapping[str, NDArray[np.floating]]) -> tuple[NDArray[Any], Floats]:
    features = lineage.features(computed)
    if lineage.derivation is None:
        noise = CNN_ROUNDING * float(np.abs(features).max(initial=0))
        return features, np.square(_steps(features, lineage)) + noise**2
    parents = [_variances(parent, computed) for parent in lineage.parents]
    if len(parents) == 1:
        ((rows, variances),) = parents
    else:
        rows, variances = (
            np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
            for parts in zip(*parents, strict=True)
        )
    derivation = lineage.derivation
    for number, step in enumerate(derivation.steps):
        if step["op"] == "reduce":
            variances = _pooled(parse_reduction(step["reduction"]).pool, variances)
        elif step["op"] == "l2":
            before = derivation.apply(rows, number).reshape(len(rows), -1)
            squares = np.square(before, dtype=np.float64).sum(axis=1).reshape(-1, *[1] * (variances.ndim - 1))
            variances = variances / np.maximum(squares, 1e-24)
        elif step["op"] != "uint8":
            matrix = derivation.arrays[f"{number}.matrix"].astype(np.float64)
            variances = variances.reshape(len(variances), -1) @ np.square(matrix)
    return features, variances + np.square(_steps(features, lineage))


def _pooled(pool: str, variances: Floats) -> Floats:
    """Of a mean the variance falls with the number of positions; of the others it is that of one of them at most."""
    positions = variances.shape[1] * variances.shape[2]
    mean, largest = variances.mean(axis=(1, 2)) / positions, variances.max(axis=(1, 2))
    found: Floats = {"gap": mean, "gap+gmp": np.concatenate([mean, largest], axis=1)}.get(pool, largest)
    return found


def _steps(features: NDArray[np.floating], lineage: Lineage) -> Floats:
    """From each value to the next that the stored dtype can hold."""
    if lineage.spec.dtype == "uint8" and lineage.derivation is not None:
        _, scale = quantisation(lineage.derivation.arrays)
        return np.broadcast_to(scale, features.shape).astype(np.float64)
    steps: Floats = np.spacing(np.abs(features.astype(lineage.spec.dtype))).astype(np.float64)
    return steps


def logit_tolerance(model: Any, features: NDArray[np.floating], deviations: Floats) -> float:
    """How far the logits of a sequence may be off.

    Args:
        model: Of a run, from ``features`` and ``mask`` to logits.
        features: ``(T, *feature_shape)``.
        deviations: Of each, the same shape.

    Returns:
        The largest over the logits; of many, over some of them, evenly spread.
    """
    import tensorflow as tf

    watched, mask = tf.constant(features[None], tf.float32), tf.ones((1, len(features)), tf.bool)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(watched)
        logits = tf.reshape(model({"features": watched, "mask": mask}, training=False), [-1])
        chosen = [logits[number] for number in spread(len(logits), _MOST_LOGITS)]
    found = 0.0
    for logit in chosen:
        slopes = tape.gradient(logit, watched).numpy()[0].astype(np.float64)
        found = max(found, float(np.sqrt(np.square(slopes * deviations).sum())))
    return _DEVIATIONS * found + _MODEL_ROUNDING * (1 + float(np.abs(logits).max()))
